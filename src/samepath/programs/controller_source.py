"""What the controller asks the API server for, and nothing besides: the rights follow from it
(`kube.rights`)."""

from __future__ import annotations

from collections.abc import Callable

from samepath.kube.api import Api
from samepath.kube.api_source import ApiSource, Wanted
from samepath.kube.resources import (
    BLOCK_CLAIMS,
    IP_ADDRESS_POOLS,
    IP_POOLS,
    NAMESPACES,
    NODES,
    SERVICES,
)
from samepath.kube.source import Source

RESOURCES = (SERVICES, IP_ADDRESS_POOLS, NAMESPACES, NODES, IP_POOLS, BLOCK_CLAIMS)


def make_source(api: Api, wake: Callable[[], None]) -> Source:
    return ApiSource(api, [Wanted(resource) for resource in RESOURCES], wake)

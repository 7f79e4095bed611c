"""Other shapes of an object: its metadata alone, and tables as `kubectl get` prints them."""

from __future__ import annotations

from collections.abc import Mapping

from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.status import Json
from samepath.lab.api_server.store import Stored


def metadata_only(thing: Stored) -> Json:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": thing.metadata,
    }


def table(
    kind: Kind, items: list[Stored], metadata: Json, query: Mapping[str, str], now: str
) -> Json:
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [
            {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0},
            {"name": "Age", "type": "string", "format": "", "description": "", "priority": 0},
        ],
        "rows": [
            {
                "cells": [thing.metadata.get("name", ""), "0s"],
                "object": metadata_only(thing),
            }
            for thing in items
        ],
    }

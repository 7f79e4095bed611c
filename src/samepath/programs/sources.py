"""Where a program's cluster state comes from: what its configuration says."""

from __future__ import annotations

from collections.abc import Callable

from samepath.kube.manifests import Manifests
from samepath.kube.source import Source
from samepath.model.config import AgentConfig, GatewayConfig


def make_source(config: AgentConfig | GatewayConfig, wake: Callable[[], None]) -> Source:
    """The program's source; `wake` is called in the loop's thread after each change."""
    if config.manifests is None:
        raise ValueError("kubernetes: not built yet")
    return Manifests(config.manifests, wake)

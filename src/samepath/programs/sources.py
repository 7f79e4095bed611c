"""Where a program's cluster state comes from: what its configuration says, and which objects of the
API server it needs.

An agent runs on every node, so it asks for what it needs and no more, and the server filters: as
kube-proxy does, it leaves out headless services and those that another proxy serves. What is
watched here is what the programs' roles must allow (deploy/).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from samepath.kube import resources
from samepath.kube.manifests import Manifests
from samepath.kube.source import Source
from samepath.model.cluster import Object
from samepath.model.config import AgentConfig, GatewayConfig, Kubernetes
from samepath.model.kinds import BGPPeer

if TYPE_CHECKING:
    from samepath.kube.api_source import Wanted
    from samepath.kube.kept import Kept

HEADLESS = "!service.kubernetes.io/headless"
OURS_TO_SERVE = "!service.kubernetes.io/service-proxy-name"
"""Another program serves a service with this label."""
PASSWORDS = "type=kubernetes.io/basic-auth"
"""The type of a BGPPeer's `passwordSecret`; other Secrets are never sent to us."""


class Configured(Protocol):
    """A program's configuration."""

    @property
    def manifests(self) -> str | None: ...

    @property
    def kubernetes(self) -> Kubernetes | None: ...


def make_source(config: Configured, wake: Callable[[], None]) -> Source:
    """The program's source; `wake` is called in the loop's thread after each change."""
    if config.manifests is not None:
        return Manifests(config.manifests, wake)
    if config.kubernetes is None:
        raise ValueError("neither `manifests` nor `kubernetes`")
    # A program that reads a folder is spared the HTTP client.
    from samepath.kube.api import Api
    from samepath.kube.api_source import ApiSource

    api, kept = Api.connect(config.kubernetes), _kept(config, config.kubernetes)
    return ApiSource(api, _wanted(config), wake, close_api=True, kept=kept)


def _kept(config: Configured, kubernetes: Kubernetes) -> Kept | None:
    """Where an agent remembers. A gateway has its own way (`gateway_recall`): it needs less."""
    if not isinstance(config, AgentConfig):
        return None
    from samepath.kube.kept import Kept

    server = f"{kubernetes.kubeconfig or ''} {kubernetes.context or ''} {kubernetes.namespace}"
    return Kept(Path(config.run_dir) / "agent-cluster.kept", server)


def _wanted(config: Configured) -> list[Wanted]:
    if isinstance(config, AgentConfig):
        return wanted_by_agent(config)
    if isinstance(config, GatewayConfig):
        return wanted_by_gateway(config)
    return wanted_by_controller()


def wanted_by_agent(config: AgentConfig) -> list[Wanted]:
    from samepath.kube.watch import Wanted

    namespace = config.kubernetes.namespace if config.kubernetes else None
    slices = f"kubernetes.io/service-name,{HEADLESS},{OURS_TO_SERVE}"
    return [
        Wanted(resources.NODES),
        Wanted(resources.SERVICES, label_selector=f"{HEADLESS},{OURS_TO_SERVE}"),
        Wanted(resources.ENDPOINT_SLICES, label_selector=slices),
        Wanted(resources.IP_POOLS),
        Wanted(resources.BLOCK_CLAIMS),
        Wanted(resources.BGP_PEERS, is_held=True),
        Wanted(resources.BGP_ADVERTISEMENTS, is_held=True),
        Wanted(resources.IP_ADDRESS_POOLS, is_held=True),
        Wanted(resources.BFD_PROFILES, is_held=True),
        Wanted(resources.COMMUNITIES, is_held=True),
        Wanted(resources.SECRETS, namespace, field_selector=PASSWORDS, only_for=_has_password),
    ]


def _has_password(thing: Object) -> bool:
    return isinstance(thing, BGPPeer) and thing.password_secret is not None


def wanted_by_gateway(config: GatewayConfig) -> list[Wanted]:
    """Who the neighbours are, what they may advertise, and what the tier has in common."""
    from samepath.kube.watch import Wanted

    return [
        Wanted(resources.NODES),
        Wanted(resources.IP_ADDRESS_POOLS),
        Wanted(resources.BGP_ADVERTISEMENTS),
        Wanted(resources.IP_POOLS),
        Wanted(resources.BLOCK_CLAIMS),
        Wanted(resources.GATEWAY_TIERS),
    ]


def wanted_by_controller() -> list[Wanted]:
    from samepath.kube.watch import Wanted
    from samepath.programs.controller_source import RESOURCES

    return [Wanted(resource) for resource in RESOURCES]

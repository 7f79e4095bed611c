"""What the programs watch is what their roles allow, and what their plans read."""

from __future__ import annotations

from pathlib import Path

import pytest

from samepath.kube import rights
from samepath.kube.kept import Kept
from samepath.kube.manifests import Manifests
from samepath.kube.objects import READERS
from samepath.kube.watch import Wanted
from samepath.model.config import AgentConfig, GatewayConfig, Kubernetes
from samepath.model.kinds import BGPPeer
from samepath.programs.gateway_cluster import _READ
from samepath.programs.sources import (
    make_source,
    wanted_by_agent,
    wanted_by_controller,
    wanted_by_gateway,
)

AGENT = AgentConfig(router_id="10.0.0.1", local_as=64512, node="n1", kubernetes=Kubernetes())
GATEWAY = GatewayConfig(
    router_id="10.0.0.1", local_as=64512, tier="t", kubernetes=Kubernetes(), neighbors=[]
)
PROGRAMS = {
    rights.AGENT: wanted_by_agent(AGENT),
    rights.GATEWAY: wanted_by_gateway(GATEWAY),
    rights.CONTROLLER: wanted_by_controller(),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_watched_may_be_watched(program: str) -> None:
    allowed = {(r.group, r.resource, r.verb, r.ours) for r in rights.RIGHTS[program]}
    for wanted in PROGRAMS[program]:
        resource = wanted.resource
        for verb in ("list", "watch"):
            right = (resource.group, resource.plural, verb, wanted.namespace is not None)
            assert right in allowed, f"{program}: {resource.full_name}"


def test_a_gateway_watches_what_it_reads() -> None:
    kinds = {wanted.resource.kind for wanted in PROGRAMS[rights.GATEWAY]}
    assert kinds == {kind.__name__ for kind in _READ}


@pytest.mark.parametrize("program", PROGRAMS)
def test_all_that_is_watched_can_be_read(program: str) -> None:
    for wanted in PROGRAMS[program]:
        reader = READERS[wanted.resource.kind]
        assert reader.api_version == wanted.resource.api_version


def secrets() -> Wanted:
    return next(w for w in wanted_by_agent(AGENT) if w.resource.plural == "secrets")


def test_secrets_only_of_our_namespace_and_only_for_peers_that_need_one() -> None:
    wanted = secrets()
    assert wanted.namespace == "samepath-system"
    assert wanted.field_selector == "type=kubernetes.io/basic-auth"
    assert wanted.only_for is not None
    peer = BGPPeer(name="p", my_asn=1, peer_asn=2, peer_address=b"\1\2\3\4")
    assert not wanted.only_for(peer)
    needy = BGPPeer(name="p", my_asn=1, peer_asn=2, peer_address=b"\1\2\3\4", password_secret="s")
    assert wanted.only_for(needy)


def test_a_folder_or_the_server(tmp_path: Path) -> None:
    folder = AgentConfig(router_id="10.0.0.1", local_as=1, node="n1", manifests=str(tmp_path))
    assert isinstance(make_source(folder, lambda: None), Manifests)
    source = make_source(AGENT, lambda: None)
    assert source.trouble
    assert not source.in_sync
    assert isinstance(getattr(source, "_kept", None), Kept)

"""A service whose pods are podman's containers is scaled under held connections: nothing breaks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from samepath.lab import observe
from samepath.lab.render import Condition
from samepath.lab.running import node_of
from samepath.lab.scenario import TARGETS
from samepath.lab.state import wait
from samepath.lab.topology import Pod
from samepath.lab.traffic import Broken, Traffic
from tests.runtime.site import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(360)]

CONNECTIONS = 200
PERIOD_S = 0.5


@pytest.fixture
def traffic(site: Site) -> Iterator[Traffic]:
    traffic = site.lab.traffic(limit_s=20)
    yield traffic
    traffic.end()


@pytest.fixture(autouse=True)
def nothing_stays(site: Site) -> Iterator[None]:
    nodes = [n.name for n in site.lab.topology.working]
    before = {node: site.snapshot(node) for node in nodes}
    yield
    site.lab.forget_pods([p for node in nodes for p in site.lab.pods(node)])
    site.lab.write_manifests()
    for node in nodes:
        site.podman(node).remove_all()
    assert {node: site.snapshot(node) for node in nodes} == before


def serving(site: Site, nodes: list[str], draining: list[str]) -> None:
    """Wait until both gateways' tables are for these nodes, and the upstream uses both."""
    for gateway in ("gw1", "gw2"):
        wait(
            lambda gateway=gateway: observe.converged(site.lab, gateway, nodes, draining),
            30, f"{gateway} to converge on {nodes}",
        )  # fmt: skip
    both = {"gw1", "gw2"}
    wait(
        lambda: all(p == both for p in observe.upstream_paths(site.lab).values()),
        30, "the upstream router to use both gateways",
    )  # fmt: skip


def others(broken: tuple[Broken, ...], ended: list[Pod]) -> list[Broken]:
    """All that broke but what ended by FIN with its pod."""
    names = {p.name for p in ended}
    return [b for b in broken if not (b.reason == "fin" and b.pod in names)]


def test_a_service_of_containers_is_scaled(site: Site, traffic: Traffic) -> None:
    one = [site.start_pod(node, 1, Condition.READY) for node in ("n1", "n2")]
    site.lab.write_manifests()
    serving(site, ["n1", "n2"], [])
    # The first to be advertised had the whole table; nothing is busy as yet.
    wait(lambda: observe.moves_waiting(site.lab, ["gw1", "gw2"]) == 0, 30, "the moves to be done")
    opened = traffic.open(CONNECTIONS, TARGETS)
    assert (opened.done, opened.failed) == (CONNECTIONS, ())
    assert set(opened.by_pod) == {"web-n1-1", "web-n2-1"}
    traffic.busy(PERIOD_S)

    # Up: a second one on a node that has one, and the first on a new node.
    more = [site.start_pod(node, i, Condition.READY) for node, i in (("n1", 2), ("n3", 1))]
    site.lab.write_manifests()
    serving(site, ["n1", "n2", "n3"], [])
    everywhere = {p.name for p in (*one, *more)}
    wait(
        lambda: set(traffic.probe(CONNECTIONS, TARGETS).by_pod) == everywhere,
        30, "new connections to reach all pods",
    )  # fmt: skip
    assert traffic.check() == CONNECTIONS
    taken = traffic.take()
    assert taken.broken == ()
    assert taken.live == CONNECTIONS

    # Down: one of two on n1, and the only one of n2.
    held = taken.by_pod
    ended = [one[0], one[1]]
    site.end_pods(ended)
    serving(site, ["n1", "n3"], [])
    traffic.check()
    taken = traffic.take()
    assert others(taken.broken, ended) == []
    lost = sum(held.get(p.name, 0) for p in ended)
    assert sum(taken.finished.values()) + len(taken.broken) == lost
    assert taken.live == CONNECTIONS - lost
    probed = traffic.probe(CONNECTIONS, TARGETS)
    assert probed.failed == ()
    assert {node_of(pod) for pod in probed.by_pod} == {"n1", "n3"}

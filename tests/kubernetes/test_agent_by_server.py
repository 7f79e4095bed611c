"""The agent with the API server as its source: a real server process would say no more than ours,
whose knobs make it ill; a router, and where the data plane matters a gateway, are the witnesses."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest
from agent_site import KubeStage
from agent_stage import (
    HOST,
    HOST6,
    VIP,
    VIP6,
    Json,
    Router,
    bgp_peer,
    node,
    ours,
    pool,
    service,
    slices,
    until,
)

from samepath.model.cluster import NodeDrain
from samepath.programs import control

pytestmark = [pytest.mark.netns, pytest.mark.timeout(240)]

WEB = (node(), service(), *slices())
TOLD = (bgp_peer(), pool(), ours("BGPAdvertisement", "all"))


@pytest.fixture
def router(stage: KubeStage) -> Router:
    return stage.router()


def serve(stage: KubeStage, router: Router, **config: Any) -> None:
    stage.put(*WEB, *TOLD)
    stage.configure(**config)
    stage.start()
    until(lambda: router.told().keys() >= {HOST, HOST6})
    until(lambda: stage.ask("ready")["ready"])


def stood(router: Router, seen: int | None = None) -> bool:
    """Whether the service was told all the time: since then, or since it was told first."""
    worlds = [rib for _, rib in router.ask("history")]
    if seen is None:
        seen = next(i for i, rib in enumerate(worlds) if rib.keys() >= {HOST, HOST6})
    return all(rib.keys() >= {HOST, HOST6} for rib in worlds[seen:])


def test_all_of_it_from_the_api_server(stage: KubeStage, router: Router) -> None:
    serve(stage, router)
    status = stage.status()
    source = status["manifests"]
    assert source["kind"] == "API server"
    assert "//127.0.0.1:" in source["folder"]
    assert source["trouble"] == ""
    assert source["refused"] == []
    assert status["as_from"] == "gw1"
    assert router.told().keys() == {HOST, HOST6, "10.244.1.0/24", "2001:db8:244:1::/64"}
    stage.put(*slices("RRR"))
    until(lambda: router.told()[HOST]["weight"] == 3)
    stage.delete("bgpadvertisements", "all")
    until(lambda: HOST not in router.told())
    assert stage.whys() == {"default/web": "NO_ADVERTISEMENT"}
    assert router.peer()["flaps"] == 0


def test_a_hundred_changes_and_the_session_is_the_same(stage: KubeStage, router: Router) -> None:
    serve(stage, router)
    before, seen = router.peer(), len(router.ask("history"))
    for turn in range(25):
        vip = f"203.0.113.{100 + turn}"
        elsewhere = [{"matchLabels": {"rack": f"r{turn}"}}]
        stage.put(
            service(f"more{turn}", (vip,)),
            *slices("R", f"more{turn}")[:1],
            bgp_peer(f"gw{turn + 50}", f"10.83.0.{turn + 50}", nodeSelectors=elsewhere),
            node("n1", {"turn": str(turn)}),
        )
        until(lambda v=vip: f"{v}/32" in router.told())  # type: ignore[misc]
    assert router.peer() == before
    assert stood(router, seen)


def test_the_server_goes_and_comes_back(stage: KubeStage, router: Router) -> None:
    serve(stage, router)
    seen = len(router.ask("history"))
    backup = stage.server.snapshot()
    stage.put(service("later", ("203.0.113.77",)), *slices("R", "later")[:1])
    until(lambda: "203.0.113.77/32" in router.told())
    # Away. In between its objects change.
    stage.server.refuse()
    until(lambda: stage.status()["manifests"]["trouble"])
    time.sleep(3)  # what must not happen has this long to happen
    assert stage.ask("ready")["ready"], "what stands, stands"
    stage.server.accept()
    stage.put(*slices("RR"))
    until(lambda: router.told()[HOST]["weight"] == 2, 90)
    until(lambda: not stage.status()["manifests"]["trouble"], 90)
    # Restored from a backup: what the backup does not know is gone, and the rest never was.
    stage.server.restart(backup)
    until(lambda: "203.0.113.77/32" not in router.told(), 90)
    until(lambda: router.told()[HOST]["weight"] == 1, 30)
    # Expired versions.
    stage.server.compact()
    stage.server.break_watches()
    stage.put(*slices("RRR"))
    until(lambda: router.told()[HOST]["weight"] == 3, 60)
    assert stood(router, seen)
    assert router.peer()["flaps"] == 0


@pytest.mark.parametrize("code", [403, 500])
def test_an_answer_that_is_a_refusal_takes_nothing_away(
    stage: KubeStage, router: Router, code: int
) -> None:
    serve(stage, router)
    seen = len(router.ask("history"))
    stage.server.fault(code)
    stage.server.break_watches()
    trouble = until(lambda: stage.status()["manifests"]["trouble"])
    print(trouble)
    time.sleep(2)  # what must not happen has this long to happen
    assert router.told().keys() >= {HOST, HOST6, "10.244.1.0/24"}
    stage.server.no_faults()
    stage.put(*slices("RR"))
    until(lambda: router.told()[HOST]["weight"] == 2, 90)
    assert stood(router, seen)
    assert router.peer()["flaps"] == 0


def test_a_right_that_is_missing_is_named_and_holds_up_no_other_kind(
    stage: KubeStage, router: Router
) -> None:
    serve(stage, router)
    stage.server.fault(403, path="bgpadvertisements")
    stage.server.break_watches()
    until(lambda: "bgpadvertisements" in stage.status()["manifests"]["trouble"])
    stage.put(*slices("RR"))
    until(lambda: router.told()[HOST]["weight"] == 2, 60)
    assert stood(router)


@pytest.mark.parametrize("remembers", [True, False])
def test_an_agent_that_starts_while_the_server_is_away(
    stage: KubeStage, router: Router, remembers: bool
) -> None:
    """What it knew last is in force. If it knows nothing, the kernel is left as it is, and the
    router keeps the paths."""
    serve(stage, router)
    kept = stage.run_dir() / "agent-cluster.kept"
    until(lambda: any("blackhole" in line for line in routes(stage)) and kept.exists(), 30)
    before, seen = routes(stage), len(router.ask("history"))
    stage.kill()
    stage.server.refuse()
    if not remembers:
        kept.unlink()
    stage.start()
    until(lambda: stage.status()["manifests"]["trouble"])
    if remembers:
        until(lambda: router.is_up() and router.peer()["end_of_rib"], 60)
        assert stage.ask("ready")["ready"]
    else:
        ready = stage.ask("ready")
        assert not ready["ready"]
        assert ready["why"].startswith("not in sync")
        assert ready["live"]
        assert router.peer()["stale"]
    assert routes(stage) == before
    assert router.told().keys() >= {HOST, HOST6}
    stage.server.accept()
    until(lambda: router.is_up() and router.peer()["end_of_rib"], 60)
    until(lambda: stage.ask("ready")["ready"])
    until(lambda: not stage.status()["manifests"]["trouble"], 60)
    assert routes(stage) == before
    assert stood(router, seen)


def routes(stage: KubeStage) -> list[str]:
    host = stage.nodes["n1"]
    return [*host.ip("route").splitlines(), *host.ip("-6", "route").splitlines()]


def test_a_secret(stage: KubeStage) -> None:
    key = stage.folder / "key"
    key.write_text("pa55word")
    router = stage.router(neighbor={"password_file": str(key)})
    stage.put(*WEB, bgp_peer(passwordSecret={"name": "bgp"}))
    stage.configure()
    stage.start()
    until(lambda: [p["why"] for p in stage.status()["bgp_peers"]] == ["NO_SECRET"])
    stage.put(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "bgp", "namespace": "samepath-system"},
            "type": "kubernetes.io/basic-auth",
            "data": {"password": base64.b64encode(b"pa55word").decode()},
        }
    )
    until(router.is_up)
    assert "pa55word" not in stage.log()
    assert "pa55word" not in str(stage.status())


# -- Drains, as a gateway sees them

NODE = "10.83.0.11"


@pytest.fixture
def gateway(stage: KubeStage) -> KubeStage:
    """A gateway that has a path to the service, by n1."""
    stage.gateway_program()
    stage.put(*WEB, *TOLD)
    stage.configure(drain_deadline_s=600)
    stage.start()
    until(lambda: stage.paths() == ([NODE], []), 40)
    assert control.ask(str(stage.folder / "run-gw"), "gateway", "ready")["ready"]
    return stage


def drains_and_returns(stage: KubeStage, away: Json | list[Json], back: Json | list[Json]) -> None:
    """Draining, then withdrawn, since nobody has a flow; then back."""
    stage.put(*(away if isinstance(away, list) else [away]))
    until(lambda: stage.whys()["default/web"].startswith("DRAIN"))
    until(lambda: stage.paths() in (([NODE], []), ([], [NODE]), ([], [])))
    until(lambda: stage.paths() == ([], []), 30)
    assert stage.whys() == {"default/web": "DRAIN_OVER"}
    stage.put(*(back if isinstance(back, list) else [back]))
    until(lambda: stage.paths() == ([NODE], []), 30)


def test_a_drain_by_endpoints_that_terminate(gateway: KubeStage) -> None:
    drains_and_returns(gateway, slices("S"), slices("R"))


def test_a_drain_by_the_nodes_label(gateway: KubeStage) -> None:
    drains_and_returns(gateway, node("n1", {NodeDrain.LABEL.value: ""}), node("n1"))


def test_a_drain_by_the_nodes_annotation(gateway: KubeStage) -> None:
    away = node("n1", annotations={NodeDrain.ANNOTATION.value: "true"})
    drains_and_returns(gateway, away, node("n1"))


def test_of_two_nodes_one_drains_and_the_other_stays(stage: KubeStage) -> None:
    """In a namespace each, by one gateway; n1 is labelled while somebody holds a flow to it."""
    stage.down()
    stage.up(nodes=2)
    stage.gateway_program()
    both = slices("RR")
    for part in both:
        part["endpoints"][1]["nodeName"] = "n2"
    stage.put(*WEB[:2], node("n2"), *both, *TOLD)
    for name in ("n1", "n2"):
        stage.configure(name, drain_deadline_s=600)
        stage.start(name)
    until(lambda: stage.paths() == ([NODE, "10.83.0.12"], []), 40)
    hold(stage, VIP, "10.83.0.1")
    stage.put(node("n1", {NodeDrain.LABEL.value: ""}))
    until(lambda: stage.paths() == (["10.83.0.12"], [NODE]), 30)
    time.sleep(3)  # a drain that nobody held would be over by now
    assert stage.paths() == (["10.83.0.12"], [NODE])
    stage.put(node("n1"))
    until(lambda: stage.paths() == ([NODE, "10.83.0.12"], []), 30)


def hold(stage: KubeStage, vip: str, source: str) -> None:
    """A flow to the service, for the agent's conntrack."""
    stage.nodes["n1"].run(
        "conntrack", "-I", "-p", "tcp", "-s", source, "-d", vip, "--sport", "1234",
        "--dport", "80", "--state", "ESTABLISHED", "-t", "600",
    )  # fmt: skip


def test_the_way_a_drain_is_told(stage: KubeStage, router: Router) -> None:
    """GRACEFUL_SHUTDOWN until the deadline of its advertisement, while a flow is held."""
    serve(stage, router)
    stage.put(
        ours("BGPAdvertisement", "all", drainDeadline="4s"),
    )
    hold(stage, VIP, "10.83.0.1")
    hold(stage, VIP6, "2001:db8:83::1")
    stage.put(*slices("S"))
    until(lambda: router.told()[HOST]["draining"])
    began = time.monotonic()
    until(lambda: HOST not in router.told() and HOST6 not in router.told(), 15)
    assert 2.5 < time.monotonic() - began < 9
    assert stage.whys() == {"default/web": "DRAIN_OVER"}

"""The controller against an API server, seen with a real kubectl."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from controller_site import Site, until

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(360)]


@pytest.fixture
def site(cluster: Any, tmp_path: Path) -> Iterator[Site]:
    made = Site(cluster, tmp_path)
    try:
        yield made
    finally:
        made.end()


def test_exhausted_seen_and_mended(site: Site) -> None:
    cluster = site.cluster
    pool = site.pool("few", "198.18.7.0/31")
    site.start()
    cluster.apply([site.service(f"web{n}") for n in range(3)])
    until(lambda: sum(map(len, site.addresses().values())) == 2)
    (without,) = (name for name, found in site.addresses().items() if not found)
    until(lambda: site.condition(without))
    found = site.condition(without)
    assert (found["status"], found["reason"]) == ("False", "Exhausted")
    assert pool in found["message"]
    described = until(
        lambda: (
            (text := cluster.kubectl("describe", "svc", without).stdout).count("Exhausted") and text
        )
    )
    assert "Warning" in described
    assert pool in described
    columns = until(
        lambda: (row := cluster.kubectl("get", "ipaddresspool", pool).stdout).count(" 2 ") and row
    )
    assert "AVAILABLE" in columns
    # The pool grows, and everybody keeps what it has.
    before = site.addresses()
    site.pool("few", "198.18.7.0/30")
    until(lambda: all(site.addresses().values()))
    after = site.addresses()
    assert {n: a for n, a in after.items() if n != without} == {
        n: a for n, a in before.items() if n != without
    }
    until(lambda: site.condition(without).get("status") == "True")
    events = cluster.kubectl("get", "events").stdout
    assert events.count("Exhausted") == 1, "one for a change"
    # One goes, and its address with it.
    cluster.kubectl("delete", "service", "web0")
    until(lambda: site.status()["pools"] and _pool(site, pool)["assigned"]["ipv4"] == 2)


def _pool(site: Site, name: str) -> Any:
    return next(p for p in site.status()["pools"] if p["pool"] == name)


def test_a_restart_writes_nothing(site: Site) -> None:
    cluster = site.cluster
    site.pool("a", "198.18.8.0/28")
    site.start()
    cluster.apply([site.service(f"web{n}") for n in range(5)])
    until(lambda: all(site.addresses().values()))
    until(lambda: site.status()["services"]["writing"] == 0)
    before = cluster.get("services")
    assert site.stop() == 0
    lease = cluster.get("lease", "samepath-controller")["spec"]
    assert lease.get("holderIdentity", "") == "", "handed back"
    site.start()
    until(lambda: site.status().get("leads"))
    until(lambda: site.status()["services"]["assigned"] == 5)
    cluster.apply(site.service("more"))
    until(lambda: site.addresses()["more"])
    after = {i["metadata"]["name"]: i for i in cluster.get("services")["items"]}
    for item in before["items"]:
        assert after[item["metadata"]["name"]] == item, "to the version"


def test_a_killed_leader_is_followed_and_nothing_moves(site: Site) -> None:
    cluster = site.cluster
    site.pool("a", "198.18.9.0/27")
    site.start("c1")
    until(lambda: site.leader() == "c1")
    site.start("c2")
    cluster.apply([site.service(f"web{n}") for n in range(6)])
    until(lambda: all(site.addresses().values()))
    before = site.addresses()
    # It dies while there is something to do.
    cluster.apply([site.service(f"late{n}") for n in range(6)])
    site.stop("c1", signal.SIGKILL)
    until(lambda: site.leader() == "c2", what="the other leads")
    until(lambda: len(site.addresses()) == 12 and all(site.addresses().values()))
    after = site.addresses()
    assert {n: after[n] for n in before} == before
    found = [a for addresses in after.values() for a in addresses]
    assert len(set(found)) == len(found) == 12
    spec = cluster.get("lease", "samepath-controller")["spec"]
    assert spec["holderIdentity"].startswith("c2_")
    assert spec["leaseTransitions"] >= 1


def test_a_leader_that_slept_writes_nothing_when_it_wakes(site: Site) -> None:
    cluster = site.cluster
    site.pool("a", "198.18.14.0/27")
    site.start("c1")
    until(lambda: site.leader() == "c1")
    site.start("c2")
    until(lambda: site.status("c2"))
    sleeper = site.processes.pop("c1")
    sleeper.send_signal(signal.SIGSTOP)
    try:
        cluster.apply([site.service(f"web{n}") for n in range(6)])
        until(lambda: site.leader() == "c2")
        until(lambda: all(site.addresses().values()))
        before = cluster.get("services")
    finally:
        sleeper.send_signal(signal.SIGCONT)
        site.processes["c1"] = sleeper
    until(lambda: site.status("c1").get("leader", "").startswith("c2_"))
    assert site.leader() == "c2"
    cluster.apply(site.service("more"))
    until(lambda: site.addresses()["more"])
    after = {i["metadata"]["name"]: i for i in cluster.get("services")["items"]}
    for item in before["items"]:
        assert after[item["metadata"]["name"]] == item


def test_two_families_and_sharing(site: Site) -> None:
    cluster = site.cluster
    site.pool("a", "198.18.10.0/28", "2001:db8:5::/64")
    share = {"metallb.io/allow-shared-ip": "key"}
    web = site.service("web", annotations=share)
    dns = site.service("dns", annotations=share, ports=[{"port": 53, "protocol": "UDP"}])
    asks = site.service("asks", annotations={"metallb.io/loadBalancerIPs": "198.18.10.9"})
    site.start()
    cluster.apply([web, dns, asks])
    until(lambda: all(site.addresses().get(n) for n in ("web", "dns", "asks")))
    found = site.addresses()
    assert found["web"] == found["dns"]
    assert found["asks"] == ["198.18.10.9"]
    dual = site.service("dual", ipFamilyPolicy="PreferDualStack", ipFamilies=["IPv4", "IPv6"])
    cluster.apply(dual)
    families = cluster.get("service", "dual")["spec"]["ipFamilies"]
    until(lambda: len(site.addresses()["dual"]) == len(families))
    # Not ours any more: what is ours on it goes.
    cluster.kubectl("patch", "service", "asks", "--type=merge", "-p",
                    '{"spec": {"type": "ClusterIP", "loadBalancerClass": null}}')  # fmt: skip
    until(lambda: not site.addresses()["asks"] and not site.condition("asks"))
    note = "samepath.dev/ip-allocated-from-pool"
    until(lambda: note not in cluster.get("service", "asks")["metadata"].get("annotations", {}))


def test_an_overlapping_pool_is_refused_aloud(site: Site) -> None:
    site.pool("a", "198.18.11.0/28")
    other = site.pool("b", "198.18.11.8-198.18.11.40")
    site.start()

    def said() -> Any:
        found = site.cluster.get("ipaddresspool", other).get("status", {}).get("conditions", [])
        return [c for c in found if c["status"] == "False"]

    (condition,) = until(said)
    assert condition["type"] == "samepath.dev/Accepted"
    assert "overlaps" in condition["message"]


def test_api_server_away(site: Site, api_server: Any) -> None:
    cluster = site.cluster
    site.pool("a", "198.18.12.0/28")
    site.start()
    cluster.apply(site.service("web"))
    until(lambda: site.addresses()["web"])
    api_server.refuse()
    until(lambda: not site.status()["leads"], what="it stops when it cannot renew its Lease")
    assert site.status()["lease_trouble"]
    api_server.accept()
    until(lambda: site.status()["leads"])
    cluster.apply(site.service("more"))
    until(lambda: site.addresses()["more"], 30.0)
    assert site.addresses()["web"] == ["198.18.12.0"]


def test_missing_rights_are_named(site: Site, api_server: Any) -> None:
    api_server.fault(403, method="PATCH", path="/status")
    site.pool("a", "198.18.13.0/28")
    site.start()
    site.cluster.apply(site.service("web"))
    errors = until(lambda: site.status().get("errors"))
    assert any("services/status" in text and "RBAC" in text for text in errors.values()), errors
    api_server.no_faults()
    until(lambda: site.addresses()["web"])
    until(lambda: not site.status()["errors"])

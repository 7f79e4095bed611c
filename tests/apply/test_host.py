"""What `samepath install check` finds on hosts that lack something."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from samepath.apply.host import Check, Host, Outcome, Wanted, checks

GOOD = {
    "nft --version": (0, "nftables v1.0.6"),
    "nft list tables": (0, "table inet samepath"),
    "nft -j list chains": (0, '{"nftables": []}'),
    "conntrack --version": (0, "conntrack v1.4.7"),
    "nft list table inet kube-proxy": (0, "table inet kube-proxy {}"),
}


class Fixture:
    """A good node; a test takes something away."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.answers = dict(GOOD)
        self.write("/proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n")
        self.write("/proc/net/tcp", "  sl local\n")
        self.write("/opt/cni/bin/portmap", "")
        self.write("/etc/cni/net.d/10-samepath.conflist", "{}")
        self.write("/run/containerd/containerd.sock", "")

    def write(self, path: str, text: str) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        return self.answers.get(" ".join(command), (1, "Error: No such file or directory"))

    def look(self, wanted: Wanted | None = None) -> dict[str, Check]:
        found = checks(Host(self.root, self.run), wanted or Wanted())
        return {check.what.partition(" in /")[0]: check for check in found}


@pytest.fixture
def node(tmp_path: Path) -> Fixture:
    return Fixture(tmp_path)


def test_a_good_node_lacks_nothing(node: Fixture) -> None:
    found = node.look()
    assert [c for c in found.values() if c.outcome is not Outcome.OK] == []
    assert len(found) == 11
    assert all(not c.advice for c in found.values())


def test_rights_are_named(node: Fixture) -> None:
    node.write("/proc/self/status", "CapEff:\t0000000000200000\n")  # CAP_SYS_ADMIN alone
    check = node.look()["rights"]
    assert (check.outcome, check.found) == (Outcome.MISSING, "no CAP_NET_ADMIN")


@pytest.mark.parametrize(
    ("command", "what"), [("nft --version", "nft"), ("conntrack --version", "conntrack")]
)
def test_a_missing_program_names_its_package(node: Fixture, command: str, what: str) -> None:
    node.answers[command] = (127, "not installed")
    check = node.look()[what]
    assert check.outcome is Outcome.MISSING
    assert "install the package" in check.advice


def test_a_kernel_without_nf_tables(node: Fixture) -> None:
    node.answers["nft list tables"] = (1, "Error: Could not process rule: Operation not supported")
    assert node.look()["nf_tables"].outcome is Outcome.MISSING


def test_somebody_makes_the_service_rules_and_only_one(node: Fixture) -> None:
    assert node.look(Wanted(service_proxy="nftables"))["service rules"].outcome is Outcome.MISSING
    del node.answers["nft list table inet kube-proxy"]
    assert node.look(Wanted(service_proxy="nftables"))["service rules"].outcome is Outcome.OK
    assert node.look()["service rules"].outcome is Outcome.MISSING
    node.write("/proc/17/comm", "kube-proxy\n")
    assert node.look()["service rules"].outcome is Outcome.OK


def test_a_firewall_that_drops_is_named(node: Fixture) -> None:
    chains: list[dict[str, object]] = [
        {"chain": {"family": "ip", "table": "filter", "name": hook.upper(), "hook": hook,
                   "policy": "drop"}}
        for hook in ("forward", "input")
    ]  # fmt: skip
    node.answers["nft -j list chains"] = (0, json.dumps({"nftables": [{"metainfo": {}}, *chains]}))
    check = node.look()["forwarding"]
    assert (check.outcome, check.found) == (Outcome.NOTE, "policy drop in ip filter FORWARD")


def test_a_network_that_the_runtime_would_take_first(node: Fixture) -> None:
    node.write("/etc/cni/net.d/05-cilium.conflist", "{}")
    check = node.look()["networks"]
    assert check.outcome is Outcome.MISSING
    assert check.found.startswith("05-cilium.conflist")
    node.write("/etc/cni/net.d/05-cilium.conflist.bak", "{}")
    (node.root / "etc/cni/net.d/05-cilium.conflist").unlink()
    assert node.look()["networks"].outcome is Outcome.OK
    node.write("/etc/cni/net.d/87-podman.conflist", "{}")
    assert node.look()["networks"].outcome is Outcome.NOTE


def test_another_speaker_is_in_the_way_only_of_one_who_listens(node: Fixture) -> None:
    header = "  sl  local_address rem_address   st\n"
    node.write("/proc/net/tcp", header + "   0: 00000000:00B3 00000000:0000 0A 00000000:0000\n")
    node.write("/proc/99/comm", "bird\n")
    assert node.look()["port 179"].outcome is Outcome.NOTE
    check = node.look(Wanted(listens=True))["port 179"]
    assert check.outcome is Outcome.MISSING
    assert "bird" in check.found
    # A connection to port 179 of another host is no listener.
    node.write("/proc/net/tcp", header + "   0: 0100007F:00B3 0200007F:9000 01 00000000:0000\n")
    assert node.look(Wanted(listens=True))["port 179"].outcome is Outcome.OK


def test_networkd_must_leave_routes_alone(node: Fixture) -> None:
    node.write("/proc/7/comm", "systemd-network\n")
    check = node.look()["systemd-networkd"]
    assert check.outcome is Outcome.MISSING
    assert "ManageForeignRoutes=no" in check.advice
    node.write("/etc/systemd/networkd.conf", "[Network]\nManageForeignRoutes=no\n")
    assert "ManageForeignRoutes=" not in node.look()["systemd-networkd"].advice
    node.write(
        "/etc/systemd/networkd.conf.d/samepath.conf",
        "[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignNextHops=false\n",
    )
    assert node.look()["systemd-networkd"].outcome is Outcome.OK


def test_a_gateway_needs_no_plugin_and_no_rules(node: Fixture) -> None:
    found = node.look(Wanted(role="gateway"))
    assert set(found) == {"rights", "port 179", "systemd-networkd"}
    assert "BPF data plane" in node.look(Wanted(role="gateway", dataplane="bpf"))

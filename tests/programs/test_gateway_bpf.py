"""The gateway with the BPF data plane: real maps, the real program, connections that are held."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from gateway_stage import SERVICE, SERVICE6, B, Stage, eventually, log_of, table

from samepath.lab.netns import veth
from samepath.model.net import address_text
from samepath.programs.control import ask
from samepath.programs.gateway_bpf import pin_folder
from tests.apply.flows import Client, Server

pytestmark = [pytest.mark.netns, pytest.mark.timeout(360)]

V4, V6 = SERVICE.split("/")[0], SERVICE6.split("/")[0]
PORT = 8080
HELD = 150


class Site(Stage):
    """Nodes that serve, and a client beyond the gateway that holds connections."""

    def create(self) -> None:
        super().create()
        self.config = msgspec.structs.replace(self.config, dataplane="bpf", transition_idle_s=3600)
        self.gateway.ip("addr", "add", "fd00:8::2/64", "dev", "eth1", "nodad")
        self.upstream.ip("addr", "add", "fd00:8::1/64", "dev", "eth0", "nodad")
        self.upstream.ip("route", "add", SERVICE, "via", "10.8.0.2")
        self.upstream.ip("route", "add", SERVICE6, "via", "fd00:8::2")
        self.servers: list[Server] = []
        for number, host in self.nodes.items():
            host.ip("addr", "add", SERVICE, "dev", "lo")
            host.ip("addr", "add", SERVICE6, "dev", "lo", "nodad")
            host.sysctl(net__ipv4__conf__all__arp_ignore=1)
            host.ip("route", "add", "10.8.0.0/24", "via", "10.9.0.254")
            host.ip("route", "add", "fd00:8::/64", "via", "fd00:9::fe")
            self.servers.append(Server(host, f"n{number}", PORT))
        self.client = Client(self.upstream)
        self.held: dict[str, str] = {}

    def delete(self) -> None:
        for server in self.servers:
            server.stop()
        self.client.stop()
        super().delete()
        shutil.rmtree(pin_folder(self.config.run_dir), ignore_errors=True)

    def hold(self, count: int = HELD) -> None:
        """So many connections more, by both families."""
        for _ in range(count):
            name = str(len(self.held))
            self.held[name] = self.client.open(name, (V4, V6)[len(self.held) % 2], PORT)
            assert self.held[name] in ("n1", "n2", "n3"), self.held[name]

    def broken(self, *gone: str) -> dict[str, str]:
        """All speak: those that are answered otherwise than before, but not those of nodes that
        are gone."""
        self.held = {name: who for name, who in self.held.items() if who not in gone}
        found = {name: self.client.echo(name) for name in self.held}
        return {name: who for name, who in found.items() if who != self.held[name]}

    def shares(self, count: int = 200) -> dict[str, float]:
        found = self.client.many(V4, PORT, count)
        return {who: n / count for who, n in found.items()}

    def bpf(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.status()["bpf"]
        return answer

    def up(self, *numbers: int) -> None:
        self.start()
        self.serve(*numbers)
        eventually(lambda: self.owners() == table(*numbers) and self.settled())
        assert self.bpf()["serving"]

    def again(self, number: int = signal.SIGKILL) -> None:
        self.stop(number)
        self.start()
        eventually(lambda: self.status().get("in_sync") and self.settled())

    def owns(self, address: str) -> int:
        return sum(h["owns"] for h in self.bpf()["hops"] if h["address"] == address)


@pytest.fixture
def site(tmp_path: Any) -> Iterator[Site]:
    site = Site(tmp_path, "b")
    try:
        site.create()
        yield site
    finally:
        site.delete()
        log = tmp_path / "gateway.log"
        if log.exists():
            print(log.read_text()[-6000:])


def test_nodes_come_and_go_and_nothing_breaks(site: Site) -> None:
    site.up(1, 2)
    site.hold()
    before = site.owners()
    site.serve(3)
    eventually(lambda: site.owns("10.9.0.3") == table(1, 2, 3).counts()[b"\x0a\x09\0\3"])
    eventually(site.settled)
    assert site.broken() == {}
    assert 0.2 < site.shares()["n3"] < 0.47, "at once, though every bucket is busy"
    site.hold()
    assert site.owners() == before, "the kernel's group goes in step with the transitions"
    found = site.bpf()["transitions"]
    assert found["buckets"] == found["begun"] > 0
    # kill -9: what is pinned goes on, and the next one goes on with it
    site.stop(signal.SIGKILL)
    assert site.broken() == {}
    site.hold(20)
    site.start()
    eventually(lambda: site.status().get("in_sync") and site.settled())
    assert site.bpf()["opened"] == "adopted"
    assert site.bpf()["transitions"]["buckets"] == found["buckets"]
    assert site.broken() == {}
    # no table is made without a node that only the maps know of, the kernel's groups not yet
    site.stop(signal.SIGKILL)
    site.peers["n3"].process.send_signal(signal.SIGSTOP)
    site.start()
    eventually(lambda: sum(p["state"] == "Established" for p in site.status().get("peers", [])) > 1)
    assert not site.status()["in_sync"]
    assert site.broken() == {}
    site.peers["n3"].process.send_signal(signal.SIGCONT)
    eventually(lambda: site.status()["in_sync"] and site.settled())
    assert site.broken() == {}
    # a drain: no new flow, and the old ones stay until it goes
    site.peers["n1"].offer({p: {"draining": True} for p in (SERVICE, SERVICE6)})
    eventually(lambda: site.owns("10.9.0.1") == 0 and site.settled())
    assert "n1" not in site.shares()
    assert site.broken() == {}
    (first,) = [h for h in site.bpf()["hops"] if h["address"] == "10.9.0.1"]
    assert first["draining"]
    assert first["flows"] >= sum(w == "n1" for n, w in site.held.items() if int(n) % 2 == 0) > 20
    site.peers["n1"].offer({})
    eventually(lambda: site.settled() and len(site.status()["services"][0]["active"]) == 2)
    assert site.broken("n1") == {}
    site.serve(1)
    eventually(lambda: site.owns("10.9.0.1") > 0 and site.settled())
    assert site.broken() == {}
    site.again(signal.SIGTERM)
    assert site.broken() == {}


def test_transitions_end_when_idle_and_the_kernel_follows(site: Site) -> None:
    site.config = msgspec.structs.replace(site.config, transition_idle_s=1.5)
    site.up(1, 2)
    site.serve(3)
    eventually(lambda: site.bpf()["transitions"]["begun"] > 0)
    eventually(lambda: site.bpf()["transitions"]["buckets"] == 0)
    eventually(lambda: site.owners() == table(1, 2, 3))
    assert site.status()["moves"]["waiting"] == 0


def test_trace_says_what_new_and_old_flows_get(site: Site) -> None:
    site.up(1, 2)
    ports = [port for port in range(20001, 20200, 3) if port % 8]
    early = {port: site.client.open(str(port), V4, PORT, port) for port in ports}
    site.serve(3)
    eventually(lambda: site.bpf()["transitions"]["begun"] > 0)
    text = address_text

    def traced(port: int) -> dict[str, Any]:
        answer: dict[str, Any] = ask(
            site.config.run_dir, "gateway", "trace", client="10.8.0.1", client_port=port,
            service=V4, service_port=PORT, protocol="tcp",
        )  # fmt: skip
        return answer

    moved = 0
    for port in range(20000, 20000 + 2 * B):
        answer = traced(port)
        told = answer["bpf"]
        assert answer["next_hop"] == told["new_flow"]
        assert told["in_transition"] == (told["new_flow"] != told["old_flow"])
        assert told["new_flow"] == text(table(1, 2, 3).owner(answer["bucket"]))
        assert told["old_flow"] == text(table(1, 2).owner(answer["bucket"]))
        if told["in_transition"]:
            moved += 1
            assert "in transition for" in answer["why"]
        if port % 8 == 0:
            who = site.client.open(str(port), V4, PORT, port)
            assert f"10.9.0.{who[1:]}" == told["new_flow"]
        if port in early:
            assert site.client.echo(str(port)) == early[port]
            assert f"10.9.0.{early[port][1:]}" == told["old_flow"]
    assert moved > B // 3


def test_back_to_the_kernels_groups(site: Site) -> None:
    site.up(1, 2)
    site.hold()
    folder = pin_folder(site.config.run_dir)
    assert (folder / "current").is_symlink()
    assert "managed" in site.gateway.ip("neigh")
    site.config = msgspec.structs.replace(site.config, dataplane="kernel")
    site.again()
    eventually(lambda: not (folder / "current").is_symlink())
    assert "managed" not in site.gateway.ip("neigh")
    assert site.broken() == {}
    assert site.status()["bpf"] is None
    assert "taken away" in log_of(site)
    # and forth again, amid moves that wait for their buckets
    site.serve(3)
    eventually(lambda: site.status()["moves"]["waiting"])
    site.hold()
    site.config = msgspec.structs.replace(site.config, dataplane="auto")
    site.again()
    eventually(lambda: site.owns("10.9.0.3") > 0)
    assert site.broken() == {}
    assert site.shares()["n3"] > 0.2


def test_where_it_cannot_be_loaded_the_kernels_groups_serve(site: Site) -> None:
    folder = pin_folder(site.config.run_dir)
    site.start()
    eventually(lambda: folder.exists() and site.status())
    site.stop()
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as another process that has the maps
    try:
        site.start()
        site.serve(1, 2)
        eventually(lambda: site.owners() == table(1, 2) and site.settled())
        site.hold(10)
        status = site.status()
        assert not status["bpf"]["serving"]
        assert "another process has" in status["bpf"]["why_not"]
        assert any(
            f["severity"] == "error" and "another process has" in f["text"]
            for f in status["settings"]
        )
        site.stop()
        site.config = msgspec.structs.replace(site.config, dataplane="auto")
        site.start()
        eventually(lambda: site.settled())
        status = site.status()
        assert "another process has" in status["bpf"]["why_not"]
        assert not any(f["severity"] == "error" for f in status["settings"])
    finally:
        os.close(descriptor)


def test_a_node_with_another_card_is_found_again(site: Site) -> None:
    site.gateway.sysctl(
        net__ipv4__neigh__eth0__base_reachable_time_ms=500,
        net__ipv4__neigh__eth0__delay_first_probe_time=1,
        net__ipv4__neigh__eth0__retrans_time_ms=100,
    )
    site.up(1, 2)

    def mac() -> str:
        (hop,) = [h for h in site.bpf()["hops"] if h["address"] == "10.9.0.1"]
        return str(hop["mac"])

    assert mac()
    site.nodes[1].ip("link", "set", "eth0", "address", "02:00:00:00:00:77")
    eventually(lambda: mac() == "02:00:00:00:00:77", 30)
    assert site.shares()["n1"] > 0.3


def test_a_link_that_comes_later_is_attached_too(site: Site) -> None:
    site.up(1, 2)
    assert site.bpf()["attached"] == {"eth0": "tcx", "eth1": "tcx"}
    veth(site.gateway, "late0", site.upstream, "late0")
    eventually(lambda: site.bpf()["attached"].get("late0") == "tcx")
    site.gateway.ip("link", "del", "late0")
    eventually(lambda: "late0" not in site.bpf()["attached"])
    site.config = msgspec.structs.replace(site.config, attach_links=["eth1", "none0"])
    site.write_config()
    eventually(lambda: site.bpf()["attached"] == {"eth1": "tcx"})
    assert any("none0" in f["text"] for f in site.status()["settings"])


def test_a_link_that_flaps_amid_transitions(site: Site) -> None:
    """The kernel forgets groups and routes; the maps do not, and MACs come back."""
    site.up(1, 2)
    site.hold()
    site.serve(3)
    eventually(lambda: site.bpf()["transitions"]["begun"] > 0 and site.settled())
    site.hold()
    site.gateway.ip("link", "set", "eth0", "down")
    eventually(lambda: all(t["error"] for t in site.status()["tables"]))
    site.gateway.ip("link", "set", "eth0", "up")
    eventually(lambda: site.settled() and not any(t["error"] for t in site.status()["tables"]))
    assert site.bpf()["transitions"]["buckets"] > 0
    assert site.broken() == {}
    assert site.shares()["n3"] > 0.2


def test_xdp_by_choice_and_back(site: Site) -> None:
    site.config = msgspec.structs.replace(site.config, attach="xdp")
    site.up(1, 2)
    assert site.bpf()["attached"] == {"eth0": "xdp", "eth1": "xdp"}
    site.config = msgspec.structs.replace(site.config, attach="tc")
    site.again()
    assert site.bpf()["attached"] == {"eth0": "tcx", "eth1": "tcx"}
    site.hold(20)


@pytest.mark.parametrize("seed", [1, 2])
def test_any_sequence_of_days(site: Site, seed: int) -> None:
    """Nodes come, drain and go, the gateway is killed in between: only the flows of a node that was
    withdrawn may end, and whoever is new has its share at once."""
    chance = random.Random(seed)
    site.config = msgspec.structs.replace(site.config, expected_peers=3)
    site.up(1, 2, 3)
    state = {1: "active", 2: "active", 3: "active"}
    site.hold(60)
    for _ in range(9):
        number = chance.choice([1, 2, 3])
        wanted = chance.choice([s for s in ("active", "draining", "gone") if s != state[number]])
        others = [s for n, s in state.items() if n != number]
        if wanted != "active" and "active" not in others:
            continue
        is_gone = wanted == "gone"
        how = {"draining": wanted == "draining"}
        site.peers[f"n{number}"].offer({} if is_gone else {SERVICE: how, SERVICE6: how})
        state[number] = wanted
        if chance.random() < 0.4:
            site.stop(signal.SIGKILL)
            assert site.broken(*(f"n{n}" for n, s in state.items() if s == "gone")) == {}
            site.start()
        told = {f"10.9.0.{n}": s for n, s in state.items() if s != "gone"}

        def follows(told: dict[str, str] = told) -> bool:
            status = site.status()
            services = status.get("services") or [{}]
            shown = {a: s for s in ("active", "draining") for a in services[0].get(s, ())}
            return bool(status.get("settled")) and shown == told

        eventually(follows)
        gone = tuple(f"n{n}" for n, s in state.items() if s == "gone")
        assert site.broken(*gone) == {}
        active = {f"n{n}" for n, s in state.items() if s == "active"}
        assert site.shares(60).keys() == active
        site.hold(20)

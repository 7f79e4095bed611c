"""The agent as a program, in a namespace of its own, beside a gateway's BGP and real pods.

client ── gw (10.83.0.1) ── node (10.83.0.11) ── pod1, pod2
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "apply"))

from flows import Client, Server

from samepath.lab.netns import Namespace, veth
from samepath.programs import control

pytestmark = [pytest.mark.netns, pytest.mark.timeout(360)]

AS = 64512
VIPS = ("203.0.113.10", "2001:db8:113::10")
HOSTS = ("203.0.113.10/32", "2001:db8:113::10/128")
PODS4, PODS6 = "10.244.1.{}", "2001:db8:244:1::{}"


class Peer:
    """The gateway's BGP."""

    def __init__(self, host: Namespace, address: str) -> None:
        script = str(Path(__file__).parent / "gateway_peer.py")
        self.process = host.popen(
            sys.executable, script, address, str(AS),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, what: str = "state") -> Any:
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    @property
    def rib(self) -> dict[str, Any]:
        return dict(self.ask()["rib"])

    def service(self, index: int = 0) -> tuple[bool, float] | None:
        """(draining, weight) of a service address; None: not advertised."""
        found = self.rib.get(HOSTS[index])
        return None if found is None else (found["draining"], found["weight"])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class World:
    def __init__(self, folder: Path) -> None:
        prefix = f"spt-{os.getpid()}"
        self.gateway = Namespace(f"{prefix}-gw")
        self.node = Namespace(f"{prefix}-n1")
        self.pods = [Namespace(f"{prefix}-p{i}") for i in (1, 2)]
        self.folder = folder
        self.manifests = folder / "manifests"
        self.run_dir = folder / "run"
        self.config = folder / "agent.yaml"
        self.agent: subprocess.Popen[bytes] | None = None
        self.closing = contextlib.ExitStack()

    def up(self) -> None:
        self.manifests.mkdir()
        for host in (self.gateway, self.node, *self.pods):
            host.create()
            host.sysctl(net__ipv6__conf__default__accept_dad=0)
        veth(self.gateway, "seg0", self.node, "seg0")
        for host, last in ((self.gateway, 1), (self.node, 11)):
            host.ip("address", "add", f"10.83.0.{last}/24", "dev", "seg0")
            host.ip("address", "add", f"2001:db8:83::{last}/64", "dev", "seg0", "nodad")
        self.gateway.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        for vip, via in zip(VIPS, ("10.83.0.11", "2001:db8:83::11"), strict=True):
            self.gateway.ip("route", "add", vip, "via", via)
        for number, pod in enumerate(self.pods, 1):
            link = f"cali{number}"
            veth(pod, "eth0", self.node, link)
            four, six = PODS4.format(number), PODS6.format(number)
            pod.ip("address", "add", f"{four}/32", "dev", "eth0")
            pod.ip("address", "add", f"{six}/128", "dev", "eth0", "nodad")
            self.node.ip("address", "add", "169.254.1.1/32", "dev", link)
            self.node.ip("address", "add", f"fd00:ff::{number}/128", "dev", link, "nodad")
            self.node.ip("route", "add", four, "dev", link)
            self.node.ip("-6", "route", "add", six, "dev", link)
            pod.ip("route", "add", "169.254.1.1", "dev", "eth0")
            pod.ip("-6", "route", "add", f"fd00:ff::{number}", "dev", "eth0")
            pod.ip("route", "add", "default", "via", "169.254.1.1", "dev", "eth0")
            pod.ip("-6", "route", "add", "default", "via", f"fd00:ff::{number}", "dev", "eth0")
            self.closing.callback(Server(pod, f"pod{number}", 8080).stop)
        self.closing.callback(Server(self.node, "host", 22).stop)
        self.client = Client(self.gateway)
        self.closing.callback(self.client.stop)
        self.peer = Peer(self.gateway, "10.83.0.1")
        self.closing.callback(self.peer.stop)

    def down(self) -> None:
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait()
        self.closing.close()
        for host in (self.gateway, self.node, *self.pods):
            host.delete()

    # the agent

    def configure(self, **more: Any) -> None:
        config = {
            "router_id": "10.83.0.11",
            "as": AS,
            "run_dir": str(self.run_dir),
            "node": "n1",
            "manifests": str(self.manifests),
            "cluster_cidrs": ["10.244.0.0/16", "2001:db8:244::/48"],
            "neighbors": [
                {
                    "address": "10.83.0.1",
                    "remote_as": AS,
                    "local_address": "10.83.0.11",
                    "hold_time_s": 9,
                    "connect_retry_s": 1,
                    "import": {"pods": ["10.244.0.0/16"], "routes": ["0.0.0.0/0", "::/0"]},
                }
            ],
            **more,
        }
        put(self.config, config)

    def start(self, path: str | None = None) -> None:
        """`path`: where it finds its tools."""
        code = "import sys; from samepath.programs.agent import run; sys.exit(run(sys.argv[1]))"
        log = open(self.folder / "agent.log", "ab")  # noqa: SIM115
        env = {**os.environ, "PATH": path or os.environ["PATH"]}
        self.agent = self.node.popen(
            sys.executable, "-c", code, str(self.config), stderr=log, env=env
        )
        log.close()
        until(lambda: self.status() is not None)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        assert self.agent is not None
        self.agent.send_signal(how)
        return self.agent.wait(30)

    def status(self) -> Any:
        try:
            return control.ask(str(self.run_dir), "agent", "status")
        except control.NotRunningError:
            return None

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()

    # the cluster

    def node_object(self, **metadata: Any) -> None:
        put(
            self.manifests / "node.yaml",
            {
                "kind": "Node",
                "apiVersion": "v1",
                "metadata": {"name": "n1", **metadata},
                "spec": {"podCIDRs": ["10.244.1.0/24", "2001:db8:244:1::/64"]},
            },
        )

    def service(self, name: str = "web", vips: tuple[str, ...] = VIPS) -> None:
        put(
            self.manifests / f"{name}.yaml",
            {
                "kind": "Service",
                "apiVersion": "v1",
                "metadata": {"name": name},
                "spec": {
                    "type": "LoadBalancer",
                    "externalTrafficPolicy": "Local",
                    "ports": [{"port": 80, "targetPort": 8080}],
                },
                "status": {"loadBalancer": {"ingress": [{"ip": vip} for vip in vips]}},
            },
        )

    def endpoints(self, states: str, name: str = "web") -> None:
        """One letter a pod: R ready, S serving and terminating, T terminating, - gone."""
        slices = []
        for kind, text in (("IPv4", PODS4), ("IPv6", PODS6)):
            endpoints = [
                {
                    "addresses": [text.format(i)],
                    "nodeName": "n1",
                    "conditions": {
                        "ready": state == "R",
                        "serving": state in "RS",
                        "terminating": state in "ST",
                    },
                }
                for i, state in enumerate(states, 1)
                if state != "-"
            ]
            slices.append(
                {
                    "kind": "EndpointSlice",
                    "apiVersion": "discovery.k8s.io/v1",
                    "metadata": {
                        "name": f"{name}-{kind.lower()}",
                        "labels": {"kubernetes.io/service-name": name},
                    },
                    "addressType": kind,
                    "ports": [{"port": 8080}],
                    "endpoints": endpoints,
                }
            )
        put(self.manifests / f"{name}-slices.yaml", *slices)


def put(path: Path, *documents: Any) -> None:
    """By rename, as careful writers do."""
    other = path.with_name(f".{path.name}.new")
    other.write_text(yaml.safe_dump_all(documents))
    other.rename(path)


def until(condition: Callable[[], Any], limit_s: float = 60.0) -> Any:
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)
    return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        made.up()
        made.configure()
        yield made
    except BaseException:
        if (tmp_path / "agent.log").exists():
            print(made.log())
        raise
    finally:
        if (tmp_path / "agent.log").exists():
            print(made.log()[-4000:])
        made.down()


def serving(world: World, states: str = "RR") -> None:
    """A running agent that serves `web`."""
    world.node_object()
    world.service()
    world.endpoints(states)
    world.start()
    weight = states.count("R") or states.count("S")
    until(lambda: world.peer.service() == (states.count("R") == 0, weight))
    until(lambda: world.peer.service(1) is not None)


def test_from_manifests_to_a_connection(world: World) -> None:
    serving(world)
    assert world.peer.rib["10.244.1.0/24"]["via"] == "10.83.0.11"
    assert world.peer.rib["2001:db8:244:1::/64"]["via"] == "2001:db8:83::11"
    until(lambda: world.status()["in_sync"] == {"manifests": True, "routes": True})
    status = world.status()
    assert {(s["address"], s["state"], s["weight"]) for s in status["services"]} == {
        (vip, "active", 2) for vip in VIPS
    }
    assert status["rules"]["in_place"]
    assert status["errors"] == {}
    until(lambda: all(r["installed"] for r in world.status()["routes"]))
    routes = {r["prefix"]: r for r in world.status()["routes"]}
    assert routes["0.0.0.0/0"]["via"] == ["10.83.0.1"]
    assert routes["::/0"]["via"] == ["2001:db8:83::1"]
    assert routes["10.244.9.0/24"]["via"] == ["10.83.0.9"]
    assert routes["10.244.1.0/24"]["blackhole"]
    for vip in VIPS:
        assert world.client.many(vip, 80, 20).keys() == {"pod1", "pod2"}
        assert world.client.once(vip, 22) == "refused"
        world.gateway.run("ping", "-c", "1", "-W", "2", vip)
    # An address of the block that no pod has leads nowhere, and not back to the gateway.
    assert "blackhole" in world.node.ip("route", "show", "10.244.1.0/24")


@pytest.mark.alone
def test_an_endpoint_change_reaches_the_gateway_quickly(world: World) -> None:
    serving(world)
    took = []
    for turn in range(30):
        states = ("R-", "RR")[turn % 2]
        started = time.monotonic()
        world.endpoints(states)
        until(lambda s=states: world.peer.service(1) == (False, s.count("R")))  # type: ignore[misc]
        took.append(time.monotonic() - started)
    took.sort()
    print("manifest to RIB, ms:", [round(t * 1000) for t in took])
    assert took[len(took) // 2] < 0.1


def test_a_terminating_pod_drains_and_keeps_its_flows(world: World) -> None:
    serving(world, "R-")
    names = dict(zip(VIPS, ("four", "six"), strict=True))
    for vip, name in names.items():
        assert world.client.open(name, vip, 80) == "pod1"
    world.endpoints("S-")
    until(lambda: world.peer.service() == (True, 1))
    for name in names.values():
        assert world.client.echo(name) == "pod1"
    services = world.status()["services"]
    assert {s["why"] for s in services} == {"DRAINING_ENDPOINTS_TERMINATING"}
    # The flows are held, so it drains on; then it is withdrawn soon after they have ended.
    until(lambda: {s.get("drain", {}).get("flows") for s in world.status()["services"]} == {1})
    assert world.peer.service() == (True, 1)
    world.client.ask("close", "four")
    world.client.ask("close", "six")
    until(lambda: world.peer.service() is None and world.peer.service(1) is None)
    assert {s["why"] for s in world.status()["services"]} == {"DRAIN_OVER"}
    world.endpoints("R-")
    until(lambda: world.peer.service() == (False, 1))


def test_a_drain_ends_at_the_deadline(world: World) -> None:
    world.configure(drain_deadline_s=3.0)
    serving(world, "R-")
    assert world.client.open("held", VIPS[0], 80) == "pod1"
    started = time.monotonic()
    world.node_object(labels={"node.kubernetes.io/exclude-from-external-load-balancers": ""})
    until(lambda: world.peer.service() == (True, 1))
    until(lambda: world.peer.service() is None)
    assert 2.5 < time.monotonic() - started < 15
    assert world.client.echo("held") == "pod1"
    world.node_object()
    until(lambda: world.peer.service() == (False, 1))


def test_a_pod_that_is_gone_resets_its_clients(world: World) -> None:
    serving(world, "R-")
    assert world.client.open("held", VIPS[0], 80) == "pod1"
    world.endpoints("-R")
    until(lambda: world.client.echo("held") != "pod1")
    assert world.client.once(VIPS[0], 80) == "pod2"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_restart_moves_nothing(world: World, how: signal.Signals) -> None:
    serving(world)
    until(lambda: world.status()["in_sync"]["routes"])
    until(lambda: all(r["installed"] for r in world.status()["routes"]))
    for number, vip in enumerate(VIPS):
        world.client.open(f"held{number}", vip, 80)

    def kernel() -> tuple[str, str, str]:
        routes = world.node.ip("route") + world.node.ip("-6", "route")
        addresses = world.node.ip("-br", "address", "show", "dev", "lo")
        return routes, addresses, world.node.run("nft", "-a", "list", "table", "inet", "samepath")

    before, told, seen = kernel(), world.peer.rib, len(world.peer.ask("history"))
    world.kill(how)
    assert kernel() == before
    assert world.peer.rib == told, "the paths must stay, stale"
    world.client.echo("held0")
    world.start()
    until(lambda: world.peer.ask()["peers"][0] | {"flaps": 0} ==
          {"state": "ESTABLISHED", "end_of_rib": True, "flaps": 0})  # fmt: skip
    until(lambda: world.status()["in_sync"]["routes"])
    assert kernel() == before
    assert world.peer.rib == told
    assert len(world.peer.ask("history")) == seen, "nothing changed in between"
    for number in range(2):
        assert world.client.echo(f"held{number}").startswith("pod")


def test_endpoints_that_went_while_no_agent_ran(world: World) -> None:
    serving(world, "R-")
    world.client.open("held", VIPS[0], 80)
    world.kill()
    world.endpoints("-R")
    world.start()
    until(lambda: world.client.echo("held") != "pod1")
    assert world.client.once(VIPS[0], 80) == "pod2"


def test_a_lost_source_changes_nothing(world: World) -> None:
    serving(world)
    world.manifests.rename(world.folder / "elsewhere")
    until(lambda: "No such file" in world.status()["manifests"]["trouble"])
    assert world.peer.service() == (False, 2)
    assert world.client.once(VIPS[0], 80).startswith("pod")
    # A start without manifests takes nothing away, and does not say that it knows all.
    world.kill()
    world.start()
    assert world.client.once(VIPS[0], 80).startswith("pod")
    until(lambda: world.peer.ask()["peers"][0]["state"] == "ESTABLISHED")
    assert world.peer.service() == (False, 2)
    (world.folder / "elsewhere").rename(world.manifests)
    until(lambda: world.status()["in_sync"]["manifests"])
    until(lambda: world.peer.ask()["peers"][0]["end_of_rib"])
    assert world.peer.service() == (False, 2)


def test_a_broken_manifest_is_named_and_changes_nothing(world: World) -> None:
    serving(world)
    (world.manifests / "web.yaml").write_text("kind: Service\napiVersion: v1\nspec: {ports: 5}\n")
    (refused,) = until(lambda: world.status()["manifests"]["refused"])
    assert refused["text"].startswith("web.yaml:")
    assert world.peer.service() == (False, 2)
    world.service()
    until(lambda: not world.status()["manifests"]["refused"])


def test_rules_that_somebody_flushed_come_back(world: World) -> None:
    serving(world)
    world.node.run("nft", "flush", "ruleset")
    until(lambda: world.status()["rules"]["in_place"], 20)
    assert world.client.once(VIPS[0], 80).startswith("pod")
    world.node.ip("address", "del", f"{VIPS[0]}/32", "dev", "lo")
    until(lambda: VIPS[0] in world.node.ip("address", "show", "dev", "lo"), 20)


def test_the_configuration_changes_without_a_flap(world: World) -> None:
    serving(world)
    world.configure(advertise={"load_balancer_ips": False})
    until(lambda: world.peer.service() is None)
    world.config.write_text("node: [\n")
    world.agent.send_signal(signal.SIGHUP)
    until(lambda: world.status()["config_error"])
    assert "agent.yaml:" in world.status()["config_error"]
    world.configure(serviceProxy="none")
    until(lambda: world.peer.service() == (False, 2))
    until(lambda: "dnat" not in world.node.run("nft", "list", "ruleset"))
    assert VIPS[0] not in world.node.ip("address", "show", "dev", "lo")
    world.configure()
    until(lambda: world.status()["rules"]["in_place"] and world.status()["rules"]["services"])
    until(lambda: world.peer.service() == (False, 2))
    assert world.peer.ask()["peers"][0] == {
        "state": "ESTABLISHED", "flaps": 0, "end_of_rib": True
    }  # fmt: skip
    # A folder that is not there yet: what is known stands until the new one has been read.
    world.configure(manifests=str(world.folder / "other"))
    until(lambda: world.status()["manifests"]["folder"].endswith("other"))
    assert world.peer.service() == (False, 2)


def test_a_service_of_the_nodes_own_address_is_refused(world: World) -> None:
    serving(world)
    world.service("evil", ("10.83.0.11", "10.83.0.1"))
    world.endpoints("R-", "evil")
    found = until(lambda: [s for s in world.status()["services"] if s["service"] == "default/evil"])
    assert {s["why"] for s in found} == {"ADDRESS_TAKEN"}
    assert world.peer.ask()["peers"][0]["state"] == "ESTABLISHED"
    assert world.client.once("10.83.0.11", 22) == "host"


def test_a_missing_tool_is_said_and_tried_again(world: World) -> None:
    """`nft` is missing at first: no service is advertised before its rules stand."""
    world.node_object()
    world.service()
    world.endpoints("RR")
    tools = world.folder / "bin"
    tools.mkdir()
    for name in ("conntrack",):
        (tools / name).symlink_to(f"/usr/sbin/{name}")
    code = "import sys; from samepath.programs.agent import run; sys.exit(run(sys.argv[1]))"
    env = {**os.environ, "PATH": str(tools)}
    command = ["/usr/bin/nsenter", *world.node.command([sys.executable, "-c", code])[1:]]
    with open(world.folder / "agent.log", "ab") as log:
        world.agent = subprocess.Popen([*command, str(world.config)], env=env, stderr=log)
    until(lambda: (world.status() or {}).get("errors"))
    assert world.status()["errors"] == {"service rules": "nft is not installed"}
    assert {s["why"] for s in world.status()["services"]} == {"RULES_NOT_READY"}
    until(lambda: "10.244.1.0/24" in world.peer.rib)
    assert world.peer.service() is None
    assert not world.peer.ask()["peers"][0]["end_of_rib"]
    (tools / "nft").symlink_to("/usr/sbin/nft")
    until(lambda: world.peer.service() == (False, 2))
    until(lambda: world.peer.ask()["peers"][0]["end_of_rib"])


@pytest.mark.alone
def test_at_rest_it_takes_little(world: World) -> None:
    serving(world)
    until(lambda: world.status()["in_sync"]["routes"])
    pid = world.agent.pid  # nsenter executes the program in its place
    text = Path(f"/proc/{pid}/status").read_text()
    resident = int(next(line.split()[1] for line in text.splitlines() if "VmRSS" in line))
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "numpy" not in maps

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before, began = ticks(), time.monotonic()
    time.sleep(3)  # rest, and nothing else, is what is measured
    share = (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)
    print(f"resident {resident / 1024:.1f} MB, {share:.2%} of a CPU")
    assert resident < 60 * 1024
    assert share < 0.02

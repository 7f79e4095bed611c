"""Traffic on a path of three hosts: what is whole is whole, and each way to break is seen."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from samepath.lab.netns import Namespace, veth
from samepath.lab.traffic import CLIENT_SCRIPT, SERVER_SCRIPT, Target, Traffic, script

pytestmark = pytest.mark.netns

SERVER4 = "10.77.2.2"
SERVER6 = "2001:db8:77:2::2"
TARGETS: list[Target] = [(SERVER4, 8080), (SERVER6, 8080)]


class Path:
    """client, router, server; one pod on the server's side, or the one it is swapped for."""

    def __init__(self) -> None:
        prefix = f"spt-{os.getpid()}-t"
        self.client = Namespace(f"{prefix}-client")
        self.router = Namespace(f"{prefix}-router")
        self.server = Namespace(f"{prefix}-server")
        self.processes: list[subprocess.Popen[bytes]] = []

    def build(self) -> None:
        for host in (self.client, self.router, self.server):
            host.create()
            host.sysctl(net__ipv6__conf__all__accept_dad=0, net__ipv6__conf__default__accept_dad=0,
                        net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)  # fmt: skip
        veth(self.client, "eth0", self.router, "c0")
        veth(self.server, "eth0", self.router, "s0")
        for host, port, number, last in (
            (self.client, "eth0", 1, 2), (self.router, "c0", 1, 1),
            (self.router, "s0", 2, 1), (self.server, "eth0", 2, 2),
        ):  # fmt: skip
            host.ip("addr", "add", f"10.77.{number}.{last}/24", "dev", port)
            host.ip("addr", "add", f"2001:db8:77:{number}::{last}/64", "dev", port, "nodad")
        for host, number in ((self.client, 1), (self.server, 2)):
            host.ip("route", "add", "default", "via", f"10.77.{number}.1")
            host.ip("-6", "route", "add", "default", "via", f"2001:db8:77:{number}::1")

    def serve(self, name: str, port: int = 8080) -> subprocess.Popen[bytes]:
        pod = self.server.popen(
            *script(SERVER_SCRIPT), "--name", name, "--port", str(port), "--grace", "2"
        )
        self.processes.append(pod)
        wait_listening(self.server, port)
        return pod

    def traffic(self, limit_s: float = 3.0) -> Traffic:
        client = self.client.popen(
            *script(CLIENT_SCRIPT), "--limit", str(limit_s),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.processes.append(client)
        return Traffic([client])

    def remove(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(30)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        for host in (self.client, self.router, self.server):
            host.delete()


def wait_listening(host: Namespace, port: int) -> None:
    for _ in range(100):
        if f":{port} " in host.run("ss", "-Hltn"):
            return
        host.run("sleep", "0.05")
    raise AssertionError(f"nobody listens on {port}")


@pytest.fixture
def path() -> Iterator[Path]:
    path = Path()
    try:
        path.build()
        yield path
    finally:
        path.remove()


def test_a_whole_path_breaks_nothing(path: Path) -> None:
    path.serve("web-1")
    traffic = path.traffic()
    opened = traffic.open(200, TARGETS)
    assert (opened.done, opened.failed, opened.by_pod) == (200, (), {"web-1": 200})
    assert traffic.silence(20) == 20
    traffic.busy(0.1)
    assert traffic.check() == 200
    assert traffic.probe(50, TARGETS).by_pod == {"web-1": 50}
    taken = traffic.take()
    assert (taken.broken, taken.live, taken.by_pod) == ((), 200, {"web-1": 200})
    assert taken.exchanges >= 250
    assert sum(":" in h.source[0] for h in traffic.held()) == 100
    assert traffic.close() == 200
    assert traffic.take().live == 0


def test_a_cut_path_is_a_timeout(path: Path) -> None:
    path.serve("web-1")
    traffic = path.traffic(limit_s=1.0)
    traffic.open(10, TARGETS)
    path.router.ip("link", "set", "s0", "down")
    assert traffic.check() == 0
    taken = traffic.take()
    assert {b.reason for b in taken.broken} == {"timeout"}
    assert len(taken.broken) == 10
    assert taken.stall_s < 1.0, "a stall is of those that live on"


def test_a_short_cut_is_a_stall_and_no_break(path: Path) -> None:
    path.serve("web-1")
    traffic = path.traffic(limit_s=10.0)
    traffic.open(10, [TARGETS[0]])
    traffic.busy(0.05)
    path.router.run(
        "sh", "-c", "ip link set s0 down; sleep 0.7; ip link set s0 up; "
        "ip addr replace 10.77.2.1/24 dev s0"
    )  # fmt: skip
    assert traffic.check() == 10
    taken = traffic.take()
    assert taken.broken == ()
    assert 0.6 <= taken.stall_s < 10


def test_another_pod_in_the_way_is_broken(path: Path) -> None:
    """New answers from another pod on the same address: every old connection is broken."""
    first = path.serve("web-1")
    traffic = path.traffic()
    traffic.open(10, TARGETS)
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    path.serve("web-2")
    assert traffic.check() == 0
    taken = traffic.take()
    assert len(taken.broken) == 10
    assert {b.pod for b in taken.broken} == {"web-1"}
    assert traffic.probe(10, TARGETS).by_pod == {"web-2": 10}


FORGER = """
import socket, struct, threading
listener = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
def serve(c):
    received = 0
    while request := c.recv(32, socket.MSG_WAITALL):
        received += 32
        name = b"web-1" if received == 32 else {name}
        echo = request if received == 32 else {echo}
        token = b"t" * 8 if received == 32 else {token}
        count = received if received == 32 else {count}
        c.sendall(struct.pack("!16s8sQB7x32s", name, token, count, 0, echo))
while True:
    c, _ = listener.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
"""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": 'b"web-2"'}, "answered by another pod: web-2"),
        ({"token": 'b"u" * 8'}, "answered by another connection"),
        ({"echo": 'b"x" * 32'}, "wrong octets"),
        ({"count": "received + 1"}, "wrong octets"),
        ({}, None),
    ],
)
def test_a_forged_answer_is_seen(path: Path, change: dict[str, str], reason: str | None) -> None:
    right = {"name": 'b"web-1"', "echo": "request", "token": 'b"t" * 8', "count": "received"}
    text = FORGER
    for key, value in {**right, **change}.items():
        text = text.replace("{" + key + "}", value)
    path.processes.append(path.server.popen("python3", "-I", "-S", "-c", text))
    wait_listening(path.server, 8080)
    traffic = path.traffic()
    traffic.open(4, TARGETS)
    traffic.check()
    reasons = {b.reason for b in traffic.take().broken}
    assert reasons == ({reason} if reason else set())


def test_a_terminating_pod_ends_its_connections_by_fin(path: Path) -> None:
    pod = path.serve("web-1")
    traffic = path.traffic()
    traffic.open(20, TARGETS)
    traffic.silence(5)
    traffic.busy(0.1)
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(30) == 0
    taken = traffic.take()
    assert taken.finished == {"web-1": 15}
    assert [b.reason for b in taken.broken] == ["fin"] * 5
    assert taken.live == 0


def test_a_refused_connection_is_failed_not_broken(path: Path) -> None:
    traffic = path.traffic()
    opened = traffic.open(4, TARGETS)
    assert opened.done == 0
    assert {f.reason for f in opened.failed} == {"Connection refused"}
    assert traffic.take().broken == ()

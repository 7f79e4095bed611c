"""healthCheckNodePort: what is said on it, to whom, and that nothing stays open."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.model.cluster import (
    Cluster,
    Endpoint,
    EndpointSlice,
    Node,
    NodeDrain,
    Service,
    ServicePort,
    SlicePort,
    make_cluster,
)
from samepath.model.net import Family, parse_address
from samepath.plan.health_checks import Check, checks
from samepath.programs import health_checks
from samepath.programs.health_checks import HealthChecks

pytestmark = pytest.mark.timeout(30)
FIT = Check("default", "web", 2)


class Running:
    """The health checks in a loop of their own, as in the agent."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.checks = HealthChecks()
        self.checks.rules_stand = True

    def want(self, wanted: dict[int, Check]) -> bool:
        return asyncio.run_coroutine_threadsafe(self.checks.want(wanted), self.loop).result(10)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.checks.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()


@pytest.fixture
def port() -> int:
    return free_port()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def say(port: int, text: bytes, host: str = "127.0.0.1") -> bytes:
    """The whole answer, to its end."""
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(text)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
        return answer


def ask(port: int, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, dict[str, str], str]:
    answer = say(port, f"{method} /healthz HTTP/1.1\r\nHost: node\r\n\r\n".encode(), host)
    head, _, body = answer.decode().partition("\r\n\r\n")
    first, *fields = head.split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    assert headers["Content-Length"] == str(len(body)) or method == "HEAD"
    return int(first.split()[1]), headers, body


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def ended(connection: socket.socket) -> bool:
    """Whether the other side ends it, before long, without an answer."""
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_is_said(running: Running, port: int, host: str) -> None:
    assert running.want({port: FIT})
    status, headers, body = ask(port, host=host)
    assert status == 200
    assert headers["X-Load-Balancing-Endpoint-Weight"] == "2"
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    status, headers, body = ask(port, "HEAD", host)
    assert (status, body) == (200, "")
    assert int(headers["Content-Length"]) > 0


def test_when_no_flows_are_to_come(running: Running, port: int) -> None:
    def said() -> tuple[int, str, int, bool]:
        status, headers, body = ask(port)
        found = json.loads(body)
        weight = headers["X-Load-Balancing-Endpoint-Weight"]
        return status, weight, found["localEndpoints"], found["serviceProxyHealthy"]

    assert running.want({port: replace(FIT, endpoints=0)})
    assert said() == (503, "0", 0, True)
    assert running.want({port: replace(FIT, is_draining=True)})
    assert said() == (503, "0", 2, True)
    assert running.want({port: FIT})
    assert said() == (200, "2", 2, True)
    running.checks.rules_stand = False
    assert said() == (503, "0", 2, False)


def test_only_get_and_head(running: Running, port: int) -> None:
    assert running.want({port: FIT})
    status, headers, body = ask(port, "POST")
    assert (status, headers["Allow"], body) == (405, "GET, HEAD", "")
    assert say(port, b"\x16\x03\x01 hello\n\n").startswith(b"HTTP/1.1 400 ")
    assert say(port, b"GET / HTTP/2.0\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert say(port, b"GET / HTTP/1.0\n\n").startswith(b"HTTP/1.1 200 ")
    assert say(port, b"GET /" + b"x" * 9000).startswith(b"HTTP/1.1 431 ")
    assert say(port, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000 + b"\r\n").startswith(
        b"HTTP/1.1 431 "
    )


def test_ports_follow_the_services(running: Running, port: int) -> None:
    other = free_port()
    assert running.want({port: FIT})
    with socket.create_connection(("127.0.0.1", port), timeout=5) as held:
        held.sendall(b"GET /")
        assert ask(port)[0] == 200
        assert running.want({other: FIT})
        assert not is_open(port)
        assert ask(other)[0] == 200
        # Nor does a connection outlive its port.
        assert ended(held)
    assert running.want({})
    assert not is_open(other)
    assert running.checks.view() == {"ports": [], "conflicts": []}


def test_a_port_that_is_taken_is_told_and_taken_later(running: Running, port: int) -> None:
    other = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert not running.want({port: FIT, other: replace(FIT, name="dns")})
        assert running.checks.errors == {port: "Address already in use"}
        assert ask(other)[0] == 200  # it keeps nobody else from being served
        view = {row["port"]: row for row in running.checks.view()["ports"]}
        assert view[port]["error"] == "Address already in use"
        assert (view[port]["answer"], view[other]["answer"]) == (0, 200)
    assert running.want({port: FIT, other: FIT})
    assert ask(port)[0] == 200
    assert running.checks.errors == {}


def test_a_slow_client_is_let_go(
    running: Running, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_checks, "REQUEST_S", 0.3)
    assert running.want({port: FIT})
    with socket.create_connection(("127.0.0.1", port), timeout=5) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        began = time.monotonic()
        assert ended(slow)
        assert 0.1 < time.monotonic() - began < 3
    until(lambda: not running.checks._connections)


def test_many_idle_connections_keep_nobody_out(
    running: Running, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_checks, "CONNECTIONS", 8)
    assert running.want({port: FIT})
    idle = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(30)]
    try:
        assert [ask(port)[0] for _ in range(5)] == [200] * 5
        assert len(running.checks._connections) <= 8
    finally:
        for connection in idle:
            connection.close()
    until(lambda: not running.checks._connections)


def test_no_more_ports_than_there_are_descriptors(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_checks, "_descriptors", lambda: health_checks.DESCRIPTORS_LEFT + 1)
    first, second = sorted((free_port(), free_port()))
    assert not running.want({first: FIT, second: FIT})
    assert running.checks.errors == {second: "Too many open files"}
    assert ask(first)[0] == 200


@given(st.binary(max_size=200))
def test_whatever_is_asked_is_answered(request: bytes) -> None:
    found = HealthChecks()
    found.checks = {1: FIT}
    answer = found.answer(1, request)
    assert answer.startswith(b"HTTP/1.1 ")
    assert b"\r\nConnection: close\r\n" in answer


# -- what is to be said -----------------------------------------------------------------------


def cluster(node: Node | None = None, states: str = "RrST", **more: Any) -> Cluster:
    """Endpoints as in the tests of the rules: capital on n1; R ready, S serving, T neither."""
    fields = {"load_balancer": True, "external_local": True, "health_check_node_port": 30100}
    ports = (ServicePort(80, name="http"), ServicePort(443, name="https"))
    service = Service("default", "web", ports, **{**fields, **more})
    slices = []
    for family, text in ((Family.IPV4, "10.244.0.{}"), (Family.IPV6, "fd00::{}")):
        endpoints = tuple(
            Endpoint(
                parse_address(text.format(i)),
                "n1" if state.isupper() else "n2",
                state in "Rr",
                state in "RrSs",
            )
            for i, state in enumerate(states, 1)
        )
        slice_ports = (SlicePort(8080, name="http"), SlicePort(8443, name="https"))
        slices.append(EndpointSlice("default", family.label, "web", family, slice_ports, endpoints))
    return make_cluster([node or Node("n1"), service, *slices])


@pytest.mark.parametrize(
    ("states", "endpoints"), [("RrST", 1), ("RRr", 2), ("STs", 0), ("rr", 0), ("", 0)]
)
def test_ready_endpoints_on_this_node(states: str, endpoints: int) -> None:
    found, conflicts = checks(cluster(states=states), "n1")
    assert found == {30100: Check("default", "web", endpoints)}
    assert found[30100].is_fit == (endpoints > 0)
    assert not conflicts


def test_a_node_that_drains_wants_no_flows() -> None:
    for node in (Node("n1", drain=NodeDrain.LABEL), Node("n1", drain=NodeDrain.ANNOTATION), None):
        found, _ = checks(cluster(node or Node("n9")), "n1")
        assert found[30100].is_draining
        assert not found[30100].is_fit


def test_which_services_have_one() -> None:
    without: list[dict[str, Any]] = [{"load_balancer": False}, {"external_local": False}]
    for more in without:
        assert checks(cluster(**more), "n1") == ({}, ())
    assert checks(cluster(health_check_node_port=None), "n1") == ({}, ())
    odd = checks(cluster(health_check_node_port=99999), "n1")
    assert odd == ({}, ("default/web: 99999 is no port",))
    known = cluster()
    other = replace(known.services["default/web"], name="api")
    both = replace(known, services={**known.services, other.key: other})
    found, conflicts = checks(both, "n1")
    assert found[30100].name == "api"
    assert conflicts == ("default/web: port 30100 is that of default/api",)

"""The agent's socket: what comes in whole, in pieces, wrongly, or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cni_stage import Stage, within
from shims import C_PROGRAM, PYTHON, C, call

from samepath.cni import server as server_module
from samepath.cni.errors import CniError, Code
from samepath.cni.operations import Operations
from samepath.cni.server import Server
from samepath.cni.spec import Request
from samepath.cni.wire import AnswerReader, encode_request

CONFIG = {"cniVersion": "1.0.0", "name": "pods", "type": "samepath-cni"}
DEL = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "one", "CNI_IFNAME": "eth0", "CNI_NETNS": ""}


class Asked(Operations):
    """Answers without doing anything; `hold` keeps an operation under way."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[Request, int | None]] = []
        self.hold: threading.Event | None = None
        self.fault: BaseException | None = None

    def answer(self, request: Request, namespace: int | None, errno: int | None = None) -> bytes:
        if namespace is not None:
            os.fstat(namespace)  # it is open as long as we work with it
        self.requests.append((request, namespace))
        if self.hold is not None:
            assert self.hold.wait(30)
        if self.fault is not None:
            raise self.fault
        return b'{"done": true}'


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def server(tmp_path: Path, asked: Asked) -> Iterator[Server]:
    made = Server(tmp_path, asked, threads=4)
    made.start()
    yield made
    assert made.stop()


def connect(server: Server) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    connection.connect(str(server.path))
    return connection


def read(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    reader = AnswerReader()
    while True:
        data = connection.recv(65536)
        assert data, "closed without an answer"
        answer = reader.feed(data)
        if answer is not None:
            return answer.status, json.loads(answer.body)


def ask(server: Server, *descriptors: int) -> tuple[int, dict[str, Any]]:
    octets = encode_request(DEL, json.dumps(CONFIG).encode())
    with connect(server) as connection:
        socket.send_fds(connection, [octets], list(descriptors))
        return read(connection)


def wait(condition: Callable[[], bool], limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def is_open(path: Path) -> bool:
    """Whether a descriptor of this process leads there."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return str(path) in found


def test_only_root_may_come_near(server: Server) -> None:
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    if os.geteuid():
        pytest.skip("needs root to become somebody else")
    os.chmod(server.path, 0o666)
    for folder in server.path.parents:
        if str(folder).startswith("/tmp/pytest"):
            os.chmod(folder, 0o755)
    pid = os.fork()
    if not pid:  # another user whom the modes do not keep away
        try:
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(5)
                connection.connect(str(server.path))
                connection.sendall(encode_request(DEL, json.dumps(CONFIG).encode()))
                os._exit(0 if connection.recv(10) == b"" else 1)
        except ConnectionError:
            os._exit(0)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not server.answered


def test_a_request_with_its_descriptor(server: Server, asked: Asked) -> None:
    with open(os.devnull) as something:
        assert ask(server, something.fileno()) == (0, {"done": True})
    ((request, namespace),) = asked.requests
    assert (request.container_id, request.ifname) == ("one", "eth0")
    assert namespace is not None


def test_a_request_in_single_octets(server: Server) -> None:
    with connect(server) as connection:
        for octet in encode_request(DEL, json.dumps(CONFIG).encode()):
            connection.sendall(bytes((octet,)))
        assert read(connection) == (0, {"done": True})


def test_descriptors_are_closed_whatever_comes(
    server: Server, asked: Asked, tmp_path: Path
) -> None:
    path = tmp_path / "descriptor"
    with path.open("w") as something:
        number = something.fileno()
        ask(server, number)
        ask(server, *[number] * 4)
        ask(server, *[number] * 20)
        for octets in (b"nonsense", b"samepath-cni 1 999999999 1\n", b"s"):
            with connect(server) as connection:
                socket.send_fds(connection, [octets], [number])
        asked.fault = RuntimeError("a fault")
        ask(server, number)
        assert is_open(path)
    wait(lambda: not is_open(path))


def test_refusals_and_faults_are_answers(server: Server, asked: Asked) -> None:
    asked.fault = CniError(Code.NO_ADDRESS, "none left", "more")
    status, answer = ask(server)
    assert (status, answer) == (
        1,
        {"cniVersion": "1.0.0", "code": 110, "msg": "none left", "details": "more"},
    )
    asked.fault = RuntimeError("a fault")
    status, answer = ask(server)
    assert (status, answer["code"]) == (1, Code.TRY_AGAIN_LATER)
    assert server.answered == {"DEL failed": 2}
    asked.fault = None
    assert ask(server)[0] == 0


def test_what_is_no_request_is_not_answered(server: Server, asked: Asked) -> None:
    for octets in (b"GET / HTTP/1.0\r\n\r\n", b"samepath-cni 2 0 0\n", b""):
        with connect(server) as connection:
            connection.sendall(octets)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(10) == b""
    assert asked.requests == []
    assert ask(server)[0] == 0


def test_who_says_nothing_does_not_keep_the_others(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "PATIENCE_S", 0.2)
    silent = [connect(server) for _ in range(8)]
    try:
        silent[0].sendall(b"samepath")
        assert ask(server)[0] == 0
    finally:
        for connection in silent:
            connection.close()


def test_a_shim_that_is_killed_does_not_end_the_operation(server: Server, asked: Asked) -> None:
    asked.hold = threading.Event()
    with connect(server) as connection:
        connection.sendall(encode_request(DEL, json.dumps(CONFIG).encode()))
        wait(lambda: len(asked.requests) == 1)
    asked.hold.set()
    wait(lambda: server.answered["DEL"] == 1)
    assert ask(server)[0] == 0


def test_the_end_waits_for_what_is_under_way(tmp_path: Path, asked: Asked) -> None:
    threads = threading.active_count()
    server = Server(tmp_path, asked, threads=4)
    server.start()
    asked.hold = threading.Event()
    with connect(server) as connection:
        connection.sendall(encode_request(DEL, json.dumps(CONFIG).encode()))
        wait(lambda: len(asked.requests) == 1)
        assert not server.stop(0.1)
        asked.hold.set()
        assert read(connection)[0] == 0
    wait(lambda: threading.active_count() == threads)
    assert not server.path.exists()


def test_a_socket_that_a_dead_agent_has_left(tmp_path: Path, asked: Asked) -> None:
    (tmp_path / server_module.NAME).touch()
    server = Server(tmp_path, asked, threads=1)
    server.start()
    assert ask(server)[0] == 0
    assert server.stop()


@pytest.mark.netns
@pytest.mark.parametrize("program", [C, PYTHON], ids=["c", "python"])
def test_through_the_real_plugin(tmp_path: Path, program: list[str]) -> None:
    if program is C and not C_PROGRAM.exists():
        pytest.skip("not built")
    with Stage(tmp_path) as stage, within(stage.node):
        server = Server(tmp_path, stage.open(), threads=4)
        server.start()
        config = CONFIG | {"socket": str(server.path)}
        netns = {"CNI_NETNS": str(stage.pod("one").path), "CNI_CONTAINERID": "one"}
        try:
            added = call(program, "ADD", json.dumps(config).encode(), netns)
            assert added.status == 0
            told = json.loads(added.body)
            assert told["cniVersion"] == "1.0.0"
            checked = call(
                program, "CHECK", json.dumps(config | {"prevResult": told}).encode(), netns
            )
            assert (checked.status, checked.body) == (0, b"")
            again = call(program, "ADD", json.dumps(config).encode(), netns)
            assert json.loads(again.body)["code"] == Code.ALREADY_ATTACHED
            lost = {**netns, "CNI_NETNS": "/run/netns/none", "CNI_CONTAINERID": "two"}
            gone = call(program, "ADD", json.dumps(config).encode(), lost)
            assert json.loads(gone.body)["code"] == Code.NAMESPACE_GONE
            assert call(program, "DEL", json.dumps(config).encode(), netns).status == 0
            assert stage.is_clean()
        finally:
            assert server.stop()

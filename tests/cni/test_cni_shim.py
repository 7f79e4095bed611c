"""One suite for both programs that may be `samepath-cni`: the static one and the Python one.

The expected octets are written here once, so what both satisfy they do alike.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from samepath.cni import wire
from samepath.cni.spec import FALLBACK, VERSION_ANSWER, VERSIONS, version_answer
from tests.cni.fake_agent import Conversation, FakeAgent, answering
from tests.cni.shims import POD, PYTHON, C, Said, call, needs_c

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shim trusts an agent of root only")

COMMANDS = ["ADD", "DEL", "CHECK", "GC", "STATUS"]


@pytest.fixture(params=[pytest.param(C, id="c", marks=needs_c), pytest.param(PYTHON, id="python")])
def program(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cni.sock"


def config(path: Path | str, version: str = "1.0.0") -> bytes:
    return json.dumps({"cniVersion": version, "name": "pods", "socket": str(path)}).encode()


def fault(said: Said) -> dict[str, object]:
    """The error object; the status that goes with it is 1."""
    assert said.status == 1
    answer: dict[str, object] = json.loads(said.body)
    return answer


# What is passed on


@pytest.mark.parametrize("command", COMMANDS)
def test_the_request_is_passed_on_and_the_answer_printed(
    program: list[str], path: Path, command: str
) -> None:
    stdin = config(path) + b"\n"
    with FakeAgent(path, answering(0, b'{"ips":[]}')) as agent:
        said = call(program, command, stdin)
        request = agent.last.read()
    assert said == Said(0, b'{"ips":[]}')
    assert request.environment == {"CNI_COMMAND": command, **POD}
    assert request.stdin == stdin


@pytest.mark.parametrize("status", [1, 3, 255])
def test_the_exit_status_is_the_agents(program: list[str], path: Path, status: int) -> None:
    with FakeAgent(path, answering(status, b'{"code":11}')):
        assert call(program, "DEL", config(path)) == Said(status, b'{"code":11}')


@needs_c
def test_both_send_the_same_octets(path: Path) -> None:
    with FakeAgent(path) as agent:
        for program in (C, PYTHON):
            call(program, "ADD", config(path), {"CNI_NETNS": "/nowhere", "CNI_X": "\udcff"})
        ours, theirs = (c.octets for c in agent.conversations)
    assert ours == theirs
    assert b"CNI_X=\xff\0" in ours


@pytest.mark.parametrize("size", [0, 1, 4096, 70_000, wire.STDIN_LIMIT])
def test_standard_input_up_to_the_limit(program: list[str], path: Path, size: int) -> None:
    filled = config(path).ljust(size)
    with FakeAgent(path) as agent:
        assert call(program, "ADD", filled).status == 0
        assert agent.last.read().stdin == filled


def test_more_standard_input_is_refused(program: list[str], path: Path) -> None:
    with FakeAgent(path) as agent:
        said = call(program, "ADD", config(path).ljust(wire.STDIN_LIMIT + 1))
        assert fault(said)["code"] == 7
        assert not agent.conversations


def test_odd_octets_and_large_variables_arrive(program: list[str], path: Path) -> None:
    odd = {b"CNI_ARGS": b"\xff\xfe=\n;\x01", b"CNI_": b"x", b"CNI_EMPTY": b"", b"CNI_E": b"a=b="}
    large = {f"CNI_{n}".encode(): b"x" * 100_000 for n in range(2)}
    with FakeAgent(path) as agent:
        assert call(program, "ADD", config(path), {**odd, **large}).status == 0
        got = agent.last.read().environment
    for name, value in {**odd, **large}.items():
        assert os.fsencode(got[name.decode()]) == value


def test_of_a_variable_that_stands_twice_the_first_counts(program: list[str], path: Path) -> None:
    """As for getenv. No runtime does it, but two programs must not differ in it."""
    execute = (
        "import ctypes, sys; argv = [a.encode() for a in sys.argv[1:]]; "
        "env = [b'CNI_COMMAND=DEL', b'CNI_A=1', b'CNI_AB=3', b'CNI_A=2', b'CNI_NONE']; "
        "array = lambda words: (ctypes.c_char_p * (len(words) + 1))(*words, None); "
        "ctypes.CDLL(None).execve(argv[0], array(argv), array(env))"
    )
    with FakeAgent(path) as agent:
        subprocess.run(
            [sys.executable, "-c", execute, *program], input=config(path), timeout=60, check=True
        )
        variables = agent.last.read().environment
    assert variables == {"CNI_COMMAND": "DEL", "CNI_A": "1", "CNI_AB": "3"}


def test_too_many_octets_of_variables_are_refused(program: list[str], path: Path) -> None:
    large = {f"CNI_{n}".encode(): b"x" * 100_000 for n in range(3)}
    with FakeAgent(path):
        assert fault(call(program, "ADD", config(path), large))["code"] == 4


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"cniVersion":1}', b"\xff", b"{}x"])
def test_what_is_no_configuration_goes_to_the_agent_as_it_is(
    program: list[str], text: bytes
) -> None:
    """To the default socket, where in tests nobody is: the answer shows that it was tried."""
    said = fault(call(program, "ADD", text))
    assert said["cniVersion"] == FALLBACK
    assert wire.SOCKET in str(said["msg"])


# The namespace


def test_the_namespace_travels_as_a_descriptor(program: list[str], path: Path) -> None:
    netns = f"/proc/{os.getpid()}/ns/net"
    with FakeAgent(path) as agent:
        call(program, "ADD", config(path), {"CNI_NETNS": netns})
        conversation = agent.last
        assert conversation.read().netns_errno is None
        (descriptor,) = conversation.descriptors
        assert not conversation.late
        assert os.path.samestat(os.fstat(descriptor), os.stat(netns))


def test_a_large_request_has_one_descriptor(program: list[str], path: Path) -> None:
    """Though it takes many turns to send."""
    large = config(path).ljust(wire.STDIN_LIMIT)
    with FakeAgent(path) as agent:
        call(program, "ADD", large, {"CNI_NETNS": "/proc/self/ns/net"})
        agent.last.read()
        assert (len(agent.last.descriptors), len(agent.last.late)) == (1, 0)


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_a_namespace_that_is_gone_is_told(program: list[str], path: Path, command: str) -> None:
    with FakeAgent(path) as agent:
        said = call(program, command, config(path), {"CNI_NETNS": "/run/netns/gone"})
        assert said.status == 0
        assert agent.last.read().netns_errno == 2
        assert not agent.last.descriptors


def test_no_namespace_is_no_error(program: list[str], path: Path) -> None:
    with FakeAgent(path) as agent:
        call(program, "DEL", config(path))
        assert agent.last.read().netns_errno is None
        assert not agent.last.descriptors


@pytest.mark.netns
def test_the_path_need_not_exist_for_the_agent(
    program: list[str], path: Path, tmp_path: Path
) -> None:
    """The runtime has mounts of its own, and the namespace lies below one of them."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    mounted = (
        f"mount -t tmpfs x {folder} && touch {folder}/net && "
        f'mount --bind /proc/self/ns/net {folder}/net && exec "$@"'
    )
    inside = ["unshare", "--mount", "sh", "-c", mounted, "sh", *program]
    with FakeAgent(path) as agent:
        said = call(inside, "ADD", config(path), {"CNI_NETNS": f"{folder}/net"})
        assert said == Said(0, b"{}")
        assert not (folder / "net").exists()
        (descriptor,) = agent.last.descriptors
        assert os.path.samestat(os.fstat(descriptor), os.stat("/proc/self/ns/net"))


def test_a_fifo_for_a_namespace_does_not_hold_it_up(
    program: list[str], path: Path, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with FakeAgent(path) as agent:
        assert call(program, "ADD", config(path), {"CNI_NETNS": str(fifo)}).status == 0
        assert stat.S_ISFIFO(os.fstat(agent.last.descriptors[0]).st_mode)


# VERSION


@pytest.mark.parametrize("version", [*VERSIONS, "0.2.0", "2.0.0", 'a"\\\x01é'])
def test_version_is_answered_alone_in_the_version_asked(
    program: list[str], path: Path, version: str
) -> None:
    with FakeAgent(path) as agent:
        said = call(program, "VERSION", config(path, version), {"CNI_NETNS": "dummy"})
        assert not agent.conversations
    assert said.status == 0
    assert json.loads(said.body) == json.loads(version_answer(version))


@pytest.mark.parametrize("text", [b"", b"{}", b"no", b'{"cniVersion":""}', b'{"cniVersion":7}'])
def test_version_without_a_version(program: list[str], text: bytes) -> None:
    assert call(program, "VERSION", text, pod={}) == Said(0, VERSION_ANSWER)


def test_version_needs_no_standard_input(program: list[str]) -> None:
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *program],
        env={"CNI_COMMAND": "VERSION"}, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (closed.returncode, closed.stdout) == (0, VERSION_ANSWER)


# Faults of the caller


def test_by_hand_it_says_what_it_is_and_waits_for_nothing(program: list[str]) -> None:
    with subprocess.Popen(
        program, env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        said = json.loads(running.stdout.read())  # though its standard input is open
        assert running.wait(30) == 1
    assert said["code"] == 4
    assert "CNI_COMMAND" in said["msg"]


def test_without_standard_input_it_says_so(program: list[str]) -> None:
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *program],
        env={"CNI_COMMAND": "ADD"}, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert closed.returncode == 1
    assert json.loads(closed.stdout)["code"] == 5


def test_without_standard_output_nothing_is_asked(program: list[str], path: Path) -> None:
    """Else the agent's socket would become descriptor 1, and get the answer."""
    with FakeAgent(path) as agent:
        closed = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *program],
            env={"CNI_COMMAND": "ADD"}, input=config(path), timeout=60, check=False,
        )  # fmt: skip
        assert not agent.conversations
    assert closed.returncode == 1


def test_an_answer_that_nobody_reads_is_no_success(program: list[str], path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with FakeAgent(path):
        done = subprocess.run(
            program, env={"CNI_COMMAND": "ADD"}, input=config(path), stdout=write,
            timeout=60, check=False,
        )  # fmt: skip
    os.close(write)
    assert done.returncode == 1


@pytest.mark.parametrize(
    "socket_path",
    ["", "cni.sock", "/x" * 54, "/run/\0x", "\0abstract", "/\ud800"],
    ids=["empty", "relative", "long", "nul", "abstract", "surrogate"],
)
@pytest.mark.parametrize("command", ["ADD", "STATUS"])
def test_a_socket_that_cannot_be(program: list[str], command: str, socket_path: str) -> None:
    said = fault(call(program, command, config(socket_path)))
    assert said["code"] == 7
    assert str(said["msg"]).startswith("socket:")


def test_a_socket_path_of_107_octets(program: list[str], tmp_path: Path) -> None:
    with socket_folder() as folder:
        path = folder / ("é" * ((106 - len(str(folder))) // 2))
        path = path.with_name(path.name + "x" * (107 - len(os.fsencode(path))))
        with FakeAgent(path):
            assert call(program, "ADD", config(path)) == Said(0, b"{}")


@contextmanager
def socket_folder() -> Iterator[Path]:
    """A short path, whatever pytest's own is."""
    folder = Path(f"/run/spt-{os.getpid()}")
    folder.mkdir()
    try:
        yield folder
    finally:
        folder.rmdir()


# The agent is away


def expect_away(program: list[str], path: Path, reason: str, details: str | None) -> None:
    for command in COMMANDS:
        version = "1.1.0" if command in ("GC", "STATUS") else "0.4.0"
        said = fault(call(program, command, config(path, version), {"SAMEPATH_CNI_TIMEOUT_S": "1"}))
        assert said.pop("cniVersion") == version
        assert said.pop("code") == (50 if command == "STATUS" else 11)
        assert said.pop("details") == details
        assert reason in str(said["msg"])
        assert str(path) in str(said["msg"])


def test_no_socket(program: list[str], path: Path) -> None:
    expect_away(program, path, "there is no socket", "connect: ENOENT")


def test_a_socket_at_which_nobody_listens(program: list[str], path: Path) -> None:
    with FakeAgent(path):
        path.rename(path.with_suffix(".kept"))
    path.with_suffix(".kept").rename(path)
    expect_away(program, path, "nothing listens at", "connect: ECONNREFUSED")


def test_a_path_below_a_file(program: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    expect_away(program, tmp_path / "file" / "sock", "no connection to", "connect: errno 20")


def closing_at_once(conversation: Conversation) -> None:
    conversation.socket.close()


def closing_after_reading(conversation: Conversation) -> None:
    conversation.read()


@pytest.mark.parametrize("behave", [closing_at_once, closing_after_reading])
def test_closed_without_an_answer(program: list[str], path: Path, behave: object) -> None:
    with FakeAgent(path, behave):  # type: ignore[arg-type]
        expect_away(program, path, "was closed without an answer", "no answer at all")


@pytest.mark.parametrize("beginning", [b"0", b"0 10", b"0 10\n", b"0 10\n123456789"])
def test_an_answer_that_breaks_off(program: list[str], path: Path, beginning: bytes) -> None:
    def behave(conversation: Conversation) -> None:
        conversation.read()
        conversation.socket.sendall(beginning)

    with FakeAgent(path, behave):
        expect_away(program, path, "was closed without an answer", "the answer broke off")


@pytest.mark.parametrize("beginning", [b"", b"0 10\n123"])
def test_an_agent_that_takes_too_long(program: list[str], path: Path, beginning: bytes) -> None:
    over = threading.Event()

    def behave(conversation: Conversation) -> None:
        conversation.read()
        conversation.socket.sendall(beginning)
        over.wait(30)

    with FakeAgent(path, behave):
        try:
            said = fault(
                call(program, "DEL", config(path, "0.4.0"), {"SAMEPATH_CNI_TIMEOUT_S": "1"})
            )
        finally:
            over.set()
    assert said["code"] == 11
    assert said["details"] == "seconds waited: 1"


def test_an_agent_that_drips_its_answer_has_one_limit_in_all(
    program: list[str], path: Path
) -> None:
    over = threading.Event()

    def behave(conversation: Conversation) -> None:
        conversation.read()
        conversation.socket.sendall(b"0 1000\n")
        while not over.wait(0.2):
            conversation.socket.sendall(b"x")

    with FakeAgent(path, behave):
        try:
            said = fault(call(program, "STATUS", config(path), {"SAMEPATH_CNI_TIMEOUT_S": "1"}))
        finally:
            over.set()
    assert said["code"] == 50
    assert said["details"] == "seconds waited: 1"


def test_an_agent_that_accepts_nobody(program: list[str], path: Path) -> None:
    """Its queue is full: connect() itself waits."""
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
        listening.bind(str(path))
        listening.listen(0)
        first.connect(str(path))
        said = fault(call(program, "ADD", config(path), {"SAMEPATH_CNI_TIMEOUT_S": "1"}))
    assert said["details"] == "seconds waited: 1"


# An agent that is none


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n", b"\n", b"0\n", b"0 \n", b" 1\n", b"-1 1\nx", b"256 1\nx",
     b"0 1048577\n", b"0 99999999\n", b"0  1\nx", b"0 1 \nx", b"+0 1\nx", b"0 1x\nx", b"x" * 16,
     b"0000 1\nx", b"0\t1\nx", b"\0 1\nx", b"\xd9\xa1 1\nx"],
)  # fmt: skip
def test_garbage_is_not_printed(program: list[str], path: Path, garbage: bytes) -> None:
    def behave(conversation: Conversation) -> None:
        conversation.read()
        conversation.socket.sendall(garbage)

    with FakeAgent(path, behave):
        said = fault(call(program, "ADD", config(path)))
        assert said["code"] == 101
        assert fault(call(program, "STATUS", config(path)))["code"] == 50


def test_what_follows_the_announced_octets_is_ignored(program: list[str], path: Path) -> None:
    def behave(conversation: Conversation) -> None:
        conversation.read()
        conversation.socket.sendall(b"007 0000002\n{}garbage")

    with FakeAgent(path, behave):
        assert call(program, "ADD", config(path)) == Said(7, b"{}")


def test_only_root_is_believed(program: list[str], path: Path) -> None:
    """Who called listen() counts, so a program that has dropped its rights is not root's."""
    listen = "import os,socket,sys; s=socket.socket(fileno=int(sys.argv[1])); os.setuid(65534); "
    listen += "s.listen(4); print(flush=True); sys.stdin.read()"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        with subprocess.Popen(
            [sys.executable, "-c", listen, str(bound.fileno())], pass_fds=[bound.fileno()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as other:  # fmt: skip
            assert other.stdout is not None
            assert other.stdin is not None
            other.stdout.readline()
            said = fault(call(program, "ADD", config(path)))
            assert fault(call(program, "STATUS", config(path)))["code"] == 50
            other.stdin.close()
    assert said["code"] == 100
    assert said["details"] == "uid 65534"


# An agent that is odd, but one


@pytest.mark.parametrize("size", [0, 1, 65_536, wire.ANSWER_LIMIT])
def test_answers_of_any_size(program: list[str], path: Path, size: int) -> None:
    with FakeAgent(path, answering(0, b"x" * size)):
        assert call(program, "ADD", config(path)) == Said(0, b"x" * size)


def test_an_answer_octet_by_octet(program: list[str], path: Path) -> None:
    def behave(conversation: Conversation) -> None:
        conversation.read()
        for octet in b'1 11\n\0{"code":7}':
            conversation.socket.sendall(bytes((octet,)))

    with FakeAgent(path, behave):
        assert call(program, "ADD", config(path)) == Said(1, b'\0{"code":7}')


def test_an_answer_before_the_request_was_read(program: list[str], path: Path) -> None:
    """The agent refuses in the middle of a large request: its reason is printed all the same."""

    def behave(conversation: Conversation) -> None:
        conversation.socket.sendall(b"1 2\n{}")
        conversation.socket.close()

    with FakeAgent(path, behave):
        said = call(program, "ADD", config(path).ljust(wire.STDIN_LIMIT))
    assert said == Said(1, b"{}")

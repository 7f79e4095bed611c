"""What the shim and the agent say to each other, one request and one answer a connection.

    shim   samepath-cni 1 <octets of the environment> <octets of standard input>\\n
           NAME=value NUL, for each variable that begins with CNI_
           standard input
    agent  <exit status> <octets>\\n
           what to print on standard output

With the first octet of the request travels, by SCM_RIGHTS, a descriptor of the namespace that
CNI_NETNS names, opened by the shim: the path may exist in the runtime's mount namespace only. When
CNI_NETNS is set but cannot be opened no descriptor comes, and the environment has
`SAMEPATH_NETNS_ERRNO=<errno>` more. That the descriptor is a network namespace nobody has checked:
`setns(fd, CLONE_NEWNET)` refuses all else.

The agent closes the connection after its answer; the shim reads no further than the octets that
were announced. Both sides are root's: the socket's mode keeps others away from the agent, and the
shim asks with SO_PEERCRED who listens.

`cni.server` feeds a `RequestReader` with what it receives. The shim's half is written twice more,
in `shim.c` and `shim.py`; `encode_request` and `AnswerReader` serve drivers and tests. Nothing here
owns a socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MAGIC = b"samepath-cni 1 "
SOCKET = "/run/samepath/cni.sock"
"""Where the shim asks when the configuration has no `socket`."""
NETNS_ERRNO = "SAMEPATH_NETNS_ERRNO"

HEADER_OCTETS = 64
ENVIRONMENT_LIMIT = 256 << 10
"""Linux allows 128 KiB a variable."""
STDIN_LIMIT = 1 << 20
ANSWER_LIMIT = 1 << 20


class WireError(ValueError):
    """The other side does not speak this protocol: close the connection."""


@dataclass(frozen=True, slots=True)
class WireRequest:
    environment: Mapping[str, str]
    """Octets that are not UTF-8 are lone surrogates (`surrogateescape`)."""
    stdin: bytes

    @property
    def netns_errno(self) -> int | None:
        """Why the shim could not open CNI_NETNS; None: it was not set, or could be opened."""
        text = self.environment.get(NETNS_ERRNO, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    """Exit status of the plugin: 0, or 1 with an error object."""
    body: bytes


def encode_request(environment: Mapping[str, str], stdin: bytes) -> bytes:
    block = b"".join(
        f"{name}={value}\0".encode("utf-8", "surrogateescape")
        for name, value in environment.items()
    )
    return b"%b%d %d\n%b%b" % (MAGIC, len(block), len(stdin), block, stdin)


def encode_answer(status: int, body: bytes) -> bytes:
    assert 0 <= status <= 255
    assert len(body) <= ANSWER_LIMIT
    return b"%d %d\n%b" % (status, len(body), body)


class _Reader:
    """A header line, and as many octets as it announces."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._body_at = 0
        self._numbers: tuple[int, int] = (0, 0)

    def _feed(self, data: bytes) -> bytes | None:
        """The body when it is complete."""
        self._received += data
        if not self._body_at:
            end = self._received.find(b"\n", 0, HEADER_OCTETS)
            if end < 0:
                self._check_beginning(bytes(self._received[:HEADER_OCTETS]))
                if len(self._received) >= HEADER_OCTETS:
                    raise WireError(f"no header line in the first {HEADER_OCTETS} octets")
                return None
            self._numbers = self._header(bytes(self._received[:end]))
            self._body_at = end + 1
        have = len(self._received) - self._body_at
        want = self._octets()
        if have > want:
            raise WireError(f"{have - want} octets more than announced")
        return bytes(self._received[self._body_at :]) if have == want else None

    def _check_beginning(self, beginning: bytes) -> None: ...

    def _header(self, line: bytes) -> tuple[int, int]:
        raise NotImplementedError

    def _octets(self) -> int:
        raise NotImplementedError


class RequestReader(_Reader):
    """The agent's side: `feed` what arrives until it gives the request."""

    def feed(self, data: bytes) -> WireRequest | None:
        """Raises WireError as soon as it is clear that this is no request."""
        body = self._feed(data)
        if body is None:
            return None
        octets = self._numbers[0]
        return WireRequest(_environment(body[:octets]), body[octets:])

    def _check_beginning(self, beginning: bytes) -> None:
        if not MAGIC.startswith(beginning[: len(MAGIC)]):
            raise WireError(f"a request begins with {MAGIC.decode()!r}, not {beginning!r}")

    def _header(self, line: bytes) -> tuple[int, int]:
        self._check_beginning(line)
        environment, stdin = _two_numbers(line[len(MAGIC) :])
        if environment > ENVIRONMENT_LIMIT:
            raise WireError(f"environment of {environment} octets, more than {ENVIRONMENT_LIMIT}")
        if stdin > STDIN_LIMIT:
            raise WireError(f"standard input of {stdin} octets, more than {STDIN_LIMIT}")
        return environment, stdin

    def _octets(self) -> int:
        return sum(self._numbers)


class AnswerReader(_Reader):
    """The shim's side."""

    def feed(self, data: bytes) -> Answer | None:
        body = self._feed(data)
        return None if body is None else Answer(self._numbers[0], body)

    def _header(self, line: bytes) -> tuple[int, int]:
        status, octets = _two_numbers(line)
        if status > 255 or octets > ANSWER_LIMIT:
            raise WireError(f"answer of status {status} and {octets} octets")
        return status, octets

    def _octets(self) -> int:
        return self._numbers[1]


def _two_numbers(text: bytes) -> tuple[int, int]:
    first, _, second = text.partition(b" ")
    for number in (first, second):
        if not number.isdigit() or len(number) > 7:
            raise WireError(f"{text!r} are not two numbers")
    return int(first), int(second)


def _environment(block: bytes) -> dict[str, str]:
    if block and not block.endswith(b"\0"):
        raise WireError("the environment does not end with NUL")
    environment = {}
    for entry in block.split(b"\0")[:-1]:
        name, equals, value = entry.decode("utf-8", "surrogateescape").partition("=")
        if not name or not equals:
            raise WireError(f"{entry[:40]!r} is no variable")
        environment[name] = value
    return environment

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
NOTE_OCTETS = 32
"""Room for that variable, beside those of the runtime."""

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


class _Frame:
    """A header line with two numbers, and as many octets as it announces."""

    def __init__(self, beginning: bytes, limits: tuple[int, int], counting: int) -> None:
        """The last `counting` of the two numbers count octets."""
        self.numbers = [0, 0]
        self._beginning = beginning
        self._limits = limits
        self._counting = counting
        self._received = bytearray()
        self._body_at = 0

    def feed(self, data: bytes) -> bytes | None:
        """The body, when it is complete. Raises WireError as soon as it cannot become one."""
        self._received += data
        if not self._body_at and not self._read_header():
            return None
        want = sum(self.numbers[-self._counting :])
        have = len(self._received) - self._body_at
        if have > want:
            raise WireError(f"{have - want} octets more than announced")
        return bytes(self._received[self._body_at :]) if have == want else None

    def _read_header(self) -> bool:
        first = bytes(self._received[:HEADER_OCTETS])
        size = min(len(first), len(self._beginning))
        if first[:size] != self._beginning[:size]:
            raise WireError(f"it does not begin with {self._beginning!r}: {first[:20]!r}")
        line, newline, _ = first[size:].partition(b"\n")
        if not newline:
            if len(first) == HEADER_OCTETS:
                raise WireError(f"no header line within {HEADER_OCTETS} octets")
            return False
        texts = line.split(b" ")
        if len(texts) != 2 or not all(t.isdigit() and len(t) <= 7 for t in texts):
            raise WireError(f"{line!r} are not two numbers")
        self.numbers = [int(text) for text in texts]
        for number, limit in zip(self.numbers, self._limits, strict=True):
            if number > limit:
                raise WireError(f"{number} announced, more than {limit}")
        self._body_at = size + len(line) + 1
        return True


class RequestReader:
    """The agent's side: `feed` what arrives until it gives the request."""

    def __init__(self) -> None:
        self._frame = _Frame(MAGIC, (ENVIRONMENT_LIMIT + NOTE_OCTETS, STDIN_LIMIT), 2)

    def feed(self, data: bytes) -> WireRequest | None:
        """Raises WireError as soon as it is clear that this is no request."""
        body = self._frame.feed(data)
        if body is None:
            return None
        octets = self._frame.numbers[0]
        return WireRequest(_environment(body[:octets]), body[octets:])


class AnswerReader:
    """The shim's side. Stricter than the shim, which ignores what follows the body."""

    def __init__(self) -> None:
        self._frame = _Frame(b"", (255, ANSWER_LIMIT), 1)

    def feed(self, data: bytes) -> Answer | None:
        body = self._frame.feed(data)
        return None if body is None else Answer(self._frame.numbers[0], body)


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

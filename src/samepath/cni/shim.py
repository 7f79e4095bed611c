"""samepath-cni in Python, for machines where `shim.c` could not be built.

The same program word for word: same requests, same answers, same messages; the comments stand
there. A container runtime executes it as `python -I -S shim.py`, and each pod's start waits for it:
so it imports nothing but `_socket` and what is built in (the modules `socket`, `json` and `site`
would double its time), and it ends by `_exit`.

Not done here: any judgement of the request; see shim.c.

Standards: CNI 1.1.0; RFC 8259 (JSON); unix(7).
"""

import _socket
import posix
import sys
import time

FALLBACK = "1.0.0"
NEWEST = "1.1.0"
SUPPORTED = '["0.3.1","0.4.0","1.0.0","1.1.0"]'
SOCKET = "/run/samepath/cni.sock"
MAGIC = b"samepath-cni 1 "

STDIN_LIMIT = 1 << 20
ENVIRONMENT_LIMIT = 256 << 10
ANSWER_LIMIT = 1 << 20
ANSWER_HEADER = 16
VERSION_OCTETS = 64
PATH_OCTETS = 107
DEPTH_LIMIT = 512
TIMEOUT_S = 60

INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
INVALID_CONFIG = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
AGENT_NOT_TRUSTED = 100
AGENT_NOT_UNDERSTOOD = 101

ENOENT = 2
EAGAIN = 11
ECONNREFUSED = 111

BYTE_ORDER = sys.byteorder
TIME_OCTETS = 8 if sys.maxsize > 1 << 32 else 4
"""Of a `long`, and so of each half of a `struct timeval`."""

SPACE = " \t\n\r"
ESCAPES = {
    '"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t",
}  # fmt: skip
FIELDS = (b"cniVersion", b"socket")
HEX = "0123456789abcdefABCDEF"
DIGITS = "0123456789"


class NotJson(Exception):
    """The text is not JSON as a whole."""


# The scanner: the top-level strings that we need, of a text that is JSON as a whole.


def string(text: str, at: int) -> int:
    """Past the closing quote of the string whose inside begins at `at`."""
    while True:
        quote = text.find('"', at)
        if quote < 0:
            raise NotJson
        escape = text.find("\\", at, quote)
        plain = text[at : quote if escape < 0 else escape]
        if plain and min(plain) < " ":
            raise NotJson
        if escape < 0:
            return quote + 1
        at = escape + 2
        kind = text[escape + 1 : at]
        if kind == "u":
            if not is_hex4(text[at : at + 4]):
                raise NotJson
            at += 4
        elif kind not in ESCAPES:
            raise NotJson


def is_hex4(digits: str) -> bool:
    return len(digits) == 4 and all(c in HEX for c in digits)


def unescape(raw: str, room: int) -> bytes | None:
    """What a valid string means; None: more than `room` octets, or half a surrogate pair."""
    if "\\" in raw:
        parts = []
        at = 0
        while True:
            escape = raw.find("\\", at)
            if escape < 0:
                break
            parts.append(raw[at:escape])
            kind = raw[escape + 1]
            at = escape + 2
            if kind != "u":
                parts.append(ESCAPES[kind])
                continue
            code = int(raw[at : at + 4], 16)
            at += 4
            if 0xD800 <= code < 0xDC00 and raw[at : at + 2] == "\\u":
                low = int(raw[at + 2 : at + 6], 16)
                if 0xDC00 <= low < 0xE000:
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
                    at += 6
            if 0xD800 <= code < 0xE000:
                return None
            parts.append(chr(code))
        parts.append(raw[at:])
        raw = "".join(parts)
    octets = raw.encode()
    return octets if len(octets) <= room else None


def digits(text: str, at: int) -> int:
    start = at
    while text[at] in DIGITS:
        at += 1
    if at == start:
        raise NotJson
    return at


def scalar(text: str, at: int) -> int:
    for word in ("true", "false", "null"):
        if text.startswith(word, at):
            return at + len(word)
    if text[at] == "-":
        at += 1
    at = at + 1 if text[at] == "0" else digits(text, at)
    if text[at] == ".":
        at = digits(text, at + 1)
    if text[at] in "eE":
        at += 1
        if text[at] in "+-":
            at += 1
        at = digits(text, at)
    return at


def space(text: str, at: int) -> int:
    while text[at] in SPACE:
        at += 1
    return at


def key(text: str, at: int) -> tuple[int, bytes]:
    """Past a key and its colon, and the field that it names, if we need that."""
    at = space(text, at)
    if text[at] != '"':
        raise NotJson
    end = string(text, at + 1)
    name = unescape(text[at + 1 : end - 1], 16)
    at = space(text, end)
    if text[at] != ":":
        raise NotJson
    return at + 1, name if name in FIELDS else b""


def scan(data: bytes) -> dict[bytes, str]:
    """The fields that we need, as they are written between the quotes. Raises NotJson."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise NotJson from None
    end = len(text)
    text += "\0"  # no token has it, so that each of them ends before the text does
    found: dict[bytes, str] = {}
    field = b""
    closers = ""
    at = 0
    while True:  # each turn is one value
        at = space(text, at)
        first = text[at]
        if len(closers) == 1 and field:
            found.pop(field, None)  # of a field that stands twice the last counts
        is_open = False
        if first in "{[":
            if len(closers) == DEPTH_LIMIT:
                raise NotJson
            closers += "}" if first == "{" else "]"
            at = space(text, at + 1)
            is_open = text[at] != closers[-1]
        elif first == '"':
            begin, at = at + 1, string(text, at + 1)
            if len(closers) == 1 and field:
                found[field] = text[begin : at - 1]
        else:
            at = scalar(text, at)
        if not is_open:
            at = space(text, at)
            while closers and text[at] == closers[-1]:
                closers = closers[:-1]
                at = space(text, at + 1)
            if not closers:
                if at != end:
                    raise NotJson
                return found
            if text[at] != ",":
                raise NotJson
            at += 1
        if closers[-1] == "}":
            at, name = key(text, at)
            if len(closers) == 1:
                field = name


# Output


def finish(text: bytes, status: int) -> None:
    while text:
        try:
            text = text[posix.write(1, text) :]
        except OSError:
            posix._exit(status or 1)
    posix._exit(status)


def escaped(octets: bytes) -> bytes:
    """The inside of a JSON string."""
    parts = []
    for c in octets:
        if c in b'"\\':
            parts.append(b"\\%c" % c)
        elif c < 0x20:
            parts.append(b"\\u%04x" % c)
        else:
            parts.append(b"%c" % c)
    return b"".join(parts)


class Shim:
    """One call of the plugin."""

    def __init__(self, variables: dict[bytes, bytes]) -> None:
        self.variables = variables
        self.command = variables.get(b"CNI_COMMAND", b"")
        self.version = FALLBACK.encode()
        self.path = SOCKET.encode()
        self.deadline = 0.0
        self.timeout_s = TIMEOUT_S

    def fail(self, code: int, message: str | bytes, details: str = "") -> None:
        text = message if isinstance(message, bytes) else message.encode()
        answer = b'{"cniVersion":"%b","code":%d,"msg":"%b"' % (escaped(self.version), code, text)
        if details:
            answer += b',"details":"%b"' % details.encode()
        finish(answer + b"}", 1)

    def away(self, code: int, before: str, after: str, details: str = "") -> None:
        code = NOT_AVAILABLE if self.command == b"STATUS" else code
        before = f"Samepath's agent cannot be asked: {before}"
        self.fail(code, before.encode() + escaped(self.path) + after.encode(), details)

    def too_late(self) -> None:
        self.away(
            TRY_AGAIN_LATER,
            "no answer in time from ",
            "; see in the agent's log what keeps it busy",
            f"seconds waited: {self.timeout_s}",
        )

    def closed(self, details: str) -> None:
        self.away(
            TRY_AGAIN_LATER,
            "the connection to ",
            " was closed without an answer; the agent may be starting anew, see its log",
            details,
        )

    def not_connected(self, error: int) -> None:
        remedy = "; start the agent on this node, or correct 'socket' in the network configuration"
        if error == EAGAIN:
            self.too_late()
        if error == ENOENT:
            self.away(TRY_AGAIN_LATER, "there is no socket ", remedy, "connect: ENOENT")
        if error == ECONNREFUSED:
            self.away(TRY_AGAIN_LATER, "nothing listens at ", remedy, "connect: ECONNREFUSED")
        self.away(TRY_AGAIN_LATER, "no connection to ", remedy, f"connect: errno {error}")

    # The request

    def read_input(self) -> bytes:
        parts = []
        have = 0
        try:
            while have <= STDIN_LIMIT:
                part = posix.read(0, STDIN_LIMIT + 1 - have)
                if not part:
                    break
                parts.append(part)
                have += len(part)
        except OSError as error:
            if self.command != b"VERSION":
                self.fail(
                    IO_FAILURE,
                    "standard input cannot be read: the container runtime has to send "
                    "the network configuration",
                    f"errno {error.errno}",
                )
            return b""
        if have > STDIN_LIMIT:
            self.fail(INVALID_CONFIG, "the network configuration has more than 1048576 octets")
        return b"".join(parts)

    def environment(self) -> bytes:
        block = b"".join(
            b"%b=%b\0" % pair for pair in self.variables.items() if pair[0].startswith(b"CNI_")
        )
        if len(block) > ENVIRONMENT_LIMIT:
            self.fail(
                INVALID_ENVIRONMENT, "the variables CNI_* have more than 262144 octets together"
            )
        return block

    def aim(self, raw: str) -> None:
        path = unescape(raw, PATH_OCTETS)
        if not path or not path.startswith(b"/") or b"\0" in path:
            self.fail(
                INVALID_CONFIG,
                "socket: it must be an absolute path of at most 107 octets; correct it in the "
                "network configuration, or leave it out",
            )
        else:
            self.path = path

    def set_timeout_s(self) -> None:
        text = self.variables.get(b"SAMEPATH_CNI_TIMEOUT_S", b"")
        seconds = int(text) if text.isdigit() and len(text) <= 3 else 0
        if 1 <= seconds <= 600:
            self.timeout_s = seconds

    # The conversation

    def set_timeout(self, agent: _socket.socket, option: int) -> None:
        """Sets what is left of the time on the socket, for the next call."""
        left = int((self.deadline - time.monotonic()) * 1_000_000)
        if left < 1:
            self.too_late()
        seconds, microseconds = divmod(left, 1_000_000)
        timeval = native(seconds, TIME_OCTETS) + native(microseconds, TIME_OCTETS)
        agent.setsockopt(_socket.SOL_SOCKET, option, timeval)

    def connect(self) -> _socket.socket:
        agent = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.set_timeout(agent, _socket.SO_SNDTIMEO)
        try:
            agent.connect(self.path)
        except OSError as error:
            self.not_connected(error.errno or 0)
        peer = agent.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        uid = peer[4:8]
        if uid != b"\0\0\0\0":
            self.away(
                AGENT_NOT_TRUSTED,
                "the program that listens at ",
                " does not run as root; stop it, and start the agent as root",
                f"uid {int.from_bytes(uid, BYTE_ORDER)}",
            )
        return agent

    def send(self, agent: _socket.socket, request: bytes, netns: int) -> None:
        ancillary = []
        if netns >= 0:
            ancillary.append((_socket.SOL_SOCKET, _socket.SCM_RIGHTS, native(netns, 4)))
        view = memoryview(request)
        while view:
            self.set_timeout(agent, _socket.SO_SNDTIMEO)
            try:
                sent = agent.sendmsg([view], ancillary, _socket.MSG_NOSIGNAL)
            except OSError as error:
                if error.errno == EAGAIN:
                    self.too_late()
                return
            ancillary = []
            view = view[sent:]

    def print_answer(self, agent: _socket.socket) -> None:
        answer = b""
        while True:
            self.set_timeout(agent, _socket.SO_RCVTIMEO)
            try:
                part = agent.recv(ANSWER_HEADER + ANSWER_LIMIT)
            except OSError as error:
                if error.errno == EAGAIN:
                    self.too_late()
                part = b""
            if not part:
                self.closed("the answer broke off" if answer else "no answer at all")
            answer += part
            end = answer.find(b"\n", 0, ANSWER_HEADER)
            if end < 0 and len(answer) < ANSWER_HEADER:
                continue
            status, _, octets = answer[: max(end, 0)].partition(b" ")
            if not (status.isdigit() and len(status) <= 3 and int(status) <= 255) or not (
                octets.isdigit() and len(octets) <= 7 and int(octets) <= ANSWER_LIMIT
            ):
                self.away(
                    AGENT_NOT_UNDERSTOOD,
                    "what answered at ",
                    " is no agent of this version; bring agent and plugin to the same version",
                )
            body = answer[end + 1 :]
            if len(body) >= int(octets):
                finish(body[: int(octets)], int(status))

    def ask(self, stdin: bytes) -> None:
        environment = self.environment()
        netns = -1
        path = self.variables.get(b"CNI_NETNS")
        if path:
            try:
                netns = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
            except OSError as error:
                environment += b"SAMEPATH_NETNS_ERRNO=%d\0" % (error.errno or 0)
        header = b"%b%d %d\n" % (MAGIC, len(environment), len(stdin))
        self.set_timeout_s()
        self.deadline = time.monotonic() + self.timeout_s
        agent = self.connect()
        self.send(agent, header + environment + stdin, netns)
        self.print_answer(agent)

    def run(self) -> None:
        if not self.command:
            self.fail(
                INVALID_ENVIRONMENT,
                "CNI_COMMAND is not set: a container runtime calls this program, with the "
                "variables of the CNI specification",
            )
        stdin = self.read_input()
        try:
            found = scan(stdin)
        except NotJson:
            found = {}  # the agent says so
        said = unescape(found.get(b"cniVersion", ""), VERSION_OCTETS)
        if said:
            self.version = said
        if self.command == b"VERSION":
            version = escaped(said or NEWEST.encode())
            finish(b'{"cniVersion":"%b","supportedVersions":%b}' % (version, SUPPORTED.encode()), 0)
        if b"socket" in found:
            self.aim(found[b"socket"])
        self.ask(stdin)


def native(number: int, octets: int) -> bytes:
    return number.to_bytes(octets, BYTE_ORDER)


def main() -> None:
    try:
        posix.fstat(1)
    except OSError:
        posix._exit(1)  # else the agent's socket would become standard output
    Shim(posix.environ).run()


if __name__ == "__main__":
    main()

"""FRR's bfdd in place of our own BFD process, where detection must be faster than Python is.

The same to a program as `samepath.bfd.process.Process`. It speaks bfdd's control protocol on the
socket that `bfdd --bfdctl PATH` makes: sessions are added and removed as they are wanted, so none
is configured in FRR, and bfdd tells at once of every change. Should bfdd go away, nothing is known
of the paths, and nothing is done about them.

The protocol is that of FRR's `bfdd/bfdctl.h`, seen with FRR 8.4: a header (length of what follows,
a number that the answer repeats, type, version), then JSON. bfdd wants our address for a peer of
IPv6. A session that is there already does not take other terms, so one with other terms begins
anew. What bfdd does not know of: passive sessions and the C bit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

from samepath.bfd.fsm import Event, State
from samepath.bfd.packet import Diagnostic
from samepath.bfd.session import Terms
from samepath.bfd.wire import View, Want

log = logging.getLogger("samepath.bfd")

RETRY_S = 1.0
LENGTH_LIMIT = 1 << 20
_HEADER = struct.Struct(">IHBB")
_VERSION = 1
_RESPONSE, _ADD, _DELETE, _NOTIFY = 1, 2, 3, 4
_PEER_STATE = struct.pack("=Q", 1)
"""BCM_NOTIFY_PEER_STATE, in the machine's order of octets."""
_STATES = {"up": State.UP, "down": State.DOWN, "init": State.INIT, "adm-down": State.ADMIN_DOWN}


class Bfdd:
    def __init__(self, path: str, *, changed: Callable[[str, View, int], None]) -> None:
        """`changed` as that of `Process`."""
        self.sessions: dict[str, View] = {}
        self.scheduling: list[str] = []
        self.errors: list[str] = []
        self.pid: int | None = None
        self.starts = 0
        """How often it was found."""
        self._path = path
        self._changed = changed
        self._wanted: dict[str, Want] = {}
        self._told: dict[str, Want] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._asked = asyncio.Event()
        self._number = 0
        self._requests: dict[int, str] = {}
        """What was asked, and not answered yet."""

    # What the program calls.

    def want(self, sessions: Mapping[str, Want], linger_s: float) -> None:
        """bfdd keeps the sessions when the program is gone, for as long as it runs."""
        self._wanted = dict(sessions)
        if sessions:
            self._asked.set()
        self._tell()

    async def counters(self) -> dict[str, Any]:
        """They are in bfdd: `show bfd peers counters`."""
        return {}

    async def run(self) -> None:
        while True:
            await self._asked.wait()
            try:
                await self._converse()
                self._trouble("it has closed the connection")
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                self._trouble(getattr(error, "strerror", None) or str(error))
            self._let_go()
            await asyncio.sleep(RETRY_S)

    async def close(self, *, goodbye: bool) -> None:
        if goodbye:
            self.want({}, 0)
            if self._writer is not None:
                with contextlib.suppress(OSError):
                    await self._writer.drain()
        self._let_go()

    # The conversation.

    async def _converse(self) -> None:
        """Until it ends. Raises OSError, ValueError, IncompleteReadError."""
        reader, self._writer = await asyncio.open_unix_connection(self._path)
        self.sessions, self._told, self._requests = {}, {}, {}
        self.starts += 1
        self.errors = []
        log.info("bfdd answers at %s", self._path)
        self._send(_NOTIFY, _PEER_STATE, "to be told of changes")
        self._tell()
        while True:
            length, number, kind, _ = _HEADER.unpack(await reader.readexactly(_HEADER.size))
            if length > LENGTH_LIMIT:
                raise ValueError(f"a message of {length} octets")
            text = (await reader.readexactly(length)).rstrip(b"\0")
            message = json.loads(text)
            if kind == _RESPONSE:
                self._answered(self._requests.pop(number, "?"), message)
            elif message.get("op") == "status":
                self._hear(message)

    def _trouble(self, text: str) -> None:
        errors = [f"bfdd at {self._path}: {text}"]
        if errors != self.errors:
            log.error("%s", errors[0])
        self.errors = errors

    def _let_go(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None
        self.sessions = {}

    def _tell(self) -> None:
        if self._writer is None:
            return
        for name, want in self._told.items():
            if self._wanted.get(name) != want:
                self._send(_DELETE, _peer(name, want), f"to forget {name}")
                self.sessions.pop(name, None)
        for name, want in self._wanted.items():
            if self._told.get(name) != want:
                self._send(_ADD, _peer(name, want), f"to watch {name}")
        self._told = dict(self._wanted)

    def _send(self, kind: int, data: bytes, what: str) -> None:
        assert self._writer is not None
        self._number = self._number % 0xFFFF + 1
        self._requests[self._number] = what
        self._writer.write(_HEADER.pack(len(data), self._number, kind, _VERSION) + data)

    def _answered(self, what: str, answer: Mapping[str, Any]) -> None:
        if answer.get("status") != "ok":
            # A session that a former program has added is there already.
            log.info("bfdd, asked %s: %s", what, answer.get("error"))

    def _hear(self, message: Mapping[str, Any]) -> None:
        name = str(message["peer-address"])
        want = self._wanted.get(name)
        if want is None:
            return
        former = self.sessions.get(name)
        state = _STATES.get(str(message["state"]), State.DOWN)
        theirs = int(message["remote-diagnostics"])
        is_lost = (
            former is not None
            and former.is_up
            and state is State.DOWN
            and theirs != Diagnostic.ADMINISTRATIVELY_DOWN
        )
        losses = (former.losses if former is not None else 0) + is_lost
        why = _why(state, int(message["diagnostics"]), theirs)
        self.sessions[name] = View(
            state=state.name,
            since=time.monotonic(),
            why=why,
            losses=losses,
            detection_time_s=want.terms.multiplier * want.terms.receive_us / 1e6,
            transmit_interval_s=want.terms.transmit_us / 1e6,
            remote_diagnostic=theirs,
        )
        self._changed(name, self.sessions[name], int(is_lost))


def _why(state: State, ours: int, theirs: int) -> str:
    if state is State.UP:
        return Event.RECEIVED_UP.value
    if state is State.ADMIN_DOWN:
        return Event.DISABLE.value
    if theirs == Diagnostic.ADMINISTRATIVELY_DOWN:
        return Event.RECEIVED_ADMIN_DOWN.value
    if ours == Diagnostic.DETECTION_TIME_EXPIRED:
        return Event.DETECTION_EXPIRED.value
    if ours == Diagnostic.NEIGHBOR_SIGNALED_DOWN:
        return Event.RECEIVED_DOWN.value
    return ""


def _peer(name: str, want: Want) -> bytes:
    """As bfdd's control protocol names a session. Intervals in milliseconds."""
    terms: Terms = want.terms
    address, _, link = name.partition("%")
    peer: dict[str, Any] = {
        "peer-address": address,
        "multihop": want.multihop,
        "receive-interval": terms.receive_us // 1000,
        "transmit-interval": terms.transmit_us // 1000,
        "detect-multiplier": terms.multiplier,
    }
    if want.local is not None:
        peer["local-address"] = want.local
    if link:
        peer["local-interface"] = link
    return json.dumps({"ipv6" if ":" in address else "ipv4": [peer]}).encode() + b"\0"

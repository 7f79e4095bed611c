"""The BFD process as a gateway or an agent sees it: found or started, told, listened to.

    bfd = Process(run_dir, "gateway", changed=...)
    bfd.want(sessions, linger_s)       everything that is wanted, whenever it may have changed
    await bfd.run()                    a task of the program
    bfd.sessions                       what has become of each
    await bfd.close(goodbye=...)       leave it running for the next program, or end it

The process is not asked for until a session is wanted. One that a former program has left behind
is taken over, with sessions that never stopped. If it runs other code than ours, or was killed,
another is started and given what the sessions had come to: to the peers it is the same.

Called on the event loop of the program, in which nothing here waits for the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from samepath.bfd.wire import (
    Carried,
    View,
    Want,
    line,
    read,
    read_carried,
    read_view,
    want_message,
)

log = logging.getLogger("samepath.bfd")

RETRY_FIRST_S = 0.1
RETRY_MOST_S = 5.0
STEADY_S = 10.0
"""A process that ends sooner, again and again, is started again at once only at first."""
AT_ONCE = 3
LINE_LIMIT = 1 << 20
PATIENCE_S = 2.0
MODULE = "samepath.programs.bfd"


class Process:
    def __init__(
        self, run_dir: str, program: str, *, changed: Callable[[str, View, int], None]
    ) -> None:
        """`changed(peer, view, losses)`: what has become of a session, and how often its path was
        lost since told last. Called on the event loop."""
        self.sessions: dict[str, View] = {}
        self.scheduling: list[str] = []
        """What the process could have of what it asked the kernel for, and what not."""
        self.errors: list[str] = []
        self.pid: int | None = None
        """While it runs and is ours."""
        self.starts = 0
        self._path = Path(run_dir) / f"{program}-bfd.sock"
        self._changed = changed
        self._identity = identity()
        self._wanted: dict[str, Want] = {}
        self._linger_s = 0.0
        self._told: dict[str, Want] = {}
        self._told_linger_s = 0.0
        self._carried: dict[str, Carried] = {}
        self._counted: dict[str, int] = {}
        """Losses that `changed` was told of, by the process's count."""
        self._child: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._is_in_sync = False
        self._askers: list[asyncio.Future[dict[str, Any]]] = []
        self._asked = asyncio.Event()

    # What the program calls.

    def want(self, sessions: Mapping[str, Want], linger_s: float) -> None:
        """`linger_s`: how long the sessions go on when the program is gone."""
        self._wanted, self._linger_s = dict(sessions), linger_s
        if sessions:
            self._asked.set()
        self._tell()

    async def counters(self) -> dict[str, Any]:
        """{"discarded": {reason: packets}, "sessions": {peer: {"sent", "received", "error"}}}; of a
        process that does not answer: nothing."""
        if self._writer is None or not self._is_in_sync:
            return {}
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._askers.append(answer)
        self._write({"counters": True})
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(answer, PATIENCE_S)
        return {}

    async def run(self) -> None:
        """For ever: finds or starts the process, and does so again when it is gone."""
        short_lives = 0
        while True:
            connection = self._connect()
            if connection is None:
                await self._asked.wait()
            if short_lives > AT_ONCE:
                pause_s = RETRY_FIRST_S * 2.0 ** (short_lives - AT_ONCE - 1)
                await asyncio.sleep(min(pause_s, RETRY_MOST_S))
            began = time.monotonic()
            try:
                await self._converse(connection or self._start())
                self.errors = ["the BFD process has ended"] if self._wanted else []
            except (OSError, ValueError) as error:
                self.errors = [f"the BFD process: {error}"]
            self._let_go()
            if self._wanted:
                log.warning("%s", self.errors[0])
            short_lives = 0 if time.monotonic() - began > STEADY_S else short_lives + 1

    async def close(self, *, goodbye: bool) -> None:
        """After `run` was cancelled. `goodbye`: it ends, and peers hear that it was our wish; else
        it goes on for the next program, for as long as was said."""
        writer = self._writer
        if goodbye and writer is not None:
            self._write({"end": True})
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(PATIENCE_S):
                    await writer.drain()
                    while self._child is not None and self._child.poll() is None:
                        await asyncio.sleep(0.01)
        self._let_go()

    # The process.

    def _connect(self) -> socket.socket | None:
        """To one that runs."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            return None
        return connection

    def _start(self) -> socket.socket:
        """One that listens already, so that there is nothing to wait for."""
        self._path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            os.fchmod(listener.fileno(), 0o600)  # not by umask, which is other threads', too
            listener.bind(str(self._path))
            listener.listen(8)
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, str(listener.fileno()), self._identity],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            self.starts += 1
        connection = self._connect()
        if connection is None:
            raise ConnectionError("it ended at once")
        return connection

    def _let_go(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self.pid, self._is_in_sync = None, None, False
        for answer in self._askers:
            answer.cancel()
        self._askers.clear()
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    # The conversation.

    async def _converse(self, connection: socket.socket) -> None:
        """Until it ends. Raises OSError, ValueError."""
        try:
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LINE_LIMIT)
        except OSError:
            connection.close()
            raise
        self._writer = writer
        former, is_other = self.sessions, False
        self.sessions, self._counted = {}, {}
        while text := await reader.readline():
            message = read(text)
            if "hello" in message:
                self.pid, self.scheduling = message["pid"], message["scheduling"]
                is_other = message["hello"] != self._identity
            elif "session" in message:
                self._hear(message["session"], message)
            elif "gone" in message:
                for known in (self.sessions, self._carried, self._counted):
                    known.pop(message["gone"], None)
            elif "in_sync" in message:
                self._greeted(former, is_other)
            elif "errors" in message:
                self._note_errors(message["errors"])
            elif "counters" in message:
                for answer in self._askers:
                    if not answer.done():
                        answer.set_result(message["counters"])
                self._askers.clear()

    def _greeted(self, former: Mapping[str, View], is_other: bool) -> None:
        """It has told all that it has; now it is told what we want."""
        self.errors = []
        if is_other:
            log.info("the BFD process runs other code than we do: another takes its place")
            self._write({"end": False})
            return
        log.info("BFD process %d: %d sessions, %s", self.pid or 0, len(self.sessions),
                 ", ".join(self.scheduling))  # fmt: skip
        self._is_in_sync = True
        self._told, self._told_linger_s = {}, self._linger_s
        wanted = {
            name: want_message(want, None if name in self.sessions else self._carried.get(name))
            for name, want in self._wanted.items()
        }
        self._write({"want": wanted, "only": True, "linger_s": self._linger_s})
        self._told = dict(self._wanted)
        # Until it speaks of them, what was known of those that go on there is still so.
        self.sessions = {**{n: v for n, v in former.items() if n in wanted}, **self.sessions}

    def _hear(self, name: str, message: dict[str, Any]) -> None:
        carried = message.pop("carried")
        message.pop("session")
        view = read_view(message)
        self.sessions[name] = view
        self._carried[name] = read_carried(carried)
        new = view.losses - self._counted.get(name, 0)
        self._counted[name] = view.losses
        if self._is_in_sync:
            self._changed(name, view, new)

    def _note_errors(self, errors: list[str]) -> None:
        self.errors = [f"BFD cannot listen on {text}" for text in errors]
        for text in self.errors:
            log.error("%s", text)

    def _tell(self) -> None:
        """What has changed of what we want."""
        if not self._is_in_sync:
            return
        wanted = {n: w for n, w in self._wanted.items() if self._told.get(n) != w}
        if wanted or self._linger_s != self._told_linger_s:
            messages = {name: want_message(want, None) for name, want in wanted.items()}
            self._write({"want": messages, "linger_s": self._linger_s})
        dropped = [name for name in self._told if name not in self._wanted]
        if dropped:
            self._write({"drop": dropped})
        self._told, self._told_linger_s = dict(self._wanted), self._linger_s

    def _write(self, message: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(line(message))


def identity() -> str:
    """Of the code that a BFD process started by us would run."""
    folder = Path(__file__).parent
    files = [*folder.glob("*.py"), folder.parent / "programs" / "bfd.py"]
    text = ",".join(f"{f.name} {f.stat().st_mtime_ns}" for f in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""The control socket: how `samepath status` and the tests ask a running program.

A unix socket in the run directory, both for root only (0700, 0600). One question a
connection: a line of JSON `{"get": "status", ...}`; the answer is one JSON document, then end of
file. A question that is not understood gets `{"error": "..."}`. Nothing can be changed through it.

A run directory belongs to one program of a name at a time (`only_one`, a file lock, which ends with
the process however it ends). A directory that others may write to is refused: they could put a
socket of their own there.

Served by `programs.gateway` and `programs.agent`; asked by `cli` and `lab`.
"""

from __future__ import annotations

import asyncio
import fcntl
import inspect
import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

Answer = Callable[[dict[str, Any]], Any]
"""Takes the question, gives what JSON can say, or an awaitable of it. Raises ValueError for a
question that cannot be answered; its text is the answer then."""

LINE_LIMIT = 65536
PATIENCE_S = 10.0
"""An asker has so long to ask, and so long to read."""
AT_ONCE = 2
"""Questions that are answered at one time; others wait for their turn."""


class RunDirError(Exception):
    """The run directory cannot be ours."""


def make_run_dir(run_dir: str) -> Path:
    """The directory, made with mode 0700 if there was none. Raises RunDirError."""
    directory = Path(run_dir)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise RunDirError(f"run_dir {run_dir}: {error.strerror or error}") from error
    if found.st_uid != os.geteuid():
        raise RunDirError(f"run_dir {run_dir}: it belongs to another user (uid {found.st_uid})")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o022:
        raise RunDirError(
            f"run_dir {run_dir}: others may write to it (mode {mode:04o}), make it 0700"
        )
    return directory


@contextmanager
def only_one(run_dir: str, name: str) -> Iterator[None]:
    """Hold the run directory for the program `name`. Raises RunDirError."""
    path = make_run_dir(run_dir) / f"{name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            raise RunDirError(
                f"run_dir {run_dir}: another {name} runs with it (process {holder})"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


async def serve(run_dir: str, name: str, answers: Mapping[str, Answer]) -> asyncio.Server:
    """Listen on `run_dir/name.sock`. A socket left by a dead process is replaced."""
    path = make_run_dir(run_dir) / f"{name}.sock"
    path.unlink(missing_ok=True)
    turn = asyncio.Semaphore(AT_ONCE)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                line = await reader.readline()
            async with turn:
                document = await answer(line, answers)
            writer.write(document)
            async with asyncio.timeout(PATIENCE_S):
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, ConnectionError, ValueError):
            # The asker went away, does not read, or sent more than a line may hold.
            writer.transport.abort()

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # not by umask, which is other threads', too
        listener.bind(str(path))
        return await asyncio.start_unix_server(
            converse, sock=listener, limit=LINE_LIMIT, backlog=256
        )
    except BaseException:
        listener.close()
        raise


async def answer(line: bytes, answers: Mapping[str, Answer]) -> bytes:
    """What is written back to one line."""
    try:
        question = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return msgspec.json.encode({"error": f"not a JSON object: {error}"})
    wanted = question.get("get")
    found = answers.get(wanted) if isinstance(wanted, str) else None
    if found is None:
        known = ", ".join(sorted(answers))
        return msgspec.json.encode({"error": f"get: one of {known}, not {wanted!r}"})
    try:
        result = found(question)
        if inspect.isawaitable(result):
            result = await result
        return msgspec.json.encode(result)
    except ValueError as error:
        return msgspec.json.encode({"error": str(error)})


class NotRunningError(Exception):
    """No program answers on the socket."""


def ask(run_dir: str, name: str, get: str, **more: Any) -> Any:
    """Ask a running program, waiting for its answer. Raises NotRunningError, ValueError."""
    path = Path(run_dir) / f"{name}.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE_S)
        try:
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode({"get": get, **more}) + b"\n")
            chunks = []
            while chunk := connection.recv(1 << 20):
                chunks.append(chunk)
        except OSError as error:
            raise NotRunningError(
                f"{path}: no {name} answers here: {error.strerror or error}"
            ) from error
    answer = msgspec.json.decode(b"".join(chunks) or b'{"error": "no answer"}')
    if isinstance(answer, dict) and set(answer) == {"error"}:
        raise ValueError(answer["error"])
    return answer

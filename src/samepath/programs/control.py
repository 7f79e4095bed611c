"""The control socket: how `samepath status` and the tests ask a running program.

A unix socket in the run directory, both for root only (0700, 0600). One question a
connection: a line of JSON `{"get": "status", ...}`; the answer is one JSON document, then end of
file. A question that is not understood gets `{"error": "..."}`. Nothing can be changed through it.

Served by `programs.gateway` and `programs.agent`; asked by `cli` and `lab`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

Answer = Callable[[dict[str, Any]], Any]
"""Takes the question, gives what JSON can say, or an awaitable of it. Raises ValueError for a
question that cannot be answered; its text is the answer then."""

LINE_LIMIT = 65536
PATIENCE_S = 10.0


async def serve(run_dir: str, name: str, answers: Mapping[str, Answer]) -> asyncio.Server:
    """Listen on `run_dir/name.sock`. A socket left by a dead process is replaced."""
    directory = Path(run_dir)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f"{name}.sock"
    path.unlink(missing_ok=True)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                line = await reader.readline()
                writer.write(await _answer(line, answers))
                await writer.drain()
        except (TimeoutError, ConnectionError, ValueError):
            pass  # the asker went away, or sent more than a line may hold
        finally:
            writer.close()

    umask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(answer, path=str(path), limit=LINE_LIMIT)
    finally:
        os.umask(umask)


async def _answer(line: bytes, answers: Mapping[str, Answer]) -> bytes:
    try:
        question = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError as error:
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

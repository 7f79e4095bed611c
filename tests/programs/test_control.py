"""The control socket: for root only, one program a directory, and no asker can harm it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from samepath.programs import agent, control
from samepath.programs.control import NotRunningError, RunDirError, ask, only_one


def serve_while(
    run_dir: Path, body: Callable[[], Awaitable[None]], **answers: control.Answer
) -> None:
    async def main() -> None:
        server = await control.serve(str(run_dir), "gateway", answers)
        try:
            await asyncio.wait_for(body(), 10)
        finally:
            server.close()

    asyncio.run(main())


def connect(run_dir: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(run_dir / "gateway.sock"))
    return connection


def test_socket_and_directory_are_roots_own(tmp_path: Path) -> None:
    run_dir = tmp_path / "new" / "run"

    async def body() -> None:
        assert stat.S_IMODE((run_dir / "gateway.sock").stat().st_mode) == 0o600
        assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700

    serve_while(run_dir, body)


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(RunDirError, match=f"mode {mode:04o}"), only_one(str(tmp_path), "gateway"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(RunDirError, match="another user"), only_one(str(tmp_path), "gateway"):
        pass


def test_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with (
        pytest.raises(RunDirError, match="File exists"),
        only_one(str(tmp_path / "run"), "gateway"),
    ):
        pass


HOLD = """
import sys, time
from samepath.programs.control import only_one
with only_one(sys.argv[1], "gateway"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_program_is_refused_until_the_first_has_died(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with (
            pytest.raises(
                RunDirError, match=rf"another gateway runs with it \(process {first.pid}\)"
            ),
            only_one(str(tmp_path), "gateway"),
        ):
            pass
        with only_one(str(tmp_path), "agent"):
            pass  # another program may share the directory
        first.send_signal(signal.SIGKILL)
        first.wait()
        with only_one(str(tmp_path), "gateway"):
            pass
    finally:
        first.kill()
        first.wait()


def test_question_and_answer(tmp_path: Path) -> None:
    async def body() -> None:
        answer = await asyncio.to_thread(ask, str(tmp_path), "gateway", "echo", word=7)
        assert answer == {"get": "echo", "word": 7}
        with pytest.raises(ValueError, match="no such flow"):
            await asyncio.to_thread(ask, str(tmp_path), "gateway", "fail")
        with pytest.raises(ValueError, match="get: one of echo, fail, not 'nothing'"):
            await asyncio.to_thread(ask, str(tmp_path), "gateway", "nothing")

    def fail(question: dict[str, Any]) -> None:
        raise ValueError("no such flow")

    serve_while(tmp_path, body, echo=lambda question: question, fail=fail)


@pytest.mark.parametrize("line", [
    b"nonsense\n", b"[]\n", b'{"get": ["a"]}\n', b"\xff\n", b"\n",
    b'{"get": "\xa5"}\n', b'{"get": ' + b"[" * 5000 + b"\n",
])  # fmt: skip
def test_nonsense_gets_an_error(tmp_path: Path, line: bytes) -> None:
    async def body() -> None:
        def said() -> bytes:
            with connect(tmp_path) as connection:
                connection.sendall(line)
                return connection.recv(1000)

        assert "error" in json.loads(await asyncio.to_thread(said))

    serve_while(tmp_path, body, status=lambda question: {})


def test_asker_who_says_too_much_or_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PATIENCE_S", 0.2)

    def end(data: bytes) -> bytes:
        with connect(tmp_path) as connection:
            connection.sendall(data)
            try:
                return connection.recv(10)
            except ConnectionResetError:
                return b""

    async def body() -> None:
        assert await asyncio.to_thread(end, b"") == b""
        assert await asyncio.to_thread(end, b"x" * 100_000) == b""

    serve_while(tmp_path, body, status=lambda question: {})


def test_asker_who_does_not_read_is_left_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the answers of those who never read would be kept for ever."""
    monkeypatch.setattr(control, "PATIENCE_S", 0.2)

    async def body() -> None:
        connection = connect(tmp_path)
        connection.sendall(b'{"get": "much"}\n')
        await asyncio.sleep(0.5)  # longer than its patience
        tasks = [t for t in asyncio.all_tasks() if "answer" in repr(t.get_coro())]
        assert tasks == []
        received = b""
        while chunk := connection.recv(1 << 20):
            received += chunk
            if len(received) > 8 << 20:
                break
        assert len(received) < 8 << 20, "it was cut off"
        connection.close()

    serve_while(tmp_path, body, much=lambda question: "x" * (8 << 20))


def test_hundred_at_once_are_all_answered(tmp_path: Path) -> None:
    at_work, most = 0, 0

    async def slow(question: dict[str, Any]) -> dict[str, Any]:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.002)
        at_work -= 1
        return question

    async def one(number: int) -> int:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "gateway.sock"))
        writer.write(json.dumps({"get": "slow", "n": number}).encode() + b"\n")
        answer = json.loads(await reader.read())
        writer.close()
        return int(answer["n"])

    async def body() -> None:
        assert await asyncio.gather(*map(one, range(100))) == list(range(100))
        assert most <= control.AT_ONCE

    serve_while(tmp_path, body, slow=slow)


def test_nobody_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="no gateway answers here: No such file"):
        ask(str(tmp_path), "gateway", "status")


def test_a_second_agent_does_not_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"router_id: 10.0.0.1\nas: 64512\nnode: n1\nmanifests: {tmp_path}\n"
        f"run_dir: {tmp_path}/run\nneighbors: []\n"
    )
    with only_one(str(tmp_path / "run"), "agent"):
        assert agent.run(str(config)) == 1
    assert "another agent runs with it" in caplog.text

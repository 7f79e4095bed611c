"""`samepath status --ready` and `--live`: an exit status and a line why."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from samepath.cli.status import status
from samepath.programs import control

Answers = dict[str, Callable[[dict[str, Any]], Any]]


@contextmanager
def program(run_dir: Path, name: str, answers: Answers) -> Iterator[None]:
    """One that answers so."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    serving = asyncio.run_coroutine_threadsafe(control.serve(str(run_dir), name, answers), loop)
    server = serving.result(10)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def probe(run_dir: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(status, ["--run-dir", str(run_dir), *words])
    return done.exit_code, done.output.strip()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def says(ready: bool, live: bool, why: str) -> Answers:
    return {"ready": lambda _: {"ready": ready, "live": live, "why": why}}


def refuses(_question: dict[str, Any]) -> Any:
    raise ValueError("waiting for a GatewayTier")


def test_what_a_program_says_of_itself(run_dir: Path) -> None:
    for ready, live in ((True, True), (False, True), (False, False)):
        why = "" if ready else "not in sync: nobody answers"
        with program(run_dir, "agent", says(ready, live, why)):
            assert probe(run_dir, "--ready", "agent") == (0 if ready else 1, why or "ready")
            assert probe(run_dir, "--live", "agent") == (0 if live else 1, why or "live")


def test_one_that_has_only_a_status(run_dir: Path) -> None:
    for in_sync in (True, False):
        with program(run_dir, "gateway", {"status": lambda _, s=in_sync: {"in_sync": s}}):  # type: ignore[misc]
            said = "ready" if in_sync else "not in sync"
            assert probe(run_dir, "--ready", "gateway") == (int(not in_sync), said)
            assert probe(run_dir, "--live", "gateway") == (0, "live")


def test_one_that_has_just_begun_lives_and_is_not_ready(run_dir: Path) -> None:
    with program(run_dir, "gateway", {"status": refuses, "ready": refuses}):
        assert probe(run_dir, "--ready", "gateway") == (1, "waiting for a GatewayTier")
        assert probe(run_dir, "--live", "gateway") == (0, "live")


def test_one_that_does_not_run(run_dir: Path) -> None:
    for word in ("--ready", "--live"):
        code, said = probe(run_dir, word, "agent")
        assert code == 1
        assert "no agent answers here" in said

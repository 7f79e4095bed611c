#!/usr/bin/env python3
"""Runs the tests: `scripts/test.py quick` or `scripts/test.py quick whole` (make check, make test).

Most run side by side, those marked `alone` after them. Tests that fail there are run once more,
with nothing beside them, as long as they are few: docs/decisions/0016-tests-on-a-noisy-machine.md.
Green: every test has passed, the first time or alone. Each step has a limit, all together less
than an hour.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

SLOW = "netns or interop or lab or kubernetes"
ROOT = Path(__file__).resolve().parent.parent
MOST_AGAIN = 8
"""With more failures there is no thought of noise."""
AGAIN_LIMIT_S = 10 * 60
GRACE_S = 30
PASSED, FAILED, NO_TESTS = 0, 1, 5


class Step(NamedTuple):
    name: str
    which: str
    """For `pytest -m`."""
    workers: int
    """0: one after another, in one process."""
    limit_s: float


STEPS = {
    "quick": [
        Step("quick tests, side by side", f"not ({SLOW}) and not alone", 2, 11 * 60),
        Step("quick tests, alone", f"not ({SLOW}) and alone", 0, 2 * 60),
    ],
    "whole": [
        Step("the other tests, side by side", f"({SLOW}) and not alone", 4, 23 * 60),
        Step("the other tests, alone", f"({SLOW}) and alone", 0, 9 * 60),
    ],
}


def pytest(limit_s: float, *words: str) -> int:
    """Its exit code; FAILED if it had to be ended."""
    command = [sys.executable, "-m", "pytest", "-q", *words]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            say(f"not ended within {limit_s / 60:.0f} minutes")
            process.send_signal(signal.SIGINT)  # so that it removes what it made
        except KeyboardInterrupt:  # which pytest has heard, too
            process.wait()
            raise
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
        return 2


def say(text: str) -> None:
    print(f"tests: {text}", flush=True)


def failures(cache: Path) -> list[str]:
    """As pytest keeps them."""
    file = cache / "v/cache/lastfailed"
    return sorted(json.loads(file.read_text())) if file.exists() else []


def run(steps: list[Step], examples: str, cache: Path) -> int:
    """`examples`: the profile of hypothesis, `tests/conftest.py`."""
    keep = ("-o", f"cache_dir={cache}", f"--hypothesis-profile={examples}")
    for step in steps:
        began, before = time.monotonic(), failures(cache)
        say(step.name)
        words = ("-n", str(step.workers), "--durations=10", "-m", step.which)
        code = pytest(step.limit_s, *keep, *words)
        say(f"{step.name}: {time.monotonic() - began:.0f} s")
        if code not in (PASSED, FAILED, NO_TESTS):
            say(f"FAILED: {step.name}: pytest ended with {code}")
            return code
        if code == FAILED and failures(cache) == before:
            say(f"FAILED: {step.name}: it failed, but no test did")
            return FAILED
    failed = failures(cache)
    if not failed:
        say("all passed")
        return PASSED
    if len(failed) > MOST_AGAIN:
        say(f"FAILED: {len(failed)} tests, too many to be noise")
        return FAILED
    say(f"{len(failed)} failed; once more, alone:")
    code = pytest(AGAIN_LIMIT_S, *keep, "-n", "0", *failed)
    still = set(failures(cache)) if code == FAILED else set() if code == PASSED else set(failed)
    for name in failed:
        how = "FAILED beside others and alone" if name in still else "failed first, passed alone"
        say(f"{how}: {name}")
    say("all passed, some of them the second time" if code == PASSED else "FAILED")
    return code


def main(words: list[str]) -> int:
    if not words or not set(words) <= STEPS.keys():
        print(f"usage: {sys.argv[0]} {' | '.join(STEPS)} ...", file=sys.stderr)
        return 2
    steps = [step for word in words for step in STEPS[word]]
    with tempfile.TemporaryDirectory(prefix="samepath-tests-") as folder:
        return run(steps, "repeat" if "whole" in words else "search", Path(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

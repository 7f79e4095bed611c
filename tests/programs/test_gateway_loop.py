"""Nothing holds up the event loop: a session must never be lost to our own work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from samepath.lab.netns import Namespace, veth

pytestmark = [pytest.mark.alone, pytest.mark.netns]

LIMIT_MS = 100.0


def under_load(folder: Path) -> dict[str, float]:
    folder.mkdir()
    tag = f"spt-loop-{os.getpid()}"
    # The host is removed first, with its groups: a cable that goes would take them one by one.
    with Namespace(f"{tag}p") as peer, Namespace(tag) as host:
        veth(host, "eth0", peer, "eth0")
        host.ip("addr", "add", "10.9.0.254/22", "dev", "eth0")
        process = host.popen(
            sys.executable, str(Path(__file__).with_name("gateway_load.py")), str(folder),
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            said, _ = process.communicate(timeout=100)
        finally:
            process.kill()
            process.wait()
    answer = json.loads(said)
    assert answer["groups"] > 140
    assert answer["settled"]
    late: dict[str, float] = answer["late_ms"]
    return late


def test_loop_is_never_held_up_for_long(tmp_path: Path) -> None:
    """1,000 services in 200 member sets, 20,000 pod blocks, 50 neighbours. Others may use this
    machine, too: the best of five runs counts, phase by phase."""
    best: dict[str, float] = {}
    for attempt in range(5):
        for phase, late in under_load(tmp_path / str(attempt)).items():
            best[phase] = min(late, best.get(phase, late))
        if max(best.values()) < LIMIT_MS:
            break
    assert max(best.values()) < LIMIT_MS, best

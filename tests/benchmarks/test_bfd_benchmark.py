"""No false alarm on a busy machine: the benchmark's own look, short. docs/bfd.md has a long one."""

from __future__ import annotations

import pytest

from benchmarks import bfd
from benchmarks.stage import Stage
from tests.witness import steadily

pytestmark = [pytest.mark.alone, pytest.mark.netns, pytest.mark.timeout(360)]

SECONDS = 20.0
WITHOUT_RIGHTS = ("setpriv", "--bounding-set", "-sys_nice,-ipc_lock,-sys_resource", "--inh-caps",
                  "-all")  # fmt: skip


def test_no_false_alarm_among_busy_loops() -> None:
    """A hundred sessions on each side, both processors taken. One side has no right to any
    priority, as in a container; the other side would see it, if it were late."""

    def attempt() -> None:
        with Stage("bfd") as stage:
            bfd.cable(stage)
            one = bfd.Ours(stage, "one", 1)
            two = bfd.Ours(stage, "two", 2, "without rights", prefix=WITHOUT_RIGHTS)
            assert one.hello["scheduling"] == ["real-time priority", "memory locked"]
            assert two.hello["scheduling"][0].startswith("no real-time priority: ")
            found = bfd.measure(one, two, seconds=SECONDS, loops=2)
        print(found)
        assert found["samepath"]["false_alarms"] == 0
        assert found["without rights"]["false_alarms"] == 0
        assert found["samepath"]["memory_mb"] < 30

    steadily(attempt, held_up_s=0.3)

"""The double of the maps does what the real maps do: one script on both, compared step by step."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_dataplane import FakeDataplane

from samepath.apply.bpf_plane import Plane, buckets_of, seconds_of, ticks_of, unwrapped
from samepath.bpf.dataplane import Dataplane
from samepath.bpf.errors import BpfError
from samepath.bpf.layout import Hop, Sizes

SIZES = Sizes(services=4, tables=4, buckets=6, hops=16, flows=1024)


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Plane]:
    folder = tmp_path / "bpffs"
    folder.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(folder)], check=True)
    try:
        plane = Dataplane.open(folder / "one", SIZES, 7)
        yield plane
        plane.remove()
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def row(*values: int) -> np.ndarray[tuple[int], np.dtype[np.uint16]]:
    return np.array(values, np.uint16)


SCRIPT = [
    ("steady", row(1, 1, 1, 2, 2, 2), None),
    ("begins", row(1, 3, 3, 2, 3, 2), row(0, 1, 1, 0, 2, 0)),
    ("the same", row(1, 3, 3, 2, 3, 2), row(0, 1, 1, 0, 2, 0)),
    ("chain, and one ends", row(1, 4, 3, 2, 3, 2), row(0, 1, 0, 0, 2, 0)),
    ("old dies", row(1, 4, 3, 2, 3, 2), row(0, 4, 0, 0, 3, 0)),
    ("departed", row(3, 4, 3, 3, 3, 3), row(0, 4, 0, 0, 3, 0)),
    ("back again", row(3, 3, 3, 3, 3, 3), row(0, 4, 0, 0, 0, 0)),
]


@pytest.mark.netns
def test_tables(real: Plane) -> None:
    fake = FakeDataplane(time.monotonic, SIZES).open(SIZES)
    for plane in (real, fake):
        for index in range(1, 5):
            plane.put_hop(index, Hop(bytes((10, 0, 0, index)), 1, bytes(6), bytes(6), 1500))
    assert fake.hops() == real.hops()
    fields = ("since", "stamp", "changed")
    for name, owner, old in SCRIPT:
        before = {n: (real if n else fake).table(0) if name != "steady" else None for n in (0, 1)}
        time.sleep(0.04)  # time itself is what is wanted: another tick
        counts = [plane.put_table(0, owner, old) for plane in (fake, real)]
        assert counts[0] == counts[1], name
        mine, theirs = fake.table(0), real.table(0)
        for field in ("owner", "old"):
            assert mine[field].tolist() == theirs[field].tolist(), name
        if name == "steady":
            continue
        for field in fields:
            renewed = [
                (after[field] != then[field]).tolist()
                for then, after in ((before[0], mine), (before[1], theirs))
                if then is not None
            ]
            assert renewed[0] == renewed[1], (name, field)
    for plane in (fake, real):
        plane.copy_table(0, 2)
        assert plane.table(2).tobytes() == plane.table(0).tobytes()


@pytest.mark.netns
def test_services(real: Plane) -> None:
    four, six = bytes((192, 0, 2, 1)), bytes(15) + b"\1"
    real.put_services({four: 0, six: 2})
    assert real.services() == {four: 0, six: 2}
    real.put_services({six: 1})
    real.delete_services([four])
    assert real.services() == {six: 1}
    with pytest.raises(BpfError):
        real.put_services({bytes((10, 0, 0, n)): 0 for n in range(9)})


def test_ticks_wrap() -> None:
    now = (7 << 32) + 5
    whole = unwrapped(np.array([5, 4, 0xFFFFFFFF, 6], np.uint32), now)
    assert whole.tolist() == [now, now - 1, now - 6, now + 1]
    assert ticks_of(seconds_of(12345)) in (12344, 12345)


@pytest.mark.netns
def test_what_the_maps_hold_is_what_the_plan_takes(real: Plane) -> None:
    real.put_table(0, row(1, 1, 1, 1, 1, 1))
    real.put_table(0, row(2, 1, 1, 1, 1, 1), row(1, 0, 0, 0, 0, 0))
    now = ticks_of(time.monotonic())
    buckets = buckets_of(real.table(0), now)
    assert buckets.owner.tolist() == [2, 1, 1, 1, 1, 1]
    assert buckets.moving.tolist() == [True] + 5 * [False]
    assert now - 60 <= int(buckets.changed[0]) <= now
    assert buckets.used[0] == buckets.changed[0]

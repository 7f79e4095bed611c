"""A data plane of its own for each test file, in a bpffs of its own, run without any link."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samepath.bpf import libbpf, syscall
from samepath.bpf.dataplane import Dataplane
from samepath.bpf.layout import HOP, HOP_ALIVE, HOP_RESOLVED, Hop, Sizes, Total
from samepath.bpf.syscall import Run
from samepath.hashing.flow import Flow, bucket
from tests.bpf.packets import GATEWAY_MAC

ROOT = Path(__file__).parents[2]
hatch_build: Any = pytest.importorskip(
    "hatch_build", reason="needs the source tree", exc_type=ImportError
)

SEED = 0x5EED1234
FORWARD = {"tc": 7, "xdp": 4}
PASS = {"tc": 0xFFFFFFFF, "xdp": 2}


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bpffs."""
    folder = tmp_path_factory.mktemp("bpffs")
    subprocess.run(["mount", "-t", "bpf", "bpf", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def program() -> Path:
    """The object, compiled from the source as it is."""
    hatch_build.build(hatch_build.BPF, ROOT)
    return libbpf.OBJECT


def altered(folder: Path, *changes: tuple[str, str, str]) -> Path:
    """Another object: the program with some of its text (file, before, after) replaced."""
    for source in hatch_build.BPF.sources:
        path = folder / source
        text = (ROOT / source).read_text()
        for name, before, after in changes:
            if name == path.name:
                assert before in text
                text = text.replace(before, after)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    hatch_build.build(hatch_build.BPF, folder)
    return folder / str(hatch_build.BPF.output)


def hop_mac(index: int) -> bytes:
    """The MAC that tells which next hop a frame was sent to."""
    return b"\x02\xbb" + index.to_bytes(4, "big")


@dataclass
class Site:
    """A data plane, and what comes out of it."""

    plane: Dataplane
    mode: str = "tc"

    def hop(self, index: int, *, alive: bool = True, resolved: bool = True, **other: int) -> None:
        mtu, vlan = other.get("mtu", 1500), other.get("vlan", 0)
        self.plane.put_hop(
            index,
            Hop(bytes((192, 0, 2, index & 255)), 1, GATEWAY_MAC, hop_mac(index), mtu,
                alive, resolved, vlan),
        )  # fmt: skip

    def hop_per_bucket(self, count: int) -> None:
        """Next hops 1 to `count`, in one write."""
        hops = np.zeros(count, HOP)
        hops["ifindex"], hops["mtu"], hops["length"] = 1, 65535, 4
        hops["flags"], hops["source_mac"] = HOP_ALIVE | HOP_RESOLVED, GATEWAY_MAC
        hops["destination_mac"] = np.array([hop_mac(i + 1) for i in range(count)], "V6")
        self.plane._maps["hops"].put_many(np.arange(1, count + 1, dtype="<u4"), hops)

    def table(self, table: int, owner: int, old: int = 0) -> None:
        """All buckets alike."""
        size = self.plane.sizes.buckets
        self.plane.put_table(table, np.full(size, owner, "<u2"), np.full(size, old, "<u2"))

    def run(self, frame: bytes, context: bytes = b"") -> Run:
        return syscall.run_program(self.plane.program(self.mode), frame, context)

    def sent(self, frame: bytes, context: bytes = b"") -> int:
        """The index of the next hop that a frame is sent to; 0: it is passed on."""
        run = self.run(frame, context)
        if run.verdict == PASS[self.mode]:
            assert run.frame == frame, "what is passed on must be as it came"
            return 0
        assert run.verdict == FORWARD[self.mode]
        assert run.frame[:2] == b"\x02\xbb"
        return int.from_bytes(run.frame[2:6], "big")

    def bucket(self, flow: Flow) -> int:
        return bucket(flow, SEED, self.plane.sizes.buckets)

    def total(self, which: Total) -> int:
        return self.plane.counters().totals[which]

    def forget_flows(self) -> None:
        keys, _ = self.plane._maps["flows"].items()
        self.plane._maps["flows"].delete_many(keys)


@pytest.fixture(scope="module")
def make_site(
    bpffs: Path, program: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[Sizes], Site]]:
    made: list[Dataplane] = []

    def make(sizes: Sizes) -> Site:
        name = f"{request.module.__name__.rsplit('.', 1)[-1]}-{os.getpid()}-{len(made)}"
        made.append(Dataplane.open(bpffs / name, sizes, SEED, program))
        return Site(made[-1])

    yield make
    for plane in made:
        plane.remove()

"""What outlives the process: adopted as it is, or migrated with nothing lost."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from samepath.bpf import libbpf, pins, syscall
from samepath.bpf.dataplane import Dataplane
from samepath.bpf.errors import Unavailable
from samepath.bpf.layout import SHAPES, Hop, Sizes
from samepath.bpf.opening import Opened
from samepath.bpf.syscall import Map
from samepath.hashing.flow import Flow
from samepath.lab.netns import Namespace
from samepath.netlink.socket import in_namespace
from tests.bpf.conftest import SEED, Site, altered
from tests.bpf.packets import SYN, TCP, ethernet, packet_of

pytestmark = pytest.mark.netns

SIZES = Sizes(64, 4, 7, 16, 1024)
SERVICE = bytes((203, 0, 113, 1))
FLOW = Flow(bytes((198, 51, 100, 7)), SERVICE, TCP, 40000, 443)


@pytest.fixture
def folder(bpffs: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    folder = bpffs / f"pins-{os.getpid()}-{abs(hash(request.node.name))}"
    yield folder
    if folder.exists():
        Dataplane.open(folder, SIZES, SEED).remove()


def open_(folder: Path, sizes: Sizes = SIZES, file: Path = libbpf.OBJECT) -> Dataplane:
    return Dataplane.open(folder, sizes, SEED, file)


def fill(plane: Dataplane) -> None:
    """A service in transition from hop 1 to hop 2, with one flow that began at hop 2."""
    site = Site(plane)
    for hop in (1, 2, 3):
        site.hop(hop)
    plane.put_services({SERVICE: 1, bytes(15) + b"\x07": 2})
    site.table(1, 2, 1)
    site.table(2, 1)
    assert site.sent(ethernet(packet_of(FLOW, SYN))) == 2


def state(plane: Dataplane) -> tuple[object, ...]:
    flows = sorted(zip(*(part.tolist() for part in plane._maps["flows"].items()), strict=True))
    hops = {n: replace(hop) for n, hop in plane.hops().items()}
    tables = [plane.table(n).tolist() for n in range(4)]
    counts = plane.counters()
    return plane.services(), tables, hops, flows, counts.services, counts.totals


def holds(plane: Dataplane) -> None:
    """The recorded flow stays with hop 2, an unknown one with hop 1, also with a new owner."""
    site = Site(plane)
    site.table(1, 3, 1)
    assert site.sent(ethernet(packet_of(FLOW))) == 2
    assert site.sent(ethernet(packet_of(replace(FLOW, source_port=40001)))) == 1


def test_what_a_killed_process_leaves_is_adopted(folder: Path, program: Path) -> None:
    """All of it, while the program goes on: maps, flows, transitions, attachments."""
    with Namespace(f"spt-{os.getpid()}-pins") as host:
        script = (
            "import sys, time; sys.path.insert(0, '.')\n"
            "from pathlib import Path\n"
            "from tests.bpf.test_bpf_pins import *\n"
            "plane = open_(Path(sys.argv[1])); fill(plane); plane.attach(1, bytes(6))\n"
            "print(repr(state(plane)), flush=True); time.sleep(60)\n"
        )
        process = host.popen(sys.executable, "-c", script, str(folder), stdout=subprocess.PIPE,
                             text=True, cwd=Path(__file__).parents[2])  # fmt: skip
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        plane = open_(folder)
        assert plane.opened is Opened.ADOPTED
        assert repr(state(plane)) + "\n" == said
        assert {a.how for a in plane.attached().values()} <= {"tcx", "clsact"}
        assert list(plane.attached()) == [1]
        holds(plane)
        plane.close()


@pytest.mark.parametrize(
    "sizes",
    [replace(SIZES, flows=4096), replace(SIZES, services=256), replace(SIZES, tables=9),
     replace(SIZES, hops=300), Sizes(100, 8, 7, 32, 2048)],
    ids=["flows", "services", "tables", "hops", "all"],
)  # fmt: skip
def test_other_sizes_lose_nothing(folder: Path, program: Path, sizes: Sizes) -> None:
    plane = open_(folder)
    fill(plane)
    before = state(plane)
    plane.close()
    plane = open_(folder, sizes)
    assert plane.opened is Opened.MIGRATED
    assert plane.sizes == sizes
    assert state(plane) == before
    holds(plane)
    plane.close()
    again = open_(folder, sizes)
    assert again.opened is Opened.ADOPTED
    again.close()
    assert sorted(p.name for p in folder.iterdir()) == ["current", "gen-2", "links"]


def test_indexed_maps_never_shrink_under_their_users(folder: Path, program: Path) -> None:
    plane = open_(folder, Sizes(100, 8, 7, 32, 2048))
    plane.close()
    plane = open_(folder, SIZES)
    assert plane.sizes == Sizes(100, 8, 7, 32, 1024)
    plane.close()


def test_another_number_of_buckets_starts_anew(folder: Path, program: Path) -> None:
    """Every flow's bucket is another: nothing can be kept but hops and counters."""
    plane = open_(folder)
    fill(plane)
    hops = plane.hops()
    plane.close()
    plane = open_(folder, replace(SIZES, buckets=11))
    assert plane.opened is Opened.MIGRATED
    assert plane.services() == {}
    assert not plane.table(1)["owner"].any()
    assert plane.hops() == hops
    plane.close()


def test_the_structs_are_those_of_the_object(folder: Path, program: Path) -> None:
    plane = open_(folder)
    shapes = {name: (m.key_size, m.value_size) for name, m in plane._maps.items()}
    assert shapes == SHAPES
    plane.close()


def test_another_program_takes_the_place_of_the_attached_one(
    folder: Path, program: Path, tmp_path: Path
) -> None:
    other = altered(tmp_path, ("packet.h", "#define EXTENSION_HEADERS 6",
                               "#define EXTENSION_HEADERS 5"))  # fmt: skip
    with Namespace(f"spt-{os.getpid()}-prog") as host:
        plane = open_(folder)
        fill(plane)
        for _ in range(2):
            in_namespace(host.path, lambda: plane.attach(1, bytes(6)))
        before, was = state(plane), attached_program(folder)
        assert was == syscall.program(plane.program()).id
        plane.close()
        plane = open_(folder, SIZES, other)
        assert plane.opened is Opened.MIGRATED
        assert state(plane) == before
        assert attached_program(folder) == syscall.program(plane.program()).id != was
        holds(plane)
        plane.close()


def attached_program(folder: Path) -> int:
    (link,) = (folder / "links").iterdir()
    fd = syscall.pinned(link)
    try:
        return syscall.link_target(fd)[0]
    finally:
        os.close(fd)


def test_structs_of_a_former_layout_grow_at_their_end(
    folder: Path, program: Path, tmp_path: Path
) -> None:
    """A program of before with shorter structs: what it had is kept, what is new is zero."""
    former = altered(
        tmp_path,
        ("samepath.h", "	struct address address;", "	//"),
        ("samepath.h", "recorded, seen; };", "recorded; };"),
        ("samepath.bpf.c", "{ hop, kind, now, now }", "{ hop, kind, now }"),
        ("samepath.bpf.c", "known->seen", "known->recorded"),
    )
    plane = open_(folder, SIZES, former)
    maps = plane._maps
    assert (maps["hops"].value_size, maps["flows"].value_size) == (24, 8)
    setting = maps["settings"].get(bytes(4))
    assert setting
    maps["settings"].put(bytes(4), bytes(4) + setting[4:])
    for hop in (1, 2, 3):
        mac = b"\x02\xbb" + hop.to_bytes(4, "big")
        value = struct.pack("=IHH6s6sBBH", 1, 1500, 0, mac, b"\2\xaa\0\0\0\1", 3, 4, 0)
        maps["hops"].put(struct.pack("=I", hop), value)
    plane.put_services({SERVICE: 1})
    site = Site(plane)
    site.table(1, 2, 1)
    assert site.sent(ethernet(packet_of(FLOW, SYN))) == 2
    plane.close()
    plane = open_(folder)
    assert plane.opened is Opened.MIGRATED
    assert plane.services() == {SERVICE: 1}
    assert plane.hops()[2].address == bytes(4)
    holds(plane)
    plane.close()


def test_a_migration_that_was_killed_is_finished(folder: Path, program: Path) -> None:
    """The new generation was in use already; a flow that the old program recorded last comes too,
    and what the new one recorded is not overwritten."""
    plane = open_(folder)
    fill(plane)
    plane.close()
    old = pins.current(folder)
    assert old
    plane = open_(folder, replace(SIZES, flows=4096))
    # As it was in between: the old one pinned as well, with one flow more, and a newer stamp.
    late = struct.pack("=HHII", 1, 0, 0xFFFFFFF, 0xFFFFFFF)
    old.maps["flows"].put(bytes(8), late)
    known, _ = old.maps["flows"].items()
    ours = next(key.tobytes() for key in known if key.tobytes() != bytes(8))
    fresh = plane._maps["flows"].get(ours)
    old.maps["flows"].put(ours, late)
    pins.make(folder, old.maps, old.programs)
    plane.close()
    plane = open_(folder, replace(SIZES, flows=4096))
    assert plane.opened is Opened.ADOPTED
    assert plane._maps["flows"].get(bytes(8)) == late
    assert plane._maps["flows"].get(ours) == fresh
    assert len(pins.others(folder)) == 0
    plane.close()
    old.close()


def test_half_a_generation_is_no_generation(folder: Path, program: Path) -> None:
    plane = open_(folder)
    fill(plane)
    before = state(plane)
    (folder / "gen-7").mkdir()
    syscall.pin(plane._maps["flows"].fd, folder / "gen-7" / "flows")
    plane.close()
    plane = open_(folder)
    assert plane.opened is Opened.ADOPTED
    assert state(plane) == before
    assert not (folder / "gen-7").exists()
    plane.close()


def test_one_process_at_a_time(folder: Path, program: Path) -> None:
    plane = open_(folder)
    with pytest.raises(Unavailable, match="another process"):
        open_(folder)
    plane.close()
    open_(folder).close()


def test_no_bpffs(tmp_path: Path, program: Path) -> None:
    with pytest.raises(Unavailable, match="not in a bpffs") as error:
        open_(tmp_path / "here")
    assert "mount -t bpf" in error.value.advice


def test_no_object(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="missing"):
        open_(folder, SIZES, tmp_path / "none.o")
    assert not (folder / "current").exists()


def test_a_program_that_the_verifier_refuses(folder: Path, program: Path, tmp_path: Path) -> None:
    """Its words are in the reason, and what was there is as it was."""
    plane = open_(folder)
    fill(plane)
    before = state(plane)
    plane.close()
    bad = altered(tmp_path, ("packet.h", "if (!FITS(ip, end))", "if (0)"))
    with pytest.raises(Unavailable, match="invalid access to packet"):
        open_(folder, SIZES, bad)
    plane = open_(folder)
    assert plane.opened is Opened.ADOPTED
    assert state(plane) == before
    plane.close()


def test_the_missing_right_is_named(folder: Path, program: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from samepath.bpf.dataplane import Dataplane, Unavailable, Sizes\n"
        "try: Dataplane.open(Path(sys.argv[1]), Sizes(64, 4, 7, 16, 1024), 1)\n"
        "except Unavailable as error: print(error.advice)\n"
    )
    done = subprocess.run(
        ["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin", "--",
         sys.executable, "-c", script, str(folder)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "needs CAP_BPF\n"


def test_a_map_that_is_full_refuses(folder: Path, program: Path) -> None:
    plane = open_(folder)
    with pytest.raises(OSError, match=r"Argument list too long|more services"):
        plane.put_services({bytes((10, 0, n >> 8, n & 255)): 1 for n in range(65)})
    plane.close()


def test_many_entries_are_read_whole(folder: Path, program: Path) -> None:
    plane = open_(folder, Sizes(5000, 4, 7, 16, 65536))
    wanted = {bytes((10, 1, n >> 8, n & 255)): n % 4 for n in range(5000)}
    plane.put_services(wanted)
    assert plane.services() == wanted
    plane.delete_services([a for a in wanted if a[3] % 2] + [bytes((9, 9, 9, 9))])
    assert plane.services() == {a: t for a, t in wanted.items() if not a[3] % 2}
    flows: Map = plane._maps["flows"]
    keys = np.arange(40000, dtype="<u8")
    values = np.array([struct.pack("=HHII", n % 3, 0, 5, n) for n in range(40000)], "V12")
    flows.put_many(keys, values)
    counted = plane.flows()
    assert counted.total == 40000
    assert counted.by_hop == {0: 13334, 1: 13333, 2: 13333}
    assert plane.flows(newer_than=39990).total == 10
    plane.close()


def test_a_service_that_is_new_counts_from_zero(folder: Path, program: Path) -> None:
    plane = open_(folder)
    fill(plane)
    assert plane.counters().services[SERVICE].packets == 1
    plane.put_services({SERVICE: 2})
    assert plane.counters().services[SERVICE].packets == 1
    plane.delete_services([SERVICE])
    other = bytes((203, 0, 113, 2))
    plane.put_services({other: 1})
    assert plane.counters().services[other].packets == 0
    plane.close()


def test_tables_are_written_where_they_differ(folder: Path, program: Path) -> None:
    """And never a stamp, but where a bucket begins to move or changes its owner while it does."""
    plane = open_(folder)
    owner = np.array([1, 2, 3, 1, 2, 3, 1], "<u2")
    assert plane.put_table(3, owner) == 7
    assert plane.put_table(3, owner) == 0
    old = np.array([0, 0, 1, 0, 0, 0, 2], "<u2")
    plane._rows(3)[:, 2] = 77
    assert plane.put_table(3, owner, old) == 2
    table = plane.table(3)
    assert table["stamp"][[0, 1, 3, 4, 5]].tolist() == [77] * 5
    assert (table["stamp"][[2, 6]] - table["since"][[2, 6]]).tolist() == [1, 1]
    assert [(m["table"], m["bucket"], m["owner"], m["old"]) for m in plane.moving()] == [
        (3, 2, 3, 1), (3, 6, 1, 2)]  # fmt: skip
    plane._rows(3)[:, 2] = 78
    assert plane.put_table(3, owner) == 2
    assert plane.table(3)["stamp"].tolist() == [78] * 7
    with pytest.raises(ValueError, match="hops"):
        plane.put_table(3, owner + np.uint16(14))
    with pytest.raises(ValueError, match="7 buckets"):
        plane.put_table(3, owner[:6])
    with pytest.raises(ValueError, match="table"):
        plane.table(4)
    plane.close()


def test_a_hop_is_unresolved_while_its_mac_changes(
    folder: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = open_(folder)
    hop = Hop(bytes((192, 0, 2, 1)), 1, b"\2" * 6, b"\4" * 6, 1500)
    plane.put_hop(4, hop)
    wrote: list[int] = []
    put = Map.put

    def seen(self: Map, key: bytes, value: bytes, flags: int = 0) -> None:
        put(self, key, value, flags)
        wrote.extend(hop.resolved for hop in plane.hops().values())

    monkeypatch.setattr(Map, "put", seen)
    plane.put_hop(4, hop)
    assert wrote == []
    plane.put_hop(4, replace(hop, destination_mac=b"\6" * 6))
    assert wrote == [False, True]
    plane.put_hop(4, replace(hop, destination_mac=b"\6" * 6, alive=False))
    assert wrote == [False, True, True]
    assert plane.hops() == {4: replace(hop, destination_mac=b"\6" * 6, alive=False)}
    plane.delete_hop(4)
    assert plane.hops() == {}
    for index in (0, 16):
        with pytest.raises(ValueError, match="hop"):
            plane.put_hop(index, hop)
    plane.close()

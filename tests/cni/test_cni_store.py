"""The store: whatever ends us, and whenever, no address is lost and none is given twice."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samepath.cni import journal, ledger
from samepath.cni.store import (
    Attachment,
    State,
    Store,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    Taken,
    host_link_name,
    rebuild,
    salvage,
)
from samepath.model.net import Address, Family, parse_address

BOOT = "11111111-2222-3333-4444-555555555555"


def address(number: int) -> Address:
    return (0x0A010000 + number).to_bytes(4, "big")


def attachment(number: int, *addresses: Address, name: str = "") -> Attachment:
    key = (name or f"{number:064x}", "eth0")
    return Attachment(
        key=key,
        network="pods",
        addresses=addresses or (address(number),),
        mac=bytes(6),
        host_link=host_link_name(key),
        sandbox=f"/run/netns/cni-{number:08x}",
        pod=f"default/web-{number}",
        made_at=1_700_000_000.25 + number,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "attachments.db"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is written anew often."""
    monkeypatch.setattr(journal, "CHUNK", 2 * journal.PAGE)


def put(store: Store, number: int, *, wired: bool = True) -> Attachment:
    made = store.reserve(attachment(number))
    return store.wired(made.key) if wired else made


def reopened(path: Path, boot_id: str = BOOT) -> Store:
    """What the next process sees."""
    store = Store(path, boot_id)
    store.close()
    return store


# -- What is kept ------------------------------------------------------------------------------


def test_what_was_kept_is_there_again(path: Path) -> None:
    store = Store(path, BOOT)
    wired, reserved = put(store, 1), put(store, 2, wired=False)
    put(store, 3)
    assert store.release(attachment(3).key) is not None
    store.close()
    again = reopened(path)
    assert again.all() == (wired, reserved)
    assert (wired.state, reserved.state) == (State.WIRED, State.RESERVED)
    assert again.get(wired.key) == wired
    assert again.owner(address(1)) == wired
    assert again.owner(address(3)) is None
    assert again.released(Family.IPV4) == (address(3),)
    assert wired.boot_id == BOOT


def test_nothing_is_given_twice(path: Path) -> None:
    store = Store(path, BOOT)
    first = put(store, 1)
    for other in (
        attachment(1),
        attachment(2, address(1)),
        attachment(2, parse_address("fd00::1"), address(1)),
    ):
        with pytest.raises(Taken) as caught:
            store.reserve(other)
        assert caught.value.owner == first
    assert store.all() == (first,)
    store.close()


def test_release_and_wired_of_what_is_not_known(path: Path) -> None:
    store = Store(path, BOOT)
    assert store.release(("x", "eth0")) is None
    with pytest.raises(KeyError):
        store.wired(("x", "eth0"))
    made = put(store, 1)
    assert store.wired(made.key) == made
    store.close()


@pytest.mark.usefixtures("small")
def test_the_order_of_release_outlives_restarts_and_new_files(path: Path) -> None:
    order = list(range(50))
    random.Random(7).shuffle(order)
    store = Store(path, BOOT)
    for number in range(50):
        put(store, number)
    for number in order:
        store.release(attachment(number).key)
        if number % 7 == 0:
            store.close()
            store = Store(path, BOOT)
    for number in range(100, 400):  # many new files later
        put(store, number)
        store.release(attachment(number).key)
    store.close()
    expected = (*map(address, order), *map(address, range(100, 400)))
    assert reopened(path).released(Family.IPV4) == expected


@pytest.mark.usefixtures("small")
def test_the_file_does_not_grow_with_its_past(path: Path) -> None:
    store = Store(path, BOOT)
    for number in range(20):
        put(store, number)
    for turn in range(500):
        store.release(attachment(19).key)
        put(store, 19)
        if turn % 20 == 0:
            store.close()
            store = Store(path, BOOT)
    store.close()
    assert path.stat().st_size <= 16 * journal.PAGE


def test_after_a_reboot_all_attachments_are_void_and_last_in_order(path: Path) -> None:
    store = Store(path, BOOT)
    for number in (5, 3, 9, 1):
        put(store, number)
    store.release(attachment(9).key)
    store.close()
    rebooted = Store(path, "another boot")
    assert rebooted.all() == ()
    order = (address(9), address(5), address(3), address(1))
    assert rebooted.released(Family.IPV4) == order
    put(rebooted, 3)
    rebooted.close()
    assert [a.key for a in reopened(path, "another boot").all()] == [attachment(3).key]
    assert reopened(path, "a third").released(Family.IPV4) == (
        address(9), address(5), address(1), address(3),
    )  # fmt: skip


def test_order_is_kept_for_so_many_addresses_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "RELEASED_LIMIT", 3)
    store = Store(path, BOOT)
    for number in range(5):
        put(store, number)
        store.release(attachment(number).key)
    assert store.released(Family.IPV4) == (address(2), address(3), address(4))
    assert store.forgotten(Family.IPV4) == 2
    assert store.forgotten(Family.IPV6) == 0
    assert not store.is_known(address(0))
    store.close()


def test_a_second_process_is_refused(path: Path) -> None:
    store = Store(path, BOOT)
    with pytest.raises(StoreBusy, match=f"process \\({os.getpid()}\\)"):
        Store(path, BOOT)
    store.close()
    reopened(path)


def test_records_beyond_the_limit_are_refused_and_nothing_is_kept(path: Path) -> None:
    store = Store(path, BOOT)
    with pytest.raises(StoreError, match="a record of"):
        store.reserve(attachment(1, name="c" * 5000))
    put(store, 1)
    store.close()
    assert len(reopened(path).all()) == 1


def test_sixteen_threads(path: Path) -> None:
    store = Store(path, BOOT)
    faults: list[BaseException] = []

    def work(base: int) -> None:
        try:
            for step in range(60):
                put(store, base + step % 10)
                store.release(attachment(base + step % 10).key)
            put(store, base)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(100 * i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert faults == []
    store.close()
    again = reopened(path)
    assert {a.addresses[0] for a in again.all()} == {address(100 * i) for i in range(16)}
    assert len(again.released(Family.IPV4)) == 16 * 9


# -- Killed ------------------------------------------------------------------------------------


def _live(path: Path, seed: int, out: int) -> None:
    """A process that takes and releases without end, and says what it has done (`+`, `-`) and what
    it is about to do (`?`)."""
    chance = random.Random(seed)
    store = Store(path, BOOT)
    while True:
        number = chance.randrange(40)
        key = attachment(number).key
        os.write(out, f"? {number}\n".encode())
        if store.get(key) is None:
            put(store, number)
            os.write(out, f"+ {number}\n".encode())
        else:
            store.release(key)
            os.write(out, f"- {number}\n".encode())


def _fork(child: Callable[[int], None]) -> tuple[int, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            child(writer)
        finally:
            os._exit(1)
    os.close(writer)
    return pid, reader


@pytest.mark.usefixtures("small")
def test_killed_at_fifty_moments(path: Path) -> None:
    """Real SIGKILL: what was answered is there, what was not is there or not, and nothing else."""
    held: set[int] = set()
    order: dict[int, None] = {}
    steps = 0

    def note(number: int, is_held: bool) -> None:
        if is_held is (number in held):
            return
        if is_held:
            held.add(number)
            order.pop(number, None)
        else:
            held.remove(number)
            order[number] = None

    for seed in range(50):
        pid, reader = _fork(lambda out, seed=seed: _live(path, seed, out))  # type: ignore[misc]
        with os.fdopen(reader) as lines:
            first = lines.readline()
            time.sleep(random.Random(seed).uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            said = [first, *lines]
        doubtful = None
        for what, number in (line.split() for line in said):
            steps += 1
            doubtful = int(number) if what == "?" else None
            if what != "?":
                note(int(number), what == "+")
        store = reopened(path)
        found = {a.addresses[0] for a in store.all()}
        if doubtful is not None:
            note(doubtful, address(doubtful) in found)
        assert found == {address(n) for n in held}
        assert store.released(Family.IPV4) == tuple(map(address, order))
    assert steps > 1000


class Killed(BaseException):
    pass


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("where", ["posix_fallocate", "pwrite", "fsync", "rename", "open"])
def test_killed_while_the_file_is_written_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    store = Store(path, BOOT)
    held = [put(store, number) for number in range(5)]
    rewrite = journal.Journal.rewrite

    def killed(*_: Any) -> None:
        raise Killed

    def rewrite_killed(self: Any, *args: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, where, killed)
            rewrite(self, *args)

    def work() -> None:
        for number in range(5, 200):
            put(store, number)
            store.release(attachment(number).key)

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "rewrite", rewrite_killed)
        with pytest.raises(Killed):
            work()
    store.close()
    assert list(reopened(path).all()[:5]) == held


# -- Disk full, disk broken --------------------------------------------------------------------


def test_no_more_room_add_fails_del_works(path: Path) -> None:
    """RLIMIT_FSIZE: the file cannot grow, nor another be written."""

    def child(out: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = Store(path, BOOT)
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.CHUNK, journal.CHUNK))
        held = 0
        said, code = "", 0
        for number in range(10_000):
            try:
                put(store, number)
                held += 1
            except StoreError as error:
                said, code = str(error), error.errno
                break
        before = len(store.all())
        gone = [store.release(attachment(number).key) for number in range(0, held, 2)]
        answer = {
            "held": held, "before": before, "said": said, "code": code, "owed": store.owed,
            "gone": sum(g is not None for g in gone), "after": len(store.all()),
        }  # fmt: skip
        os.write(out, json.dumps(answer).encode())

    pid, reader = _fork(child)
    with os.fdopen(reader) as lines:
        answer = json.loads(lines.read())
    os.waitpid(pid, 0)
    assert 200 < answer["held"] == answer["before"] < 10_000
    assert answer["code"] == errno.EFBIG
    assert str(path) in answer["said"]
    assert "too large" in answer["said"]
    assert answer["gone"] == (answer["held"] + 1) // 2
    assert answer["owed"] == 0, "there was room for what makes room"
    store = reopened(path)
    assert len(store.all()) == answer["after"] == answer["held"] // 2
    store = Store(path, BOOT)
    put(store, 10_001)  # with room again all is well
    store.close()


FULL_DISK = """
import json, os, sys
sys.path[:0] = [{tests!r}]
from test_cni_store import *
path = Path(sys.argv[1]) / "attachments.db"
store = Store(path, BOOT)
ballast = os.open(sys.argv[1] + "/ballast", os.O_CREAT | os.O_WRONLY)
try:
    while os.write(ballast, bytes(4096)):
        pass
except OSError as error:
    assert error.errno == errno.ENOSPC
held, said, code = 0, "", 0
try:
    for number in range(10_000):
        put(store, number)
        held += 1
except StoreError as error:
    said, code = str(error), error.errno
for number in range(held - 5):
    assert store.release(attachment(number).key)
owed = store.owed
store.close()
store = Store(path, BOOT)
print(json.dumps(dict(held=held, said=said, code=code, owed=owed, left=len(store.all()))))
os.ftruncate(ballast, 0)
put(store, 20_000)
"""


@pytest.mark.netns
def test_a_full_disk(tmp_path: Path) -> None:
    """A tmpfs of a mount namespace of its own, filled to the last page."""
    script = tmp_path / "full.py"
    script.write_text(FULL_DISK.format(tests=str(Path(__file__).parent)))
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=1m samepath {disk} && exec {sys.executable} {script} {disk}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["code"] == errno.ENOSPC
    assert "No space left on device" in answer["said"]
    assert "attachments.db" in answer["said"]
    assert answer["held"] > 200
    assert (answer["owed"], answer["left"]) == (0, 5)


def test_a_release_that_the_disk_refuses_is_written_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(path, BOOT)
    for number in range(4):
        put(store, number)

    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", broken)
        assert store.release(attachment(1).key) is not None
        assert store.release(attachment(2).key) is not None
        assert store.owed == 2
        with pytest.raises(StoreError) as caught:
            store.reserve(attachment(1))
        assert caught.value.errno == errno.EIO
        assert [a.addresses[0] for a in store.all()] == [address(0), address(3)]
    # Killed now, both would be found again: never the other way round.
    octets = path.read_bytes()
    put(store, 1)
    assert store.owed == 0
    store.close()
    assert {a.addresses[0] for a in reopened(path).all()} == {address(n) for n in (0, 3, 1)}
    path.write_bytes(octets)
    assert len(reopened(path).all()) == 4


def test_half_a_line_is_taken_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes a part of a line, and then no more."""
    store = Store(path, BOOT)
    put(store, 1)
    pwrite = os.pwrite

    def short(descriptor: int, data: bytes, offset: int) -> int:
        return pwrite(descriptor, data[: len(data) // 2] if any(data) else data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", short)
        with pytest.raises(StoreError, match="No space left"):
            store.reserve(attachment(2))
    kept = path.read_bytes()
    put(store, 3)
    store.close()
    assert {a.addresses[0] for a in reopened(path).all()} == {address(1), address(3)}
    path.write_bytes(kept)
    assert {a.addresses[0] for a in reopened(path).all()} == {address(1)}


# -- Damage ------------------------------------------------------------------------------------


def _history(path: Path) -> tuple[Attachment, ...]:
    store = Store(path, BOOT)
    for number in range(30):
        put(store, number, wired=number % 3 != 0)
    for number in range(0, 30, 4):
        store.release(attachment(number).key)
    store.close()
    return store.all()


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Any]:
    path = tmp_path_factory.mktemp("history") / "attachments.db"
    expected = _history(path)
    return path.read_bytes(), expected


def _right_or_refused(path: Path, octets: bytes, expected: tuple[Attachment, ...]) -> bool:
    path.write_bytes(octets)
    refused = ""
    try:
        assert reopened(path).all() == expected
    except StoreCorrupt as error:
        refused = str(error)
    if refused:
        assert str(path) in refused
        assert "samepath ipam check --fix" in refused
        assert path.read_bytes() == octets, "what is damaged is left as it is"
    return bool(refused)


lively = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@lively
@given(data=st.data())
def test_octets_that_changed_are_found(
    data: st.DataObject, tmp_path: Path, history: tuple[bytes, Any]
) -> None:
    octets, expected = history
    changed = bytearray(octets)
    used = len(octets.rstrip(b"\0"))
    places = st.one_of(st.integers(0, used + 50), st.integers(0, len(octets) - 1))
    for place, value in data.draw(
        st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=3)
    ):
        changed[place] = value
    _right_or_refused(tmp_path / "a.db", bytes(changed), expected)


@lively
@given(share=st.floats(0, 1), zeroed=st.booleans())
def test_a_file_that_was_cut_off_is_refused(
    share: float, zeroed: bool, tmp_path: Path, history: tuple[bytes, Any]
) -> None:
    octets, expected = history
    used = len(octets.rstrip(b"\0"))
    length = int(share * len(octets)) if not zeroed else int(share * used)
    cut = octets[:length]
    whole = cut.endswith(b"\n") or length >= used
    if zeroed and whole:
        return  # a disk that forgets the last lines as a whole: see decision 13
    if zeroed:
        cut = cut.ljust(len(octets), b"\0")
    refused = _right_or_refused(tmp_path / "a.db", cut, expected)
    assert refused or length > used


def test_a_file_that_was_cut_off_between_pages_is_refused(
    path: Path, history: tuple[bytes, Any]
) -> None:
    octets, expected = history
    used = len(octets.rstrip(b"\0"))
    for length in range(journal.PAGE, used + journal.PAGE, journal.PAGE):
        assert _right_or_refused(path, octets[:length], expected)
    assert not _right_or_refused(path, octets, expected)


@lively
@given(one=st.integers(0, 80), other=st.integers(0, 80))
def test_lines_that_are_missing_repeated_or_moved_are_refused(
    one: int, other: int, tmp_path: Path, history: tuple[bytes, Any]
) -> None:
    octets, expected = history
    lines = octets[journal.PAGE :].rstrip(b"\0").split(b"\n")
    one, other = one % len(lines), other % len(lines)
    for changed in (
        [*lines[:one], *lines[one + 1 :]] if lines[one] and one < len(lines) - 2 else lines,
        [*lines[:one], lines[other], *lines[one:]],
        [lines[other] if i == one else line for i, line in enumerate(lines)],
    ):
        data = (octets[: journal.PAGE] + b"\n".join(changed)).ljust(len(octets), b"\0")
        _right_or_refused(tmp_path / "a.db", data, expected)


@pytest.mark.parametrize("octets", [b"", b"\n" * 5000, bytes(300_000), b"SQLite format 3\0" * 500])
def test_files_that_are_no_store_are_refused(path: Path, octets: bytes) -> None:
    path.write_bytes(octets)
    with pytest.raises(StoreCorrupt):
        Store(path, BOOT)
    assert path.read_bytes() == octets


_HEADER = ledger.header_line(BOOT)
_TAKE = ledger.take_line(1, attachment(1))


@pytest.mark.parametrize(
    "lines",
    [
        [_HEADER.replace(b"attachments", b"\xff")],
        [_HEADER.replace(b'"boot_id"', b'"boot"')],
        [_HEADER[:-1] + b',"x":' + b"[" * 3000],
        [_HEADER, _TAKE.replace(b'"take":1', b'"take":"1"')],
        [_HEADER, _TAKE.replace(b'"00:00:00:00:00:00"', b"7")],
        [_HEADER, _TAKE.replace(b'"10.1.0.1"', b"7")],
        [_HEADER, b'{"take":' + b"[" * 3000],
        [_HEADER, b"\xff"],
        [_HEADER, b'{"wired":1}'],
    ],
)
def test_lines_with_a_right_checksum_that_make_no_sense(path: Path, lines: list[bytes]) -> None:
    writer = journal.Journal(path)
    writer.rewrite(lines[0], lines[1:], 100_000)
    writer.close()
    with pytest.raises(StoreCorrupt):
        Store(path, BOOT)
    assert salvage(path) == {}


def test_an_address_that_is_taken_is_not_said_to_be_free(path: Path) -> None:
    writer = journal.Journal(path)
    writer.rewrite(_HEADER, [_TAKE, b'{"free":["10.1.0.9","10.1.0.1"]}'], 100_000)
    writer.close()
    with pytest.raises(StoreCorrupt, match=r"10\.1\.0\.1 is not free"):
        Store(path, BOOT)
    assert [a.addresses for a in salvage(path).values()] == [(address(1),)]


def test_damage_of_another_boot_costs_order_only(path: Path) -> None:
    _history(path)
    octets = bytearray(path.read_bytes())
    octets[journal.PAGE * 2 : journal.PAGE * 3] = bytes(journal.PAGE)
    path.write_bytes(octets)
    with pytest.raises(StoreCorrupt):
        Store(path, BOOT)
    store = reopened(path, "another boot")
    assert store.all() == ()
    assert len(store.released(Family.IPV4)) > 3
    assert reopened(path, "another boot").all() == ()


def test_rebuilt_in_one_step(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _history(path)
    octets = path.read_bytes()[:-1]
    path.write_bytes(octets)
    hints = salvage(path)
    assert tuple(hints.values()) == expected
    living = [attachment(number) for number in (1, 2)]

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(Killed):
            rebuild(path, BOOT, living)
    with pytest.raises(StoreCorrupt):
        Store(path, BOOT)
    aside = rebuild(path, BOOT, living)
    assert aside.read_bytes() == octets
    assert aside.name == "attachments.db.damaged-2"
    store = reopened(path)
    assert [a.key for a in store.all()] == [a.key for a in living]
    assert {a.state for a in store.all()} == {State.WIRED}
    with pytest.raises(Taken):
        rebuild(path, BOOT, [attachment(1), attachment(2, address(1))])

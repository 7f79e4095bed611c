"""The attachments of this node on disk: which container has which addresses.

Opened once by the agent (or by `samepath ipam` where none runs: a lock sees to that), used by
`cni.addresses` and `cni.operations` from any thread. What stands here was true before anything was
wired, and stays until everything is unwired; so no address is given twice, whenever we are killed.

Every change is one line of the file (`cni.journal`); when lines have piled up, the present state is
written anew. An attachment of another boot is void, its network namespace is gone: when the store
is opened its addresses count as released at that moment, in the order in which they were taken.
Released addresses keep their order, the longest free first.

Disk full: an attachment is taken only when there is room to record its end, too. Where the disk
refuses even that (an error, a file system that copies on write), `release` holds in memory, and is
written before anything else is; killed before that, the attachment is found again by `ipam check`.

A file that does not read right is refused (`StoreCorrupt`), never mended in passing; one that was
left behind by a power failure may lack its last lines, which loses nothing but order.

Not done here: which address comes next (`plan.addresses`); whether the kernel agrees (`cni.audit`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path

from samepath.cni.attachment import (
    Attachment,
    Key,
    State,
    alias_of,
    current_boot_id,
    host_link_name,
    key_of_alias,
)
from samepath.cni.journal import PAGE, Illegible, Journal, read
from samepath.cni.ledger import Ledger, Taken, header_line, line, replay, take_line
from samepath.model.net import Address, Family, family_of

__all__ = [
    "Attachment",
    "Key",
    "State",
    "Store",
    "StoreBusy",
    "StoreCorrupt",
    "StoreError",
    "Taken",
    "alias_of",
    "current_boot_id",
    "host_link_name",
    "key_of_alias",
    "rebuild",
    "salvage",
]

ROOM_EACH = 128
"""Octets that the two later lines of an attachment need at most: wired, released."""
PILED_UP = 3
"""A file so many times as long as its state needs is written anew when it would have to grow."""
SLACK = 4096
"""Octets that may be lost where a line does not fit the rest of its page."""


class StoreError(Exception):
    """The store cannot be used, or a change not be kept; the text names the file."""

    def __init__(self, path: Path, text: str, errno: int = 0) -> None:
        super().__init__(f"{path}: {text}")
        self.path = path
        self.errno = errno


class StoreCorrupt(StoreError):
    """The file does not read right; the text says the way out."""


class StoreBusy(StoreError):
    """Another process has it open."""


class Store:
    """The store, open. Raises StoreError for what cannot be kept, and then nothing has changed."""

    def __init__(self, path: str | Path, boot_id: str) -> None:
        """Raises StoreBusy, StoreCorrupt, StoreError."""
        self.path = Path(path)
        self.boot_id = boot_id
        self._turn = threading.RLock()
        self._journal = Journal(self.path)
        self._ledger = Ledger()
        self._owed: list[bytes] = []
        self._lock = _lock(self.path)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    # -- What is ------------------------------------------------------------------------------

    def get(self, key: Key) -> Attachment | None:
        with self._turn:
            return self._ledger.attachments.get(key)

    def all(self) -> tuple[Attachment, ...]:
        """In the order in which they were taken."""
        with self._turn:
            return tuple(self._ledger.attachments.values())

    def owner(self, address: Address) -> Attachment | None:
        with self._turn:
            key = self._ledger.owners.get(address)
            return self._ledger.attachments[key] if key is not None else None

    def is_known(self, address: Address) -> bool:
        """Whether it is in use, or was."""
        return (
            address in self._ledger.owners or address in self._ledger.released[family_of(address)]
        )

    def forgotten(self, family: Family) -> int:
        """How many released addresses have fallen off the end of the order (RELEASED_LIMIT)."""
        return self._ledger.forgotten[family]

    def released(self, family: Family) -> tuple[Address, ...]:
        """Free addresses that were in use, the longest-free one first."""
        with self._turn:
            return tuple(self._ledger.released[family])

    def first_released(
        self, family: Family, choose: Callable[[Iterable[Address]], Address | None]
    ) -> Address | None:
        """What `choose` takes out of `released`, without a copy; nothing changes meanwhile."""
        with self._turn:
            return choose(self._ledger.released[family])

    # -- What becomes -------------------------------------------------------------------------

    def reserve(self, attachment: Attachment) -> Attachment:
        """Keep a new attachment, as RESERVED and of this boot. Raises Taken, StoreError."""
        with self._turn:
            self._ledger.check(attachment)
            made = replace(attachment, state=State.RESERVED, boot_id=self.boot_id)
            number = self._ledger.next_number
            record = take_line(number, made)
            room = (len(self._ledger.attachments) + 1) * ROOM_EACH + 2 * SLACK + len(record)
            try:
                self._settle()
                self._make_room(room)
                self._journal.append(record)
            except OSError as error:
                raise self._error(error) from error
            except ValueError as error:
                raise StoreError(self.path, str(error)) from error
            self._ledger.take(number, made)
            return made

    def wired(self, key: Key) -> Attachment:
        """The attachment stands in the kernel. Raises KeyError, StoreError."""
        with self._turn:
            known = self._ledger.attachments[key]
            if known.state is State.WIRED:
                return known
            number = self._ledger.numbers[key]
            try:
                self._settle()
                self._journal.append(line({"wired": number}))
            except OSError as error:
                raise self._error(error) from error
            return self._ledger.wire(key)

    def release(self, key: Key) -> Attachment | None:
        """Forget an attachment; its addresses are free, and last in order. None: it was unknown.
        Holds also where the disk refuses: it is written as soon as the disk takes it."""
        with self._turn:
            if key not in self._ledger.attachments:
                return None
            self._owed.append(line({"release": self._ledger.numbers[key]}))
            gone = self._ledger.release(key)
            try:
                self._settle()
            except OSError:
                return gone
            return gone

    @property
    def owed(self) -> int:
        """Releases that the disk has not taken yet."""
        return len(self._owed)

    def close(self) -> None:
        with self._turn:
            self._journal.close()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    # -- The file -----------------------------------------------------------------------------

    def _begin(self) -> None:
        try:
            reading = read(self.path)
            self._ledger, boot_id, damage = replay(reading)
            if boot_id != self.boot_id:
                self._ledger.end_boot()
                self._write_anew(SLACK)
            elif damage or reading.size - reading.end < self._least_room():
                raise _corrupt(self.path, damage or f"cut off at {reading.size} octets")
            else:
                self._journal.adopt(reading)
        except FileNotFoundError:
            self._rewrite(SLACK)
        except Illegible as error:
            raise _corrupt(self.path, str(error)) from error
        except OSError as error:
            raise self._error(error) from error

    def _least_room(self) -> int:
        """So much is behind the last line, whatever we have written: room for the ends of all. If
        there is less, lines may be missing."""
        return (SLACK + len(self._ledger.attachments) * ROOM_EACH) // 2

    def _settle(self) -> None:
        """Write what is owed. Raises OSError."""
        while self._owed:
            self._journal.append(self._owed[0])
            del self._owed[0]

    def _make_room(self, octets: int) -> None:
        """Raises OSError."""
        if self._journal.end + octets <= self._journal.size:
            return
        records = tuple(self._ledger.records())
        if self._journal.end > PILED_UP * (PAGE + sum(map(len, records))):
            with contextlib.suppress(OSError):  # no room for a second file: go on in this one
                self._journal.rewrite(header_line(self.boot_id), records, octets)
                return
        self._journal.reserve(octets)

    def _rewrite(self, octets: int) -> None:
        try:
            self._write_anew(octets)
        except OSError as error:
            raise self._error(error) from error

    def _write_anew(self, octets: int) -> None:
        self._journal.rewrite(header_line(self.boot_id), self._ledger.records(), octets)

    def _error(self, error: OSError) -> StoreError:
        return StoreError(self.path, f"{error.strerror or error}", error.errno or 0)


def _corrupt(path: Path, damage: str) -> StoreCorrupt:
    return StoreCorrupt(
        path,
        f"the store is damaged: {damage}. No address is given out before it is mended: stop the "
        f"agent and run `samepath ipam check --fix --store {path}`, which puts the file aside and "
        "makes another from the pods' links in the kernel",
    )


def _lock(path: Path) -> int:
    """The open lock file. Raises StoreBusy, StoreError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = path.with_name(path.name + ".lock")
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(path, f"{error.strerror}", error.errno or 0) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise StoreBusy(path, f"it is open in another process ({holder or 'unknown'})") from error
    os.pwrite(descriptor, f"{os.getpid():<20}".encode(), 0)
    return descriptor


# -- Mending ----------------------------------------------------------------------------------


def salvage(path: str | Path) -> dict[Key, Attachment]:
    """What a damaged file still tells of attachments: hints, for `rebuild`."""
    try:
        ledger, _, _ = replay(read(Path(path)))
        return dict(ledger.attachments)
    except (Illegible, OSError):
        return {}


def rebuild(path: str | Path, boot_id: str, attachments: Iterable[Attachment]) -> Path:
    """Put a store with these attachments (wired) in place of a file that does not read right, and
    keep that as `PATH.damaged-N`, which is returned. Raises Taken, StoreBusy, StoreError."""
    path = Path(path)
    lock = _lock(path)
    journal = Journal(path)
    try:
        ledger = Ledger()
        for number, attachment in enumerate(attachments, 1):
            ledger.check(attachment)
            ledger.take(number, replace(attachment, state=State.WIRED, boot_id=boot_id))
        aside = next(p for n in count(1) if not (p := Path(f"{path}.damaged-{n}")).exists())
        # One file is replaced by the other in one step: there is no moment without a store.
        os.link(path, aside)
        header = header_line(boot_id)
        journal.rewrite(header, ledger.records(), len(ledger.attachments) * ROOM_EACH + 2 * SLACK)
        return aside
    except OSError as error:
        raise StoreError(path, f"{error.strerror or error}", error.errno or 0) from error
    finally:
        journal.close()
        os.close(lock)

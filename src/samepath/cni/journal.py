"""A file of records that outlives its writer, however that ends: checksummed lines, room reserved.

Used by `cni.store` alone. The file is text, for people too: each line is a checksum and a JSON
document; the checksum runs on from the line before, so a line that is lost, repeated or moved is
found as one that is changed. The first page holds the header only; behind the last line the file is
zero up to its end.

Why a process can be killed at any moment: a line never crosses a page of the file, and the kernel
copies a write within a page as a whole. So a line is there or not. There is no fsync for a line:
what the kernel has taken outlives the process, and with the kernel the records lose their meaning
(docs/decisions/0013-store.md). A new file (`rewrite`) is complete on disk before it takes the
name, so header and reserved room are legible after a power failure, too.

Why a full disk does not get in the way of what makes room: the file's blocks are reserved ahead of
its end (`reserve`), before there is anything that must be written later.

Not done here: locks; what the records mean.

Standards: posix_fallocate(3), rename(2), fsync(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096
CHUNK = 256 * 1024
"""The file grows by so much at a time; it always ends with a page."""
LINE_LIMIT = PAGE - 10
"""Octets of a record: a page without checksum, space and end of line."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file holds. With `damage`, `records` are those before it."""

    header: bytes
    records: tuple[bytes, ...]
    end: int
    """Where the next line goes."""
    size: int
    checksum: int
    damage: str = ""


class Illegible(Exception):
    """Not even the header can be read; the text says why."""


def read(path: Path) -> Reading:
    """The file's lines. Raises Illegible, OSError."""
    data = path.read_bytes()
    if len(data) < PAGE:
        raise Illegible(f"{len(data)} octets, at least {PAGE} are needed")
    first = data[:PAGE].rstrip(b"\n")
    header, checksum = _record(first, 0)
    if header is None:
        raise Illegible("the checksum of its first line is wrong")
    end = data.rfind(b"\n") + 1
    if any(data[end:]):
        end = len(data)
    records: list[bytes] = []
    damage = "" if len(data) % PAGE == 0 else f"cut off at {len(data)} octets"
    offset = PAGE
    for line in data[PAGE:end].split(b"\n"):
        if line:
            record, checksum = _record(line, checksum)
            if record is None:
                damage = damage or f"the checksum at octet {offset} is wrong"
                break
            records.append(record)
        offset += len(line) + 1
    return Reading(header, tuple(records), max(end, PAGE), len(data), checksum, damage)


def _record(line: bytes, checksum: int) -> tuple[bytes | None, int]:
    record = line[9:]
    checksum = zlib.crc32(record, checksum)
    return (record if line[:9] == b"%08x " % checksum else None), checksum


class Journal:
    """The open file. One thread at a time; OSError says what the disk says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end = 0
        self.size = 0
        self._checksum = 0
        self._descriptor = -1

    def adopt(self, reading: Reading) -> None:
        """Go on behind what was read."""
        self._open()
        self.end, self.size, self._checksum = reading.end, reading.size, reading.checksum

    def reserve(self, octets: int) -> None:
        """Make room for so many octets behind the end. Raises OSError, with nothing changed."""
        wanted = -(-(self.end + octets) // CHUNK) * CHUNK
        if wanted <= self.size:
            return
        try:
            os.posix_fallocate(self._descriptor, self.size, wanted - self.size)
        except OSError:
            # Some of it may have been reserved: the size must stay what the reader expects.
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size = wanted

    def append(self, record: bytes) -> None:
        """Write a line, or nothing. Raises OSError; ValueError for a record beyond LINE_LIMIT."""
        line, checksum = _line(record, self._checksum)
        room = PAGE - self.end % PAGE
        if len(line) > room:
            # The padding is part of the write: alone it would be harmless.
            line = b"\n" * room + line
        self.reserve(len(line))
        try:
            if os.pwrite(self._descriptor, line, self.end) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._take_back(len(line))
            raise
        self.end += len(line)
        self._checksum = checksum

    def _take_back(self, octets: int) -> None:
        """Zeroes over a line that failed: in pages that were written, so without need of room."""
        # If the disk refuses this, too, the next line goes to the same place all the same; until
        # then a reader finds half a line, and refuses.
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, bytes(octets), self.end)

    def rewrite(self, header: bytes, records: Iterable[bytes], octets: int) -> None:
        """Put a new file in place of the old, with room for `octets` more. Raises OSError, and
        then the old one stands."""
        data, checksum = _compose(header, records)
        size = -(-(len(data) + octets) // CHUNK) * CHUNK
        fresh = self.path.with_name(self.path.name + ".new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            if os.pwrite(descriptor, data, 0) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
            os.rename(fresh, self.path)
        except OSError:
            os.close(descriptor)
            fresh.unlink(missing_ok=True)
            raise
        self.close()
        self._descriptor = descriptor
        self.end, self.size, self._checksum = len(data), size, checksum
        sync_directory(self.path.parent)

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def sync_directory(directory: Path) -> None:
    """So that a renamed file is found under its name after a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(record: bytes, checksum: int) -> tuple[bytes, int]:
    if len(record) > LINE_LIMIT:
        raise ValueError(f"a record of {len(record)} octets, at most {LINE_LIMIT} can be kept")
    checksum = zlib.crc32(record, checksum)
    return b"%08x %s\n" % (checksum, record), checksum


def _compose(header: bytes, records: Iterable[bytes]) -> tuple[bytes, int]:
    line, checksum = _line(header, 0)
    data = bytearray(line.ljust(PAGE, b"\n"))
    for record in records:
        line, checksum = _line(record, checksum)
        room = PAGE - len(data) % PAGE
        if len(line) > room:
            data += b"\n" * room
        data += line
    return bytes(data), checksum

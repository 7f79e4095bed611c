"""Targets: the store of pods' addresses, as a file and as its records.

What must hold of a file of any octets (`journal`): it reads, or is `Illegible`; what reads without
damage is the beginning of a file that we could have written, and goes on to be one. Of records of
any content (`ledger`): they amount to a ledger, with a word about the first that makes no sense;
owners, links and attachments of the ledger agree; written anew it is read as the same ledger.

docs/decisions/0013-store.md.
"""

from __future__ import annotations

import tempfile
import zlib
from functools import cache
from pathlib import Path

import msgspec

from samepath.cni import claims
from samepath.cni import journal as journals
from samepath.cni.journal import PAGE, Illegible, Journal, Reading
from samepath.cni.ledger import RELEASED_LIMIT, Ledger, header_line, replay
from samepath.model.net import Family

BOOT = "fuzz"


@cache
def _folder() -> Path:
    """On a file system without a disk, where there is one."""
    memory = Path("/dev/shm")
    folder = tempfile.TemporaryDirectory(
        prefix="samepath-fuzz-", dir=memory if memory.is_dir() else None
    )
    _kept.append(folder)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []
"""Removed when the process ends."""


def journal(data: bytes) -> None:
    """Lines as they stand in a file: where a line begins with `!`, its checksum is put right."""
    path = _folder() / "store"
    path.write_bytes(composed(data))
    try:
        found = journals.read(path)
    except Illegible as error:
        assert str(error)  # noqa: PT017
        return
    assert PAGE <= found.end <= found.size == path.stat().st_size
    assert all(b"\n" not in record for record in found.records)
    if found.damage:
        return
    opened = Journal(path)
    try:
        opened.adopt(found)
        opened.append(b"one more")
    finally:
        opened.close()
    again = journals.read(path)
    assert not again.damage, again.damage
    assert again.records == (*found.records, b"one more")
    assert again.header == found.header


def composed(data: bytes) -> bytes:
    """The first line is the header's page; a `!` at the head of a line is a checksum's place."""
    checksum, out = 0, bytearray()
    for number, line in enumerate(data.split(b"\n")):
        if line.startswith(b"!"):
            checksum = zlib.crc32(line[1:], checksum)
            line = b"%08x %s" % (checksum, line[1:])
        out += line + b"\n"
        if number == 0:
            out = out.ljust(PAGE, b"\n")
    out += bytes(-len(out) % PAGE)
    return bytes(out)


def ledger(data: bytes) -> None:
    """The header's record, then the others, a line each."""
    header, *records = data.split(b"\n")
    records = [record for record in records if record]
    try:
        found, boot_id, damage = replay(reading(header or header_line(BOOT), records))
    except Illegible as error:
        assert str(error)  # noqa: PT017
        return
    assert isinstance(boot_id, str)
    check(found)
    if damage:
        assert damage.isprintable() or "\n" not in damage
        return
    again, _, damage = replay(reading(header_line(boot_id), list(found.records())))
    assert not damage, damage
    assert again.attachments == found.attachments
    assert {f: list(r) for f, r in again.released.items()} == {
        f: list(r) for f, r in found.released.items()
    }
    check(again)
    found.end_boot()
    check(found)
    assert not found.attachments


def reading(header: bytes, records: list[bytes]) -> Reading:
    return Reading(header, tuple(records), PAGE, PAGE, 0)


def check(found: Ledger) -> None:
    for key, attachment in found.attachments.items():
        assert attachment.key == key
        assert found.links[attachment.host_link] == key
        assert all(found.owners[a] == key for a in attachment.addresses)
        assert key in found.numbers
        msgspec.json.encode(key)
    assert len(found.links) == len(found.attachments) == len(found.numbers)
    assert set(found.owners.values()) <= set(found.attachments)
    for family in Family:
        released = found.released[family]
        assert len(released) <= RELEASED_LIMIT
        assert not set(released) & set(found.owners)
        assert all(len(a) == family.octets for a in released)


def claim(data: bytes) -> None:
    """A file of claims, which nodes share and people may mend: what is read is written so."""
    try:
        owners = claims._decode(data)
    except ValueError as error:
        assert str(error)  # noqa: PT017
        return
    blocks = sorted(owners, key=str)
    assert not any(a.overlaps(b) for i, a in enumerate(blocks[:20]) for b in blocks[i + 1 : 20])
    assert claims._decode(claims._encode(owners)) == owners

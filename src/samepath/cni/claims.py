"""Which node owns which block: claims, in a file that all nodes share.

Used by the agent of each node. The file is JSON, for people too; it lies on one machine or on NFS.
Whoever changes it holds an exclusive lock on the file `NAME.lock` beside it (flock, which NFS
carries from node to node), reads the file as it is then, and replaces it as a whole: written and
synced under another name, renamed, the directory synced. So a reader sees one state or the next,
a process may be killed at any moment, and two nodes never own overlapping blocks.

A file that does not read right is refused, and never overwritten: the claims of other nodes would
be lost. The way out is in the text. So is a file that is gone, or whose directory is: that is most
likely a share that is not mounted. (So put the file in a directory of the share, not at its top.)

`BlockClaims` is what a store of claims offers; this file is the one for a folder of manifests.

Standards: flock(2), rename(2), fsync(2).
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import msgspec

from samepath.cni.journal import sync_directory
from samepath.model.net import Family, parse_prefix
from samepath.plan.addresses import Block
from samepath.plan.blocks import Choice, Next, Situation, next_block

VERSION = 1
LOCK_WAIT_S = 10.0
"""A lock that is not given for so long is an error: whoever holds it is stuck."""
LOCK_LOOK_S = 0.005
SIZE_LIMIT = 64 << 20
TRIES = 16
"""So many nodes may snatch a block from under us before we give up."""


class ClaimsError(Exception):
    """Claims cannot be read or written; the text names the file and what to do."""


class BlockClaims(Protocol):
    """Who owns which block. Calls block; they raise ClaimsError."""

    def owners(self) -> Mapping[Block, str]:
        """All claims: block -> node."""
        ...

    def claim(self, block: Block, node: str) -> str | None:
        """Make the block the node's. None: it is now (or was); else the owner of it, or of a block
        that overlaps it."""
        ...

    def release(self, block: Block, node: str) -> bool:
        """Give the block back. False: it was not the node's."""
        ...


class Claims:
    """Claims in a file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._turn = threading.Lock()
        self._was_there = False

    def owners(self) -> Mapping[Block, str]:
        """Needs no lock: the file is always whole. One that never was there holds no claim."""
        with self._turn:
            return dict(self._read())

    def claim(self, block: Block, node: str) -> str | None:
        with self._turn, self._locked():
            owners = self._read()
            if owners.get(block) == node:
                return None
            for other, owner in owners.items():
                if block.overlaps(other):
                    return owner
            self._write({**owners, block: node})
            return None

    def release(self, block: Block, node: str) -> bool:
        with self._turn, self._locked():
            owners = self._read()
            if owners.get(block) != node:
                return False
            self._write({b: n for b, n in owners.items() if b != block})
            return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            name = self.path.with_name(self.path.name + ".lock")
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._error(error) from error
        try:
            end = time.monotonic() + LOCK_WAIT_S
            while not _try_lock(descriptor):
                if time.monotonic() > end:
                    raise ClaimsError(
                        f"{name}: the lock was not to be had for {LOCK_WAIT_S:.0f} s: a process on "
                        "this or another node holds it"
                    )
                time.sleep(LOCK_LOOK_S)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> dict[Block, str]:
        try:
            with open(self.path, "rb") as file:
                data = file.read(SIZE_LIMIT + 1)
        except FileNotFoundError as error:
            if self._was_there or not self.path.parent.is_dir():
                # Most likely a share that is not mounted: claims made here would be ours alone.
                raise self._error(error) from error
            return {}
        except OSError as error:
            raise self._error(error) from error
        try:
            owners = _decode(data)
        except ValueError as error:
            raise ClaimsError(
                f"{self.path}: the claims are damaged: {error}. Nothing is claimed or given back "
                "before it is mended: put back a copy, or mend it by hand (block: node; leave out "
                "`checksum` then)"
            ) from error
        self._was_there = True
        return owners

    def _write(self, owners: Mapping[Block, str]) -> None:
        data = _encode(owners)
        # The lock is ours, so the name is.
        fresh = self.path.with_name(self.path.name + ".new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.rename(fresh, self.path)
            sync_directory(self.path.parent)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise self._error(error) from error
        self._was_there = True

    def _error(self, error: OSError) -> ClaimsError:
        return ClaimsError(f"{self.path}: {error.strerror or error}")


def claim_next(
    claims: BlockClaims, situation: Callable[[Mapping[Block, str]], Situation], family: Family
) -> Choice:
    """Claim the block that is next for the node of `situation`, which is made of the claims as they
    are each time. The choice says what was claimed, or why nothing. Raises ClaimsError."""
    for _ in range(TRIES):
        now = situation(claims.owners())
        choice = next_block(now, family)
        if choice.why is not Next.CLAIM or choice.block is None:
            return choice
        if claims.claim(choice.block, now.node) is None:
            return choice
    raise ClaimsError(f"{TRIES} times another node was quicker to claim a {family.label} block")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ClaimsError(f"the file system gives no locks: {error.strerror}") from error
    return True


def _encode(owners: Mapping[Block, str]) -> bytes:
    ordered = sorted(owners.items(), key=lambda item: (item[0].family.bits, item[0].first))
    blocks = {str(block): node for block, node in ordered}
    document = {
        "samepath": "blocks",
        "version": VERSION,
        "checksum": _checksum(blocks),
        "blocks": blocks,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _checksum(blocks: Mapping[str, str]) -> str:
    return f"{zlib.crc32(msgspec.json.encode(blocks, order='sorted')):08x}"


def _decode(data: bytes) -> dict[Block, str]:
    """Raises ValueError."""
    if len(data) > SIZE_LIMIT:
        raise ValueError(f"more than {SIZE_LIMIT} octets")
    try:
        document = msgspec.json.decode(data, type=dict[str, Any])
        if (document["samepath"], document["version"]) != ("blocks", VERSION):
            raise ValueError(f"version {document['version']} is not known here")
        found = msgspec.convert(document["blocks"], dict[str, str])
    except (msgspec.MsgspecError, KeyError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if document.get("checksum", _checksum(found)) != _checksum(found):
        raise ValueError("its checksum is wrong")
    owners: dict[Block, str] = {}
    for text, node in found.items():
        block = Block(*parse_prefix(text))
        if block in owners:
            raise ValueError(f"{block} stands twice")
        owners[block] = node
    # Neighbours in this order overlap if any two do.
    ordered = sorted(owners, key=lambda b: (b.family.bits, b.first, -b.size))
    for one, other in pairwise(ordered):
        if one.overlaps(other):
            raise ValueError(f"{one} and {other} overlap")
    return owners

"""Prefixes on the wire: blocks of NLRI to tuples of canonical prefixes, and back.

Called by `samepath.bgp.update` for the fields of an UPDATE. A prefix in memory is its canonical
wire form already (`samepath.model.net.Nlri`), so encoding is a join; decoding only finds the
borders and clears the bits beyond the length.

Many nodes advertise the very same services, so the very same block arrives from every peer: a
bounded cache gives all of them one tuple of one set of objects. Where several paths a prefix were
agreed on, each prefix has a path identifier before it; a block is then read as one block for each
identifier, of which there are few.

Standards: RFC 4271 §4.3 and §6.3, RFC 4760 §5, RFC 7606 §5.3, RFC 7911 §3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from samepath.bgp.errors import Code, PeerError, UpdateError
from samepath.model.net import Family, Nlri

REMEMBERED_OCTETS = 1 << 20
"""Wire octets whose decoded prefixes are kept, all families together: about 10 MB of memory."""

_BLOCK_OVERHEAD = 32
"""Counted with each block, so that blocks of one prefix fill the cache as they fill memory."""


class _Cache:
    """Blocks by their octets, per family; forgotten all at once when full."""

    __slots__ = ("blocks", "octets")

    def __init__(self) -> None:
        self.blocks: dict[Family, dict[bytes, tuple[Nlri, ...]]] = {f: {} for f in Family}
        self.octets = 0

    def add(self, family: Family, data: bytes, nlris: tuple[Nlri, ...]) -> None:
        self.octets += len(data) + _BLOCK_OVERHEAD
        if self.octets > REMEMBERED_OCTETS:
            self.clear()
            self.octets = len(data) + _BLOCK_OVERHEAD
        self.blocks[family][data] = nlris

    def clear(self) -> None:
        for blocks in self.blocks.values():
            blocks.clear()
        self.octets = 0


_cache = _Cache()

REMEMBERED = _cache.blocks
"""What past calls have read, by family and octets; to be read only."""


def forget() -> None:
    """Empty the memory of past blocks."""
    _cache.clear()


def decode_nlri(family: Family, data: bytes) -> tuple[Nlri, ...]:
    """The prefixes of a block, in its order, canonical: host bits cleared.

    Raises PeerError (UPDATE Message Error, Invalid Network Field) where the block cannot be
    parsed to its end: then nothing in it can be trusted, not even as a withdrawal (RFC 7606 §3 j).
    """
    nlris = _cache.blocks[family].get(data)
    if nlris is None:
        if not data:
            return ()
        nlris = _decode_uniform(family, data) or _decode_any(family, data)
        _cache.add(family, data, nlris)
    return nlris


def _decode_uniform(family: Family, data: bytes) -> tuple[Nlri, ...] | None:
    """Fast path: all prefixes of the length of the first, in whole octets; else None."""
    length = data[0]
    if length % 8 or length > family.bits:
        return None
    step = 1 + length // 8
    if step == len(data):
        return (data,)
    count, rest = divmod(len(data), step)
    if rest or data[::step].count(length) != count:
        return None
    return tuple([data[i : i + step] for i in range(0, len(data), step)])


def _decode_any(family: Family, data: bytes) -> tuple[Nlri, ...]:
    bits = family.bits
    end = len(data)
    position = 0
    nlris = []
    while position < end:
        length = data[position]
        after = position + 1 + (length + 7) // 8
        if length > bits:
            raise _invalid(f"prefix length {length} of {family.label} exceeds {bits}")
        if after > end:
            raise _invalid(f"{family.label} prefix of length {length} is cut short")
        nlri = data[position:after]
        if length % 8:
            mask = 0xFF00 >> (length % 8) & 0xFF
            if nlri[-1] & ~mask:
                nlri = nlri[:-1] + bytes((nlri[-1] & mask,))
        nlris.append(nlri)
        position = after
    return tuple(nlris)


PATH_ID_OCTETS = 4

PathBlocks = tuple[tuple[int, tuple[Nlri, ...]], ...]
"""Path identifiers with their prefixes."""


def decode_paths(family: Family, data: bytes) -> PathBlocks:
    """As `decode_nlri`, of a block in which each prefix has a path identifier. RFC 7911 §3."""
    found: dict[int, list[bytes]] = {}
    position, end = 0, len(data)
    while position < end:
        start = position + PATH_ID_OCTETS
        if start >= end:
            raise _invalid(f"{family.label} path identifier is cut short")
        after = start + 1 + (data[start] + 7) // 8
        path_id = int.from_bytes(data[position:start], "big")
        found.setdefault(path_id, []).append(data[start:after])
        position = after
    # Read a second time: what is cut short or too long is noticed there.
    return tuple((i, decode_nlri(family, b"".join(parts))) for i, parts in found.items())


def _invalid(message: str) -> PeerError:
    return PeerError(Code.UPDATE_MESSAGE, UpdateError.INVALID_NETWORK_FIELD, message=message)


def encode_nlri(family: Family, nlris: Iterable[Nlri]) -> bytes:
    """The block of canonical prefixes of `family`."""
    return b"".join(nlris)


def blocks(nlris: Sequence[Nlri], room: int) -> Iterator[bytes]:
    """Blocks of at most `room` octets, in order. Each prefix must fit by itself."""
    data = b"".join(nlris)
    if len(data) <= room:
        if data:
            yield data
        return
    step = len(nlris[0])
    if len(data) == step * len(nlris) and all(len(nlri) == step for nlri in nlris):
        size = room // step * step
        for start in range(0, len(data), size):
            yield data[start : start + size]
        return
    start = end = 0
    for nlri in nlris:
        if end + len(nlri) - start > room:
            yield data[start:end]
            start = end
        end += len(nlri)
    yield data[start:end]

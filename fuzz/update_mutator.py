"""Mutations that know what an UPDATE is made of, so that they reach behind its length fields.

A blind change of an UPDATE breaks one of its lengths nearly always, and then only the framing has
been tried. Here one part is changed (withdrawn routes, one attribute's flags, code or value, the
prefixes), or attributes are dropped, doubled, exchanged or added, and the lengths are put right
again. One time in eight the octets are changed blindly all the same.

`mutate(octets, most)` is the fuzzer's own change of a string of octets.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from fuzz.bgp_codec import CONTEXT_OCTETS
from samepath.bgp.attribute_framing import EXTENDED_LENGTH, split_attributes
from samepath.bgp.attributes import Attribute

Mutate = Callable[[bytes, int], bytes]
Parts = tuple[bytes, list[tuple[int, int, bytes]], bytes]

_CODES = (*map(int, Attribute), 0, 11, 128, 250, 255)
_FLAGS = (0x40, 0x80, 0xC0, 0xE0, 0x50, 0x90, 0xD0, 0x00)


def mutated(data: bytes, most: int, seed: int, mutate: Mutate) -> bytes:
    rng = random.Random(seed)
    parts = taken_apart(data[CONTEXT_OCTETS:])
    if parts is None or rng.random() < 1 / 8:
        return mutate(data, most)
    head = data[:CONTEXT_OCTETS]
    if rng.random() < 1 / 8:
        head = mutate(head, CONTEXT_OCTETS).ljust(CONTEXT_OCTETS, b"\0")[:CONTEXT_OCTETS]
    return (head + put_together(_changed(parts, rng, mutate)))[:most]


def taken_apart(body: bytes) -> Parts | None:
    """Withdrawn routes, attributes as (flags, code, value), prefixes; None: it has no such form."""
    start = 2 + int.from_bytes(body[:2], "big")
    after = start + 2 + int.from_bytes(body[start : start + 2], "big")
    if after > len(body):
        return None
    found, _ = split_attributes(body[start + 2 : after])
    return body[2:start], [(a.flags, a.code, a.value) for a in found], body[after:]


def put_together(parts: Parts) -> bytes:
    withdrawn, attributes, prefixes = parts
    block = b"".join(_attribute(*attribute) for attribute in attributes)[:0xFFFF]
    withdrawn = withdrawn[:0xFFFF]
    return b"".join(
        (
            len(withdrawn).to_bytes(2, "big"),
            withdrawn,
            len(block).to_bytes(2, "big"),
            block,
            prefixes,
        )
    )


def _attribute(flags: int, code: int, value: bytes) -> bytes:
    value = value[:0xFFFF]
    if len(value) > 0xFF:
        flags |= EXTENDED_LENGTH
    length = len(value).to_bytes(2 if flags & EXTENDED_LENGTH else 1, "big")
    return bytes((flags, code)) + length + value


def _changed(parts: Parts, rng: random.Random, mutate: Mutate) -> Parts:
    withdrawn, attributes, prefixes = parts
    attributes = list(attributes)
    at = rng.randrange(len(attributes)) if attributes else None
    match rng.randrange(10):
        case 0:
            withdrawn = mutate(withdrawn, 64)
        case 1:
            prefixes = mutate(prefixes, 64)
        case 2 if at is not None:
            del attributes[at]
        case 3 if at is not None:
            attributes.insert(rng.randrange(len(attributes) + 1), attributes[at])
        case 4 if at is not None:
            _, code, value = attributes[at]
            attributes[at] = (rng.choice(_FLAGS), code, value)
        case 5 if at is not None:
            flags, _, value = attributes[at]
            attributes[at] = (flags, rng.choice(_CODES), value)
        case 6:
            added = (
                rng.choice(_FLAGS),
                rng.choice(_CODES),
                rng.randbytes(rng.choice((0, 1, 4, 8, 12))),
            )
            attributes.insert(rng.randrange(len(attributes) + 1), added)
        case _ if at is not None:
            flags, code, value = attributes[at]
            attributes[at] = (flags, code, mutate(value, 128))
        case _:
            prefixes = mutate(prefixes, 64)
    return withdrawn, attributes, prefixes

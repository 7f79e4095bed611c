"""The two hashes that the Linux kernel's multipath hash is made of: SipHash-2-4 and jhash.

Called by `hashing.flow` alone. Each is written once, with the operators that Python's integers and
numpy's uint64 arrays share, so one text serves one message and many. The masks keep Python's
integers to their width; arrays wrap by themselves.

- J.-P. Aumasson, D. Bernstein: SipHash: a fast short-input PRF. 2012.
- R. Jenkins: lookup3, as include/linux/jhash.h has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_M32 = 0xFFFFFFFF
_M64 = 0xFFFFFFFFFFFFFFFF
_JHASH_INITVAL = 0xDEADBEEF

Words = Sequence[int] | NDArray[np.uint64]
"""The words of one message, or an array of shape (words, messages)."""


def siphash24(words: Words, key: tuple[int, int], tail: int = 0) -> Any:
    """SipHash-2-4, 64 bits: an int for words that are ints, an array of uint64 for an array.

    `words` are the message's octets as little-endian 64-bit words. A message whose length is no
    multiple of eight has its last octets, and its length in the top octet, in `tail`; 0 stands for
    a message of whole words.
    """
    last = tail or (len(words) * 8 & 0xFF) << 56
    v = sip_state((*words, last), key)
    v = (v[0], v[1], v[2] ^ 0xFF, v[3])
    for _ in range(4):
        v = _sip_round(*v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def sip_state(words: Words, key: tuple[int, int]) -> tuple[Any, Any, Any, Any]:
    """SipHash's state after `words`: v0 to v3, where whoever has the rest of a message goes on."""
    k0, k1 = key
    v = (
        k0 ^ 0x736F6D6570736575,
        k1 ^ 0x646F72616E646F6D,
        k0 ^ 0x6C7967656E657261,
        k1 ^ 0x7465646279746573,
    )
    for word in words:
        v0, v1, v2, v3 = _sip_round(*_sip_round(v[0], v[1], v[2], v[3] ^ word))
        v = (v0 ^ word, v1, v2, v3)
    return v


def _sip_round(v0: Any, v1: Any, v2: Any, v3: Any) -> tuple[Any, Any, Any, Any]:
    v0 = (v0 + v1) & _M64
    v1 = _rotate64(v1, 13) ^ v0
    v0 = _rotate64(v0, 32)
    v2 = (v2 + v3) & _M64
    v3 = _rotate64(v3, 16) ^ v2
    v0 = (v0 + v3) & _M64
    v3 = _rotate64(v3, 21) ^ v0
    v2 = (v2 + v1) & _M64
    v1 = _rotate64(v1, 17) ^ v2
    v2 = _rotate64(v2, 32)
    return v0, v1, v2, v3


def _rotate64(x: Any, bits: int) -> Any:
    return (x << bits | x >> (64 - bits)) & _M64


def jhash_2words(a: Any, b: Any, initval: int) -> Any:
    """The kernel's `jhash_2words`, 32 bits: of ints, or of uint64 arrays that hold 32-bit words."""
    c = (initval + _JHASH_INITVAL + (2 << 2)) & _M32
    return _jhash_final((a + c) & _M32, (b + c) & _M32, c)


def _jhash_final(a: Any, b: Any, c: Any) -> Any:
    c = ((c ^ b) - _rotate32(b, 14)) & _M32
    a = ((a ^ c) - _rotate32(c, 11)) & _M32
    b = ((b ^ a) - _rotate32(a, 25)) & _M32
    c = ((c ^ b) - _rotate32(b, 16)) & _M32
    a = ((a ^ c) - _rotate32(c, 4)) & _M32
    b = ((b ^ a) - _rotate32(a, 14)) & _M32
    return ((c ^ b) - _rotate32(b, 24)) & _M32


def _rotate32(x: Any, bits: int) -> Any:
    return (x << bits | x >> (32 - bits)) & _M32

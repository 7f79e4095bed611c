"""Octets read as decisions: which step comes next, how long a field is, which flags are set.

Used by the targets that play a sequence of steps. Whatever the octets are they mean something:
where they end, every further decision is zero, so that a longer input only continues a shorter one.
That is what a fuzzer that cuts and joins inputs can work with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_over(self) -> bool:
        return self._at >= len(self._data)

    def octets(self, count: int) -> bytes:
        """As many as there are, at most `count`."""
        found = self._data[self._at : self._at + count]
        self._at += len(found)
        return found

    def number(self, octets: int = 1) -> int:
        return int.from_bytes(self.octets(octets), "big")

    def block(self, length_octets: int = 1) -> bytes:
        """Octets behind their length."""
        return self.octets(self.number(length_octets))

    def rest(self) -> bytes:
        return self.octets(len(self._data))

    def pick(self, among: Sequence[T]) -> T:
        return among[self.number() % len(among)]

    def steps(self, most: int) -> Iterator[int]:
        """An octet for each step, until the octets end, `most` of them."""
        for _ in range(most):
            if self.is_over:
                return
            yield self.number()

"""What can go wrong with the BPF data plane, and what to do about it."""

from __future__ import annotations

import os


class Unavailable(Exception):
    """The data plane cannot be loaded here; the kernel's own goes on by itself.

    `reason` is what is missing, `advice` what would help.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(f"{reason} ({advice})" if advice else reason)
        self.reason = reason
        self.advice = advice


class BpfError(OSError):
    """A bpf(2) operation that the kernel refused."""

    def __init__(self, operation: str, number: int) -> None:
        super().__init__(number, f"{operation}: {os.strerror(number)}")
        self.operation = operation

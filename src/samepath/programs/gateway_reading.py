"""When a gateway reads the kernel back, and the reading itself.

The kernel forgets without saying so (a link that goes down takes next hops, groups and routes with
it), and others may change what is ours: so it is read back every 30 s, and soon after any news.
News of routes alone may be somebody else's daily business: they may cost a twentieth of a
processor.

Used by `programs.gateway`, which compares and mends. `read` runs in a thread, with a socket of its
own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from samepath.apply import plain_reading
from samepath.apply.readback import Difference, Expected, compare
from samepath.apply.settings import Finding
from samepath.netlink.connected import Connected
from samepath.netlink.kernel import RealKernel
from samepath.netlink.objects import InterfaceAddress
from samepath.programs.findings import settle
from samepath.programs.memory import no_collection

READ_BACK_S = 30.0
READ_AGAIN_S = 0.1
"""Not sooner after another reading, whatever the news."""
READ_SHARE = 0.05
RETRY_S = 1.0
GROUPS_A_READ = 8
"""Groups whose buckets are compared one by one, in turn; of all others the members are."""


class Schedule:
    def __init__(self) -> None:
        self.due_at = -math.inf
        self._began = -math.inf
        self._ended = -math.inf
        self._turn = 0
        self._suspects: set[int] = set()

    def news(self, kinds: set[str]) -> None:
        """Something changed in the kernel, of these kinds."""
        pause = READ_AGAIN_S
        if kinds <= {"route"} and self._ended > self._began:
            pause = max(pause, (self._ended - self._began) / READ_SHARE)
        self.due_at = min(self.due_at, self._ended + pause)

    def suspect(self, groups: Iterable[int]) -> None:
        """These are not as they should be: read them with their buckets."""
        self._suspects.update(groups)
        self.news({"nexthop"})

    def begin(self, groups: Mapping[int, object]) -> set[int]:
        """The groups to be read with their buckets. News from now on ask for another reading."""
        self._began, self.due_at = time.monotonic(), math.inf
        chosen = self.in_turn(groups, GROUPS_A_READ) | self._suspects
        self._suspects.clear()
        return chosen

    def ended(self) -> None:
        self._ended = time.monotonic()
        self.due_at = min(self.due_at, self._ended + READ_BACK_S)

    def retry(self) -> None:
        """It could not be read."""
        self.due_at = time.monotonic() + RETRY_S

    def in_turn(self, groups: Mapping[int, object], count: int) -> set[int]:
        """So many groups, the next ones each time."""
        every = sorted(groups)
        turn = self._turn % len(every) if every else 0
        self._turn = turn + count
        return set(islice([*every[turn:], *every[:turn]], count))


@dataclass(frozen=True, slots=True)
class Found:
    connected: Connected
    addresses: list[InterfaceAddress]
    difference: Difference
    standing: plain_reading.Standing
    findings: list[Finding]


def read(
    expected: Expected, chosen: set[int], hash_seed: int, opened: Callable[[], RealKernel]
) -> Found:
    """What the kernel holds; settings that others changed are set right by the way."""
    with no_collection(), closing(opened()) as kernel:
        addresses = kernel.addresses()
        connected = Connected(kernel.links(), addresses)
        difference = compare(kernel, expected, buckets_of=chosen)
        standing = plain_reading.read(kernel, blackholes=False)
    return Found(connected, addresses, difference, standing, settle(hash_seed))

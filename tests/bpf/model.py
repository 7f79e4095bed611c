"""The rules of a transition, as the program in the kernel must follow them, without the kernel.

Written from docs/dataplane.md, not from the program. One object is one table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Packet(enum.Enum):
    SYN = "a TCP connection begins"
    DATA = "amid a TCP connection"
    INITIAL = "a QUIC connection begins"
    DATAGRAM = "some UDP"

    @property
    def begins(self) -> bool:
        return self in (Packet.SYN, Packet.INITIAL)

    @property
    def is_tcp(self) -> bool:
        return self in (Packet.SYN, Packet.DATA)


@dataclass
class Record:
    hop: int
    opening: bool


@dataclass
class Bucket:
    owner: int
    old: int = 0
    records: dict[int, Record] = field(default_factory=dict)
    """By flow; what was recorded in this transition."""


@dataclass
class Rules:
    buckets: list[Bucket]
    alive: set[int]

    def change(self, bucket: int, owner: int, old: int) -> None:
        at = self.buckets[bucket]
        if not at.old:
            at.records = {}  # of a transition before this one
        at.owner, at.old = owner, old

    def packet(self, bucket: int, flow: int, packet: Packet) -> int:
        """The next hop."""
        at = self.buckets[bucket]
        if not at.old:
            return at.owner
        record = at.records.get(flow)
        if record and record.hop not in self.alive:
            record = None
        if record and packet is Packet.SYN and not record.opening:
            record = None  # another connection with the same ports
        if record:
            if packet is Packet.DATA:
                record.opening = False
            return record.hop
        if packet.begins:
            at.records[flow] = Record(at.owner, True)
            return at.owner
        hop = at.old if at.old in self.alive else at.owner
        if packet.is_tcp:
            at.records[flow] = Record(hop, False)
        return hop

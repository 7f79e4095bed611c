"""What every peer of the matrix can do, and its view in words that are the same for all of them.

Asked by the cells; made by `matrix_frr`, `matrix_bird`, `matrix_gobgp` and `matrix_exabgp`, each of
which is the daemon of `interop_peers` with everything switched on that a setting asks for.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import interop_peers
from interop_peers import THEIRS, THEIRS_V6
from matrix_setting import (
    LARGE,
    SHARED,
    THEIRS_TO_US,
    Setting,
)

from samepath.lab.netns import Namespace


@dataclass
class Seen:
    """One path of a prefix, as the peer shows it."""

    next_hop: str = ""
    as_path: str = ""
    is_draining: bool = False
    large: int = 0
    """How many large communities."""
    bandwidth: float | None = None
    originator: str = ""
    cluster_list: list[str] = field(default_factory=list)


class Peer(interop_peers.Daemon, ABC):
    version: ClassVar[str]
    asks_version: ClassVar[tuple[str, ...]]
    listens = True
    knows_extended_messages = True
    our_ttl_security: ClassVar[bool | int] = True

    def __init__(self, namespace: Namespace, folder: Path, setting: Setting) -> None:
        super().__init__(namespace, folder, setting.terms)
        self.setting = setting

    @abstractmethod
    def paths(self, prefix: str) -> list[Seen]:
        """What it has of a prefix from our first speaker."""

    @abstractmethod
    def is_bfd_up(self) -> bool: ...

    def shut_down_with_reason(self) -> None:
        """Ends the session with `REASON`."""
        raise NotImplementedError

    @abstractmethod
    def heard_reason(self) -> str:
        """Where the reason of our goodbye is to be read."""

    @property
    def offered(self) -> tuple[str, ...]:
        own = THEIRS_TO_US if self.knows_extended_messages else THEIRS_TO_US[:-1]
        return (*own, SHARED) if self.setting.has_third else own


def own_hop(prefix: str) -> str:
    return THEIRS_V6 if ":" in prefix else THEIRS


def rate_of(octets: int) -> float:
    """Of the last four octets of a link bandwidth community."""
    return float(struct.unpack("!f", octets.to_bytes(4))[0])


def large_communities(count: int = LARGE, first: int = 0) -> list[tuple[int, int, int]]:
    return [(65002, 1, number) for number in range(first, first + count)]

"""BFD for a program: which neighbours are watched, and what becomes of their paths.

Between `bgp.transport` and `bfd.process`; used by gateway and agent alike. A neighbour by address
is watched from the start; one of a range while its session stands, or its paths are kept over its
restart. That BFD is down keeps no BGP session from coming up; that it *goes* down takes the paths
(RFC 5882 §3.2). A peer that is administratively down, or no BFD process at all, says nothing about
the path (§4.2).

RFC 5882 §3, §4; RFC 9384 (the NOTIFICATION).
"""

from __future__ import annotations

import os
import time
from typing import Any

from samepath.bfd.bfdd import Bfdd
from samepath.bfd.process import Process
from samepath.bfd.session import Terms
from samepath.bfd.wire import View, Want
from samepath.bgp.status import PeerStatus
from samepath.bgp.transport import Speaker
from samepath.model.neighbor import BfdProfile, Neighbor
from samepath.model.net import Address, address_text, parse_address


class Liveness:
    def __init__(self, run_dir: str, program: str, speaker: Speaker) -> None:
        bfdd = speaker.config.bfdd
        self.process: Process | Bfdd = (
            Process(run_dir, program, changed=self._changed)
            if bfdd is None
            else Bfdd(bfdd, changed=self._changed)
        )
        self._speaker = speaker
        self._seen = -1
        self._has_stale = False
        self._neighbors: dict[str, Neighbor] = {}
        self._wanted: frozenset[str] = frozenset()
        self._locals: dict[Address, str] = {}
        """Our addresses towards neighbours of ranges."""
        # Of a container with us as its first process nothing is left when we end.
        self._outlives_us = os.getpid() != 1

    # What the program calls.

    def follow(self) -> None:
        """Whom to watch; whenever something may have happened to a neighbour."""
        if self._speaker.news == self._seen and not self._has_stale:
            return
        self._seen = self._speaker.news
        config = self._speaker.config
        self._neighbors = {n.name: n for n in config.neighbors if n.bfd is not None}
        if not self._neighbors and not self.process.sessions:
            return
        wanted: dict[str, Want] = {}
        self._has_stale = False
        for peer in self._speaker.peers():
            neighbor = self._neighbors.get(peer.neighbor)
            if neighbor is None or neighbor.bfd is None:
                continue
            is_stale = peer.stale_until_s is not None
            self._has_stale |= is_stale
            if neighbor.address is not None or peer.is_established or is_stale:
                profile = config.bfd_profiles[neighbor.bfd]
                wanted[address_text(peer.address)] = self._want(peer, neighbor, profile)
            else:
                self._locals.pop(peer.address, None)
        linger_s = max((n.graceful_restart_s for n in self._neighbors.values()), default=0)
        self._wanted = frozenset(wanted)
        self.process.want(wanted, linger_s)

    async def run(self) -> None:
        """For ever; a task of the program."""
        await self.process.run()

    async def close(self, *, goodbye: bool) -> None:
        await self.process.close(goodbye=goodbye)

    def view(self, peer: PeerStatus) -> dict[str, Any] | None:
        """For `samepath status`; None: the neighbour is not to be watched."""
        if peer.neighbor not in self._neighbors:
            return None
        name = address_text(peer.address)
        known = self.process.sessions.get(name)
        if name not in self._wanted:
            return {"state": "Idle", "why": "watched while its BGP session stands"}
        if known is None:
            return {"state": "Unknown", "why": "the BFD process has not said yet"}
        return {
            "state": known.state.title().replace("_", ""),
            "since_s": round(max(0.0, time.monotonic() - known.since), 1),
            "why": known.why,
            "detection_time_s": known.detection_time_s,
            "transmit_interval_s": known.transmit_interval_s,
            "losses": known.losses,
            "error": known.error,
        }

    async def summary(self) -> dict[str, Any] | None:
        """Of the BFD process; None: no neighbour is to be watched."""
        if not self._neighbors:
            return None
        process = self.process
        return {
            "by": "samepath" if isinstance(process, Process) else "bfdd",
            "pid": process.pid,
            "starts": process.starts,
            "scheduling": process.scheduling,
            "errors": process.errors,
            **await process.counters(),
        }

    # What the neighbours are to BFD.

    def _want(self, peer: PeerStatus, neighbor: Neighbor, profile: BfdProfile) -> Want:
        multihop = neighbor.ebgp_multihop > 1 or (
            not isinstance(neighbor.ttl_security, bool) and neighbor.ttl_security > 1
        )
        terms = Terms(
            transmit_us=profile.transmit_interval_ms * 1000,
            receive_us=profile.receive_interval_ms * 1000,
            multiplier=profile.detect_multiplier,
            passive=profile.passive,
            minimum_ttl=profile.minimum_ttl if multihop else 255,
            control_plane_independent=self._outlives_us,
        )
        return Want(terms, self._local(peer, neighbor), multihop)

    def _local(self, peer: PeerStatus, neighbor: Neighbor) -> str | None:
        """The neighbour's BFD knows us by the address that it has its session with. Where we open
        the connection, BFD comes from the same address for the same reason."""
        if neighbor.local_address is not None:
            return address_text(parse_address(neighbor.local_address))
        if neighbor.range is not None and peer.local_address is not None:
            self._locals[peer.address] = address_text(peer.local_address)
        return self._locals.get(peer.address)

    def _changed(self, name: str, view: View, losses: int) -> None:
        if losses == 0:
            return
        address = parse_address(name)
        peers = {peer.address: peer for peer in self._speaker.peers()}
        neighbor = self._neighbors.get(peers[address].neighbor) if address in peers else None
        if neighbor is not None and neighbor.bfd is not None:
            profile = self._speaker.config.bfd_profiles[neighbor.bfd]
            why = view.why if not view.is_up else "it was, and is up again"
            self._speaker.path_lost(address, why, forwarding=profile.down_loses_forwarding)

"""One setting with one peer, set up: namespaces, our speakers, the daemon; and who runs the cells.

The cells of a world run one after the other in a thread of the world, several worlds at a time: a
cell waits for timers and daemons more than it works. The test of a cell is told how it went.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from interop_ours import OurSpeaker, two_hosts
from interop_peers import OURS, OURS_V6, wait
from matrix_daemons import PEERS
from matrix_peer import Peer
from matrix_rows import ROWS
from matrix_setting import (
    BANDWIDTH,
    LARGE,
    OUR_DRAINING,
    OUR_LARGE,
    OUR_V4,
    OUR_V6,
    OUR_WEIGHTED,
    REFLECTED,
    SECRET,
    SHARED,
    THIRD_ID,
    THIRD_V6,
    Setting,
)

from samepath.bgp.adjout import Advertisement, Offered, reflect
from samepath.bgp.attributes import GRACEFUL_SHUTDOWN, PathAttributes, link_bandwidth_community
from samepath.bgp.rib import Path as RibPath
from samepath.lab.netns import Namespace
from samepath.model.config import Bgp
from samepath.model.neighbor import BfdProfile, Import, Neighbor
from samepath.model.net import Family, parse_address, parse_prefix
from samepath.programs.liveness import Liveness

WORLDS_AT_ONCE = 4


class Watching(OurSpeaker):
    """With BFD as a program has it."""

    liveness: Liveness | None = None

    def woken(self) -> None:
        if self.liveness is not None:
            self.liveness.follow()

    async def began(self) -> None:
        if self.config.bfd_profiles:
            self.liveness = Liveness(self.config.run_dir, "gateway", self.speaker)
            self._running = self._loop.create_task(self.liveness.run())
            self.liveness.follow()

    async def ends(self) -> None:
        if self.liveness is not None:
            self._running.cancel()
            await self.liveness.close(goodbye=True)

    def is_bfd_up(self) -> bool:
        status, live = self.status(), self.liveness
        view = self.call(lambda _: live.view(status)) if live is not None else None
        return view is not None and view["state"] == "Up"


class World:
    theirs: Peer
    ours: Watching

    def __init__(self, kind: type[Peer], setting: Setting, folder: Path) -> None:
        self.setting = setting
        self.terms = setting.terms
        self._kind = kind
        self._folder = folder
        self._folder.mkdir(parents=True)
        self._unless_ended = ExitStack()

    def __enter__(self) -> World:
        with ExitStack() as started:
            self.our_host, self.their_host = started.enter_context(two_hosts("mx"))
            self.theirs = self._kind(self.their_host, self._folder / "peer", self.setting)
            started.callback(self.theirs.stop)
            self.start_ours()
            started.callback(lambda: self.ours.stop())
            if self.setting.has_third:
                third = self._third()
                started.callback(third.stop)
                third.start(REFLECTED, SHARED)
                wait(lambda: self.paths(REFLECTED) and self.paths(SHARED), "the third's routes")
            self.tell()
            self.theirs.start()
            wait(self._have_met, "the session and all routes", 30)
            self._unless_ended = started.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._unless_ended.close()

    def _have_met(self) -> bool:
        return set(self.ours.learned()) >= set(self.theirs.offered) and self.they_have_all()

    def they_have_all(self) -> bool:
        own = (OUR_V4, OUR_V6, OUR_DRAINING, OUR_WEIGHTED)
        return all(self.theirs.paths(prefix) for prefix in own)

    # Our side.

    def start_ours(self, **options: bool) -> None:
        self.ours = Watching(self.our_host, self._config(), **options)
        self.ours.start(release=False)

    def _config(self) -> Bgp:
        setting, terms = self.setting, self.terms
        more: dict[str, Any] = {"bfd": "usual"} if setting.has_bfd else {}
        if setting.is_guarded:
            secret = self._folder / "secret"
            secret.write_text(SECRET + "\n")
            secret.chmod(0o600)
            more |= {"password_file": str(secret), "ttl_security": self._kind.our_ttl_security}
        if setting.has_third:
            more |= {"add_path": "both", "extended_next_hop": True}
        neighbors = [self._neighbor(terms.theirs, terms.ours, **more)]
        if setting.has_third:
            neighbors.append(self._neighbor(THIRD_V6, OURS_V6))
        return Bgp(
            router_id=OURS,
            local_as=terms.our_as,
            listen=[terms.ours],
            next_hops=[OURS_V6] if setting.has_third else [OURS, OURS_V6],
            neighbors=neighbors,
            bfd_profiles={"usual": BfdProfile()} if setting.has_bfd else {},
            run_dir=str(self._folder),
        )

    def _neighbor(self, address: str, local: str, **more: Any) -> Neighbor:
        return Neighbor(
            address=address,
            local_address=local,
            remote_as=self.terms.their_as,
            hold_time_s=self.setting.hold_time_s,
            connect_retry_s=1,
            import_=Import(services=["10.2.0.0/16"], pods=["2001:db8:2::/47"]),
            **more,
        )

    def _third(self) -> OurSpeaker:
        """A second speaker of ours, which tells us and the peer of its own routes."""
        self.our_host.ip("addr", "add", f"{THIRD_V6}/64", "dev", "eth0", "nodad")
        config = Bgp(
            router_id=THIRD_ID,
            local_as=self.terms.our_as,
            listen=[THIRD_V6],
            next_hops=[THIRD_V6],
            neighbors=[self._neighbor(a, THIRD_V6) for a in (OURS_V6, self.terms.theirs)],
        )
        return OurSpeaker(self.our_host, config)

    def tell(self, *but: str, release: bool = True) -> None:
        """All that we advertise to the peer, without what is in `but`."""
        own = PathAttributes(next_hop=b"")
        rate = link_bandwidth_community(self.terms.our_as, BANDWIDTH)
        large = tuple((65001, 1, number) for number in range(LARGE))
        offered: dict[str, Offered] = {
            OUR_V4: Advertisement(own),
            OUR_V6: Advertisement(own),
            OUR_DRAINING: Advertisement(
                PathAttributes(next_hop=b"", communities=(GRACEFUL_SHUTDOWN,))
            ),
            OUR_WEIGHTED: Advertisement(PathAttributes(next_hop=b"", extended_communities=(rate,))),
            OUR_LARGE: Advertisement(PathAttributes(next_hop=b"", large_communities=large)),
        }
        if self.setting.has_third:
            for prefix in (REFLECTED, SHARED):
                for path in self.paths(prefix):
                    if path.peer == parse_address(THIRD_V6):
                        attributes = reflect(path, cluster_id=int.from_bytes(parse_address(OURS)))
                        passed_on = Advertisement(attributes, source_peer=path.peer)
                        offered[prefix] = (
                            (Advertisement(own), passed_on) if prefix == SHARED else passed_on
                        )
        by_family: dict[Family, dict[bytes, Offered]] = {f: {} for f in Family}
        for text, what in offered.items():
            family, nlri = parse_prefix(text)
            if text not in but:
                by_family[family][nlri] = what
        self.ours.call(lambda s: s.set(self.ours.name, by_family))
        if release:
            self.ours.call(lambda s: s.release_end_of_rib())

    def paths(self, prefix: str) -> tuple[RibPath, ...]:
        """All that we have of a prefix, from whomever."""
        family, nlri = parse_prefix(prefix)
        held = self.ours.call(lambda s: s.rib.paths(family, nlri))
        return held.paths if held is not None else ()

    def from_peer(self, prefix: str) -> list[RibPath]:
        return [p for p in self.paths(prefix) if p.peer == parse_address(self.terms.theirs)]

    def hosts(self) -> tuple[Namespace, Namespace]:
        return self.our_host, self.their_host


Cell = Callable[[World], None]


class Runs:
    """Every wanted cell, run once; `outcome` raises what it raised."""

    def __init__(
        self, wanted: Iterable[tuple[str, str]], cells: dict[str, Cell], folder: Path
    ) -> None:
        self._cells = cells
        self._folder = folder
        self._outcomes: dict[tuple[str, str], Future[None]] = {}
        self._is_over = threading.Event()
        self._pool = ThreadPoolExecutor(WORLDS_AT_ONCE)
        rows: defaultdict[tuple[str, Setting], list[str]] = defaultdict(list)
        for row in ROWS:
            for name in PEERS:
                if (name, row.key) in set(wanted):
                    rows[name, row.setting].append(row.key)
                    self._outcomes[name, row.key] = Future()
        for (name, setting), keys in sorted(rows.items(), key=lambda one: one[0][1].name):
            self._pool.submit(self._run, name, setting, keys)

    def _run(self, name: str, setting: Setting, keys: list[str]) -> None:
        left = [self._outcomes[name, key] for key in keys]
        try:
            with World(PEERS[name], setting, self._folder / name / setting.name) as world:
                for key in keys:
                    if self._is_over.is_set():
                        break
                    self._run_cell(self._cells[key], world, left.pop(0))
        except (Exception, AssertionError) as error:
            for outcome in left:
                outcome.set_exception(AssertionError(f"{setting.name}: not set up: {error}"))

    @staticmethod
    def _run_cell(cell: Cell, world: World, outcome: Future[None]) -> None:
        try:
            cell(world)
            outcome.set_result(None)
        except (Exception, AssertionError) as error:
            outcome.set_exception(error)

    def outcome(self, peer: str, key: str) -> None:
        self._outcomes[peer, key].result(timeout=280)

    def close(self) -> None:
        self._is_over.set()
        self._pool.shutdown(wait=True)

"""Many sessions: 100, 500 and 1,000 peers of one router, Samepath beside FRR and BIRD, in one run.

The peers are one light process in a namespace of its own (`benchmarks.feeder`), each with an
address and about ten prefixes, every prefix from 4 to 32 of them. Of each router, alone in a fresh
namespace:

- until all sessions are Established, and until its kernel has every prefix with every next hop,
  from the moment at which all peers begin to connect;
- memory, and the CPU that it uses at rest, with a keepalive every ten seconds both ways;
- a tenth of the peers, 100 of 1,000, vanish at once and come back: until the kernel has just the
  others' next hops, and all of them again;
- one peer more sends 900,000 prefixes where 1,000 are allowed: CPU and memory that it costs, and
  whether any other session or prefix suffers.

Of Samepath also the longest that its event loop was held up meanwhile (`benchmarks.start.Pulse`).
Its `idle_timer_s` is 1 here: a peer that comes back gets buckets as they become idle, so that this
second is part of `returned_s`.

Ends in one line of JSON. `python -m benchmarks.sessions PEERS ...` runs these numbers only.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks.feeder import Feed
from benchmarks.fib import Fib, Hops
from benchmarks.load import Load
from benchmarks.routers import Router, start_bird, start_frr, start_samepath
from benchmarks.stage import Stage, StageError, pss_mb, signals_as_exit, wait
from benchmarks.start import Pulse
from samepath.model.net import Address, address_text

PEERS = (100, 500, 1_000)
PREFIXES_EACH = 10
MEMBERS = 18
"""Peers of a prefix, in the mean."""
HOLD_S = 30
LIMIT = 1_000
HOSTILE_PREFIXES = 900_000
FIRST_HOSTILE = 1 << 20
VANISHING = 10
"""One in so many."""
LIMIT_S = 120.0
SETTLE_S = 5.0
WATCHED_S = 20.0
HOSTILE_S = 15.0

Figures = dict[str, float | None]

ROUTERS: dict[str, Callable[[Stage, Load], Router]] = {
    "samepath": partial(start_samepath, idle_timer_s=1.0),
    "frr": start_frr,
    "bird": start_bird,
}


def load_of(peers: int) -> Load:
    prefixes = max(MEMBERS, peers * PREFIXES_EACH // MEMBERS)
    return Load(peers, prefixes, sets=max(2, prefixes // 5), hold_s=HOLD_S, limit=LIMIT)


def hostile_of(load: Load) -> Load:
    return Load(1, HOSTILE_PREFIXES, first_peer=load.peers, first_prefix=FIRST_HOSTILE)


@dataclass(slots=True)
class Play:
    """One router with all its peers."""

    name: str
    load: Load
    stage: Stage
    router: Router
    feed: Feed
    fib: Fib

    def figures(self) -> Figures:
        found = self.arrival()
        found |= self.rest()
        found |= self.flap()
        found |= self.hostile()
        if ended := self.router.ended():
            raise StageError(f"{self.name}: {ended[0]} ended: {self.stage.log(ended[0])}")
        return found

    @contextlib.contextmanager
    def pulse(self, into: Figures, name: str) -> Iterator[None]:
        """The longest that Samepath's event loop was held up meanwhile."""
        if self.name != "samepath":
            yield
            return
        with Pulse(self.stage.folder / "run" / "gateway.sock") as pulse:
            yield
        into[f"{name}_longest_block_ms"] = round(max(pulse.round_trips_s) * 1000, 1)

    def arrival(self) -> Figures:
        found: Figures = {}
        with self.pulse(found, "start"):
            cpu_s = self.router.cpu_s()
            began = self.feed.go()
            found["established_s"] = round(self.feed.established(LIMIT_S) - began, 3)
            found["in_sync_s"] = self._seconds(self.load.expected(), began)
        found["start_cpu_s"] = round(self.router.cpu_s() - cpu_s, 2)
        return found

    def rest(self) -> Figures:
        time.sleep(SETTLE_S)
        cpu_s = self.router.cpu_s()
        time.sleep(WATCHED_S)
        return {
            "pss_mb": round(sum(map(pss_mb, self.router.pids)), 1),
            "rest_cpu_percent": round((self.router.cpu_s() - cpu_s) / WATCHED_S * 100, 2),
        }

    def flap(self) -> Figures:
        gone = frozenset(map(self.load.peer, range(self.load.peers // VANISHING)))
        all_hops = self.load.expected()
        left = {prefix: hops - gone for prefix, hops in all_hops.items() if hops - gone}
        found: Figures = {}
        with self.pulse(found, "flap"):
            cpu_s = self.router.cpu_s()
            found["vanished_s"] = self._seconds(left, self.feed.drop(len(gone)))
            found["returned_s"] = self._seconds(all_hops, self.feed.rise())
            time.sleep(0.5)  # what comes after the last route belongs to it
        found["flap_cpu_s"] = round(self.router.cpu_s() - cpu_s, 2)
        dropped = {address_text(peer) for peer in gone}
        found["flap_lost_others"] = len({peer for peer, _ in self.feed.lost} - dropped)
        return found

    def hostile(self) -> Figures:
        """A peer that sends a full table where LIMIT prefixes are allowed."""
        found: Figures = {}
        feed = self.stage.feed(hostile_of(self.load))
        feed.established(LIMIT_S)
        self.feed.poll()
        self.feed.lost.clear()
        memory_mb, cpu_s = sum(map(pss_mb, self.router.pids)), self.router.cpu_s()
        prefixes = self.fib.count()
        with self.pulse(found, "hostile"):
            feed.go()
            time.sleep(HOSTILE_S)
        found["hostile_cpu_s"] = round(self.router.cpu_s() - cpu_s, 2)
        found["hostile_mb"] = round(sum(map(pss_mb, self.router.pids)) - memory_mb, 1)
        found["hostile_prefixes_taken"] = self.fib.count() - prefixes
        feed.poll()
        found["hostile_ended_sessions"] = len(feed.lost)
        self.feed.poll()
        found["hostile_lost_others"] = len(self.feed.lost)
        found["hostile_lost_prefixes"] = len(self.fib.missing(self.load.expected()))
        return found

    def _seconds(self, expected: dict[Address, Hops], since: float) -> float | None:
        took = self.fib.wait(expected, since, LIMIT_S)
        return None if took is None else round(took, 2)


def run(name: str, load: Load) -> Figures:
    with Stage(name) as stage:
        stage.cable_to_feeder(load)
        know_the_peers(stage, load)
        router = ROUTERS[name](stage, load)
        ready(name, stage, router)
        fib = Fib(stage.host("router").path, router.pids[0])
        try:
            feed = stage.feed(load, waits=True)
            return Play(name, load, stage, router, feed, fib).figures()
        finally:
            fib.close()


def know_the_peers(stage: Stage, load: Load) -> None:
    """Their MACs, for good. The kernel keeps 1,024 neighbours that it had to ask for (in all
    namespaces together), and what it does beyond is not what is measured."""
    router, feeder = stage.host("router"), stage.host("feeder")
    [link] = json.loads(feeder.ip("-j", "link", "show", "dev", "eth0"))
    texts = [*load.peer_texts(), *hostile_of(load).peer_texts()]
    hostile = texts[-1]
    feeder.ip("addr", "add", f"{hostile}/16", "dev", "eth0")
    add = [f"neigh add {a} lladdr {link['address']} dev eth0 nud permanent\n" for a in texts]
    router.ip("-batch", stage.file("neighbours", "".join(add)))


def ready(name: str, stage: Stage, router: Router) -> None:
    """It listens, and what belongs to its own start is over."""

    def listens() -> bool:
        return bool(stage.host("router").run("ss", "-Hltn", "sport = :179").strip())

    wait(listens, LIMIT_S, f"{name} to listen", 0.1)
    time.sleep(SETTLE_S)
    if router.ended():
        raise StageError(f"{name} ended: {stage.log(router.ended()[0])}")


def line(name: str, found: Figures) -> str:
    def seconds(what: str) -> str:
        value = found[what]
        return f"over {LIMIT_S:.0f} s" if value is None else f"{value:.2f} s"

    block = max((v for k, v in found.items() if k.endswith("_block_ms") and v), default=None)
    held = "" if block is None else f", loop held up {block:.0f} ms at most"
    return (
        f"  {name:9} established {seconds('established_s')}, in sync {seconds('in_sync_s')} "
        f"(CPU {found['start_cpu_s']} s), {found['pss_mb']} MB, {found['rest_cpu_percent']} % CPU; "
        f"peers vanished {seconds('vanished_s')}, returned {seconds('returned_s')} "
        f"(CPU {found['flap_cpu_s']} s); 900,000 prefixes: CPU {found['hostile_cpu_s']} s, "
        f"{found['hostile_mb']} MB, {found['hostile_lost_others']} sessions and "
        f"{found['hostile_lost_prefixes']} prefixes of others lost{held}"
    )


def main(words: list[str] | None = None) -> None:
    numbers = [int(word) for word in words or []] or list(PEERS)
    figures: dict[str, float | str | None] = {"benchmark": "sessions"}
    with signals_as_exit():
        for peers in numbers:
            load = load_of(peers)
            print(f"{peers} peers, {load.prefixes} prefixes, {load.sets} member sets", flush=True)
            for name in ROUTERS:
                found = run(name, load)
                print(line(name, found), flush=True)
                figures |= {f"{name}_{peers}_{key}": value for key, value in found.items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1:])

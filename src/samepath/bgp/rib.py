"""Every path of every peer, and the set of equal best paths of every prefix.

The sessions' owner writes (announce, withdraw, peer up and down, End-of-RIB); the program reads
(`take_changed`, then `paths`). One table a family maps a prefix to its `PathSet`, which holds the
paths of all peers: the Adj-RIB-In of a peer is the view of that table through the peer's key. Sets
are shared: prefixes with the same paths have the same set object, so an UPDATE's block of prefixes
moves from one set to the next with one computation and a few dictionary operations that run over
whole blocks. No object is made for a prefix.

Graceful restart lives here, too. When a peer's session ends and its paths may stay, its prefixes
are only noted as stale; the paths stand unchanged, and whoever reads sees nothing. A stale path
that is advertised again with the same attributes is the same object, so that is no change either.
A second loss of the session removes what was stale already, as RFC 4724 demands. Where a neighbour
is gone for longer than its restart time and may be (`keep_long`), its paths become the last choice,
which is a change. What they say of themselves stays: a path that was draining goes on draining.

A peer may tell several paths of one prefix, each with an identifier (RFC 7911); a peer that does
not has the identifier 0.

Not done: choosing one of several equals.

RFC 4271 §3.2, §9.1; RFC 4724 §4.2; RFC 7313 §4; RFC 7911 §3, §5; RFC 9494 §4.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, ItemsView, Iterable, Mapping, Sequence
from dataclasses import replace
from weakref import WeakValueDictionary

from samepath.bgp.adjin import AdjRibIn, Counts, Tally
from samepath.bgp.attributes import LLGR_STALE, NO_LLGR, PathAttributes
from samepath.bgp.decision import Path, PathSet
from samepath.bgp.ownership import Ownership
from samepath.bgp.policy import (
    BY_LISTS,
    ImportRule,
    Own,
    PeerKey,
    Reason,
    Refusal,
    items,
    why_refused,
)
from samepath.model.neighbor import Kind
from samepath.model.net import Family, Nlri

__all__ = ["Counts", "Path", "PathSet", "PeerKey", "Refusal", "Rib", "Tally"]

CLAIMS_KEPT = 1_000
"""Pod blocks that are another's as yet, per peer: taken when that one gives them up. Further ones
have to be advertised again."""

STEPS_KEPT = 512
"""Remembered (set, path) -> set; then the memory starts afresh."""


class Rib:
    def __init__(self, own: Own) -> None:
        self.own = own
        self._tables: dict[Family, dict[Nlri, PathSet]] = {f: {} for f in Family}
        self._changed: dict[Family, set[Nlri]] = {f: set() for f in Family}
        self._peers: dict[PeerKey, AdjRibIn] = {}
        self._known_paths: WeakValueDictionary[tuple[object, ...], Path] = WeakValueDictionary()
        self._known_sets: WeakValueDictionary[tuple[Path, ...], PathSet] = WeakValueDictionary()
        self._steps: dict[tuple[PathSet | None, Path], PathSet] = {}
        self._owners = Ownership()
        self._has_freed = False
        self._is_settling = False

    # What the program reads.

    def paths(self, family: Family, nlri: Nlri) -> PathSet | None:
        return self._tables[family].get(nlri)

    def items(self, family: Family) -> ItemsView[Nlri, PathSet]:
        """All prefixes with their paths: a live view, not a copy."""
        return self._tables[family].items()

    def take_changed(self) -> dict[Family, set[Nlri]]:
        """The prefixes whose best set may have changed, or which came or went, since asked last.

        A prefix that changed and changed back in between is named as well.
        """
        changed = self._changed
        self._changed = {f: set() for f in Family}
        return changed

    @property
    def is_changed(self) -> bool:
        return any(self._changed.values())

    def refusals(self) -> tuple[Refusal, ...]:
        return tuple(r for peer in self._peers.values() for r in peer.refusals.values())

    def counts(self, peer: PeerKey, family: Family) -> Counts:
        state = self._peers.get(peer)
        return state.counts(family) if state is not None else Counts(0, 0, 0)

    def tally(self, peer: PeerKey) -> Tally:
        """Of everything that `counts` and `refused_for` say, for comparison."""
        state = self._peers.get(peer)
        return state.tally if state is not None else ()

    def refused_for(self, peer: PeerKey) -> Mapping[Reason, int]:
        """How many of a peer's prefixes were refused since its session came up, by reason."""
        state = self._peers.get(peer)
        return dict(state.refused_for) if state is not None else {}

    # What the sessions write.

    def peer_up(
        self,
        peer: PeerKey,
        *,
        external: bool,
        router_id: int,
        rule: ImportRule,
        keep: Collection[Family] = (),
        asn: int | None = None,
    ) -> None:
        """A session is established. Stale paths of families not in `keep` go (RFC 4724 §4.2).
        `asn`: the peer's; paths of an external one must begin with it."""
        state = self._peers.get(peer)
        if state is None:
            self._peers[peer] = AdjRibIn(peer, external, router_id, rule, asn)
            return
        for family in Family:
            if family not in keep:
                self.end_of_rib(peer, family)
        state.external, state.router_id, state.rule = external, router_id, rule
        state.asn = asn
        state.forget_refusals()

    def peer_down(self, peer: PeerKey, keep: Collection[Family] = ()) -> None:
        """The session is gone. Its paths of families in `keep` stay as stale ones, all others go;
        so do those that had been stale before."""
        state = self._peers.get(peer)
        if state is None:
            return
        for family in Family:
            if family in keep:
                self._remove_stale(state, family)
                state.stale[family] = self._held(state, family)
            else:
                self._remove_all(state, family)
        state.forget_refusals()
        if not any(state.accepted.values()):
            del self._peers[peer]
            self._owners.forget_next_hops(peer)
        self._settle_claims()

    def begin_refresh(self, peer: PeerKey, family: Family) -> None:
        """The peer is about to send everything again: what it leaves out will go (RFC 7313 §4)."""
        state = self._peers[peer]
        state.stale[family] = self._held(state, family)

    def end_of_rib(self, peer: PeerKey, family: Family) -> None:
        """The peer has sent all: what is still stale goes (RFC 4724 §4.2, RFC 7313 §4)."""
        state = self._peers.get(peer)
        if state is not None and state.stale[family]:
            self._remove_stale(state, family)
            self._settle_claims()

    def drop_stale(self, peer: PeerKey) -> None:
        """The restart timer has expired: all that is stale goes."""
        for family in Family:
            self.end_of_rib(peer, family)

    def keep_long(self, peer: PeerKey, family: Family) -> None:
        """The restart timer has expired, and the peer is waited for longer: what is stale stays as
        the last choice, but for what asks not to (RFC 9494 §4.2)."""
        state = self._peers.get(peer)
        if state is None:
            return
        table, stale = self._tables[family], state.stale[family]
        for path_id, nlris in list(stale.items()):
            told: dict[Path | None, list[Nlri]] = defaultdict(list)
            for nlri in nlris:
                told[table[nlri].by(peer, path_id)].append(nlri)
            for path, block in told.items():
                assert path is not None
                said = path.attributes
                last = None
                if not said.has(NO_LLGR):
                    said = replace(said, communities=(*said.communities, LLGR_STALE))
                    last = self._path(state, said, path.kind, path_id)
                if last is None:
                    self._remove(state, family, block, path_id)
                else:
                    self._put(state, family, block, last)
                    stale.setdefault(path_id, set()).update(block)
        self._settle_claims()

    def forget_peer(self, peer: PeerKey) -> None:
        """Nothing of the peer remains, stale or not."""
        self.peer_down(peer)

    def reimport(self, peer: PeerKey, rule: ImportRule) -> None:
        """Apply a changed rule to what the peer has told. What had been refused before is not
        known here: ask the peer for a route refresh as well."""
        state = self._peers.get(peer)
        if state is None:
            return
        state.rule = rule
        state.forget_refusals()
        self._is_settling = True  # nobody takes in between what is only told anew
        if not rule.of_itself:
            self._owners.forget_next_hops(peer)
        for family in Family:
            if not rule.of_itself:
                self._release(state, family, set().union(*self._held(state, family).values()))
            told: dict[Path | None, list[Nlri]] = defaultdict(list)
            for path_id, nlris in self._held(state, family).items():
                for nlri in nlris:
                    told[self._tables[family][nlri].by(peer, path_id)].append(nlri)
            stale = state.stale[family]
            # Told anew, one after the other: limits hold as if the peer had done it.
            self._remove_all(state, family)
            for path, block in told.items():
                assert path is not None
                self.announce(peer, family, block, path.attributes, path.path_id)
            held = {i: n & stale.get(i, set()) for i, n in self._held(state, family).items()}
            state.stale[family] = {i: nlris for i, nlris in held.items() if nlris}
        self._is_settling = False
        self._settle_claims()

    def affected(self, old: ImportRule, new: ImportRule) -> set[PeerKey] | None:
        """The peers with a path to a prefix that means something else by `new`; to all others it is
        as good as the same. None: everybody."""
        if old.bounds != new.bounds:
            return None
        sets: set[PathSet] = set()
        for family, table in self._tables.items():
            if table:
                changed = old.differs(new, family)
                sets |= {held for nlri, held in table.items() if changed(nlri)}
        found = {path.peer for held in sets for path in held.paths}
        # A block that another has to itself may fall to its next claimant by the change.
        for peer, state in self._peers.items():
            if any(old.differs(new, family)(nlri) for family, _, nlri in state.claims):
                found.add(peer)
        return found

    def take_rule(self, peer: PeerKey, rule: ImportRule) -> bool:
        """A changed rule that changes nothing of what is here. Whether something was refused that
        it may not refuse."""
        state = self._peers.get(peer)
        if state is None:
            return False
        state.rule = rule
        if not BY_LISTS.intersection(state.refused_for):
            return False
        state.forget_refusals()
        return True

    def announce(
        self,
        peer: PeerKey,
        family: Family,
        nlris: Sequence[Nlri],
        attributes: PathAttributes,
        path_id: int = 0,
    ) -> None:
        state = self._peers[peer]
        reason = why_refused(attributes, self.own, state.asn if state.external else None)
        if reason is None and state.rule.of_itself:
            reason = self._owners.take_next_hop(peer, attributes.next_hop, self._peers)
        if reason is not None:
            self._refuse(state, family, nlris, path_id, reason)
            self._settle_claims()
            return
        for kind, block in state.rule.classify(family, nlris):
            if isinstance(kind, Reason):
                self._refuse(state, family, block, path_id, kind)
                continue
            if not self.own.hosts.isdisjoint(block):
                ours = [nlri for nlri in block if nlri in self.own.hosts]
                self._refuse(state, family, ours, path_id, Reason.OWN_ADDRESS)
                block = [nlri for nlri in block if nlri not in self.own.hosts]
            if kind == "pods" and state.rule.of_itself:
                block = self._claim(state, family, block, attributes, path_id)
            path = self._path(state, attributes, kind, path_id)
            if path is None:
                self._refuse(state, family, block, path_id, Reason.TOO_LARGE)
            elif block:
                self._put(state, family, block, path)
        self._settle_claims()

    def withdraw(
        self, peer: PeerKey, family: Family, nlris: Iterable[Nlri], path_id: int = 0
    ) -> None:
        state = self._peers[peer]
        nlris = tuple(nlris)
        state.forget_refused(family, path_id, nlris)
        if state.claims:
            for nlri in nlris:
                state.claims.pop((family, path_id, nlri), None)
        self._remove(state, family, nlris, path_id)
        self._settle_claims()

    # What only one neighbour may have.

    def bind(self, claims: Mapping[tuple[Family, Nlri], PeerKey]) -> None:
        """Whose these pod blocks are, by the cluster's word; all that was said before is void. Who
        has another's loses it, and who waited for its own gets it."""
        self._owners.bind(claims)
        self._is_settling = True  # not before all have lost what they must
        for family, nlri, peer in list(self._owners.taken_wrongly()):
            for path in self._tables[family][nlri].of(peer):
                self.announce(peer, family, (nlri,), path.attributes, path.path_id)
        self._is_settling, self._has_freed = False, True
        self._settle_claims()

    def _claim(
        self,
        state: AdjRibIn,
        family: Family,
        nlris: Sequence[Nlri],
        attributes: PathAttributes,
        path_id: int,
    ) -> Sequence[Nlri]:
        """Those of the pod blocks that are the peer's from now on; the others are refused, and
        remembered for the day when their owner gives them up."""
        own: list[Nlri] = []
        others: list[Nlri] = []
        for nlri in nlris:
            is_own = self._owners.take_block(family, nlri, state.key)
            (own if is_own else others).append(nlri)
        if others:
            self._refuse(state, family, others, path_id, Reason.BLOCK_OF_ANOTHER)
            room = max(CLAIMS_KEPT - len(state.claims), 0)
            claims = ((family, path_id, nlri) for nlri in others[:room])
            state.claims.update(dict.fromkeys(claims, attributes))
        return own if others else nlris

    def _release(self, state: AdjRibIn, family: Family, nlris: Iterable[Nlri]) -> None:
        """The peer's pod blocks are free for those who wait for them."""
        freed = [self._owners.release_block(family, nlri, state.key) for nlri in nlris]
        self._has_freed |= any(freed)

    def _settle_claims(self) -> None:
        """What has become free goes to those who wait for it, in the order of their coming."""
        if self._is_settling:
            return
        self._is_settling = True
        while self._has_freed:
            self._has_freed = False
            for state in list(self._peers.values()):
                for (family, path_id, nlri), attributes in list(state.claims.items()):
                    if self._owners.take_block(family, nlri, state.key):
                        del state.claims[family, path_id, nlri]
                        self.announce(state.key, family, (nlri,), attributes, path_id)
        self._is_settling = False

    # How it is done: a block of prefixes at a time, parted by their present set.

    def _put(self, state: AdjRibIn, family: Family, nlris: Sequence[Nlri], path: Path) -> None:
        table, path_id = self._tables[family], path.path_id
        state.note_fresh(family, path_id, nlris)
        state.forget_refused(family, path_id, nlris)
        for old, block in _by_set(table, nlris):
            new = self._with(old, path)
            if new is old:
                continue
            moved = dict.fromkeys(block, new)
            if old is None or old.by(state.key, path_id) is None:
                if old is not None and len(old.of(state.key)) >= state.rule.max_paths:
                    state.note_refused(family, block, path_id, Reason.TOO_MANY_PATHS)
                    continue
                room = max(state.rule.max_prefixes - state.accepted[family], 0)
                if len(moved) > room:
                    beyond = list(moved)[room:]
                    moved = dict.fromkeys(list(moved)[:room], new)
                    state.note_refused(family, beyond, path_id, Reason.TOO_MANY)
                    if state.rule.of_itself and (old is None or not old.of(state.key)):
                        self._release(state, family, beyond)
                state.accepted[family] += len(moved)
            table.update(moved)
            if old is None or old.best != new.best:
                self._changed[family].update(moved)

    def _remove(
        self, state: AdjRibIn, family: Family, nlris: Collection[Nlri], path_id: int
    ) -> None:
        for old, block in _by_set(self._tables[family], tuple(nlris)):
            path = old.by(state.key, path_id) if old is not None else None
            if old is not None and path is not None:
                self._without(state, family, old, block, (path,))
            elif state.rule.of_itself and (old is None or not old.of(state.key)):
                self._release(state, family, block)
        state.note_fresh(family, path_id, nlris)

    def _remove_stale(self, state: AdjRibIn, family: Family) -> None:
        for path_id, nlris in list(state.stale[family].items()):
            self._remove(state, family, nlris, path_id)

    def _remove_all(self, state: AdjRibIn, family: Family) -> None:
        held = self._held(state, family)
        nlris: set[Nlri] = set().union(*held.values()) if len(held) != 1 else held.popitem()[1]
        for old, block in _by_set(self._tables[family], tuple(nlris)):
            assert old is not None
            self._without(state, family, old, block, old.of(state.key))
        state.stale[family] = {}

    def _without(
        self,
        state: AdjRibIn,
        family: Family,
        old: PathSet,
        nlris: Sequence[Nlri],
        gone: tuple[Path, ...],
    ) -> None:
        """Prefixes whose paths are `old` lose those in `gone`, which are the peer's."""
        table = self._tables[family]
        left = tuple(p for p in old.paths if p not in gone)
        block = tuple(dict.fromkeys(nlris))
        state.accepted[family] -= len(block) * len(gone)
        if left:
            new = self._set(left)
            table.update(dict.fromkeys(block, new))
            if old.best != new.best:
                self._changed[family].update(block)
        else:
            for nlri in block:
                del table[nlri]
            self._changed[family].update(block)
        if state.rule.of_itself and len(gone) == len(old.of(state.key)):
            self._release(state, family, block)

    def _refuse(
        self, state: AdjRibIn, family: Family, nlris: Sequence[Nlri], path_id: int, reason: Reason
    ) -> None:
        # A refused path replaces an accepted one as much as a good one would (RFC 4271 §3.1).
        self._remove(state, family, nlris, path_id)
        state.note_refused(family, nlris, path_id, reason)

    def _held(self, state: AdjRibIn, family: Family) -> dict[int, set[Nlri]]:
        """The peer's accepted prefixes, its Adj-RIB-In, by path identifier."""
        if not state.accepted[family]:
            return {}
        table = self._tables[family]
        theirs: dict[PathSet, tuple[int, ...]] = {}
        for held in set(table.values()):
            paths = held.of(state.key)
            if paths:
                theirs[held] = tuple(p.path_id for p in paths)
        if set(theirs.values()) == {(0,)}:
            return {0: {nlri for nlri, held in table.items() if held in theirs}}
        found: dict[int, set[Nlri]] = defaultdict(set)
        for nlri, held in table.items():
            for path_id in theirs.get(held, ()):
                found[path_id].add(nlri)
        return dict(found)

    def _path(
        self, state: AdjRibIn, attributes: PathAttributes, kind: Kind, path_id: int
    ) -> Path | None:
        """None: there is no room for further attributes of the peer."""
        key = (state.key, attributes, kind, state.external, state.router_id, path_id)
        path = self._known_paths.get(key)
        if path is None:
            if not self._has_room(state, items(attributes)):
                return None
            path = self._known_paths[key] = Path(*key)
        return path

    def _has_room(self, state: AdjRibIn, wanted: int) -> bool:
        """Counting all of a peer's attributes is worth it only now and then: when as many as an
        eighth of what it may have were asked for since."""
        most = state.rule.max_items
        state.items_left -= wanted
        if state.items + wanted > most and state.items_left < 0:
            self._steps.clear()  # they keep paths that nobody tells any more
            theirs = [p for p in list(self._known_paths.values()) if p.peer == state.key]
            state.items = sum(items(p.attributes) for p in theirs)
            state.items_left = most // 8
        if state.items + wanted > most:
            return False
        state.items += wanted
        return True

    def _set(self, paths: tuple[Path, ...]) -> PathSet:
        known = self._known_sets.get(paths)
        if known is None:
            known = self._known_sets[paths] = PathSet(paths)
        return known

    def _with(self, old: PathSet | None, path: Path) -> PathSet:
        """`old` with `path` in place of its former one."""
        step = (old, path)
        new = self._steps.get(step)
        if new is None:
            new = self._set(old.replaced(path) if old is not None else (path,))
            if len(self._steps) >= STEPS_KEPT:
                self._steps.clear()
            self._steps[step] = new
        return new


def _by_set(
    table: dict[Nlri, PathSet], nlris: Sequence[Nlri]
) -> Iterable[tuple[PathSet | None, Sequence[Nlri]]]:
    """The block, parted by the prefixes' present sets; mostly they have one and the same."""
    held = list(map(table.get, nlris))
    distinct = set(held)
    if len(distinct) == 1:
        return ((distinct.pop(), nlris),)
    parts: defaultdict[PathSet | None, list[Nlri]] = defaultdict(list)
    for old, nlri in zip(held, nlris, strict=True):
        parts[old].append(nlri)
    return parts.items()

"""The routes to services: which of them stand in the kernel, and by which group.

Used by `apply.groups` only, which says what a row's prefixes are and calls `put` and `delete` in
its pass; both are generators that do a batch between two yields. Routes are written before those
that are no longer wanted are deleted, and no group is deleted by which a route still stands
(`uses`): the kernel would take the route with it.

A route that somebody else made for the same prefix and metric is not replaced: that would be
deleting what is not ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from errno import EEXIST

from samepath.apply.row import Row
from samepath.model.net import Family, Nlri
from samepath.model.ours import PROTOCOL
from samepath.netlink.kernel import Kernel
from samepath.netlink.ops import ApplyError, DeleteRoutes, Op, PutRoutes

ROUTES_A_STEP = 4096

Failures = dict[Nlri, str]


class ServiceRoutes:
    def __init__(self, kernel: Kernel, metric: int) -> None:
        self.kernel = kernel
        self.metric = metric
        self.stands: dict[Family, dict[Nlri, int]] = {f: {} for f in Family}
        """Prefixes whose route stands in the kernel, with its group."""
        self.uses: Counter[int] = Counter()
        """How many routes stand by each group."""
        self.errors: dict[tuple[Family, Nlri], str] = {}
        """Routes that the kernel refused."""
        self.version = 0
        """Counts changes of what stands."""
        self.doomed: dict[Family, set[Nlri]] = {f: set() for f in Family}
        """To be deleted."""
        self._former: dict[tuple[Family, int], dict[Nlri, int]] = {}
        """(family, metric) -> routes by groups of ours with a metric of an earlier configuration"""

    # what is there

    def adopt(self, family: Family, nlri: Nlri, metric: int, group: int) -> None:
        """A route that the kernel holds."""
        self.uses[group] += 1
        if metric == self.metric:
            self.stands[family][nlri] = group
        else:
            self._former.setdefault((family, metric), {})[nlri] = group

    def lost(self, family: Family, nlris: Iterable[Nlri]) -> None:
        """The kernel holds these no more."""
        stands = self.stands[family]
        for nlri in nlris:
            group = stands.pop(nlri, None)
            if group is not None:
                self._unused(group)
                self.version += 1

    def _unused(self, group: int) -> None:
        self.uses[group] -= 1
        if not self.uses[group]:
            del self.uses[group]

    @property
    def _taken(self) -> str:
        return f"another route with metric {self.metric} is there already, and it is not ours"

    @property
    def taken(self) -> list[tuple[Family, Nlri]]:
        """Prefixes where somebody else's route stands."""
        return [prefix for prefix, text in self.errors.items() if text == self._taken]

    # what is wanted

    def doom(self, family: Family, nlris: Iterable[Nlri]) -> None:
        """Nobody wants these any more."""
        stands, doomed, errors = self.stands[family], self.doomed[family], self.errors
        for nlri in nlris:
            if nlri in stands:
                doomed.add(nlri)
            if errors:
                errors.pop((family, nlri), None)

    def keep(self, family: Family, nlris: Iterable[Nlri]) -> None:
        self.doomed[family].difference_update(nlris)

    @property
    def is_done(self) -> bool:
        """Nothing is left to be deleted."""
        return not self._former and not any(self.doomed.values())

    # the work

    def put(self, row: Row) -> Generator[None, None, bool]:
        """Write what is not yet routed by the row's group. False: something was refused."""
        nlris = list(row.unrouted)
        refused = False
        for start in range(0, len(nlris), ROUTES_A_STEP):
            part = nlris[start : start + ROUTES_A_STEP]
            failed = yield from self._put_part(row, part)
            done = [n for n in part if n not in failed] if failed else part
            row.unrouted.difference_update(done)
            self._note(row.family, done, row.id)
            self.keep(row.family, part)
            if self.errors:
                for nlri in part:
                    self.errors.pop((row.family, nlri), None)
            self.errors.update({(row.family, n): text for n, text in failed.items()})
            refused = refused or bool(failed)
        return not refused

    def _put_part(self, row: Row, part: list[Nlri]) -> Generator[None, None, Failures]:
        stands = self.stands[row.family]
        known = [n for n in part if n in stands]
        fresh = [n for n in part if n not in stands]
        failed = yield from self._write(row, known, exclusive=False)
        refused = yield from self._write(row, fresh, exclusive=True)
        if refused:
            # One of our own may stand there all the same: another driver's, or one that we had
            # taken for lost.
            ours = self.kernel.route_nexthops(row.family, PROTOCOL)
            own = [n for n in refused if (n, self.metric) in ours]
            failed |= {n: text for n, text in refused.items() if (n, self.metric) not in ours}
            failed |= yield from self._write(row, own, exclusive=False)
        return failed

    def _write(
        self, row: Row, nlris: list[Nlri], *, exclusive: bool
    ) -> Generator[None, None, Failures]:
        if not nlris:
            return {}
        op = PutRoutes(row.family, nlris, row.id, self.metric, exclusive=exclusive)
        error = yield from self._apply(op)
        if error is None:
            return {}
        texts = dict(error.failed) or dict.fromkeys(nlris, error.text)
        if exclusive and error.errno == EEXIST:
            texts = dict.fromkeys(texts, self._taken)
        return texts

    def _note(self, family: Family, nlris: list[Nlri], group: int) -> None:
        stands = self.stands[family]
        for nlri in nlris:
            old = stands.get(nlri)
            if old is not None:
                self._unused(old)
        stands.update(dict.fromkeys(nlris, group))
        self.uses[group] += len(nlris)
        self.version += bool(nlris)

    def delete(self, wanted: Mapping[Family, Mapping[Nlri, Row]]) -> Generator[None, None, bool]:
        """Delete what nobody wants. False: something was refused."""
        good = True
        for family, doomed in self.doomed.items():
            for part in _parts(doomed):
                failed = yield from self._delete(family, part, self.metric)
                done = [n for n in part if n not in failed]
                doomed.difference_update(done)
                self.lost(family, done)
                good = good and not failed
        for (family, metric), routes in list(self._former.items()):
            stands = self.stands[family]
            free = [n for n in routes if n in stands or n not in wanted[family]]
            for part in _parts(free):
                failed = yield from self._delete(family, part, metric)
                for nlri in part:
                    if nlri not in failed:
                        self._unused(routes.pop(nlri))
                good = good and not failed
            if not routes:
                del self._former[family, metric]
        return good

    def _delete(
        self, family: Family, part: list[Nlri], metric: int
    ) -> Generator[None, None, Failures]:
        error = yield from self._apply(DeleteRoutes(family, part, metric))
        if error is None:
            return {}
        return dict(error.failed) or dict.fromkeys(part, error.text)

    def _apply(self, op: Op) -> Generator[None, None, ApplyError | None]:
        steps = self.kernel.apply_steps([op])
        while True:
            try:
                next(steps)
            except StopIteration as done:
                error: ApplyError | None = done.value[0]
                return error
            yield


def _parts(nlris: Iterable[Nlri]) -> Iterator[list[Nlri]]:
    every = list(nlris)
    for start in range(0, len(every), ROUTES_A_STEP):
        yield every[start : start + ROUTES_A_STEP]

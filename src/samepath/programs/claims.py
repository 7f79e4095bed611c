"""Claims of blocks as BlockClaim objects: which node owns which block, by the API server.

Made by `programs.agent` for `programs.pods`, which calls it in threads; requests are made in the
agent's event loop. Who owns what is read from the agent's own watch, plus what we have learned by
our own requests since (a watch is a little late).

When blocks are claimed: wherever there is an IPPool of a family, and the node has no block of it
that gives addresses (`plan.blocks`). A cluster whose Nodes have `spec.podCIDRs`
(`--allocate-node-cidrs`) and that has no IPPool claims nothing: these are the nodes' blocks. With
both, the Node's own block is used first, and blocks are claimed when it is full. So nothing is to
be configured.

Never two owners. A claim's name follows from its block, so the server itself refuses a second one
of the same block. Blocks of different sizes may overlap (a pool's blockSize was changed, a pool
made anew); for these:

1. We create the claim, marked as pending. Pending claims are nobody's, but taken.
2. We list all claims, as they are after that (a consistent read, past all caches).
3. Any other claim that overlaps, pending or not, older or not: we delete ours, and it is theirs.
4. None: we take away the mark, under the version that we have made. Now the block is ours.

Suppose two overlapping claims were both confirmed. One was created later. Its owner listed after
creating it, so it saw the earlier one (which was there: a claim that is deleted cannot be
confirmed, its version is gone), and did not confirm. That needs no clock and no order of names. Two
that claim at the same moment may both back off, and then look for other blocks.

An answer that is lost leaves a claim in doubt: nothing is ours before a confirmation was answered.
What was begun and not ended is ended or deleted by the next claim of this node; every deletion
names uid and version, so one that arrives late deletes nothing that was confirmed since. A block
whose release is in doubt is not used again: it is deleted until that is answered.

The API server away: what is known stands, and ClaimsError says why nothing can be claimed.

Standards: Kubernetes API concepts (consistency of lists, preconditions of DELETE).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import math
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from samepath.cni.claims import ClaimsError
from samepath.kube.api import Api, ApiError
from samepath.kube.kinds import PENDING, claim_name
from samepath.kube.resources import BLOCK_CLAIMS
from samepath.kube.versions import is_older
from samepath.model.cluster import Object
from samepath.model.kinds import BlockClaim
from samepath.model.net import parse_prefix
from samepath.plan.addresses import Block

PATIENCE_S = 10.0
"""So long a claim, a release or a look may take."""
LEARNED_S = 60.0
"""What we have learned of others' claims beside the watch counts for so long."""
ASK_S = 10.0
"""A claim of ours that the watch does not show is asked for so often."""

DELETED_S = 3600.0
"""For so long we remember what we have deleted; no watch is as late as that."""

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(slots=True)
class _Claim:
    """A claim as the server has it."""

    name: str
    block: Block
    node: str
    pending: bool
    uid: str
    version: str
    learned_at: float = 0.0

    @property
    def owner(self) -> str:
        # No node has such a name: the block is taken, and nobody's as yet.
        return f"{self.node} (pending)" if self.pending else self.node


class Claiming:
    """The claims, for one node's requests at a time. Coroutines raise ApiError."""

    def __init__(self, api: Api, objects: Callable[[], Mapping[str, Object]]) -> None:
        self._api = api
        self._objects = objects
        self._learned: dict[str, _Claim] = {}
        """Newer than the watch, by name."""
        self._deleted: dict[str, float] = {}
        """uids of claims that are gone, though the watch may show them still, or even first come to
        them; and since when."""
        self._releasing: dict[str, _Claim] = {}
        """Claims of ours whose deletion is in doubt, by name."""

    def owners(self, now: float) -> dict[Block, str]:
        watched = self._watched()
        for name, claim in list(self._learned.items()):
            seen = watched.get(name)
            if seen is not None and not is_older(seen.version, claim.version):
                del self._learned[name]  # the watch has come so far
            elif now - claim.learned_at > LEARNED_S and claim.node not in self._nodes:
                del self._learned[name]  # another's, which has gone before the watch saw it
        for uid, since in list(self._deleted.items()):
            if now - since > DELETED_S:
                del self._deleted[uid]
        known = {n: c for n, c in watched.items() if c.uid not in self._deleted} | self._learned
        owners = {claim.block: claim.owner for claim in known.values()}
        for claim in self._releasing.values():
            owners[claim.block] = f"{claim.node} (released)"
        return owners

    _nodes: frozenset[str] = frozenset()
    """Our own name, as soon as we have claimed anything."""

    def _watched(self) -> dict[str, _Claim]:
        return {
            thing.name: _Claim(
                thing.name,
                Block(thing.family, thing.cidr),
                thing.node,
                thing.pending,
                thing.uid,
                thing.resource_version,
            )
            for thing in self._objects().values()
            if isinstance(thing, BlockClaim)
        }

    def has_doubts(self, now: float) -> bool:
        """Whether `settle` has something to ask."""
        return bool(self._releasing) or any(self._is_unseen(c, now) for c in self._learned.values())

    def _is_unseen(self, claim: _Claim, now: float) -> bool:
        return claim.node in self._nodes and now - claim.learned_at > ASK_S

    async def settle(self, now: float) -> None:
        """Ends what is in doubt."""
        for claim in list(self._releasing.values()):
            await self._delete(claim)
        for claim in list(self._learned.values()):
            if self._is_unseen(claim, now):
                found = await self._get(claim.name)
                if found is None or found.uid != claim.uid:
                    self._learned.pop(claim.name, None)
                else:
                    claim.learned_at = now

    async def claim(self, block: Block, node: str, now: float) -> str | None:
        self._nodes |= {node}
        await self._tidy(block, node, now)
        name = claim_name(block.family, block.nlri)
        ours = await self._create(name, block, node)
        if ours is None:
            found = await self._get(name)
            if found is None:
                raise ApiError(409, "Conflict", f"the claim {name} comes and goes")
            if found.node != node:
                self._learn(found, now)
                return found.node
            # By an earlier request of ours, whose answer was lost; or from before a restart.
            ours = found
        if ours.pending:
            other = await self._other(ours)
            if other is not None:
                self._learn(other, now)
                left = await self._back_off(ours)
                if left is None:
                    return other.node
                if left.pending:
                    raise ApiError(409, "Conflict", f"somebody changes the claim {name}")
                ours = left  # a confirmation of ours has arrived that was sent when it was alone
        self._learn(await self._confirm(ours), now)
        return None

    async def _tidy(self, block: Block, node: str, now: float) -> None:
        """What an earlier claim has left."""
        await self.settle(now)
        for claim in self._watched().values():
            is_left = claim.pending and claim.node == node and claim.block != block
            newer = self._learned.get(claim.name)
            # What was confirmed since is no leftover.
            is_old_news = newer is not None and newer.uid == claim.uid and not newer.pending
            if is_left and claim.uid not in self._deleted and not is_old_news:
                await self._back_off(claim)

    async def _create(self, name: str, block: Block, node: str) -> _Claim | None:
        body = {
            "apiVersion": BLOCK_CLAIMS.api_version,
            "kind": BLOCK_CLAIMS.kind,
            "metadata": {"name": name, "annotations": {PENDING: "true"}},
            "spec": {"cidr": str(block), "node": node},
        }
        try:
            return _decode(await self._api.create(BLOCK_CLAIMS, body))
        except ApiError as error:
            if error.already_exists:
                return None
            raise

    async def _get(self, name: str) -> _Claim | None:
        try:
            return _decode(await self._api.get(BLOCK_CLAIMS, name))
        except ApiError as error:
            if error.is_not_found:
                return None
            raise

    async def _other(self, ours: _Claim) -> _Claim | None:
        """A claim that overlaps ours."""
        items, _ = await self._api.list(BLOCK_CLAIMS)
        for item in items:
            other = _decode(item)
            if other is not None and other.uid != ours.uid and other.block.overlaps(ours.block):
                return other
        return None

    async def _confirm(self, ours: _Claim) -> _Claim:
        """The version changes in any case: what we sent before and is still on its way is void."""
        annotations = {PENDING: None, CONFIRMED: f"{time.time():.6f}"}
        about = {"uid": ours.uid, "resourceVersion": ours.version, "annotations": annotations}
        found = _decode(await self._api.patch(BLOCK_CLAIMS, ours.name, {"metadata": about}))
        if found is None or found.pending:
            raise ApiError(0, "", f"the claim {ours.name} is not as we have written it")
        return found

    async def _back_off(self, ours: _Claim) -> _Claim | None:
        """What is left of it: something that has been changed since."""
        try:
            await self._api.delete(
                BLOCK_CLAIMS, ours.name, uid=ours.uid, resource_version=ours.version
            )
        except ApiError as error:
            if error.is_conflict:
                found = await self._get(ours.name)
                if found is not None and found.uid == ours.uid:
                    return found
            elif not error.is_not_found:
                raise
        self._deleted[ours.uid] = time.monotonic()
        return None

    async def release(self, block: Block, node: str) -> bool:
        self._nodes |= {node}
        name = claim_name(block.family, block.nlri)
        found = await self._get(name)
        if found is None or found.node != node:
            return False
        # From here on it is not ours to use, whatever the answer: it may be gone already.
        self._releasing[name] = found
        with contextlib.suppress(ApiError):
            await self._delete(found)
        return True

    async def _delete(self, claim: _Claim) -> None:
        """Until it is known to be gone."""
        try:
            await self._api.delete(
                BLOCK_CLAIMS, claim.name, uid=claim.uid, resource_version=claim.version
            )
        except ApiError as error:
            if error.is_conflict:
                found = await self._get(claim.name)
                if found is not None and found.uid == claim.uid:
                    self._releasing[claim.name] = found  # somebody has annotated it
                    raise
            elif not error.is_not_found:
                raise
        self._deleted[claim.uid] = time.monotonic()
        self._learned.pop(claim.name, None)
        self._releasing.pop(claim.name, None)

    def _learn(self, claim: _Claim, now: float) -> None:
        claim.learned_at = now
        self._learned[claim.name] = claim


CONFIRMED = "samepath.dev/confirmed"
"""Annotation: when the node has made sure that the block is its own; for people."""


class KubeClaims:
    """`cni.claims.BlockClaims` over BlockClaim objects."""

    def __init__(
        self,
        api: Api,
        loop: asyncio.AbstractEventLoop,
        objects: Callable[[], Mapping[str, Object]],
        *,
        in_sync: Callable[[], bool] = lambda: True,
    ) -> None:
        """`api` lives in `loop`, which is not the caller's thread. `objects`: the source's, which
        is `in_sync`: before that nobody knows who owns what."""
        self._loop = loop
        self._in_sync = in_sync
        self._claiming = Claiming(api, objects)
        self._turn = threading.Lock()
        self._asked_at = -math.inf
        """When it was tried last to end doubts."""

    def owners(self) -> Mapping[Block, str]:
        with self._turn:
            if not self._in_sync():
                raise ClaimsError("BlockClaims: the API server has not been read as yet")
            now = time.monotonic()
            # A server that is away must not hold up every look for as long as it may take.
            if now - self._asked_at >= ASK_S and self._claiming.has_doubts(now):
                self._asked_at = now
                with contextlib.suppress(ClaimsError):  # what is known stands
                    self._wait(self._claiming.settle(now))
            return self._claiming.owners(now)

    def claim(self, block: Block, node: str) -> str | None:
        with self._turn:
            return self._wait(self._claiming.claim(block, node, time.monotonic()))

    def release(self, block: Block, node: str) -> bool:
        with self._turn:
            return self._wait(self._claiming.release(block, node))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(PATIENCE_S):
                return await work

        limit = limited()
        try:
            future = asyncio.run_coroutine_threadsafe(limit, self._loop)
        except RuntimeError as error:  # the loop has ended, and so will we
            limit.close()
            work.close()
            raise ClaimsError(f"BlockClaims: {error}") from error
        try:
            return future.result(PATIENCE_S + 1.0)
        except ApiError as error:
            raise ClaimsError(f"BlockClaims: {error}") from error
        except (TimeoutError, concurrent.futures.CancelledError) as error:
            future.cancel()
            raise ClaimsError(
                f"BlockClaims: the API server has not answered in {PATIENCE_S:g} s"
            ) from error


def _decode(body: Json) -> _Claim | None:
    """None: its block cannot be read, so it is nobody's."""
    about, spec = body["metadata"], body.get("spec") or {}
    try:
        block = Block(*parse_prefix(str(spec.get("cidr"))))
    except ValueError:
        return None
    pending = (about.get("annotations") or {}).get(PENDING, "false") != "false"
    return _Claim(
        about["name"], block, str(spec.get("node")), pending, about["uid"], about["resourceVersion"]
    )

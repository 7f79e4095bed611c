"""Claims of blocks by nodes at once: never two owners, whatever is late, lost or killed."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from samepath.kube.api import ApiError, Unreachable
from samepath.kube.kinds import PENDING, claim_name
from samepath.kube.objects import object_key, parse_object
from samepath.kube.resources import BLOCK_CLAIMS
from samepath.model.documents import Document
from samepath.model.net import parse_prefix
from samepath.plan.addresses import Block
from samepath.programs.claims import Claiming
from tests.programs.controller_world import merge

Json = dict[str, Any]
BLOCKS = [
    Block(*parse_prefix(text))
    for text in ("10.0.0.0/28", "10.0.0.16/28", "10.0.0.0/27", "10.0.0.0/26", "10.0.0.32/27")
]


class Server:
    """BlockClaims. Each request waits a while before it is done, and again before it is answered;
    some answers are lost, and some requests arrive when nobody waits for them any more."""

    def __init__(self, chance: random.Random, trouble: float) -> None:
        self.chance, self.trouble = chance, trouble
        self.version = 10
        self.claims: dict[str, Json] = {}
        self.history: list[dict[str, Json]] = [{}]
        self.late: set[asyncio.Task[None]] = set()

    def _note(self) -> None:
        self.history.append(dict(self.claims))
        owned = [
            (Block(*parse_prefix(c["spec"]["cidr"])), c["spec"]["node"])
            for c in self.claims.values()
            if PENDING not in c["metadata"]["annotations"]
        ]
        for i, (block, node) in enumerate(owned):
            for other, owner in owned[i + 1 :]:
                assert node == owner or not block.overlaps(other), (
                    f"{block} {node}, {other} {owner}"
                )

    async def _do(self, act: Any, *, write: bool = True) -> Any:
        async def wait(most: int) -> None:
            for _ in range(self.chance.randrange(most)):
                await asyncio.sleep(0)

        await wait(8)
        if self.chance.random() < self.trouble:
            way = self.chance.randrange(3)
            if way == 0 and write:
                with contextlib.suppress(ApiError):
                    act()
            elif way == 1 and write:

                async def arrive() -> None:
                    await wait(200)
                    with contextlib.suppress(ApiError):
                        act()

                task = asyncio.create_task(arrive())
                self.late.add(task)
            raise Unreachable(0, "", "no answer")
        result = act()
        await wait(8)
        return copy.deepcopy(result)

    def _put(self, body: Json) -> Json:
        self.version += 1
        body = copy.deepcopy(body)
        body["metadata"]["resourceVersion"] = str(self.version)
        self.claims[body["metadata"]["name"]] = body
        self._note()
        return body

    def _found(self, name: str) -> Json:
        if name not in self.claims:
            raise ApiError(404, "NotFound", name)
        return self.claims[name]

    async def create(self, resource: Any, body: Json) -> Json:
        assert resource is BLOCK_CLAIMS

        def act() -> Json:
            if body["metadata"]["name"] in self.claims:
                raise ApiError(409, "AlreadyExists", "it exists")
            return self._put(merge(body, {"metadata": {"uid": f"u{self.version}"}}))

        return await self._do(act)

    async def get(self, resource: Any, name: str) -> Json:
        return await self._do(lambda: self._found(name), write=False)

    async def list(self, resource: Any) -> tuple[list[Json], str]:
        return await self._do(lambda: (list(self.claims.values()), str(self.version)), write=False)

    async def patch(self, resource: Any, name: str, patch: Json) -> Json:
        def act() -> Json:
            before = self._found(name)
            for field in ("uid", "resourceVersion"):
                if patch["metadata"].get(field) not in (None, before["metadata"][field]):
                    raise ApiError(409, "Conflict", field)
            return self._put(merge(before, patch))

        return await self._do(act)

    async def delete(self, resource: Any, name: str, *, uid: str, resource_version: str) -> None:
        def act() -> None:
            about = self._found(name)["metadata"]
            if (about["uid"], about["resourceVersion"]) != (uid, resource_version):
                raise ApiError(409, "Conflict", "precondition")
            del self.claims[name]
            self.version += 1
            self._note()

        await self._do(act)


class Node:
    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name = server, name
        self.at = 0
        self.begin()

    def begin(self) -> None:
        api: Any = self.server
        self.claiming = Claiming(api, self.objects)

    def objects(self) -> dict[str, Any]:
        """The watch: late, but never going back."""
        last = len(self.server.history) - 1
        self.at = self.server.chance.randint(self.at, last)
        found = (
            parse_object(Document("", 0, c, {})) for c in self.server.history[self.at].values()
        )
        return {object_key(thing): thing for thing in found if thing is not None}

    def own(self) -> list[Block]:
        return [b for b, o in self.claiming.owners(0.0).items() if o == self.name]

    def check(self) -> None:
        """What we take for ours is ours."""
        for block in self.own():
            claim = self.server.claims.get(claim_name(block.family, block.nlri))
            assert claim is not None, f"{self.name} takes {block} for its own, which is nobody's"
            assert claim["spec"]["node"] == self.name
            assert PENDING not in claim["metadata"]["annotations"]

    async def live(self, turns: int) -> None:
        chance = self.server.chance
        for _ in range(turns):
            own = self.own()
            try:
                if own and chance.random() < 0.4:
                    await self.claiming.release(chance.choice(own), self.name)
                elif chance.random() < 0.2:
                    await self.claiming.settle(0.0)
                else:
                    await self.claiming.claim(chance.choice(BLOCKS), self.name, 0.0)
            except ApiError:
                pass
            self.check()


@settings(max_examples=150, deadline=None)
@example(785, 3, 0.2)  # another's pending claim that turned out to be our own, from before
@given(st.integers(), st.integers(2, 4), st.sampled_from([0.0, 0.2]))
def test_never_two_owners(seed: int, count: int, trouble: float) -> None:
    asyncio.run(_history(random.Random(seed), count, trouble))


async def _history(chance: random.Random, count: int, trouble: float) -> None:
    server = Server(chance, trouble)
    nodes = [Node(server, f"n{i}") for i in range(count)]
    for _ in range(3):
        tasks = [asyncio.create_task(node.live(15)) for node in nodes]
        if chance.random() < 0.5:
            # One is killed in the middle of something, and begins anew with what the watch says.
            for _ in range(chance.randrange(150)):
                await asyncio.sleep(0)
            victim = chance.randrange(count)
            tasks[victim].cancel()
            await asyncio.gather(tasks[victim], return_exceptions=True)
            while server.late:
                await server.late.pop()
            nodes[victim].begin()
            nodes[victim].at = len(server.history) - 1
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
    while server.late:
        await server.late.pop()
    # In quiet times everybody gets what is free, and nothing is left of what was begun.
    server.trouble = 0.0
    for node in nodes:
        node.at = len(server.history) - 1
        for _ in range(2):
            with contextlib.suppress(ApiError):
                await node.claiming.claim(BLOCKS[-1], node.name, 0.0)
            node.at = len(server.history) - 1
    assert not [c for c in server.claims.values() if PENDING in c["metadata"]["annotations"]]

"""Claims that go while their pods live: claimed again, or lost aloud."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_agent_pods import POOL, World, addresses_of, reaches, wait

from samepath.cni.claims import ClaimsError
from samepath.model.net import parse_address, parse_prefix
from samepath.plan.addresses import Block
from samepath.programs.kept_claims import KeptClaims, Needed

A = parse_address


def block(text: str) -> Block:
    return Block(*parse_prefix(text))


FIRST, SECOND = block("10.244.0.0/26"), block("10.244.0.64/26")


class Store:
    """Claims in memory."""

    def __init__(self, owners: dict[Block, str]) -> None:
        self.of = owners
        self.gone = False
        self.asked = 0

    def owners(self) -> Mapping[Block, str]:
        if self.gone:
            raise ClaimsError("gone")
        return dict(self.of)

    def claim(self, block: Block, node: str) -> str | None:
        self.asked += 1
        for other, owner in self.of.items():
            if block.overlaps(other):
                return None if (other, owner) == (block, node) else owner
        self.of[block] = node
        return None

    def release(self, block: Block, node: str) -> bool:
        return self.of.pop(block, None) is not None


def pod(text: str, size: int | None) -> Needed:
    return Needed(A(text), "default/web", size)


def kept(store: Store, *needed: Needed) -> KeptClaims:
    return KeptClaims(store, "n1", lambda: needed)


def test_a_claim_that_is_gone_is_made_again_before_anybody_sees() -> None:
    store = Store({SECOND: "n2"})
    claims = kept(store, pod("10.244.0.5", 26), pod("10.244.0.6", 26))
    assert claims.owners() == {FIRST: "n1", SECOND: "n2"}
    assert store.of == {FIRST: "n1", SECOND: "n2"}
    assert claims.lost == {}


def test_a_block_that_another_has_by_now_is_lost() -> None:
    store = Store({FIRST: "n1"})
    claims = kept(store, pod("10.244.0.5", 26))
    claims.owners()
    store.of = {FIRST: "n2"}
    for _ in range(5):
        assert claims.owners() == {FIRST: "n2"}
    assert store.asked == 0, "it is known"
    assert claims.lost == {pod("10.244.0.5", 26): "n2"}
    assert claims.text.endswith("default/web has 10.244.0.5 of a block that is n2's by now")
    store.of = {}
    assert claims.owners() == {FIRST: "n1"}, "n2 has given it back"
    assert claims.lost == {}


def test_the_block_is_the_one_that_we_had_though_the_pool_is_cut_otherwise_now() -> None:
    store = Store({FIRST: "n1"})
    needed = [pod("10.244.0.5", 26)]
    claims = KeptClaims(store, "n1", lambda: needed)
    claims.owners()
    store.of, needed[:] = {}, [pod("10.244.0.5", 28)]
    assert claims.owners() == {FIRST: "n1"}
    store.of, needed[:] = {}, [pod("10.244.0.5", None)]
    assert claims.owners() == {FIRST: "n1"}, "nor does it matter that the pool is gone"


def test_an_address_of_no_pool_that_we_know_nothing_of_is_lost() -> None:
    claims = kept(Store({}), pod("10.9.0.5", None))
    assert claims.owners() == {}
    assert claims.lost == {pod("10.9.0.5", None): ""}
    assert claims.text.endswith("10.9.0.5, of no pool")


def test_claims_that_cannot_be_read_say_nothing() -> None:
    store = Store({})
    store.gone = True
    claims = kept(store, pod("10.244.0.5", 26))
    with pytest.raises(ClaimsError):
        claims.owners()
    assert store.of == {}


@given(
    st.dictionaries(st.integers(0, 7), st.sampled_from(["n1", "n2"])),
    st.sets(st.integers(0, 255)),
)
def test_every_living_pod_is_in_a_block_of_ours_or_lost_to_another(
    owned: dict[int, str], pods: set[int]
) -> None:
    before = {block(f"10.244.0.{n * 32}/27"): node for n, node in owned.items()}
    store = Store(dict(before))
    claims = kept(store, *(pod(f"10.244.0.{n}", 27) for n in pods))
    after = claims.owners()
    assert after == store.of
    assert before.items() <= after.items(), "nobody else's claim is touched"
    for n in pods:
        needed = pod(f"10.244.0.{n}", 27)
        (owner,) = {o for b, o in after.items() if b.contains(needed.address)}
        assert claims.lost.get(needed, "n1") == owner


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    try:
        world.up()
        yield world
    finally:
        world.down()


@pytest.mark.netns
@pytest.mark.timeout(360)
def test_claims_that_somebody_deletes_under_living_pods(world: World) -> None:
    claims = world.folder / "shared" / "claims.json"
    claims.parent.mkdir()
    (world.folder / "manifests" / "pool.yaml").write_text(yaml.safe_dump(POOL))
    world.start(pod_cidrs=(), block_claims=str(claims))
    (address,) = addresses_of(world.add("one"))

    def rewrite(**owner: str) -> None:
        document = json.loads(claims.read_text())
        document.pop("checksum")
        document["blocks"] = {b: n for b in document["blocks"] for n in owner.values()}
        fresh = claims.with_suffix(".fresh")
        fresh.write_text(json.dumps(document))
        fresh.rename(claims)

    def ours() -> list[str]:
        return [b["block"] for b in world.ask("status")["blocks"] if b["ours"] and b["told"]]

    wait(lambda: len(ours()) == 1, why=world.log)
    (mine,) = ours()
    rewrite()
    wait(lambda: mine in json.loads(claims.read_text())["blocks"], why=world.log)
    assert ours() == [mine], "claimed again"
    assert "claimed again" in world.log()
    rewrite(owner="n2")
    wait(lambda: mine not in ours(), why=world.log)
    said = world.view()["errors"]["lost blocks"]
    assert address in said
    assert "n2's by now" in said
    assert reaches(world, address), "the pod itself lives"
    (other,) = addresses_of(world.add("two"))
    assert not block(mine).contains(A(other)), "a new pod has another block"
    rewrite()
    wait(lambda: "lost blocks" not in world.view()["errors"], why=world.log)
    assert mine in ours()

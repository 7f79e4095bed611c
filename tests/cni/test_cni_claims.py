"""Claims: never two owners, whoever asks at once and whoever is killed; damage is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samepath.cni import claims as claims_module
from samepath.cni.addresses import AddressError
from samepath.cni.blocks import Blocks
from samepath.cni.claims import Claims, ClaimsError, claim_next
from samepath.cni.store import Store
from samepath.model.cluster import Cluster, IPPool, Node, make_cluster
from samepath.model.net import Family, address_text, parse_prefix
from samepath.plan.addresses import Block
from samepath.plan.blocks import Gives, Next, Situation


def block(text: str) -> Block:
    return Block(*parse_prefix(text))


def pool(cidr: str, size: int = 26, *, disabled: bool = False, name: str = "p") -> IPPool:
    family, nlri = parse_prefix(cidr)
    return IPPool(name, family, nlri, size, disabled=disabled)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "claims.json"


def test_claim_and_release(path: Path) -> None:
    claims = Claims(path)
    assert claims.owners() == {}
    assert claims.claim(block("10.1.0.0/26"), "n1") is None
    assert claims.claim(block("10.1.0.0/26"), "n1") is None, "again"
    assert claims.claim(block("10.1.0.0/26"), "n2") == "n1"
    assert claims.claim(block("10.1.0.0/24"), "n2") == "n1", "overlaps"
    assert claims.claim(block("10.1.0.32/28"), "n2") == "n1", "overlaps"
    assert Claims(path).claim(block("fd00::/122"), "n2") is None
    assert claims.owners() == {block("10.1.0.0/26"): "n1", block("fd00::/122"): "n2"}
    assert not claims.release(block("10.1.0.0/26"), "n2")
    assert not claims.release(block("10.9.0.0/26"), "n1")
    assert claims.release(block("10.1.0.0/26"), "n1")
    assert Claims(path).owners() == {block("fd00::/122"): "n2"}


def test_people_can_read_and_mend_it(path: Path) -> None:
    claims = Claims(path)
    claims.claim(block("10.1.0.0/26"), "n1")
    document = json.loads(path.read_text())
    assert document["blocks"] == {"10.1.0.0/26": "n1"}
    document["blocks"]["10.1.0.64/26"] = "n2"
    path.write_text(json.dumps(document))
    with pytest.raises(ClaimsError, match="its checksum is wrong"):
        claims.owners()
    del document["checksum"]
    path.write_text(json.dumps(document))
    assert claims.owners()[block("10.1.0.64/26")] == "n2"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"samepath": "blocks", "version": 2, "blocks": {}}',
        '{"samepath": "blocks", "version": 1, "blocks": {"10.0.0.1/26": "n1"}}',
        '{"samepath": "blocks", "version": 1, "blocks": {"10.0.0.0/26": 5}}',
        '{"samepath": "blocks", "version": 1, "blocks": {"10.0.0.0/26": "a", "10.0.0.0/24": "b"}}',
        '{"samepath": "blocks", "version": 1, "blocks": {"fd00::/122": "a", "FD00::/122": "b"}}',
        '{"samepath": "blocks", "version": 1, "blocks": ' + "[" * 5000,
    ],
)
def test_damage_is_refused_and_never_overwritten(path: Path, text: str) -> None:
    path.write_text(text)
    claims = Claims(path)
    for attempt in (
        claims.owners,
        lambda: claims.claim(block("10.1.0.0/26"), "n1"),
        lambda: claims.release(block("10.1.0.0/26"), "n1"),
    ):
        with pytest.raises(ClaimsError, match="put back a copy, or mend it by hand"):
            attempt()
    assert path.read_text() == text


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.booleans())
def test_an_octet_that_changed_is_found(place: int, value: int, cut: bool, path: Path) -> None:
    path.unlink(missing_ok=True)
    for number in range(4):
        Claims(path).claim(block(f"10.1.{number}.0/26"), f"n{number}")
    expected = Claims(path).owners()
    octets = bytearray(path.read_bytes())
    place %= len(octets)
    if cut:
        del octets[place:]
    else:
        octets[place] = value
    path.write_bytes(octets)
    found = expected
    try:
        found = Claims(path).owners()
    except ClaimsError as error:
        assert str(path) in str(error)  # noqa: PT017
    assert found == expected


def test_a_share_that_is_not_mounted(tmp_path: Path) -> None:
    path = tmp_path / "share" / "claims.json"
    with pytest.raises(ClaimsError, match="No such file"):
        Claims(path).owners()
    path.parent.mkdir()
    claims = Claims(path)
    claims.claim(block("10.1.0.0/26"), "n1")
    path.unlink()
    for attempt in (claims.owners, lambda: claims.claim(block("10.1.0.64/26"), "n1")):
        with pytest.raises(ClaimsError, match="No such file"):
            attempt()
    assert not path.exists()


def test_a_lock_that_is_not_given(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "LOCK_WAIT_S", 0.05)
    claims = Claims(path)
    with claims._locked(), pytest.raises(ClaimsError, match="was not to be had"):
        Claims(path).claim(block("10.1.0.0/26"), "n1")


CROWD = make_cluster([pool("10.1.0.0/21")])
"""32 blocks."""


def _crowd(path: Path, node: str, seed: int) -> None:
    """Claims and gives back without end."""
    chance = random.Random(seed)
    claims = Claims(path)
    while True:
        mine = [b for b, owner in claims.owners().items() if owner == node]
        if mine and chance.random() < 0.5:
            assert claims.release(chance.choice(mine), node)
        else:
            claim_next(claims, lambda owners: Situation(CROWD, node, (), owners), Family.IPV4)


def test_many_processes_and_kills(path: Path) -> None:
    """Whenever the file is looked at it is whole, and no block is lost or owned twice: each process
    only ever gives back what it finds to be its own."""
    looked = 0
    for turn in range(6):
        pids = []
        for number in range(4):
            pid = os.fork()
            if pid == 0:
                try:
                    _crowd(path, f"n{number}", turn * 10 + number)
                finally:
                    os._exit(1)
            pids.append(pid)
        end = time.monotonic() + 0.15
        while time.monotonic() < end:
            assert set(Claims(path).owners().values()) <= {f"n{i}" for i in range(4)}
            looked += 1
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == signal.SIGKILL, "an assertion in the child"
    assert looked > 50
    Claims(path).claim(block("10.9.0.0/26"), "n9")


def test_every_block_of_a_pool_has_one_owner(path: Path) -> None:
    """Compare and swap: more claimants than blocks, all at once."""
    got: list[tuple[str, Block]] = []
    exhausted: list[str] = []

    def work(node: str) -> None:
        claims = Claims(path)
        for _ in range(4):
            choice = claim_next(
                claims, lambda owners: Situation(CROWD, node, (), owners), Family.IPV4
            )
            if choice.why is Next.CLAIM and choice.block is not None:
                got.append((node, choice.block))
            else:
                exhausted.append(node)

    threads = [threading.Thread(target=work, args=(f"n{i}",)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(got), len(exhausted)) == (32, 8)
    assert {b: n for n, b in got} == Claims(path).owners()
    assert len({b for _, b in got}) == 32


# -- A node's blocks ---------------------------------------------------------------------------


class Site:
    """Nodes that share claims, in one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.claims = Claims(folder / "claims.json")

    def node(self, name: str, cluster: Cluster) -> tuple[Blocks, Store]:
        store = Store(self.folder / f"{name}.db", "boot")
        blocks = Blocks(store, name, claims=self.claims)
        blocks.renew(cluster)
        return blocks, store


def test_blocks_come_as_they_are_needed_and_go_when_empty(tmp_path: Path) -> None:
    cluster = make_cluster([pool("10.1.0.0/24", 30), pool("fd00::/64", 122, name="six")])
    blocks, _ = Site(tmp_path).node("n1", cluster)
    addresses = blocks.addresses
    assert blocks.own == ()
    assert addresses.stock().text == "", "there is something to claim"
    for number in range(7):
        addresses.take((f"c{number}", "eth0"), "pods")
    owned = [o.block for o in blocks.own]
    assert [b.family for b in owned].count(Family.IPV4) == 3, "3 addresses each"
    assert [b.family for b in owned].count(Family.IPV6) == 1
    assert set(blocks.claims.owners()) == set(owned)  # type: ignore[union-attr]
    for number in range(7):
        addresses.release((f"c{number}", "eth0"))
    assert blocks.give_back(0.0, grace_s=60) == ()
    assert blocks.give_back(59.0, grace_s=60) == ()
    given = blocks.give_back(60.0, grace_s=60)
    assert len(given) == 2, "never the last one"
    assert len(blocks.own) == 2
    assert set(blocks.claims.owners()) == set(owned) - set(given)  # type: ignore[union-attr]
    assert blocks.give_back(600.0, grace_s=60) == ()


def test_a_block_that_was_used_meanwhile_waits_anew(tmp_path: Path) -> None:
    blocks, _ = Site(tmp_path).node("n1", make_cluster([pool("10.1.0.0/24", 31)]))
    for number in range(4):
        blocks.addresses.take((f"c{number}", "eth0"), "pods")
    for number in range(4):
        blocks.addresses.release((f"c{number}", "eth0"))
    assert blocks.give_back(0.0, grace_s=60) == ()
    blocks.addresses.take(("c", "eth0"), "pods")
    used = next(f.own.block for f in blocks.addresses.stock().fills if f.in_use)
    assert blocks.give_back(50.0, grace_s=60) == ()
    blocks.addresses.release(("c", "eth0"))
    (given,) = blocks.give_back(100.0, grace_s=60)
    assert given != used


def test_blocks_of_a_pool_that_went_stay_while_in_use(tmp_path: Path) -> None:
    blocks, _ = Site(tmp_path).node("n1", make_cluster([pool("10.1.0.0/24")]))
    made = blocks.addresses.take(("c", "eth0"), "pods")
    assert blocks.renew(make_cluster([pool("10.2.0.0/24")]))
    assert [o.gives for o in blocks.own] == [Gives.NO_POOL]
    other = blocks.addresses.take(("d", "eth0"), "pods")
    assert address_text(other.addresses[0]).startswith("10.2.0.")
    blocks.give_back(0.0, grace_s=1)
    assert blocks.give_back(10.0, grace_s=1) == ()
    blocks.addresses.release(made.key)
    blocks.give_back(20.0, grace_s=1)
    (given,) = blocks.give_back(30.0, grace_s=1)
    assert given.contains(made.addresses[0])


def test_claims_that_cannot_be_read_change_nothing(tmp_path: Path) -> None:
    cluster = make_cluster([pool("10.1.0.0/24")])
    site = Site(tmp_path)
    blocks, _ = site.node("n1", cluster)
    blocks.addresses.take(("c", "eth0"), "pods")
    before = blocks.own
    good = site.claims.path.read_text()
    site.claims.path.write_text("{")
    assert not blocks.renew(cluster)
    assert blocks.own == before
    assert "the claims are damaged" in blocks.trouble
    blocks.addresses.take(("d", "eth0"), "pods")
    assert "damaged" in (blocks.claim(Family.IPV4) or "")
    site.claims.path.write_text(good)
    blocks.renew(cluster)
    assert blocks.trouble == ""


def test_nodes_do_not_claim_what_a_node_has_by_its_manifest(tmp_path: Path) -> None:
    fixed = Node("n2", (parse_prefix("10.1.0.0/25"), parse_prefix("10.1.0.128/26")))
    blocks, _ = Site(tmp_path).node("n1", make_cluster([pool("10.1.0.0/24"), fixed]))
    made = blocks.addresses.take(("c", "eth0"), "pods")
    assert block("10.1.0.192/26").contains(made.addresses[0])


def test_why_there_is_no_more_is_told(tmp_path: Path) -> None:
    blocks, _ = Site(tmp_path).node("n1", make_cluster([pool("10.1.0.0/32", 32)]))
    blocks.addresses.take(("c", "eth0"), "pods")
    with pytest.raises(AddressError, match=r"every block of the IPPools .* is taken \(p\)"):
        blocks.addresses.take(("d", "eth0"), "pods")
    assert "no ipv4 address is free" in blocks.addresses.stock().text


def test_another_store_of_claims_will_do(tmp_path: Path) -> None:
    """The protocol is all that is needed of it."""

    class Memory:
        def __init__(self) -> None:
            self.known: dict[Block, str] = {}

        def owners(self) -> Mapping[Block, str]:
            return dict(self.known)

        def claim(self, block: Block, node: str) -> str | None:
            owner = self.known.setdefault(block, node)
            return None if owner == node else owner

        def release(self, block: Block, node: str) -> bool:
            return self.known.pop(block, None) == node

    store: Any = Store(tmp_path / "a.db", "boot")
    blocks = Blocks(store, "n1", claims=Memory())
    blocks.renew(make_cluster([pool("10.1.0.0/24")]))
    assert blocks.addresses.take(("c", "eth0"), "pods").addresses

"""Addresses and store together, over kills, reboots, exhaustion: never a double, never lost,
longest free first."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from samepath.cni import ledger
from samepath.cni.addresses import AddressError, Addresses, Why, mac_of
from samepath.cni.store import Attachment, Key, State, Store, host_link_name
from samepath.model.net import Address, Family, address_text, parse_address, parse_prefix
from samepath.plan.addresses import Block
from samepath.plan.blocks import Gives, Origin, OwnBlock


def block(text: str) -> Block:
    return Block(*parse_prefix(text))


def own(text: str, gives: Gives = Gives.YES, pool: str = "") -> OwnBlock:
    return OwnBlock(block(text), Origin.NODE, gives, pool)


def key(number: int) -> Key:
    return f"c{number}", "eth0"


def texts(attachment: Attachment) -> list[str]:
    return [address_text(a) for a in attachment.addresses]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "attachments.db", "boot")


def test_one_of_each_family_never_used_first_then_longest_free(store: Store) -> None:
    addresses = Addresses(store, [own("10.1.0.0/30"), own("fd00:1::/64")])
    first = addresses.take(key(1), "pods", sandbox="/run/netns/x", pod="default/web")
    assert texts(first) == ["10.1.0.1", "fd00:1::1"]
    assert (first.state, first.sandbox, first.pod) == (
        State.RESERVED,
        "/run/netns/x",
        "default/web",
    )
    assert first.host_link == host_link_name(key(1))
    assert first.mac == mac_of(key(1))
    assert first.mac[0] & 3 == 2, "locally administered, unicast"
    assert texts(addresses.take(key(2), "pods")) == ["10.1.0.2", "fd00:1::2"]
    addresses.release(key(2))
    addresses.release(key(1))
    assert texts(addresses.take(key(3), "pods")) == ["10.1.0.3", "fd00:1::3"]
    assert texts(addresses.take(key(4), "pods")) == ["10.1.0.2", "fd00:1::4"]
    assert texts(addresses.take(key(5), "pods")) == ["10.1.0.1", "fd00:1::5"]
    assert addresses.wired(key(5)).state is State.WIRED


def test_one_family_alone(store: Store) -> None:
    addresses = Addresses(store, [own("10.1.0.0/24"), own("fd00:1::/64")])
    assert texts(addresses.take(key(1), "pods", families=[Family.IPV6])) == ["fd00:1::1"]


def test_exhausted_says_which_blocks(store: Store) -> None:
    addresses = Addresses(
        store, [own("10.1.0.0/31", pool="blue"), own("10.2.0.0/24", Gives.POOL_DISABLED, "red")]
    )
    addresses.take(key(1), "pods")
    addresses.take(key(2), "pods")
    with pytest.raises(AddressError) as caught:
        addresses.take(key(3), "pods")
    assert caught.value.why is Why.EXHAUSTED
    said = (
        "no ipv4 address is free in this node's blocks: 10.1.0.0/31 of pool blue, 10.2.0.0/24 of "
        "pool red (its pool is disabled)"
    )
    assert str(caught.value) == said
    stock = addresses.stock()
    assert (stock.exhausted, stock.text) == ((Family.IPV4,), said)
    assert [(f.in_use, f.free) for f in stock.fills] == [(2, 0), (0, 0)]
    addresses.release(key(1))
    assert addresses.stock().text == ""
    assert len(store.all()) == 1, "nothing was kept for those that failed"


def test_one_family_exhausted_takes_nothing_of_the_other(store: Store) -> None:
    addresses = Addresses(store, [own("10.1.0.0/24"), own("fd00:1::/128")])
    addresses.take(key(1), "pods")
    with pytest.raises(AddressError, match="no ipv6 address is free"):
        addresses.take(key(2), "pods")
    addresses.release(key(1))
    assert texts(addresses.take(key(3), "pods")) == ["10.1.0.2", "fd00:1::"]


def test_no_blocks(store: Store) -> None:
    addresses = Addresses(store, [own("10.2.0.0/24", Gives.NO_POOL)])
    with pytest.raises(AddressError) as caught:
        addresses.take(key(1), "pods")
    assert caught.value.why is Why.NO_BLOCKS
    assert "10.2.0.0/24 (no pool contains it any more)" in str(caught.value)
    addresses.set_blocks([own("10.1.0.0/24")])
    with pytest.raises(AddressError) as caught:
        addresses.take(key(1), "pods", families=[Family.IPV6])
    assert caught.value.why is Why.NO_BLOCK_OF_FAMILY


def test_static_addresses(store: Store) -> None:
    addresses = Addresses(
        store, [own("10.1.0.0/24"), own("fd00:1::/64"), own("10.2.0.0/24", Gives.NO_POOL)]
    )
    wanted = [parse_address("fd00:1::aaaa"), parse_address("10.1.0.0")]
    made = addresses.take(key(1), "pods", static=wanted, pod="default/db")
    assert texts(made) == ["10.1.0.0", "fd00:1::aaaa"]
    made = addresses.take(key(2), "pods", static=[parse_address("10.1.0.1")])
    assert texts(made) == ["10.1.0.1", "fd00:1::1"]
    assert texts(addresses.take(key(3), "pods")) == ["10.1.0.2", "fd00:1::2"]
    for static, why, said in (
        (["10.9.0.1"], Why.STATIC_NOT_OURS, "10.9.0.1 was asked for, but this node's blocks are"),
        (["10.2.0.1"], Why.STATIC_CLOSED, "block 10.2.0.0/24 gives no new addresses: no pool"),
        (["10.1.0.0"], Why.STATIC_IN_USE, "pod default/db, container c1 has it on eth0"),
        (["10.1.0.9", "10.1.0.8"], Why.STATIC_FAMILY_TWICE, "10.1.0.9 and 10.1.0.8 were asked"),
    ):
        with pytest.raises(AddressError) as caught:
            addresses.take(key(9), "pods", static=[parse_address(text) for text in static])
        assert caught.value.why is why
        assert said in str(caught.value)
    assert len(store.all()) == 3


def test_attached_already(store: Store) -> None:
    addresses = Addresses(store, [own("10.1.0.0/24")])
    made = addresses.take(key(1), "pods")
    with pytest.raises(AddressError) as caught:
        addresses.take(key(1), "pods")
    assert (caught.value.why, caught.value.owner) == (Why.ATTACHED, made)
    other = addresses.take(("c1", "eth1"), "pods")
    assert other.host_link != made.host_link


def test_what_the_kernel_holds_is_not_given_out(store: Store) -> None:
    addresses = Addresses(store, [own("10.1.0.0/30")])
    addresses.avoid([parse_address("10.1.0.1")])
    assert texts(addresses.take(key(1), "pods")) == ["10.1.0.2"]
    with pytest.raises(AddressError) as caught:
        addresses.take(key(2), "pods", static=[parse_address("10.1.0.1")])
    assert caught.value.why is Why.STATIC_IN_USE
    assert addresses.stock().fills[0].free == 1
    addresses.release(key(1))
    addresses.avoid([parse_address("10.1.0.1"), parse_address("10.1.0.2")])
    assert texts(addresses.take(key(3), "pods")) == ["10.1.0.3"]
    with pytest.raises(AddressError, match="no ipv4 address is free"):
        addresses.take(key(4), "pods")
    assert not addresses.withdraw(block("10.1.0.0/30"))


def test_what_is_no_longer_held_by_the_kernel_comes_again(store: Store) -> None:
    addresses = Addresses(store, [own("10.1.0.0/30")])
    addresses.avoid([parse_address("10.1.0.1")])
    assert texts(addresses.take(key(1), "pods")) == ["10.1.0.2"]
    addresses.avoid([])
    assert texts(addresses.take(key(2), "pods")) == ["10.1.0.1"]


@pytest.mark.parametrize("cidr", ["10.1.0.0/27", "fd00:1::/64"])
def test_a_block_larger_than_the_memory_of_what_was_released(
    store: Store, monkeypatch: pytest.MonkeyPatch, cidr: str
) -> None:
    """Round and round the block: an address that was just released comes late."""
    monkeypatch.setattr(ledger, "RELEASED_LIMIT", 8)
    addresses = Addresses(store, [own(cidr)])
    given = []
    for number in range(200):
        given.append(addresses.take(key(number), "pods").addresses[0])
        addresses.release(key(number))
    for i, address in enumerate(given):
        assert address not in given[max(i - 8, 0) : i]
    everyone = {addresses.take(key(n), "pods").addresses[0] for n in range(31)}
    assert len(everyone) == 31


def test_gc_names_those_of_its_own_network(store: Store) -> None:
    addresses = Addresses(store, [own("10.1.0.0/24")])
    one, two = addresses.take(key(1), "pods"), addresses.take(key(2), "pods")
    addresses.take(key(3), "other")
    assert addresses.keep("pods", [key(1)]) == (two,)
    assert addresses.keep("pods", []) == (one, two)
    assert len(addresses.all()) == 3


def test_another_block_is_claimed_once_by_many(store: Store) -> None:
    spare = [own("10.2.0.0/26"), own("10.3.0.0/26")]
    claimed: list[Family] = []

    def claim(family: Family) -> str | None:
        claimed.append(family)
        time.sleep(0.02)  # the others come to want the same
        if not spare:
            return "ipv4: every block is taken (p)"
        addresses.set_blocks([*addresses.blocks, spare.pop(0)])
        return None

    addresses = Addresses(store, [own("10.1.0.0/31")], claim=claim)
    made: list[Attachment] = []
    refused: list[str] = []

    def work(base: int) -> None:
        for number in range(base, base + 16):
            try:
                made.append(addresses.take(key(number), "pods"))
            except AddressError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work, args=(100 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 128, "2 + 63 + 63"
    assert len({a for m in made for a in m.addresses}) == 128
    assert (claimed, refused) == ([Family.IPV4] * 2, [])
    with pytest.raises(AddressError, match=r"blocks: .*; ipv4: every block is taken \(p\)"):
        addresses.take(key(9999), "pods")


def test_a_block_is_withdrawn_only_when_empty(store: Store) -> None:
    addresses = Addresses(store, [own("10.1.0.0/31"), own("10.2.0.0/31")])
    addresses.take(key(1), "pods")
    assert not addresses.withdraw(block("10.1.0.0/31"))
    assert addresses.withdraw(block("10.2.0.0/31"))
    addresses.take(key(2), "pods")
    with pytest.raises(AddressError, match=r"blocks: 10.1.0.0/31$"):
        addresses.take(key(3), "pods")


SMALL = [own("10.1.0.0/29"), own("10.2.0.8/30"), own("fd00:1::/125")]


class Machine(RuleBasedStateMachine):
    """Against a model: who has what, and the order of release."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.boot = 0
        self.held: dict[Key, tuple[Address, ...]] = {}
        self.order: dict[Address, None] = {}
        self.blocks = list(SMALL)
        self.open()

    def open(self) -> None:
        self.store = Store(Path(self.folder.name) / "attachments.db", f"boot {self.boot}")
        self.addresses = Addresses(self.store, self.blocks)

    def fits(self, family: Family) -> list[Address]:
        """Addresses that may be given out unasked, never-used ones first."""
        in_use = {a for addresses in self.held.values() for a in addresses}
        every = [
            o.block.at(i)
            for o in self.blocks
            if o.block.family is family
            for i in range(o.block.skipped, o.block.size)
        ]
        fresh = [a for a in every if a not in in_use and a not in self.order]
        return fresh + [a for a in self.order if a in every]

    def note(self, name: Key, addresses: tuple[Address, ...]) -> None:
        self.held[name] = addresses
        for address in addresses:
            self.order.pop(address, None)

    def free(self, name: Key) -> None:
        for address in self.held.pop(name):
            self.order.pop(address, None)
            self.order[address] = None

    def try_take(self, number: int, **wanted: Any) -> tuple[Attachment | None, Why]:
        try:
            return self.addresses.take(key(number), "pods", **wanted), Why.NO_BLOCKS
        except AddressError as error:
            return None, error.why

    @rule(number=st.integers(0, 20), families=st.sets(st.sampled_from(list(Family)), min_size=1))
    def take(self, number: int, families: set[Family]) -> None:
        expected = {f: self.fits(f) for f in Family if f in families}
        made, why = self.try_take(number, families=families)
        if made is None:
            lacking = [f for f in families if all(o.block.family is not f for o in self.blocks)]
            assert {
                Why.ATTACHED: key(number) in self.held,
                Why.NO_BLOCK_OF_FAMILY: bool(lacking),
                Why.EXHAUSTED: not all(expected.values()),
            }[why]
            return
        assert key(number) not in self.held
        assert made.addresses == tuple(found[0] for found in expected.values())
        self.note(key(number), made.addresses)

    @rule(number=st.integers(0, 20), offset=st.integers(0, 7), where=st.sampled_from(SMALL))
    def take_static(self, number: int, offset: int, where: OwnBlock) -> None:
        address = where.block.at(offset % where.block.size)
        in_use = {a for addresses in self.held.values() for a in addresses}
        made, why = self.try_take(number, static=[address], families=[where.block.family])
        if made is None:
            assert {
                Why.ATTACHED: key(number) in self.held,
                Why.STATIC_IN_USE: address in in_use,
                Why.STATIC_NOT_OURS: where not in self.blocks,
            }[why]
            return
        assert made.addresses == (address,)
        assert address not in in_use
        assert key(number) not in self.held
        self.note(key(number), (address,))

    @rule(number=st.integers(0, 20))
    def wire(self, number: int) -> None:
        if key(number) in self.held:
            assert self.addresses.wired(key(number)).state is State.WIRED

    @rule(number=st.integers(0, 20))
    def release(self, number: int) -> None:
        gone = self.addresses.release(key(number))
        assert (gone is None) == (key(number) not in self.held)
        if gone is not None:
            assert gone.addresses == self.held[key(number)]
            self.free(key(number))

    @rule()
    def killed(self) -> None:
        """The store writes through: all that closing does is to let go of the lock."""
        self.store.close()
        self.open()

    @rule()
    def reboot(self) -> None:
        self.store.close()
        self.boot += 1
        for name in list(self.held):
            self.free(name)
        self.open()

    @precondition(lambda self: hasattr(self, "blocks"))
    @rule(where=st.sampled_from(SMALL))
    def block_comes_or_goes(self, where: OwnBlock) -> None:
        self.blocks = [o for o in SMALL if (o in self.blocks) is not (o == where)]
        self.addresses.set_blocks(self.blocks)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        found = {a.key: a.addresses for a in self.store.all()}
        assert found == self.held
        given = [a for addresses in self.held.values() for a in addresses]
        assert len(given) == len(set(given))
        for family in Family:
            expected = tuple(a for a in self.order if len(a) == family.octets)
            assert self.store.released(family) == expected
        for fill in self.addresses.stock().fills:
            inside = [a for a in given if fill.own.block.contains(a)]
            free = [a for a in self.fits(fill.own.block.family) if fill.own.block.contains(a)]
            assert (fill.in_use, fill.free) == (len(inside), len(free))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

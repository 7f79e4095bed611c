"""Service addresses on `lo`, on both kernels."""

from __future__ import annotations

import json
from errno import ENOMEM

from samepath.apply.addresses import ServiceAddresses
from samepath.model import ours
from samepath.model.net import parse_address
from samepath.netlink.ops import DeleteAddress, PutAddress

ONE, TWO, SIX = map(parse_address, ("192.0.2.1", "192.0.2.2", "2001:db8::1"))


def addresses_of_ours(world) -> set[bytes]:
    return {a.address for a in world.kernel.addresses() if a.protocol == ours.PROTOCOL}


def test_wanted_addresses_stand_and_others_of_ours_go(world) -> None:
    service = ServiceAddresses(world.kernel)
    service.in_sync = True
    assert service.reconcile([ONE, SIX])
    assert addresses_of_ours(world) == {ONE, SIX}
    assert service.installed == {ONE, SIX}
    if world.namespace is not None:
        (shown,) = json.loads(world.namespace.ip("-j", "addr", "show", "dev", "lo"))
        seen = {(a["local"], a["prefixlen"]) for a in shown["addr_info"]}
        assert seen >= {("192.0.2.1", 32), ("2001:db8::1", 128)}
    assert service.reconcile([TWO, SIX])
    assert addresses_of_ours(world) == {TWO, SIX}
    assert service.reconcile([])
    assert addresses_of_ours(world) == set()


def test_nothing_is_deleted_before_in_sync(world) -> None:
    first = ServiceAddresses(world.kernel)
    first.reconcile([ONE])
    second = ServiceAddresses(world.kernel)
    assert second.reconcile([TWO])
    assert addresses_of_ours(world) == {ONE, TWO}
    second.in_sync = True
    assert second.reconcile([TWO])
    assert addresses_of_ours(world) == {TWO}


def test_addresses_of_others_stay_and_serve(world) -> None:
    (error,) = world.kernel.apply([PutAddress(1, ONE, 32, protocol=84)])
    assert error is None
    service = ServiceAddresses(world.kernel)
    service.in_sync = True
    assert service.reconcile([ONE])
    assert service.installed == {ONE}
    assert service.reconcile([])
    assert ONE in {a.address for a in world.kernel.addresses()}
    # Ours on another link are not this driver's.
    world.kernel.apply([PutAddress(world.a, TWO, 32)])
    assert service.reconcile([])
    assert [a.index for a in world.kernel.addresses() if a.address == TWO] == [world.a]
    assert service.reconcile([TWO])
    assert {a.index for a in world.kernel.addresses() if a.address == TWO} == {world.a, 1}


def test_an_adopted_address_is_not_written_again(fake_world) -> None:
    ServiceAddresses(fake_world.kernel).reconcile([ONE])
    fake_world.kernel.log.clear()
    assert ServiceAddresses(fake_world.kernel).reconcile([ONE])
    assert fake_world.kernel.log == []


def test_what_somebody_took_away_comes_back_when_there_is_news(fake_world) -> None:
    kernel = fake_world.kernel
    service = ServiceAddresses(kernel)
    assert service.reconcile([ONE, TWO])
    kernel.apply([DeleteAddress(1, ONE, 32)])
    service.read_again()
    assert service.reconcile([ONE, TWO])
    assert addresses_of_ours(fake_world) == {ONE, TWO}
    # Without news nothing is asked: with thousands of addresses that takes its time.
    kernel.apply([DeleteAddress(1, ONE, 32)])
    assert service.reconcile([ONE, TWO])
    assert addresses_of_ours(fake_world) == {TWO}


def test_a_refusal_is_kept_with_its_address(fake_world) -> None:
    service = ServiceAddresses(fake_world.kernel)
    service.in_sync = True
    fake_world.kernel.fail_next(lambda op: isinstance(op, PutAddress), ENOMEM)
    assert not service.reconcile([ONE, TWO])
    assert service.errors.keys() == {ONE}
    assert "Cannot allocate memory" in service.errors[ONE]
    assert service.installed == {TWO}
    assert service.reconcile([ONE, TWO])
    assert service.installed == {ONE, TWO}
    fake_world.kernel.fail_next(lambda op: isinstance(op, DeleteAddress), ENOMEM)
    assert not service.reconcile([ONE])
    assert service.errors.keys() == {TWO}

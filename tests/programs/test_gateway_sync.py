"""A gateway that was cut off waits for the nodes that it had, not for a number from its file."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any

from samepath.model.config import GatewayConfig
from samepath.model.neighbor import Import, Neighbor
from samepath.model.net import parse_address
from samepath.plan.sync import Why
from samepath.programs.gateway_sync import Deferral

CONFIG = GatewayConfig(
    router_id="10.0.0.254",
    local_as=64512,
    hash_seed=1,
    expected_peers=4,
    neighbors=[
        Neighbor(
            range="10.0.0.0/24",
            remote_as=64512,
            hold_time_s=9,
            import_=Import(services=["192.0.2.0/24"]),
        )
    ],
)


NEWS = count()


def speaker(*up: int) -> Any:
    peers = [
        SimpleNamespace(
            neighbor="10.0.0.0/24",
            address=parse_address(f"10.0.0.{n}"),
            is_established=True,
            families={0: SimpleNamespace(end_of_rib_received=True)},
        )
        for n in up
    ]
    return SimpleNamespace(
        peers=lambda: peers, news=next(NEWS), rib=SimpleNamespace(items=lambda family: ())
    )


def test_it_waits_for_those_that_were_lost_together() -> None:
    deferral = Deferral((), 0.0)
    deferral.note(CONFIG, speaker(1, 2, 3, 4), 10.0)  # the fourth crashes here
    deferral.note(CONFIG, speaker(1, 2, 3), 100.0)
    deferral.note(CONFIG, speaker(3), 105.0)
    deferral.begin_again_if_cut_off(CONFIG, speaker(), 110.0)
    assert deferral.sync.why is Why.WAITING_FOR_HOPS
    deferral.look(CONFIG, speaker(1, 3), 115.0)
    assert not deferral.sync.in_sync
    deferral.look(CONFIG, speaker(1, 2, 3), 116.0)
    assert deferral.sync.why is Why.ALL_HEARD


def test_a_link_that_was_down_says_nothing_of_who_was_lost_meanwhile() -> None:
    deferral = Deferral((), 0.0)
    deferral.note(CONFIG, speaker(1, 2, 3, 4), 100.0)
    deferral.look(CONFIG, speaker(1, 2, 3, 4), 100.0)
    assert deferral.sync.in_sync
    deferral.begin_again(CONFIG, 101.0)  # the link goes down, the sessions stand as yet
    deferral.look(CONFIG, speaker(1, 2, 3, 4), 102.0, unreachable=True)
    assert not deferral.sync.in_sync
    deferral.look(CONFIG, speaker(3, 4), 400.0, unreachable=True)
    deferral.look(CONFIG, speaker(3, 4), 401.0)  # the link is up again
    assert deferral.sync.why is Why.WAITING_FOR_HOPS
    deferral.look(CONFIG, speaker(1, 2, 3, 4), 402.0)
    assert deferral.sync.why is Why.ALL_HEARD


def test_a_link_that_was_down_for_a_moment_costs_no_wait() -> None:
    deferral = Deferral((), 0.0)
    deferral.note(CONFIG, speaker(1, 2, 3, 4), 100.0)
    deferral.begin_again(CONFIG, 101.0)
    deferral.look(CONFIG, speaker(1, 2, 3, 4), 102.0)
    assert deferral.sync.why is Why.ALL_HEARD


def test_peers_are_asked_only_when_something_has_happened_to_one() -> None:
    deferral = Deferral((), 0.0)
    known = speaker(1, 2)
    deferral.note(CONFIG, known, 10.0)
    known.peers = None
    deferral.note(CONFIG, known, 12.0)
    deferral.begin_again_if_cut_off(CONFIG, speaker(), 12.0 + 2 * 9 + 1)
    assert len(deferral.adopted) == 2, "both were seen at 12 s"


def test_nothing_follows_from_silence_while_the_neighbours_are_not_known() -> None:
    adopted = [parse_address("10.0.0.1"), parse_address("10.0.0.2")]
    deferral = Deferral(adopted, 0.0)
    for now in (1.0, 59.0, 61.0, 3600.0):
        deferral.look(CONFIG, speaker(), now, known=False)
        assert deferral.sync.why is Why.WAITING_FOR_CLUSTER
        assert deferral.until(CONFIG) > now
    deferral.look(CONFIG, speaker(1), 3601.0)
    assert deferral.sync.why is Why.WAITING_FOR_HOPS, "the wait begins when they are known"
    deferral.look(CONFIG, speaker(1, 2), 3602.0)
    assert deferral.sync.why is Why.ALL_HEARD

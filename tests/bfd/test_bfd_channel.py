"""Two sessions over a channel that loses, delays and duplicates: what must hold for every one."""

from __future__ import annotations

import gc
import itertools
import random

import pytest
from bfd_channel import Channel, Fate, expired, good
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from samepath.bfd.fsm import Event, State
from samepath.bfd.packet import decode
from samepath.bfd.session import PAUSE_S, Terms

INTERVALS = st.integers(10_000, 2_000_000)
TERMS = st.builds(
    Terms,
    transmit_us=INTERVALS,
    receive_us=INTERVALS,
    multiplier=st.integers(2, 10),
    passive=st.booleans(),
)
SEEDS = st.integers(0, 1 << 32)
MANY = settings(deadline=None, max_examples=50)


def lost(_: float) -> list[float]:
    return []


def spoiled(seed: int, loss: float, delay_s: float, twice: float) -> Fate:
    chance = random.Random(seed)

    def fate(_: float) -> list[float]:
        copies = 0 if chance.random() < loss else 2 if chance.random() < twice else 1
        return [chance.random() * delay_s for _ in range(copies)]

    return fate


@MANY
@given(TERMS, TERMS, SEEDS)
def test_a_good_channel_comes_up_and_never_flaps(a: Terms, b: Terms, seed: int) -> None:
    assume(not (a.passive and b.passive))
    channel = Channel((a, b), seed)
    channel.run_until(channel.both_up, limit_s=7)
    channel.run(30)
    assert channel.both_up()
    assert channel.downs() == []
    for end in (0, 1):
        session, other = channel.session(end), channel.session(1 - end)
        interval_us = max(other.terms.transmit_us, session.terms.receive_us)
        assert session.detection_time_s == pytest.approx(other.terms.multiplier * interval_us / 1e6)


@MANY
@given(TERMS, TERMS, SEEDS, st.floats(0, 30))
def test_a_cut_channel_goes_down_within_the_detection_time(
    a: Terms, b: Terms, seed: int, after_s: float
) -> None:
    assume(not (a.passive and b.passive))
    channel = Channel((a, b), seed)
    channel.run_until(channel.both_up, limit_s=7)
    channel.run(after_s)
    assert channel.both_up()
    detection = [channel.session(end).detection_time_s for end in (0, 1)]
    channel.fates = [lost, lost]
    cut_at = channel.now
    channel.run(max(detection) + 0.01)
    assert State.UP not in channel.states()
    for happened in channel.downs():
        assert expired(happened)
        assert happened.at - cut_at <= detection[happened.end] + 0.001
    channel.fates = [good, good]
    channel.run_until(channel.both_up, limit_s=7)


@MANY
@given(TERMS, SEEDS)
def test_cut_in_one_direction_both_ends_know(terms: Terms, seed: int) -> None:
    """The end that hears nothing says so to the other (RFC 5880 §6.8.6)."""
    channel = Channel((terms, Terms()), seed)
    channel.run_until(channel.both_up, limit_s=7)
    channel.run(5)
    detection_s = channel.session(1).detection_time_s
    channel.fates = [lost, good]
    channel.run(detection_s + 0.01)
    (first, second) = channel.downs()
    assert (first.end, second.end) == (1, 0)
    assert expired(first)
    assert second.change.event is Event.RECEIVED_DOWN
    assert second.change.diagnostic == 1, "the peer says why"


@MANY
@given(TERMS, SEEDS, st.floats(0, 0.3), st.floats(0, 1))
def test_whatever_the_channel_does_it_comes_up_when_it_is_good_again(
    terms: Terms, seed: int, loss: float, twice: float
) -> None:
    channel = Channel((terms, Terms()), seed)
    channel.fates = [spoiled(seed + n, loss, 0.4, twice) for n in (0, 1)]
    channel.run(20)
    for happened in channel.downs():
        assert happened.change.event in (Event.DETECTION_EXPIRED, Event.RECEIVED_DOWN)
    channel.fates = [good, good]
    channel.run(25)  # what was late has arrived, and the longest detection time is over
    assert channel.both_up()
    before = len(channel.downs())
    channel.run(10)
    assert len(channel.downs()) == before


@MANY
@given(TERMS, SEEDS)
def test_a_network_that_repeats_and_reorders_makes_no_storm(terms: Terms, seed: int) -> None:
    """Each end answers what is new; with everything twice and out of order that could double."""
    channel = Channel((terms, Terms()), seed)
    channel.fates = [spoiled(seed + n, 0.0, 0.4, 1.0) for n in (0, 1)]
    channel.run(20)
    assert len(channel.sent) <= 20 * 4 / min(PAUSE_S, terms.transmit_us / 1e6 * 0.75)


@MANY
@given(SEEDS, st.floats(0, 0.05))
def test_reordered_and_duplicated_packets_alone_are_no_flap(seed: int, delay_s: float) -> None:
    channel = Channel(seed=seed)
    channel.fates = [spoiled(seed + n, 0.0, delay_s, 0.5) for n in (0, 1)]
    channel.run_until(channel.both_up, limit_s=5)
    came_up = channel.now
    channel.run(20)
    assert [h for h in channel.downs() if h.at > came_up + 1] == []


@MANY
@given(TERMS, SEEDS)
def test_intervals_are_jittered_and_kept(terms: Terms, seed: int) -> None:
    channel = Channel((terms, Terms()), seed)
    channel.run_until(channel.both_up, limit_s=7)
    channel.run(4)
    began = channel.now
    channel.run(20)
    interval_s = channel.session(0).transmit_interval_s
    assert interval_s == max(terms.transmit_us, 300_000) / 1e6
    times = [at for at, end, _ in channel.sent if end == 0 and at > began]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert all(0.75 * interval_s <= gap <= interval_s + 1e-6 for gap in gaps)
    assert len(gaps) < 3 or max(gaps) - min(gaps) > 0.001 * interval_s


def test_two_passive_ends_wait_for_ever() -> None:
    passive = Terms(passive=True)
    channel = Channel((passive, passive))
    channel.run(30)
    assert channel.sent == []


@MANY
@given(SEEDS, TERMS)
def test_other_terms_are_polled_without_a_flap(seed: int, terms: Terms) -> None:
    channel = Channel(seed=seed)
    channel.run_until(channel.both_up, limit_s=5)
    channel.run(3)
    began = channel.now
    channel.configure(0, terms)
    channel.run(5)
    assert channel.downs() == []
    packets = [decode(data) for at, end, data in channel.sent if end == 0 and at >= began]
    polled = terms.transmit_us != 300_000 or terms.receive_us != 300_000
    assert any(p.poll for p in packets) is polled  # type: ignore[union-attr]
    assert not packets[-1].poll, "the peer has answered"  # type: ignore[union-attr]
    other = channel.session(1)
    assert other.detection_time_s == terms.multiplier * max(terms.transmit_us, 300_000) / 1e6
    assert other.transmit_interval_s == max(terms.receive_us, 300_000) / 1e6
    assert channel.session(0).transmit_interval_s == max(terms.transmit_us, 300_000) / 1e6


def test_administratively_down_is_told_and_undone() -> None:
    channel = Channel()
    channel.run_until(channel.both_up, limit_s=5)
    channel.configure(0, Terms(enabled=False))
    channel.run(5)
    assert channel.states() == (State.ADMIN_DOWN, State.DOWN)
    (ours, theirs) = channel.downs()
    assert ours.change.event is Event.DISABLE
    assert theirs.change.event is Event.RECEIVED_ADMIN_DOWN
    assert theirs.change.diagnostic == 7
    channel.configure(0, Terms())
    channel.run_until(channel.both_up, limit_s=5)


@pytest.mark.parametrize("standing", [True, False])
def test_a_process_killed_and_back_at_once(standing: bool) -> None:
    """With its standing nobody notices; without, the peer hears a session that begins."""
    channel = Channel()
    channel.run_until(channel.both_up, limit_s=5)
    channel.run(10)
    channel.restart(0, standing=standing)
    channel.run(5)
    assert channel.both_up()
    assert [h.end for h in channel.downs()] == ([] if standing else [1])


def test_nothing_is_left_in_cycles() -> None:
    """The process runs without the collector of cycles."""
    channel = Channel()
    channel.run(5)
    gc.collect()
    gc.disable()
    try:
        channel.run(10)
        channel.fates = [lost, good]
        channel.run(5)
        assert gc.collect() == 0
    finally:
        gc.enable()

"""Neighbours that go at the same moment are heard before anything is written."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import cast

from samepath.programs import gateway_passes
from samepath.programs.gateway import Gateway
from samepath.programs.gateway_passes import Passes


class Speaker:
    """Busy for some rounds of the event loop, with a neighbour lost in each of them."""

    def __init__(self, rounds: float, news: int = 1) -> None:
        self.rounds = rounds
        self.news = news

    @property
    def is_busy(self) -> bool:
        self.rounds -= 1
        is_busy = self.rounds > 0
        self.news += is_busy
        return is_busy


def hear_out(speaker: Speaker, times: int = 1) -> float:
    """Seconds that it took."""
    passes = Passes(cast(Gateway, SimpleNamespace(daemon=None, speaker=speaker)))

    async def main() -> float:
        began = time.monotonic()
        for _ in range(times):
            await passes._hear_out()
        return time.monotonic() - began

    return asyncio.run(main())


def test_all_of_a_crowd_are_heard() -> None:
    speaker = Speaker(rounds=100)
    assert hear_out(speaker) < gateway_passes.CROWD_S
    assert speaker.news == 100
    assert speaker.rounds <= 0


def test_a_crowd_without_end_is_not_waited_for() -> None:
    took = hear_out(Speaker(rounds=float("inf")))
    assert gateway_passes.CROWD_S <= took < gateway_passes.CROWD_S + 1.0


def test_updates_alone_are_not_waited_for() -> None:
    speaker = Speaker(rounds=float("inf"), news=0)
    assert hear_out(speaker) < gateway_passes.CROWD_S
    assert speaker.news == 0


def test_what_was_heard_is_not_heard_again() -> None:
    speaker = Speaker(rounds=2)
    hear_out(speaker, times=2)
    assert speaker.rounds == 2 - gateway_passes.QUIET_ROUNDS - 1

"""Claims in doubt, while the API server does not answer: nobody waits for it again and again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from samepath.kube.api_errors import Unreachable
from samepath.model.net import parse_prefix
from samepath.plan.addresses import Block
from samepath.programs.claims import KubeClaims

BLOCK = Block(*parse_prefix("10.1.0.0/26"))
CLAIM = {
    "metadata": {"name": "10-1-0-0-26", "uid": "u", "resourceVersion": "7"},
    "spec": {"cidr": "10.1.0.0/26", "node": "n1"},
}


class Silent:
    """Has the claim, and does not answer to its deletion."""

    deletions = 0

    async def get(self, *_: Any) -> dict[str, Any]:
        return CLAIM

    async def delete(self, *_: Any, **__: Any) -> None:
        self.deletions += 1
        raise Unreachable(0, "", "away")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever, daemon=True)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join(10)
    made.close()


@pytest.mark.timeout(30)
def test_a_release_in_doubt_is_asked_for_now_and_then(loop: asyncio.AbstractEventLoop) -> None:
    api: Any = Silent()
    claims = KubeClaims(api, loop, dict)
    assert claims.release(BLOCK, "n1")
    for _ in range(20):
        assert claims.owners() == {BLOCK: "n1 (released)"}
    assert api.deletions == 2, "by the release, and by the first look"

"""The benchmark of many sessions measures what it says, on a small scale."""

from __future__ import annotations

import pytest

from benchmarks import sessions
from benchmarks.sessions import load_of, run

pytestmark = pytest.mark.netns


def test_loads() -> None:
    for peers in sessions.PEERS:
        load = load_of(peers)
        each = sum(map(len, load.announced())) / peers
        assert 0.8 * sessions.PREFIXES_EACH < each < 1.2 * sessions.PREFIXES_EACH
        assert not set(load.peer_texts()) & set(sessions.hostile_of(load).peer_texts())


@pytest.mark.parametrize("name", sessions.ROUTERS)
def test_all_figures_of_a_few_peers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SETTLE_S", 0.5)
    monkeypatch.setattr(sessions, "WATCHED_S", 0.5)
    monkeypatch.setattr(sessions, "HOSTILE_S", 4.0)
    monkeypatch.setattr(sessions, "HOSTILE_PREFIXES", 20_000)
    found = run(name, load_of(20))
    for what in ("established_s", "in_sync_s", "vanished_s", "returned_s"):
        value = found[what]
        assert value is not None, what
        assert 0 < value < 60, what
    assert found["flap_lost_others"] == found["hostile_lost_others"] == 0
    assert found["hostile_lost_prefixes"] == 0
    taken = found["hostile_prefixes_taken"]
    assert taken is not None
    assert 0 <= taken <= sessions.LIMIT
    assert ("start_longest_block_ms" in found) is (name == "samepath")
    assert sessions.line(name, found)

"""Every peer, every row: one test a cell, but for those that are declared to be missing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import matrix_page
import pytest
from matrix_cells import CELLS
from matrix_daemons import PEERS
from matrix_page import PAGE, page
from matrix_peer import Peer
from matrix_rows import MISSING, NOTES, ROWS
from matrix_world import Runs

ALL = [(peer, row.key) for peer in PEERS for row in ROWS]
TESTED = [one for one in ALL if one not in MISSING]


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runs]:
    """All cells that are asked for, already under way."""
    wanted = []
    for item in request.session.items:
        arguments = getattr(getattr(item, "callspec", None), "params", {})
        if {"peer", "key"} <= arguments.keys():
            wanted.append((arguments["peer"], arguments["key"]))
    folder: Path = tmp_path_factory.mktemp("matrix")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    running = Runs(wanted, CELLS, folder)
    yield running
    running.close()


@pytest.mark.interop
@pytest.mark.netns
@pytest.mark.alone  # many sessions in one process: held up, one cell after the other would fail
@pytest.mark.parametrize(("peer", "key"), TESTED, ids=[f"{p}-{k}" for p, k in TESTED])
def test_cell(runs: Runs, peer: str, key: str) -> None:
    if not PEERS[peer].is_installed():
        pytest.skip(f"{peer} is not installed")
    runs.outcome(peer, key)


def test_every_cell_is_a_test_or_declared_missing_with_its_reason() -> None:
    assert {row.key for row in ROWS} == set(CELLS)
    assert len(ROWS) == len({row.key for row in ROWS})
    assert set(MISSING) <= set(ALL)
    assert all(reason.strip() for reason in MISSING.values())
    assert set(NOTES) <= set(TESTED)
    assert len(TESTED) + len(MISSING) == len(PEERS) * len(ROWS)


def test_the_page_is_what_the_declarations_say() -> None:
    assert PAGE.read_text() == page(), f"run: python {matrix_page.__file__}"


@pytest.mark.interop
@pytest.mark.parametrize("peer", PEERS.values(), ids=list(PEERS))
def test_the_page_names_the_version_that_is_tested(peer: type[Peer]) -> None:
    if not peer.is_installed():
        pytest.skip(f"{peer.name} is not installed")
    told = subprocess.run(peer.asks_version, capture_output=True, text=True, check=False)
    assert peer.version in told.stdout + told.stderr

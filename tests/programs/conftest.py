"""The stage of the gateway's tests, made and removed for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    try:
        stage.create()
        yield stage
    finally:
        stage.delete()
        log = tmp_path / "gateway.log"
        if log.exists():
            print(log.read_text()[-6000:])

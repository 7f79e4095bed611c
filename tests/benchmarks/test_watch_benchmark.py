"""The benchmark of list and watch, small: all three clients come to the end and know the same."""

from __future__ import annotations

import json

import pytest

from benchmarks import watch


def test_three_clients(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("SLICES", 40), ("CHANGES", 60), ("ROUNDS", 1)):
        monkeypatch.setenv(f"BENCH_WATCH_{name}", str(value))  # for the server's process
        monkeypatch.setattr(watch, name, value)
    watch.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["slices"], figures["changes"]) == (40, 60)
    for name in ("ours", "lightkube", "official"):
        assert figures[f"{name}_cpu_s"] > 0
        assert figures[f"{name}_peak_mb"] > figures[f"{name}_import_mb"] * 0.9

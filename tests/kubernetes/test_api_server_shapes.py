"""The fields of built-in kinds are those of the official client's models."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_the_shapes_are_what_the_official_client_knows() -> None:
    path = Path(__file__).with_name("derive_shapes.py")
    spec = importlib.util.spec_from_file_location("derive_shapes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.FILE.read_text() == module.text(), "run tests/kubernetes/derive_shapes.py"

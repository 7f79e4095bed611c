"""The build of what is not Python: made once, made anew when it must be, never stale."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import pytest

hatch_build: Any = pytest.importorskip(
    "hatch_build", reason="needs the source tree", exc_type=ImportError
)
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed"
)


@pytest.fixture
def artifact(tmp_path: Path) -> Any:
    """Something that compiles in no time, since it needs no C library."""
    (tmp_path / "a.c").write_text('#include "a.h"\nint a(void) { return A; }\n')
    (tmp_path / "a.h").write_text("#define A 1\n")
    return hatch_build.Artifact(
        output="out/a.o",
        sources=("a.c", "a.h"),
        options=("-target", "x86_64-freestanding", "-Os", "-c"),
        without="never mind",
    )


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_it_is_made_once_and_anew_when_a_source_changes(artifact: Any, tmp_path: Path) -> None:
    output = tmp_path / "out" / "a.o"
    assert hatch_build.build(artifact, tmp_path)
    first = output.read_bytes()
    assert not hatch_build.build(artifact, tmp_path)
    (tmp_path / "a.h").write_text("#define A 2\n")
    assert hatch_build.build(artifact, tmp_path)
    assert output.read_bytes() != first
    assert hatch_build.build(artifact._replace(options=(*artifact.options, "-O0")), tmp_path)
    output.unlink()
    assert hatch_build.build(artifact, tmp_path)
    assert list(output.parent.iterdir()) == [output]  # all of the folder goes into the wheel


def test_a_compiler_that_fails_leaves_no_stale_artifact(artifact: Any, tmp_path: Path) -> None:
    hatch_build.build(artifact, tmp_path)
    (tmp_path / "a.c").write_text("this is not C\n")
    with pytest.raises(hatch_build.Unbuilt, match="error"):
        hatch_build.build(artifact, tmp_path)
    assert not (tmp_path / "out" / "a.o").exists()


def test_without_a_compiler_what_is_right_stays(
    artifact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hatch_build.build(artifact, tmp_path)
    without_compiler(monkeypatch)
    assert not hatch_build.build(artifact, tmp_path)
    (tmp_path / "a.h").write_text("#define A 2\n")
    with pytest.raises(hatch_build.Unbuilt, match="ziglang is not installed"):
        hatch_build.build(artifact, tmp_path)
    assert not (tmp_path / "out" / "a.o").exists()


def test_every_source_is_there_and_the_first_is_compiled() -> None:
    root = Path(hatch_build.__file__).parent
    for artifact in hatch_build.ARTIFACTS:
        for source in artifact.sources:
            assert (root / source).exists(), source
    included = (root / "src/samepath/cni").glob("shim*.[ch]")
    assert {path.name for path in included} == set(hatch_build.SHIM)

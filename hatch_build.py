"""Builds what is not Python, when the wheel is built or an editable install is made.

hatchling calls it (`[tool.hatch.build.targets.wheel.hooks.custom]`). PyPI's `ziglang` is the
compiler, for its own machine and for others alike. Where it is missing or fails a warning is all:
each artifact has something to fall back on. An artifact is made anew when its sources, its command
or the compiler have changed; `build/*.made-of` say of what they were made.

A wheel gets the artifacts of all architectures, an editable install those of this machine.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILE_LIMIT_S = 900
"""The first compilation for an architecture also builds musl: half a minute, on a slow machine."""


class Artifact(NamedTuple):  # no dataclass: hatchling runs this file outside sys.modules
    """One file that a compiler makes. Paths are relative to this file's folder."""

    output: str
    sources: tuple[str, ...]
    """The first is compiled, all of them are what it is made of."""
    options: tuple[str, ...]
    """Of `zig cc`."""
    without: str
    """What happens where it could not be made."""
    machine: str | None = None
    """As `os.uname` has it; None: the same on all."""


SHIM = ("shim.c", "shim_answer.h", "shim_json.h")


def shim(machine: str, name: str) -> Artifact:
    return Artifact(
        output=f"src/samepath/cni/bin/samepath-cni-{name}",
        sources=tuple(f"src/samepath/cni/{name}" for name in SHIM),
        options=("-target", f"{machine}-linux-musl", "-static", "-std=c11", "-Os", "-s", "-Wall"),
        without="`samepath cni install` will place the Python program, which starts more slowly",
        machine=machine,
    )


BPF_PARTS = ("samepath.bpf.c", "packet.h", "flow_hash.h", "samepath.h", "kernel.h")

BPF = Artifact(
    output="src/samepath/bpf/samepath.bpf.o",
    sources=tuple(f"src/samepath/bpf/{name}" for name in BPF_PARTS),
    options=("-target", "bpfel-freestanding", "-mcpu=v3", "-O2", "-g", "-Wall", "-c",
             "-Wno-unused-function", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"),
    without="a gateway will have the kernel's own data plane alone",
)  # fmt: skip
"""The BPF program: one object for all machines that are little-endian."""

ARTIFACTS = (shim("x86_64", "amd64"), shim("aarch64", "arm64"), BPF)


class Unbuilt(Exception):
    """An artifact that could not be made, and why."""


def build(artifact: Artifact, root: Path) -> bool:
    """Makes it if it is not there as it should be; whether it was made. Raises Unbuilt.

    What was made of other sources is removed first: an old artifact is worse than none.
    """
    output = root / artifact.output
    stamp = root / "build" / (output.name + ".made-of")
    sources, compiler = _digest(artifact, root), _compiler()
    made_of = stamp.read_text().split() if output.exists() and stamp.exists() else []
    if made_of[:1] == [sources] and compiler in (None, *made_of[1:]):
        return False
    output.unlink(missing_ok=True)
    if compiler is None:
        raise Unbuilt("PyPI's ziglang is not installed")
    output.parent.mkdir(parents=True, exist_ok=True)
    made = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        _compile([*artifact.options, str(root / artifact.sources[0]), "-o", str(made)], root)
        made.replace(output)
    finally:
        made.unlink(missing_ok=True)
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(f"{sources} {compiler}\n")
    return True


def _digest(artifact: Artifact, root: Path) -> str:
    digest = hashlib.sha256("\0".join(artifact.options).encode())
    for source in artifact.sources:
        content = (root / source).read_bytes()
        digest.update(b"\0%d\0" % len(content) + content)
    return digest.hexdigest()


def _compiler() -> str | None:
    try:
        return importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        return None


def _compile(arguments: Sequence[str], root: Path) -> None:
    cache = str(root / "build" / "zig-cache")
    environment = {**os.environ, "ZIG_LOCAL_CACHE_DIR": cache, "ZIG_GLOBAL_CACHE_DIR": cache}
    command = [sys.executable, "-m", "ziglang", "cc", *arguments]
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILE_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unbuilt(str(error)) from None
    if done.returncode:
        raise Unbuilt(f"zig cc: {done.stderr.strip()[-2000:]}")


class ArtifactsHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        for artifact in ARTIFACTS:
            elsewhere = artifact.machine not in (None, platform.machine())
            if version == "editable" and elsewhere:
                continue
            try:
                if build(artifact, Path(self.root)):
                    self.app.display_info(f"built {artifact.output}")
            except Unbuilt as error:
                self.app.display_warning(
                    f"WARNING: {artifact.output} was not built: {error}. {artifact.without}."
                )

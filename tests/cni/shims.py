"""The two programs that a runtime may find as `samepath-cni`, and one way to call them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import samepath.cni

FOLDER = Path(samepath.cni.__file__).parent
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
C_PROGRAM = Path(
    # Another build of shim.c may be tried, such as one with sanitizers.
    os.environ.get("SAMEPATH_TEST_SHIM")
    or FOLDER / "bin" / f"samepath-cni-{ARCHITECTURES.get(platform.machine(), 'none')}"
)
C = [str(C_PROGRAM)]
PYTHON = [sys.executable, "-I", "-S", str(FOLDER / "shim.py")]

needs_c = pytest.mark.skipif(
    not C_PROGRAM.exists(), reason="shim.c was not built: install the project with ziglang"
)

POD = {
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "K8S_POD_NAME=a;IgnoreUnknown=1",
    "CNI_PATH": "/opt/cni/bin",
}


@dataclass(frozen=True, slots=True)
class Said:
    status: int
    body: bytes


def call(
    program: list[str],
    command: str | None,
    stdin: bytes,
    more: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    pod: Mapping[str, str] = POD,
) -> Said:
    """One call, as a runtime does it: nothing else in the environment but a few of its own."""
    environment: dict[bytes, bytes] = {b"PATH": b"/usr/bin:/bin", b"NOT_CNI": b"1"}
    if command is not None:
        environment[b"CNI_COMMAND"] = command.encode()
    for name, value in (*pod.items(), *(more or {}).items()):
        environment[os.fsencode(name)] = os.fsencode(value)
    done = subprocess.run(
        program, input=stdin, env=environment, capture_output=True, timeout=60, check=False
    )
    assert not done.stderr, done.stderr.decode(errors="replace")
    return Said(done.returncode, done.stdout)

"""Compiling the program: when a wheel is built, and by whoever works on it (`python build.py`).

Called by the build hook, by the tests and by the benchmark. Nothing of it runs in production: the
object is shipped. The compiler is PyPI's ziglang (clang inside), or clang where that is missing.
This file stands alone, since the hook runs before the package can be imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE / "samepath.bpf.c"
OBJECT = HERE / "samepath.bpf.o"
PARTS = (SOURCE, HERE / "samepath.h", HERE / "flow_hash.h", HERE / "kernel.h", Path(__file__))


def compiled(target: Path = OBJECT, flags: Sequence[str] = ()) -> Path:
    """`target`, compiled anew unless it is newer than its source.

    Raises RuntimeError with the compiler's words.
    """
    if not target.exists() or target.stat().st_mtime < max(p.stat().st_mtime for p in PARTS):
        build(target, flags)
    return target


def build(target: Path = OBJECT, flags: Sequence[str] = ()) -> None:
    with tempfile.TemporaryDirectory(prefix="samepath-bpf-") as scratch:
        fresh = target.with_suffix(f".{os.getpid()}")
        command = [*_compiler(), "-mcpu=v3", "-O2", "-g", "-Wall", "-Wno-unused-function",
                   *flags, "-c", str(SOURCE), "-o", str(fresh)]  # fmt: skip
        caches = {"ZIG_LOCAL_CACHE_DIR": scratch, "ZIG_GLOBAL_CACHE_DIR": scratch}
        try:
            done = subprocess.run(
                command, env=os.environ | caches, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}:\n{done.stderr}")
            fresh.replace(target)
        except FileNotFoundError as error:
            raise RuntimeError("the BPF program needs ziglang (PyPI) or clang") from error
        finally:
            fresh.unlink(missing_ok=True)


def _compiler() -> list[str]:
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-target", "bpfel-freestanding",
                "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"]  # fmt: skip
    return ["clang", "-target", "bpf"]


if __name__ == "__main__":
    build()

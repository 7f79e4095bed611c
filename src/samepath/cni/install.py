"""The plugin where a container runtime looks for it: its program, and the network's configuration.

`samepath cni install` calls `install`, which may be repeated at any time: each file is written
whole beside its place and renamed into it, so that a runtime that starts a pod meanwhile finds the
old one or the new one. The program comes before the configuration that names it, and goes after.

The program is the static one for this machine (hatch_build.py), once it has shown that it runs
here; else the Python one, with the interpreter that runs this.

Not done here: the agent's configuration; removal of what pods were given (DEL, GC).

Standards: CNI 1.1.0, "Network configuration format".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samepath.cni.versions import VERSION_ANSWER
from samepath.cni.wire import SOCKET

PROGRAM = "samepath-cni"
CONFLIST = "10-samepath.conflist"
NETWORK = "samepath"

CHAINED: dict[str, dict[str, Any]] = {
    "portmap": {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    "bandwidth": {"type": "bandwidth", "capabilities": {"bandwidth": True}},
}
"""Reference plugins that may follow ours."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_HERE = Path(__file__).parent
_TRIAL_S = 10
_SHEBANG_OCTETS = 255
"""Linux: BINPRM_BUF_SIZE less the newline."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What was placed, and what a person should know of it."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def install(
    bin_dir: Path,
    conf_dir: Path,
    socket: str = SOCKET,
    chain: Sequence[str] = ("portmap",),
    *,
    static: bool = False,
) -> Installed:
    """Places both files, and their folders where these are missing. `static`: for a host other than
    the one that this runs on (we are in a container), so the Python program will not do. Raises
    OSError, ValueError."""
    program, notes = plugin_program(os.uname().machine)
    if static and notes:
        raise ValueError(f"nothing was placed: {notes[0].partition(';')[0]}")
    present = [name for name in chain if (bin_dir / name).exists()]
    notes += [
        f"{bin_dir / name} does not exist, so {CONFLIST} leaves it out (a runtime would refuse "
        "every pod): install the reference CNI plugins, then run this again"
        for name in chain
        if name not in present
    ]
    files = (bin_dir / PROGRAM, conf_dir / CONFLIST)
    _place(files[0], program, 0o755)
    _place(files[1], conflist(socket, present), 0o644)
    return Installed(files, tuple(notes))


def uninstall(bin_dir: Path, conf_dir: Path) -> tuple[Path, ...]:
    """Removes the two files that `install` places, and nothing else; those that were there."""
    removed = []
    for path in (conf_dir / CONFLIST, bin_dir / PROGRAM):
        if path.exists() or path.is_symlink():
            path.unlink()
            removed.append(path)
    return tuple(removed)


def conflist(socket: str, chain: Sequence[str]) -> bytes:
    """The network's configuration. In 1.0.0 every runtime takes it; newer ones choose 1.1.0."""
    ours: dict[str, Any] = {"type": PROGRAM, "capabilities": {"ips": True, "mac": True}}
    if socket != SOCKET:
        ours["socket"] = socket
    configuration = {
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": NETWORK,
        "plugins": [ours, *(CHAINED[name] for name in chain)],
    }
    return json.dumps(configuration, indent=2).encode() + b"\n"


def plugin_program(machine: str, folder: Path = _HERE) -> tuple[bytes, list[str]]:
    """The program for `machine`, and a note where it is the slower one."""
    built = folder / "bin" / f"{PROGRAM}-{_ARCHITECTURES.get(machine, machine)}"
    if not built.exists():
        why = "it was not built when Samepath was installed (PyPI's ziglang builds it)"
    elif not _runs(built):
        why = "it does not run here"
    else:
        return built.read_bytes(), []
    note = f"no static program for {machine}: {why}; the Python one is in its place, a few "
    return python_program(), [note + "milliseconds slower a call"]


def python_program() -> bytes:
    """`shim.py` as a file that can be executed. Raises ValueError."""
    interpreter = os.path.realpath(sys.executable)
    first = os.fsencode(f"#!{interpreter} -IS\n")
    if len(first) > _SHEBANG_OCTETS or any(c.isspace() for c in interpreter):
        raise ValueError(
            f"{interpreter}: a path that is too long or has spaces cannot stand in the first line "
            "of a program; install Samepath elsewhere"
        )
    return first + (_HERE / "shim.py").read_bytes()


def _runs(program: Path) -> bool:
    try:
        done = subprocess.run(
            [program],
            env={"CNI_COMMAND": "VERSION"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TRIAL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout == VERSION_ANSWER


def _place(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever the umask
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)

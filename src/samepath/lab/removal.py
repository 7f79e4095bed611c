"""The end of a lab: everything of it goes, whoever built it and however that ended.

No record is needed: namespaces are found by the prefix of their names, processes by their mark
(`lab.processes`), folders by the lab's name; cables, routes and pods' links end with their
namespaces. Called by `cli.lab`, by `lab.running` when it cannot build, by scenarios and tests.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from samepath.lab import foreign, observe_bpf, processes
from samepath.lab.netns import Namespace
from samepath.lab.state import ROOT, LabError

NETNS = Path("/run/netns")
PROGRAMS = Path("/var/lib/samepath-lab")
"""Where plugins are placed: nothing below /run can be executed on many machines."""
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True)
class Removed:
    """What `down` found."""

    processes: int
    namespaces: int
    run_dir: bool

    @property
    def nothing(self) -> bool:
        return not (self.processes or self.namespaces or self.run_dir)


def down(name: str) -> Removed:
    """Remove everything of the lab `name`; it may be whole, half built, or not there at all."""
    need_root()
    checked(name)
    try:
        killed = processes.kill_all(name)
    except TimeoutError as error:
        raise LabError(f"{error}; try `samepath lab down` again in a while") from None
    namespaces = namespaces_of(name)
    for namespace in namespaces:
        Namespace(namespace).delete()
    run_dir = ROOT / name
    existed = run_dir.exists()
    if existed:
        for program_dir in (run_dir / "run").glob("*"):
            observe_bpf.remove(program_dir)
        shutil.rmtree(run_dir)
    shutil.rmtree(programs_of(name), ignore_errors=True)
    foreign.remove(name)
    for root in (ROOT, PROGRAMS):
        with contextlib.suppress(OSError):
            root.rmdir()  # the last one out
    return Removed(killed, len(namespaces), existed)


def programs_of(name: str) -> Path:
    return PROGRAMS / name


def namespaces_of(name: str) -> list[str]:
    if not NETNS.exists():
        return []
    return sorted(p.name for p in NETNS.iterdir() if p.name.startswith(f"{name}."))


def labs() -> list[str]:
    """Names of the labs that have a run directory."""
    return sorted(p.name for p in ROOT.iterdir()) if ROOT.exists() else []


def need_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces, so it needs root")


def checked(name: str) -> None:
    if not NAME.fullmatch(name):
        raise LabError(f"a lab's name is small letters, digits and hyphens, not {name!r}")

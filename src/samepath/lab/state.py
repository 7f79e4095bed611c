"""The lab's one record, `/run/samepath-lab/NAME/state.json`, and what goes with it.

`lab.running` writes it, by rename, on each change, so that another process can open the lab. It is
not needed to remove one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from samepath.lab.processes import Process
from samepath.lab.render import Condition, Dataplane, Endpoint
from samepath.lab.topology import Pod, Spec

ROOT = Path("/run/samepath-lab")
FILE = "state.json"


class LabError(Exception):
    """What an operator of the lab can put right; one line."""


class PodState(msgspec.Struct, frozen=True, kw_only=True):
    """A pod, and what its EndpointSlice says of it; None: not listed."""

    pod: Pod
    condition: str | None

    def endpoint(self) -> Endpoint | None:
        return Endpoint(self.pod, Condition[self.condition]) if self.condition else None


class State(msgspec.Struct, kw_only=True):
    name: str
    spec: Spec
    dataplane: Dataplane
    processes: list[Process] = []
    pods: list[PodState] = []
    nodes: list[str] = []
    """Nodes with a Node manifest."""
    draining: list[str] = []
    expected_peers: int = 0
    next_pod: dict[str, int] = {}
    ready: bool = False


def wait(condition: Callable[[], Any], limit_s: float, what: str, pause_s: float = 0.05) -> float:
    """Wait for a condition; how long it took. Raises LabError after `limit_s`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit_s:
            raise LabError(f"waited {limit_s:.0f} s for {what}")
        time.sleep(pause_s)
    return time.monotonic() - began


def replace(path: Path, content: bytes) -> None:
    """Write a file as a whole, so that no reader sees half of it. Hidden until it is complete."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.replace(path)

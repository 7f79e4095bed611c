"""What the lab sees of a gateway's BPF data plane: its maps, read from outside.

Called by `lab.observe` for `--dataplane bpf`. The pinned maps are opened beside the gateway, which
is not asked: who owns each bucket, and which buckets are in transition.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from samepath.bpf.errors import BpfError
from samepath.bpf.layout import BUCKET, HOP, SERVICE, SETTINGS
from samepath.bpf.syscall import Map, pinned
from samepath.model.net import Address, address_text, parse_address
from samepath.programs.gateway_bpf import pin_folder

_MAPPED = bytes(10) + b"\xff\xff"


@contextmanager
def _map(run_dir: Path, name: str) -> Iterator[Map]:
    folder = pin_folder(str(run_dir))
    found = Map(pinned(folder / os.readlink(folder / "current") / name))
    try:
        yield found
    finally:
        found.close()


def _buckets(run_dir: Path, service: str) -> np.ndarray | None:
    """The buckets of a service's table; None: it is in no map."""
    address = parse_address(service)
    with _map(run_dir, "services") as services:
        entry = services.get(address if len(address) == 16 else _MAPPED + address)
    if entry is None:
        return None
    first = int(np.frombuffer(entry, SERVICE)["first"][0])
    with _map(run_dir, "settings") as settings:
        count = int(np.frombuffer(settings.get(bytes(4)) or b"", SETTINGS)["buckets"][0])
    with _map(run_dir, "buckets") as buckets:
        _, values = buckets.items()
    return values.view(BUCKET)[first : first + count]


def owners(run_dir: Path, service: str) -> list[str]:
    """The next hop of new flows of each bucket; empty: the maps do not have the service."""
    try:
        buckets = _buckets(run_dir, service)
        if buckets is None:
            return []
        with _map(run_dir, "hops") as hops:
            _, values = hops.items()
    except (BpfError, FileNotFoundError):
        return []
    entries = values.view(HOP)
    found: dict[int, Address] = {}
    for index in np.unique(buckets["owner"]).tolist():
        entry = entries[index]
        found[index] = entry["address"].tobytes()[: entry["length"]]
    if not all(found.values()):
        return []
    return [address_text(found[index]) for index in buckets["owner"].tolist()]


def moving(run_dir: Path, service: str) -> set[int]:
    """The buckets of a service that are in transition."""
    try:
        buckets = _buckets(run_dir, service)
    except (BpfError, FileNotFoundError):
        return set()
    return set() if buckets is None else set(np.flatnonzero(buckets["old"]).tolist())


def remove(run_dir: Path) -> None:
    """All that a gateway left pinned."""
    shutil.rmtree(pin_folder(str(run_dir)), ignore_errors=True)

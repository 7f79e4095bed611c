"""How the data plane comes to be: adopted as it is pinned, made, or migrated.

Called by `Dataplane.open` alone, which holds the folder's lock. What is pinned, and how a new
generation takes the place of another: `bpf.pins`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from samepath.bpf import attachments, layout, libbpf, pins, syscall
from samepath.bpf.layout import SETTINGS, SHAPES, Sizes, Total
from samepath.bpf.syscall import Map


class Opened(enum.Enum):
    """How `Dataplane.open` found things."""

    CREATED = "created"
    ADOPTED = "adopted"
    MIGRATED = "migrated"


def opened(folder: Path, sizes: Sizes, seed: int, file: Path) -> tuple[pins.Pinned, Opened]:
    """What `Dataplane.open` does, under the lock."""
    old = pins.current(folder)
    try:
        return _brought(folder, old, sizes, seed, file)
    except BaseException:
        if old:
            old.close()
        raise


def _brought(
    folder: Path, old: pins.Pinned | None, sizes: Sizes, seed: int, file: Path
) -> tuple[pins.Pinned, Opened]:
    """`old`, or what takes its place."""
    entries = _entries(sizes, old.maps if old else {})
    kept: dict[str, Map] = {}
    if old:
        held = read_settings(old.maps["settings"]) if "settings" in old.maps else None
        keep_tables = held is not None and int(held["buckets"]) == sizes.buckets
        if held is not None and int(held["layout"]) == layout.LAYOUT:
            kept = {n: m for n, m in old.maps.items() if _fits(n, m, entries.get(n))}
            if not keep_tables:
                kept = {n: m for n, m in kept.items() if n not in ("services", "buckets")}
    loaded = libbpf.load(file, entries, {name: each.fd for name, each in kept.items()})
    new = pins.Pinned(folder, {n: Map(fd) for n, fd in loaded.maps.items()}, loaded.programs)
    setting = layout.settings(seed, sizes.buckets).tobytes()
    if old and len(kept) == len(entries) and _same_programs(old, new):
        new.close()
        _finish(folder, old)
        old.maps["settings"].put(bytes(4), setting)
        return old, Opened.ADOPTED
    new.maps["settings"].put(bytes(4), setting)
    if old:
        for name, each in old.maps.items():
            if name not in new.maps or name in kept or name == "settings":
                continue
            if keep_tables or name not in ("services", "buckets"):
                pins.copy(name, each, new.maps[name])
    made = pins.make(folder, new.maps, new.programs)
    pins.turn(folder, made.folder)
    _finish(folder, made, keep_tables if old else False)
    if old:
        old.close()
    return made, Opened.MIGRATED if old else Opened.CREATED


def _fits(name: str, each: Map, entries: int | None) -> bool:
    return name in SHAPES and (each.key_size, each.value_size, each.max_entries) == (
        *SHAPES[name], entries)  # fmt: skip


def _entries(sizes: Sizes, present: Mapping[str, Map]) -> dict[str, int]:
    """How many entries each map gets. What is addressed by index never shrinks under its users."""
    entries = {
        "services": sizes.services, "buckets": sizes.tables * sizes.buckets, "hops": sizes.hops,
        "flows": sizes.flows, "links": 1024, "settings": 1, "service_counts": sizes.services,
        "hop_counts": sizes.hops, "totals": len(Total),
    }  # fmt: skip
    for name in ("services", "buckets", "hops", "service_counts", "hop_counts"):
        if name in present:
            entries[name] = max(entries[name], present[name].max_entries)
    return entries


def _same_programs(old: pins.Pinned, new: pins.Pinned) -> bool:
    return old.programs.keys() == new.programs.keys() and all(
        syscall.program(old.programs[n]).tag == syscall.program(new.programs[n]).tag
        for n in new.programs
    )


def _finish(folder: Path, made: pins.Pinned, keep_tables: bool = True) -> None:
    """Attachments to the program in use; then carry over what another wrote, and remove that."""
    links = folder / pins.LINKS
    for ifindex, attachment in attachments.attached(links).items():
        attachments.update(links, ifindex, attachment.how, made.programs)
    for generation in pins.others(folder):
        left = pins.reopened(generation)
        for name in pins.KEPT_FRESH:
            if left and name in left.maps and (keep_tables or name == "flows"):
                pins.copy_late(name, left.maps[name], made.maps[name])
        if left:
            left.close()
        pins.remove(generation)


def read_settings(settings: Map) -> np.void:
    value = (settings.get(bytes(4)) or b"").ljust(SETTINGS.itemsize, b"\0")
    setting: np.void = np.frombuffer(value[: SETTINGS.itemsize], SETTINGS)[0]
    return setting

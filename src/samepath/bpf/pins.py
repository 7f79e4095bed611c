"""What outlives the process: maps and programs pinned in a folder of bpffs, by generation.

Called by `Dataplane.open`. Under the folder:

    gen-3/<map>, gen-3/samepath_tc, gen-3/samepath_xdp
    current -> gen-3
    links/<ifindex>-tcx, links/<ifindex>-xdp    attachments, pinned
    links/<ifindex>-clsact/                     a mark: this one is not a link that can be pinned

`opened` loads the program each time, over the pinned maps: if program and maps are as pinned, the
new ones are dropped (adopted). Otherwise a new generation is made next to the old: a map of the
same shape is kept, another is copied; then `current` is turned, then the attachments one by one
take the new program, then what the old program wrote meanwhile is copied, and the old generation
goes. A process that is killed on the way leaves a generation beside `current`; the next one
finishes it (`finish`).

A struct may only grow at its end: copying fills up with zeros. A key of another size starts empty.
Not done: two processes at once (the folder is locked).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samepath.bpf import libbpf, syscall
from samepath.bpf.errors import BpfError, Unavailable
from samepath.bpf.syscall import Map

BPFFS_MAGIC = 0xCAFE4A11
CURRENT = "current"
LINKS = "links"

KEPT_FRESH = ("flows", "buckets")
"""Maps that the program writes and that flows depend on: copied again after the turn."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Pinned:
    """Open descriptors of one generation."""

    folder: Path
    maps: dict[str, Map]
    programs: dict[str, int]

    def close(self) -> None:
        for each in self.maps.values():
            each.close()
        for fd in self.programs.values():
            os.close(fd)


def check_folder(folder: Path) -> None:
    """Make `folder`. Raises Unavailable if it is not within a bpffs."""
    root = folder
    while not root.exists():
        root = root.parent
    answer = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(root), answer):
        raise Unavailable(f"{root}: {os.strerror(ctypes.get_errno())}")
    if int.from_bytes(answer.raw[:4], "little") != BPFFS_MAGIC:
        raise Unavailable(f"{folder} is not in a bpffs", "mount -t bpf bpf /sys/fs/bpf")
    try:
        (folder / LINKS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{folder}: {error.strerror}", libbpf.advice(error.errno or 0)) from error


def current(folder: Path) -> Pinned | None:
    """The generation in use, opened; None if there is none, or not a whole one."""
    try:
        generation = folder / os.readlink(folder / CURRENT)
        return _open(generation)
    except FileNotFoundError:
        return None


def others(folder: Path) -> list[Path]:
    """Generations that are not in use: of a process that was killed."""
    link = folder / CURRENT
    used = os.readlink(link) if link.is_symlink() else ""
    return [path for path in sorted(folder.glob("gen-*")) if path.name != used]


def reopened(generation: Path) -> Pinned | None:
    """Another generation, opened; None if it is gone."""
    try:
        return _open(generation)
    except FileNotFoundError:
        return None


def _open(generation: Path) -> Pinned:
    if not generation.is_dir():
        raise FileNotFoundError(generation)
    maps: dict[str, Map] = {}
    programs: dict[str, int] = {}
    for path in generation.iterdir():
        fd = syscall.pinned(path)
        if path.name in libbpf.PROGRAMS:
            programs[path.name] = fd
        else:
            maps[path.name] = Map(fd)
    return Pinned(generation, maps, programs)


def make(folder: Path, maps: Mapping[str, Map], programs: Mapping[str, int]) -> Pinned:
    """Pin a new generation. It is not in use before `turn`."""
    numbers = [int(path.name.removeprefix("gen-")) for path in folder.glob("gen-*")]
    generation = folder / f"gen-{max(numbers, default=0) + 1}"
    generation.mkdir()
    for name, each in maps.items():
        syscall.pin(each.fd, generation / name)
    for name, fd in programs.items():
        syscall.pin(fd, generation / name)
    return Pinned(generation, dict(maps), dict(programs))


def turn(folder: Path, generation: Path) -> None:
    """Put `generation` into use, in one step."""
    fresh = folder / "turning"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(generation.name)
    fresh.rename(folder / CURRENT)


def remove(generation: Path) -> None:
    shutil.rmtree(generation, ignore_errors=True)


def same_shape(one: Map, other: Map) -> bool:
    return (one.type, one.key_size, one.value_size, one.max_entries, one.flags) == (
        other.type, other.key_size, other.value_size, other.max_entries, other.flags)  # fmt: skip


def copy(name: str, old: Map, new: Map) -> None:
    """Everything of `old` into `new`, which has another shape."""
    if old.key_size != new.key_size or old.per_cpu != new.per_cpu:
        return
    keys, values = old.items()
    if name not in ("services", "flows", "links"):
        keys, values = keys[: new.max_entries], values[: new.max_entries]
    if name == "flows" and len(keys) > new.max_entries:
        keys, values = keys[-new.max_entries :], values[-new.max_entries :]
    new.put_many(keys, _reshaped(values, old, new))


def copy_late(name: str, old: Map, new: Map) -> None:
    """What the old program wrote while and after `copy` ran, without touching what the new one
    has written since."""
    if old.id == new.id or old.key_size != new.key_size:
        return
    keys, values = old.items()
    if name == "flows":
        have, _ = new.items()
        missing = ~np.isin(keys.view("<u8"), have.view("<u8"))
        for key, value in zip(keys[missing], _reshaped(values[missing], old, new), strict=True):
            try:
                new.put(key.tobytes(), value.tobytes(), syscall.NOEXIST)
            except BpfError as error:
                if error.errno != errno.EEXIST:  # else it has just been recorded anew
                    break
    elif name == "buckets":
        memory = new.memory()
        theirs = _reshaped(values, old, new).view("<u4").reshape(len(values), -1)
        ours = np.frombuffer(memory, "<u4").reshape(new.max_entries, -1)[: len(theirs)]
        theirs = theirs[: len(ours)]
        late = (ours[:, 0] == theirs[:, 0]) & ((theirs[:, 2] - ours[:, 2]).view("<i4") > 0)
        ours[late, 2] = theirs[late, 2]


def _reshaped(values: NDArray[np.void], old: Map, new: Map) -> NDArray[np.void]:
    """Values at the new struct's size. Per CPU there is one struct after the other."""
    per_cpu = syscall.possible_cpus() if old.per_cpu else 1
    was, now = ((m.value_size + 7) // 8 * 8 if old.per_cpu else m.value_size for m in (old, new))
    octets = values.view("u1").reshape(len(values), per_cpu, was)
    fitted = np.zeros((len(values), per_cpu, now), "u1")
    fitted[:, :, : min(was, now)] = octets[:, :, : min(was, now)]
    whole: NDArray[np.void] = fitted.reshape(-1).view(f"V{per_cpu * now}")
    return whole

"""libbpf.so.1 by ctypes: the object file in, maps and verified programs out.

Called by `bpf.pins` when the data plane is opened. libbpf reads the ELF file, makes the maps that
are not there yet, and loads the programs; what it says on the way is kept for the error.

- libbpf 1.0 and later (Debian 12 has 1.1): bpf_object__open_file and what follows.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samepath.bpf.errors import Unavailable

LIBRARY = "libbpf.so.1"
OBJECT = Path(__file__).with_name("samepath.bpf.o")
"""Compiled when the wheel was built."""
PROGRAMS = ("samepath_tc", "samepath_xdp")
_LOG_LINES = 12
_DEBUG = 2

_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Descriptors, the caller's to close."""

    maps: dict[str, int]
    programs: dict[str, int]


def library() -> ctypes.CDLL:
    """Raises Unavailable if it is not installed."""
    try:
        lib = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError as error:
        raise Unavailable(f"{LIBRARY} is not installed", "install libbpf1") from error
    for name in ("bpf_object__open_file", "bpf_object__find_map_by_name",
                 "bpf_object__find_program_by_name"):  # fmt: skip
        getattr(lib, name).restype = ctypes.c_void_p
    return lib


def load(file: Path, entries: Mapping[str, int], kept: Mapping[str, int]) -> Loaded:
    """Load `file`: maps of `entries` by name with so many entries, those of `kept` by descriptor.

    Raises Unavailable, with what libbpf and the verifier said last.
    """
    lib = library()
    if not file.exists():
        raise Unavailable(f"{file} is missing", "install a wheel of Samepath: it has the object")
    said: list[str] = []

    def hear(level: int, text: bytes, arguments: int) -> int:
        if level == _DEBUG:
            return 0
        line = ctypes.create_string_buffer(65536)
        _libc.vsnprintf(line, ctypes.c_size_t(len(line)), text, ctypes.c_void_p(arguments))
        said.append(line.value.decode(errors="replace"))
        return 0

    heard = _PRINT(hear)
    lib.libbpf_set_print(heard)
    try:
        found = lib.bpf_object__open_file(os.fsencode(file), None)
        if not found:
            raise _unavailable("open", ctypes.get_errno(), said)
        try:
            return _load(lib, ctypes.c_void_p(found), entries, kept, said)
        finally:
            lib.bpf_object__close(ctypes.c_void_p(found))
    finally:
        lib.libbpf_set_print(_PRINT())


def _load(
    lib: Any,
    loading: ctypes.c_void_p,
    entries: Mapping[str, int],
    kept: Mapping[str, int],
    said: list[str],
) -> Loaded:
    maps = {}
    for name, number in entries.items():
        place = lib.bpf_object__find_map_by_name(loading, name.encode())
        if not place:
            raise Unavailable(f"the BPF object has no map {name}", "install Samepath anew")
        maps[name] = ctypes.c_void_p(place)
        if name in kept:
            result = lib.bpf_map__reuse_fd(maps[name], kept[name])
        else:
            result = lib.bpf_map__set_max_entries(maps[name], number)
        if result:
            raise _unavailable(f"map {name}", -result, said)
    result = lib.bpf_object__load(loading)
    if result:
        raise _unavailable("load", -result, said)
    programs = {}
    for name in PROGRAMS:
        place = lib.bpf_object__find_program_by_name(loading, name.encode())
        programs[name] = os.dup(lib.bpf_program__fd(ctypes.c_void_p(place)))
    return Loaded({n: os.dup(lib.bpf_map__fd(place)) for n, place in maps.items()}, programs)


def _unavailable(step: str, number: int, said: list[str]) -> Unavailable:
    log = [line for text in said for line in text.splitlines() if line.strip()]
    reason = f"BPF object, {step}: {os.strerror(number)}"
    if log:
        reason += "\n  " + "\n  ".join(log[-_LOG_LINES:])
    return Unavailable(reason, advice(number))


def advice(number: int) -> str:
    """What may help against an errno of bpf(2)."""
    if number in (errno.EPERM, errno.EACCES):
        missing = [name for name, bit in _CAPABILITIES.items() if not _effective() >> bit & 1]
        return f"needs {', '.join(missing)}" if missing else "a security module or lockdown forbids"
    return {
        errno.ENOSYS: "the kernel needs CONFIG_BPF_SYSCALL",
        errno.EINVAL: "the kernel may be too old: Linux 5.15 is needed",
        errno.ENOMEM: "too little memory: make the tables smaller",
        errno.E2BIG: "the kernel may be too old: Linux 5.15 is needed",
    }.get(number, "")


_CAPABILITIES = {"CAP_BPF": 39, "CAP_NET_ADMIN": 12, "CAP_PERFMON": 38}


def _effective() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0

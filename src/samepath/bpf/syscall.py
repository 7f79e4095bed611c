"""bpf(2): the calls that the data plane makes, with numpy arrays for many entries at once.

Used by the rest of this package. libbpf makes maps and loads programs (`libbpf`); it knows no tcx
in Debian 12's version, and a call for each entry is too slow, so the rest is done here.
Blocking, but short: the longest is a walk through the flow table, about 0.3 s for a million.

- Linux include/uapi/linux/bpf.h, `union bpf_attr`.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samepath.bpf.errors import BpfError

_NUMBER = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361}
_LOOKUP, _UPDATE, _DELETE, _OBJ_PIN, _OBJ_GET, _TEST_RUN, _INFO = 1, 2, 3, 6, 7, 10, 15
_PROG_FD_BY_ID = 13
_LOOKUP_BATCH, _UPDATE_BATCH, _DELETE_BATCH = 24, 26, 27
_LINK_CREATE, _LINK_UPDATE, _LINK_DETACH = 28, 29, 34

NOEXIST = 1
HASH, ARRAY, PERCPU_ARRAY, LRU_HASH = 1, 2, 6, 9
TCX_INGRESS, XDP = 46, 37
XDP_NATIVE, XDP_GENERIC = 1 << 2, 1 << 1
"""XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE."""

_BATCH = 16384

_libc = ctypes.CDLL(None, use_errno=True)


def call(operation: str, command: int, attributes: bytes | bytearray) -> int:
    """One bpf(2). `attributes` that are a bytearray take the kernel's answer. Raises BpfError."""
    size = len(attributes)
    buffer = (ctypes.c_char * size).from_buffer(
        attributes if isinstance(attributes, bytearray) else bytearray(attributes)
    )
    number = _NUMBER.get(platform.machine())
    if number is None:
        raise BpfError(operation, errno.ENOSYS)
    result: int = _libc.syscall(number, command, ctypes.byref(buffer), size)
    if result < 0:
        raise BpfError(operation, ctypes.get_errno())
    return result


def _address(buffer: NDArray[Any] | None) -> int:
    return 0 if buffer is None else int(buffer.ctypes.data)


def _array(octets: bytes | int) -> NDArray[np.uint8]:
    return (
        np.zeros(octets, np.uint8) if isinstance(octets, int) else np.frombuffer(octets, np.uint8)
    )


def pin(fd: int, path: Path) -> None:
    name = _array(os.fsencode(path) + b"\0")
    call(f"pin {path}", _OBJ_PIN, struct.pack("=QII", _address(name), fd, 0))


def pinned(path: Path) -> int:
    """The descriptor of what is pinned at `path`."""
    name = _array(os.fsencode(path) + b"\0")
    return call(f"open {path}", _OBJ_GET, struct.pack("=QII", _address(name), 0, 0))


def info(fd: int, size: int) -> bytes:
    answer = _array(size)
    call("object info", _INFO, struct.pack("=IIQ", fd, size, _address(answer)))
    return answer.tobytes()


@dataclass(frozen=True, slots=True)
class Program:
    id: int
    tag: bytes
    """A digest of its instructions."""


def program(fd: int) -> Program:
    _, id_, tag = struct.unpack_from("=II8s", info(fd, 40))
    return Program(id_, tag)


def program_by_id(id_: int) -> int:
    return call("program by id", _PROG_FD_BY_ID, struct.pack("=III", id_, 0, 0))


def possible_cpus() -> int:
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().split(",")[-1].split("-")[-1]) + 1


class Map:
    """One map by its descriptor, which it owns. Keys and values are numpy arrays or octets."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        fields = struct.unpack_from("=6I", info(fd, 80))
        self.type, self.id, self.key_size, value, self.max_entries, self.flags = fields
        self.value_size = value
        """Of one entry; a per-CPU map's are padded to 8 octets, one after the other."""
        self._stride = (value + 7) // 8 * 8 * possible_cpus() if self.per_cpu else value

    @property
    def per_cpu(self) -> bool:
        return bool(self.type == PERCPU_ARRAY)

    def close(self) -> None:
        os.close(self.fd)

    def get(self, key: bytes) -> bytes | None:
        at, value = _array(key), _array(self._stride)
        try:
            call("map lookup", _LOOKUP, self._element(at, value))
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return value.tobytes()

    def put(self, key: bytes, value: bytes, flags: int = 0) -> None:
        call("map update", _UPDATE, self._element(_array(key), _array(value), flags))

    def delete(self, key: bytes) -> bool:
        """False if it was not there."""
        try:
            call("map delete", _DELETE, self._element(_array(key), None))
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def _element(self, key: NDArray[Any], value: NDArray[Any] | None, flags: int = 0) -> bytes:
        return struct.pack("=IIQQQ", self.fd, 0, _address(key), _address(value), flags)

    def items(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """All entries: keys of shape (n,), values of shape (n,), as octets (dtype V).

        Entries that come or go meanwhile may be missing or there; the others are there once.
        """
        # A hash map's batch stops at its own chains, so the position is the kernel's to read.
        position, count = _array(max(8, self.key_size)), _BATCH
        parts: list[tuple[NDArray[np.void], NDArray[np.void]]] = []
        begun = False
        while True:
            keys = np.empty(count, f"V{self.key_size}")
            values = np.empty(count, f"V{self._stride}")
            attributes = self._batch(position if begun else None, position, keys, values, count)
            try:
                call("map read", _LOOKUP_BATCH, attributes)
                done = False
            except BpfError as error:
                if error.errno == errno.ENOSPC:
                    count *= 2
                    continue
                if error.errno != errno.ENOENT:
                    raise
                done = True
            begun = True
            got = struct.unpack_from("=I", attributes, 32)[0]
            parts.append((keys[:got], values[:got]))
            if done:
                return np.concatenate([k for k, _ in parts]), np.concatenate([v for _, v in parts])

    def put_many(self, keys: NDArray[Any], values: NDArray[Any]) -> None:
        keys, values = np.ascontiguousarray(keys), np.ascontiguousarray(values)
        if len(keys):
            call("map update", _UPDATE_BATCH, self._batch(None, None, keys, values, len(keys)))

    def delete_many(self, keys: NDArray[Any]) -> None:
        """Delete those of `keys` that are there."""
        keys = np.ascontiguousarray(keys)
        while len(keys):
            attributes = self._batch(None, None, keys, None, len(keys))
            try:
                call("map delete", _DELETE_BATCH, attributes)
                return
            except BpfError as error:
                if error.errno != errno.ENOENT:
                    raise
            done = struct.unpack_from("=I", attributes, 32)[0]
            keys = keys[done + 1 :]  # the one that it stopped at was not there

    def _batch(
        self,
        start: NDArray[Any] | None,
        next_: NDArray[Any] | None,
        keys: NDArray[Any],
        values: NDArray[Any] | None,
        count: int,
    ) -> bytearray:
        places = (_address(start), _address(next_), _address(keys), _address(values))
        return bytearray(struct.pack("=QQQQIIQQ", *places, count, self.fd, 0, 0))

    def memory(self) -> mmap.mmap:
        """An array's entries as memory that is shared with the program."""
        return mmap.mmap(self.fd, self.max_entries * ((self.value_size + 7) // 8 * 8))


def link_create(program_fd: int, ifindex: int, kind: int, flags: int = 0) -> int:
    """Attach; the descriptor of the link. `ifindex` is of the caller's network namespace."""
    return call(
        "attach", _LINK_CREATE, struct.pack("=IIIIIIQ", program_fd, ifindex, kind, flags, 0, 0, 0)
    )


def link_update(link_fd: int, program_fd: int) -> None:
    """Put another program in the place of the attached one, at once."""
    call("replace program", _LINK_UPDATE, struct.pack("=IIII", link_fd, program_fd, 0, 0))


def link_detach(link_fd: int) -> None:
    call("detach", _LINK_DETACH, struct.pack("=I", link_fd))


def link_target(link_fd: int) -> tuple[int, int]:
    """The program's id, and the link's ifindex: 0 once that is gone."""
    _, _, program_id, _, ifindex = struct.unpack_from("=IIIII", info(link_fd, 32))
    return program_id, ifindex


@dataclass(frozen=True, slots=True)
class Run:
    verdict: int
    frame: bytes
    ns: int
    """Mean of one run."""


def run_program(program_fd: int, frame: bytes, context: bytes = b"", repeat: int = 1) -> Run:
    """Run a program on one frame (BPF_PROG_TEST_RUN). A repeated run goes on with what the one
    before it made of the frame."""
    at, out, about = _array(frame), _array(len(frame) + 256), _array(context)
    attributes = bytearray(
        struct.pack("=IIIIQQIIIIQQIIII", program_fd, 0, len(frame), len(out), _address(at),
                    _address(out), repeat, 0, len(context), 0, _address(about) if context else 0, 0,
                    0, 0, 0, 0)
    )  # fmt: skip
    call("test run", _TEST_RUN, attributes)
    _, verdict, _, length = struct.unpack_from("=IIII", attributes)
    return Run(verdict, out[:length].tobytes(), struct.unpack_from("=I", attributes, 36)[0])

"""Where the program is attached: tcx, else clsact; or XDP in the card's driver.

Called by `Dataplane`. A tcx or XDP attachment is a link, pinned, so it outlives the process and
takes another program in one step. clsact (before Linux 6.6) has none: the filter itself stays, and
a folder marks it. All ifindexes are of the caller's network namespace.

- Linux: include/uapi/linux/bpf.h (BPF_LINK_CREATE), pkt_cls.h (clsact, direct action).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from samepath.bpf import libbpf, syscall
from samepath.bpf.errors import BpfError, Unavailable

Mode = Literal["tc", "xdp"]
How = Literal["tcx", "clsact", "xdp"]

_INGRESS, _REPLACE = 1, 1
_HANDLE, _PRIORITY = 83, 83


@dataclass(frozen=True, slots=True)
class Attachment:
    mode: Mode
    how: How


class _Hook(ctypes.Structure):
    """struct bpf_tc_hook."""

    _fields_ = (("sz", ctypes.c_size_t), ("ifindex", ctypes.c_int), ("point", ctypes.c_int),
                ("parent", ctypes.c_uint32), ("pad", ctypes.c_uint32))  # fmt: skip


class _Options(ctypes.Structure):
    """struct bpf_tc_opts."""

    _fields_ = (("sz", ctypes.c_size_t), ("prog_fd", ctypes.c_int), ("flags", ctypes.c_uint32),
                ("prog_id", ctypes.c_uint32), ("handle", ctypes.c_uint32),
                ("priority", ctypes.c_uint32), ("pad", ctypes.c_uint32))  # fmt: skip


def attach(links: Path, ifindex: int, mode: Mode, programs: Mapping[str, int]) -> How:
    """Attach, or leave what is attached; another mode replaces it. Raises Unavailable."""
    present = attached(links).get(ifindex)
    if present:
        if present.mode == mode:
            update(links, ifindex, present.how, programs)
            return present.how
        detach(links, ifindex)
    if mode == "xdp":
        _pin_link(links, ifindex, "xdp", programs["samepath_xdp"], syscall.XDP)
        return "xdp"
    try:
        _pin_link(links, ifindex, "tcx", programs["samepath_tc"], syscall.TCX_INGRESS)
        return "tcx"
    except Unavailable as error:
        if not isinstance(error.__cause__, BpfError) or error.__cause__.errno != errno.EINVAL:
            raise
    clsact(links, ifindex, programs["samepath_tc"])
    return "clsact"


def _pin_link(links: Path, ifindex: int, how: How, program: int, kind: int) -> None:
    try:
        flags = syscall.XDP_NATIVE if how == "xdp" else 0
        link = syscall.link_create(program, ifindex, kind, flags)
    except BpfError as error:
        advice = {
            errno.EOPNOTSUPP: "this card's driver has no native XDP: use mode tc",
            errno.EBUSY: "another program is attached there",
            errno.ENODEV: "there is no such link",
        }.get(error.errno or 0, libbpf.advice(error.errno or 0))
        raise Unavailable(
            f"link {ifindex}, {how}: {os.strerror(error.errno or 0)}", advice
        ) from error
    try:
        path = links / f"{ifindex}-{how}"
        path.unlink(missing_ok=True)  # of a link that is gone
        syscall.pin(link, path)
    finally:
        os.close(link)


def clsact(links: Path, ifindex: int, program: int) -> None:
    """Attach as a filter of the clsact qdisc; replaces ours."""
    lib = libbpf.library()
    hook = _hook(ifindex)
    result = lib.bpf_tc_hook_create(ctypes.byref(hook))
    if result not in (0, -errno.EEXIST):
        raise _refused(ifindex, -result)
    result = lib.bpf_tc_attach(ctypes.byref(hook), ctypes.byref(_options(program, _REPLACE)))
    if result:
        raise _refused(ifindex, -result)
    (links / f"{ifindex}-clsact").mkdir(exist_ok=True)


def _refused(ifindex: int, number: int) -> Unavailable:
    return Unavailable(
        f"link {ifindex}, clsact: {os.strerror(number)}",
        libbpf.advice(number) if number == errno.EPERM
        else "the kernel needs CONFIG_NET_XGRESS, or CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF",
    )  # fmt: skip


def _hook(ifindex: int) -> _Hook:
    return _Hook(ctypes.sizeof(_Hook), ifindex, _INGRESS, 0, 0)


def _options(program: int = 0, flags: int = 0) -> _Options:
    return _Options(ctypes.sizeof(_Options), program, flags, 0, _HANDLE, _PRIORITY, 0)


def update(links: Path, ifindex: int, how: How, programs: Mapping[str, int]) -> None:
    """Give an attachment the program of `programs`, without a moment without one."""
    wanted = programs["samepath_xdp" if how == "xdp" else "samepath_tc"]
    if how == "clsact":
        if _filter(ifindex) != syscall.program(wanted).id:
            clsact(links, ifindex, wanted)
        return
    link = syscall.pinned(links / f"{ifindex}-{how}")
    try:
        if syscall.link_target(link)[0] != syscall.program(wanted).id:
            syscall.link_update(link, wanted)
    finally:
        os.close(link)


def _filter(ifindex: int) -> int:
    """The program's id in our clsact filter on a link, or 0."""
    options: Any = _options()
    if libbpf.library().bpf_tc_query(ctypes.byref(_hook(ifindex)), ctypes.byref(options)):
        return 0
    return int(options.prog_id)


def detach(links: Path, ifindex: int) -> None:
    for path in links.glob(f"{ifindex}-*"):
        if path.name.endswith("-clsact"):
            options = _options()
            options.handle, options.priority = _HANDLE, _PRIORITY
            libbpf.library().bpf_tc_detach(ctypes.byref(_hook(ifindex)), ctypes.byref(options))
            path.rmdir()
        else:
            link = syscall.pinned(path)
            try:
                if syscall.link_target(link)[1]:
                    syscall.link_detach(link)
            finally:
                os.close(link)
            path.unlink()


def attached(links: Path) -> dict[int, Attachment]:
    """By ifindex. What was on a link that is gone is forgotten."""
    found: dict[int, Attachment] = {}
    for path in sorted(links.iterdir()):
        text, how = path.name.split("-")
        ifindex = int(text)
        if how == "clsact":
            if _filter(ifindex):
                found[ifindex] = Attachment("tc", "clsact")
            else:
                path.rmdir()
            continue
        link = syscall.pinned(path)
        try:
            alive = syscall.link_target(link)[1] == ifindex
        finally:
            os.close(link)
        if not alive:
            path.unlink()
        elif how == "xdp":
            found[ifindex] = Attachment("xdp", "xdp")
        else:
            found[ifindex] = Attachment("tc", "tcx")
    return found

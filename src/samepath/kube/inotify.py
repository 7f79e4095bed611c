"""inotify(7) through ctypes: a folder says that something in it has changed.

Used by `samepath.kube.manifests` for its folder and by the programs for their configuration file.
Only the names of complete changes are of interest here: a file closed after writing, renamed into
or out of the folder, created (symbolic links), deleted. What changed is looked up in the folder
itself, so that a lost event costs time, not truth.

Not done: recursion; the contents of what a symbolic link points to.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

IN_CLOSE_WRITE = 0x00000008
IN_MOVED_FROM = 0x00000040
IN_MOVED_TO = 0x00000080
IN_CREATE = 0x00000100
IN_DELETE = 0x00000200
IN_DELETE_SELF = 0x00000400
IN_MOVE_SELF = 0x00000800
IN_Q_OVERFLOW = 0x00004000
IN_IGNORED = 0x00008000
IN_ONLYDIR = 0x01000000

_CHANGES = (
    IN_CLOSE_WRITE
    | IN_MOVED_FROM
    | IN_MOVED_TO
    | IN_CREATE
    | IN_DELETE
    | IN_DELETE_SELF
    | IN_MOVE_SELF
)
_HEAD = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Changes:
    """What was heard since it was asked last."""

    complete: frozenset[str]
    """Names of files that were closed after writing, or renamed into the folder."""
    other: bool
    """Something else: names that went or came otherwise, the folder itself gone or moved, or the
    queue has overflowed."""


class Inotify:
    """One watched folder. `fileno()` is readable when there is something to hear."""

    def __init__(self) -> None:
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._watch = -1

    def fileno(self) -> int:
        return int(self._fd)

    def watch(self, folder: str) -> None:
        """Watch `folder` instead of what was watched before. Raises OSError."""
        if self._watch >= 0:
            _libc.inotify_rm_watch(self._fd, self._watch)
            self._watch = -1
        watch = _libc.inotify_add_watch(self._fd, os.fsencode(folder), _CHANGES | IN_ONLYDIR)
        if watch < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), folder)
        self._watch = watch

    def hear(self) -> Changes:
        complete: set[str] = set()
        created: set[str] = set()
        other = False
        while True:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return Changes(frozenset(complete), other or bool(created - complete))
            position = 0
            while position < len(data):
                watch, mask, _, length = _HEAD.unpack_from(data, position)
                start = position + _HEAD.size
                position = start + length
                name = os.fsdecode(data[start:position].rstrip(b"\0"))
                if mask & IN_Q_OVERFLOW:
                    other = True
                elif watch != self._watch:
                    continue  # of a folder that we have left
                elif name.startswith("."):
                    # Editors' own; but `..data` is a link that is swung over by a rename.
                    other = other or bool(mask & IN_MOVED_TO)
                elif mask & (IN_CLOSE_WRITE | IN_MOVED_TO):
                    complete.add(name)
                elif mask & IN_CREATE:
                    created.add(name)  # written and closed soon, or else a link
                else:
                    other = True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

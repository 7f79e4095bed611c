"""TCP-MD5: passwords of neighbours, and the kernel that checks them.

`Passwords` reads the files that a configuration names; the speaker asks it for the password of a
neighbour, and whether a file has changed. `set_key` gives the kernel a password for the packets
from and to an address or prefix, on a listening or a connecting socket. A neighbour whose file
cannot be used has no password yet, and stays down: never is it spoken with unsigned.

A password never shows itself in text. What the kernel drops
for a wrong signature nobody hears of: to both sides it looks like no answer. It counts, for the
whole namespace, and `dropped` tells.

Not done: TCP-AO (RFC 5925), several passwords at once.

RFC 2385; Linux tcp(7), include/uapi/linux/tcp.h (struct tcp_md5sig).
"""

from __future__ import annotations

import hmac
import os
import socket
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from samepath.model.neighbor import Neighbor
from samepath.model.net import Address, Family, family_of

_TCP_MD5SIG_EXT = 32
_FLAG_PREFIX = 1
_KEY_OCTETS = 80
_STRUCT = struct.Struct("128sBBHi80s")

_COUNTERS = Path("/proc/thread-self/net/netstat")
"""Of the namespace of the calling thread, whatever the main thread's is."""


class Password:
    """Compares, and says nothing."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def reveal(self) -> bytes:
        """To the kernel alone."""
        return self._octets

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Password) and hmac.compare_digest(self._octets, other._octets)

    def __hash__(self) -> int:
        return hash(self._octets)

    def __repr__(self) -> str:
        return "Password(...)"


@dataclass(frozen=True, slots=True)
class _File:
    stamp: tuple[int, int, int, int] | None
    password: Password | None
    problem: str
    warning: str


class Passwords:
    """The password files of a configuration, by path. Does not change; a new one follows."""

    def __init__(self, neighbors: Iterable[Neighbor], former: Passwords | None = None) -> None:
        """Reads what these name, as far as it is new or changed. A file that was good once and is
        no longer leaves its password in force."""
        known = former._files if former is not None else {}
        paths = {n.password_file for n in neighbors if n.password_file is not None}
        self._files: dict[str, _File] = {
            path: _look(path, known.get(path)) for path in sorted(paths)
        }

    @property
    def are_stale(self) -> bool:
        """Whether a file is another one than that which was read."""
        return any(_stamp(path) != file.stamp for path, file in self._files.items())

    def of(self, neighbor: Neighbor) -> Password | None:
        """None: it has none configured, or none that could be read (`why_not` tells)."""
        path = neighbor.password_file
        return None if path is None else self._files[path].password

    def why_not(self, neighbor: Neighbor) -> str:
        """Why a neighbour that must have a password cannot be spoken with; else empty."""
        path = neighbor.password_file
        if path is None or self._files[path].password is not None:
            return ""
        return self._files[path].problem

    @property
    def findings(self) -> list[str]:
        """What an operator should mend."""
        return [text for f in self._files.values() for text in (f.problem, f.warning) if text]


def _look(path: str, known: _File | None) -> _File:
    stamp = _stamp(path)
    if known is not None and stamp == known.stamp and stamp is not None:
        return known
    fresh = _read(path, stamp)
    if fresh.password is None and known is not None and known.password is not None:
        problem = f"{fresh.problem}; the last good password stands"
        return _File(stamp, known.password, problem, known.warning)
    return fresh


def _stamp(path: str) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


def _read(path: str, stamp: tuple[int, int, int, int] | None) -> _File:
    try:
        with open(path, "rb") as file:
            text = file.read(4096)
    except OSError as error:
        return _File(stamp, None, f"password_file {path}: {error.strerror or error}", "")
    octets = text.split(b"\n", 1)[0].removesuffix(b"\r")
    if not 1 <= len(octets) <= _KEY_OCTETS:
        problem = f"password_file {path}: a password has 1 to {_KEY_OCTETS} octets"
        return _File(stamp, None, f"{problem}, not {len(octets)}", "")
    warning = ""
    if stamp is not None and stamp[3] & stat.S_IROTH:
        mode = stat.S_IMODE(stamp[3])
        warning = f"password_file {path}: everybody can read it (mode {mode:04o}): chmod o-r"
    return _File(stamp, Password(octets), "", warning)


def set_key(sock: socket.socket, address: Address, length: int, key: Password | None) -> None:
    """Segments from and to `address`/`length` are signed with `key`; None: no longer.

    Connections that a listening socket has accepted keep what they began with. Raises OSError:
    ENOPROTOOPT from a kernel without TCP-MD5, ENOMEM beyond net.core.optmem_max.
    """
    octets = key.reveal() if key is not None else b""
    if family_of(address) is Family.IPV4:
        where = struct.pack("=HH4s", socket.AF_INET, 0, address)
    else:
        where = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, address, 0)
    value = _STRUCT.pack(where, _FLAG_PREFIX, length, len(octets), 0, octets)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_MD5SIG_EXT, value)


@dataclass(frozen=True, slots=True)
class Dropped:
    """Segments that the kernel dropped, since the namespace exists."""

    wrong: int = 0
    """Signed with another password."""
    unsigned: int = 0
    """From an address that has a password here."""
    unexpected: int = 0
    """Signed, from an address that has none here."""

    def since(self, before: Dropped) -> Dropped:
        return Dropped(
            self.wrong - before.wrong,
            self.unsigned - before.unsigned,
            self.unexpected - before.unexpected,
        )


def dropped() -> Dropped:
    """Of this namespace; all 0 where the kernel does not count."""
    try:
        lines = _COUNTERS.read_text().splitlines()
    except OSError:
        return Dropped()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if names.startswith("TcpExt:"):
            found = dict(zip(names.split()[1:], values.split()[1:], strict=False))
            wanted = ("TCPMD5Failure", "TCPMD5NotFound", "TCPMD5Unexpected")
            return Dropped(*(int(found.get(name, 0)) for name in wanted))
    return Dropped()

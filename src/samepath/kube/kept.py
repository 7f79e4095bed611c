"""What a source knew last, on disk: for a program that is started while the API server is away.

Used by `samepath.kube.api_source`. An agent that knows nothing after a restart would tell its
neighbours nothing, and when their restart timers end its services and pods would be cut off, with
everything in order but the API server. So the last state is kept beside the control socket, for
root alone (passwords of BGP sessions are in it), and used until the server has been read.

It is no second store: it is one state as a whole, of the same server, of a program that was alive
within the last hour; else it is no file. Written whole or not at all, and checked. A program with
other objects in its model does not read it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec

from samepath.kube.objects import object_key
from samepath.model import cluster, kinds
from samepath.model.cluster import Object

MAGIC = b"samepath kept objects\n"
SIZE_LIMIT = 256 << 20
ALIVE_S = 3600.0
"""Of a program that was last alive before that nothing is used."""

log = logging.getLogger(__name__)

_KINDS: tuple[type, ...] = get_args(Object)


def _schema() -> str:
    """Another one for any other set of fields in what is kept."""
    named = {**vars(cluster), **vars(kinds)}
    told = [
        (name, [(f.name, str(f.type)) for f in dataclasses.fields(thing)])
        for name, thing in sorted(named.items())
        if isinstance(thing, type) and dataclasses.is_dataclass(thing)
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()


class Recalled(NamedTuple):
    objects: dict[str, Object]
    """By `object_key`."""
    written_at: float
    """Wall clock, seconds."""


class Kept:
    def __init__(self, path: Path, server: str) -> None:
        """`server`: what tells this server from another."""
        self._path = path
        self._server = server
        fields: list[Any] = [("schema", str), ("server", str), ("written_at", float)]
        fields += [(kind.__name__, list[kind], []) for kind in _KINDS]  # type: ignore[valid-type]
        self._body: Any = msgspec.defstruct("Body", fields)
        self._decoder: Any = msgspec.msgpack.Decoder(self._body)
        self._writing = threading.Lock()

    def read(self) -> Recalled | None:
        """May run in a thread."""
        try:
            octets = self._octets()
            digest, body = octets[:32], octets[32:]
            if hashlib.sha256(body).digest() != digest:
                raise ValueError("damaged")
            found = self._decoder.decode(body)
            if found.schema != _schema():
                raise ValueError("of another version")
            if found.server != self._server:
                raise ValueError("of another server")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.warning("%s: not used: %s", self._path, error)
            return None
        things = [thing for kind in _KINDS for thing in getattr(found, kind.__name__)]
        return Recalled({object_key(thing): thing for thing in things}, found.written_at)

    def _octets(self) -> bytes:
        """Raises OSError, ValueError."""
        with self._path.open("rb") as file:
            about = os.fstat(file.fileno())
            if about.st_uid != os.geteuid() or about.st_mode & 0o077:
                raise ValueError("others could have written or read it")
            if time.time() - about.st_mtime > ALIVE_S:
                raise ValueError("too old")
            if about.st_size > SIZE_LIMIT:
                raise ValueError(f"more than {SIZE_LIMIT} octets")
            octets = file.read()
        if not octets.startswith(MAGIC):
            raise ValueError("something else")
        return octets[len(MAGIC) :]

    def write(self, objects: Mapping[str, Object]) -> None:
        """May run in a thread. Raises OSError."""
        by_kind: dict[str, list[Object]] = {kind.__name__: [] for kind in _KINDS}
        for thing in objects.values():
            by_kind[type(thing).__name__].append(thing)
        told = {"schema": _schema(), "server": self._server, "written_at": time.time()}
        body = msgspec.msgpack.encode(self._body(**told, **by_kind))
        with self._writing:  # a thread may be at it while the program ends
            fresh = self._path.with_suffix(".new")
            fresh.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(fresh, flags, 0o600), "wb") as file:
                file.write(MAGIC + hashlib.sha256(body).digest() + body)
            fresh.replace(self._path)

    def alive(self) -> None:
        """The program that has written it still goes by it."""
        try:
            os.utime(self._path)
        except OSError as error:
            log.debug("%s: %s", self._path, error.strerror)

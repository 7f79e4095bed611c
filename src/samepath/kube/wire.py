"""What an API server sends, taken apart: pages of a list, lines and events of a watch, Status.

Called by `samepath.kube.api` and `samepath.kube.watch` with octets from the network. Objects stay
raw here: whoever wants one decodes it, once, to the type that it needs. Whatever the octets are,
the outcome is a value or a `WireError`. Pure.

Standards: Kubernetes API concepts, "Efficient detection of changes"; apimachinery's ListMeta,
WatchEvent and Status; RFC 8259 (JSON).
"""

from __future__ import annotations

from typing import Any

import msgspec

LINE_LIMIT = 8 << 20
"""Octets of one event of a watch. etcd holds objects of 1.5 MiB; as JSON they can be longer."""


class WireError(ValueError):
    """The server has sent what is no answer of an API server."""


class ListMeta(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some of a list, or all of it: `metadata.continue_` is empty on the last one."""

    metadata: ListMeta
    items: list[msgspec.Raw] | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a watch: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: msgspec.Raw


class ObjectMeta(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class Head(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """What names an object, and nothing else of it."""

    metadata: ObjectMeta


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    reason: str = ""
    message: str = ""


class StatusDetails(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    retry_after_seconds: int = 0
    causes: list[Cause] | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was refused; also what an ERROR event carries."""

    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: StatusDetails | None = None


_PAGE = msgspec.json.Decoder(Page)
_EVENT = msgspec.json.Decoder(Event)
_HEAD = msgspec.json.Decoder(Head)
_STATUS = msgspec.json.Decoder(Status)
_PLAIN: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def _decode(decoder: Any, octets: bytes | memoryview | msgspec.Raw, what: str) -> Any:
    try:
        return decoder.decode(octets)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"{what}: {error}") from error


def decode_page(octets: bytes) -> Page:
    """Raises WireError."""
    page: Page = _decode(_PAGE, octets, "no list")
    return page


def decode_event(line: bytes) -> Event:
    """Raises WireError."""
    event: Event = _decode(_EVENT, line, "no watch event")
    return event


def decode_head(octets: bytes | msgspec.Raw) -> ObjectMeta:
    """Raises WireError."""
    head: Head = _decode(_HEAD, octets, "no object")
    return head.metadata


def decode_status(octets: bytes | msgspec.Raw) -> Status:
    """Raises WireError."""
    status: Status = _decode(_STATUS, octets, "no Status")
    return status


def decode_object(octets: bytes | msgspec.Raw) -> dict[str, Any]:
    """An object as plain data. Raises WireError."""
    thing = _decode(_PLAIN, octets, "not JSON")
    if not isinstance(thing, dict):
        raise WireError(f"no object: {type(thing).__name__}")
    return thing


class Lines:
    """Octets as they arrive, to whole lines; empty ones are left out."""

    __slots__ = ("_limit", "_rest", "_size")

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, octets: bytes) -> list[bytes]:
        """The lines that are complete now. Raises WireError."""
        if b"\n" not in octets:
            self._keep(octets)
            return []
        first, *lines = octets.split(b"\n")
        rest = lines.pop()
        self._keep(first)
        lines.insert(0, b"".join(self._rest))
        self._rest, self._size = [], 0
        self._keep(rest)
        if any(len(line) > self._limit for line in lines):
            raise self._too_long()
        return [line for line in lines if line.strip()]

    def _keep(self, octets: bytes) -> None:
        self._size += len(octets)
        if self._size > self._limit:
            raise self._too_long()
        if octets:
            self._rest.append(octets)

    def _too_long(self) -> WireError:
        return WireError(f"an event of more than {self._limit} octets")

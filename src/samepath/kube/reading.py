"""What all readers of Kubernetes objects share: partial structs, and texts to our values.

Called by `kube.core` and `kube.kinds`, whose readers are functions of a struct and a `Context`: so
they do not know whether the struct came out of YAML, with lines, or straight out of JSON. Values
are read by functions that raise ValueError; `one` and `each` make of it an error that names the
field.

Standards: Kubernetes API conventions (object names: RFC 1123), apimachinery metav1.Duration, whose
texts are those of Go's time.ParseDuration.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from samepath.kube.texts import PATTERN, Is
from samepath.model.cluster import Object
from samepath.model.documents import DocumentError
from samepath.model.net import Address, Family, Nlri, make_nlri, nlri_address, parse_prefix

NAME = re.compile(rf"{PATTERN[Is.NAME]}\Z")
"""RFC 1123 subdomain, as object names are."""

_DURATION = re.compile(rf"({PATTERN[Is.DURATION]})\Z")
_TERM = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|ms|s|m|h)")
_NANOSECONDS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
LONGEST_S = 8760 * 3600
"""A year."""
_CIDR = re.compile(rf"({PATTERN[Is.PREFIX]})\Z")

T = TypeVar("T")


class Context(Protocol):
    """Where an object comes from, for its errors. A `Document` is one."""

    def error(self, path: str, message: str) -> DocumentError: ...


@dataclass(frozen=True, slots=True)
class Reader:
    """How one kind is read: decoded as `struct`, then `read`; None: of no use to us."""

    api_version: str
    struct: type[Any]
    read: Callable[[Any, Context], Object | None]


class Part(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """A partial struct: other fields are ignored."""


class Metadata(Part, frozen=True, kw_only=True):
    name: str
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    uid: str | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None

    def __post_init__(self) -> None:
        for field in (self.name, self.namespace or "default"):
            if not NAME.match(field):
                raise ValueError(f"name: {field!r} is no object name")


class Condition(Part, frozen=True, kw_only=True):
    """Of an object's status: apimachinery metav1.Condition."""

    type: str
    reason: str | None = None
    message: str | None = None


def check_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise ValueError(f"port: 1 to 65535, not {port}")


def one(context: Context, path: str, text: str, read: Callable[[str], T]) -> T:
    """`read(text)`. Raises DocumentError with the path of the field."""
    try:
        return read(text)
    except ValueError as error:
        raise context.error(path, str(error)) from error


def each(context: Context, path: str, texts: list[str], read: Callable[[str], T]) -> list[T]:
    return [one(context, f"{path}[{i}]", text, read) for i, text in enumerate(texts)]


# -- Values: all raise ValueError -------------------------------------------------------------


def unicast(text: str) -> Address:
    """An address that a service or an endpoint may have; others would be the host's own matter."""
    packed = _ordinary(text)
    if packed is not None:
        return packed
    address = ipaddress.ip_address(text)
    shown = repr(text) if "%" in text else text  # what follows a % may be any text
    for name in ("unspecified", "loopback", "multicast", "link_local"):
        if getattr(address, f"is_{name}"):
            raise ValueError(f"{shown} is {name.replace('_', '-')}")
    if text == "255.255.255.255":
        raise ValueError(f"{text} is broadcast")
    if "%" in text:
        raise ValueError(f"{shown} has a zone")
    if address.version == 6 and address.ipv4_mapped is not None:
        raise ValueError(f"{text} is an IPv4 address in IPv6 (RFC 4291 §2.5.5)")
    return address.packed


def _ordinary(text: str) -> Address | None:
    """The same in a fifteenth of the time, where nothing is special about the address: a cluster
    has 50,000 endpoints. None: it takes a closer look."""
    is_ipv6 = ":" in text
    try:
        packed = socket.inet_pton(socket.AF_INET6 if is_ipv6 else socket.AF_INET, text)
    except (OSError, ValueError):
        return None
    first = packed[0]
    if is_ipv6:
        return packed if 0x20 <= first < 0x40 or first in (0xFC, 0xFD) else None
    return packed if 0 < first < 224 and first not in (127, 169) else None


def prefix(text: str) -> tuple[Family, Nlri]:
    """A prefix in the one spelling that the API has, address and length; without host bits."""
    if not _CIDR.match(text):
        raise ValueError(f"{text!r} is not {Is.PREFIX.value}")
    return parse_prefix(text)


def masked_prefix(text: str) -> tuple[Family, Nlri]:
    """The same; bits beyond the length do not count (as in MetalLB)."""
    if not _CIDR.match(text):
        raise ValueError(f"{text!r} is not {Is.PREFIX.value}")
    network = ipaddress.ip_network(text, strict=False)
    family = Family.IPV4 if network.version == 4 else Family.IPV6
    return family, make_nlri(network.network_address.packed, network.prefixlen)


def unicast_prefix(text: str) -> tuple[Family, Nlri]:
    """A prefix that pods may be in, as a whole."""
    family, nlri = prefix(text)
    if nlri[0] == 0:
        raise ValueError(f"{text} is every address")
    unicast(str(ipaddress.ip_address(nlri_address(family, nlri))))
    return family, nlri


def duration_s(text: str) -> float:
    """Seconds of `90s`, `1h30m`, `500ms`, `0`; not negative. Nanoseconds are exact up to the last
    step, so that what is whole stays whole."""
    if text == "0":
        return 0.0
    if len(text) > 32 or not _DURATION.match(text):
        raise ValueError(f"{text[:32]!r} is no duration, as 90s, 1h30m and 500ms are")
    total = 0
    for number, unit in _TERM.findall(text):
        whole, _, part = number.partition(".")
        scale = _NANOSECONDS[unit]
        total += int(whole) * scale
        if part:
            total += int(part) * scale // 10 ** len(part)
    if total > LONGEST_S * 10**9:
        raise ValueError(f"{text!r} is longer than a year")
    return total / 10**9


def duration_text(seconds: float) -> str:
    """The shortest text of so many seconds, to the millisecond: `90s`, `1m30.5s`, `500ms`."""
    milliseconds = round(seconds * 1000)
    if milliseconds % 1000:
        return f"{milliseconds}ms"
    return f"{milliseconds // 1000}s"

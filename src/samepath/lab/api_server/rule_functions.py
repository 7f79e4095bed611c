"""What Kubernetes adds to the Common Expression Language, as far as `rules` offers it.

Kubernetes: CEL in Kubernetes, the libraries of strings, lists, regular expressions, IP and CIDR.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

from celpy import celtypes

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _bool(value: object) -> celtypes.BoolType:
    return celtypes.BoolType(bool(value))


def _texts(values: Iterable[str]) -> celtypes.ListType:
    return celtypes.ListType([celtypes.StringType(value) for value in values])


def _can(read: Callable[[str], object], text: Any) -> celtypes.BoolType:
    try:
        read(str(text))
    except ValueError:
        return _bool(False)
    return _bool(True)


def _address(value: Any) -> Ip:
    return value if isinstance(value, Ip) else ipaddress.ip_address(str(value))


def _network(value: Any) -> Network:
    if isinstance(value, Network):
        return value
    text = str(value)
    if "/" not in text:
        raise ValueError(f"no prefix: {text}")
    return ipaddress.ip_network(text, strict=False)


def _substring(text: Any, start: Any, end: Any = None) -> celtypes.StringType:
    return celtypes.StringType(str(text)[int(start) : None if end is None else int(end)])


def _sorted(values: Any) -> celtypes.BoolType:
    return _bool(all(a <= b for a, b in itertools.pairwise(values)))


def _split(text: Any, by: Any, limit: Any = -1) -> celtypes.ListType:
    return _texts(str(text).split(str(by), max(int(limit) - 1, -1) if int(limit) >= 0 else -1))


def _replace(text: Any, old: Any, new: Any, limit: Any = -1) -> celtypes.StringType:
    return celtypes.StringType(str(text).replace(str(old), str(new), int(limit)))


def _find(text: Any, pattern: Any) -> celtypes.StringType:
    found = re.search(str(pattern), str(text))
    return celtypes.StringType(found[0] if found else "")


def _index_of(text: Any, part: Any, start: Any = 0) -> celtypes.IntType:
    return celtypes.IntType(str(text).find(str(part), int(start)))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "isIP": functools.partial(_can, ipaddress.ip_address),
    "isCIDR": functools.partial(_can, _network),
    "ip": lambda value: value.network_address if isinstance(value, Network) else _address(value),
    "cidr": _network,
    "family": lambda value: celtypes.IntType(value.version),
    "prefixLength": lambda value: celtypes.IntType(_network(value).prefixlen),
    "masked": _network,
    "containsIP": lambda net, value: _bool(_address(value) in _network(net)),
    "containsCIDR": lambda net, value: _bool(
        _network(net).version == _network(value).version
        and _network(value).subnet_of(_network(net))  # type: ignore[arg-type]
    ),
    "isUnspecified": lambda value: _bool(_address(value).is_unspecified),
    "isLoopback": lambda value: _bool(_address(value).is_loopback),
    "isLinkLocalUnicast": lambda value: _bool(_address(value).is_link_local),
    "split": _split,
    "join": lambda values, by="": celtypes.StringType(str(by).join(str(v) for v in values)),
    "lowerAscii": lambda text: celtypes.StringType(str(text).lower()),
    "upperAscii": lambda text: celtypes.StringType(str(text).upper()),
    "trim": lambda text: celtypes.StringType(str(text).strip()),
    "replace": _replace,
    "substring": _substring,
    "indexOf": _index_of,
    "charAt": lambda text, at: celtypes.StringType(str(text)[int(at) : int(at) + 1]),
    "find": _find,
    "findAll": lambda text, pattern: _texts(
        match[0] for match in re.finditer(str(pattern), str(text))
    ),
    "isSorted": _sorted,
    "sum": lambda values: functools.reduce(lambda a, b: a + b, values),
    "min": lambda values: min(values),
    "max": lambda values: max(values),
}

"""Texts and selectors of our kinds to values: names, communities, addresses, ranges.

Called by `kube.kinds`. What a text is, `kube.texts` says in a pattern, which the API server has,
too; here it is looked at more closely. Functions of a text raise ValueError, those of a `Context`
raise DocumentError with the field.

Standards: apimachinery's LabelSelector; RFC 6286 (router IDs); MetalLB's ranges of addresses.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from samepath.kube import specs
from samepath.kube.reading import Context, each, masked_prefix, one
from samepath.kube.texts import PATTERN, Is
from samepath.model.kinds import Operator, Range, Requirement, Selector
from samepath.model.net import Address, address_text, nlri_address, parse_address


def _texts(what: Is) -> Callable[[str], str]:
    """A reader of texts that are `what`."""
    match = re.compile(rf"({PATTERN[what]})\Z").match

    def read(text: str) -> str:
        if not match(text):
            raise ValueError(f"{text!r} is not {what.value}")
        return text

    return read


object_name = _texts(Is.NAME)
_address = _texts(Is.ADDRESS)
_addresses = _texts(Is.ADDRESSES)
_ipv4_address = _texts(Is.ROUTER_ID)
_label_key = _texts(Is.LABEL_KEY)
_label_value = _texts(Is.LABEL_VALUE)
alias = _texts(Is.ALIAS)
community = _texts(Is.COMMUNITY)
community_or_name = _texts(Is.COMMUNITY_OR_NAME)


def selectors(
    context: Context, path: str, given: list[specs.LabelSelector] | None
) -> tuple[Selector, ...]:
    return tuple(_selector(context, f"{path}[{i}]", s) for i, s in enumerate(given or []))


def _selector(context: Context, path: str, given: specs.LabelSelector) -> Selector:
    requirements = []
    for key, value in (given.match_labels or {}).items():
        one(context, f"{path}.matchLabels", key, _label_key)
        one(context, f"{path}.matchLabels", value, _label_value)
        requirements.append(Requirement(key, Operator.IN, (value,)))
    for index, expression in enumerate(given.match_expressions or []):
        at = f"{path}.matchExpressions[{index}]"
        key = one(context, f"{at}.key", expression.key, _label_key)
        values = tuple(each(context, f"{at}.values", expression.values or [], _label_value))
        operator = Operator(expression.operator)
        if (operator in (Operator.IN, Operator.NOT_IN)) != bool(values):
            wanted = "no values" if values else "at least one value"
            raise context.error(f"{at}.values", f"{operator.value} needs {wanted}")
        requirements.append(Requirement(key, operator, values))
    return Selector(tuple(requirements))


def names(context: Context, path: str, given: list[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each(context, path, given or [], object_name)))


def session_address(text: str) -> Address:
    """One end of a session; loopback may be: another daemon of the same node."""
    address = ipaddress.ip_address(_address(text))
    for name in ("unspecified", "multicast"):
        if getattr(address, f"is_{name}"):
            raise ValueError(f"{text} is {name}")
    if text == "255.255.255.255":
        raise ValueError(f"{text} is broadcast")
    if address.version == 6 and address.is_link_local:
        raise ValueError(f"{text} is link-local: it says nothing without an interface")
    return address.packed


def router_id(text: str) -> Address:
    """RFC 6286: four octets, not zero."""
    address = ipaddress.IPv4Address(_ipv4_address(text))
    if not int(address):
        raise ValueError(f"{text} is no router ID")
    return address.packed


def address_range(text: str) -> Range:
    """`198.51.100.0/24` or `198.51.100.10-198.51.100.20`, both included."""
    first_text, dash, last_text = _addresses(text).partition("-")
    if not dash:
        family, nlri = masked_prefix(text)
        first = nlri_address(family, nlri)
        number = int.from_bytes(first, "big") | (1 << (family.bits - nlri[0])) - 1
        last = number.to_bytes(family.octets, "big")
    else:
        first, last = parse_address(first_text.strip()), parse_address(last_text.strip())
        if first > last:
            raise ValueError(f"{text}: the last address is before the first")
    for address in (first, last):
        _range_end(address, text)
    return Range(first, last)


def _range_end(address: Address, text: str) -> None:
    known = ipaddress.ip_address(address)
    for name in ("unspecified", "loopback", "multicast", "link_local"):
        if getattr(known, f"is_{name}"):
            raise ValueError(f"{text}: {address_text(address)} is {name.replace('_', '-')}")

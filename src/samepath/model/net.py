"""Addresses and prefixes, as the wire has them.

An address is its packed octets, 4 or 16 (so its family is its length). A prefix is its NLRI: the
length octet and as many octets as it needs, the bits beyond the length zero (RFC 4271 §4.3). IPv4
and IPv6 NLRI may be the same octets, so tables of prefixes are kept per family. Text is made only
where people look.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable

Address = bytes
"""4 or 16 octets, network order."""

Nlri = bytes
"""A canonical prefix: length in bits, then the octets that it needs. RFC 4271 §4.3."""


class Family(enum.Enum):
    """An address family: BGP's number, Linux's number, and its size."""

    IPV4 = ("ipv4", 1, 2, 32)
    IPV6 = ("ipv6", 2, 10, 128)

    def __new__(cls, label: str, *_: int) -> Family:
        member = object.__new__(cls)
        member._value_ = label  # plain, so that it can be kept on disk
        return member

    def __init__(self, label: str, afi: int, af: int, bits: int) -> None:
        self.label = label
        self.afi = afi
        """Address family identifier, RFC 4760."""
        self.af = af
        """AF_INET or AF_INET6, Linux."""
        self.bits = bits
        self.octets = bits // 8

    # Members are singletons; identity is cheaper than Enum's hash of the value's name.
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"Family.{self.name}"


def family_of(address: Address) -> Family:
    return Family.IPV4 if len(address) == 4 else Family.IPV6


def parse_address(text: str) -> Address:
    """Packed octets of `text`. Raises ValueError for anything but a plain IPv4 or IPv6 address."""
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return ipaddress.ip_address(text).packed


def address_text(address: Address) -> str:
    return str(ipaddress.ip_address(address))


def parse_prefix(text: str) -> tuple[Family, Nlri]:
    """`192.0.2.0/24` or a bare address. Raises ValueError also for host bits that are set."""
    network = ipaddress.ip_network(text)
    family = Family.IPV4 if network.version == 4 else Family.IPV6
    return family, make_nlri(network.network_address.packed, network.prefixlen)


def make_nlri(address: Address, length: int) -> Nlri:
    """The NLRI of `address`/`length`; bits beyond `length` are cleared."""
    octets = (length + 7) // 8
    body = bytearray(address[:octets])
    if length % 8:
        body[-1] &= 0xFF00 >> (length % 8) & 0xFF
    return bytes((length, *body))


def host_nlri(address: Address) -> Nlri:
    """The /32 or /128 of an address."""
    return bytes((len(address) * 8,)) + address


def nlri_address(family: Family, nlri: Nlri) -> Address:
    """The network address, all octets of the family."""
    return nlri[1:].ljust(family.octets, b"\0")


def prefix_text(family: Family, nlri: Nlri) -> str:
    return f"{address_text(nlri_address(family, nlri))}/{nlri[0]}"


class PrefixSet:
    """Prefixes to match against: a prefix is covered when it lies within one of them."""

    __slots__ = ("_by_family", "texts")

    def __init__(self, texts: Iterable[str]) -> None:
        """`texts` as in configuration. Raises ValueError, naming the bad one."""
        self.texts = tuple(texts)
        self._by_family: dict[Family, list[tuple[int, int]]] = {f: [] for f in Family}
        for text in self.texts:
            family, nlri = parse_prefix(text)
            length = nlri[0]
            value = int.from_bytes(nlri_address(family, nlri), "big") >> (family.bits - length)
            self._by_family[family].append((length, value))

    def __bool__(self) -> bool:
        return bool(self.texts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrefixSet) and self._by_family == other._by_family

    def __hash__(self) -> int:
        return hash(self.texts)

    def __repr__(self) -> str:
        return f"PrefixSet({list(self.texts)!r})"

    def covers(self, family: Family, nlri: Nlri) -> bool:
        rules = self._by_family[family]
        if not rules:
            return False
        length = nlri[0]
        value = int.from_bytes(nlri_address(family, nlri), "big")
        bits = family.bits
        return any(n <= length and value >> (bits - n) == v for n, v in rules)

    def contains(self, address: Address) -> bool:
        return self.covers(family_of(address), host_nlri(address))

"""What ADD made: interfaces, addresses, routes, DNS; as data, and as the JSON of each version.

The operations build a `Result`, `encode_result` writes it in the version of the request,
`decode_result` reads the `prevResult` of any version. Addresses are packed octets, as everywhere;
text is made here. What other plugins of a chain have put in and that we have no use for
(socketPath, pciID, attributes of routes) is kept and passed on.

The versions differ so: in 0.3.1 and 0.4.0 each of `ips` says its family (`version` "4" or "6"), in
1.0.0 no more; 1.1.0 adds `mtu`, `socketPath` and `pciID` of interfaces and `mtu`, `advmss`,
`priority`, `table` and `scope` of routes.

Standards: CNI 0.3.1, 0.4.0, 1.0.0 and 1.1.0, "ADD Success".
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from samepath.cni.errors import CniError, Code, shown
from samepath.cni.versions import VERSIONS, at_least
from samepath.model.net import Address, address_text

ENTRIES_LIMIT = 1024
"""Interfaces, addresses or routes of one result."""

_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}\Z")


@dataclass(frozen=True, slots=True)
class Interface:
    """One of `interfaces`. CNI 1.1.0, "ADD Success"."""

    name: str
    mac: str = ""
    """`aa:bb:cc:dd:ee:ff`; empty: it has none."""
    mtu: int | None = None
    sandbox: str = ""
    """CNI_NETNS as the runtime gave it; empty: the interface is the host's."""
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True, slots=True)
class IpConfig:
    """One of `ips`."""

    address: Address
    prefix_length: int
    gateway: Address | None = None
    interface: int | None = None
    """Index into the result's interfaces."""


@dataclass(frozen=True, slots=True)
class Route:
    """One of `routes`; the numbers are None where nothing was said."""

    dst: Address
    prefix_length: int
    gw: Address | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class Dns:
    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """All that was made for one attachment, with what earlier plugins of the chain made."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IpConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = field(default_factory=Dns)


def encode_result(result: Result, version: str) -> bytes:
    """The result as JSON; `version`, one of VERSIONS, is the request's."""
    recent = at_least(version, "1.1.0")
    answer: dict[str, Any] = {
        "cniVersion": version,
        "interfaces": [_interface_json(i, recent) for i in result.interfaces],
        "ips": [_ip_json(ip, not at_least(version, "1.0.0")) for ip in result.ips],
    }
    if result.routes:
        answer["routes"] = [_route_json(route, recent) for route in result.routes]
    answer["dns"] = _dns_json(result.dns)
    return msgspec.json.encode(answer)


def _interface_json(interface: Interface, recent: bool) -> dict[str, Any]:
    known: dict[str, Any] = {"mac": interface.mac, "sandbox": interface.sandbox}
    if recent:
        known["mtu"] = interface.mtu
        known["socketPath"] = interface.socket_path
        known["pciID"] = interface.pci_id
    return {"name": interface.name, **{k: v for k, v in known.items() if v}}


def _ip_json(ip: IpConfig, with_version: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"address": f"{address_text(ip.address)}/{ip.prefix_length}"}
    if with_version:
        answer["version"] = "4" if len(ip.address) == 4 else "6"
    if ip.gateway is not None:
        answer["gateway"] = address_text(ip.gateway)
    if ip.interface is not None:
        answer["interface"] = ip.interface
    return answer


_ROUTE_NUMBERS = ("mtu", "advmss", "priority", "table", "scope")


def _route_json(route: Route, recent: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"dst": f"{address_text(route.dst)}/{route.prefix_length}"}
    if route.gw is not None:
        answer["gw"] = address_text(route.gw)
    for name in _ROUTE_NUMBERS if recent else ():
        number = getattr(route, name)
        if number is not None:
            answer[name] = number
    return answer


def _dns_json(dns: Dns) -> dict[str, Any]:
    known: dict[str, Any] = {
        "nameservers": dns.nameservers,
        "domain": dns.domain,
        "search": dns.search,
        "options": dns.options,
    }
    return {k: v for k, v in known.items() if v}


# What others write: Go's encoders leave out what is empty, or say null.


class _InterfaceText(msgspec.Struct):
    name: str
    mac: str | None = None
    mtu: int | None = None
    sandbox: str | None = None
    socketPath: str | None = None
    pciID: str | None = None


class _IpText(msgspec.Struct):
    address: str
    gateway: str | None = None
    interface: int | None = None


class _RouteText(msgspec.Struct):
    dst: str
    gw: str | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


class DnsText(msgspec.Struct):
    """`dns` of a result or a configuration, as it is written."""

    nameservers: list[str] | None = None
    domain: str | None = None
    search: list[str] | None = None
    options: list[str] | None = None

    def dns(self) -> Dns:
        return Dns(
            tuple(self.nameservers or ()),
            self.domain or "",
            tuple(self.search or ()),
            tuple(self.options or ()),
        )


class _ResultText(msgspec.Struct):
    cniVersion: str | None = None
    interfaces: list[_InterfaceText] | None = None
    ips: list[_IpText] | None = None
    routes: list[_RouteText] | None = None
    dns: DnsText | None = None


_DECODER = msgspec.json.Decoder(_ResultText)


def decode_result(text: bytes) -> Result:
    """A result of any of VERSIONS, or of none. Raises CniError that names `prevResult`."""
    try:
        said = _DECODER.decode(text)
    except msgspec.ValidationError as error:
        raise CniError(Code.INVALID_CONFIG, f"prevResult: {error}") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CniError(Code.DECODING_FAILURE, f"prevResult: {error}") from None
    if said.cniVersion and said.cniVersion not in VERSIONS:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"prevResult: cniVersion {shown(said.cniVersion)} is none of {', '.join(VERSIONS)}",
        )
    for name, entries in (
        ("interfaces", said.interfaces),
        ("ips", said.ips),
        ("routes", said.routes),
    ):
        if entries and len(entries) > ENTRIES_LIMIT:
            raise CniError(
                Code.INVALID_CONFIG,
                f"prevResult.{name}: {len(entries)} entries, more than {ENTRIES_LIMIT}",
            )
    interfaces = tuple(_interface(i) for i in said.interfaces or ())
    return Result(
        interfaces,
        tuple(_ip(n, ip, len(interfaces)) for n, ip in enumerate(said.ips or ())),
        tuple(_route(n, route) for n, route in enumerate(said.routes or ())),
        said.dns.dns() if said.dns else Dns(),
    )


def _interface(said: _InterfaceText) -> Interface:
    return Interface(
        said.name,
        (said.mac or "").lower(),
        said.mtu or None,
        said.sandbox or "",
        said.socketPath or "",
        said.pciID or "",
    )


def _ip(number: int, said: _IpText, interfaces: int) -> IpConfig:
    where = f"prevResult.ips[{number}]"
    address, length = parse_cidr(said.address, f"{where}.address")
    gateway = parse_ip(said.gateway, f"{where}.gateway") if said.gateway else None
    # Some plugins write -1, or an index into a list that they leave out: it names no interface.
    named = said.interface is not None and 0 <= said.interface < interfaces
    return IpConfig(address, length, gateway, said.interface if named else None)


def _route(number: int, said: _RouteText) -> Route:
    where = f"prevResult.routes[{number}]"
    dst, length = parse_cidr(said.dst, f"{where}.dst")
    gw = parse_ip(said.gw, f"{where}.gw") if said.gw else None
    return Route(dst, length, gw, said.mtu, said.advmss, said.priority, said.table, said.scope)


def parse_cidr(text: str, where: str, code: Code = Code.INVALID_CONFIG) -> tuple[Address, int]:
    """`10.1.2.3/24`, or a bare address. Raises CniError that names `where`."""
    try:
        parsed = ipaddress.ip_interface(text)
    except ValueError:
        raise CniError(code, f"{where}: {shown(text)} is no address") from None
    return parsed.packed, parsed.network.prefixlen


def parse_ip(text: str, where: str, code: Code = Code.INVALID_CONFIG) -> Address:
    return parse_cidr(text, where, code)[0]


def parse_mac(text: str, where: str, code: Code = Code.INVALID_CONFIG) -> str:
    """An address that one interface may have, as `aa:bb:cc:dd:ee:ff`. Raises CniError."""
    if not _MAC.match(text):
        raise CniError(code, f"{where}: {shown(text)} is no MAC address: write 02:00:00:00:00:01")
    mac = text.lower().replace("-", ":")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise CniError(code, f"{where}: {mac} is no address of one interface (multicast, or zero)")
    return mac

"""The network configuration on standard input: what of it concerns us, and what we refuse.

`cni.spec` decodes it in parts: the basics for every command, the rest for those that need it, so
that nothing else can stop a DEL.

Standards: CNI 1.1.0, "Section 1: Network configuration format" and "CNI operations"; the
conventions for `args` and `runtimeConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec

from samepath.cni.environment import ID_CHARACTERS, SINCE, Command, is_id
from samepath.cni.errors import CniError, Code, shown
from samepath.cni.result import Dns, DnsText, Result, decode_result
from samepath.cni.versions import VERSIONS, at_least

STDIN_LIMIT = 1 << 20
"""Octets of a network configuration."""


@dataclass(frozen=True, slots=True)
class AttachmentId:
    """One interface of one container, in one network: the key of all that we keep."""

    container_id: str
    ifname: str


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What the configuration says, of what concerns us. CNI 1.1.0, "Plugin configuration"."""

    version: str = VERSIONS[-1]
    """`cniVersion`, one of VERSIONS: the answer is in it."""
    name: str = ""
    """Of the network."""
    mtu: int | None = None
    """Of the pod's link; None: the agent chooses."""
    dns: Dns = field(default_factory=Dns)
    """Passed on in the result."""
    disable_gc: bool = False
    valid_attachments: frozenset[AttachmentId] = frozenset()
    """GC: what must not be removed."""


# Structs have the JSON's own names; what others leave out may be null as well.


class Basics(msgspec.Struct):
    """What every command needs."""

    cniVersion: str | None = None
    name: str | None = None
    prevResult: msgspec.Raw = msgspec.Raw(b"null")


class Wishes(msgspec.Struct):
    """`runtimeConfig`, and `args.cni`: what one container asks for."""

    ips: list[str] | None = None
    mac: str | None = None


class _Args(msgspec.Struct):
    cni: Wishes | None = None


class Details(msgspec.Struct):
    """What ADD and CHECK need more."""

    mtu: int | None = None
    dns: DnsText | None = None
    runtimeConfig: Wishes | None = None
    args: _Args | None = None
    ipam: Any = None
    ipMasq: Any = None
    socket: str | None = None
    """The shim's; here it is only looked at."""


class _AttachmentText(msgspec.Struct):
    containerID: str
    ifname: str


class _Gc(msgspec.Struct):
    """What GC needs more. libcni sends both names, since the specification first had the other."""

    valid: list[_AttachmentText] | msgspec.UnsetType | None = msgspec.field(
        name="cni.dev/valid-attachments", default=msgspec.UNSET
    )
    attachments: list[_AttachmentText] | msgspec.UnsetType | None = msgspec.field(
        name="cni.dev/attachments", default=msgspec.UNSET
    )
    disableGC: bool | None = None


BASICS = msgspec.json.Decoder(Basics)
DETAILS = msgspec.json.Decoder(Details)
_GC = msgspec.json.Decoder(_Gc)

T = TypeVar("T")


def decode(decoder: msgspec.json.Decoder[T], stdin: bytes) -> T:
    """One part of the configuration. Raises CniError."""
    if not stdin.strip():
        raise CniError(
            Code.DECODING_FAILURE,
            "standard input is empty: the container runtime has to send the network configuration",
        )
    if len(stdin) > STDIN_LIMIT:
        raise CniError(
            Code.INVALID_CONFIG, f"network configuration: more than {STDIN_LIMIT} octets"
        )
    try:
        return decoder.decode(stdin)
    except msgspec.ValidationError as error:
        raise CniError(Code.INVALID_CONFIG, f"network configuration: {error}") from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise CniError(
            Code.DECODING_FAILURE, f"network configuration is not JSON: {error}"
        ) from None
    except RecursionError:
        raise CniError(
            Code.DECODING_FAILURE, "network configuration is nested too deeply"
        ) from None


def network(basics: Basics, command: Command) -> NetworkConfig:
    """What every command needs. Raises CniError."""
    return NetworkConfig(_version(basics, command), _name(basics))


def _version(basics: Basics, command: Command) -> str:
    version = basics.cniVersion
    if not version:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion is missing: set it to one of {', '.join(VERSIONS)}",
        )
    if version not in VERSIONS:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion {shown(version)} is none of {', '.join(VERSIONS)}: change it in the "
            "network configuration",
        )
    since = SINCE.get(command, VERSIONS[0])
    if not at_least(version, since):
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion {version} has no {command.name}: it came with {since}",
        )
    return version


def _name(basics: Basics) -> str:
    name = basics.name or ""
    if not name:
        raise CniError(Code.INVALID_CONFIG, "name is missing: give the network a name")
    if len(name) > ID_CHARACTERS or not is_id(name):
        raise CniError(
            Code.INVALID_CONFIG,
            f"name: {shown(name)} must begin with a letter or digit, go on with letters, digits, "
            f"underscores, dots and hyphens, and have at most {ID_CHARACTERS} characters",
        )
    return name


def prev_result(basics: Basics) -> Result | None:
    """What was made before, if the runtime says it. Raises CniError."""
    text = bytes(basics.prevResult).strip()
    return None if text == b"null" else decode_result(text)


def with_details(config: NetworkConfig, said: Details) -> NetworkConfig:
    """What ADD and CHECK need more. Raises CniError."""
    _refuse_foreign_fields(said)
    return replace(config, mtu=_mtu(said.mtu), dns=said.dns.dns() if said.dns else Dns())


def _refuse_foreign_fields(said: Details) -> None:
    """What other plugins have and we do otherwise: better refused than silently without effect."""
    if said.ipam:
        raise CniError(
            Code.UNSUPPORTED_FIELD,
            f"ipam={shown(str(said.ipam))}: Samepath gives addresses itself, out of IPPool "
            "objects; remove the field",
        )
    if said.ipMasq:
        raise CniError(
            Code.UNSUPPORTED_FIELD,
            f"ipMasq={shown(str(said.ipMasq))}: set natOutgoing in the IPPool instead; remove "
            "the field",
        )


def _mtu(mtu: int | None) -> int | None:
    if not mtu:  # 0 is the reference plugins' word for "choose"
        return None
    if not 576 <= mtu <= 65535:
        raise CniError(Code.INVALID_CONFIG, f"mtu: 576 to 65535 (IPv6: from 1280), not {mtu}")
    return mtu


def with_valid_attachments(config: NetworkConfig, stdin: bytes) -> NetworkConfig:
    """What GC needs more. Raises CniError."""
    said = decode(_GC, stdin)
    if said.valid is msgspec.UNSET and said.attachments is msgspec.UNSET:
        # Without the list everything would be removed: too much for a field left out.
        raise CniError(
            Code.INVALID_CONFIG,
            "cni.dev/valid-attachments is missing: GC removes whatever is not in it; an empty "
            "list removes all",
        )
    valid = [
        entry
        for entries in (said.valid, said.attachments)
        if entries is not msgspec.UNSET and entries is not None
        for entry in entries
    ]
    return replace(
        config,
        disable_gc=bool(said.disableGC),
        valid_attachments=frozenset(AttachmentId(e.containerID, e.ifname) for e in valid),
    )

"""What a container runtime asks of a CNI plugin: environment and standard input, decoded.

`cni.server` calls `decode_request` with what the shim passed on, before anything is touched. All
that the specification forbids is refused here, with its code and a message that says what to do;
the operations get a `Request` that they can trust. Results are in `cni.result`, errors in
`cni.errors`, versions in `cni.versions`; all names are offered here as well.

DEL is taken more gently than ADD: what it does not need (CNI_ARGS, prevResult, static addresses,
the MTU) cannot stop it, since a DEL that fails is repeated for ever.

Not done here: the plugin's own VERSION, which the shim answers; `capabilities` and the chaining,
which are the runtime's.

Standards: CNI 0.3.1, 0.4.0, 1.0.0, 1.1.0, "Parameters", "CNI operations" and the conventions for
`args`, CNI_ARGS and `runtimeConfig`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from samepath.cni.errors import CniError, Code, encode_error, shown
from samepath.cni.result import (
    Dns,
    DnsText,
    Interface,
    IpConfig,
    Result,
    Route,
    decode_result,
    encode_result,
    parse_ip,
    parse_mac,
)
from samepath.cni.versions import (
    FALLBACK,
    VERSION_ANSWER,
    VERSIONS,
    at_least,
    version_answer,
    version_of,
)
from samepath.model.net import Address

__all__ = [
    "FALLBACK",
    "VERSIONS",
    "VERSION_ANSWER",
    "AttachmentId",
    "CniError",
    "Code",
    "Command",
    "Dns",
    "Interface",
    "IpConfig",
    "NetworkConfig",
    "Request",
    "Result",
    "Route",
    "decode_request",
    "decode_result",
    "encode_error",
    "encode_result",
    "version_answer",
    "version_of",
]

STDIN_LIMIT = 1 << 20
"""Octets of a network configuration."""
ID_CHARACTERS = 255
"""Of a container id and of a network's name; the specification gives no limit."""
IFNAME_CHARACTERS = 15
"""Linux: IFNAMSIZ less the NUL."""
PATH_OCTETS = 4095
"""Linux: PATH_MAX less the NUL."""
STATIC_LIMIT = 16
"""Addresses asked for by one request."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*\Z")
_IFNAME = re.compile(r"[^/:\s\0]+\Z")


class Command(Enum):
    """CNI_COMMAND."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


NEEDS: Mapping[Command, tuple[str, ...]] = {
    Command.ADD: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Command.DEL: ("CNI_CONTAINERID", "CNI_IFNAME"),
    Command.CHECK: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Command.GC: (),
    Command.STATUS: (),
    Command.VERSION: (),
}
"""The variables without which a command is refused. CNI_PATH is never needed: we call no other
plugin."""

SINCE = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}
"""The version that brought a command; the others are older than all of VERSIONS."""


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


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the plugin, valid in itself. Fields that the command has not are empty."""

    command: Command
    container_id: str = ""
    netns: str = ""
    """CNI_NETNS as it was given; DEL may have none."""
    ifname: str = ""
    args: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """CNI_ARGS."""
    config: NetworkConfig = field(default_factory=NetworkConfig)
    prev_result: Result | None = None
    static_ips: tuple[Address, ...] = ()
    """Addresses that must be given: `runtimeConfig.ips`, else `args.cni.ips`, else IP=."""
    static_mac: str | None = None
    """`aa:bb:cc:dd:ee:ff`: `runtimeConfig.mac`, else `args.cni.mac`, else MAC=."""

    @property
    def attachment(self) -> AttachmentId:
        return AttachmentId(self.container_id, self.ifname)

    @property
    def pod(self) -> str:
        """`namespace/name` where the runtime says it, else empty."""
        name = self.args.get("K8S_POD_NAME", "")
        return f"{self.args.get('K8S_POD_NAMESPACE', '')}/{name}" if name else ""


def decode_request(environment: Mapping[str, str], stdin: bytes) -> Request:
    """The request, or CniError. Values of `environment` may hold lone surrogates (odd octets)."""
    command = _command(environment)
    if command is Command.VERSION:  # with any environment, and perhaps without configuration
        return Request(command)
    basics = _decode(_BASICS, stdin)
    version, name = _version(basics, command), _network_name(basics)
    container_id = ifname = netns = ""
    if NEEDS[command]:
        _require(environment, command)
        container_id = _container_id(environment["CNI_CONTAINERID"])
        ifname = _ifname(environment["CNI_IFNAME"])
        netns = _netns(environment.get("CNI_NETNS", ""))
    if command in (Command.ADD, Command.CHECK):
        return _full(command, environment, stdin, (container_id, netns, ifname), version, name)
    if command is Command.GC:
        config = _gc_config(stdin, version, name)
        return Request(command, config=config)
    config = NetworkConfig(version, name)
    if command is Command.STATUS:
        return Request(command, config=config)
    return Request(
        command,
        container_id,
        netns,
        ifname,
        _gentle_args(environment),
        config,
        _gentle_prev_result(basics),
    )


# The environment


def _command(environment: Mapping[str, str]) -> Command:
    name = environment.get("CNI_COMMAND", "")
    if name not in Command.__members__:
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"CNI_COMMAND: {shown(name)} is none of {', '.join(Command.__members__)}",
        )
    return Command[name]


def _require(environment: Mapping[str, str], command: Command) -> None:
    missing = [name for name in NEEDS[command] if not environment.get(name)]
    if missing:
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"{', '.join(missing)}: not set, but {command.name} needs "
            f"{'it' if len(missing) == 1 else 'them'}; the container runtime has to set "
            "the variables of the CNI specification",
        )


def _container_id(text: str) -> str:
    if len(text) > ID_CHARACTERS:
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"CNI_CONTAINERID: {len(text)} characters, more than {ID_CHARACTERS}",
        )
    if not _ID.match(text):
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"CNI_CONTAINERID: {shown(text)} must begin with a letter or digit, and go on with "
            "letters, digits, underscores, dots and hyphens",
        )
    return text


def _ifname(text: str) -> str:
    fault = None
    if len(text.encode("utf-8", "surrogateescape")) > IFNAME_CHARACTERS:
        fault = f"is longer than {IFNAME_CHARACTERS} octets"
    elif text in (".", ".."):
        fault = "is no name of an interface"
    elif not _IFNAME.match(text) or not text.isprintable():
        fault = "has a slash, a colon, white space or what cannot be printed"
    if fault:
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_IFNAME: {shown(text)} {fault}")
    return text


def _netns(text: str) -> str:
    try:
        octets = len(text.encode())
    except UnicodeEncodeError:
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_NETNS: {shown(text)} is not UTF-8") from None
    if octets > PATH_OCTETS:
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_NETNS: longer than {PATH_OCTETS} octets")
    return text


_KNOWN_ARGS = {"IgnoreUnknown", "IP", "MAC"}
_TRUE, _FALSE = {"1", "true"}, {"0", "false", ""}


def parse_args(text: str) -> Mapping[str, str]:
    """CNI_ARGS: `KEY=value;KEY=value`, in any order; of a key that stands twice the last counts.

    Unknown keys are refused unless IgnoreUnknown is true. Kubernetes' own (K8S_POD_…) are known.
    """
    args: dict[str, str] = {}
    for pair in filter(None, text.split(";")):
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise CniError(
                Code.INVALID_ENVIRONMENT, f"CNI_ARGS: {shown(pair)} is not of the form KEY=value"
            )
        args[key] = value
    ignore = args.get("IgnoreUnknown", "").lower()
    if ignore not in _TRUE | _FALSE:
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"CNI_ARGS: IgnoreUnknown={shown(ignore)} is none of 1, 0, true, false",
        )
    unknown = sorted(k for k in args if k not in _KNOWN_ARGS and not k.startswith("K8S_POD_"))
    if unknown and ignore not in _TRUE:
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"CNI_ARGS: {shown(', '.join(unknown))} not known here; IgnoreUnknown=1 allows it",
        )
    return MappingProxyType(args)


def _gentle_args(environment: Mapping[str, str]) -> Mapping[str, str]:
    try:
        return parse_args(environment.get("CNI_ARGS", ""))
    except CniError:
        return MappingProxyType({})


# The configuration. Structs have the JSON's own names; what others leave out may be null as well.


class _Basics(msgspec.Struct):
    cniVersion: str | None = None
    name: str | None = None
    prevResult: msgspec.Raw = msgspec.Raw(b"null")


class _RuntimeConfig(msgspec.Struct):
    ips: list[str] | None = None
    mac: str | None = None


class _Args(msgspec.Struct):
    cni: _RuntimeConfig | None = None


class _Full(msgspec.Struct):
    """What ADD and CHECK need more."""

    mtu: int | None = None
    dns: DnsText | None = None
    runtimeConfig: _RuntimeConfig | None = None
    args: _Args | None = None
    ipam: Any = None
    ipMasq: Any = None
    socket: str | None = None


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


_BASICS = msgspec.json.Decoder(_Basics)
_FULL = msgspec.json.Decoder(_Full)
_GC = msgspec.json.Decoder(_Gc)

T = TypeVar("T")


def _decode(decoder: msgspec.json.Decoder[T], stdin: bytes) -> T:
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


def _version(basics: _Basics, command: Command) -> str:
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


def _network_name(basics: _Basics) -> str:
    name = basics.name or ""
    if not name:
        raise CniError(Code.INVALID_CONFIG, "name is missing: give the network a name")
    if len(name) > ID_CHARACTERS or not _ID.match(name):
        raise CniError(
            Code.INVALID_CONFIG,
            f"name: {shown(name)} must begin with a letter or digit, go on with letters, digits, "
            f"underscores, dots and hyphens, and have at most {ID_CHARACTERS} characters",
        )
    return name


def _gentle_prev_result(basics: _Basics) -> Result | None:
    try:
        return _prev_result(basics)
    except CniError:
        return None


def _prev_result(basics: _Basics) -> Result | None:
    text = bytes(basics.prevResult).strip()
    return None if text == b"null" else decode_result(text)


def _full(
    command: Command,
    environment: Mapping[str, str],
    stdin: bytes,
    who: tuple[str, str, str],
    version: str,
    name: str,
) -> Request:
    said = _decode(_FULL, stdin)
    _refuse_foreign_fields(said)
    args = parse_args(environment.get("CNI_ARGS", ""))
    prev_result = _prev_result(_decode(_BASICS, stdin))
    if command is Command.CHECK and prev_result is None:
        raise CniError(
            Code.INVALID_CONFIG,
            "prevResult is missing: CHECK compares it with what is there",
        )
    config = NetworkConfig(version, name, _mtu(said.mtu), said.dns.dns() if said.dns else Dns())
    ips, mac = _static(said, args)
    return Request(command, *who, args, config, prev_result, ips, mac)


def _refuse_foreign_fields(said: _Full) -> None:
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


def _static(said: _Full, args: Mapping[str, str]) -> tuple[tuple[Address, ...], str | None]:
    """Addresses and MAC that were asked for: the most specific place that names any counts."""
    runtime = said.runtimeConfig or _RuntimeConfig()
    convention = (said.args.cni if said.args else None) or _RuntimeConfig()
    code = Code.INVALID_CONFIG
    if runtime.ips:
        where, texts = "runtimeConfig.ips", runtime.ips
    elif convention.ips:
        where, texts = "args.cni.ips", convention.ips
    else:
        where, code = "CNI_ARGS: IP", Code.INVALID_ENVIRONMENT
        texts = [text for text in args.get("IP", "").split(",") if text]
    if len(texts) > STATIC_LIMIT:
        raise CniError(code, f"{where}: {len(texts)} addresses, more than {STATIC_LIMIT}")
    ips = tuple(dict.fromkeys(parse_ip(text, where, code) for text in texts))
    for place, mac, code in (
        ("runtimeConfig.mac", runtime.mac, Code.INVALID_CONFIG),
        ("args.cni.mac", convention.mac, Code.INVALID_CONFIG),
        ("CNI_ARGS: MAC", args.get("MAC"), Code.INVALID_ENVIRONMENT),
    ):
        if mac:
            return ips, parse_mac(mac, place, code)
    return ips, None


def _gc_config(stdin: bytes, version: str, name: str) -> NetworkConfig:
    said = _decode(_GC, stdin)
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
    return NetworkConfig(
        version,
        name,
        disable_gc=bool(said.disableGC),
        valid_attachments=frozenset(AttachmentId(e.containerID, e.ifname) for e in valid),
    )

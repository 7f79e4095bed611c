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

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from samepath.cni import config as configuration
from samepath.cni import environment as variables
from samepath.cni.config import (
    STDIN_LIMIT,
    AttachmentId,
    Basics,
    Details,
    NetworkConfig,
    Wishes,
)
from samepath.cni.environment import Command
from samepath.cni.errors import CniError, Code, encode_error
from samepath.cni.result import (
    Dns,
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
    version_answer,
    version_of,
)
from samepath.model.net import Address

__all__ = [
    "FALLBACK",
    "STDIN_LIMIT",
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

STATIC_LIMIT = 16
"""Addresses asked for by one request."""


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
    command = variables.command(environment)
    if command is Command.VERSION:  # with any environment, and perhaps without configuration
        return Request(command)
    basics = configuration.decode(configuration.BASICS, stdin)
    config = configuration.network(basics, command)
    if command is Command.STATUS:
        return Request(command, config=config)
    if command is Command.GC:
        return Request(command, config=configuration.with_valid_attachments(config, stdin))
    variables.require(environment, command)
    request = Request(
        command,
        variables.container_id(environment["CNI_CONTAINERID"]),
        variables.netns(environment.get("CNI_NETNS", "")),
        variables.ifname(environment["CNI_IFNAME"]),
        config=config,
    )
    if command is Command.DEL:
        args, result = _gentle_args(environment), _gentle_prev_result(basics)
        return replace(request, args=args, prev_result=result)
    return _with_details(request, environment, stdin, basics)


def _with_details(
    request: Request, environment: Mapping[str, str], stdin: bytes, basics: Basics
) -> Request:
    """What ADD and CHECK need more than DEL."""
    details = configuration.decode(configuration.DETAILS, stdin)
    config = configuration.with_details(request.config, details)
    args = variables.parse_args(environment.get("CNI_ARGS", ""))
    result = configuration.prev_result(basics)
    if request.command is Command.CHECK and result is None:
        raise CniError(
            Code.INVALID_CONFIG, "prevResult is missing: CHECK compares it with what is there"
        )
    ips, mac = _static(details, args)
    return replace(
        request, config=config, args=args, prev_result=result, static_ips=ips, static_mac=mac
    )


def _static(said: Details, args: Mapping[str, str]) -> tuple[tuple[Address, ...], str | None]:
    """Addresses and MAC that were asked for: the most specific place that names any counts."""
    runtime = said.runtimeConfig or Wishes()
    convention = (said.args.cni if said.args else None) or Wishes()
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


def _gentle_args(environment: Mapping[str, str]) -> Mapping[str, str]:
    try:
        return variables.parse_args(environment.get("CNI_ARGS", ""))
    except CniError:
        return MappingProxyType({})


def _gentle_prev_result(basics: Basics) -> Result | None:
    try:
        return configuration.prev_result(basics)
    except CniError:
        return None

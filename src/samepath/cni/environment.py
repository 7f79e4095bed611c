"""The variables by which a runtime calls the plugin: what they must be, and what CNI_ARGS says.

`cni.spec` asks for one after the other; each is refused with code 4 and its name in the message.
Values may hold lone surrogates, for octets that are not UTF-8.

Standards: CNI 1.1.0, "Parameters" and "CNI operations"; the conventions for CNI_ARGS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from samepath.cni.errors import CniError, Code, shown

ID_CHARACTERS = 255
"""Of a container id and of a network's name; the specification gives no limit."""
IFNAME_CHARACTERS = 15
"""Linux: IFNAMSIZ less the NUL."""
PATH_OCTETS = 4095
"""Linux: PATH_MAX less the NUL."""

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


def is_id(text: str) -> bool:
    """The rule for container ids and for names of networks, but for their length."""
    return bool(_ID.match(text))


def command(environment: Mapping[str, str]) -> Command:
    name = environment.get("CNI_COMMAND", "")
    if name not in Command.__members__:
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"CNI_COMMAND: {shown(name)} is none of {', '.join(Command.__members__)}",
        )
    return Command[name]


def require(environment: Mapping[str, str], command: Command) -> None:
    missing = [name for name in NEEDS[command] if not environment.get(name)]
    if missing:
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"{', '.join(missing)}: not set, but {command.name} needs "
            f"{'it' if len(missing) == 1 else 'them'}; the container runtime has to set "
            "the variables of the CNI specification",
        )


def container_id(text: str) -> str:
    if len(text) > ID_CHARACTERS:
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"CNI_CONTAINERID: {len(text)} characters, more than {ID_CHARACTERS}",
        )
    if not is_id(text):
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"CNI_CONTAINERID: {shown(text)} must begin with a letter or digit, and go on with "
            "letters, digits, underscores, dots and hyphens",
        )
    return text


def ifname(text: str) -> str:
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


def netns(text: str) -> str:
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

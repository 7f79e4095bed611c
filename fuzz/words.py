"""Words for the fuzzer's dictionary, taken from the structs that read the texts."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from samepath.bgp.attributes import Attribute
from samepath.cni import config as cni_config
from samepath.cni import result as cni_result
from samepath.kube import core, kinds, objects, specs
from samepath.model import config

_YAML = (
    "- ",
    ": ",
    "\n",
    "\n---\n",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "!!str ",
    "<<: ",
    '"',
    "null",
)
_JSON = ('{"', '":', '",', "}", "[", "]", "null", "true", "-1", "1e9", '"\\u0000"', '"\\ud800"')
_VALUES = (
    "10.0.0.1",
    "fd00::1",
    "10.0.0.0/24",
    "65000",
    "TCP",
    "Local",
    "True",
    "::/0",
    "4294967295",
)


def fields_of(*modules: object) -> list[str]:
    """The names, as documents write them, of all fields of all structs of the modules."""
    names: set[str] = set()
    for module in modules:
        for thing in vars(module).values():
            if isinstance(thing, type) and issubclass(thing, msgspec.Struct):
                names.update(thing.__struct_encode_fields__)
    return sorted(names)


def manifest_words() -> list[str]:
    heads = ("v1", "List", "discovery.k8s.io/v1", kinds.GROUP, *objects.READERS)
    return [*_YAML, *_VALUES, *heads, *(f"{n}: " for n in fields_of(core, specs))]


def watch_words() -> list[str]:
    kinds_of_event = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "resourceVersion")
    return [*_VALUES, *kinds_of_event, *(f'"{name}":' for name in fields_of(core, specs))]


def config_words() -> list[str]:
    return [*_YAML, *_VALUES, *(f"{name}: " for name in fields_of(config))]


def cni_words() -> list[str]:
    names = [f'"{name}":' for name in fields_of(cni_config, cni_result)]
    variables = ("CNI_COMMAND=", "CNI_CONTAINERID=", "CNI_NETNS=", "CNI_IFNAME=", "CNI_ARGS=")
    commands = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "IgnoreUnknown=1;", "IP=", "MAC=")
    return [
        *_JSON,
        *_VALUES,
        *names,
        *variables,
        *commands,
        "1.0.0",
        "1.1.0",
        "0.3.1",
        "\0",
        "\0\0",
    ]


def selector_words() -> list[str]:
    operators = ("&&", "||", "==", "!=", "not in", "in", "contains", "starts with", "ends with")
    return [*operators, "all()", "global()", "has(", ")", "!", "(", '{"', '","', '"}', "'a'"]


def question_words() -> list[str]:
    names = (
        "get",
        "client",
        "service",
        "client_port",
        "service_port",
        "protocol",
        "status",
        "trace",
    )
    return [*_JSON, *_VALUES, *(f'"{name}"' for name in names), "tcp", "udp", "sctp"]


def record_words() -> list[str]:
    names = (
        "take", "wired", "release", "free", "container", "ifname", "network", "addresses", "mac",
        "host_link", "sandbox", "pod", "made_at", "boot_id", "samepath", "version",
    )  # fmt: skip
    return [*_JSON, *_VALUES, *(f'"{name}":' for name in names), "\n!", "attachments"]


def attribute_octets() -> list[bytes]:
    """Heads of path attributes."""
    return [bytes((flags, code)) for code in Attribute for flags in (0x40, 0x80, 0xC0)]


def libfuzzer_dictionary(words: Iterable[str | bytes]) -> str:
    lines = set()
    for word in words:
        octets = word.encode() if isinstance(word, str) else word
        lines.add('"' + "".join(f"\\x{octet:02x}" for octet in octets) + '"')
    return "\n".join(sorted(lines)) + "\n"

"""An attachment: an interface of a container, what it was given, and the names that follow from it.

The vocabulary of `cni.store`, `cni.addresses`, `cni.wiring` and `cni.audit`.

Standards: CNI 1.1.0 ("attachment": container id and interface name).
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from pathlib import Path

from samepath.model.net import Address
from samepath.model.ours import POD_LINK

Key = tuple[str, str]
"""Container id and interface name: what CNI identifies an attachment by."""


class State(enum.Enum):
    RESERVED = "reserved"
    """Its addresses are its own; it may or may not be wired."""
    WIRED = "wired"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Attachment:
    """An interface of a container, and what it was given. CNI 1.1.0, "attachment"."""

    key: Key
    network: str
    addresses: tuple[Address, ...]
    mac: bytes
    host_link: str
    """The name of the veth's end on the node."""
    sandbox: str = ""
    """The path of the network namespace."""
    pod: str = ""
    """namespace/name, if known."""
    made_at: float = 0.0
    """Seconds since 1970."""
    boot_id: str = ""
    state: State = State.RESERVED


def host_link_name(key: Key) -> str:
    """`smp` and 12 digits: the same for the same attachment, 15 octets as the kernel allows."""
    return POD_LINK + hashlib.blake2b("\0".join(key).encode(), digest_size=6).hexdigest()


def alias_of(key: Key, network: str = "") -> str:
    """IFLA_IFALIAS of the veth's end on the node: from it the store can be rebuilt."""
    return f"samepath {key[0]} {key[1]} {network}".rstrip()


def key_of_alias(alias: str) -> Key | None:
    """The attachment that a link belongs to; None if it is not one of ours."""
    words = alias.split(" ")
    return (words[1], words[2]) if len(words) in (3, 4) and words[0] == "samepath" else None


def network_of_alias(alias: str) -> str:
    """Empty if the alias does not say."""
    words = alias.split(" ")
    return words[3] if len(words) == 4 and words[0] == "samepath" else ""


def current_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

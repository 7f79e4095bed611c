"""What the plugin answers when it cannot do what it was asked: the error object of CNI.

The decoder raises `CniError` for a request that the specification forbids, the operations for what
the world refuses; `encode_error` makes the object that the runtime reads. A message says what to
do, since it ends in the events of a pod, where nobody has this file at hand.

Standards: CNI 1.1.0, "Error".
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

MESSAGE_CHARACTERS = 2000
"""Runtimes put messages into events and logs; longer ones are cut."""


class Code(IntEnum):
    """`code` of an error object. Up to 99 they are the specification's, from 100 on ours."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    """The message names the field and its value."""
    UNKNOWN_CONTAINER = 3
    """The container is unknown or does not exist; the runtime need not clean up."""
    INVALID_ENVIRONMENT = 4
    """The message names the variables."""
    IO_FAILURE = 5
    DECODING_FAILURE = 6
    INVALID_CONFIG = 7
    TRY_AGAIN_LATER = 11
    """Also: the agent is away."""
    NOT_AVAILABLE = 50
    """STATUS: no ADD can succeed."""
    NOT_AVAILABLE_LIMITED = 51
    """STATUS: no ADD can succeed, and containers that are there may have lost connectivity."""

    AGENT_NOT_TRUSTED = 100
    """What listens at the socket does not run as root (said by the shim)."""
    AGENT_NOT_UNDERSTOOD = 101
    """What the agent answered is no answer of this protocol (said by the shim)."""
    NO_ADDRESS = 110
    """Every address of the pools that this node may use is taken."""
    ADDRESS_TAKEN = 111
    """The address that was asked for belongs to somebody else."""
    ADDRESS_NOT_OURS = 112
    """The address that was asked for lies in no pool, or in a block of another node."""
    STORE_CORRUPT = 113
    """What is written of the attachments cannot be read; nothing is handed out."""
    INTERFACE_EXISTS = 114
    """The namespace has an interface of this name already."""
    NOT_AS_ADDED = 115
    """CHECK: the attachment differs from what ADD made."""
    NAMESPACE_GONE = 116
    """The namespace cannot be entered, or is none."""
    ALREADY_ATTACHED = 117
    """ADD for a container and interface that are attached, without DEL in between."""
    KERNEL_REFUSED = 118
    """A change of links, addresses or routes that the kernel refused."""


class CniError(Exception):
    """A request that is answered with an error object."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(code, msg, details)
        self.code = code
        self.msg = msg
        self.details = details
        """For people who look closer; may be empty."""

    def __str__(self) -> str:
        return f"{self.msg} ({self.details})" if self.details else self.msg


def shown(value: str, limit: int = 80) -> str:
    """A value in a message: quoted, cut, and nothing in it that a log could not bear."""
    text = value if len(value) <= limit else value[:limit] + "…"
    return "".join(_printable(c) for c in f"'{text}'")


def _printable(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def encode_error(error: CniError, version: str) -> bytes:
    """The error object; `version` as the request had it (`versions.version_of`)."""
    answer: dict[str, object] = {
        "cniVersion": version,
        "code": int(error.code),
        "msg": _storable(error.msg),
    }
    if error.details:
        answer["details"] = _storable(error.details)
    return msgspec.json.encode(answer)


def _storable(text: str) -> str:
    """Without lone surrogates, which environment variables may bring and JSON cannot carry."""
    return text[:MESSAGE_CHARACTERS].encode("utf-8", "backslashreplace").decode()

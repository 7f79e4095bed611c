"""Targets: what a container runtime gives to the CNI plugin.

What must hold of a request (`request`): it arrives at the agent as the shim sent it, however it is
cut; it is a `Request` that the operations can trust, or an error object that a runtime can read;
DEL never fails where ADD does not, since a DEL that fails is repeated for ever. Of the protocol
between shim and agent (`wire`): any octets are a request or a `WireError`, the same however they
are cut. Of a result (`result`): one that is read is written in every version and read again as
itself.

CNI 1.1.0; `samepath.cni.wire`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from fuzz.choices import Choices
from samepath.cni.errors import MESSAGE_CHARACTERS
from samepath.cni.spec import (
    STDIN_LIMIT,
    VERSIONS,
    AttachmentId,
    CniError,
    Command,
    Request,
    Result,
    decode_request,
    decode_result,
    encode_error,
    encode_result,
    version_of,
)
from samepath.cni.versions import VERSION_OCTETS, at_least
from samepath.cni.wire import (
    AnswerReader,
    RequestReader,
    WireError,
    WireRequest,
    encode_answer,
    encode_request,
)

_ANSWER_OCTETS = 64 << 10


def request(data: bytes) -> None:
    """Environment entries, each ended by NUL, up to an empty one; then standard input."""
    block, _, stdin = data.partition(b"\0\0")
    environment = environment_of(block)
    sent = encode_request(environment, stdin)
    at = len(data) * 7 % (len(sent) + 1)
    reader = RequestReader()
    arrived = reader.feed(sent[:at])
    arrived = arrived or reader.feed(sent[at:])
    assert arrived == WireRequest(environment, stdin)
    found = outcome(environment, stdin)
    if isinstance(found, CniError):
        check_error(found, version_of(stdin))
        return
    check_request(found, stdin)
    if found.command is Command.ADD:
        again = outcome({**environment, "CNI_COMMAND": "DEL"}, stdin)
        assert isinstance(again, Request), f"ADD was taken, DEL is not: {again}"
        assert again.attachment == found.attachment


def environment_of(block: bytes) -> dict[str, str]:
    entries = [e.decode("utf-8", "surrogateescape").partition("=") for e in block.split(b"\0")]
    return {name: value for name, equals, value in entries if name and equals}


def outcome(environment: dict[str, str], stdin: bytes) -> Request | CniError:
    try:
        return decode_request(environment, stdin)
    except CniError as error:
        return error


def check_error(error: CniError, version: str) -> None:
    """The runtime gets a JSON object of a size that it can bear, with what it needs."""
    octets = encode_error(error, version)
    told = msgspec.json.decode(octets, type=dict[str, Any])
    assert told["msg"]
    assert told["code"] > 0
    assert 0 < len(told["cniVersion"]) <= VERSION_OCTETS
    assert len(told["msg"]) <= 10 * MESSAGE_CHARACTERS
    assert len(octets) < _ANSWER_OCTETS
    assert told["msg"].replace("\n", " ").isprintable(), ascii(told["msg"])
    answer = AnswerReader().feed(encode_answer(1, octets))
    assert answer is not None
    assert answer.body == octets


def check_request(found: Request, stdin: bytes) -> None:
    assert repr(found)
    assert len(stdin) <= STDIN_LIMIT or found.command is Command.VERSION
    assert all(len(address) in (4, 16) for address in found.static_ips)
    assert len(set(found.static_ips)) == len(found.static_ips)
    if found.command in (Command.ADD, Command.DEL, Command.CHECK):
        assert found.container_id
        assert 0 < len(found.ifname) < 16
        assert not set("/: \0\n\t") & set(found.ifname)
        assert found.ifname not in (".", "..")
        assert "/" not in found.container_id
        assert isinstance(found.attachment, AttachmentId)
        assert "\0" not in found.netns
    if found.command is not Command.VERSION:
        assert found.config.version in VERSIONS
    if found.config.mtu:
        assert 0 < found.config.mtu <= 65535
    if found.prev_result is not None:
        check_result(found.prev_result)


def wire(data: bytes) -> None:
    """One octet where it is cut, then what arrives at the agent."""
    stream = data[1:]
    whole = read_in_parts((stream,))
    at = data[0] % (len(stream) + 1) if data else 0
    parted = read_in_parts((stream[:at], stream[at:]))
    assert type(whole) is type(parted)
    if isinstance(whole, WireRequest):
        assert whole == parted
        assert whole.netns_errno is None or whole.netns_errno >= 0
        assert read_in_parts((encode_request(whole.environment, whole.stdin),)) == whole
    elif isinstance(whole, WireError):
        assert str(whole).isprintable(), ascii(str(whole))


def read_in_parts(parts: tuple[bytes, ...]) -> WireRequest | WireError | None:
    reader = RequestReader()
    found: WireRequest | None = None
    try:
        for part in parts:
            if part:
                found = reader.feed(part)
    except WireError as error:
        return error
    return found


def result(data: bytes) -> None:
    choices = Choices(data)
    version = choices.pick(VERSIONS)
    try:
        found = decode_result(choices.rest())
    except CniError as error:
        check_error(error, version)
        return
    check_result(found)
    again = decode_result(encode_result(found, version))
    assert again == as_of(found, version)


def check_result(found: Result) -> None:
    assert repr(found)
    for ip in found.ips:
        assert ip.interface is None or 0 <= ip.interface < len(found.interfaces)
        assert 0 <= ip.prefix_length <= 8 * len(ip.address)
    recent = VERSIONS[-1]
    assert decode_result(encode_result(found, recent)) == as_of(found, recent)


def as_of(found: Result, version: str) -> Result:
    """Without what the version has no words for."""
    if at_least(version, "1.1.0"):
        return found
    return replace(
        found,
        interfaces=tuple(replace(i, mtu=None, socket_path="", pci_id="") for i in found.interfaces),
        routes=tuple(
            replace(r, mtu=None, advmss=None, priority=None, table=None, scope=None)
            for r in found.routes
        ),
    )

"""BGP messages: octets to values and back.

Called by `samepath.bgp.session`: `split` cuts what the connection has brought into messages and
checks their headers, `decode` reads one, `encode` and `encode_updates` write. Nothing here waits,
keeps a connection's state or knows the time; what both sides agreed on is the `Context`.

The UPDATE has files of its own, `samepath.bgp.update` and `samepath.bgp.update_encoder`; their
names are offered here too.

Standards: RFC 4271 §4 and §6.1-6.2, RFC 2918 and RFC 7313 (ROUTE-REFRESH), RFC 6286 (identifier),
RFC 6793 (4-octet AS), RFC 7607 (AS 0), RFC 8538 (hard reset), RFC 8654 (extended message), RFC
9003.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from samepath.bgp.attributes import AS_TRANS
from samepath.bgp.capabilities import (
    SAFI_UNICAST,
    Capabilities,
    decode_capabilities,
    encode_afi,
    encode_capabilities,
    family_of_afi,
)
from samepath.bgp.errors import (
    UNSPECIFIC,
    Action,
    Cease,
    Code,
    HeaderError,
    OpenError,
    PeerError,
    Problem,
    RouteRefreshError,
    code_text,
    printable,
    shutdown_text,
)
from samepath.bgp.update import (
    MAX_EXTENDED_MESSAGE,
    MAX_MESSAGE,
    Context,
    Reach,
    Update,
    Withdrawal,
    decode_update,
)
from samepath.bgp.update_encoder import (
    HEADER_OCTETS,
    MARKER,
    UPDATE,
    encode_update,
    encode_updates,
    frame,
)
from samepath.bgp.update_encoder import encode_end_of_rib as end_of_rib
from samepath.model.net import Family

__all__ = [
    "HEADER_OCTETS",
    "MAX_EXTENDED_MESSAGE",
    "MAX_MESSAGE",
    "Action",
    "Context",
    "Keepalive",
    "Message",
    "MessageType",
    "Notification",
    "Open",
    "Problem",
    "Reach",
    "RefreshKind",
    "RouteRefresh",
    "Update",
    "Withdrawal",
    "decode",
    "encode",
    "encode_updates",
    "end_of_rib",
    "split",
]

VERSION = 4


class MessageType(IntEnum):
    """RFC 4271 §4.1, RFC 2918 §3."""

    OPEN = 1
    UPDATE = 2
    NOTIFICATION = 3
    KEEPALIVE = 4
    ROUTE_REFRESH = 5


@dataclass(frozen=True, slots=True)
class Open:
    """RFC 4271 §4.2."""

    asn: int
    """The four-octet one where the capability says it. RFC 6793 §4.1."""
    hold_time_s: int
    router_id: int
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class Notification:
    """RFC 4271 §4.5."""

    code: int
    subcode: int
    data: bytes = b""

    @property
    def text(self) -> str:
        """For people, with the reason that the other side's operator gave (RFC 9003)."""
        text = code_text(self.code, self.subcode)
        if self.is_hard_reset and len(self.data) >= 2:
            inner = Notification(self.data[0], self.data[1], self.data[2:])
            return f"{text} ({inner.text})" if not inner.is_hard_reset else text
        if self.code == Code.CEASE and self.subcode in _WITH_REASON:
            reason = printable(shutdown_text(self.data))
            if reason:
                return f"{text} ({reason})"
        return text

    @property
    def is_hard_reset(self) -> bool:
        """RFC 8538 §3."""
        return self.code == Code.CEASE and self.subcode == Cease.HARD_RESET


_WITH_REASON = (Cease.ADMINISTRATIVE_SHUTDOWN, Cease.ADMINISTRATIVE_RESET)


@dataclass(frozen=True, slots=True)
class Keepalive:
    """RFC 4271 §4.4."""


class RefreshKind(IntEnum):
    """Subtypes of ROUTE-REFRESH. RFC 7313 §3.2."""

    REQUEST = 0
    BEGIN = 1
    END = 2


@dataclass(frozen=True, slots=True)
class RouteRefresh:
    """RFC 2918 §3, RFC 7313 §3.2."""

    family: Family | None
    """None: one that we do not speak, to be ignored."""
    subtype: int = RefreshKind.REQUEST
    """A `RefreshKind`, or another number, to be ignored."""


Message = Open | Update | Notification | Keepalive | RouteRefresh

_KEEPALIVE = Keepalive()


# --- Framing ----------------------------------------------------------------------------------

_LEAST = {
    MessageType.OPEN: 29,
    MessageType.UPDATE: 23,
    MessageType.NOTIFICATION: 21,
    MessageType.KEEPALIVE: 19,
    MessageType.ROUTE_REFRESH: 19,
}
"""Shortest message of each type, header included; ROUTE-REFRESH has an error of its own."""


def split(
    buffer: bytes | bytearray, max_message: int = MAX_MESSAGE
) -> tuple[list[tuple[int, bytes]], int]:
    """Whole messages at the head of `buffer` as (type, body), and the octets that they took.

    Raises PeerError (Message Header Error) if the buffer begins with a bad header. A bad header
    further on ends the list, so that the messages before it count: call until it consumes nothing.
    """
    data = bytes(buffer)
    end = len(data)
    messages: list[tuple[int, bytes]] = []
    position = 0
    while end - position >= HEADER_OCTETS:
        length = data[position + 16] << 8 | data[position + 17]
        kind = data[position + 18]
        plain = kind == UPDATE and 23 <= length <= max_message
        if not (plain and data.startswith(MARKER, position)):
            fault = _header_fault(data[position : position + HEADER_OCTETS], max_message)
            if fault is not None:
                if messages:
                    break
                raise fault
        after = position + length
        if after > end:
            break
        messages.append((kind, data[position + HEADER_OCTETS : after]))
        position = after
    return messages, position


def _header_fault(header: bytes, max_message: int) -> PeerError | None:
    """RFC 4271 §6.1; OPEN and KEEPALIVE are never extended (RFC 8654 §4)."""
    length, kind = int.from_bytes(header[16:18], "big"), header[18]
    if header[:16] != MARKER:
        return _header_error(HeaderError.CONNECTION_NOT_SYNCHRONIZED, b"", "bad marker")
    if length < HEADER_OCTETS or length > max_message:
        return _bad_length(header, f"a message of {length} octets")
    try:
        name = MessageType(kind)
    except ValueError:
        text = f"message type {kind} is unknown"
        return _header_error(HeaderError.BAD_MESSAGE_TYPE, header[18:], text)
    most = max_message
    if name is MessageType.KEEPALIVE:
        most = HEADER_OCTETS
    elif name is MessageType.OPEN:
        most = MAX_MESSAGE
    if not _LEAST[name] <= length <= most:
        return _bad_length(header, f"{name.name} of {length} octets")
    return None


def _header_error(subcode: HeaderError, data: bytes, message: str) -> PeerError:
    return PeerError(Code.MESSAGE_HEADER, subcode, data, message)


def _bad_length(header: bytes, message: str) -> PeerError:
    return _header_error(HeaderError.BAD_MESSAGE_LENGTH, header[16:18], message)


# --- Reading ----------------------------------------------------------------------------------


def decode(kind: int, body: bytes, context: Context) -> Message:
    """Raises PeerError for what must end the session."""
    if kind == UPDATE:
        return decode_update(body, context)
    if kind == MessageType.KEEPALIVE:
        return _KEEPALIVE
    if kind == MessageType.OPEN:
        return _decode_open(body)
    if kind == MessageType.NOTIFICATION:
        if len(body) < 2:
            return Notification(0, 0, body)
        return Notification(body[0], body[1], body[2:])
    if kind == MessageType.ROUTE_REFRESH:
        return _decode_refresh(body)
    text = f"message type {kind} is unknown"
    raise _header_error(HeaderError.BAD_MESSAGE_TYPE, bytes((kind & 0xFF,)), text)


def _open_error(subcode: int, message: str, data: bytes = b"") -> PeerError:
    return PeerError(Code.OPEN_MESSAGE, subcode, data, message)


def _decode_open(body: bytes) -> Open:
    """RFC 4271 §6.2. Whether it is the AS that we expect is the session's question."""
    if len(body) < 10:
        raise _open_error(UNSPECIFIC, f"OPEN with {len(body)} octets")
    if body[0] != VERSION:
        supported = VERSION.to_bytes(2, "big")
        raise _open_error(OpenError.UNSUPPORTED_VERSION_NUMBER, f"BGP version {body[0]}", supported)
    asn = int.from_bytes(body[1:3], "big")
    hold_time_s = int.from_bytes(body[3:5], "big")
    router_id = int.from_bytes(body[5:9], "big")
    if hold_time_s in (1, 2):
        raise _open_error(OpenError.UNACCEPTABLE_HOLD_TIME, f"hold time {hold_time_s} s")
    if router_id == 0:
        raise _open_error(OpenError.BAD_BGP_IDENTIFIER, "BGP identifier 0.0.0.0")
    capabilities = decode_capabilities(body[9:])
    if capabilities.four_octet_as is not None:
        asn = capabilities.four_octet_as
    if asn == 0:
        raise _open_error(OpenError.BAD_PEER_AS, "AS 0")
    return Open(asn, hold_time_s, router_id, capabilities)


def _decode_refresh(body: bytes) -> RouteRefresh:
    if len(body) != 4:
        # RFC 7313 §5: the whole message is the data.
        whole = frame(MessageType.ROUTE_REFRESH, body)
        subcode = RouteRefreshError.INVALID_MESSAGE_LENGTH
        text = f"ROUTE-REFRESH of {len(whole)} octets"
        raise PeerError(Code.ROUTE_REFRESH_MESSAGE, subcode, whole, text)
    return RouteRefresh(family_of_afi(int.from_bytes(body[:2], "big"), body[3]), body[2])


# --- Writing ----------------------------------------------------------------------------------


def encode(message: Message, context: Context) -> bytes:
    """The whole message, header included. An Update must fit into one: see `encode_update`."""
    if isinstance(message, Update):
        return encode_update(message, context)
    if isinstance(message, Keepalive):
        return frame(MessageType.KEEPALIVE, b"")
    if isinstance(message, Open):
        return frame(MessageType.OPEN, _encode_open(message))
    if isinstance(message, Notification):
        data = message.data[: MAX_MESSAGE - HEADER_OCTETS - 2]
        return frame(MessageType.NOTIFICATION, bytes((message.code, message.subcode)) + data)
    assert message.family is not None
    body = encode_afi(message.family) + bytes((message.subtype, SAFI_UNICAST))
    return frame(MessageType.ROUTE_REFRESH, body)


def _encode_open(message: Open) -> bytes:
    assert message.capabilities.four_octet_as in (None, message.asn)
    asn = message.asn if message.asn <= 0xFFFF else AS_TRANS
    assert asn == message.asn or message.capabilities.four_octet_as is not None
    return b"".join(
        (
            bytes((VERSION,)),
            asn.to_bytes(2, "big"),
            message.hold_time_s.to_bytes(2, "big"),
            message.router_id.to_bytes(4, "big"),
            encode_capabilities(message.capabilities),
        )
    )

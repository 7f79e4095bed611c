"""What our OPEN offers, whether the peer's is acceptable, and what both come to.

Called by `samepath.bgp.session` for each connection, and by `samepath.bgp.peer`, which makes the
terms of a session from the neighbour's entry in the configuration.

RFC 4271 §6.2; RFC 5492 §3; RFC 6286 §2.2; RFC 4724 §3; RFC 7911 §4; RFC 8538 §2; RFC 8654 §4; RFC
8950 §4; RFC 9494 §3.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from samepath.bgp import message
from samepath.bgp.capabilities import AddPath, Capabilities, GracefulRestart, LongLived
from samepath.bgp.errors import Code, OpenError, PeerError
from samepath.bgp.events import Negotiated
from samepath.model.neighbor import Neighbor
from samepath.model.net import Family


@dataclass(frozen=True, slots=True)
class SessionConfig:
    local_as: int
    router_id: int
    remote_as: int | Literal["external", "internal"]
    families: tuple[Family, ...]
    hold_time_s: int = 90
    connect_retry_s: float = 5.0
    passive: bool = False
    graceful_restart: GracefulRestart | None = None
    long_lived: tuple[LongLived, ...] = ()
    add_path: AddPath = field(default_factory=AddPath)
    extended_next_hop: bool = False


def session_config(
    neighbor: Neighbor,
    *,
    asn: int,
    router_id: int,
    passive: bool,
    restarting: bool,
    preserved: bool,
) -> SessionConfig:
    """What an entry makes of a session. `restarting`, `preserved`: R and F of RFC 4724."""
    families = neighbor.address_families
    restart, long_lived = None, []
    if neighbor.graceful_restart_s:
        restart = GracefulRestart(
            restart_state=restarting,
            notification=neighbor.graceful_restart_notification,
            restart_time_s=neighbor.graceful_restart_s,
            families=tuple((f, preserved) for f in families),
        )
    if neighbor.long_lived_stale_s:
        long_lived = [LongLived(f, preserved, neighbor.long_lived_stale_s) for f in families]
    several = frozenset(families)
    return SessionConfig(
        local_as=asn,
        router_id=router_id,
        remote_as=neighbor.remote_as,
        families=families,
        hold_time_s=neighbor.hold_time_s,
        connect_retry_s=neighbor.connect_retry_s,
        passive=passive,
        graceful_restart=restart,
        long_lived=tuple(long_lived),
        add_path=AddPath(
            receive=several if neighbor.add_path in ("receive", "both") else frozenset(),
            send=several if neighbor.add_path in ("send", "both") else frozenset(),
        ),
        extended_next_hop=neighbor.extended_next_hop,
    )


def offered(config: SessionConfig) -> message.Open:
    """Our OPEN."""
    capabilities = Capabilities(
        families=frozenset(config.families),
        four_octet_as=config.local_as,
        route_refresh=True,
        enhanced_route_refresh=True,
        graceful_restart=config.graceful_restart,
        long_lived=config.long_lived,
        add_path=config.add_path,
        extended_next_hop=config.extended_next_hop,
        extended_message=True,
    )
    return message.Open(config.local_as, config.hold_time_s, config.router_id, capabilities)


def check_open(peer: message.Open, config: SessionConfig) -> None:
    """RFC 4271 §6.2, RFC 6286 §2.2, RFC 5492 §3."""
    wanted = {
        "internal": peer.asn == config.local_as,
        "external": peer.asn != config.local_as,
    }.get(str(config.remote_as), peer.asn == config.remote_as)
    if not wanted:
        text = f"the peer's AS is {peer.asn}, not {config.remote_as}"
        raise PeerError(Code.OPEN_MESSAGE, OpenError.BAD_PEER_AS, message=text)
    if peer.asn == config.local_as and peer.router_id == config.router_id:
        text = "the peer has our own BGP identifier"
        raise PeerError(Code.OPEN_MESSAGE, OpenError.BAD_BGP_IDENTIFIER, message=text)
    if not peer.capabilities.families & set(config.families):
        text = "no address family in common"
        data = b"".join(b"\x01\x04" + f.afi.to_bytes(2, "big") + b"\0\x01" for f in config.families)
        raise PeerError(Code.OPEN_MESSAGE, OpenError.UNSUPPORTED_CAPABILITY, data, text)


def negotiate(own: message.Open, peer: message.Open) -> Negotiated:
    """What both sides can do."""
    ours, theirs = own.capabilities, peer.capabilities
    families = ours.families & theirs.families
    extended = theirs.extended_message
    several = AddPath(
        receive=ours.add_path.receive & theirs.add_path.send & families,
        send=ours.add_path.send & theirs.add_path.receive & families,
    )
    restart = theirs.graceful_restart if ours.graceful_restart else None
    if restart is not None and ours.graceful_restart is not None:
        both = restart.notification and ours.graceful_restart.notification
        restart = replace(restart, notification=both)
    context = message.Context(
        four_octet_as=theirs.four_octet_as is not None,
        families=families,
        internal=peer.asn == own.asn,
        max_message=message.MAX_EXTENDED_MESSAGE if extended else message.MAX_MESSAGE,
        add_path_receive=several.receive,
        add_path_send=several.send,
        extended_next_hop=ours.extended_next_hop and theirs.extended_next_hop,
    )
    return Negotiated(
        open=peer,
        context=context,
        families=tuple(f for f in Family if f in families),
        hold_time_s=min(own.hold_time_s, peer.hold_time_s),
        route_refresh=theirs.route_refresh,
        enhanced_route_refresh=theirs.enhanced_route_refresh,
        graceful_restart=restart,
        long_lived=theirs.long_lived if restart and ours.long_lived else (),
    )


def agreed(negotiated: Negotiated) -> tuple[str, ...]:
    """In words, beyond what everybody does."""
    context, restart = negotiated.context, negotiated.graceful_restart
    several = {"receive": context.add_path_receive, "send": context.add_path_send}
    found = {
        "graceful restart": restart is not None,
        "graceful restart after NOTIFICATION": restart is not None and restart.notification,
        "long-lived graceful restart": bool(negotiated.long_lived),
        **{f"add-path {way}": bool(families) for way, families in several.items()},
        "extended next hop": context.extended_next_hop,
        "extended message": context.max_message > message.MAX_MESSAGE,
        "enhanced route refresh": negotiated.enhanced_route_refresh,
    }
    return tuple(what for what, is_so in found.items() if is_so)

"""What the speaker tells people of a neighbour beyond its state: how its session is guarded, and
why it may not come up. Pure; called by the speaker when somebody asks for the status.

Much of what keeps two speakers apart is dropped by a kernel without a word: a wrong TCP-MD5
password, a packet from too far away. Both look like no answer, so it is said wherever it may be so.

RFC 2385, RFC 5082.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from samepath.bgp.sockets import distance
from samepath.bgp.status import PeerStatus
from samepath.bgp.tcp_md5 import Dropped
from samepath.model.neighbor import Neighbor
from samepath.model.net import address_text

_UNREACHED = ("no answer", "timed out", "No route to host")


def protection(neighbor: Neighbor) -> tuple[str, ...]:
    words = ["TCP-MD5"] if neighbor.password_file is not None else []
    hops = int(neighbor.ttl_security)
    if hops:
        words.append(f"GTSM, {hops} hop{'s' if hops > 1 else ''}")
    return tuple(words)


def with_hints(
    status: PeerStatus, neighbor: Neighbor, local_as: int, more: Iterable[str], drops: Dropped
) -> PeerStatus:
    """`more`: what the speaker knows besides. `drops`: since it started."""
    hints = [*more]
    if not status.is_established:
        hints += _why_not_up(status, neighbor, local_as, drops)
    return replace(status, protection=protection(neighbor), hints=tuple(hints))


def _why_not_up(
    status: PeerStatus, neighbor: Neighbor, local_as: int, drops: Dropped
) -> Iterable[str]:
    is_silent = any(word in status.last_error for word in _UNREACHED)
    if neighbor.password_file is not None and (is_silent or not status.last_error):
        text = "a password that is not the same on both sides looks like no answer"
        yield text + (f": {drops_text(drops)}" if drops != Dropped() else "")
    elif is_silent and drops.unexpected:
        yield f"the neighbour may have a password for us: {drops_text(drops)}"
    if neighbor.ttl_security:
        yield "ttl_security: the neighbour must send with TTL 255 (GTSM), and be as near as it says"
    elif is_silent and distance(neighbor, local_as).ttl == 1:
        yield "an external neighbour behind a router needs ebgp_multihop, on both sides"


def drops_text(drops: Dropped) -> str:
    """Since the program started, of all neighbours together."""
    parts = [
        (drops.wrong, "with a wrong TCP-MD5 signature"),
        (drops.unsigned, "without the signature that they must have"),
        (drops.unexpected, "with a signature that nobody expects here"),
    ]
    listed = ", ".join(f"{count} {text}" for count, text in parts if count)
    return f"segments dropped by the kernel: {listed}"


def same_identifiers(peers: Iterable[PeerStatus]) -> list[str]:
    """RFC 6286 §2: within an AS every speaker has an identifier of its own."""
    by_identifier = defaultdict(list)
    for peer in peers:
        if peer.is_established and peer.router_id is not None:
            # A speaker may well have a session over IPv4 and one over IPv6.
            key = (peer.remote_as, peer.router_id, len(peer.address))
            by_identifier[key].append(peer.address)
    return [
        f"{' and '.join(map(address_text, addresses))} have the same BGP identifier, "
        f"{address_text(router_id.to_bytes(4, 'big'))}"
        for (_, router_id, _), addresses in by_identifier.items()
        if len(addresses) > 1
    ]

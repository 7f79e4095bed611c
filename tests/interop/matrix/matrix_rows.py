"""What the matrix says: its rows, and every cell that stays empty, with the reason.

Both the tests and docs/interop.md are made of this. A cell that is not in `MISSING` is a test.
"""

from __future__ import annotations

from dataclasses import dataclass

from matrix_setting import EXTERNAL, INTERNAL, RESTARTING, Setting


@dataclass(frozen=True)
class Row:
    key: str
    setting: Setting
    title: str
    standard: str
    shows: str
    """What the test of the row shows, in a sentence."""


ROWS = (
    Row(
        "ebgp", EXTERNAL, "External session (eBGP)", "RFC 4271", "AS_PATH has one AS in both views"
    ),
    Row(
        "ibgp",
        INTERNAL,
        "Internal session (iBGP)",
        "RFC 4271",
        "AS_PATH is empty in both views",
    ),
    Row(
        "ipv4",
        EXTERNAL,
        "IPv4: session and routes",
        "RFC 4271",
        "routes come, go and come again, both ways",
    ),
    Row(
        "ipv6",
        INTERNAL,
        "IPv6: session and routes",
        "RFC 4760, 2545",
        "routes come, go and come again, both ways",
    ),
    Row(
        "md5",
        EXTERNAL,
        "TCP-MD5",
        "RFC 2385",
        "the peer's socket has the key; a connection without it is not answered, either side",
    ),
    Row(
        "draining-from",
        EXTERNAL,
        "GRACEFUL_SHUTDOWN from the peer",
        "RFC 8326",
        "we see the path drain",
    ),
    Row(
        "draining-to",
        EXTERNAL,
        "GRACEFUL_SHUTDOWN to the peer",
        "RFC 8326",
        "the peer shows the community, on this path alone",
    ),
    Row(
        "bandwidth-from",
        EXTERNAL,
        "Link bandwidth from the peer",
        "draft-ietf-idr-link-bandwidth",
        "we read the rate that the peer gave",
    ),
    Row(
        "bandwidth-to",
        EXTERNAL,
        "Link bandwidth to the peer",
        "draft-ietf-idr-link-bandwidth",
        "the peer shows our rate",
    ),
    Row(
        "extended-from",
        EXTERNAL,
        "Extended messages from the peer",
        "RFC 8654",
        "a path with 4,800 octets of communities arrives",
    ),
    Row(
        "extended-to",
        EXTERNAL,
        "Extended messages to the peer",
        "RFC 8654",
        "the peer shows a path with 4,800 octets of communities",
    ),
    Row(
        "gtsm-us",
        EXTERNAL,
        "GTSM: we refuse what comes from afar",
        "RFC 5082",
        "the peer's packets with TTL 250 are dropped by our socket; with 255 they are taken",
    ),
    Row(
        "gtsm-them",
        EXTERNAL,
        "GTSM: the peer refuses what comes from afar",
        "RFC 5082",
        "our packets with TTL 250 are dropped by the peer's socket; with 255 they are taken",
    ),
    Row(
        "add-path-from",
        INTERNAL,
        "Add-path: we receive",
        "RFC 7911",
        "two paths of one prefix, with two next hops, from one session",
    ),
    Row(
        "add-path-to",
        INTERNAL,
        "Add-path: we send",
        "RFC 7911",
        "the peer shows both of our paths of one prefix",
    ),
    Row(
        "reflection-from",
        INTERNAL,
        "Route reflection by the peer",
        "RFC 4456",
        "ORIGINATOR_ID is the third speaker's, CLUSTER_LIST has the peer, next hop unchanged",
    ),
    Row(
        "reflection-to",
        INTERNAL,
        "Route reflection by us",
        "RFC 4456",
        "the peer shows ORIGINATOR_ID, our CLUSTER_LIST, and the third speaker's next hop",
    ),
    Row(
        "next-hop-from",
        INTERNAL,
        "IPv4 by an IPv6 next hop, from the peer",
        "RFC 8950",
        "we have an IPv4 prefix with the peer's IPv6 address as next hop",
    ),
    Row(
        "next-hop-to",
        INTERNAL,
        "IPv4 by an IPv6 next hop, to the peer",
        "RFC 8950",
        "the peer shows our IPv4 prefix with our IPv6 address as next hop",
    ),
    Row(
        "restart-theirs",
        RESTARTING,
        "Graceful restart: the peer restarts",
        "RFC 4724",
        "the peer is killed: its paths stay, stale, until it is back and has sent End-of-RIB",
    ),
    Row(
        "restart-ours",
        RESTARTING,
        "Graceful restart: we restart",
        "RFC 4724",
        "we are killed: the peer keeps our paths until our End-of-RIB, then drops what is gone",
    ),
    Row(
        "bfd",
        EXTERNAL,
        "BFD over IPv4, beside GTSM",
        "RFC 5880, 5881, 5882",
        "up in both views; the path is cut: both end the BGP session long before its hold time",
    ),
    Row(
        "bfd-ipv6",
        INTERNAL,
        "BFD over IPv6",
        "RFC 5880, 5881, 5882",
        "the same, of an internal session",
    ),
    Row(
        "reason-from",
        EXTERNAL,
        "Administrative shutdown with a reason, by the peer",
        "RFC 9003",
        "our status has the reason that the peer's operator gave",
    ),
    Row(
        "reason-to",
        RESTARTING,
        "Administrative shutdown with a reason, by us",
        "RFC 9003",
        "the peer shows our reason",
    ),
)
"""In one setting in this order: those that end the session come last."""

MISSING: dict[tuple[str, str], str] = {
    ("GoBGP", "bfd"): "GoBGP has no BFD.",
    ("GoBGP", "bfd-ipv6"): "GoBGP has no BFD.",
    ("ExaBGP", "bfd"): "ExaBGP has no BFD.",
    ("ExaBGP", "bfd-ipv6"): "ExaBGP has no BFD.",
    ("GoBGP", "extended-from"): (
        "GoBGP does not have extended messages. It ends with a panic if it is to send a path whose "
        "attributes need more than 4,096 octets."
    ),
    ("GoBGP", "extended-to"): (
        "GoBGP does not have extended messages. A path that needs them is not advertised to it."
    ),
    ("ExaBGP", "gtsm-them"): (
        "ExaBGP sends with TTL 255 (`outgoing-ttl 255`), but looks at the TTL of connections that "
        "it accepts only, and answers those with TTL 64."
    ),
    ("ExaBGP", "restart-ours"): "ExaBGP forwards nothing, and keeps no path of a lost session.",
    ("ExaBGP", "reflection-from"): "ExaBGP passes no route on.",
    ("ExaBGP", "reason-from"): "ExaBGP's `teardown` takes a number, and no text.",
    ("ExaBGP", "reason-to"): (
        "ExaBGP cannot read a reason: it takes the NOTIFICATION for a malformed message, and says "
        "so of itself. The session ends all the same."
    ),
}

NOTES: dict[tuple[str, str], str] = {
    ("FRR", "md5"): "A password of FRR is one word.",
    ("FRR", "bfd"): (
        "With `ttl-security hops 1` FRR runs BFD as with a neighbour over several hops (RFC 5883). "
        "`ttl_security: 2` here makes ours the same; with `true` BFD never comes up."
    ),
    ("FRR", "restart-theirs"): (
        "With a route-map towards us, FRR needs `bgp route-map delay-timer 0`: otherwise it sends "
        "End-of-RIB at once and its routes 5 s later, and for so long they are gone."
    ),
    ("BIRD", "bandwidth-from"): (
        "BIRD takes non-transitive communities off towards external peers. The transitive form is "
        "understood here: `bgp_ext_community.add((generic, 0x0004fdea, 0x48742400));` is AS 65002 "
        "with 250,000 bytes a second."
    ),
    ("GoBGP", "bandwidth-from"): (
        "By an export policy with `lb:AS:RATE`. `gobgp global rib add` takes no rate."
    ),
    ("GoBGP", "reason-from"): (
        "By `gobgp neighbor ADDRESS shutdown --reason TEXT`. Its successor `disable` loses it."
    ),
    ("FRR", "reason-to"): (
        "Where BFD runs beside it, FRR shows `BFD down received` in place of the reason: it takes "
        "our BFD, which says goodbye as well, for a failure (RFC 5882 §4.2 has it that it is none)."
    ),
    ("ExaBGP", "add-path-from"): "Both paths are told by its API.",
    ("ExaBGP", "restart-theirs"): (
        "Where routes come by its API: with `manual-eor`, and `announce eor` behind the routes."
    ),
    ("BIRD", "bfd-ipv6"): (
        "BIRD takes internal neighbours, and runs BFD with them, as if several hops away, unless "
        "it is told `direct;`."
    ),
    ("ExaBGP", "md5"): "With `md5-base64 false`.",
}
"""What a reader should know of a cell that is a test."""

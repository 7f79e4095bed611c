"""The nftables table `inet samepath`: what is in it, as data, and as text for nft(8).

Filled by `plan.proxy`, which says how a packet goes, and by `plan.masquerade`; written into the
kernel by `apply.nft`, as a whole (`full_text`) or, when the kernel is known to hold an earlier one
of ours, as a change (`change_text`). Both are one transaction. Pure; nothing but addresses and
numbers gets into it.

A ruleset is kept in parts, one a service, so that a change costs what has changed, however many
services there are. What a service puts into the table belongs to its *claims*, the ports that it
has at its addresses; of two services that claim the same, the first by name has it. The sets of
addresses alone are shared.

Text is kept to what nft 1.0.6 takes and reads back (Debian 12): a `typeof` with `th dport`, for
one, it writes but cannot read again; nor a `ct original proto-dst` where nothing before it says
which protocol that is.

Standards: nft(8).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from samepath.model import memo
from samepath.model.net import Address, address_text
from samepath.model.ours import POD_LINK

TABLE = "inet samepath"
AFFINITY_SLOTS = 64
"""A client's address picks one of so many slots; each slot belongs to an endpoint."""
AFFINITY_SEED = 0x5350
"""Fixed: a random one would send every client elsewhere whenever rules are written."""

SETS: Mapping[str, str] = {
    # Addresses of services, ports that are never rejected, endpoints on this node, and each of
    # these twice.
    "services4": "type ipv4_addr",
    "services6": "type ipv6_addr",
    "ports4": "type ipv4_addr . inet_proto . inet_service",
    "ports6": "type ipv6_addr . inet_proto . inet_service",
    "pods4": "type ipv4_addr",
    "pods6": "type ipv6_addr",
    "hairpin4": "type ipv4_addr . ipv4_addr",
    "hairpin6": "type ipv6_addr . ipv6_addr",
    # Ports at addresses that are no service's own: node ports, and those of other load balancers;
    # what has loadBalancerSourceRanges, and who may go there.
    "others4": "type ipv4_addr . inet_proto . inet_service",
    "others6": "type ipv6_addr . inet_proto . inet_service",
    "guarded4": "type ipv4_addr . inet_proto . inet_service",
    "guarded6": "type ipv6_addr . inet_proto . inet_service",
    "allowed4": "type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags interval",
    "allowed6": "type ipv6_addr . ipv6_addr . inet_proto . inet_service; flags interval",
    "cluster4": "type ipv4_addr; flags interval",
    "cluster6": "type ipv6_addr; flags interval",
}
OUTGOING_SETS: Mapping[str, str] = {
    # Addresses of services, ports that are never rejected, endpoints on this node, and each of
    # these twice.
    f"{name}{number}": f"type ipv{number}_addr; flags interval"
    for name in ("natted", "allpods")
    for number in (4, 6)
}
VERDICTS: Mapping[str, str] = {
    f"{scope}{number}": f"type {kind} . inet_proto . inet_service : verdict"
    for scope, number, kind in (
        ("inside", "4", "ipv4_addr"),
        ("inside", "6", "ipv6_addr"),
        ("outside", "4", "ipv4_addr"),
        ("outside", "6", "ipv6_addr"),
        ("affine", "4", "ipv4_addr"),
    )
}
PROTOCOLS = ("tcp", "udp", "sctp")
ENDPOINTS: Mapping[str, str] = {
    f"endpoints_{scope}{number}_{protocol}": f"typeof {word} daddr . {protocol} dport"
    f" . numgen random mod 65536 : {word} daddr . {protocol} dport"
    for scope in ("inside", "outside")
    for number, word in (("4", "ip"), ("6", "ip6"))
    for protocol in PROTOCOLS
}
"""One for each protocol: a rule for UDP that uses a map with `tcp dport` in its key is refused."""
CLIENTS = "clients4"
"""Filled by the rules themselves: which endpoint a client has had last (`plan.affinity`). Not for
IPv6: nft 1.0.6 aborts at a rule that adds to a map whose key has more than 16 octets."""
_CLIENTS_KIND = (
    "type ipv4_addr . ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;"
    " size 131072; flags dynamic,timeout"
)
BY_CLIENT = "client"
"""The chain that picks by the client's address, in place of a number of endpoints."""

_ORIGINAL = {
    (word, protocol): f"meta l4proto {protocol} ct original {word} daddr . meta l4proto"
    " . ct original proto-dst"
    for word in ("ip", "ip6")
    for protocol in PROTOCOLS
}
"""Where a flow was sent to before it was translated."""
_LEARN = "\n".join(f"    {_ORIGINAL['ip', p]} vmap @affine4" for p in PROTOCOLS)
_OTHERS = "\n".join(
    f"    {_ORIGINAL[w, p]} @others{n} {w} daddr != @pods{n} masquerade"
    for w, n in (("ip", "4"), ("ip6", "6"))
    for p in PROTOCOLS
)

BASE = f"""
  chain service {{
    ip daddr . meta l4proto . th dport @guarded4 ip saddr . ip daddr . meta l4proto . th dport != @allowed4 drop
    ip6 daddr . meta l4proto . th dport @guarded6 ip6 saddr . ip6 daddr . meta l4proto . th dport != @allowed6 drop
    ip saddr @cluster4 ip daddr . meta l4proto . th dport vmap @inside4
    ip6 saddr @cluster6 ip6 daddr . meta l4proto . th dport vmap @inside6
    fib saddr type local ip daddr . meta l4proto . th dport vmap @inside4
    fib saddr type local ip6 daddr . meta l4proto . th dport vmap @inside6
    ip daddr . meta l4proto . th dport vmap @outside4
    ip6 daddr . meta l4proto . th dport vmap @outside6
  }}
  chain unwanted {{
    ct state vmap {{ established : accept, related : accept, invalid : drop }}
    ip daddr . meta l4proto . th dport @ports4 drop
    ip6 daddr . meta l4proto . th dport @ports6 drop
    icmp type echo-request accept
    icmpv6 type echo-request accept
    meta l4proto {{ icmp, icmpv6 }} drop
    meta l4proto tcp reject with tcp reset
    reject with icmpx port-unreachable
  }}
  chain learn {{
{_LEARN}
  }}
  chain translated {{
    jump learn
    ip saddr . ip daddr @hairpin4 masquerade
    ip6 saddr . ip6 daddr @hairpin6 masquerade
    ct original ip daddr @services4 ip saddr != @cluster4 ip daddr != @pods4 masquerade
    ct original ip6 daddr @services6 ip6 saddr != @cluster6 ip6 daddr != @pods6 masquerade
{_OTHERS}
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    goto service
  }}
  chain nat_output {{
    type nat hook output priority -100; policy accept;
    goto service
  }}
  chain nat_input {{
    type nat hook input priority 100; policy accept;
    ct status dnat goto learn
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat goto translated
  }}
  chain input {{
    type filter hook input priority filter - 10; policy accept;
    ip daddr @services4 goto unwanted
    ip6 daddr @services6 goto unwanted
    ip daddr . meta l4proto . th dport @others4 goto unwanted
    ip6 daddr . meta l4proto . th dport @others6 goto unwanted
  }}
  chain forward {{
    type filter hook forward priority filter - 10; policy accept;
    ip daddr @services4 goto unwanted
    ip6 daddr @services6 goto unwanted
    ip daddr . meta l4proto . th dport @others4 goto unwanted
    ip6 daddr . meta l4proto . th dport @others6 goto unwanted
    ct state invalid ip saddr @pods4 drop
    ct state invalid ip6 saddr @pods6 drop
  }}
  chain output {{
    type filter hook output priority filter - 10; policy accept;
    ip daddr @services4 goto unwanted
    ip6 daddr @services6 goto unwanted
    ip daddr . meta l4proto . th dport @others4 goto unwanted
    ip6 daddr . meta l4proto . th dport @others6 goto unwanted
  }}
"""  # noqa: E501

OUTGOING = f"""
  chain outgoing {{
    type nat hook postrouting priority srcnat + 1; policy accept;
    oifname "{POD_LINK}*" return
    tcp flags & (fin | syn | rst | ack) != syn return
    ip saddr @natted4 ip daddr != @allpods4 masquerade fully-random
    ip6 saddr @natted6 ip6 daddr != @allpods6 masquerade fully-random
  }}
  chain outgoing_invalid {{
    type filter hook forward priority filter - 10; policy accept;
    oifname "{POD_LINK}*" return
    ct state invalid ip saddr @natted4 ip daddr != @allpods4 drop
    ct state invalid ip6 saddr @natted6 ip6 daddr != @allpods6 drop
  }}
"""
"""After the services' rules (the first NAT chain that decides has decided). Ports at random: two
CPUs that pick the lowest free one at once would pick the same, and a packet would be lost. What
conntrack calls invalid it does not translate: outside, it would be answered with a reset."""


GUARD = """
  chain unwanted {
    ct state invalid drop
    meta l4proto tcp reject with tcp reset
    reject with icmpx port-unreachable
  }
  chain forward {
    type filter hook forward priority filter - 10; policy accept;
    ip daddr @services4 goto unwanted
    ip6 daddr @services6 goto unwanted
  }
"""
"""Where somebody else translates what is for a service: what is left untranslated would be sent
back where it came from, and come again."""

Elements = Mapping[str, Mapping[str, str]]
"""Of each set and map: key -> value as nft writes it; empty for a set."""
Item = tuple[str, str, str]
"""A set or map, a key, and a value."""
Backend = tuple[Address, int]
"""An endpoint and its port."""


class Claim(NamedTuple):
    """A port at an address, of which only one service can have the flows."""

    address: Address
    protocol: str
    port: int

    @property
    def text(self) -> str:
        return f"{address_text(self.address)} . {self.protocol} . {self.port}"


@dataclass(frozen=True, slots=True)
class Kept:
    """Where clients that are kept at their endpoint may be kept."""

    outside: frozenset[Backend]
    inside: frozenset[Backend]


@dataclass(frozen=True, slots=True)
class Part:
    """The rules of one service."""

    claims: Mapping[Claim, tuple[Item, ...]] = field(default_factory=dict)
    """What each claim puts into the table."""
    shared: frozenset[Item] = frozenset()
    """What it puts there that other services may put there, too."""
    chains: frozenset[str] = frozenset()
    targets: Mapping[Claim, frozenset[Backend]] = field(default_factory=dict)
    """The endpoints in any state."""
    kept: Mapping[Claim, Kept] = field(default_factory=dict)
    """With sessionAffinity."""
    addresses: frozenset[Address] = frozenset()
    """The service's own."""
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What the table is to hold. Equal digests are equal tables."""

    parts: Mapping[str, Part] = field(default_factory=dict)
    """By the service's namespace/name."""
    owners: Mapping[Claim, tuple[str, ...]] = field(default_factory=dict)
    """Who claims it, by name; the first has it."""
    shares: Mapping[Item, int] = field(default_factory=dict)
    """How many services put it there."""
    networks: Elements = field(default_factory=dict)
    """The sets of intervals, which are no service's."""
    addresses: frozenset[Address] = frozenset()
    """All services' own."""
    chains: frozenset[str] = frozenset()
    digest: str = ""
    """Empty: no table is wanted."""
    services: bool = True
    """False: the table holds `OUTGOING` and `GUARD` alone."""

    def items(self, claim: Claim) -> tuple[Item, ...]:
        """What the owner of the claim puts into the table for it."""
        owners = self.owners.get(claim)
        return self.parts[owners[0]].claims[claim] if owners else ()

    def backends(self, claim: Claim) -> frozenset[Backend]:
        """The endpoints of the claim's owner, in any state."""
        owners = self.owners.get(claim)
        return self.parts[owners[0]].targets[claim] if owners else frozenset()

    def kept(self, claim: Claim) -> Kept | None:
        owners = self.owners.get(claim)
        return self.parts[owners[0]].kept.get(claim) if owners else None

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Ports that two services claim at one address; the first by name has it."""
        return tuple(
            sorted(
                f"{key}: {claim.text} is another service's already"
                for claim, owners in self.owners.items()
                for key in owners[1:]
            )
        )

    @property
    def elements(self) -> Elements:
        """All that is in the sets and maps, merged anew each time."""
        found: dict[str, dict[str, str]] = {n: {} for n in (*SETS, *VERDICTS, *ENDPOINTS)}
        for claim in self.owners:
            for name, key, value in self.items(claim):
                found[name][key] = value
        for name, key, value in self.shares:
            found[name][key] = value
        found.update((name, dict(values)) for name, values in self.networks.items())
        return found


def _rules(chain: str) -> str:
    """The rules of a chain that the elements name; its name says all: `inside4_tcp_3`."""
    scope, protocol, number, *kept = chain.split("_")
    if scope == "keep4":
        return (
            f"{protocol} dport != 0 update @{CLIENTS} {{ ip saddr . ct original ip daddr"
            f" . meta l4proto . ct original proto-dst timeout {number}s"
            f" : ip daddr . {protocol} dport }};"
        )
    word = "ip" if scope[-1] == "4" else "ip6"
    if number == BY_CLIENT:
        drawn = f"jhash {word} saddr mod {AFFINITY_SLOTS} seed {AFFINITY_SEED:#x}"
    else:
        drawn = f"numgen random mod {number}"
    to = f"meta l4proto {protocol} dnat {word} to"
    rule = f"{to} {word} daddr . {protocol} dport . {drawn} map @endpoints_{scope}_{protocol};"
    if not kept:
        return rule
    key = f"ip saddr . ip daddr . meta l4proto . {protocol} dport"
    return f"{to} {key} map @{CLIENTS}; {rule}"


def full_text(ruleset: Ruleset, clients: Elements | None = None) -> str:
    """The whole table, in place of whatever stood there. `clients`: what the rules have learned,
    which is not to be forgotten over it."""
    found = {**ruleset.elements, **(clients or {})}
    lines = [f"table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n"]
    lines.append(f"  set digest {{ type mark; comment {_quoted(ruleset.digest)}; }}\n")
    sets = SETS if ruleset.services else {n: SETS[n] for n in ("services4", "services6")}
    for name, kind in {**sets, **OUTGOING_SETS}.items():
        lines.append(f"  set {name} {{ {kind}; {_block(found, name)}}}\n")
    if ruleset.services:
        lines.extend(_services(ruleset, found))
    return "".join((*lines, "" if ruleset.services else GUARD, OUTGOING, "}\n"))


def _services(ruleset: Ruleset, found: Elements) -> Iterator[str]:
    for name, kind in {**ENDPOINTS, CLIENTS: _CLIENTS_KIND}.items():
        yield f"  map {name} {{ {kind}; {_block(found, name)}}}\n"
    for chain in sorted(ruleset.chains):
        yield f"  chain {chain} {{ {_rules(chain)} }}\n"
    for name, kind in VERDICTS.items():
        yield f"  map {name} {{ {kind}; {_block(found, name)}}}\n"
    yield BASE


def _block(found: Elements, name: str) -> str:
    items = sorted(found.get(name, {}).items())
    return f"elements = {{ {', '.join(map(_element, items))} }}; " if items else ""


def _element(item: tuple[str, str]) -> str:
    key, value = item
    return f"{key} : {value}" if value else key


def change_text(old: Ruleset, new: Ruleset) -> str | None:
    """What makes `new` out of `old`, or None if the whole table is to be written."""
    if not (old.services and new.services):
        return None
    lines = [f"delete set {TABLE} digest\n"]
    lines.append(f"add set {TABLE} digest {{ type mark; comment {_quoted(new.digest)}; }}\n")
    lines += [f"add chain {TABLE} {c} {{ {_rules(c)} }}\n" for c in sorted(new.chains - old.chains)]
    before, after = _touched(old, new)
    for name in (*SETS, *ENDPOINTS, *VERDICTS):
        if gone := sorted(key for n, key, _ in before - after if n == name):
            lines.append(f"delete element {TABLE} {name} {{ {', '.join(gone)} }}\n")
        if come := sorted((key, value) for n, key, value in after - before if n == name):
            lines.append(f"add element {TABLE} {name} {{ {', '.join(map(_element, come))} }}\n")
    for name, values in new.networks.items():
        if values != old.networks.get(name, {}):
            # Intervals change seldom, and not well one by one.
            lines.append(f"flush set {TABLE} {name}\n")
            if values:
                lines.append(f"add element {TABLE} {name} {{ {', '.join(sorted(values))} }}\n")
    lines += [f"delete chain {TABLE} {chain}\n" for chain in sorted(old.chains - new.chains)]
    return "".join(lines)


def changed(old: Ruleset, new: Ruleset) -> list[str]:
    """The services whose parts differ."""
    return sorted(memo.changed(old.parts, new.parts))


def _touched(old: Ruleset, new: Ruleset) -> tuple[set[Item], set[Item]]:
    """What was there, and what is to be there, of all that may differ."""
    claims: set[Claim] = set()
    shared: set[Item] = set()
    for key in changed(old, new):
        for part in (old.parts.get(key), new.parts.get(key)):
            if part is not None:
                claims.update(part.claims)
                shared.update(part.shared)
    before, after = (
        {item for claim in claims for item in ruleset.items(claim)}
        | {item for item in shared if item in ruleset.shares}
        for ruleset in (old, new)
    )
    return before, after


def intervals(name: str, texts: Iterable[str]) -> Elements:
    """Prefixes as the sets `name`4 and `name`6; sets of intervals take no overlaps."""
    networks = [ipaddress.ip_network(text) for text in texts]
    four = ipaddress.collapse_addresses(n for n in networks if n.version == 4)
    six = ipaddress.collapse_addresses(n for n in networks if n.version == 6)
    return {
        f"{name}4": dict.fromkeys(map(str, four), ""),
        f"{name}6": dict.fromkeys(map(str, six), ""),
    }


def removal_text() -> str:
    """No table; no error if there is none."""
    return f"table {TABLE}\ndelete table {TABLE}\n"


def _quoted(text: str) -> str:
    assert text.isalnum(), text
    return f'"{text}"'

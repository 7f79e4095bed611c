"""The nftables table `inet samepath`: what is in it, as data, and as text for nft(8).

Filled by `plan.proxy`, which says how a packet goes, and by `plan.masquerade`; written into the
kernel by `apply.nft`, as a whole (`full_text`) or, when the kernel is known to hold an earlier one
of ours, as a change (`change_text`). Both are one transaction. Pure; nothing but addresses and
numbers gets into it.

Text is kept to what nft 1.0.6 takes and reads back (Debian 12): a `typeof` with `th dport`, for
one, it writes but cannot read again.

Standards: nft(8).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from samepath.model.net import Address
from samepath.model.ours import POD_LINK

TABLE = "inet samepath"
AFFINITY_SLOTS = 64
"""A client's address picks one of so many slots; each slot belongs to an endpoint."""
AFFINITY_SEED = 0x5350
"""Fixed: a random one would send every client elsewhere whenever rules are written."""

SETS: Mapping[str, str] = {
    "services4": "type ipv4_addr",
    "services6": "type ipv6_addr",
    "ports4": "type ipv4_addr . inet_proto . inet_service",
    "ports6": "type ipv6_addr . inet_proto . inet_service",
    "pods4": "type ipv4_addr",
    "pods6": "type ipv6_addr",
    "hairpin4": "type ipv4_addr . ipv4_addr",
    "hairpin6": "type ipv6_addr . ipv6_addr",
    "cluster4": "type ipv4_addr; flags interval",
    "cluster6": "type ipv6_addr; flags interval",
}
OUTGOING_SETS: Mapping[str, str] = {
    f"{name}{number}": f"type ipv{number}_addr; flags interval"
    for name in ("natted", "allpods")
    for number in (4, 6)
}
_INTERVALS = ("cluster4", "cluster6", *OUTGOING_SETS)
VERDICTS: Mapping[str, str] = {
    f"{scope}{number}": f"type {kind} . inet_proto . inet_service : verdict"
    for scope in ("inside", "outside")
    for number, kind in (("4", "ipv4_addr"), ("6", "ipv6_addr"))
}
ENDPOINTS: Mapping[str, str] = {
    f"endpoints_{scope}{number}": f"typeof {word} daddr . meta l4proto . tcp dport"
    f" . numgen random mod 65536 : {word} daddr . tcp dport"
    for scope in ("inside", "outside")
    for number, word in (("4", "ip"), ("6", "ip6"))
}
BY_CLIENT = "client"
"""The chain that picks by the client's address, in place of a number of endpoints."""

BASE = """
  chain service {
    ip saddr @cluster4 ip daddr . meta l4proto . th dport vmap @inside4
    ip6 saddr @cluster6 ip6 daddr . meta l4proto . th dport vmap @inside6
    fib saddr type local ip daddr . meta l4proto . th dport vmap @inside4
    fib saddr type local ip6 daddr . meta l4proto . th dport vmap @inside6
    ip daddr . meta l4proto . th dport vmap @outside4
    ip6 daddr . meta l4proto . th dport vmap @outside6
  }
  chain unwanted {
    ct state vmap { established : accept, related : accept, invalid : drop }
    ip daddr . meta l4proto . th dport @ports4 drop
    ip6 daddr . meta l4proto . th dport @ports6 drop
    icmp type echo-request accept
    icmpv6 type echo-request accept
    meta l4proto { icmp, icmpv6 } drop
    meta l4proto tcp reject with tcp reset
    reject with icmpx port-unreachable
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    goto service
  }
  chain nat_output {
    type nat hook output priority -100; policy accept;
    goto service
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ip saddr . ip daddr @hairpin4 masquerade
    ct status dnat ip6 saddr . ip6 daddr @hairpin6 masquerade
    ct status dnat ct original ip daddr @services4 ip saddr != @cluster4 ip daddr != @pods4 masquerade
    ct status dnat ct original ip6 daddr @services6 ip6 saddr != @cluster6 ip6 daddr != @pods6 masquerade
  }
  chain input {
    type filter hook input priority filter - 10; policy accept;
    ip daddr @services4 goto unwanted
    ip6 daddr @services6 goto unwanted
  }
  chain forward {
    type filter hook forward priority filter - 10; policy accept;
    ip daddr @services4 goto unwanted
    ip6 daddr @services6 goto unwanted
    ct state invalid ip saddr @pods4 drop
    ct state invalid ip6 saddr @pods6 drop
  }
  chain output {
    type filter hook output priority filter - 10; policy accept;
    ip daddr @services4 goto unwanted
    ip6 daddr @services6 goto unwanted
  }
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


Elements = Mapping[str, Mapping[str, str]]
"""Of each set and map: key -> value as nft writes it; empty for a set."""


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What the table is to hold. Equal digests are equal tables."""

    elements: Elements = field(default_factory=dict)
    targets: Mapping[Address, frozenset[tuple[Address, bool]]] = field(default_factory=dict)
    conflicts: tuple[str, ...] = ()
    """Ports that two services claim at one address; the first by name has it."""
    digest: str = ""
    """Empty: no table is wanted."""
    services: bool = True
    """False: the table holds `OUTGOING` alone."""

    @property
    def chains(self) -> frozenset[str]:
        """The chains that the elements name."""
        verdicts = (v for name in VERDICTS for v in self.elements.get(name, {}).values())
        return frozenset(v.removeprefix("goto ") for v in verdicts)


def _rule(chain: str) -> str:
    """The one rule of a chain that picks an endpoint; its name says all: `inside4_tcp_3`."""
    scope, protocol, number = chain.split("_")
    word = "ip" if scope[-1] == "4" else "ip6"
    if number == BY_CLIENT:
        drawn = f"jhash {word} saddr mod {AFFINITY_SLOTS} seed {AFFINITY_SEED:#x}"
    else:
        drawn = f"numgen random mod {number}"
    key = f"{word} daddr . meta l4proto . {protocol} dport . {drawn}"
    return f"meta l4proto {protocol} dnat {word} to {key} map @endpoints_{scope}"


def full_text(ruleset: Ruleset) -> str:
    """The whole table, in place of whatever stood there."""
    lines = [f"table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n"]
    lines.append(f"  set digest {{ type mark; comment {_quoted(ruleset.digest)}; }}\n")
    for name, kind in {**(SETS if ruleset.services else {}), **OUTGOING_SETS}.items():
        lines.append(f"  set {name} {{ {kind}; {_block(ruleset, name)}}}\n")
    if ruleset.services:
        lines.extend(_services(ruleset))
    return "".join((*lines, OUTGOING, "}\n"))


def _services(ruleset: Ruleset) -> Iterator[str]:
    for name, kind in ENDPOINTS.items():
        yield f"  map {name} {{ {kind}; {_block(ruleset, name)}}}\n"
    for chain in sorted(ruleset.chains):
        yield f"  chain {chain} {{ {_rule(chain)}; }}\n"
    for name, kind in VERDICTS.items():
        yield f"  map {name} {{ {kind}; {_block(ruleset, name)}}}\n"
    yield BASE


def _block(ruleset: Ruleset, name: str) -> str:
    found = sorted(ruleset.elements.get(name, {}).items())
    return f"elements = {{ {', '.join(map(_element, found))} }}; " if found else ""


def _element(item: tuple[str, str]) -> str:
    key, value = item
    return f"{key} : {value}" if value else key


def change_text(old: Ruleset, new: Ruleset) -> str | None:
    """What makes `new` out of `old`, or None if the whole table is to be written."""
    # Intervals change seldom, and not well one by one.
    is_same = all(old.elements.get(n) == new.elements.get(n) for n in _INTERVALS)
    if not (old.services and new.services and is_same):
        return None
    lines = [f"delete set {TABLE} digest\n"]
    lines.append(f"add set {TABLE} digest {{ type mark; comment {_quoted(new.digest)}; }}\n")
    old_chains, new_chains = old.chains, new.chains
    for chain in sorted(new_chains - old_chains):
        lines.append(f"add chain {TABLE} {chain} {{ {_rule(chain)}; }}\n")
    for name in (*SETS, *ENDPOINTS, *VERDICTS):
        before, after = old.elements[name], new.elements[name]
        if gone := [key for key, value in before.items() if after.get(key) != value]:
            lines.append(f"delete element {TABLE} {name} {{ {', '.join(sorted(gone))} }}\n")
        if come := [item for item in after.items() if before.get(item[0]) != item[1]]:
            texts = ", ".join(map(_element, sorted(come)))
            lines.append(f"add element {TABLE} {name} {{ {texts} }}\n")
    for chain in sorted(old_chains - new_chains):
        lines.append(f"delete chain {TABLE} {chain}\n")
    return "".join(lines)


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

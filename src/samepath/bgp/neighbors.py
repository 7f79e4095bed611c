"""The neighbour entries of a configuration: whom an address belongs to, and on what terms.

Asked by the speaker for each connection that is accepted, and for every peer when the configuration
changes. An entry by address comes before entries by range, a longer range before a shorter one.
"""

from __future__ import annotations

from samepath.bgp.peer import Local
from samepath.bgp.policy import ImportRule, Own
from samepath.bgp.tcp_md5 import Password, Passwords
from samepath.model.config import Bgp
from samepath.model.neighbor import Neighbor
from samepath.model.net import (
    Address,
    Family,
    Nlri,
    PrefixSet,
    family_of,
    parse_address,
    parse_prefix,
)


class Neighbors:
    def __init__(self, config: Bgp, former: Neighbors | None = None) -> None:
        """Rules that are the same as in `former` are taken over, with what they remember."""
        self._config = config
        self.rules: dict[str, ImportRule] = {}
        self.by_address: dict[Address, Neighbor] = {}
        self._entries = {n.name: n for n in config.neighbors}
        ranges: list[tuple[int, PrefixSet, Neighbor]] = []
        made: dict[int, ImportRule] = {}
        for neighbor in config.neighbors:
            # A thousand Nodes have one and the same import, so one rule serves them all.
            rule = made.get(id(neighbor.import_)) or _rule(neighbor, former)
            made[id(neighbor.import_)] = self.rules[neighbor.name] = rule
            if neighbor.address is not None:
                self.by_address[parse_address(neighbor.address)] = neighbor
            elif neighbor.range is not None:
                length = parse_prefix(neighbor.range)[1][0]
                ranges.append((length, PrefixSet([neighbor.range]), neighbor))
        self._ranges = sorted(ranges, key=lambda entry: -entry[0])

    def entry(self, name: str) -> Neighbor | None:
        return self._entries.get(name)

    def keys(self, passwords: Passwords) -> dict[tuple[Family, Nlri], Password]:
        """For the listening sockets: the passwords of addresses and ranges."""
        found = {}
        for neighbor in self._entries.values():
            password = passwords.of(neighbor)
            if password is not None:
                found[parse_prefix(neighbor.name)] = password
        return found

    @property
    def own_addresses(self) -> frozenset[Address]:
        """Ours, as far as they are configured."""
        config = self._config
        texts = {*config.listen, *config.next_hops}
        for neighbor in config.neighbors:
            texts.update(neighbor.next_hops)
            texts.update([neighbor.local_address] if neighbor.local_address else ())
        return frozenset(a for a in map(parse_address, texts) if any(a))

    def match(self, address: Address) -> Neighbor | None:
        """The entry for an address, or None: a stranger."""
        known = self.by_address.get(address)
        if known is not None:
            return known
        return next((n for _, covers, n in self._ranges if covers.contains(address)), None)


def _rule(neighbor: Neighbor, former: Neighbors | None) -> ImportRule:
    known = former.entry(neighbor.name) if former is not None else None
    if former is not None and known is not None and known.import_ == neighbor.import_:
        return former.rules[neighbor.name]
    return ImportRule(neighbor.import_)


def terms(neighbor: Neighbor) -> tuple[object, ...]:
    """What a session was agreed on: if it changes, the session ends."""
    return (
        neighbor.name,
        neighbor.remote_as,
        neighbor.local_address,
        neighbor.passive,
        tuple(neighbor.families),
        neighbor.hold_time_s,
        neighbor.graceful_restart_s,
        neighbor.graceful_restart_notification,
        neighbor.long_lived_stale_s,
        neighbor.add_path,
        neighbor.extended_next_hop,
        neighbor.password_file,
        neighbor.ttl_security,
        neighbor.ebgp_multihop,
    )


def local_side(config: Bgp) -> Local:
    own = [parse_address(text) for text in config.next_hops]
    return Local(
        asn=config.local_as,
        router_id=int.from_bytes(parse_address(config.router_id), "big"),
        next_hops={family_of(address): address for address in own},
    )


def own_identity(local: Local, *, passes_on: bool = True) -> Own:
    """The router id serves as cluster id, too (RFC 4456 §7)."""
    asn = local.asn if passes_on else None
    return Own(asn=asn, router_id=local.router_id, cluster_id=local.router_id)

"""BGPPeers: which of them are this node's neighbours, and why the others are not. Pure.

Called by `programs.routing` whenever Nodes, BGPPeers, BFDProfiles or Secrets have changed. One
configuration file serves all nodes of a cluster, so who we are is decided here, too: `identify` for
name and router id, `plan` for the AS, which is the configuration's or else `myASN` of the BGPPeers
that select this node. Should these differ, the oldest is right (of one second, the first by name),
and those of another AS are refused: a speaker has one AS, and whoever adds a BGPPeer with a slip in
it must not end the sessions of the others. A BGPPeer that has another reason to be refused counts
all the same, so that the AS does not change when, say, its Secret comes.

What is written in the configuration stands as it is written. A BGPPeer that cannot be a neighbour
has its reason (`Row`), which `status` shows; it disturbs no other. One that is a neighbour stays
one, as it is, when its Secret or BFDProfile is deleted: that ends no session. Passwords go into
files, which `programs.passwords` writes: here they have names only.

Not done: keepaliveTime (keepalives go every third of the agreed hold time, RFC 4271 §4.4; another
wish is noted), several router ids or AS on one node.

Standards: MetalLB's BGPPeer for the vocabulary; RFC 6286 (router id), RFC 2385 (passwords), RFC
4724 (graceful restart), RFC 5880 (BFD).
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from samepath.model.cluster import Cluster
from samepath.model.config import AgentConfig, Kubernetes
from samepath.model.kinds import BGPPeer, any_selects
from samepath.model.neighbor import BfdProfile, Import, Neighbor
from samepath.model.net import Address, address_text, family_of, parse_address
from samepath.plan.proxy import cluster_prefixes

PASSWORDS = "passwords"
"""The folder of `run_dir` for the files of passwords, each by its BGPPeer's name."""
MULTI_HOP_TTL = 255
CONNECT_RETRY_S = 5
RESTART_S = 120
PASSWORD_OCTETS = 80
BFD_LEAST_MS = 50
"""Shorter intervals take bfdd."""


class WhyNot(enum.Enum):
    """Why a BGPPeer is no neighbour of this node."""

    NEIGHBOR = ""
    """It is one."""
    NODE_UNKNOWN = "our Node object is not known, so it is not known whether it selects us"
    NOT_SELECTED = "its nodeSelectors do not select this node"
    OTHER_AS = "its myASN is another AS than this node's"
    OTHER_ROUTER_ID = "its routerID is another than this node's, which has one for all neighbours"
    CONFIGURED = "the configuration has a neighbour with this address, which stands"
    OWN_ADDRESS = "its peerAddress is our own"
    DUPLICATE = "an older BGPPeer has this address, too"
    OTHER_FAMILY = "its sourceAddress is of another family than its peerAddress"
    NO_BFD_PROFILE = "there is no such BFDProfile"
    BFD_TOO_SHORT = f"its BFDProfile has intervals below {BFD_LEAST_MS} ms, which take bfdd"
    NO_SECRET = "its Secret is not there, or has no password"
    BAD_PASSWORD = f"a password has 1 to {PASSWORD_OCTETS} octets, and one line"
    IN_RANGE = "a configured range that contains it has a password, and it has none"
    INVALID = "its values do not go together"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Row:
    peer: str
    """Name of the BGPPeer."""
    address: Address
    why: WhyNot
    detail: str = ""
    """Which profile, Secret or AS the reason is about."""
    note: str = ""
    """Of a neighbour: what it asks for and does not get."""

    @property
    def text(self) -> str:
        """For people; empty for a neighbour."""
        return f"{self.why.value} ({self.detail})" if self.detail else self.why.value


@dataclass(frozen=True, slots=True)
class Plan:
    asn: int = 0
    """Of this node; 0: nobody has said, so there are no sessions."""
    asn_from: str = ""
    """The BGPPeer that says so; empty: the configuration."""
    rows: tuple[Row, ...] = ()
    neighbors: tuple[Neighbor, ...] = ()
    bfd_profiles: Mapping[str, BfdProfile] = field(default_factory=dict)
    """Those that `neighbors` name."""
    names: Mapping[str, str] = field(default_factory=dict)
    """`Neighbor.name` -> name of its BGPPeer."""
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By the BGPPeer's name: what the files hold that `neighbors` name."""


def identify(config: AgentConfig, node: str = "", node_ip: str = "") -> AgentConfig:
    """`config` with the node's name and router id. What the configuration says stands. `node_ip`:
    the node's first address, as Kubernetes has it. Raises ValueError."""
    name = config.node or node
    if not name:
        raise ValueError("node: not in the configuration, and neither --node nor SAMEPATH_NODE")
    router_id = config.router_id
    if not router_id and node_ip and len(parse_address(node_ip)) == 4:
        router_id = node_ip
    return msgspec.structs.replace(config, node=name, router_id=router_id or made_router_id(name))


def made_router_id(name: str) -> str:
    """Any number but 0 that no other speaker of the AS has (RFC 6286 §2.1): with 1,000 nodes two
    have the same once in 8,600 clusters."""
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return address_text(digest if any(digest) else b"\0\0\0\1")


def plan(
    config: AgentConfig,
    cluster: Cluster,
    labels: Mapping[str, str] | None,
    own: Collection[Address] = (),
    former: Plan | None = None,
) -> Plan:
    """`config`: identified. `labels`: of our Node, as they were last seen; None: never. `own`: our
    addresses. `former`: what stands."""
    peers = sorted(cluster.peers.values(), key=lambda peer: (peer.created, peer.name))
    selected = [peer for peer in peers if _selects(peer, labels)]
    first = selected[0] if selected and not config.local_as else None
    asn = config.local_as if first is None else first.my_asn
    choice = _Choice(config, cluster, asn, frozenset(own), former or Plan())
    rows = []
    for peer in peers:
        if not _selects(peer, labels):
            why = WhyNot.NODE_UNKNOWN if labels is None else WhyNot.NOT_SELECTED
            rows.append(Row(peer.name, peer.peer_address, why))
        else:
            rows.append(choice.take(peer))
    return Plan(
        asn=asn,
        asn_from="" if first is None else first.name,
        rows=tuple(sorted(rows, key=lambda row: row.peer)),
        neighbors=tuple(choice.neighbors[name] for name in sorted(choice.neighbors)),
        bfd_profiles=choice.profiles,
        names={n.name: peer for peer, n in choice.neighbors.items()},
        passwords=choice.passwords,
    )


def _selects(peer: BGPPeer, labels: Mapping[str, str] | None) -> bool:
    if labels is None:
        return not peer.node_selectors
    return any_selects(peer.node_selectors, labels)


class _Choice:
    """The BGPPeers that select us, one after the other."""

    def __init__(
        self,
        config: AgentConfig,
        cluster: Cluster,
        asn: int,
        own: frozenset[Address],
        former: Plan,
    ) -> None:
        self.config = config
        self.cluster = cluster
        self.asn = asn
        self.own = own
        self.former = former
        self.lost: dict[str, dict[str, None]] = {}
        """Of neighbours, by the BGPPeer: what they need that is gone."""
        self.neighbors: dict[str, Neighbor] = {}
        self.profiles: dict[str, BfdProfile] = {}
        self.passwords: dict[str, str] = {}
        self.pods = config.cluster_cidrs or cluster_prefixes(cluster)
        self._taken = {parse_address(n.address) for n in config.neighbors if n.address}
        self._configured = frozenset(self._taken)

    def take(self, peer: BGPPeer) -> Row:
        why, detail = self._why_not(peer)
        if why is WhyNot.NEIGHBOR:
            why, detail = self._make(peer)
        notes = [*self.lost.get(peer.name, ()), *_notes(peer)]
        note = "; ".join(notes) if why is WhyNot.NEIGHBOR else ""
        return Row(peer.name, peer.peer_address, why, detail, note)

    def _why_not(self, peer: BGPPeer) -> tuple[WhyNot, str]:
        address, source = peer.peer_address, peer.source_address
        if peer.my_asn != self.asn:
            return WhyNot.OTHER_AS, f"{peer.my_asn}, not {self.asn}"
        if peer.router_id is not None and peer.router_id != parse_address(self.config.router_id):
            text = f"{address_text(peer.router_id)}, not {self.config.router_id}"
            return WhyNot.OTHER_ROUTER_ID, text
        if address in self._configured:
            return WhyNot.CONFIGURED, ""
        if address in self.own:
            return WhyNot.OWN_ADDRESS, ""
        if address in self._taken:
            return WhyNot.DUPLICATE, ""
        if source is not None and family_of(source) is not family_of(address):
            return WhyNot.OTHER_FAMILY, ""
        return self._why_no_profile(peer)

    def _why_no_profile(self, peer: BGPPeer) -> tuple[WhyNot, str]:
        name = peer.bfd_profile
        if name is None or name in self.config.bfd_profiles:
            return WhyNot.NEIGHBOR, ""
        profile = self._profile(peer.name, name)
        if profile is None:
            return WhyNot.NO_BFD_PROFILE, name
        shortest_ms = min(profile.receive_interval_ms, profile.transmit_interval_ms)
        if shortest_ms < BFD_LEAST_MS and self.config.bfdd is None:
            return WhyNot.BFD_TOO_SHORT, name
        return WhyNot.NEIGHBOR, ""

    def _profile(self, peer: str, name: str) -> BfdProfile | None:
        known = self.cluster.bfd_profiles.get(name)
        if known is not None:
            return known.profile
        neighbor = next(
            (n for n in self.former.neighbors if self.former.names[n.name] == peer), None
        )
        if neighbor is None or neighbor.bfd != name:
            return None
        self._lose(peer, f"BFDProfile {name} is gone: the session goes on with what it said")
        return self.former.bfd_profiles.get(name)

    def _lose(self, peer: str, text: str) -> None:
        self.lost.setdefault(peer, {})[text] = None

    def _make(self, peer: BGPPeer) -> tuple[WhyNot, str]:
        password, why = self._password(peer)
        if why is not WhyNot.NEIGHBOR:
            return why, peer.password_secret or ""
        try:
            neighbor = _neighbor(peer, self.config, self.pods, has_password=password is not None)
        except ValueError as error:
            return WhyNot.INVALID, str(error)
        try:
            # The rules between neighbours are the configuration's own.
            msgspec.structs.replace(self._bare, neighbors=[*self.config.neighbors, neighbor])
        except ValueError:
            return WhyNot.IN_RANGE, ""
        self._taken.add(peer.peer_address)
        self.neighbors[peer.name] = neighbor
        if password is not None:
            self.passwords[peer.name] = password
        if peer.bfd_profile is not None and peer.bfd_profile not in self.config.bfd_profiles:
            profile = self._profile(peer.name, peer.bfd_profile)
            assert profile is not None
            self.profiles[peer.bfd_profile] = profile
        return WhyNot.NEIGHBOR, ""

    @property
    def _bare(self) -> AgentConfig:
        """For that check the profiles do not matter: all that are named are known by now."""
        known = {name: p.profile for name, p in self.cluster.bfd_profiles.items()}
        known = {**self.former.bfd_profiles, **known}
        return msgspec.structs.replace(
            self.config, bfd_profiles={**known, **self.config.bfd_profiles}, bfdd="any"
        )

    def _password(self, peer: BGPPeer) -> tuple[str | None, WhyNot]:
        text = peer.password
        if peer.password_secret is not None:
            namespace = (self.config.kubernetes or Kubernetes()).namespace
            secret = self.cluster.secrets.get(f"{namespace}/{peer.password_secret}")
            text = secret.password if secret is not None else None
            if secret is None and peer.name in self.former.passwords:
                text = self.former.passwords[peer.name]
                name = peer.password_secret
                self._lose(peer.name, f"Secret {name} is gone: the session keeps its password")
            if not text:
                return None, WhyNot.NO_SECRET
        if text is None:
            return None, WhyNot.NEIGHBOR
        # A Secret that was made of a file most often ends with a newline.
        text = text.removesuffix("\n").removesuffix("\r")
        if not 1 <= len(text.encode()) <= PASSWORD_OCTETS or "\n" in text:
            return None, WhyNot.BAD_PASSWORD
        return text, WhyNot.NEIGHBOR


def _neighbor(
    peer: BGPPeer, config: AgentConfig, pods: Iterable[str], *, has_password: bool
) -> Neighbor:
    """`pods`: prefixes of all pods' addresses. Raises ValueError."""
    family = family_of(peer.peer_address)
    path = f"{config.run_dir}/{PASSWORDS}/{peer.name}"
    return Neighbor(
        address=address_text(peer.peer_address),
        remote_as=peer.peer_asn,  # type: ignore[arg-type]  # a text is external or internal
        port=peer.peer_port,
        local_address=None if peer.source_address is None else address_text(peer.source_address),
        families=[family.label] if peer.disable_mp else ["ipv4", "ipv6"],  # type: ignore[list-item]
        hold_time_s=peer.hold_time_s,
        connect_retry_s=peer.connect_time_s or CONNECT_RETRY_S,
        graceful_restart_s=RESTART_S if peer.graceful_restart else 0,
        ebgp_multihop=MULTI_HOP_TTL if peer.ebgp_multi_hop else 1,
        password_file=path if has_password else None,
        bfd=peer.bfd_profile,
        import_=config.peer_import or Import(pods=list(pods)),
    )


def _notes(peer: BGPPeer) -> list[str]:
    notes = []
    keepalive_s = peer.keepalive_time_s
    if keepalive_s is not None and keepalive_s * 3 != peer.hold_time_s:
        notes.append(f"keepaliveTime {keepalive_s} s: they go every third of the hold time")
    if not peer.graceful_restart:
        notes.append("enableGracefulRestart is false: it drops our paths when the agent restarts")
    return notes

"""Who is in the lab, and every address there: a pure function of a short description.

    client1..  ──  upstream (somebody else's)  ──  gw1, gw2  ──  fabric (one bridge)  ──  n1..
                                                                                  │ its pods

`Spec` is what `--topology FILE` may say; `Topology` is what follows from it. `lab.build` makes it,
`lab.render` writes the configurations, `lab.scenario` acts on it. All addresses are for
documentation or private (RFC 5737, RFC 3849, RFC 1918) and exist in the lab's own namespaces alone.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import yaml

GATEWAY_AS = 64512
UPSTREAM_AS = 65000
SERVICE_POOLS = ("203.0.113.0/24", "2001:db8:113::/48")
SERVICE_ADDRESSES = ("203.0.113.10", "2001:db8:113::10")
SERVICE_PORT = 80
POD_PORT = 8080
SEGMENT = ("10.83.0.0/24", "2001:db8:83::/64")
POD_POOLS = ("10.244.0.0/16", "2001:db8:244::/48")
BLOCK_SIZES = (26, 122)
Speaker = Literal["agent", "frr", "bird", "gobgp"]
Source = Literal["manifests", "api-server"]
API_PORT = 6443
CLUSTER_ADDRESSES = ("10.96.0.10", "2001:db8:96::10")


class Spec(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A lab in a few numbers."""

    clients: int = 3
    addresses_per_client: int = 4
    """Source addresses of each client, per family: more ports, more entropy in the hash."""
    gateways: int = 2
    nodes: int = 4
    spares: int = 2
    """Nodes that are cabled but have no agent yet; `add` takes the first."""
    pods_per_node: int = 2
    grace_s: float = 6.0
    """terminationGracePeriodSeconds of the pods."""
    upstream: Literal["bird"] = "bird"
    speaker: Speaker = "agent"
    """Who speaks BGP on the nodes: our agent, or another daemon configured as MetalLB's (FRR),
    Calico's (BIRD) or Cilium's and kube-router's (GoBGP); `lab.foreign`."""
    source: Source = "manifests"
    """Where agents have the cluster's objects from: a folder, or an API server of the lab's own, in
    a namespace `cp` beside the nodes (`lab.cluster`)."""
    hold_time_s: int = 9
    buckets: int = 1021
    idle_timer_s: float = 30.0
    transition_idle_s: float = 90.0
    """Of the BPF data plane: longer than any step in which connections are silent."""
    hash_seed: int = 0x5A3E9A11
    upstream_hash_seed: int = 0x0DDBA115
    """Another one than the gateways': else one gateway's flows would use half of its buckets."""

    def __post_init__(self) -> None:
        limits = (("clients", 1, 12), ("addresses_per_client", 1, 12), ("gateways", 1, 8),
                  ("nodes", 1, 64), ("spares", 0, 16), ("pods_per_node", 0, 16),
                  ("hold_time_s", 3, 240), ("buckets", 1, 4093))  # fmt: skip
        for name, low, high in limits:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}: {low} to {high}, not {value}")
        for name in ("idle_timer_s", "transition_idle_s", "grace_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: more than 0, not {getattr(self, name)}")
        if self.hash_seed == self.upstream_hash_seed:
            raise ValueError("upstream_hash_seed: another one than hash_seed")


@dataclass(frozen=True, slots=True)
class Client:
    """Holds connections. Its first address of each family also numbers its link."""

    name: str
    addresses4: tuple[str, ...]
    addresses6: tuple[str, ...]
    upstream4: str
    upstream6: str


@dataclass(frozen=True, slots=True)
class Gateway:
    """A Samepath gateway: `up0` to the upstream router, `seg0` to the nodes."""

    name: str
    segment4: str
    segment6: str
    uplink4: str
    uplink6: str
    upstream4: str
    """The upstream router's end of the uplink."""
    upstream6: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node: `seg0` to the bridge, and a link to each pod, which the plugin makes."""

    name: str
    spare: bool
    segment4: str
    segment6: str


@dataclass(frozen=True, slots=True)
class Control:
    """Where the API server runs: `seg0` to the bridge."""

    name: str
    segment4: str
    segment6: str


@dataclass(frozen=True, slots=True)
class Pod:
    """One endpoint of the service, in a namespace of its own; its addresses are the plugin's."""

    name: str
    node: str
    address4: str
    address6: str


@dataclass(frozen=True, slots=True)
class Topology:
    """All hosts but the pods, which come and go."""

    spec: Spec
    clients: tuple[Client, ...]
    gateways: tuple[Gateway, ...]
    nodes: tuple[Node, ...]
    """The working ones first, then the spares."""
    control: Control | None = None
    """None: the objects are in a folder."""

    @property
    def working(self) -> tuple[Node, ...]:
        return tuple(n for n in self.nodes if not n.spare)

    @property
    def spares(self) -> tuple[Node, ...]:
        return tuple(n for n in self.nodes if n.spare)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of all namespaces but the pods'."""
        return (
            "upstream",
            "fabric",
            *(c.name for c in self.clients),
            *(g.name for g in self.gateways),
            *(n.name for n in self.nodes),
            *((self.control.name,) if self.control else ()),
        )

    def node(self, name: str) -> Node:
        return next(n for n in self.nodes if n.name == name)

    def gateway(self, name: str) -> Gateway:
        return next(g for g in self.gateways if g.name == name)

    def node_of_address(self, address: str) -> str | None:
        """The node with this segment address, either family."""
        for node in self.nodes:
            if address in (node.segment4, node.segment6):
                return node.name
        return None


def topology(spec: Spec) -> Topology:
    return Topology(
        spec=spec,
        clients=tuple(_client(i, spec.addresses_per_client) for i in range(1, spec.clients + 1)),
        gateways=tuple(_gateway(i) for i in range(1, spec.gateways + 1)),
        nodes=tuple(_node(i, spare=i > spec.nodes) for i in range(1, spec.nodes + spec.spares + 1)),
        control=None if spec.source == "manifests" else _control(),
    )


def read_spec(
    file: Path | None, speaker: Speaker | None = None, source: Source | None = None
) -> Spec:
    """The description in a YAML file, with another speaker or source where one is given. Raises
    ValueError that names the file and the field."""
    words = {"speaker": speaker, "source": source}
    given = {name: word for name, word in words.items() if word is not None}
    if file is None:
        return msgspec.convert(given, Spec)
    try:
        return msgspec.convert((yaml.safe_load(file.read_text()) or {}) | given, Spec)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ValueError(f"{file}: {error}") from error


def _nth(prefix: str, number: int) -> str:
    return str(ipaddress.ip_network(prefix)[number])


def _client(index: int, count: int) -> Client:
    four = f"198.51.100.{16 * index}/28"
    six = f"2001:db8:c:{index}::/64"
    return Client(
        name=f"client{index}",
        addresses4=tuple(_nth(four, 2 + i) for i in range(count)),
        addresses6=tuple(_nth(six, 2 + i) for i in range(count)),
        upstream4=_nth(four, 1),
        upstream6=_nth(six, 1),
    )


def _gateway(index: int) -> Gateway:
    four = f"192.0.2.{4 * index}/30"
    six = f"2001:db8:f:{index}::/64"
    return Gateway(
        name=f"gw{index}",
        segment4=_nth(SEGMENT[0], index),
        segment6=_nth(SEGMENT[1], index),
        upstream4=_nth(four, 1),
        upstream6=_nth(six, 1),
        uplink4=_nth(four, 2),
        uplink6=_nth(six, 2),
    )


def _control() -> Control:
    return Control("cp", _nth(SEGMENT[0], 9), _nth(SEGMENT[1], 9))


def _node(index: int, *, spare: bool) -> Node:
    return Node(
        name=f"n{index}",
        spare=spare,
        segment4=_nth(SEGMENT[0], 10 + index),
        segment6=_nth(SEGMENT[1], 0x100 + index),
    )

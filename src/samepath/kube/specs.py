"""The shapes of the kinds of our own group: every field, its type, its limits and its default.

Called by `kube.kinds`, which reads objects of these shapes, and by `kube.crds`, which derives the
schemas of the CustomResourceDefinitions from them: so parser and API server know the same fields.
A field that is not here is refused. Field names are MetalLB's (BGPPeer, BGPAdvertisement,
IPAddressPool, BFDProfile, Community) and Calico's (IPPool); GatewayTier and BlockClaim are ours.

What a text is (`kube.texts`) and rules between fields are not the shapes' matter: the parser has
them in `kube.kinds`, the API server as CEL by `kube.crds`. Everything has a limit, without which
the API server could not say what a rule costs at most.

Standards: Kubernetes API, apimachinery's LabelSelector; metav1.Duration.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from samepath.kube.reading import Metadata, Part
from samepath.kube.texts import Is


def _text(what: Is, longest: int) -> Meta:
    return Meta(min_length=1, max_length=longest, extra={"is": what})


Name = Annotated[str, _text(Is.NAME, 253)]
LabelKey = Annotated[str, _text(Is.LABEL_KEY, 317)]
LabelValue = Annotated[str, Meta(max_length=63, extra={"is": Is.LABEL_VALUE})]
AddressText = Annotated[str, _text(Is.ADDRESS, 45)]
RouterId = Annotated[str, _text(Is.ROUTER_ID, 15)]
PrefixText = Annotated[str, _text(Is.PREFIX, 49)]
AddressesText = Annotated[str, _text(Is.ADDRESSES, 93)]
DurationText = Annotated[str, _text(Is.DURATION, 32)]
CommunityText = Annotated[str, _text(Is.COMMUNITY, 38)]
CommunityOrName = Annotated[str, _text(Is.COMMUNITY_OR_NAME, 253)]
Alias = Annotated[str, _text(Is.ALIAS, 253)]

Labels = Annotated[dict[LabelKey, LabelValue], Meta(max_length=64)]
Asn = Annotated[int, Meta(ge=1, le=4294967294)]
PortNumber = Annotated[int, Meta(ge=1, le=65535)]
Milliseconds = Annotated[int, Meta(ge=10, le=60000)]
Uint32 = Annotated[int, Meta(ge=0, le=4294967295)]
Count = Annotated[int, Meta(ge=0)]


class Spec(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of ours: a field that is not known is refused."""


class Expression(Spec, frozen=True, kw_only=True):
    """apimachinery LabelSelectorRequirement."""

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Annotated[list[LabelValue], Meta(max_length=64)] | None = None


class LabelSelector(Spec, frozen=True, kw_only=True):
    match_labels: Labels | None = None
    match_expressions: Annotated[list[Expression], Meta(max_length=16)] | None = None


Selectors = Annotated[list[LabelSelector], Meta(max_length=16)]
Names = Annotated[list[Name], Meta(max_length=256)]


class SecretReference(Spec, frozen=True, kw_only=True):
    # MetalLB's own client writes an empty reference where there is none.
    name: Annotated[str, Meta(max_length=253, extra={"is": Is.NAME_OR_NONE})] = ""
    namespace: Annotated[str, Meta(max_length=63)] | None = None


HOLD_TIME = "90s"
"""Of a BGPPeer; RFC 4271 §10."""


class BGPPeerSpec(Spec, frozen=True, kw_only=True):
    my_asn: Asn = field(name="myASN")
    peer_asn: Annotated[int, Meta(ge=0, le=4294967294)] | None = field(name="peerASN", default=None)
    dynamic_asn: Literal["external", "internal"] | None = field(name="dynamicASN", default=None)
    peer_address: AddressText
    peer_port: PortNumber = 179
    source_address: AddressText | None = None
    hold_time: DurationText = HOLD_TIME
    keepalive_time: DurationText | None = None
    connect_time: DurationText | None = None
    router_id: RouterId | None = field(name="routerID", default=None)
    node_selectors: Selectors | None = None
    password: Annotated[str, Meta(max_length=80)] | None = None
    password_secret: SecretReference | None = None
    bfd_profile: Annotated[str, Meta(max_length=253, extra={"is": Is.NAME_OR_NONE})] | None = None
    enable_graceful_restart: bool = True
    ebgp_multi_hop: bool = False
    disable_mp: bool = field(name="disableMP", default=False)
    dual_stack_address_family: bool | None = None
    interface: Annotated[str, Meta(max_length=15)] | None = None
    vrf: Annotated[str, Meta(max_length=64)] | None = None

    def __repr__(self) -> str:
        return f"BGPPeerSpec(peer_address={self.peer_address!r}, ...)"


class BGPAdvertisementSpec(Spec, frozen=True, kw_only=True):
    ip_address_pools: Names | None = None
    ip_address_pool_selectors: Selectors | None = None
    aggregation_length: Annotated[int, Meta(ge=1, le=32)] = 32
    aggregation_length_v6: Annotated[int, Meta(ge=1, le=128)] = field(
        name="aggregationLengthV6", default=128
    )
    local_pref: Uint32 | None = None
    communities: Annotated[list[CommunityOrName], Meta(max_length=64)] | None = None
    node_selectors: Selectors | None = None
    peers: Names | None = None
    service_selectors: Selectors | None = None
    drain_deadline: DurationText | None = None


class ServiceAllocation(Spec, frozen=True, kw_only=True):
    priority: Annotated[int, Meta(ge=0, le=2147483647)] = 0
    namespaces: Names | None = None
    namespace_selectors: Selectors | None = None
    service_selectors: Selectors | None = None


class IPAddressPoolSpec(Spec, frozen=True, kw_only=True):
    addresses: Annotated[list[AddressesText], Meta(min_length=1, max_length=256)]
    auto_assign: bool = True
    avoid_buggy_ips: bool = field(name="avoidBuggyIPs", default=False)
    service_allocation: ServiceAllocation | None = None


class IPPoolSpec(Spec, frozen=True, kw_only=True):
    cidr: PrefixText
    block_size: Annotated[int, Meta(ge=0, le=128)] | None = None
    nat_outgoing: bool = False
    disabled: bool = False
    node_selector: Annotated[str, Meta(max_length=8192)] = "all()"


class BFDProfileSpec(Spec, frozen=True, kw_only=True):
    receive_interval: Milliseconds = 300
    transmit_interval: Milliseconds = 300
    detect_multiplier: Annotated[int, Meta(ge=2, le=255)] = 3
    passive_mode: bool = False
    minimum_ttl: Annotated[int, Meta(ge=1, le=254)] = 254
    echo_interval: Milliseconds | None = None
    echo_mode: bool = False


class CommunityAlias(Spec, frozen=True, kw_only=True):
    name: Alias
    value: CommunityText


class CommunitySpec(Spec, frozen=True, kw_only=True):
    communities: Annotated[list[CommunityAlias], Meta(max_length=256)] | None = None


class GatewayTierSpec(Spec, frozen=True, kw_only=True):
    buckets: Annotated[int, Meta(ge=1, le=4093)] | None = None
    hash_seed: Annotated[int, Meta(ge=1, le=4294967295)] | None = None
    idle_timer: DurationText | None = None
    move_deadline: DurationText | None = None
    transition_idle: DurationText | None = None
    transition_deadline: DurationText | None = None


class BlockClaimSpec(Spec, frozen=True, kw_only=True):
    cidr: PrefixText
    node: Name


# -- The objects ------------------------------------------------------------------------------


class BGPPeer(Part, frozen=True, kw_only=True):
    metadata: Metadata
    spec: BGPPeerSpec


class BGPAdvertisement(Part, frozen=True, kw_only=True):
    metadata: Metadata
    spec: BGPAdvertisementSpec = BGPAdvertisementSpec()


class IPAddressPool(Part, frozen=True, kw_only=True):
    metadata: Metadata
    spec: IPAddressPoolSpec


class IPPool(Part, frozen=True, kw_only=True):
    metadata: Metadata
    spec: IPPoolSpec


class BFDProfile(Part, frozen=True, kw_only=True):
    metadata: Metadata
    spec: BFDProfileSpec = BFDProfileSpec()


class Community(Part, frozen=True, kw_only=True):
    metadata: Metadata
    spec: CommunitySpec = CommunitySpec()


class GatewayTier(Part, frozen=True, kw_only=True):
    metadata: Metadata
    spec: GatewayTierSpec = GatewayTierSpec()


class BlockClaim(Part, frozen=True, kw_only=True):
    metadata: Metadata
    spec: BlockClaimSpec

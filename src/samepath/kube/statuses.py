"""The shapes of what we write into the status of our own kinds: the counterpart of `kube.specs`.

Called by `kube.crds`, which derives the schemas from them; the controller and the agents write
plain data of these shapes. Field names are MetalLB's (IPAddressPool, ServiceBGPStatus,
BGPSessionState) where it has them.

Standards: Kubernetes API conventions; apimachinery metav1.Condition.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from samepath.kube.specs import AddressText, Count, Name, Spec

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Sentence = Annotated[str, Meta(max_length=1024)]
Called = Annotated[str, Meta(min_length=1, max_length=253)]
"""The name of a BGPPeer, or a neighbour's address."""
Amount = Annotated[Count, Meta(le=9223372036854775807)]
"""As many as an int64 holds, or more."""


class Condition(Spec, frozen=True, kw_only=True):
    type: Annotated[str, Meta(min_length=1, max_length=316)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Meta(max_length=1024)]
    message: Annotated[str, Meta(max_length=32768)]
    last_transition_time: Time
    observed_generation: Count | None = None


class IPAddressPoolStatus(Spec, frozen=True, kw_only=True):
    assigned_ipv4: Amount = field(name="assignedIPv4", default=0)
    assigned_ipv6: Amount = field(name="assignedIPv6", default=0)
    available_ipv4: Amount = field(name="availableIPv4", default=0)
    available_ipv6: Amount = field(name="availableIPv6", default=0)
    conditions: Annotated[list[Condition], Meta(max_length=16)] | None = None


class ServiceBGPStatusStatus(Spec, frozen=True, kw_only=True):
    node: Name | None = None
    service_name: Name | None = None
    service_namespace: Name | None = None
    peers: Annotated[list[Called], Meta(max_length=1024)] | None = None
    state: Literal["active", "draining"] | None = None
    reason: Sentence | None = None
    addresses: Annotated[list[AddressText], Meta(max_length=256)] | None = None


class BGPSessionStateStatus(Spec, frozen=True, kw_only=True):
    node: Name | None = None
    peer: AddressText | None = None
    bgp_status: Sentence | None = None
    bfd_status: Sentence | None = None
    local_asn: Count | None = field(name="localASN", default=None)
    peer_asn: Count | None = field(name="peerASN", default=None)
    since: Time | None = None

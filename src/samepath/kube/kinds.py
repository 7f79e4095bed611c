"""The kinds of our own group, from their shapes (`kube.specs`) to the vocabulary of `model.kinds`.

Called by `kube.objects` for objects of any source. A field that is not known, or that asks for what
we do not do (`vrf`, `interface`, `echoMode`), is refused by its name: better no neighbour than
another one than was meant. Values that MetalLB takes for "nothing" are nothing here, too.

All of these kinds are cluster-scoped; a namespace in `metadata` does not count. The name of a
BlockClaim follows from its block (`claim_name`), which makes the API server the judge of who was
first.

Not done here: what depends on other objects (a profile that is not there, overlapping pools).

Standards: MetalLB's API metallb.io/v1beta1 and v1beta2, Calico's IPPool, for the fields' meaning;
RFC 4271 §4.2 (hold time).
"""

from __future__ import annotations

import math
import re

from samepath.kube import specs, values
from samepath.kube.reading import Context, Reader, duration_s, each, one, prefix, unicast_prefix
from samepath.model import cluster, kinds
from samepath.model.neighbor import BfdProfile
from samepath.model.net import Family, Nlri, prefix_text
from samepath.model.selector import SelectorError, parse

GROUP = "samepath.dev/v1"

PENDING = "samepath.dev/pending"
"""Annotation of a BlockClaim that is not yet compared with all others."""

BLOCK_SIZE = {Family.IPV4: 26, Family.IPV6: 122}
"""Unless the pool says otherwise; a pool that is smaller is one block."""
BLOCK_BITS = 16
"""A block has at most 2 to the power of so many addresses: /16 and /112."""


# -- Names of claims --------------------------------------------------------------------------


def claim_name(family: Family, nlri: Nlri) -> str:
    """The BlockClaim's name: `10-1-0-64-26` of 10.1.0.64/26, `fd00-1---122` of fd00:1::/122."""
    text = prefix_text(family, nlri)
    # A name begins with a letter or a digit.
    text = f"0{text}" if text.startswith(":") else text
    return re.sub(r"[.:/]", "-", text)


def claim_block(name: str) -> tuple[Family, Nlri]:
    """The block of a claim of that name, the inverse of `claim_name`. Raises ValueError."""
    body, _, length = name.rpartition("-")
    is_ipv4 = body.count("-") == 3 and "--" not in body
    try:
        found = prefix(f"{body.replace('-', '.' if is_ipv4 else ':')}/{length}")
    except ValueError as error:
        raise ValueError(f"{name!r} is no name of a block's claim") from error
    if claim_name(*found) != name:
        raise ValueError(f"{name!r} should be {claim_name(*found)!r}")
    return found


# -- Kinds of MetalLB's vocabulary ------------------------------------------------------------


def read_peer(peer: specs.BGPPeer, context: Context) -> kinds.BGPPeer:
    spec = peer.spec
    _refuse_what_is_not_done(spec, context)
    secret = _secret(spec, context)
    if spec.password and secret:
        raise context.error("spec.passwordSecret", "either this or password, not both")
    if spec.disable_mp and spec.dual_stack_address_family:
        raise context.error("spec.dualStackAddressFamily", "disableMP says the opposite")
    hold_s, keepalive_s = _session_times(spec, context)
    source = None
    address = one(context, "spec.peerAddress", spec.peer_address, values.session_address)
    if spec.source_address is not None:
        source = one(context, "spec.sourceAddress", spec.source_address, values.session_address)
        if len(source) != len(address):
            raise context.error("spec.sourceAddress", "not of the family of peerAddress")
    router_id = None
    if spec.router_id is not None:
        router_id = one(context, "spec.routerID", spec.router_id, values.router_id)
    return kinds.BGPPeer(
        name=peer.metadata.name,
        my_asn=spec.my_asn,
        peer_asn=_peer_asn(spec, context),
        peer_address=address,
        source_address=source,
        peer_port=spec.peer_port,
        hold_time_s=hold_s,
        keepalive_time_s=keepalive_s,
        connect_time_s=_connect_time_s(spec, context),
        router_id=router_id,
        node_selectors=values.selectors(context, "spec.nodeSelectors", spec.node_selectors),
        password=_password(spec, context),
        password_secret=secret,
        bfd_profile=_bfd_profile(spec, context),
        graceful_restart=spec.enable_graceful_restart,
        ebgp_multi_hop=spec.ebgp_multi_hop,
        disable_mp=spec.disable_mp or spec.dual_stack_address_family is False,
        created=peer.metadata.creation_timestamp or "",
    )


def _refuse_what_is_not_done(spec: specs.BGPPeerSpec, context: Context) -> None:
    if spec.vrf:
        raise context.error("spec.vrf", "VRFs are not supported: the session is in the main table")
    if spec.interface:
        raise context.error(
            "spec.interface", "sessions without addresses are not supported: give peerAddress"
        )


def _peer_asn(spec: specs.BGPPeerSpec, context: Context) -> int | str:
    # 0 is what MetalLB's own API writes for none.
    if bool(spec.peer_asn) == bool(spec.dynamic_asn):
        field = "spec.dynamicASN" if spec.dynamic_asn else "spec.peerASN"
        raise context.error(field, "exactly one of peerASN and dynamicASN is given")
    return spec.peer_asn or spec.dynamic_asn or 0


def _password(spec: specs.BGPPeerSpec, context: Context) -> str | None:
    if spec.password and len(spec.password.encode()) > 80:
        raise context.error("spec.password", "more than 80 octets")
    return spec.password or None


def _secret(spec: specs.BGPPeerSpec, context: Context) -> str | None:
    if spec.password_secret is None or not spec.password_secret.name:
        return None
    return one(context, "spec.passwordSecret.name", spec.password_secret.name, values.object_name)


def _bfd_profile(spec: specs.BGPPeerSpec, context: Context) -> str | None:
    if not spec.bfd_profile:
        return None
    return one(context, "spec.bfdProfile", spec.bfd_profile, values.object_name)


def _session_times(spec: specs.BGPPeerSpec, context: Context) -> tuple[int, int | None]:
    """Hold time and keepalive time in whole seconds, as BGP has them, rounded up."""
    hold_s = one(context, "spec.holdTime", spec.hold_time, duration_s)
    if hold_s and not 3 <= hold_s <= 65535:
        raise context.error("spec.holdTime", f"0s, or 3s to 65535s, not {spec.hold_time}")
    if spec.keepalive_time is None:
        return math.ceil(hold_s), None
    keepalive_s = one(context, "spec.keepaliveTime", spec.keepalive_time, duration_s)
    if keepalive_s > hold_s:
        raise context.error(
            "spec.keepaliveTime", f"{spec.keepalive_time} is longer than holdTime {spec.hold_time}"
        )
    if hold_s and not keepalive_s:
        raise context.error("spec.keepaliveTime", "0s only with holdTime 0s")
    return math.ceil(hold_s), math.ceil(keepalive_s) or None


def _connect_time_s(spec: specs.BGPPeerSpec, context: Context) -> int | None:
    if spec.connect_time is None:
        return None
    seconds = one(context, "spec.connectTime", spec.connect_time, duration_s)
    if not 1 <= seconds <= 65535:
        raise context.error("spec.connectTime", f"1s to 65535s, not {spec.connect_time}")
    return math.ceil(seconds)


def read_advertisement(
    advertisement: specs.BGPAdvertisement, context: Context
) -> kinds.BGPAdvertisement:
    spec = advertisement.spec
    communities = each(
        context, "spec.communities", spec.communities or [], values.community_or_name
    )
    if len(set(communities)) != len(communities):
        raise context.error("spec.communities", "a community stands twice")
    deadline_s = None
    if spec.drain_deadline is not None:
        deadline_s = one(context, "spec.drainDeadline", spec.drain_deadline, duration_s)
    return kinds.BGPAdvertisement(
        name=advertisement.metadata.name,
        ip_address_pools=values.names(context, "spec.ipAddressPools", spec.ip_address_pools),
        pool_selectors=values.selectors(
            context, "spec.ipAddressPoolSelectors", spec.ip_address_pool_selectors
        ),
        aggregation_length={
            Family.IPV4: spec.aggregation_length,
            Family.IPV6: spec.aggregation_length_v6,
        },
        local_pref=spec.local_pref,
        communities=tuple(communities),
        node_selectors=values.selectors(context, "spec.nodeSelectors", spec.node_selectors),
        peers=values.names(context, "spec.peers", spec.peers),
        service_selectors=values.selectors(
            context, "spec.serviceSelectors", spec.service_selectors
        ),
        drain_deadline_s=deadline_s,
    )


def read_address_pool(pool: specs.IPAddressPool, context: Context) -> kinds.IPAddressPool:
    spec = pool.spec
    allocation = None
    if spec.service_allocation is not None:
        given, at = spec.service_allocation, "spec.serviceAllocation"
        allocation = kinds.ServiceAllocation(
            priority=given.priority,
            namespaces=values.names(context, f"{at}.namespaces", given.namespaces),
            namespace_selectors=values.selectors(
                context, f"{at}.namespaceSelectors", given.namespace_selectors
            ),
            service_selectors=values.selectors(
                context, f"{at}.serviceSelectors", given.service_selectors
            ),
        )
    return kinds.IPAddressPool(
        name=pool.metadata.name,
        addresses=tuple(each(context, "spec.addresses", spec.addresses, values.address_range)),
        labels=pool.metadata.labels or {},
        auto_assign=spec.auto_assign,
        avoid_buggy_ips=spec.avoid_buggy_ips,
        allocation=allocation,
        created=pool.metadata.creation_timestamp or "",
    )


def read_bfd_profile(profile: specs.BFDProfile, context: Context) -> kinds.BFDProfile:
    spec = profile.spec
    if spec.echo_mode:
        raise context.error(
            "spec.echoMode",
            "there is no echo function: it detects nothing that short intervals do not",
        )
    made = BfdProfile(
        receive_interval_ms=spec.receive_interval,
        transmit_interval_ms=spec.transmit_interval,
        detect_multiplier=spec.detect_multiplier,
        passive=spec.passive_mode,
        minimum_ttl=spec.minimum_ttl,
    )
    return kinds.BFDProfile(name=profile.metadata.name, profile=made)


def read_community(community: specs.Community, context: Context) -> kinds.Community:
    aliases: dict[str, str] = {}
    for index, given in enumerate(community.spec.communities or []):
        path = f"spec.communities[{index}]"
        name = one(context, f"{path}.name", given.name, values.alias)
        if name in aliases:
            raise context.error(f"{path}.name", f"{name} stands twice")
        aliases[name] = one(context, f"{path}.value", given.value, values.community)
    return kinds.Community(name=community.metadata.name, aliases=aliases)


# -- Other kinds ------------------------------------------------------------------------------


def read_pool(pool: specs.IPPool, context: Context) -> cluster.IPPool:
    spec = pool.spec
    family, cidr = one(context, "spec.cidr", spec.cidr, unicast_prefix)
    size = spec.block_size
    if size is None:
        size = max(BLOCK_SIZE[family], cidr[0])
    least = max(cidr[0], family.bits - BLOCK_BITS)
    if not least <= size <= family.bits:
        raise context.error(
            "spec.blockSize",
            f"a block of {spec.cidr} is /{least} to /{family.bits} (within the pool, at most "
            f"{1 << BLOCK_BITS} addresses), not /{size}",
        )
    try:
        parse(spec.node_selector)
    except SelectorError as error:
        raise context.error("spec.nodeSelector", str(error)) from error
    return cluster.IPPool(
        name=pool.metadata.name,
        family=family,
        cidr=cidr,
        block_size=size,
        nat_outgoing=spec.nat_outgoing,
        disabled=spec.disabled,
        node_selector=spec.node_selector,
        created=pool.metadata.creation_timestamp or "",
    )


def read_tier(tier: specs.GatewayTier, context: Context) -> kinds.GatewayTier:
    spec = tier.spec

    def positive_s(path: str, text: str | None) -> float | None:
        if text is None:
            return None
        seconds = one(context, f"spec.{path}", text, duration_s)
        if not seconds:
            raise context.error(f"spec.{path}", "more than 0s")
        return seconds

    deadline_s = None
    if spec.move_deadline is not None:
        deadline_s = one(context, "spec.moveDeadline", spec.move_deadline, duration_s)
    return kinds.GatewayTier(
        name=tier.metadata.name,
        buckets=spec.buckets,
        hash_seed=spec.hash_seed,
        idle_timer_s=positive_s("idleTimer", spec.idle_timer),
        move_deadline_s=deadline_s,
        transition_idle_s=positive_s("transitionIdle", spec.transition_idle),
        transition_deadline_s=positive_s("transitionDeadline", spec.transition_deadline),
    )


def read_claim(claim: specs.BlockClaim, context: Context) -> kinds.BlockClaim:
    metadata = claim.metadata
    family, cidr = one(context, "spec.cidr", claim.spec.cidr, unicast_prefix)
    wanted = claim_name(family, cidr)
    if metadata.name != wanted:
        raise context.error("metadata.name", f"a claim of {claim.spec.cidr} is called {wanted}")
    return kinds.BlockClaim(
        name=metadata.name,
        family=family,
        cidr=cidr,
        node=one(context, "spec.node", claim.spec.node, values.object_name),
        pending=(metadata.annotations or {}).get(PENDING, "false") != "false",
        uid=metadata.uid or "",
        resource_version=metadata.resource_version or "",
    )


READERS: dict[str, Reader] = {
    "BGPPeer": Reader(GROUP, specs.BGPPeer, read_peer),
    "BGPAdvertisement": Reader(GROUP, specs.BGPAdvertisement, read_advertisement),
    "IPAddressPool": Reader(GROUP, specs.IPAddressPool, read_address_pool),
    "IPPool": Reader(GROUP, specs.IPPool, read_pool),
    "BFDProfile": Reader(GROUP, specs.BFDProfile, read_bfd_profile),
    "Community": Reader(GROUP, specs.Community, read_community),
    "GatewayTier": Reader(GROUP, specs.GatewayTier, read_tier),
    "BlockClaim": Reader(GROUP, specs.BlockClaim, read_claim),
}

__all__ = ["GROUP", "READERS", "claim_block", "claim_name"]

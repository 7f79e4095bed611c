"""Calico's BGPPeer and BGPConfiguration, as ours.

Called by `imports.calico`. A BGPPeer of Calico's names the nodes by one name or by a selector, and
the neighbour by its address and port; ours has label selectors and both apart. What Calico does on
every session without being asked (graceful restart, several hops) is asked for here.

Standards: projectcalico.org/v3 BGPPeer, BGPConfiguration.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from samepath.kube.imports.report import (
    Data,
    Fate,
    Imported,
    Theirs,
    mappings_of,
    says_nothing,
    text_of,
)
from samepath.kube.imports.selectors import Inexpressible, label_selectors
from samepath.model.selector import SelectorError

DEFAULT_ASN = 64512
"""Calico's, without a BGPConfiguration."""
HOSTNAME = "kubernetes.io/hostname"
SERVICES = "calico-services"
"""Name of the IPAddressPool and the BGPAdvertisement that are made of serviceLoadBalancerIPs."""
COMMUNITIES = "calico"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the BGPConfiguration `default` says for all nodes."""

    asn: int = DEFAULT_ASN
    is_given: bool = False


def defaults_of(found: Iterable[Theirs]) -> Defaults:
    for theirs in found:
        if theirs.kind == "BGPConfiguration" and theirs.name == "default":
            asn = _asn(theirs.spec.get("asNumber"))
            return Defaults(asn or DEFAULT_ASN, is_given=asn is not None)
    return Defaults()


def _asn(value: Any) -> int | None:
    """Calico takes numbers, texts of numbers, and `1.10` (asdot)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = str(value)
    high, dot, low = text.partition(".")
    if dot and high.isdecimal() and low.isdecimal():
        return int(high) << 16 | int(low)
    return int(text) if text.isdecimal() and text.isascii() else None


# -- BGPPeer ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Peer:
    theirs: Theirs
    spec: Data = field(default_factory=dict)
    said: list[tuple[str, Fate, str]] = field(default_factory=list)

    def say(self, key: str, fate: Fate, text: str) -> None:
        self.said.append((f"spec.{key}" if key else "", fate, text))


def peer(theirs: Theirs, defaults: Defaults, imported: Imported) -> None:
    given, made = dict(theirs.spec), _Peer(theirs)
    why = _no_peer_of_ours(given)
    if why is not None:
        imported.say(theirs.title, f"spec.{why[0]}", Fate.LEFT_OUT, f"the whole object: {why[1]}")
        return
    try:
        _nodes(made, given)
    except (SelectorError, Inexpressible) as error:
        text = f"the whole object: label selectors cannot say this: {error}"
        imported.say(theirs.title, "spec.nodeSelector", Fate.LEFT_OUT, text)
        return
    _as_numbers(made, given, defaults)
    _session(made, given)
    for key, value in given.items():
        if value not in _HARMLESS.get(key, ()):
            made.say(key, Fate.LEFT_OUT, _NOT_DONE.get(key, "there is no such field here"))
    if imported.offer(theirs.title, "BGPPeer", theirs.name, made.spec):
        for path, fate, text in made.said:
            imported.say(theirs.title, path, fate, text)


_HARMLESS: dict[str, tuple[Any, ...]] = {"keepOriginalNextHop": (False,), "ttlSecurity": (0,)}
_NOT_DONE = {
    "keepOriginalNextHop": "what nodes advertise has their own next hop",
    "filters": "what neighbours may tell is `peer_import` of agent.yaml",
    "ttlSecurity": "GTSM is `ttl_security` of a neighbour in agent.yaml",
}


def _no_peer_of_ours(given: Data) -> tuple[str, str] | None:
    """The field, and why there is no such session here."""
    if given.get("peerSelector"):
        return "peerSelector", "sessions between nodes are the mesh (`mesh: true` of agent.yaml)"
    if given.get("localWorkloadSelector"):
        return "localWorkloadSelector", "pods are no neighbours here"
    if not given.get("peerIP"):
        return "peerIP", "missing"
    return None


def _nodes(made: _Peer, given: Data) -> None:
    node = given.pop("node", None)
    selector = given.pop("nodeSelector", None)
    if node:
        made.spec["nodeSelectors"] = [{"matchLabels": {HOSTNAME: node}}]
        made.say("node", Fate.CHANGED, f"nodeSelectors: the label {HOSTNAME}")
    elif selector:
        selectors = label_selectors(text_of(made.theirs, "spec.nodeSelector", selector))
        if selectors:
            made.spec["nodeSelectors"] = selectors
        made.say("nodeSelector", Fate.CHANGED, "nodeSelectors: label selectors that say the same")


def _as_numbers(made: _Peer, given: Data, defaults: Defaults) -> None:
    local = _asn(given.pop("localASNumber", None))
    remote = given.pop("asNumber", None)
    made.spec["myASN"] = local or defaults.asn
    made.spec["peerASN"] = _asn(remote) if _asn(remote) is not None else remote
    if local is None:
        origin = "the BGPConfiguration's" if defaults.is_given else "Calico's usual one"
        made.say("localASNumber", Fate.CHANGED, f"myASN {defaults.asn}: {origin}")
    if made.spec["peerASN"] != made.spec["myASN"]:
        made.spec["ebgpMultiHop"] = True
        made.say("", Fate.CHANGED, "ebgpMultiHop: Calico's sessions may be several hops long")


def _session(made: _Peer, given: Data) -> None:
    address, port = _address_and_port(text_of(made.theirs, "spec.peerIP", given.pop("peerIP")))
    made.spec["peerAddress"] = address
    if port is not None:
        made.spec["peerPort"] = port
    made.spec["enableGracefulRestart"] = True
    made.say("", Fate.CHANGED, "enableGracefulRestart: Calico always announces it")
    if given.pop("sourceAddress", None) == "UseNodeIP":
        made.say("sourceAddress", Fate.CHANGED, "the node's own choice towards this neighbour")
    reference = given.pop("password", None)
    secret = reference.get("secretKeyRef") if isinstance(reference, dict) else None
    if isinstance(secret, dict) and secret.get("name"):
        made.spec["passwordSecret"] = {"name": secret["name"]}
        text = (
            f"the Secret {secret['name']} is to be in samepath-system, with the password under the "
            f"key `password` (with Calico: {secret.get('key')!r} in its own namespace)"
        )
        made.say("password", Fate.TO_DO, text)


def _address_and_port(text: str) -> tuple[str, int | None]:
    """`192.0.2.1`, `192.0.2.1:1790`, `[2001:db8::1]:1790`."""
    try:
        return str(ipaddress.ip_address(text)), None
    except ValueError:
        address, colon, port = text.rpartition(":")
        if colon and port.isdecimal() and port.isascii():
            return address.strip("[]"), int(port)
        return text, None


# -- BGPConfiguration -------------------------------------------------------------------------


def configuration(theirs: Theirs, defaults: Defaults, imported: Imported) -> None:
    given, title = dict(theirs.spec), theirs.title
    if theirs.name != "default":
        node = theirs.name.removeprefix("node.")
        why = f"of the node {node} alone: its own agent.yaml says it"
        for key in given:
            imported.say(title, f"spec.{key}", Fate.TO_DO, why)
        if not given:
            imported.say(title, "", Fate.SKIPPED, "it says nothing")
        return
    if given.pop("asNumber", None) is not None:
        imported.say(title, "spec.asNumber", Fate.TO_DO, f"agent.yaml: `as: {defaults.asn}`")
    # Left out, there is a mesh with Calico, and none here.
    if given.pop("nodeToNodeMeshEnabled", True):
        imported.say(title, "spec.nodeToNodeMeshEnabled", Fate.TO_DO, "agent.yaml: `mesh: true`")
    port = given.pop("listenPort", 179)
    if port != 179:
        text = f"agent.yaml: `listen_port: {port}`"
        imported.say(title, "spec.listenPort", Fate.TO_DO, text)
    _communities(theirs, given, imported)
    _services(theirs, given, imported)
    for key in given:
        if key.startswith("logSeverity"):
            imported.say(title, f"spec.{key}", Fate.SKIPPED, "how much is logged")
        else:
            imported.say(title, f"spec.{key}", Fate.LEFT_OUT, "there is no such field here")


def _communities(theirs: Theirs, given: Data, imported: Imported) -> None:
    listed = mappings_of(theirs, "spec.communities", given.pop("communities", []))
    if not listed:
        return
    # Calico writes a large community without a word before it.
    named = [
        {**one, "value": f"large:{one['value']}"} if str(one.get("value")).count(":") == 2 else one
        for one in listed
    ]
    imported.offer(theirs.title, "Community", COMMUNITIES, {"communities": named})


def _services(theirs: Theirs, given: Data, imported: Imported) -> None:
    """Addresses of services that are advertised, and their communities."""
    title = theirs.title
    told = _prefix_communities(theirs, given)
    cidrs = _cidrs(theirs, given, "serviceLoadBalancerIPs")
    if cidrs and imported.offer(
        title, "IPAddressPool", SERVICES, {"addresses": cidrs, "autoAssign": False}
    ):
        why = "an IPAddressPool without automatic assignment, and a BGPAdvertisement of it"
        imported.say(title, "spec.serviceLoadBalancerIPs", Fate.CHANGED, why)
        spec: Data = {"ipAddressPools": [SERVICES]}
        communities = [c for cidr in cidrs for c in told.pop(cidr, ())]
        if communities:
            spec["communities"] = list(dict.fromkeys(communities))
        imported.offer(title, "BGPAdvertisement", SERVICES, spec)
    elif not cidrs:
        # With Calico no address is advertised that is not in these lists.
        text = "agent.yaml: `advertise: {load_balancer_ips: false}`, as long as there is none"
        imported.say(title, "spec.serviceLoadBalancerIPs", Fate.TO_DO, text)
    for cidr in told:
        why = f"of {cidr}: communities are said of IPAddressPools, by BGPAdvertisements"
        imported.say(title, "spec.prefixAdvertisements", Fate.LEFT_OUT, why)
    for key, ours in (("serviceExternalIPs", "external_ips"), ("serviceClusterIPs", "cluster_ips")):
        cidrs = _cidrs(theirs, given, key)
        if cidrs or ours == "external_ips":
            value, more = "true" if cidrs else "false", ""
            if cidrs and ours == "external_ips":
                value = f"[{', '.join(repr(cidr) for cidr in cidrs)}]"
            elif cidrs:
                more = "; each service's address, not only those of these CIDRs"
            line = f"agent.yaml: `advertise: {{{ours}: {value}}}`"
            imported.say(title, f"spec.{key}", Fate.TO_DO, line + more)


def _cidrs(theirs: Theirs, given: Data, key: str) -> list[str]:
    listed = mappings_of(theirs, f"spec.{key}", given.pop(key, []))
    return [str(one.get("cidr")) for one in listed]


def _prefix_communities(theirs: Theirs, given: Data) -> dict[str, list[Any]]:
    path = "spec.prefixAdvertisements"
    told: dict[str, list[Any]] = {}
    for one in mappings_of(theirs, path, given.pop("prefixAdvertisements", [])):
        communities = one.get("communities")
        if not says_nothing(communities) and isinstance(communities, list):
            told[str(one.get("cidr"))] = [_community(text) for text in communities]
    return told


def _community(text: Any) -> Any:
    return f"large:{text}" if str(text).count(":") == 2 else text

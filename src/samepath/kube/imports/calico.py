"""Calico's objects as ours: IPPool, BGPPeer, BGPConfiguration; the rest is left out, and said.

Called by `samepath import calico`. Of Calico's routing only what needs no tunnels has a meaning
here: a pool with IP-in-IP or VXLAN is left out as a whole. What Calico says of every node (the AS
number, the mesh, what of services is advertised) are lines of agent.yaml here: these are given as
things to do.

Standards: projectcalico.org/v3, crd.projectcalico.org/v1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from samepath.kube.imports import calico_bgp
from samepath.kube.imports.report import Data, Fate, Imported, Theirs, objects_of
from samepath.model.documents import Document

GROUPS = ("projectcalico.org", "crd.projectcalico.org")

_STATES = (
    "BlockAffinity",
    "CalicoNodeStatus",
    "ClusterInformation",
    "IPAMBlock",
    "IPAMConfiguration",
    "IPAMConfig",
    "IPAMHandle",
    "WorkloadEndpoint",
)
_NOT_OURS = {
    "BGPFilter": "what neighbours may tell is `peer_import` of agent.yaml and `import` of "
    "gateway.yaml; what we tell is BGPAdvertisements",
    "FelixConfiguration": "there is no Felix here",
    "NetworkPolicy": "there are no network policies here",
    "GlobalNetworkPolicy": "there are no network policies here",
    "Node": "addresses of nodes come from Kubernetes' Node objects",
}
_LOOK_AT_FIRST = ("BGPConfiguration",)
"""Other objects are read in the light of these."""


def import_calico(documents: list[Document]) -> Imported:
    """Raises DocumentError for what is no Kubernetes object at all."""
    imported = Imported()
    found = list(objects_of(documents))
    config = calico_bgp.defaults_of(found)
    for theirs in sorted(found, key=lambda t: t.kind not in _LOOK_AT_FIRST):
        if theirs.group not in GROUPS:
            imported.say(theirs.title, "", Fate.LEFT_OUT, f"{theirs.kind} is not Calico's")
        elif theirs.kind == "IPPool":
            _pool(theirs, imported)
        elif theirs.kind == "BGPPeer":
            calico_bgp.peer(theirs, config, imported)
        elif theirs.kind == "BGPConfiguration":
            calico_bgp.configuration(theirs, config, imported)
        elif theirs.kind in _STATES:
            imported.say(
                theirs.title, "", Fate.SKIPPED, "what Calico has noted, not what is wanted"
            )
        else:
            why = _NOT_OURS.get(theirs.kind, "there is no such kind here")
            imported.say(theirs.title, "", Fate.LEFT_OUT, why)
    return imported


@dataclass(frozen=True, slots=True)
class _Said:
    path: str
    fate: Fate
    text: str


def _pool(theirs: Theirs, imported: Imported) -> None:
    given, title = dict(theirs.spec), theirs.title
    for tunnel in ("ipipMode", "vxlanMode"):
        mode = given.pop(tunnel, "Never")
        if mode != "Never":
            why = f"the whole object: {mode}, and there are no tunnels here; set it to Never"
            imported.say(title, f"spec.{tunnel}", Fate.LEFT_OUT, why)
            return
    uses = given.pop("allowedUses", ["Workload"])
    uses = uses if isinstance(uses, list) else [uses]
    if "LoadBalancer" in uses and "Workload" not in uses:
        _services_pool(theirs, given, imported)
        return
    if "Workload" not in uses:
        why = f"the whole object: for {', '.join(map(str, uses))}, which there are not here"
        imported.say(title, "spec.allowedUses", Fate.LEFT_OUT, why)
        return
    said = []
    if "LoadBalancer" in uses:
        why = "addresses of services are an IPAddressPool's, of another CIDR"
        said.append(_Said("spec.allowedUses", Fate.LEFT_OUT, why))
    spec = _known(given, ("cidr", "blockSize", "natOutgoing", "disabled", "nodeSelector"))
    _unknown(given, spec, said)
    if imported.offer(title, "IPPool", theirs.name, spec):
        for one in said:
            imported.say(title, one.path, one.fate, one.text)


def _services_pool(theirs: Theirs, given: Data, imported: Imported) -> None:
    """allowedUses [LoadBalancer]: an IPAddressPool."""
    title = theirs.title
    spec: Data = {"addresses": [given.get("cidr")]}
    said = [_Said("spec.allowedUses", Fate.CHANGED, "addresses of services: an IPAddressPool")]
    if given.get("disabled") or given.get("assignmentMode") == "Manual":
        spec["autoAssign"] = False
    if given.get("disabled"):
        why = "autoAssign false: services that ask for this pool still get its addresses"
        said.append(_Said("spec.disabled", Fate.CHANGED, why))
    # Blocks, NAT and nodes mean nothing for addresses of services.
    meant = ("cidr", "blockSize", "natOutgoing", "disabled", "assignmentMode", "nodeSelector")
    _unknown(given, _known(given, meant), said)
    if imported.offer(title, "IPAddressPool", theirs.name, spec):
        for one in said:
            imported.say(title, one.path, one.fate, one.text)


def _known(given: Data, names: tuple[str, ...]) -> Data:
    return {name: given[name] for name in names if name in given}


_HARMLESS: dict[str, tuple[Any, ...]] = {
    "disableBGPExport": (False,),
    "assignmentMode": ("Automatic",),
    "namespaceSelector": ("all()",),
}
"""Values of fields that ask for nothing."""


def _unknown(given: Data, taken: Data, said: list[_Said]) -> None:
    for key, value in given.items():
        if key not in taken and value not in _HARMLESS.get(key, ()):
            why = "there is no such field here"
            said.append(_Said(f"spec.{key}", Fate.LEFT_OUT, why))

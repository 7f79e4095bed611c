"""MetalLB's objects as ours: the kinds of metallb.io of all versions, and the former ConfigMap.

Called by `samepath import metallb`. The fields of ours are MetalLB's, so most of it is another
apiVersion; what our kinds do not have is left out and said. AddressPool (v1beta1) is an
IPAddressPool and its BGPAdvertisements. The ConfigMap is brought into the shape of the kinds first
(`imports.metallb_config`).

Standards: metallb.io/v1beta1, v1beta2.
"""

from __future__ import annotations

from samepath.kube.imports.metallb_config import objects_of_config
from samepath.kube.imports.report import (
    Data,
    Fate,
    Imported,
    Theirs,
    fields_of,
    mappings_of,
    objects_of,
    says_nothing,
)
from samepath.kube.reading import duration_s
from samepath.kube.specs import HOLD_TIME
from samepath.model.documents import Document

GROUP = "metallb.io"
OUR_NAMESPACE = "samepath-system"

_SAME = ("BGPPeer", "BGPAdvertisement", "IPAddressPool", "BFDProfile", "Community")
_STATES = (
    "BGPSessionState",
    "BGPSessionStatus",
    "ConfigurationState",
    "NodeBGPStatus",
    "ServiceBGPStatus",
    "ServiceL2Status",
)
_ECHO = ("echoMode", "echoInterval")
_NOT_OURS = {
    "L2Advertisement": "addresses are advertised by BGP only, not by ARP and NDP",
    "MetalLB": "how MetalLB is installed; see `samepath install`",
    "FRRConfiguration": "what else FRR was told; there is no FRR here",
}


def import_metallb(documents: list[Document]) -> Imported:
    """Raises DocumentError for what is no Kubernetes object at all."""
    imported = Imported()
    for theirs in objects_of(documents):
        if theirs.kind == "ConfigMap":
            _config(theirs, imported)
        elif theirs.group in (GROUP, "frrk8s.metallb.io"):
            _object(theirs, imported)
        else:
            imported.say(theirs.title, "", Fate.LEFT_OUT, f"{theirs.kind} is not MetalLB's")
    return imported


def _config(theirs: Theirs, imported: Imported) -> None:
    found = objects_of_config(theirs, imported)
    if found is None:
        imported.say(theirs.title, "data.config", Fate.LEFT_OUT, "there is none: not MetalLB's")
        return
    for part in found:
        _object(part, imported)


def _object(theirs: Theirs, imported: Imported) -> None:
    if theirs.kind in _SAME:
        _same(theirs, imported)
    elif theirs.kind == "AddressPool":
        _address_pool(theirs, imported)
    elif theirs.kind in _STATES:
        imported.say(theirs.title, "", Fate.SKIPPED, "what MetalLB has found, not what is wanted")
    else:
        why = _NOT_OURS.get(theirs.kind, "there is no such kind here")
        imported.say(theirs.title, "", Fate.LEFT_OUT, why)


def _same(theirs: Theirs, imported: Imported) -> None:
    """A kind that we have under the same name."""
    title = theirs.title
    spec: Data = {}
    notes: list[tuple[str, Fate, str]] = []
    known = fields_of(theirs.kind)
    for key, value in theirs.spec.items():
        path = f"spec.{key}"
        if key in _ECHO and theirs.kind == "BFDProfile":
            if value is not False:
                notes.append((path, Fate.LEFT_OUT, "there is no echo function"))
        elif key == "passwordSecret" and isinstance(value, dict):
            if value.get("name"):
                spec[key] = {"name": value["name"]}
                notes.append((path, Fate.TO_DO, _secret_text(value)))
        elif key in known:
            spec[key] = value
        else:
            notes.append((path, Fate.LEFT_OUT, "there is no such field here"))
    labels = theirs.metadata.get("labels")
    if imported.offer(title, theirs.kind, theirs.name, spec, labels):
        if theirs.kind == "BGPPeer":
            notes += _keepalive(spec)
        for path, fate, text in notes:
            imported.say(title, path, fate, text)


def _keepalive(spec: Data) -> list[tuple[str, Fate, str]]:
    """Of a peer that our parser has taken."""
    hold_s = duration_s(spec.get("holdTime", HOLD_TIME))
    keepalive = spec.get("keepaliveTime")
    if keepalive is None or duration_s(keepalive) * 3 == hold_s:
        return []
    text = f"{keepalive}: keepalives go every third of the agreed hold time"
    return [("spec.keepaliveTime", Fate.CHANGED, text)]


def _secret_text(reference: Data) -> str:
    return (
        f"the Secret {reference['name']} with the key `password` is to be in {OUR_NAMESPACE}: "
        f"copy it there from {reference.get('namespace') or 'metallb-system'}"
    )


def _address_pool(theirs: Theirs, imported: Imported) -> None:
    """v1beta1: pool and advertisements in one."""
    title, spec = theirs.title, dict(theirs.spec)
    protocol = spec.pop("protocol", None)
    told = mappings_of(theirs, "spec.bgpAdvertisements", spec.pop("bgpAdvertisements", []))
    pool = {key: value for key, value in spec.items() if key in fields_of("IPAddressPool")}
    unknown = spec.keys() - pool.keys()
    labels = theirs.metadata.get("labels")
    if not imported.offer(title, "IPAddressPool", theirs.name, pool, labels):
        return
    for key in sorted(unknown):
        imported.say(title, f"spec.{key}", Fate.LEFT_OUT, "there is no such field here")
    if protocol != "bgp":
        why = "it was advertised by ARP and NDP: without a BGPAdvertisement it is not advertised"
        imported.say(title, "spec.protocol", Fate.LEFT_OUT, why)
        return
    # A pool without advertisements was advertised as it is.
    for index, one in enumerate(told or [{}]):
        name = theirs.name if len(told) < 2 else f"{theirs.name}-{index + 1}"
        _advertisement(imported, title, index, name, one, theirs.name)


def _advertisement(
    imported: Imported, title: str, index: int, name: str, told: Data, pool: str
) -> None:
    spec: Data = {"ipAddressPools": [pool]}
    left: list[str] = []
    for key, value in told.items():
        if key in fields_of("BGPAdvertisement"):
            spec |= {} if says_nothing(value) else {key: value}
        else:
            left.append(key)
    if imported.offer(title, "BGPAdvertisement", name, spec):
        for key in left:
            path = f"spec.bgpAdvertisements[{index}].{key}"
            imported.say(title, path, Fate.LEFT_OUT, "there is no such field here")

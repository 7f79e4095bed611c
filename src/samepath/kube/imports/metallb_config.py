"""MetalLB's former ConfigMap, as objects of the kinds that came after it. Pure.

Called by `imports.metallb`. Names of fields there are written with dashes, there are no objects but
lists, and neighbours have no names: they get that of their address.

Standards: MetalLB 0.12, "Configuration" (ConfigMap `config`).
"""

from __future__ import annotations

import re
from typing import Any

from samepath.kube.imports.report import Data, Fate, Imported, Theirs, mappings_of, says_nothing
from samepath.kube.reading import NAME
from samepath.model.documents import Document, parse

_PEER = {
    "my-asn": "myASN",
    "peer-asn": "peerASN",
    "peer-address": "peerAddress",
    "source-address": "sourceAddress",
    "router-id": "routerID",
    "ebgp-multihop": "ebgpMultiHop",
}
_POOL = {"avoid-buggy-ips": "avoidBuggyIPs"}
_ADVERTISEMENT = {"localpref": "localPref", "aggregation-length-v6": "aggregationLengthV6"}
_BFD = {"minimum-ttl": "minimumTtl"}


def objects_of_config(theirs: Theirs, imported: Imported) -> list[Theirs] | None:
    """None: it has no `data.config`. Raises DocumentError."""
    data = theirs.document.data.get("data")
    text = data.get("config") if isinstance(data, dict) else None
    if not isinstance(text, str):
        return None
    file = f"{theirs.document.file}: {theirs.title}: data.config"
    found: list[Theirs] = []
    for document in parse(text, file):
        if not isinstance(document.data, dict):
            raise document.error("", "expected object")
        found += _Config(document, theirs, imported).objects()
    return found


class _Config:
    def __init__(self, document: Document, theirs: Theirs, imported: Imported) -> None:
        self.document = document
        self.theirs = theirs
        self.imported = imported

    def objects(self) -> list[Theirs]:
        made = [
            *(self._peer(i, peer) for i, peer in enumerate(self._list("peers"))),
            *(self._named("BFDProfile", one, _BFD) for one in self._list("bfd-profiles")),
            *self._communities(),
            *(self._pool(pool) for pool in self._list("address-pools")),
        ]
        for key in self.document.data:
            if key not in ("peers", "bfd-profiles", "bgp-communities", "address-pools"):
                self.imported.say(self.theirs.title, key, Fate.LEFT_OUT, "not known")
        return made

    def _list(self, key: str) -> list[Data]:
        return mappings_of(self.theirs, key, self.document.data.get(key) or [])

    def _peer(self, index: int, given: Data) -> Theirs:
        spec = _renamed(given, _PEER)
        name = spec.pop("name", None)
        if name is None:
            address = str(given.get("peer-address", index))
            name = "peer-" + re.sub(r"[^a-z0-9]+", "-", address.lower()).strip("-")
        selectors = spec.get("nodeSelectors")
        if selectors:
            listed = mappings_of(self.theirs, f"peers[{index}].node-selectors", selectors)
            spec["nodeSelectors"] = [_renamed(one, {}) for one in listed]
        return self._theirs("BGPPeer", name, spec)

    def _named(self, kind: str, given: Data, names: dict[str, str]) -> Theirs:
        spec = _renamed(given, names)
        return self._theirs(kind, spec.pop("name", kind.lower()), spec)

    def _communities(self) -> list[Theirs]:
        given = self.document.data.get("bgp-communities") or {}
        if not isinstance(given, dict):
            raise self.document.error("bgp-communities", "expected object")
        if not given:
            return []
        listed = [{"name": str(name), "value": value} for name, value in given.items()]
        return [self._theirs("Community", "communities", {"communities": listed})]

    def _pool(self, given: Data) -> Theirs:
        spec = _renamed(given, _POOL)
        told = spec.get("bgpAdvertisements")
        if told:
            listed = mappings_of(self.theirs, "bgp-advertisements", told)
            spec["bgpAdvertisements"] = [_renamed(one, _ADVERTISEMENT) for one in listed]
        return self._theirs("AddressPool", spec.pop("name", "pool"), spec)

    def _theirs(self, kind: str, name: Any, spec: Data) -> Theirs:
        said = {key: value for key, value in spec.items() if not says_nothing(value)}
        text = str(name)
        made = Theirs(kind, "metallb.io", text, {}, said, self.document)
        if NAME.match(text):
            return made
        fitting = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "unnamed"
        why = f"the name is {fitting}: names are small letters, digits, - and ."
        self.imported.say(made.title, "name", Fate.CHANGED, why)
        return Theirs(kind, "metallb.io", fitting, {}, said, self.document)


def _renamed(given: Data, names: dict[str, str]) -> Data:
    """`auto-assign` -> `autoAssign`, unless `names` says otherwise."""
    return {names.get(str(key)) or _camel(str(key)): value for key, value in given.items()}


def _camel(text: str) -> str:
    first, *rest = text.split("-")
    return first + "".join(part.capitalize() for part in rest)

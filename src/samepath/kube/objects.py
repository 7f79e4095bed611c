"""The Kubernetes objects that we read: which kinds, and one parser for all sources.

Called by every source (the folder of manifests, the API server) with plain data as a `Document`;
gives the frozen vocabulary of `samepath.model.cluster` and `samepath.model.kinds`. Kubernetes' own
kinds are read by `kube.core`, ours by `kube.kinds`. Kinds that we do not read are None, not an
error. Calico's IPPool is refused, because it may ask for what we would not do (tunnels); MetalLB's
objects are another group's, so nothing to us: `samepath import` makes ours of both.
"""

from __future__ import annotations

from collections.abc import Iterator

from samepath.kube import core, kinds
from samepath.kube.kinds import GROUP
from samepath.kube.reading import Part, Reader
from samepath.model import cluster
from samepath.model import kinds as model_kinds
from samepath.model.cluster import Object
from samepath.model.documents import Document, DocumentError, decode

READERS: dict[str, Reader] = {**core.READERS, **kinds.READERS}
"""By kind."""

_CALICO = ("projectcalico.org", "crd.projectcalico.org")


class _Head(Part, frozen=True, kw_only=True):
    kind: str
    api_version: str


def parse_objects(document: Document) -> Iterator[tuple[Document, Object]]:
    """The objects of a document: itself, or the items of a `kind: List`. Raises DocumentError."""
    head = decode(_Head, document)
    if not head.kind.endswith("List"):
        found = parse_object(document)
        if found is not None:
            yield document, found
        return
    items = document.data.get("items") or []
    if not isinstance(items, list):
        raise document.error("items", "expected array")
    for index, item in enumerate(items):
        if isinstance(item, dict) and head.kind != "List":
            # A typed list (`kind: ServiceList`) may leave out what its items are.
            item = {"kind": head.kind[:-4], "apiVersion": head.api_version, **item}
        part = document.part(f"items[{index}]", item)
        found = parse_object(part)
        if found is not None:
            yield part, found


def parse_object(document: Document) -> Object | None:
    """One object; None if it is of a kind that we do not read. Raises DocumentError."""
    head = decode(_Head, document)
    reader = READERS.get(head.kind)
    if reader is None:
        return None
    if head.kind == "IPPool" and head.api_version.partition("/")[0] in _CALICO:
        raise document.error(
            "apiVersion",
            f"{head.api_version} is Calico's IPPool, which is not read: write {GROUP}, with cidr, "
            "blockSize, natOutgoing, disabled and nodeSelector as there",
        )
    if head.api_version != reader.api_version:
        if head.api_version.rpartition("/")[0] != reader.api_version.rpartition("/")[0]:
            return None  # another group's kind of the same name
        raise document.error(
            "apiVersion", f"{head.api_version} is not read, only {reader.api_version}"
        )
    return reader.read(decode(reader.struct, document), document)


def object_key(thing: Object) -> str:
    """Kind and name, as people say it: `Service default/web`."""
    if isinstance(thing, cluster.Service | cluster.EndpointSlice):
        name = thing.key
    elif isinstance(thing, model_kinds.Secret):
        name = f"{thing.namespace}/{thing.name}"
    else:
        name = thing.name
    return f"{type(thing).__name__} {name}"


__all__ = ["DocumentError", "Object", "object_key", "parse_object", "parse_objects"]

"""What is served: one `Kind` for each resource and version, those that are built in as a table,
those of CustomResourceDefinitions made by `crds`.

Kubernetes API: APIResource; `allows_unconditional_update`, `creates_on_update` are the strategies'
AllowUnconditionalUpdate and AllowCreateOnUpdate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from samepath.lab.api_server.status import Json

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Column:
    """An additionalPrinterColumn of a CustomResourceDefinition."""

    name: str
    type: str
    path: str
    description: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    singular: str = ""
    list_kind: str = ""
    has_status: bool = False
    has_scale: bool = False
    has_generation: bool = False
    allows_unconditional_update: bool = True
    creates_on_update: bool = False
    custom: bool = False
    schema: Json | None = field(default=None, compare=False)
    columns: tuple[Column, ...] = ()
    selectable: tuple[str, ...] = ()
    """Fields that a CustomResourceDefinition makes selectable, `spec.node`."""
    create_only: bool = False
    """A review: answered, never stored."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def key(self) -> tuple[str, str]:
        """Under which the store keeps the objects of all versions."""
        return self.group, self.plural

    @property
    def one(self) -> str:
        return self.singular or self.kind.lower()

    @property
    def many(self) -> str:
        return self.list_kind or self.kind + "List"

    @property
    def head(self) -> bytes:
        """How the JSON of an object begins: what the store leaves out of it."""
        return f'{{"kind":"{self.kind}","apiVersion":"{self.api_version}",'.encode()

    @property
    def subresources(self) -> tuple[str, ...]:
        found = ("status",) if self.has_status else ()
        return (*found, "scale") if self.has_scale else found

    def named(self, **part: Any) -> Json:
        return {"kind": self.kind, "apiVersion": self.api_version, **part}


def _core(plural: str, kind: str, **rest: Any) -> Kind:
    return Kind("", "v1", plural, kind, **rest)


def _rbac(plural: str, kind: str, namespaced: bool) -> Kind:
    group = "rbac.authorization.k8s.io"
    return Kind(group, "v1", plural, kind, namespaced, creates_on_update=True)


def _review(plural: str, kind: str, namespaced: bool = False) -> Kind:
    return Kind("authorization.k8s.io", "v1", plural, kind, namespaced, create_only=True)


NAMESPACES = _core(
    "namespaces", "Namespace", namespaced=False, short_names=("ns",), has_status=True
)
NODES = _core("nodes", "Node", namespaced=False, short_names=("no",), has_status=True)
SERVICES = _core(
    "services",
    "Service",
    short_names=("svc",),
    categories=("all",),
    has_status=True,
    creates_on_update=True,
)
SECRETS = _core("secrets", "Secret")
CONFIG_MAPS = _core("configmaps", "ConfigMap", short_names=("cm",))
EVENTS = _core("events", "Event", short_names=("ev",), creates_on_update=True)
PODS = _core("pods", "Pod", short_names=("po",), categories=("all",), has_status=True)
SERVICE_ACCOUNTS = _core("serviceaccounts", "ServiceAccount", short_names=("sa",))
ENDPOINT_SLICES = Kind(
    "discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", has_generation=True
)
LEASES = Kind(
    "coordination.k8s.io",
    "v1",
    "leases",
    "Lease",
    allows_unconditional_update=False,
    creates_on_update=True,
)
CRDS = Kind(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    False,
    short_names=("crd", "crds"),
    categories=("api-extensions",),
    has_status=True,
    has_generation=True,
    allows_unconditional_update=False,
)
CLUSTER_ROLES = _rbac("clusterroles", "ClusterRole", False)
CLUSTER_ROLE_BINDINGS = _rbac("clusterrolebindings", "ClusterRoleBinding", False)
ROLES = _rbac("roles", "Role", True)
ROLE_BINDINGS = _rbac("rolebindings", "RoleBinding", True)
ACCESS_REVIEWS = _review("selfsubjectaccessreviews", "SelfSubjectAccessReview")
RULES_REVIEWS = _review("selfsubjectrulesreviews", "SelfSubjectRulesReview")
SUBJECT_REVIEWS = _review("subjectaccessreviews", "SubjectAccessReview")
SELF_REVIEWS = Kind(
    "authentication.k8s.io",
    "v1",
    "selfsubjectreviews",
    "SelfSubjectReview",
    False,
    create_only=True,
)


def _workload(plural: str, kind: str, short_name: str, has_scale: bool) -> Kind:
    return Kind(
        "apps",
        "v1",
        plural,
        kind,
        short_names=(short_name,),
        categories=("all",),
        has_status=True,
        has_scale=has_scale,
        has_generation=True,
    )


BUILT_IN = (
    NAMESPACES,
    NODES,
    SERVICES,
    SECRETS,
    CONFIG_MAPS,
    EVENTS,
    PODS,
    SERVICE_ACCOUNTS,
    ENDPOINT_SLICES,
    LEASES,
    _workload("deployments", "Deployment", "deploy", True),
    _workload("daemonsets", "DaemonSet", "ds", False),
    _workload("replicasets", "ReplicaSet", "rs", True),
    Kind(
        "scheduling.k8s.io",
        "v1",
        "priorityclasses",
        "PriorityClass",
        False,
        short_names=("pc",),
        has_generation=True,
    ),
    CRDS,
    CLUSTER_ROLES,
    CLUSTER_ROLE_BINDINGS,
    ROLES,
    ROLE_BINDINGS,
    ACCESS_REVIEWS,
    RULES_REVIEWS,
    SUBJECT_REVIEWS,
    SELF_REVIEWS,
)

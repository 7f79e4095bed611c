"""Role based access control, evaluated from the roles and bindings that are objects of the server:
may this user do that? And the reviews by which clients ask the same.

Not done: aggregated cluster roles, the checks against escalation.

Kubernetes API: rbac.authorization.k8s.io/v1, authorization.k8s.io/v1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from samepath.lab.api_server import kinds as known
from samepath.lab.api_server.status import Json
from samepath.lab.api_server.store import Store

ALL_USERS = ("system:authenticated", "system:unauthenticated")


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What somebody wants to do: to a resource, or (`path`) to none."""

    verb: str
    group: str = ""
    resource: str = ""
    """With its subresource: `services/status`."""
    namespace: str = ""
    name: str = ""
    path: str = ""


DISCOVERY = (
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/openapi",
    "/openapi/*",
    "/version",
    "/version/",
)
HEALTH = ("/healthz", "/livez", "/readyz")


def bootstrap() -> list[Json]:
    """The roles without which nobody could begin."""
    group = "rbac.authorization.k8s.io"
    every = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    reviews = {
        "apiGroups": ["authorization.k8s.io"],
        "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        "verbs": ["create"],
    }
    self_review = {
        "apiGroups": ["authentication.k8s.io"],
        "resources": ["selfsubjectreviews"],
        "verbs": ["create"],
    }
    roles = {
        "cluster-admin": ([every, {"nonResourceURLs": ["*"], "verbs": ["*"]}], "system:masters"),
        "system:discovery": (
            [{"nonResourceURLs": [*HEALTH, *DISCOVERY], "verbs": ["get"]}],
            "system:authenticated",
        ),
        "system:basic-user": ([reviews, self_review], "system:authenticated"),
    }
    found: list[Json] = []
    for name, (rules, subject) in roles.items():
        metadata = {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}
        reference = {"apiGroup": group, "kind": "ClusterRole", "name": name}
        subjects = [{"apiGroup": group, "kind": "Group", "name": subject}]
        version = f"{group}/v1"
        found += [
            {"apiVersion": version, "kind": "ClusterRole", "metadata": metadata, "rules": rules},
            {
                "apiVersion": version,
                "kind": "ClusterRoleBinding",
                "metadata": metadata,
                "roleRef": reference,
                "subjects": subjects,
            },
        ]
    return found


def allows(store: Store, user: User, attempt: Attempt) -> bool:
    return any(_permits(rule, attempt) for rule in rules_of(store, user, attempt.namespace))


def rules_of(store: Store, user: User, namespace: str) -> Iterator[Json]:
    """All rules that hold for this user, cluster-wide or in the namespace."""
    for thing in store.collection(known.CLUSTER_ROLE_BINDINGS.key).objects.values():
        if _binds(thing.body, user, ""):
            yield from _rules(store, thing.body["roleRef"], "")
    if not namespace:
        return
    for _, thing in store.collection(known.ROLE_BINDINGS.key).in_order(namespace):
        if _binds(thing.body, user, namespace):
            yield from _rules(store, thing.body["roleRef"], namespace)


def _binds(binding: Json, user: User, namespace: str) -> bool:
    for subject in binding.get("subjects") or ():
        name = subject.get("name")
        if subject["kind"] == "ServiceAccount":
            place = subject.get("namespace") or namespace
            if user.name == f"system:serviceaccount:{place}:{name}":
                return True
        elif subject["kind"] == "Group":
            if name in user.groups:
                return True
        elif name == user.name:
            return True
    return False


def _rules(store: Store, reference: Json, namespace: str) -> list[Json]:
    kind = known.CLUSTER_ROLES if reference["kind"] == "ClusterRole" else known.ROLES
    key = "" if kind is known.CLUSTER_ROLES else namespace, reference["name"]
    role = store.get(kind.key, key)
    return list(role.body.get("rules") or ()) if role else []


def _permits(rule: Json, attempt: Attempt) -> bool:
    verbs = rule.get("verbs") or ()
    if attempt.verb not in verbs and "*" not in verbs:
        return False
    if attempt.path:
        return any(_covers(url, attempt.path) for url in rule.get("nonResourceURLs") or ())
    groups = rule.get("apiGroups") or ()
    if attempt.group not in groups and "*" not in groups:
        return False
    names = rule.get("resourceNames") or ()
    if names and attempt.name not in names:
        return False
    subresource = attempt.resource.partition("/")[2]
    wanted = {attempt.resource, "*"} | ({f"*/{subresource}"} if subresource else set())
    return not wanted.isdisjoint(rule.get("resources") or ())


def _covers(url: str, path: str) -> bool:
    return url == path or (url.endswith("*") and path.startswith(url[:-1]))


def refusal(user: User, attempt: Attempt) -> str:
    """As the real server words it."""
    if attempt.path:
        return f'User "{user.name}" cannot {attempt.verb} path "{attempt.path}"'
    where = "at the cluster scope"
    if attempt.namespace:
        where = f'in the namespace "{attempt.namespace}"'
    return (
        f'User "{user.name}" cannot {attempt.verb} resource "{attempt.resource}" in API group '
        f'"{attempt.group}" {where}'
    )

"""Who asks, and may they: bearer tokens, RBAC if it is switched on, and the reviews by which
clients ask the same of us.

Without RBAC everybody may do everything, with any token that is ours or with none.

Kubernetes API: authentication (bearer tokens, TokenRequest), authorization.k8s.io/v1 reviews.
Not done: client certificates, impersonation, audiences, tokens that expire by the clock (`revoke`).
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable
from typing import Any

from aiohttp import web

from samepath.lab.api_server import kinds as known
from samepath.lab.api_server import rbac
from samepath.lab.api_server import status as st
from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.objects import Objects
from samepath.lab.api_server.rbac import Attempt, User
from samepath.lab.api_server.requests import Target
from samepath.lab.api_server.status import Json

MASTERS = "system:masters"
ADMIN = User("kubernetes-admin", (MASTERS, "system:authenticated"))
ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
PUBLIC = ("healthz", "livez", "readyz", "version")
TOKEN_S = 3600


class Access:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.tokens: dict[str, User] = {}
        self.is_rbac = False
        self.guarded: set[tuple[str, int]] = set()
        """Addresses of ours at which everybody needs a token."""

    # -- Who ----------------------------------------------------------------------------------

    def user_of(self, request: web.Request) -> User:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not token and self._is_guarded(request):
            raise st.unauthorized()
        if not token:
            return ANONYMOUS if self.is_rbac else ADMIN
        user = self.tokens.get(token) if scheme.lower() == "bearer" else None
        if user is None:
            raise st.unauthorized()
        return user

    def _is_guarded(self, request: web.Request) -> bool:
        if not self.guarded or request.transport is None:
            return False
        return request.transport.get_extra_info("sockname") in self.guarded

    def new_token(self, user: User) -> str:
        token = secrets.token_urlsafe(32)
        self.tokens[token] = user
        return token

    def revoke(self, token: str) -> None:
        self.tokens.pop(token, None)

    def service_account(self, namespace: str, name: str) -> User:
        account = self._objects.get(known.SERVICE_ACCOUNTS, namespace, name)
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
        user = f"system:serviceaccount:{namespace}:{name}"
        return User(user, (*groups, "system:authenticated"), account.metadata["uid"])

    def issue(self, target: Target, content: Any) -> Json:
        """A TokenRequest of a service account."""
        if target.kind != known.SERVICE_ACCOUNTS:
            raise st.no_such_path()
        user = self.service_account(target.namespace, target.name)
        spec = dict((content or {}).get("spec") or {})
        seconds = spec.setdefault("expirationSeconds", TOKEN_S)
        now = datetime.datetime.fromisoformat(self._objects.now())
        expires = now + datetime.timedelta(seconds=seconds)
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": target.name, "namespace": target.namespace},
            "spec": spec,
            "status": {
                "token": self.new_token(user),
                "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
        }

    # -- May they -----------------------------------------------------------------------------

    def may(self, user: User, attempt: Attempt) -> bool:
        if not self.is_rbac or MASTERS in user.groups:
            return True
        if attempt.path.strip("/") in PUBLIC and attempt.verb == "get":
            return True
        return rbac.allows(self._objects.store, user, attempt)

    def check(self, request: web.Request, target: Target, verb: str) -> None:
        """Raises StatusError 401 or 403."""
        user = self.user_of(request)
        kind = target.kind
        resource = kind.plural + (f"/{target.subresource}" if target.subresource else "")
        attempt = Attempt(verb, kind.group, resource, target.namespace, target.name)
        if not self.may(user, attempt):
            why = rbac.refusal(user, attempt)
            raise st.forbidden(kind.group, kind.plural, target.name, why)

    def check_path(self, request: web.Request) -> None:
        user = self.user_of(request)
        attempt = Attempt(request.method.lower(), path=request.path)
        if not self.may(user, attempt):
            text = f"forbidden: {rbac.refusal(user, attempt)}"
            raise st.StatusError(403, "Forbidden", text)

    # -- Reviews ------------------------------------------------------------------------------

    def review(self, request: web.Request, kind: Kind, content: Any) -> Json:
        user, spec = self.user_of(request), dict((content or {}).get("spec") or {})
        answers: dict[str, Callable[[], Json]] = {
            known.ACCESS_REVIEWS.kind: lambda: self._access(user, spec),
            known.SUBJECT_REVIEWS.kind: lambda: self._access(_subject(spec), spec),
            known.RULES_REVIEWS.kind: lambda: self._rules(user, spec.get("namespace", "")),
            known.SELF_REVIEWS.kind: lambda: {
                "userInfo": {"username": user.name, "uid": user.uid, "groups": list(user.groups)}
            },
        }
        metadata = {"creationTimestamp": None}
        return kind.named(metadata=metadata, spec=spec, status=answers[kind.kind]())

    def _access(self, user: User, spec: Json) -> Json:
        path = spec.get("nonResourceAttributes") or {}
        asked = spec.get("resourceAttributes") or {}
        resource = asked.get("resource", "")
        if asked.get("subresource"):
            resource += f"/{asked['subresource']}"
        attempt = Attempt(
            verb=asked.get("verb") or path.get("verb", ""),
            group=asked.get("group", ""),
            resource=resource,
            namespace=asked.get("namespace", ""),
            name=asked.get("name", ""),
            path=path.get("path", ""),
        )
        return {"allowed": self.may(user, attempt)}

    def _rules(self, user: User, namespace: str) -> Json:
        every: Json = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
        found = [every, {"nonResourceURLs": ["*"], "verbs": ["*"]}]
        if self.is_rbac and MASTERS not in user.groups:
            found = list(rbac.rules_of(self._objects.store, user, namespace))
        return {
            "resourceRules": [one for one in found if "resources" in one],
            "nonResourceRules": [one for one in found if "nonResourceURLs" in one],
            "incomplete": False,
        }


def _subject(spec: Json) -> User:
    return User(spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""))

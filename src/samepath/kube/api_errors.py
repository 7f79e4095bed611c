"""What an API server refuses, in words for people: what was asked for, and which right is missing.

Made by `samepath.kube.http` out of answers that are no success; whoever asks looks at the code.
Pure.

Standards: apimachinery's Status; Kubernetes RBAC (apiGroups, resources, verbs); RFC 9110 §10.2.3.
"""

from __future__ import annotations

import re

from samepath.kube.resources import Resource
from samepath.kube.texts import one_line
from samepath.kube.wire import Status, WireError, decode_status

_USER = re.compile(r'User "([^"]+)"')


class ApiError(Exception):
    """The server has refused. `message` is for people, and names what was asked for."""

    def __init__(
        self, code: int, reason: str, message: str, *, retry_after_s: float | None = None
    ) -> None:
        super().__init__(code, reason, message)
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message

    @property
    def is_not_found(self) -> bool:
        return self.code == 404

    @property
    def already_exists(self) -> bool:
        return self.code == 409 and self.reason == "AlreadyExists"

    @property
    def is_conflict(self) -> bool:
        """Somebody else has changed it in between."""
        return self.code == 409 and not self.already_exists

    @property
    def is_expired(self) -> bool:
        """The resource version is older than what the server remembers."""
        return self.code == 410


class Unreachable(ApiError):
    """No answer, or none of an API server. Code 0."""


class Asked:
    """What was asked for, in words: `services: list`."""

    __slots__ = ("name", "namespace", "resource", "subresource", "verb")

    def __init__(
        self,
        verb: str,
        resource: Resource,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str = "",
    ) -> None:
        self.verb = verb
        self.resource = resource
        self.namespace = namespace if resource.namespaced else None
        self.name = name
        self.subresource = subresource

    @property
    def path(self) -> str:
        return self.resource.path(self.namespace, self.name, self.subresource)

    def __str__(self) -> str:
        what = self.resource.full_name
        if self.name:
            what += f" {self.namespace}/{self.name}" if self.namespace else f" {self.name}"
        return f"{what}: {self.verb}{f' {self.subresource}' if self.subresource else ''}"

    def right(self, user: str) -> str:
        """Which right is missing, in RBAC's words."""
        where = ""
        if self.resource.namespaced:
            where = f" in namespace {self.namespace}" if self.namespace else " in all namespaces"
        plural = self.resource.plural + (f"/{self.subresource}" if self.subresource else "")
        verbs = '"list","watch"' if self.verb in ("list", "watch") else f'"{self.verb}"'
        return (
            f"{self} refused: {user} may not {self.verb} {plural}{where} (RBAC: apiGroups "
            f'["{self.resource.group}"], resources ["{plural}"], verbs [{verbs}])'
        )


def refusal(asked: Asked, code: int, octets: bytes, retry_after: str | None = None) -> ApiError:
    """An answer that is no success, as an error for people."""
    try:
        status = decode_status(octets)
    except WireError:
        status = Status(code=code, message=octets[:300].decode(errors="replace"))
    seconds: float | None = None
    if retry_after is not None and retry_after.isdigit():
        seconds = float(retry_after)
    elif status.details is not None and status.details.retry_after_seconds > 0:
        seconds = float(status.details.retry_after_seconds)
    if code == 403:
        named = _USER.search(status.message)
        user = _person(named[1]) if named else "we"
        text = asked.right(user)
    elif code == 401:
        text = f"{asked} refused: the server does not accept our credentials (401)"
    else:
        said = f": {one_line(status.message)}" if status.message else ""
        text = f"{asked} refused{said} ({code}{f' {status.reason}' if status.reason else ''})"
    return ApiError(code, status.reason, text, retry_after_s=seconds)


def _person(user: str) -> str:
    account = user.startswith("system:serviceaccount:")
    return f"the service account {user}" if account else f"the user {user}"

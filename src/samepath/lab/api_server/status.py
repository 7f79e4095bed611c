"""What the server refuses, in the words of the real one: clients look at code and reason, people
at the message, tests at all three.

Raised as `StatusError` anywhere below `serving`, which answers with the Status object.

Kubernetes API: apimachinery's Status, `pkg/api/errors`, `pkg/util/validation/field`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


class StatusError(Exception):
    """An answer that is not success."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}
        self.token = ""
        """With which an expired list may go on."""

    def body(self) -> Json:
        status: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self.token} if self.token else {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details:
            status["details"] = self.details
        status["code"] = self.code
        return status


@dataclass(frozen=True, slots=True)
class Cause:
    """One field's fault (field.Error)."""

    reason: str
    field: str
    message: str

    @property
    def text(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


def required(field: str, text: str = "") -> Cause:
    return Cause("FieldValueRequired", field, "Required value" + (f": {text}" if text else ""))


def invalid_value(field: str, value: Any, text: str) -> Cause:
    return Cause("FieldValueInvalid", field, f"Invalid value: {_shown(value)}: {text}")


def type_invalid(field: str, value: Any, text: str) -> Cause:
    return Cause("FieldValueTypeInvalid", field, f"Invalid value: {_shown(value)}: {text}")


def unsupported(field: str, value: Any, known: list[Any]) -> Cause:
    listed = ", ".join(_shown(one) for one in known)
    text = f"Unsupported value: {_shown(value)}: supported values: {listed}"
    return Cause("FieldValueNotSupported", field, text)


def duplicate(field: str, value: Any) -> Cause:
    return Cause("FieldValueDuplicate", field, f"Duplicate value: {_shown(value)}")


def forbidden_field(field: str, text: str) -> Cause:
    return Cause("FieldValueForbidden", field, f"Forbidden: {text}")


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return (
        "null"
        if value is None
        else str(value).lower()
        if value is True or value is False
        else str(value)
    )


def _resource(group: str, plural: str) -> str:
    return f"{plural}.{group}" if group else plural


def _details(group: str, kind: str, name: str) -> Json:
    details: Json = {}
    if name:
        details["name"] = name
    if group:
        details["group"] = group
    if kind:
        details["kind"] = kind
    return details


def not_found(group: str, plural: str, name: str) -> StatusError:
    text = f'{_resource(group, plural)} "{name}" not found'
    return StatusError(404, "NotFound", text, _details(group, plural, name))


def no_such_path() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def already_exists(group: str, plural: str, name: str) -> StatusError:
    text = f'{_resource(group, plural)} "{name}" already exists'
    return StatusError(409, "AlreadyExists", text, _details(group, plural, name))


def conflict(group: str, plural: str, name: str, why: str = "") -> StatusError:
    why = why or (
        "the object has been modified; please apply your changes to the latest version and try "
        "again"
    )
    text = f'Operation cannot be fulfilled on {_resource(group, plural)} "{name}": {why}'
    return StatusError(409, "Conflict", text, _details(group, plural, name))


def invalid(group: str, kind: str, name: str, causes: list[Cause]) -> StatusError:
    texts = list(dict.fromkeys(cause.text for cause in causes))
    shown = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    qualified = f"{kind}.{group}" if group else kind
    details = _details(group, kind, name)
    details["causes"] = [
        {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes
    ]
    return StatusError(422, "Invalid", f'{qualified} "{name}" is invalid: {shown}', details)


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def forbidden(group: str, plural: str, name: str, why: str) -> StatusError:
    named = f' "{name}"' if name else ""
    text = f"{_resource(group, plural)}{named} is forbidden: {why}"
    return StatusError(403, "Forbidden", text, _details(group, plural, name))


def method_not_allowed() -> StatusError:
    text = "the server does not allow this method on the requested resource"
    return StatusError(405, "MethodNotAllowed", text)


def unauthorized() -> StatusError:
    return StatusError(401, "Unauthorized", "Unauthorized")


def unsupported_media_type(accepted: str) -> StatusError:
    text = (
        "the body of the request was in an unknown format - accepted media types include: "
        f"{accepted}"
    )
    return StatusError(415, "UnsupportedMediaType", text)


def expired(message: str) -> StatusError:
    return StatusError(410, "Expired", message)


def too_old(asked: int, oldest: int) -> StatusError:
    return expired(f"too old resource version: {asked} ({oldest})")


def too_large(asked: int, current: int) -> StatusError:
    details = {
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }
    text = f"Timeout: Too large resource version: {asked}, current: {current}"
    return StatusError(504, "Timeout", text, details)


def too_many_requests() -> StatusError:
    text = "The server has received too many requests and has asked us to try again later"
    return StatusError(429, "TooManyRequests", text, {"retryAfterSeconds": 1})


def internal_error(text: str) -> StatusError:
    details = {"causes": [{"message": text}]}
    return StatusError(500, "InternalError", f"Internal error occurred: {text}", details)


def success(details: Json) -> Json:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }

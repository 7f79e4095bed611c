"""Every object is held to its schema before it is stored: custom kinds to that of their definition,
built-in ones to the fields that the official client's models know (`shapes`).

Order as in the real server: unknown fields, defaults, types and limits, rules.
"""

from __future__ import annotations

from samepath.lab.api_server import rules, schemas, shapes
from samepath.lab.api_server import status as st
from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.objects import Objects, Options
from samepath.lab.api_server.status import Json
from samepath.lab.api_server.store import Stored


class Validity:
    def __init__(self, objects: Objects) -> None:
        objects.registry.admissions.append(self._admit)

    def _admit(
        self, kind: Kind, new: Json, old: Stored | None, options: Options, subresource: str
    ) -> Json:
        schema = kind.schema if kind.custom else shapes.schema_of(kind)
        if schema is None:
            return new
        new, unknown = schemas.prune(schema, new, shapes.resolve)
        if unknown:
            self._tell(kind, unknown, options)
        if not kind.custom:
            if fault := shapes.wrong_type(kind, new):
                raise st.bad_request(fault)
            return new
        metadata = new.pop("metadata")
        schemas.fill(schema, new)
        causes = schemas.faults(schema, new)
        new = {"metadata": metadata, **new}
        if not causes:
            was = None if old is None else old.of(kind)
            causes = rules.faults(schema, kind.named(**new), was)
        if causes:
            raise st.invalid(kind.group, kind.kind, metadata.get("name", ""), causes)
        return new

    def _tell(self, kind: Kind, unknown: list[str], options: Options) -> None:
        texts = [f'unknown field "{path}"' for path in unknown]
        if options.field_validation == "Strict":
            raise st.bad_request(
                f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
                f"strict decoding error: {', '.join(texts)}"
            )
        if options.field_validation == "Warn":
            options.warnings += texts

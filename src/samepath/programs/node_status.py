"""The agent tells the cluster of its node: sessions, services, readiness. Only with `kubernetes`.

`node_telling` makes of the agent what is to be told, `NodeStatus` brings it to the API server, one
write at a time and never more than `plan.status_writes` allows. Whatever goes wrong here costs
nobody anything: the agent goes on, what is not written is written later, and what was refused is
said once, here in the log and in `samepath status`.

`NodeStatus(api, config)`, `.want(desired)` after a pass, `.run()` as a task.

Not done: anything when the agent ends. The objects say what was last; their owners (Service, Node)
take them along when they go, and the controller those of Nodes that are gone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from samepath.kube.api import Api
from samepath.kube.api_errors import ApiError, Unreachable
from samepath.kube.resources import BGP_SESSION_STATES, NODES, SERVICE_BGP_STATUSES
from samepath.model.config import AgentConfig
from samepath.plan import node_status as plan
from samepath.plan.node_status import Desired, Json, Key, Kind
from samepath.plan.status_writes import Actual, Failure, Op, StatusWrites, What

log = logging.getLogger("samepath.agent")

RESOURCES = {Kind.SESSION: BGP_SESSION_STATES, Kind.SERVICE: SERVICE_BGP_STATUSES, Kind.NODE: NODES}
TOO_MANY, UNAUTHORIZED, INTERNAL = 429, 401, 500


class NodeStatus:
    def __init__(self, api: Api, config: AgentConfig) -> None:
        self.api = api
        self.node = config.node
        self.left_out = 0
        self._wake = asyncio.Event()
        self._node_uid = ""
        self._writes = StatusWrites(
            config.node,
            rate=config.status_writes_per_s,
            chance=random.random,
            now=time.monotonic(),
            time_text=lambda: time_text(time.time()),
        )

    def want(self, desired: Desired) -> None:
        self.left_out = desired.left_out
        self._writes.want(desired, time.monotonic())
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            now = time.monotonic()
            op = self._writes.next(now)
            if op is not None:
                await self._do(op)
                continue
            self._wake.clear()
            at = self._writes.next_at(now)
            try:
                async with asyncio.timeout(None if math.isinf(at) else max(0.01, at - now)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def view(self) -> dict[str, Any]:
        """For `samepath status`."""
        writes = self._writes
        return {
            "written": writes.written,
            "waiting": writes.waiting,
            "left_out": self.left_out,
            "trouble": {kind.value: text for kind, text in writes.trouble.items()},
        }

    # one thing at a time

    async def _do(self, op: Op) -> None:
        said = dict(self._writes.trouble)
        try:
            if op.what is What.READ:
                await self._read()
            else:
                status = await self._write(op)
                self._writes.done(op, time.monotonic(), status)
        except ApiError as error:
            failure = _failure(error)
            if failure is Failure.GONE and op.what is What.DELETE:
                self._writes.done(op, time.monotonic())
            else:
                after_s = error.retry_after_s
                self._writes.failed(op, failure, str(error), time.monotonic(), after_s=after_s)
        for kind, text in self._writes.trouble.items():
            if kind not in said:
                log.warning("%s is not written: %s", kind.value, text)

    async def _read(self) -> None:
        """Raises ApiError if the server is away."""
        found: dict[Key, Actual] = {}
        refused: dict[Kind, str] = {}
        for kind in Kind:
            try:
                found.update(await self._read_kind(kind))
            except ApiError as error:
                if _failure(error) is Failure.AWAY:
                    raise
                refused[kind] = str(error)
        self._writes.was_read(found, refused, time.monotonic())

    async def _read_kind(self, kind: Kind) -> Mapping[Key, Actual]:
        if kind is Kind.NODE:
            return await self._read_node()
        label = f"{plan.NODE_LABEL}={plan.short(self.node, plan.LABEL_MOST)}"
        items, _ = await self.api.list(RESOURCES[kind], label_selector=label)
        return {
            Key(kind, item["metadata"].get("namespace", ""), item["metadata"]["name"]): Actual(
                item.get("status"), _owner_uid(item)
            )
            for item in items
        }

    async def _read_node(self) -> Mapping[Key, Actual]:
        items, _ = await self.api.list(NODES, field_selector=f"metadata.name={self.node}")
        for item in items:
            self._node_uid = item["metadata"].get("uid", "")
            for condition in item.get("status", {}).get("conditions") or ():
                if condition.get("type") == plan.CONDITION:
                    return {Key(Kind.NODE, "", self.node): Actual(condition)}
        return {}

    async def _write(self, op: Op) -> Json | None:
        """The status that an object has which was created. Raises ApiError."""
        assert op.key is not None
        kind, namespace, name = op.key
        resource = RESOURCES[kind]
        if op.what is What.DELETE:
            await self.api.delete(resource, name, namespace or None)
            return None
        assert op.wanted is not None
        status = op.wanted.status
        if kind is Kind.NODE:
            patch = {"status": {"conditions": [status]}}
            await self.api.patch(NODES, name, patch, how="strategic", subresource="status")
            return None
        if op.what is What.STATUS:
            # What is not told any more goes.
            whole = {**dict.fromkeys(_OPTIONAL[kind]), **status}
            await self.api.patch(
                resource, name, {"status": whole}, namespace or None, subresource="status"
            )
            return None
        made = await self.api.create(resource, self._body(op), namespace or None)
        found: Json | None = made.get("status")
        return found

    def _body(self, op: Op) -> Json:
        assert op.key is not None
        assert op.wanted is not None
        kind, namespace, name = op.key
        owner = op.wanted.owner
        if owner is None and self._node_uid and kind is Kind.SESSION:
            owner = ("v1", "Node", self.node, self._node_uid)
        metadata: Json = {"name": name, "labels": dict(op.wanted.labels)}
        if namespace:
            metadata["namespace"] = namespace
        if owner is not None:
            names = ("apiVersion", "kind", "name", "uid")
            metadata["ownerReferences"] = [dict(zip(names, owner, strict=True))]
        resource = RESOURCES[kind]
        return {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": metadata,
            "status": op.wanted.status,
        }


_OPTIONAL = {Kind.SESSION: ("peerASN",), Kind.SERVICE: ()}


def _owner_uid(item: Json) -> str:
    owners = item["metadata"].get("ownerReferences") or ()
    return next((o.get("uid", "") for o in owners if o.get("kind") == "Service"), "")


def _failure(error: ApiError) -> Failure:
    if isinstance(error, Unreachable) or error.code >= INTERNAL or error.is_conflict:
        return Failure.AWAY
    if error.code in (TOO_MANY, UNAUTHORIZED) or error.is_expired:
        return Failure.AWAY
    if error.is_not_found:
        return Failure.GONE
    return Failure.EXISTS if error.already_exists else Failure.REFUSED


def time_text(seconds: float) -> str:
    """RFC 3339, whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

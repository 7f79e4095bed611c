"""What the API server lacks for a program of ours: reachable, kinds, rights, our Node.

Called by `samepath install check` after the host itself (`apply.host`). Asks only; each question
becomes one `Check`, or one of several that are answered alike. `samepath install kubeconfig` asks
for what a gateway needs to ask by itself.

Standards: SelfSubjectAccessReview (authorization.k8s.io/v1); Kubernetes API conventions.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Collection, Iterable
from typing import Any

from samepath.apply.host import Check, Outcome
from samepath.kube import resources as kinds
from samepath.kube.api import Api, ApiError, Unreachable
from samepath.kube.rights import AGENT, GATEWAY, RIGHTS, Right
from samepath.model.config import Kubernetes

PATIENCE_S = 20.0
OUR_KINDS = (
    kinds.BGP_PEERS,
    kinds.BGP_ADVERTISEMENTS,
    kinds.IP_ADDRESS_POOLS,
    kinds.IP_POOLS,
    kinds.BFD_PROFILES,
    kinds.COMMUNITIES,
    kinds.GATEWAY_TIERS,
    kinds.BLOCK_CLAIMS,
    kinds.SERVICE_BGP_STATUSES,
    kinds.BGP_SESSION_STATES,
)


async def checks(
    config: Kubernetes, role: str, node: str | None, addresses: Collection[str]
) -> list[Check]:
    """`role`: a key of RIGHTS. `node`: the name of our Node; `addresses` are this host's."""
    api = Api.connect(config)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await _checks(api, config.namespace, role, node, addresses)
    except TimeoutError:
        return [
            Check(
                "API server", Outcome.MISSING, f"{api.where}: no answer within {PATIENCE_S:.0f} s",
                "is it reached from this host's own network?",
            )
        ]  # fmt: skip
    finally:
        await api.close()


async def _checks(
    api: Api, namespace: str, role: str, node: str | None, addresses: Collection[str]
) -> list[Check]:
    began = time.monotonic()
    try:
        rights = await _rights(api, namespace, RIGHTS[role])
    except Unreachable as error:
        return [
            Check(
                "API server",
                Outcome.MISSING,
                str(error),
                "is the kubeconfig right, and is the server reached from this host?",
            )
        ]
    except ApiError as error:
        return [Check("API server", Outcome.MISSING, str(error), "are the credentials right?")]
    took_ms = (time.monotonic() - began) * 1000 / len(RIGHTS[role])
    found = [Check("API server", Outcome.OK, f"{api.where}, {took_ms:.0f} ms a question"), rights]
    found.append(await _kinds(api, [k for k in OUR_KINDS if _may_list(role, k)]))
    if role == AGENT:
        try:
            found.append(await _node(api, node, addresses))
        except ApiError as error:
            found.append(Check("Node", Outcome.NOTE, f"not looked at: {error}"))
    return found


async def gateway_kubeconfig(config: Kubernetes, server: str | None) -> dict[str, Any]:
    """A kubeconfig with the token of the gateways' service account. Raises ApiError, ValueError."""
    api = Api.connect(config)
    try:
        secret = await api.get(kinds.SECRETS, f"{GATEWAY}-token", config.namespace)
        where = server or api.where
    finally:
        await api.close()
    data = secret.get("data") or {}
    if not data.get("token"):
        raise ValueError(
            f"Secret {config.namespace}/{GATEWAY}-token has no token as yet: the API server's "
            "controllers fill it in (gateway.serviceAccount of the chart)"
        )
    authority = {"certificate-authority-data": data["ca.crt"]} if data.get("ca.crt") else {}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": {"server": where, **authority}}],
        "users": [{"name": GATEWAY, "user": {"token": base64.b64decode(data["token"]).decode()}}],
        "contexts": [{"name": "samepath", "context": {"cluster": "cluster", "user": GATEWAY}}],
        "current-context": "samepath",
    }


async def _rights(api: Api, namespace: str, wanted: Iterable[Right]) -> Check:
    lacking = []
    for right in sorted(wanted, key=str):
        attributes = {**right.attributes, **({"namespace": namespace} if right.ours else {})}
        review = await api.create(
            kinds.ACCESS_REVIEWS,
            {
                "apiVersion": kinds.ACCESS_REVIEWS.api_version,
                "kind": kinds.ACCESS_REVIEWS.kind,
                "spec": {"resourceAttributes": attributes},
            },
        )
        if not review.get("status", {}).get("allowed"):
            lacking.append(str(right))
    if lacking:
        return Check(
            "rights (RBAC)", Outcome.MISSING, f"may not {'; '.join(lacking)}",
            "apply the roles of the manifest or chart again",
        )  # fmt: skip
    return Check("rights (RBAC)", Outcome.OK, "all that it needs")


def _may_list(role: str, resource: kinds.Resource) -> bool:
    return Right(resource.group, resource.plural, "list") in RIGHTS[role]


async def _kinds(api: Api, known: Collection[kinds.Resource]) -> Check:
    """By listing one object of each: reading CustomResourceDefinitions would be a right more."""
    lacking = []
    for resource in known:
        try:
            async for _ in api.pages(resource, None, {}, limit=1):
                break
        except ApiError as error:
            if error.is_not_found:
                lacking.append(resource.full_name)
    if lacking:
        return Check(
            "our kinds", Outcome.MISSING, f"not there: {', '.join(lacking)}",
            "kubectl apply --server-side -f deploy/crds/",
        )  # fmt: skip
    return Check("our kinds", Outcome.OK, f"all {len(known)} that it reads or writes")


async def _node(api: Api, name: str | None, addresses: Collection[str]) -> Check:
    what = "Node"
    nodes, _ = await api.list(kinds.NODES)
    mine = [n for n in nodes if _internal(n) & set(addresses)]
    if name is not None:
        mine = [n for n in nodes if n["metadata"]["name"] == name]
        if not mine:
            return Check(what, Outcome.MISSING, f"there is no {name}", "is the kubelet registered?")
        if not _internal(mine[0]) & set(addresses):
            return Check(
                what, Outcome.MISSING, f"{name} has no InternalIP that is an address of this host",
                f"it has {', '.join(sorted(_internal(mine[0]))) or 'none'}: kubelet --node-ip",
            )  # fmt: skip
    if not mine:
        return Check(
            what, Outcome.NOTE, "no Node has an address of this host",
            "name it: --node; or is the kubelet not registered?",
        )  # fmt: skip
    if len(mine) > 1:
        names = ", ".join(n["metadata"]["name"] for n in mine)
        return Check(what, Outcome.MISSING, f"{names} share an InternalIP", "each needs its own")
    node = mine[0]
    cidrs = node.get("spec", {}).get("podCIDRs") or []
    pools, _ = await api.list(kinds.IP_POOLS)
    if pools:
        source = f"pods' addresses from {len(pools)} IPPools"
    elif cidrs:
        source = f"pods' addresses from podCIDRs {', '.join(cidrs)}"
    else:
        return Check(
            what, Outcome.MISSING, f"{node['metadata']['name']} has no podCIDRs, and there is no "
            "IPPool", "make an IPPool, or run the controller manager with --allocate-node-cidrs",
        )  # fmt: skip
    return Check(what, Outcome.OK, f"{node['metadata']['name']}, {source}")


def _internal(node: dict[str, Any]) -> set[str]:
    addresses = node.get("status", {}).get("addresses") or []
    return {a["address"] for a in addresses if a.get("type") == "InternalIP"}

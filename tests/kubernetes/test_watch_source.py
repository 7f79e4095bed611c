"""The source of cluster state at an API server: what it knows, and what it does not forget."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from samepath.kube import following
from samepath.kube.api import Api
from samepath.kube.api_source import ApiSource
from samepath.kube.credentials import ServiceAccount
from samepath.kube.following import Doing
from samepath.kube.resources import ENDPOINT_SLICES, IP_POOLS, SERVICES
from samepath.kube.watch import Wanted
from samepath.lab.api_server import ApiServer
from samepath.lab.api_server.rbac import User
from samepath.model.cluster import EndpointSlice, Service
from samepath.model.config import Kubernetes

SELECTOR = "!service.kubernetes.io/headless"
LIMIT_S = 15.0


class Stage:
    """A source that runs, and how often it has woken its program."""

    def __init__(self, config: Kubernetes, wanted: list[Wanted]) -> None:
        self.woken = 0
        self._news = asyncio.Event()
        self.source = ApiSource(Api.connect(config), wanted, self._wake, close_api=True)

    def _wake(self) -> None:
        self.woken += 1
        self._news.set()

    async def until(self, condition: Callable[[ApiSource], Any]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition(self.source):
                try:
                    async with asyncio.timeout(0.05):
                        await self._news.wait()
                except TimeoutError:
                    pass
                self._news.clear()


@asynccontextmanager
async def running(kubeconfig: Any, wanted: list[Wanted]) -> AsyncIterator[Stage]:
    stage = Stage(Kubernetes(kubeconfig=str(kubeconfig)), wanted)
    task = asyncio.create_task(stage.source.run())
    try:
        await stage.until(lambda source: source.in_sync or task.done())
        yield stage
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def service(name: str, port: int = 80, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {"ports": [{"port": port}], "type": "LoadBalancer"},
    }


def endpoint_slice(name: str, *addresses: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [a], "nodeName": "n1"} for a in addresses],
        "ports": [{"port": 8080, "name": ""}],
    }


def test_what_comes_changes_and_goes_is_known(cluster: Any) -> None:
    cluster.apply(service("web"))
    wanted = [
        Wanted(SERVICES, cluster.namespace, SELECTOR),
        Wanted(ENDPOINT_SLICES, cluster.namespace),
    ]
    web = f"Service {cluster.namespace}/web"

    async def main() -> None:
        async with running(cluster.kubeconfig, wanted) as stage:
            known = stage.source.objects[web]
            assert isinstance(known, Service)
            assert [p.port for p in known.ports] == [80]
            assert known.uid
            assert known.resource_version
            assert known.cluster_ips
            before = stage.source.objects
            await asyncio.to_thread(cluster.apply, endpoint_slice("web-1", "10.1.0.1", "10.1.0.2"))
            part = f"EndpointSlice {cluster.namespace}/web-1"
            await stage.until(lambda s: part in s.objects)
            assert part not in before  # a mapping that was given out does not change
            found = stage.source.objects[part]
            assert isinstance(found, EndpointSlice)
            assert [e.address for e in found.endpoints] == [b"\n\1\0\1", b"\n\1\0\2"]
            await asyncio.to_thread(cluster.apply, service("web", 81))
            await stage.until(lambda s: [p.port for p in s.objects[web].ports] == [81])
            await asyncio.to_thread(cluster.kubectl, "delete", "endpointslice", "web-1")
            await stage.until(lambda s: part not in s.objects)
            # What the server leaves out for us is gone when its labels say so.
            headless = {"service.kubernetes.io/headless": ""}
            await asyncio.to_thread(cluster.apply, service("web", 81, **headless))
            await stage.until(lambda s: web not in s.objects)
            assert stage.source.trouble is None

    asyncio.run(main())


def test_a_change_that_is_nothing_to_us_wakes_nobody(cluster: Any) -> None:
    cluster.apply(service("web"))
    web = f"Service {cluster.namespace}/web"

    async def main() -> None:
        async with running(cluster.kubeconfig, [Wanted(SERVICES, cluster.namespace)]) as stage:
            objects, woken = stage.source.objects, stage.woken
            version = objects[web].resource_version
            await asyncio.to_thread(cluster.kubectl, "annotate", "service", "web", "note=1")
            await stage.until(lambda s: s.objects[web].resource_version != version)
            assert stage.source.objects is objects
            assert stage.woken == woken

    asyncio.run(main())


def test_while_the_server_is_away_the_last_state_stands(
    cluster: Any, api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.apply([service("web"), service("old")])
    web, old = (f"Service {cluster.namespace}/{name}" for name in ("web", "old"))

    async def main() -> None:
        async with running(cluster.kubeconfig, [Wanted(SERVICES, cluster.namespace)]) as stage:
            assert {web, old} <= stage.source.objects.keys()
            await asyncio.to_thread(api_server.refuse)
            await stage.until(lambda s: s.trouble)
            assert "; the last state stands" in str(stage.source.trouble)
            assert stage.source.in_sync
            assert {web, old} <= stage.source.objects.keys()
            # Away: a service goes, and the server forgets that it did.
            await asyncio.to_thread(api_server.delete, "services", "old", cluster.namespace)
            await asyncio.to_thread(api_server.compact)
            await asyncio.to_thread(api_server.accept)
            await stage.until(lambda s: old not in s.objects)
            assert web in stage.source.objects
            await stage.until(lambda s: s.trouble is None)

    asyncio.run(main())


def test_a_server_restored_from_an_old_backup(cluster: Any, api_server: ApiServer) -> None:
    cluster.apply(service("web"))
    web, new = (f"Service {cluster.namespace}/{name}" for name in ("web", "new"))

    async def main() -> None:
        async with running(cluster.kubeconfig, [Wanted(SERVICES, cluster.namespace)]) as stage:
            backup = await asyncio.to_thread(api_server.snapshot)
            await asyncio.to_thread(cluster.apply, [service("web", 81), service("new")])
            await stage.until(lambda s: new in s.objects)
            await asyncio.to_thread(api_server.restart, backup)
            await stage.until(lambda s: new not in s.objects)
            assert [p.port for p in stage.source.objects[web].ports] == [80]
            await asyncio.to_thread(cluster.apply, service("web", 82))
            await stage.until(lambda s: [p.port for p in s.objects[web].ports] == [82])

    asyncio.run(main())


def test_a_watch_that_expires_is_listed_again(cluster: Any, api_server: ApiServer) -> None:
    cluster.apply(service("web"))
    more = f"Service {cluster.namespace}/more"

    async def main() -> None:
        async with running(cluster.kubeconfig, [Wanted(SERVICES, cluster.namespace)]) as stage:
            follower = stage.source._followed[0].following
            await stage.until(lambda s: follower._doing is Doing.WATCH)
            for turn in range(3):
                await asyncio.to_thread(api_server.apply, {**service("more", 80 + turn)})
                await asyncio.to_thread(api_server.compact)
                await asyncio.to_thread(api_server.end_watches)
            await asyncio.to_thread(cluster.apply, service("more", 99))
            await stage.until(
                lambda s: more in s.objects and [p.port for p in s.objects[more].ports] == [99]
            )

    asyncio.run(main())


def test_a_kind_that_is_not_installed_is_empty_and_named(
    cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    if cluster.is_real:
        pytest.skip("a real cluster may have our kinds")
    caplog.set_level(logging.INFO)

    async def main() -> None:
        wanted = [Wanted(SERVICES, cluster.namespace), Wanted(IP_POOLS)]
        async with running(cluster.kubeconfig, wanted) as stage:
            assert stage.source.in_sync
            assert stage.source.trouble is None
            assert [r.text for r in stage.source.refusals] == [
                "ippools.samepath.dev: the kind IPPool is not installed (no "
                "CustomResourceDefinition), so there are none"
            ]

    asyncio.run(main())
    assert sum("IPPool is not installed" in r.message for r in caplog.records) == 1


def test_a_right_that_is_missing_is_named_and_one_that_is_given_is_used(
    cluster: Any, api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "SLOW_S", 0.2)
    account = {"name": "agent", "namespace": cluster.namespace}
    cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    api_server.use_rbac()
    token = api_server.service_account_token(cluster.namespace, "agent")
    config = api_server.kubeconfig(tmp_path / "agent", token=token)
    group = "rbac.authorization.k8s.io"
    role = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "agent"},
        "rules": [{"apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"]}],
    }
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "agent"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "agent"},
        "subjects": [{"kind": "ServiceAccount", **account}],
    }

    async def main() -> None:
        stage = Stage(Kubernetes(kubeconfig=str(config)), [Wanted(SERVICES)])
        task = asyncio.create_task(stage.source.run())
        try:
            await stage.until(lambda s: "refused" in str(s.trouble))
            assert (
                "services: list refused: the service account system:serviceaccount:"
                f"{cluster.namespace}:agent may not list services in all namespaces (RBAC: "
                'apiGroups [""], resources ["services"], verbs ["list","watch"])'
            ) in str(stage.source.trouble)
            assert not stage.source.in_sync
            await asyncio.to_thread(api_server.apply, role, binding)
            await stage.until(lambda s: s.in_sync and not s.trouble)
            assert "Service default/kubernetes" in stage.source.objects
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_a_token_that_is_rotated(
    cluster: Any, api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a pod: the old one ends, the new one is in the file."""
    cluster.apply(service("web"))
    web = f"Service {cluster.namespace}/web"
    first, second = (api_server.token(User("agent", ("system:masters",))) for _ in range(2))
    host, port = api_server.url.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    text = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
    authority = base64.b64decode(text["certificate-authority-data"])
    (tmp_path / "ca.crt").write_bytes(authority)
    (tmp_path / "token").write_text(first)
    source = ApiSource(
        Api(ServiceAccount(str(tmp_path))), [Wanted(SERVICES)], lambda: None, close_api=True
    )

    async def main() -> None:
        task = asyncio.create_task(source.run())
        try:
            async with asyncio.timeout(LIMIT_S):
                while not source.in_sync:
                    await asyncio.sleep(0.01)
                (tmp_path / "token").write_text(second)
                await asyncio.to_thread(api_server.revoke, first)
                await asyncio.to_thread(api_server.end_watches)
                await asyncio.to_thread(cluster.apply, service("web", 81))
                while [p.port for p in source.objects[web].ports] != [81]:
                    assert "credentials" not in str(source.trouble)
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())

"""What `kube.api` asks, and what becomes of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from samepath.kube import http
from samepath.kube.api import Api, ApiError, Unreachable
from samepath.kube.resources import BGP_PEERS, ENDPOINT_SLICES, EVENTS, NODES, SERVICES
from tests.kube.scripted_api import Answer, Scripted, api_of, serve, status

Talk = Callable[[Api, Scripted], Awaitable[Any]]


def talk(answer: Answer, folder: Path, say: Talk) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(20), serve(answer) as scripted, api_of(scripted, folder) as api:
            return await say(api, scripted)

    return asyncio.run(main())


def named(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default", "resourceVersion": "7"}}


def test_paths() -> None:
    assert NODES.path() == "/api/v1/nodes"
    assert NODES.path("ignored", "n1", "status") == "/api/v1/nodes/n1/status"
    assert SERVICES.path() == "/api/v1/services"
    assert SERVICES.path("a", "b") == "/api/v1/namespaces/a/services/b"
    assert ENDPOINT_SLICES.path("a") == "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices"
    assert BGP_PEERS.path(None, "../x") == "/apis/samepath.dev/v1/bgppeers/..%2Fx"


def test_a_list_is_read_page_by_page(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.query["labelSelector"] == "a,!b/c"
        first = "continue" not in request.query
        page = {
            "metadata": {"resourceVersion": "9", "continue": "more" if first else ""},
            "items": [named("a" if first else "b")],
        }
        return web.json_response(page)

    async def say(api: Api, scripted: Scripted) -> Any:
        return await api.list(SERVICES, label_selector="a,!b/c", limit=1)

    items, version = talk(answer, tmp_path, say)
    assert version == "9"
    assert [(i["kind"], i["apiVersion"], i["metadata"]["name"]) for i in items] == [
        ("Service", "v1", "a"),
        ("Service", "v1", "b"),
    ]


def test_paging_that_took_too_long_begins_again_with_one_page(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        if "continue" in request.query:
            return status(410, "Expired", "The provided continue parameter is too old")
        if "limit" in request.query:
            meta = {"resourceVersion": "1", "continue": "more"}
            return web.json_response({"metadata": meta, "items": [named("gone")]})
        return web.json_response({"metadata": {"resourceVersion": "5"}, "items": [named("a")]})

    items, version = talk(answer, tmp_path, lambda api, _: api.list(SERVICES))
    assert ([i["metadata"]["name"] for i in items], version) == (["a"], "5")


def test_a_list_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samepath.kube.api.PAGES_MOST", 3)

    async def answer(request: web.Request) -> web.Response:
        meta = {"resourceVersion": "1", "continue": "more"}
        return web.json_response({"metadata": meta, "items": [named("a")]})

    async def say(api: Api, scripted: Scripted) -> Any:
        with pytest.raises(Unreachable, match="without end"):
            await api.list(SERVICES)
        return len(scripted.asked)

    assert talk(answer, tmp_path, say) == 3


def test_writes_say_what_they_are(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(named("a"))

    async def say(api: Api, scripted: Scripted) -> list[tuple[str, str, str | None]]:
        await api.create(EVENTS, {"metadata": {"name": "a"}}, "default")
        await api.replace(SERVICES, named("a"), subresource="status")
        await api.patch(SERVICES, "a", [{"op": "test"}], "default", how="json")
        await api.patch(SERVICES, "a", {}, "default", how="apply", subresource="status")
        await api.delete(SERVICES, "a", "default", uid="u", resource_version="3")
        assert json.loads(scripted.bodies[-1])["preconditions"] == {
            "uid": "u",
            "resourceVersion": "3",
        }
        return [(r.method, r.path_qs, r.content_type) for r in scripted.asked]

    service = "/api/v1/namespaces/default/services/a"
    assert talk(answer, tmp_path, say) == [
        ("POST", "/api/v1/namespaces/default/events?fieldManager=samepath", "application/json"),
        ("PUT", f"{service}/status?fieldManager=samepath", "application/json"),
        ("PATCH", f"{service}?fieldManager=samepath", "application/json-patch+json"),
        (
            "PATCH",
            f"{service}/status?fieldManager=samepath&force=true",
            "application/apply-patch+yaml",
        ),
        ("DELETE", service, "application/json"),
    ]


def refused(answer: Answer, folder: Path, say: Talk | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        talk(answer, folder, say or (lambda api, _: api.list(SERVICES)))
    return caught.value


def test_403_names_the_missing_right(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return status(
            403,
            "Forbidden",
            'services is forbidden: User "system:serviceaccount:samepath-system:agent" cannot list '
            'resource "services" in API group "" at the cluster scope',
        )

    assert str(refused(answer, tmp_path)) == (
        "services: list refused: the service account system:serviceaccount:samepath-system:agent "
        'may not list services in all namespaces (RBAC: apiGroups [""], resources ["services"], '
        'verbs ["list","watch"])'
    )
    patch = refused(
        answer,
        tmp_path,
        lambda api, _: api.patch(SERVICES, "web", {}, "shop", subresource="status"),
    )
    assert "may not patch services/status in namespace shop" in str(patch)
    assert 'resources ["services/status"], verbs ["patch"]' in str(patch)


@pytest.mark.parametrize(
    ("code", "reason", "which"),
    [
        (404, "NotFound", "is_not_found"),
        (409, "Conflict", "is_conflict"),
        (409, "AlreadyExists", "already_exists"),
        (410, "Expired", "is_expired"),
    ],
)
def test_refusals_are_told_apart(tmp_path: Path, code: int, reason: str, which: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return status(code, reason, "because")

    error = refused(answer, tmp_path, lambda api, _: api.get(NODES, "n1"))
    names = ("is_not_found", "is_conflict", "already_exists", "is_expired")
    assert [name for name in names if getattr(error, name)] == [which]
    assert str(error) == f"nodes n1: get refused: because ({code} {reason})"


def test_what_is_no_api_server_is_refused_in_words(tmp_path: Path) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>welcome</html>", content_type="text/html")

    async def gateway(request: web.Request) -> web.Response:
        return web.Response(text="<html>\n bad gateway</html>", status=502)

    async def elsewhere(request: web.Request) -> web.Response:
        raise web.HTTPFound("http://198.51.100.1/")

    assert isinstance(refused(page, tmp_path), Unreachable)
    assert str(refused(gateway, tmp_path)) == (
        "services: list refused: <html> bad gateway</html> (502)"
    )
    assert refused(elsewhere, tmp_path).code == 302


def test_an_answer_too_large_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100_000):
            await response.write(b"x" * 10_000)
        return response

    error = refused(answer, tmp_path, lambda api, _: api.get(NODES, "n1"))
    assert str(error) == "nodes n1: get: an answer of more than 16777216 octets"


def test_nobody_there(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        raise AssertionError

    async def say(api: Api, scripted: Scripted) -> Any:
        scripted.port = 0
        closed = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = closed.sockets[0].getsockname()[1]
        closed.close()
        text = (tmp_path / "kubeconfig").read_text()
        (tmp_path / "kubeconfig").write_text(
            text.replace(text.split("127.0.0.1:")[1].split('"')[0], str(port))
        )
        return await api.get(NODES, "n1")

    error = refused(answer, tmp_path, say)
    assert isinstance(error, Unreachable)
    assert error.code == 0
    assert "cannot connect to 127.0.0.1" in str(error)


def test_a_silent_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_S", 0.2)

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return web.Response()

    error = refused(answer, tmp_path, lambda api, _: api.get(NODES, "n1"))
    assert str(error) == "nodes n1: get: no answer in time"


def test_too_many_requests_are_sent_again_when_the_server_says(tmp_path: Path) -> None:
    times = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal times
        times += 1
        if times < 3:
            response = status(429, "TooManyRequests", "slow down")
            response.headers["Retry-After"] = "0"
            return response
        return web.json_response(named("a"))

    assert talk(answer, tmp_path, lambda api, _: api.get(NODES, "a"))["metadata"]["name"] == "a"
    times = -100
    error = refused(answer, tmp_path, lambda api, _: api.get(NODES, "a"))
    assert (error.code, error.retry_after_s, times) == (429, 0.0, -97)

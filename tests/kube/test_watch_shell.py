"""The asking, against a server that misbehaves as told; and many changes at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from samepath.kube import api_source, following, watch
from samepath.kube.api import Api
from samepath.kube.api_source import ApiSource, Wanted
from samepath.kube.kubeconfig import Kubeconfig
from samepath.kube.resources import BGP_PEERS, IP_POOLS, NAMESPACES, SECRETS
from samepath.model.kinds import BGPPeer, Namespace
from tests.kube.scripted_api import Answer, Scripted, eventually, serve, status, write_kubeconfig


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "WAIT_FIRST_S", 0.01)
    monkeypatch.setattr(following, "WAIT_MOST_S", 0.02)
    monkeypatch.setattr(api_source, "PACE_S", 0.02)


def namespace(name: str, version: int, **labels: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version), "labels": labels}}


def line(kind: str, thing: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


def page(version: int, *items: dict[str, Any]) -> web.Response:
    return web.json_response({"metadata": {"resourceVersion": str(version)}, "items": items})


class Woken:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@asynccontextmanager
async def source_at(
    answer: Answer, folder: Path, *wanted: Wanted
) -> AsyncIterator[tuple[ApiSource, Scripted, Woken]]:
    async with asyncio.timeout(30), serve(answer) as scripted:
        api = Api(Kubeconfig(write_kubeconfig(folder, scripted.url)))
        woken = Woken()
        source = ApiSource(api, wanted or [Wanted(NAMESPACES)], woken, close_api=True)
        task = asyncio.create_task(source.run())
        try:
            yield source, scripted, woken
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def watching(
    answer_watch: Callable[[web.Request, web.StreamResponse], Any],
    answer_list: Callable[[web.Request], web.StreamResponse] | None = None,
) -> Answer:
    """A server whose watches are as told."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return answer_list(request) if answer_list else page(5, namespace("a", 3))
        response = web.StreamResponse()
        await response.prepare(request)
        await answer_watch(request, response)
        return response

    return answer


async def for_ever(request: web.Request, response: web.StreamResponse) -> None:
    await asyncio.sleep(3600)


def doings(scripted: Scripted) -> list[str]:
    names = []
    for request in scripted.asked:
        query = request.query
        what = "watch" if "watch" in query else "probe" if query.get("limit") == "1" else "list"
        names.append(f"{what} {query.get('resourceVersion', 'now')}")
    return names


def test_how_a_list_and_a_watch_are_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        wanted = Wanted(NAMESPACES, label_selector="a=b", field_selector="c=d")
        async with source_at(watching(for_ever), tmp_path, wanted) as (source, scripted, _):
            await eventually(lambda: len(scripted.asked) == 2)
            first, second = (dict(request.query) for request in scripted.asked)
            common = {"labelSelector": "a=b", "fieldSelector": "c=d"}
            assert first == {**common, "resourceVersion": "0"}
            assert 300 <= int(second.pop("timeoutSeconds")) <= 600
            assert second == {
                **common,
                "watch": "true",
                "resourceVersion": "5",
                "allowWatchBookmarks": "true",
            }
            assert source.objects == {"Namespace a": Namespace(name="a")}

    asyncio.run(main())


def test_a_server_that_falls_silent_is_asked_whether_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SILENCE_S", 0.2)

    async def main() -> None:
        async with source_at(watching(for_ever), tmp_path) as (source, scripted, woken):
            await eventually(lambda: len(scripted.asked) >= 6)
            asked = doings(scripted)[:6]
            assert asked == ["list 0", "watch 5", "probe 5", "watch 5", "probe 5", "watch 5"]
            assert source.trouble is None
            assert woken.times == 1

    asyncio.run(main())


def test_an_event_that_is_none_leads_to_a_list(tmp_path: Path) -> None:
    lists = 0

    def answer_list(request: web.Request) -> web.StreamResponse:
        nonlocal lists
        lists += 1
        return page(5 * lists, namespace("a", 3), namespace("b", 4))

    async def bad(request: web.Request, response: web.StreamResponse) -> None:
        if lists == 1:
            await response.write(line("DELETED", namespace("b", 6)) + b"{nonsense\n")
        await asyncio.sleep(3600)

    async def main() -> None:
        async with source_at(watching(bad, answer_list), tmp_path) as (source, scripted, _):
            await eventually(lambda: doings(scripted)[-1:] == ["watch 10"])
            # What stood before the broken line was taken, and its version with it.
            assert doings(scripted) == ["list 0", "watch 5", "list 6", "watch 10"]
            await eventually(lambda: len(source.objects) == 2 and not source.trouble)

    asyncio.run(main())


def test_an_event_too_long_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "WAIT_FIRST_S", 5.0)

    async def endless(request: web.Request, response: web.StreamResponse) -> None:
        for _ in range(2000):
            await response.write(b"x" * 10_000)

    async def main() -> None:
        async with source_at(watching(endless), tmp_path) as (source, _, _w):
            await eventually(lambda: "an event of more than 8388608 octets" in str(source.trouble))
            assert source.in_sync

    asyncio.run(main())


def test_a_missing_right_is_named_and_nothing_is_in_sync(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return status(403, "Forbidden", 'namespaces is forbidden: User "eve" cannot list')

    async def main() -> None:
        async with source_at(answer, tmp_path) as (source, scripted, _):
            await eventually(lambda: "refused" in str(source.trouble))
            assert "the user eve may not list namespaces (RBAC: apiGroups" in str(source.trouble)
            assert not source.in_sync
            await asyncio.sleep(0.1)  # retried slowly: once in half a minute
            assert len(scripted.asked) == 1

    asyncio.run(main())


def test_three_thousand_changes_wake_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_source, "PACE_S", 0.1)

    async def burst(request: web.Request, response: web.StreamResponse) -> None:
        for number in range(3000):
            thing = namespace(f"n{number % 500}", 10 + number, turn=str(number))
            await response.write(line("MODIFIED", thing))
        await asyncio.sleep(3600)

    async def main() -> None:
        began = asyncio.get_running_loop().time()
        async with source_at(watching(burst), tmp_path) as (source, _, woken):
            await eventually(
                lambda: (
                    (found := source.objects.get("Namespace n499"))
                    and found.labels["turn"] == "2999"
                )
            )
            assert len(source.objects) == 501
            took_s = asyncio.get_running_loop().time() - began
            assert woken.times <= took_s / 0.1 + 2

    asyncio.run(main())


def test_what_was_published_stays_as_it_was(tmp_path: Path) -> None:
    """News, and right behind it the same with a newer version: a program compares the mapping that
    it has with the next one, and would find nothing new."""
    go = asyncio.Event()

    async def news(request: web.Request, response: web.StreamResponse) -> None:
        await go.wait()
        twice = [line("MODIFIED", namespace("a", version, turn="1")) for version in (6, 7)]
        await response.write(b"".join(twice))
        await asyncio.sleep(3600)

    async def main() -> None:
        async with source_at(watching(news), tmp_path) as (source, _, _woken):
            await eventually(lambda: source.in_sync)
            before, labels = source.objects, source.objects["Namespace a"].labels
            go.set()
            await eventually(lambda: source.objects["Namespace a"].labels == {"turn": "1"})
            assert source.objects is not before
            assert before["Namespace a"].labels == labels

    asyncio.run(main())


def test_a_bad_object_is_refused_by_name_and_the_last_good_one_stands(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def labels(request: web.Request, response: web.StreamResponse) -> None:
        await response.write(line("MODIFIED", namespace("a", 6, bad=7)))
        await go.wait()
        await response.write(line("MODIFIED", namespace("a", 7, bad=7)))
        await asyncio.sleep(0.05)
        await response.write(line("MODIFIED", namespace("a", 8, good="1")))
        await asyncio.sleep(3600)

    async def main() -> None:
        async with source_at(watching(labels), tmp_path) as (source, _, woken):
            await eventually(lambda: source.refusals)
            (refusal,) = source.refusals
            assert refusal.file == "Namespace a"
            assert refusal.text == "Namespace a: metadata.labels: expected str, got int"
            assert source.objects == {"Namespace a": Namespace(name="a")}
            before = woken.times
            go.set()
            await eventually(lambda: not source.refusals)
            assert source.objects["Namespace a"].labels == {"good": "1"}
            assert woken.times == before + 1  # not for what changed nothing

    asyncio.run(main())


def pool(name: str, cidr: str, version: int) -> dict[str, Any]:
    about = {"name": name, "resourceVersion": str(version)}
    return {"metadata": about, "spec": {"cidr": cidr}}


def test_pools_that_overlap_are_refused_as_in_a_folder(tmp_path: Path) -> None:
    def answer_list(request: web.Request) -> web.StreamResponse:
        return page(5, pool("b", "10.1.0.0/16", 3), pool("a", "10.0.0.0/8", 4))

    async def gone(request: web.Request, response: web.StreamResponse) -> None:
        await go.wait()
        await response.write(line("DELETED", pool("a", "10.0.0.0/8", 9)))
        await asyncio.sleep(3600)

    go = asyncio.Event()

    async def main() -> None:
        async with source_at(watching(gone, answer_list), tmp_path, Wanted(IP_POOLS)) as (
            source,
            _,
            _w,
        ):
            await eventually(lambda: source.in_sync)
            assert list(source.objects) == ["IPPool a"]
            assert [r.text for r in source.refusals] == ["IPPool b overlaps IPPool a (10.0.0.0/8)"]
            go.set()
            await eventually(lambda: list(source.objects) == ["IPPool b"])
            assert source.refusals == ()

    asyncio.run(main())


def test_secrets_are_asked_for_only_if_a_peer_needs_one(tmp_path: Path) -> None:
    go = asyncio.Event()
    spec = {"myASN": 65001, "peerASN": 65000, "peerAddress": "192.0.2.1"}
    peer = {"metadata": {"name": "p", "resourceVersion": "7"}, "spec": spec}

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return page(5)
        response = web.StreamResponse()
        await response.prepare(request)
        if "bgppeers" in request.path:
            await go.wait()
            await response.write(
                line("ADDED", {**peer, "spec": {**spec, "passwordSecret": {"name": "s"}}})
            )
        await asyncio.sleep(3600)
        return response

    def needs(thing: Any) -> bool:
        return isinstance(thing, BGPPeer) and thing.password_secret is not None

    wanted = [Wanted(BGP_PEERS), Wanted(SECRETS, "samepath-system", only_for=needs)]

    async def main() -> None:
        async with source_at(answer, tmp_path, *wanted) as (source, scripted, _):
            await eventually(lambda: source.in_sync and len(scripted.asked) >= 2)
            assert not any("secrets" in request.path for request in scripted.asked)
            go.set()
            await eventually(lambda: any("secrets" in r.path for r in scripted.asked))
            paths = {r.path for r in scripted.asked if "secrets" in r.path}
            assert paths == {"/api/v1/namespaces/samepath-system/secrets"}

    asyncio.run(main())


def test_a_server_that_is_frozen_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection without a peer: no word of the watch, and none in answer to a question."""
    monkeypatch.setattr(watch, "SILENCE_S", 0.2)
    monkeypatch.setattr(watch, "PROBE_S", 0.2)
    frozen = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            frozen.set()
            await asyncio.sleep(3600)
        if frozen.is_set():
            await asyncio.sleep(3600)
        return page(5, namespace("a", 3))

    async def main() -> None:
        async with source_at(answer, tmp_path) as (source, _, _w):
            await eventually(lambda: source.trouble and "no answer in time" in source.trouble)
            assert list(source.objects) == ["Namespace a"]
            frozen.clear()
            await eventually(lambda: source.trouble is None)

    asyncio.run(main())

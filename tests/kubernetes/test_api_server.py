"""What our own API server can be ordered to do, and what it says over HTTP."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from samepath.lab.api_server import ApiServer
from samepath.programs.control import ask

LIMIT_S = 20

Session = aiohttp.ClientSession
Test = Callable[[ApiServer, Session], Awaitable[None]]


def config_map(name: str, **data: str) -> Any:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def running(test: Test) -> Callable[[], None]:
    """The server and the test in one event loop."""

    async def run() -> None:
        server = ApiServer()
        await server.start()
        try:
            async with asyncio.timeout(LIMIT_S), Session(server.url) as session:
                await test(server, session)
        finally:
            await server.stop()

    def both() -> None:
        asyncio.run(run())

    both.__name__ = test.__name__  # type: ignore[attr-defined]
    return both


async def events(session: Session, path: str, **query: str) -> AsyncIterator[Any]:
    async with session.get(path, params={"watch": "1", **query}) as response:
        assert response.status == 200
        async for line in response.content:
            yield json.loads(line)


async def body(session: Session, path: str, **query: str) -> Any:
    async with session.get(path, params=query) as response:
        return await response.json()


MAPS = "/api/v1/namespaces/default/configmaps"


@running
async def test_a_watch_that_breaks_is_cut_and_others_end(
    server: ApiServer, session: Session
) -> None:
    watch = events(session, MAPS)
    server.apply(config_map("a"))
    assert (await anext(watch))["object"]["metadata"]["name"] == "a"
    server.break_watches()
    with pytest.raises(aiohttp.ClientError):
        await anext(watch)
    watch = events(session, MAPS)
    assert (await anext(watch))["type"] == "ADDED"
    server.end_watches()
    assert [event async for event in watch] == []


@running
async def test_bookmarks_come_and_carry_the_version(server: ApiServer, session: Session) -> None:
    server.bookmarks_every(0.01)
    watch = events(session, MAPS, resourceVersion=str(server.version), allowWatchBookmarks="true")
    server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "another"}})
    while (event := await anext(watch))["object"]["metadata"]["resourceVersion"] != str(
        server.version
    ):
        assert event["type"] == "BOOKMARK"
    assert event["type"] == "BOOKMARK"


@running
async def test_a_watch_lasts_as_long_as_was_asked(server: ApiServer, session: Session) -> None:
    assert [event async for event in events(session, MAPS, timeoutSeconds="1")] == []


@running
async def test_initial_events_and_their_end(server: ApiServer, session: Session) -> None:
    server.apply(config_map("a"))
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    watch = events(session, MAPS, **query)
    assert [(await anext(watch))["type"] for _ in "ab"] == ["ADDED", "BOOKMARK"]
    await watch.aclose()  # type: ignore[attr-defined]
    server.initial_events("old-etcd")
    (event,) = [event async for event in events(session, MAPS, **query)]
    assert (event["type"], event["object"]["code"]) == ("ERROR", 500)
    server.initial_events("forbidden")
    found = await body(session, MAPS, watch="1", **query)
    assert (found["code"], found["reason"]) == (422, "Invalid")
    assert "sendInitialEvents is forbidden for watch" in found["message"]


@running
async def test_a_version_that_is_not_there_yet(server: ApiServer, session: Session) -> None:
    found = await body(session, MAPS, resourceVersion="9999999")
    assert (found["code"], found["reason"]) == (504, "Timeout")
    assert found["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


@running
async def test_paused_it_takes_requests_and_answers_later(
    server: ApiServer, session: Session
) -> None:
    server.pause()
    waiting = asyncio.create_task(body(session, MAPS))
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    server.resume()
    assert (await waiting)["kind"] == "ConfigMapList"


@running
async def test_every_third_request_fails(server: ApiServer, session: Session) -> None:
    server.fault(429, each=3)
    codes = []
    for _ in range(6):
        async with session.get(MAPS) as response:
            codes.append(response.status)
            if response.status == 429:
                assert response.headers["Retry-After"] == "1"
    assert codes == [200, 200, 429, 200, 200, 429]
    server.no_faults()
    server.fault(500, times=1, method="POST")
    async with session.get(MAPS) as response:
        assert response.status == 200
    async with session.post(MAPS, json=config_map("a")) as response:
        assert response.status == 500
    async with session.post(MAPS, json=config_map("a")) as response:
        assert response.status == 201


@running
async def test_back_with_an_old_state_versions_go_back(server: ApiServer, session: Session) -> None:
    server.apply(config_map("a", x="1"))
    old = server.snapshot()
    server.apply(config_map("a", x="2"), config_map("b"))
    later = server.version
    await server.come_back(old)
    assert server.version < later
    found = await body(session, MAPS)
    assert [one["data"] for one in found["items"]] == [{"x": "1"}]
    # A watch from a version of the future is silent, as in a real server.
    watch = events(session, MAPS, resourceVersion=str(later), timeoutSeconds="1")
    server.apply(config_map("c"))
    assert [event async for event in watch] == []
    # What was allocated, is: a new Service does not get the address of one that is there.
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}
    server.apply({**service, "spec": {"ports": [{"port": 80}]}})
    addresses = [one["spec"]["clusterIP"] for one in server.list("services")]
    assert len(set(addresses)) == len(addresses)


@running
async def test_an_event_is_encoded_once(server: ApiServer, session: Session) -> None:
    several = [events(session, MAPS, resourceVersion=str(server.version)) for _ in range(3)]
    firsts = [asyncio.create_task(anext(watch)) for watch in several]  # type: ignore[arg-type]
    while server.watches < 3:
        await asyncio.sleep(0)
    server.apply(config_map("a"))
    assert len({json.dumps(await first) for first in firsts}) == 1
    (event,) = [e for e in server.store.collection(("", "configmaps")).log if e.key[1] == "a"]
    assert list(event.encoded) == [("ADDED", "v1")]
    for watch in several:
        await watch.aclose()  # type: ignore[attr-defined]


def test_refused_connections_and_back_on_the_same_port() -> None:
    with ApiServer().in_thread() as server:
        server.apply(config_map("a"))
        url = server.url

        async def get() -> int:
            async with Session(url) as session, session.get(MAPS) as response:
                return response.status

        server.refuse()
        with pytest.raises(aiohttp.ClientConnectionError):
            asyncio.run(get())
        server.accept()
        assert asyncio.run(get()) == 200
        server.restart()
        assert asyncio.run(get()) == 200
        assert server.url == url


def test_the_process_keeps_its_state(tmp_path: Path, eventually: Any) -> None:
    config, state, run_dir = tmp_path / "kubeconfig", tmp_path / "state", str(tmp_path / "run")

    def start() -> subprocess.Popen[bytes]:
        config.unlink(missing_ok=True)
        command = [sys.executable, "-m", "samepath.lab.api_server", "--listen=127.0.0.1:0"]
        options = [f"--state={state}", f"--kubeconfig={config}", f"--run-dir={run_dir}"]
        process = subprocess.Popen([*command, *options])
        eventually(lambda: config.exists() or process.poll() is not None)
        return process

    process = start()
    try:
        ask(run_dir, "api-server", "apply", manifests=json.dumps(config_map("a", x="1")))
        version = ask(run_dir, "api-server", "status")["answer"]["version"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
        process = start()
        assert ask(run_dir, "api-server", "status")["answer"]["version"] == version
        ask(run_dir, "api-server", "keep")
        ask(run_dir, "api-server", "apply", manifests=json.dumps(config_map("b")))
        ask(run_dir, "api-server", "restart", kept=True)
        assert ask(run_dir, "api-server", "status")["answer"]["version"] == version
        with pytest.raises(ValueError, match="latency"):
            ask(run_dir, "api-server", "latency", hours=1)
    finally:
        process.kill()
        process.wait()

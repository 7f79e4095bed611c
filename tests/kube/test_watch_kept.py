"""What was known last outlives the process, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from samepath.kube import api_source, following
from samepath.kube.api import Api
from samepath.kube.api_source import ApiSource, Wanted
from samepath.kube.kept import ALIVE_S, Kept
from samepath.kube.kubeconfig import Kubeconfig
from samepath.kube.objects import object_key
from samepath.kube.resources import NAMESPACES, NODES
from samepath.model.cluster import (
    Endpoint,
    EndpointSlice,
    IPPool,
    Node,
    NodeDrain,
    Object,
    Service,
    ServicePort,
    SlicePort,
)
from samepath.model.kinds import (
    BFDProfile,
    BGPAdvertisement,
    BGPPeer,
    IPAddressPool,
    Namespace,
    Operator,
    Range,
    Requirement,
    Secret,
    Selector,
)
from samepath.model.neighbor import BfdProfile
from samepath.model.net import Family, parse_prefix
from tests.kube.scripted_api import eventually, serve, write_kubeconfig

SELECTOR = Selector((Requirement("a", Operator.IN, ("b", "c")),))
THINGS: list[Object] = [
    Node("n1", (parse_prefix("10.1.0.0/24"),), NodeDrain.LABEL, (b"\n\0\0\1",), {"a": "b"}),
    Service("d", "s", (ServicePort(80),), cluster_ips=(b"\n\0\0\2",), resource_version="7"),
    EndpointSlice("d", "s-1", "s", Family.IPV6, (SlicePort(1),), (Endpoint(b"\1" * 16),)),
    IPPool("p", *parse_prefix("10.0.0.0/8"), 26),
    BGPPeer(name="p", my_asn=1, peer_asn="external", peer_address=b"\1\2\3\4"),
    BGPAdvertisement(name="b", node_selectors=(SELECTOR,)),
    IPAddressPool(name="i", addresses=(Range(b"\1\2\3\0", b"\1\2\3\7"),)),
    BFDProfile(name="f", profile=BfdProfile(detect_multiplier=5)),
    Secret(namespace="samepath-system", name="s", password="secret"),
]
OBJECTS = {object_key(thing): thing for thing in THINGS}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept", "server")
    assert kept.read() is None
    before = time.time()
    kept.write(OBJECTS)
    found = Kept(tmp_path / "kept", "server").read()
    assert found is not None
    assert found.objects == OBJECTS
    assert found.written_at >= before
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["kept"]


@pytest.mark.parametrize("at", [0, 5, 22, 40, 60, 200, -1])
def test_a_damaged_file_is_no_file(
    tmp_path: Path, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(tmp_path / "kept", "server")
    kept.write(OBJECTS)
    octets = bytearray((tmp_path / "kept").read_bytes())
    octets[at] ^= 1
    (tmp_path / "kept").write_bytes(octets)
    assert kept.read() is None
    assert "not used" in caplog.text
    (tmp_path / "kept").write_bytes(octets[: len(octets) // 2])
    assert kept.read() is None


def test_of_another_server_readable_by_others_or_too_old_it_is_no_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "kept"
    kept = Kept(path, "server")
    kept.write(OBJECTS)
    assert Kept(path, "another").read() is None
    path.chmod(0o640)
    assert kept.read() is None
    path.chmod(0o600)
    os.utime(path, (0, time.time() - ALIVE_S - 1))
    assert kept.read() is None
    kept.alive()
    assert kept.read() is not None
    words = ("of another server", "others could have", "too old")
    assert all(word in caplog.text for word in words)


def test_a_program_with_another_model_does_not_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(tmp_path / "kept", "server")
    kept.write(OBJECTS)
    monkeypatch.setattr("samepath.kube.kept._schema", lambda: "another")
    assert kept.read() is None
    assert "of another version" in caplog.text


@asynccontextmanager
async def source_at(url: str, folder: Path) -> AsyncIterator[ApiSource]:
    api = Api(Kubeconfig(write_kubeconfig(folder, url)))
    kept = Kept(folder / "kept", "server")
    wanted = [Wanted(NAMESPACES), Wanted(NODES)]
    source = ApiSource(api, wanted, lambda: None, close_api=True, kept=kept)
    task = asyncio.create_task(source.run())
    try:
        yield source
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_restart_while_the_server_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_source, "PATIENCE_S", 0.3)
    monkeypatch.setattr(following, "WAIT_FIRST_S", 0.05)
    monkeypatch.setattr(following, "WAIT_MOST_S", 0.05)
    is_away, nodes_away, names = False, False, ["a", "b"]

    async def answer(request: web.Request) -> web.StreamResponse:
        if is_away or (nodes_away and "nodes" in request.path):
            return web.Response(status=503)
        if "watch" in request.query:
            await asyncio.sleep(3600)
        items = [{"metadata": {"name": n, "resourceVersion": "3"}} for n in names]
        items = items if "namespaces" in request.path else []
        return web.json_response({"metadata": {"resourceVersion": "5"}, "items": items})

    async def main() -> None:
        nonlocal is_away, nodes_away, names
        async with asyncio.timeout(30), serve(answer) as scripted:
            async with source_at(scripted.url, tmp_path) as source:
                await eventually(lambda: source.in_sync)
            is_away = True
            both = {f"Namespace {n}": Namespace(name=n) for n in ("a", "b")}
            async with source_at(scripted.url, tmp_path) as source:
                await eventually(lambda: source.trouble and "503" in source.trouble)
                assert not source.in_sync  # the server has a moment
                await eventually(lambda: source.in_sync)
                assert source.objects == both
                assert "what was known at 20" in str(source.trouble)
                # Half of an answer is none: what was known stands until all has been read.
                is_away, nodes_away, names = False, True, ["a"]
                namespaces = source._followed[0].following
                await eventually(lambda: namespaces.in_sync)
                await asyncio.sleep(0.2)
                assert source.objects == both
                nodes_away = False
                await eventually(lambda: source.trouble is None)
                await eventually(lambda: list(source.objects) == ["Namespace a"])
            recalled = Kept(tmp_path / "kept", "server").read()
            assert recalled is not None
            assert list(recalled.objects) == ["Namespace a"]

    asyncio.run(main())

"""A folder as a source: what changes is seen in milliseconds, what breaks changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from samepath.kube import manifests
from samepath.kube.manifests import Manifests


def service(name: str, port: int = 80) -> str:
    return (
        f"kind: Service\napiVersion: v1\nmetadata: {{name: {name}}}\n"
        f"spec: {{ports: [{{port: {port}}}]}}\n---\n"
    )


class Watched:
    """A running source; `until` waits for a condition, with a limit."""

    def __init__(self, source: Manifests, woken: asyncio.Event) -> None:
        self.source = source
        self._woken = woken

    def names(self) -> set[str]:
        return {key.removeprefix("Service default/") for key in self.source.objects}

    def port(self, name: str) -> int:
        return self.source.objects[f"Service default/{name}"].ports[0].port  # type: ignore[union-attr]

    async def until(self, condition: Callable[[], bool], limit_s: float = 30.0) -> float:
        started = time.monotonic()
        async with asyncio.timeout(limit_s):
            while not condition():
                self._woken.clear()
                with contextlib.suppress(TimeoutError):  # not all that is waited for wakes
                    await asyncio.wait_for(self._woken.wait(), 0.05)
        return time.monotonic() - started


@asynccontextmanager
async def watching(folder: Path, *, sync: bool = True) -> AsyncIterator[Watched]:
    woken = asyncio.Event()
    source = Manifests(str(folder), woken.set)
    task = asyncio.create_task(source.run())
    watched = Watched(source, woken)
    try:
        if sync:
            await watched.until(lambda: source.in_sync)
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "manifests"
    made.mkdir()
    return made


def put(path: Path, text: str) -> None:
    """Atomically, as careful writers do."""
    other = path.with_name(f".{path.name}.new")
    other.write_text(text)
    other.rename(path)


def test_files_come_change_and_go(folder: Path) -> None:
    (folder / "a.yaml").write_text(service("a") + service("b"))
    (folder / "c.json").write_text(
        '{"kind": "Service", "apiVersion": "v1", "metadata": {"name": "c"}, "spec": {}}'
    )
    (folder / ".a.yaml.swp").write_text("{{{")
    (folder / "a.yaml~").write_text("{{{")
    (folder / "notes.txt").write_text("{{{")

    async def scenario() -> None:
        async with watching(folder) as it:
            assert it.names() == {"a", "b", "c"}
            (folder / "d.yml").write_text(service("d"))
            await it.until(lambda: "d" in it.names())
            put(folder / "a.yaml", service("a", 81))
            await it.until(lambda: it.names() == {"a", "c", "d"} and it.port("a") == 81)
            (folder / "d.yml").rename(folder / "e.yml")
            (folder / "c.json").unlink()
            await it.until(lambda: it.names() == {"a", "d"})
            assert it.source.refusals == ()
            assert it.source.trouble is None

    asyncio.run(scenario())


@pytest.mark.alone
def test_a_change_is_seen_within_milliseconds(folder: Path) -> None:
    for i in range(100):
        (folder / f"{i}.yaml").write_text(service(f"s{i}"))

    async def scenario() -> list[float]:
        took = []
        async with watching(folder) as it:
            for i in range(30):
                started = time.monotonic()
                if i % 2:
                    put(folder / "5.yaml", service("s5", 1000 + i))
                else:
                    (folder / "5.yaml").write_text(service("s5", 1000 + i))
                await it.until(lambda i=i: it.port("s5") == 1000 + i)  # type: ignore[misc]
                took.append(time.monotonic() - started)
        return took

    took = sorted(asyncio.run(scenario()))
    assert took[len(took) // 2] < 0.1, took


def test_a_broken_file_changes_nothing_and_is_named(folder: Path) -> None:
    (folder / "a.yaml").write_text(service("a"))
    (folder / "b.yaml").write_text(service("b"))

    async def scenario() -> None:
        async with watching(folder) as it:
            put(folder / "a.yaml", service("a", 81) + "kind: Service\napiVersion: v1\nspec: 5\n")
            await it.until(lambda: bool(it.source.refusals))
            (refusal,) = it.source.refusals
            assert refusal.file == "a.yaml"
            assert refusal.text == "a.yaml:8: spec: expected object, got int"
            assert it.names() == {"a", "b"}
            assert it.port("a") == 80
            put(folder / "b.yaml", service("b", 82))
            await it.until(lambda: it.port("b") == 82)
            assert it.port("a") == 80
            (folder / "a.yaml").write_bytes(b"\xff\xfe\xfa")
            await it.until(lambda: "not UTF-8" in it.source.refusals[0].text)
            put(folder / "a.yaml", service("a", 83))
            await it.until(lambda: it.source.refusals == ())
            assert it.port("a") == 83

    asyncio.run(scenario())


def test_an_object_in_two_files_is_refused_in_the_later(folder: Path) -> None:
    (folder / "a.yaml").write_text(service("x", 1))
    (folder / "b.yaml").write_text(service("other") + service("x", 2))

    async def scenario() -> None:
        async with watching(folder) as it:
            (refusal,) = it.source.refusals
            assert refusal.text == "b.yaml:6: Service default/x stands in a.yaml, too"
            assert it.names() == {"x", "other"}
            assert it.port("x") == 1
            (folder / "a.yaml").unlink()
            await it.until(lambda: it.port("x") == 2)
            assert it.source.refusals == ()
            put(folder / "b.yaml", service("x") + service("x"))
            await it.until(lambda: bool(it.source.refusals))
            assert "b.yaml:6: Service default/x stands in line 1, too" in str(it.source.refusals)

    asyncio.run(scenario())


def pool(name: str, cidr: str) -> str:
    return (
        f"kind: IPPool\napiVersion: samepath.dev/v1\nmetadata: {{name: {name}}}\n"
        f"spec: {{cidr: '{cidr}'}}\n---\n"
    )


def test_of_pools_that_overlap_the_first_by_name_stands(folder: Path) -> None:
    (folder / "a.yaml").write_text(service("x") + pool("zone", "10.0.0.0/8"))
    (folder / "b.yaml").write_text(pool("early", "10.1.0.0/16") + pool("six", "fd00::/48"))

    async def scenario() -> None:
        async with watching(folder) as it:
            assert set(it.source.objects) == {"Service default/x", "IPPool early", "IPPool six"}
            (refusal,) = it.source.refusals
            said = "a.yaml:6: IPPool zone overlaps IPPool early (10.1.0.0/16) in b.yaml"
            assert refusal.text == said
            put(folder / "b.yaml", pool("six", "fd00::/48"))
            await it.until(lambda: "IPPool zone" in it.source.objects)
            assert it.source.refusals == ()

    asyncio.run(scenario())


def test_the_folder_gone_and_back(folder: Path) -> None:
    (folder / "a.yaml").write_text(service("a"))
    (folder / "b.yaml").write_text(service("b"))

    async def scenario() -> None:
        async with watching(folder) as it:
            shutil.rmtree(folder)
            await it.until(lambda: "No such file" in str(it.source.trouble))
            assert it.names() == {"a", "b"}
            folder.mkdir()
            await it.until(lambda: "empty folder" in str(it.source.trouble))
            assert it.names() == {"a", "b"}
            (folder / "a.yaml").write_text(service("a", 81))
            await it.until(lambda: it.port("a") == 81)
            await it.until(lambda: it.names() == {"a"})
            assert it.source.trouble is None
            # Emptied by hand, file by file, is another thing than replaced.
            (folder / "a.yaml").unlink()
            await it.until(lambda: it.names() == set())

    asyncio.run(scenario())


def test_a_folder_that_is_not_there_yet(folder: Path) -> None:
    folder.rmdir()

    async def scenario() -> None:
        async with watching(folder, sync=False) as it:
            await it.until(lambda: "No such file" in str(it.source.trouble))
            assert not it.source.in_sync
            folder.mkdir()
            await it.until(lambda: it.source.in_sync)
            (folder / "a.yaml").write_text(service("a"))
            await it.until(lambda: it.names() == {"a"})

    asyncio.run(scenario())


@pytest.mark.alone
def test_a_configmap_is_swung_over(folder: Path) -> None:
    def write(version: str, text: str) -> None:
        (folder / version).mkdir()
        (folder / version / "a.yaml").write_text(text)
        (folder / "..tmp").symlink_to(version)
        (folder / "..tmp").rename(folder / "..data")

    write("..v1", service("a", 1))
    (folder / "a.yaml").symlink_to("..data/a.yaml")

    async def scenario() -> None:
        async with watching(folder) as it:
            assert it.port("a") == 1
            write("..v2", service("a", 2))
            took = await it.until(lambda: it.port("a") == 2)
            assert took < 0.5
            shutil.rmtree(folder / "..v1")

    asyncio.run(scenario())


def test_writing_slowly_shows_no_half_file(folder: Path) -> None:
    (folder / "a.yaml").write_text(service("a") + service("b"))

    async def scenario() -> None:
        async with watching(folder) as it:
            seen: list[set[str]] = []
            with open(folder / "a.yaml", "w") as file:
                file.write(service("a", 81))
                file.flush()
                # Another file's event makes the folder be looked through meanwhile.
                (folder / "other.yaml").write_text(service("c"))
                await it.until(lambda: "c" in it.names())
                seen.append(it.names())
                file.write(service("b", 82))
            await it.until(lambda: it.port("b") == 82)
            assert seen == [{"a", "b", "c"}]
            # Truncated, and written a moment later: the objects stay meanwhile.
            (folder / "a.yaml").write_text("")
            (folder / "other.yaml").write_text(service("c", 90))
            await it.until(lambda: it.port("c") == 90)
            assert it.names() == {"a", "b", "c"}
            await it.until(lambda: it.names() == {"c"})

    asyncio.run(scenario())


def test_lost_events_cost_time_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "RESCAN_S", 0.1)
    elsewhere = folder.parent / "elsewhere.yaml"
    elsewhere.write_text(service("a", 1))
    (folder / "a.yaml").symlink_to(elsewhere)
    os.mkfifo(folder / "pipe.yaml")

    async def scenario() -> None:
        async with watching(folder) as it:
            elsewhere.write_text(service("a", 2))  # no event in the folder itself
            await it.until(lambda: it.port("a") == 2)

    asyncio.run(scenario())


def test_worlds_in_any_order_end_the_same(folder: Path) -> None:
    """STYLE: a scenario is a list of worlds; only the last one counts."""
    worlds: list[dict[str, str]] = [
        {"a.yaml": service("a", 1), "b.yaml": service("b", 1)},
        {"a.yaml": service("b", 2), "c.yaml": service("a", 2)},
        {"b.yaml": service("a", 3) + service("b", 3)},
    ]

    async def settle(it: Watched, world: dict[str, str]) -> dict[str, int]:
        for name in os.listdir(folder):
            if name not in world:
                (folder / name).unlink()
        for name, text in world.items():
            put(folder / name, text)
        want = set(world)
        await it.until(lambda: set(it.source._files) == want and not it.source.refusals)
        return {name: it.port(name) for name in sorted(it.names())}

    async def run(order: list[dict[str, str]]) -> dict[str, int]:
        for name in os.listdir(folder):
            (folder / name).unlink()
        last: dict[str, int] = {}
        async with watching(folder) as it:
            for world in order:
                last = await settle(it, world)
        return last

    async def scenario() -> None:
        assert await run(worlds) == await run([worlds[2]]) == {"a": 3, "b": 3}
        assert await run(worlds[::-1]) == await run([worlds[0]]) == {"a": 1, "b": 1}

    asyncio.run(scenario())

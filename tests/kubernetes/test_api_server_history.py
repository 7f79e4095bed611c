"""Random histories: lists of any version, and watches from any version, agree with a plain model.

The server's parts below HTTP, driven directly; a watch's chunks are read as far as they are there.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as s

from samepath.lab.api_server import ApiServer, lists, watches
from samepath.lab.api_server.kinds import CONFIG_MAPS
from samepath.lab.api_server.selectors import selection
from samepath.lab.api_server.status import StatusError

NAMES = s.sampled_from("abcd")
COLOURS = s.sampled_from(("red", "blue", ""))
OPERATIONS = s.lists(
    s.one_of(
        s.tuples(s.just("put"), NAMES, COLOURS, s.integers(0, 3)),
        s.tuples(s.just("delete"), NAMES),
        s.tuples(s.just("compact")),
        s.tuples(s.just("watch"), s.sampled_from(("", "colour=red"))),
    ),
    max_size=25,
)

Model = dict[str, tuple[str, int]]


def body(name: str, colour: str, value: int) -> Any:
    labels = {"colour": colour} if colour else {}
    return {"metadata": {"name": name, "labels": labels}, "data": {"value": str(value)}}


def seen(thing: Any) -> tuple[str, int]:
    labels = thing["metadata"].get("labels") or {}
    return labels.get("colour", ""), int(thing["data"]["value"])


def listed(server: ApiServer, selector: str = "", **asked: Any) -> tuple[Model, int]:
    """In pages of two."""
    found: Model = {}
    collection = server.store.collection(CONFIG_MAPS.key)
    selects = selection(CONFIG_MAPS, selector, "")
    page = lists.read(
        server.store,
        collection,
        lists.Asked(namespace="default", limit=2, selects=selects, **asked),
    )
    while True:
        found |= {thing.metadata["name"]: seen(thing.body) for thing in page.items}
        if not page.token:
            return found, page.version
        more = lists.Asked(namespace="default", limit=2, selects=selects, token=page.token)
        page = lists.read(server.store, collection, more)


class Follower:
    """Lists, then watches, as a client does; its state is what events have made of it."""

    def __init__(self, server: ApiServer, selector: str) -> None:
        self.selector = selector
        self.state, version = listed(server, selector)
        asked = watches.Asked(
            CONFIG_MAPS,
            "default",
            str(version),
            selection(CONFIG_MAPS, selector, ""),
            bookmarks=True,
            timeout_s=0,
        )
        collection = server.store.collection(CONFIG_MAPS.key)
        self.watch = watches.Watch(server.store, collection, asked, 60)
        self.version = version

    def follow(self) -> None:
        async def read() -> bytes:
            return b"".join([chunk async for chunk in self.watch.chunks()])

        for line in asyncio.run(read()).splitlines():
            event = json.loads(line)
            name, version = (event["object"]["metadata"][n] for n in ("name", "resourceVersion"))
            assert int(version) > self.version, "events are in order, none twice"
            self.version = int(version)
            assert (name in self.state) is (event["type"] != "ADDED")
            if event["type"] == "DELETED":
                del self.state[name]
            else:
                self.state[name] = seen(event["object"])


def selected(model: Model, selector: str) -> Model:
    return {n: v for n, v in model.items() if not selector or v[0] == "red"}


@given(OPERATIONS)
@settings(max_examples=150, deadline=None)
def test_every_list_and_every_watch_agrees_with_the_model(operations: list[Any]) -> None:
    server = ApiServer()
    model: Model = {}
    history: dict[int, Model] = {server.version: {}}
    followers: list[Follower] = []
    for what, *words in operations:
        if what == "put":
            name, colour, value = words
            server.apply({"apiVersion": "v1", "kind": "ConfigMap", **body(name, colour, value)})
            changed = model.get(name) != (colour, value)
            model[name] = (colour, value)
            assert (server.version in history) is not changed, "no change, no version"
        elif what == "delete" and words[0] in model:
            server.delete("configmaps", words[0], "default")
            del model[words[0]]
        elif what == "compact":
            server.compact()
            history = {}
        elif what == "watch":
            followers.append(Follower(server, words[0]))
        history[server.version] = dict(model)
    assert listed(server)[0] == model
    for version, then in history.items():
        assert listed(server, version=str(version), match="Exact") == (then, version)
        for selector in ("", "colour=red"):
            found = listed(server, selector, version=str(version), match="Exact")[0]
            assert found == selected(then, selector)
    for follower in followers:
        follower.follow()
        assert follower.state == selected(model, follower.selector)
        follower.watch.close()
    assert not server.store.collection(CONFIG_MAPS.key).watchers


def test_a_watch_of_what_is_forgotten_fails_and_a_list_too() -> None:
    server = ApiServer()
    for value in range(3):
        server.apply({"apiVersion": "v1", "kind": "ConfigMap", **body("a", "", value)})
    old = server.version - 2
    server.compact()
    with pytest.raises(StatusError, match="too old"):
        listed(server, version=str(old), match="Exact")
    collection = server.store.collection(CONFIG_MAPS.key)
    asked = watches.Asked(CONFIG_MAPS, "", str(old))
    watch = watches.Watch(server.store, collection, asked, 60)

    async def read() -> list[bytes]:
        return [chunk async for chunk in watch.chunks()]

    (line,) = asyncio.run(read())
    event = json.loads(line)
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
    assert event["object"]["message"] == f"too old resource version: {old} ({server.version})"

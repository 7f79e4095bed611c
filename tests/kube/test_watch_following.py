"""Whatever a server does, in whatever order: once it is sane again, we know what it knows; and no
answer makes us ask without pause."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.kube.api_errors import ApiError, Unreachable
from samepath.kube.following import (
    Broken,
    Doing,
    ErrorEvent,
    Following,
    Remedy,
    Step,
    remedy,
)
from samepath.kube.wire import ObjectMeta, WireError
from samepath.model.cluster import Object
from samepath.model.documents import DocumentError
from samepath.model.kinds import Namespace


def read(raw: msgspec.Raw, about: ObjectMeta) -> Object | None:
    value = json.loads(bytes(raw))["value"]
    if value == "bad":
        raise DocumentError(f"Thing {about.name}", 0, "value", "is bad")
    return None if value == "other" else Namespace(name=about.name, labels={"value": value})


def thing(name: str, value: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "value": value}


def raws(*things: dict[str, Any]) -> list[msgspec.Raw]:
    return [msgspec.Raw(json.dumps(t).encode()) for t in things]


def event(kind: str, of: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": of}).encode()


def following(**more: Any) -> Following:
    return Following(read, lambda: 0.5, **more)


@dataclass
class Server:
    """What an API server keeps: objects, and a history that may be cut."""

    version: int = 100
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[int, bytes]] = field(default_factory=list)
    compacted: int = 100
    backup: tuple[int, dict[str, dict[str, Any]]] = (90, {})

    def put(self, name: str, value: str) -> None:
        self.version += 1
        kind = "MODIFIED" if name in self.objects else "ADDED"
        self.objects[name] = thing(name, value, self.version)
        self.history.append((self.version, event(kind, self.objects[name])))

    def delete(self, name: str) -> None:
        if name in self.objects:
            self.version += 1
            gone = self.objects.pop(name)
            gone = {**gone, "metadata": {"name": name, "resourceVersion": str(self.version)}}
            self.history.append((self.version, event("DELETED", gone)))

    def compact(self) -> None:
        self.compacted = self.version
        self.history = []

    def save(self) -> None:
        self.backup = self.version, dict(self.objects)

    def restore(self) -> None:
        self.version, objects = self.backup
        self.objects = dict(objects)
        self.compact()

    def answer(self, client: Following, step: Step, cut: int | None = None) -> None:
        """As a sane server does; `cut`: the connection is lost after so many events."""
        match step.doing:
            case Doing.LIST:
                if step.version not in ("", "0") and int(step.version) > self.version:
                    raise ApiError(504, "Timeout", "Too large resource version")
                client.take_items(raws(*self.objects.values()))
                client.listed(str(self.version))
            case Doing.PROBE:
                if int(step.version) > self.version:
                    raise ApiError(504, "Timeout", "Too large resource version")
                client.probed()
            case Doing.WATCH:
                client.opened()
                since = int(step.version)
                if since > self.version:
                    client.silent()
                    return
                if since < self.compacted:
                    expired = {"kind": "Status", "code": 410, "reason": "Expired"}
                    client.take_lines([event("ERROR", expired)])
                lines = [line for version, line in self.history if version > since]
                client.take_lines(lines[:cut])
                if cut is not None:
                    raise Unreachable(0, "", "connection lost")
                client.take_lines([event("BOOKMARK", thing("", "", self.version))])
                client.ended(600.0)


def drive(server: Server, client: Following, how: str) -> Step:
    step = client.next_step()
    try:
        match how:
            case "sane":
                server.answer(client, step)
            case "cut":
                server.answer(client, step, cut=1)
            case "unreachable":
                raise Unreachable(0, "", "no answer")
            case "broken":
                client.take_lines([b'{"type":"ADDED","object":{"metadata":{}}}'])
            case "error event":
                client.take_lines([event("ERROR", {"code": 500, "reason": "InternalError"})])
            case "half a list":
                if step.doing is Doing.LIST:
                    client.take_items(raws(*list(server.objects.values())[:1]))
                raise Unreachable(0, "", "lost in the middle")
            case "ends at once" if step.doing is Doing.WATCH:
                client.ended(0.0)
            case "expires" if step.doing is Doing.WATCH:
                raise ErrorEvent(410, "Expired", "too old")
            case "ends at once" | "expires":
                server.answer(client, step)
            case code:
                raise ApiError(int(code), "", "no")
    except Broken as broken:
        client.failed(broken.cause, 0.0)
    except (ApiError, WireError) as error:
        client.failed(error, 0.0)
    return step


SANE = ["sane", "sane", "sane", "cut", "expires", "ends at once"]
BAD = ["unreachable", "broken", "error event", "half a list"]
REFUSALS = ["401", "403", "404", "410", "429", "500", "503", "504"]
HOWS = st.sampled_from([*SANE, *BAD, *REFUSALS])
NAMES = st.sampled_from("abcd")
DEEDS = st.one_of(
    st.tuples(st.just("put"), NAMES, st.sampled_from(["1", "2", "bad", "other"])),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("compact")),
    st.tuples(st.just("save")),
    st.tuples(st.just("restore")),
    st.tuples(st.just("client"), HOWS),
    st.tuples(st.just("client"), HOWS),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(DEEDS, max_size=40))
def test_in_the_end_we_know_what_the_server_knows(deeds: list[Any]) -> None:
    server, client = Server(), following(optional=True)
    for deed, *terms in deeds:
        if deed == "client":
            drive(server, client, terms[0])
        else:
            getattr(server, deed)(*terms)
        if deed == "restore":
            # A server is gone while it is restored; we ask again before it has caught up with us.
            drive(server, client, "unreachable")
            assert any(drive(server, client, "sane").doing is Doing.WATCH for _ in range(5))
    for _ in range(8):
        drive(server, client, "sane")
    assert client.in_sync
    assert not client.trouble
    good = {
        name: Namespace(name=name, labels={"value": t["value"]})
        for name, t in server.objects.items()
        if t["value"] not in ("bad", "other")
    }
    bad = {name for name, t in server.objects.items() if t["value"] == "bad"}
    assert {key[1]: t for key, t in client.rows.items() if key not in client.refused} == good
    assert {key[1] for key in client.refused} == bad


@settings(max_examples=200, deadline=None)
@given(st.lists(HOWS, min_size=30, max_size=30))
def test_no_answers_make_a_hot_loop(hows: list[str]) -> None:
    server, client = Server(), following()
    waited_s = 0.0
    for how in hows:
        how = "expires" if how in ("sane", "cut") else how
        waited_s += drive(server, client, how).wait_s
    assert waited_s > 60.0


def listed(client: Following, *things: dict[str, Any], version: str = "5") -> Any:
    step = client.next_step()
    assert step.doing is Doing.LIST
    client.take_items(raws(*things))
    return client.listed(version)


def test_a_delete_that_was_missed_is_found_by_the_next_list() -> None:
    client = following()
    listed(client, thing("a", "1", 3), thing("b", "1", 4))
    assert client.next_step().version == "5"
    client.failed(ErrorEvent(410, "Expired", "too old"), 60.0)
    step = client.next_step()
    assert (step.doing, step.version) == (Doing.LIST, "5")
    client.take_items(raws(thing("a", "1", 3)))
    changes = client.listed("9")
    assert [c.old.name for c in changes if c.old and c.new is None] == ["b"]
    assert {key[1] for key in client.rows} == {"a"}


def test_the_last_good_one_stands_and_the_bad_one_is_named() -> None:
    client = following()
    listed(client, thing("a", "1", 3))
    client.take_lines([event("MODIFIED", thing("a", "bad", 6))])
    assert client.rows["", "a"] == Namespace(name="a", labels={"value": "1"})
    assert client.refused["", "a"] == "Thing a: value: is bad"
    client.take_lines([event("DELETED", thing("a", "bad", 7))])
    assert (client.rows, client.refused) == ({}, {})


def test_bookmarks_move_the_version() -> None:
    client = following()
    listed(client)
    client.take_lines([event("BOOKMARK", thing("", "", 77))])
    client.ended(600.0)
    step = client.next_step()
    assert (step.doing, step.version, step.wait_s) == (Doing.WATCH, "77", 0.0)
    assert 300 <= step.timeout_s <= 600


def test_the_first_list_is_from_the_cache_and_one_after_a_restore_from_etcd() -> None:
    client = following()
    assert client.next_step().version == "0"
    client.failed(ApiError(504, "Timeout", "Too large resource version"))
    assert client.next_step().version == ""


def test_a_watch_that_ended_early_is_resumed_only_after_a_probe() -> None:
    client = following()
    listed(client)
    assert client.next_step().timeout_s == 450
    client.ended(400.0)
    assert client.next_step().doing is Doing.PROBE
    client.probed()
    client.next_step()
    client.ended(450.2)
    assert client.next_step().doing is Doing.WATCH


def test_a_watch_that_was_lost_is_resumed_only_after_a_probe() -> None:
    client = following()
    listed(client)
    client.next_step()
    client.failed(Unreachable(0, "", "reset"), 60.0)
    step = client.next_step()
    assert (step.doing, step.version) == (Doing.PROBE, "5")
    client.failed(ApiError(504, "Timeout", "Too large resource version"))
    step = client.next_step()
    assert (step.doing, step.version) == (Doing.LIST, "")


def test_a_missing_kind_of_ours_is_empty_and_another_is_trouble() -> None:
    ours, other = following(optional=True), following()
    for client in (ours, other):
        client.next_step()
        client.failed(ApiError(404, "NotFound", "the server could not find the resource"))
    assert (ours.in_sync, ours.is_missing, ours.trouble) == (True, True, "")
    assert (other.in_sync, other.is_missing) == (False, False)
    assert other.trouble
    assert min(ours.next_step().wait_s, other.next_step().wait_s) > 10.0


def test_a_kind_that_goes_missing_keeps_what_is_known() -> None:
    client = following(optional=True)
    listed(client, thing("a", "1", 3))
    client.failed(ErrorEvent(410, "Expired", "too old"))
    client.next_step()
    client.failed(ApiError(404, "NotFound", "gone"))
    assert {key[1] for key in client.rows} == {"a"}


def test_retry_after_is_waited_for() -> None:
    client = following()
    client.next_step()
    client.failed(ApiError(429, "TooManyRequests", "slow down", retry_after_s=45.0))
    assert client.next_step().wait_s >= 45.0


def test_only_a_watch_that_has_lived_makes_us_patient_no_more() -> None:
    client = following()
    for _ in range(6):
        client.next_step()
        client.failed(ApiError(500, "", "no"))
    listed(client)
    client.next_step()
    client.failed(Unreachable(0, "", "reset"), 1.0)
    assert client.next_step().wait_s > 10.0
    client.probed()
    client.next_step()
    client.failed(Unreachable(0, "", "reset"), 60.0)
    assert client.next_step().wait_s < 1.0


@pytest.mark.parametrize("doing", list(Doing))
@pytest.mark.parametrize("code", [0, 302, 400, 401, 403, 404, 409, 410, 422, 429, 500, 503, 504])
def test_every_failure_has_a_remedy(doing: Doing, code: int) -> None:
    error = Unreachable(0, "", "") if code == 0 else ApiError(code, "", "")
    assert remedy(doing, error, optional=True) in Remedy
    assert remedy(doing, ErrorEvent(code, "", ""), optional=True) is Remedy.LIST_AGAIN

"""Targets: texts that people and programs write (manifests, configuration, selectors, questions).

What must hold: a text is taken, or refused with an error that names file and line and can be shown
on one line; nothing else is raised, whatever the depth or size. A document that is read as YAML and
written as JSON is read again as itself, and gives the same objects. A selector that is read gives
the same answer in parentheses, and the opposite behind a `!`. A question to the control socket has
an answer that is JSON.
"""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import msgspec

from samepath.hashing.flow import bucket
from samepath.kube.objects import object_key, parse_objects
from samepath.model import selector as selectors
from samepath.model.config import AgentConfig, GatewayConfig
from samepath.model.documents import Document, DocumentError, decode, parse
from samepath.programs import control
from samepath.programs.gateway_trace import _flow as flow_of

TEXT_LIMIT = 1 << 16


def manifests(data: bytes) -> None:
    """One octet: YAML or JSON; then the text."""
    for document in read(data):
        objects = objects_of(document)
        if not is_json(document.data):
            continue
        written = json.dumps(document.data)
        (again,) = parse(written, "again.json") or [Document("", 1, None, {})]
        assert again.data == document.data
        assert objects_of(again) == objects


def read(data: bytes) -> list[Document]:
    name = "fuzz.json" if data[:1] == b"j" else "fuzz.yaml"
    try:
        text = data[1 : TEXT_LIMIT + 1].decode()
    except UnicodeDecodeError:
        return []
    try:
        documents = parse(text, name)
    except DocumentError as error:
        check_error(error, text)
        return []
    for document in documents:
        assert 1 <= document.line <= text.count("\n") + 1 or "\r" in text or not text.isascii()
        assert document.data is not None
    return documents


def check_error(error: DocumentError, text: str = "") -> None:
    assert str(error)
    assert error.line >= 0
    assert error.file
    assert len(str(error)) < 4 * TEXT_LIMIT


def objects_of(document: Document) -> list[object]:
    """The objects up to the first that is refused."""
    found: list[object] = []
    try:
        for part, thing in parse_objects(document):
            assert object_key(thing)
            assert repr(thing)
            assert part.line >= 0
            found.append(thing)
    except DocumentError as error:
        check_error(error)
    return found


def is_json(data: Any) -> bool:
    """JSON has no infinities; other things that YAML has, we do not read."""
    if isinstance(data, dict):
        return all(is_json(value) for value in data.values())
    if isinstance(data, list):
        return all(is_json(value) for value in data)
    return not isinstance(data, float) or math.isfinite(data)


def config(data: bytes) -> None:
    """One octet: gateway or agent; then YAML."""
    kind: type[GatewayConfig] | type[AgentConfig] = (
        AgentConfig if data[:1] == b"a" else GatewayConfig
    )
    for document in read(b"y" + data[1:]):
        try:
            found = decode(kind, document)
        except DocumentError as error:
            check_error(error)
            continue
        assert repr(found)
        assert 0 < found.local_as < 1 << 32
        for neighbor in found.neighbors:
            assert neighbor.name
            assert neighbor.address_families
            assert neighbor.hold_time_s == 0 or 3 <= neighbor.hold_time_s <= 65535


LABELS: tuple[dict[str, str], ...] = ({}, {"a": "b", "rack": "1"}, {"has": "", "zone": "a b"})


def selector(data: bytes) -> None:
    with contextlib.suppress(UnicodeDecodeError):
        text = data.decode()
        try:
            test = selectors.parse(text)
        except selectors.SelectorError as error:
            assert 0 <= error.position <= len(text) + 1  # noqa: PT017
            assert str(error)  # noqa: PT017
            return
        for labels in LABELS:
            answer = test(labels)
            assert isinstance(answer, bool)
            if text.strip() and _has_room(text):
                assert selectors.selects(f"({text})", labels) is answer
                assert selectors.selects(f"!({text})", labels) is not answer
                assert selectors.selects(f"({text}) && all()", labels) is answer
                assert selectors.selects(f"({text}) || !all()", labels) is answer


def _has_room(text: str) -> bool:
    return (
        len(text) < selectors.LENGTH_LIMIT - 32
        and text.count("(") + text.count("!") < selectors.DEPTH_LIMIT - 4
    )


def question(data: bytes) -> None:
    """A line to the control socket of a program that answers `status` and `trace`."""
    answering = control.answer(data, {"status": dict, "trace": _trace})
    try:
        answering.send(None)
    except StopIteration as done:
        answer = done.value
    else:
        raise AssertionError("it waits")
    told = msgspec.json.decode(answer)
    assert isinstance(told, dict)
    assert len(answer) <= 8 * len(data) + 500


def _trace(question: dict[str, Any]) -> dict[str, Any]:
    flow = flow_of(question)
    assert len(flow.source) == len(flow.destination)
    at = bucket(flow, 0x5A3E9A11, 1021)
    assert 0 <= at < 1021
    return {"bucket": at}

"""The shim's scanner: what it finds in a text is what `json` finds there."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from samepath.cni import shim, wire
from samepath.cni.spec import FALLBACK, version_of
from tests.cni.shims import PYTHON, C, call, needs_c


def expected(text: bytes) -> tuple[str | None, str | None]:
    """`cniVersion` and `socket` of a text that is JSON as a whole."""

    def refuse(constant: str) -> object:
        raise ValueError(constant)

    try:
        data = json.loads(text.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(data, dict):
        return None, None
    version, socket_path = (data.get(name) for name in ("cniVersion", "socket"))
    if not isinstance(version, str) or not version or not _is_text(version):
        version = None
    if version is not None and len(version.encode()) > 64:
        version = None
    return version, socket_path if isinstance(socket_path, str) else None


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


WORDS = st.sampled_from(
    ["cniVersion", "socket", "1.0.0", "/run/x/y", "/run/\"\\", "\\", '"', "", "\u00e9/",
     "\U0001f600", "socke", "sockets", "cniversion", "{", "}", "[", ":", ",", "\x7f", "\0"]
)  # fmt: skip
STRINGS = WORDS | st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | STRINGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRINGS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
TEXTS = st.one_of(
    st.builds(json.dumps, VALUES | st.dictionaries(WORDS, STRINGS, max_size=4),
              ensure_ascii=st.booleans(), indent=st.sampled_from([None, 1])),
    # Pieces of JSON in any order: mostly none, and so near to one as it goes.
    st.lists(
        st.sampled_from(
            ["{", "}", "[", "]", ":", ",", " ", "\t", '"', '"socket"', '"cniVersion"', '"x"',
             '"\\u0073ocket"', '"\\ud83d\\ude00"', '"\\ud83d"', '"\\u12"', '"\\x"', '"/\\/"',
             "0", "-", "01", "1.", ".5", "1e", "1E+5", "-0.0e-1", "true", "nul", "NaN", "\0",
             "\x1f", "\u2028", "\ufeff", '"a\nb"']
        ),
        max_size=14,
    ).map("".join),
)  # fmt: skip


def damaged(text: str, at: int, octet: int) -> bytes:
    octets = bytearray(text.encode("utf-8", "surrogatepass"))
    if octets and octet < 256:
        octets[at % len(octets)] = octet
    return bytes(octets)


DAMAGED = st.builds(damaged, TEXTS, st.integers(0, 200), st.integers(0, 1000))


def found_by_python(text: bytes) -> tuple[str | None, str | None]:
    try:
        found = shim.scan(text)
    except shim.NotJson:
        return None, None
    version = shim.unescape(found.get(b"cniVersion", ""), shim.VERSION_OCTETS)
    socket_path = found.get(b"socket")
    return (
        version.decode() if version else None,
        None if socket_path is None else json.loads(f'"{socket_path}"'),
    )


@settings(max_examples=1000, deadline=None)
@given(DAMAGED)
@example(b'{"cniVersion":"1","a":"\x1f"}')
@example(b'{"cniVersion":"1","a":"\\\\\n"}')
@example(b'{"cniVersion":"1","\t":"\x7f"}')
@example(b'{"cniVersion":"1","a":01}')
@example(b'{"cniVersion":"1","a":-}')
@example(b'{"cniVersion":"1","a":1.}')
@example(b'{"cniVersion":"1","a":[1,]}')
@example(b'{"cniVersion":"1","a":[}]}')
@example(b'{"cniVersion":"1","a":NaN}')
@example(b'{"cniVersion":"1","a":"\\u12g4"}')
@example(b'{"cniVersion":"1" "a":1}')
@example(b'{"cniVersion":"1","a" 1}')
@example(b'{"socket":"a","socket":1}')
@example(b'{"socket":"a","socket":{"socket":"b"}}')
@example(b'{"x":{"socket":"a"},"cniVersion":"1"}')
@example(b'[{"socket":"a"}]')
@example(b'["socket","a"]')
@example(b'{"socket":"a"}}')
@example(b'{"socket":"a",}')
@example(b'"\xed\xa0\x80"')
@example(b'{"cniVersion":"\\ud800"}')
def test_the_fields_are_those_that_json_finds(text: bytes) -> None:
    assert found_by_python(text) == expected(text)


def test_the_agent_answers_in_the_version_that_the_shim_echoes() -> None:
    for text in (b"{}", b"", b"\xff", b'{"cniVersion":"0.4.0"}', b'{"cniVersion":7}',
                 b'{"cniVersion":""}', b'{"cniVersion":"' + b"9" * 65 + b'"}'):  # fmt: skip
        assert version_of(text) == (found_by_python(text)[0] or FALLBACK)


def seen_from_outside(program: list[str], text: bytes) -> tuple[str | None, str | None]:
    """What STATUS says, when there is no agent: it echoes the version and names the socket."""
    said = json.loads(call(program, "STATUS", text).body)
    version = said["cniVersion"]
    message = said["msg"]
    if said["code"] == 7:
        return version, "refused"
    return version, message.partition(" socket ")[2].partition("; start the agent")[0]


@needs_c
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(DAMAGED)
@example(b'{"cniVersion":"1","a":"\x1f"}')
@example(b'{"cniVersion":"1","a":"\\\\\n"}')
@example(b'{"cniVersion":"1","\t":"\x7f"}')
@example(b'{"cniVersion":"1","a":01}')
@example(b'{"cniVersion":"1","a":-}')
@example(b'{"cniVersion":"1","a":1.}')
@example(b'{"cniVersion":"1","a":[1,]}')
@example(b'{"cniVersion":"1","a":[}]}')
@example(b'{"cniVersion":"1","a":NaN}')
@example(b'{"cniVersion":"1","a":"\\u12g4"}')
@example(b'{"cniVersion":"1" "a":1}')
@example(b'{"cniVersion":"1","a" 1}')
@example(b'{"socket":"/a","socket":1}')
@example(b'{"socket":"/a","socket":{"socket":"b"}}')
@example(b'{"cniVersion":"0.4.0","x":{"socket":"/a"},"\\u0073ocket":"/\\ud83d\\ude00\\n\\/"}')
@example(b'[{"socket":"/a"}]')
@example(b'{"cniVersion":"1","socket":"/a"}}')
@example(b'{"cniVersion":"1","socket":"/\xed\xa0\x80"}')
@example(b'{"cniVersion":"1","socket":"/\xf0\x8f\xbf\xbf"}')
@example(b'{"cniVersion":"1","socket":"/\xf4\x8f\xbf\xbf\xe0\xa0\x80\xc2\x80"}')
@example(b'{"cniVersion":"' + b"9" * 64 + b'"}')
@example(b'{"cniVersion":"' + b"9" * 65 + b'"}')
@example(b'{"cniVersion":"1.0.0","a":' + b"[" * 511 + b"]" * 511 + b"}")
@example(b'{"cniVersion":"1.0.0","a":' + b"[" * 512 + b"]" * 512 + b"}")
def test_both_programs_find_the_same(text: bytes) -> None:
    assert call(C, "STATUS", text) == call(PYTHON, "STATUS", text)
    version, socket_path = expected(text)
    if text.count(b"[") < 512:
        seen = seen_from_outside(C, text)
        assert seen[0] == (version or FALLBACK)
        if seen[1] != "refused":
            assert seen[1] == (socket_path or wire.SOCKET)
        else:
            assert socket_path is not None


@pytest.mark.parametrize("program", [pytest.param(C, marks=needs_c), PYTHON], ids=["c", "python"])
def test_nested_deeply_and_large(program: list[str]) -> None:
    """It ends, and soon."""
    for text in (b"[" * wire.STDIN_LIMIT, b'{"a":' * 200_000, b'"' + b"\\u0041" * 170_000 + b'"'):
        assert json.loads(call(program, "VERSION", text).body)["cniVersion"] == "1.1.0"

"""The kept inputs hold what the targets promise, and find faults that are planted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import samepath.bfd.packet
import samepath.bfd.session
import samepath.bgp.attribute_encoder
import samepath.bgp.capabilities
import samepath.bgp.message
import samepath.bgp.rib
import samepath.bgp.session
import samepath.cni.claims
import samepath.cni.journal
import samepath.cni.ledger
import samepath.cni.result
import samepath.cni.spec
import samepath.cni.wire
import samepath.kube.following
import samepath.model.documents
import samepath.model.neighbor
import samepath.model.net
import samepath.model.selector
import samepath.netlink.decode
from fuzz import bgp_codec, corpus, reach, texts, update_mutator, words
from fuzz.choices import Choices
from fuzz.targets import TARGETS
from samepath.cni.errors import CniError, Code

CORPUS_OCTETS = 200_000


SEEDS = {name: target.seeds() for name, target in TARGETS.items()}
"""Made before any fault is planted."""


def replay(name: str) -> None:
    for data in (*SEEDS[name], *corpus.load(name)):
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs(name: str) -> None:
    assert corpus.load(name), "nothing is kept"
    replay(name)


def test_what_is_kept_is_small_and_all_of_it_is_somebodys() -> None:
    files = sorted(corpus.FOLDER.iterdir())
    assert [f.stem for f in files] == sorted(TARGETS)
    assert sum(f.stat().st_size for f in files) < CORPUS_OCTETS


# -- planted faults: (target, where, name, what is there instead)


def nothing(*_: Any, **__: Any) -> None:
    return None


def always(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def refuses(*_: Any) -> None:
    raise CniError(Code.INVALID_CONFIG, "planted")


def rings_at_once(self: Any, now: float) -> None:
    self._keepalive = now


def half_a_release(self: Any, key: Any) -> Any:
    gone = self.attachments.pop(key)
    del self.numbers[key], self.links[gone.host_link]
    return gone


def impatient(self: Any) -> bool:
    line = bytes(self._received[:64]).partition(b"\n")
    if not line[1]:
        raise samepath.cni.wire.WireError("no header line")
    return bool(READ_HEADER(self))


READ_HEADER = samepath.cni.wire._Frame._read_header

FAULTS: list[tuple[str, Any, str, Any]] = [
    ("bgp-update", samepath.bgp.attribute_encoder, "_words", always(b"")),
    ("bgp-messages", samepath.bgp.message, "printable", str),
    ("bgp-open", samepath.bgp.capabilities, "_encode_restart", always(b"\0\0")),
    ("bgp-prefixes", samepath.model.net.PrefixSet, "covers", always(True)),
    ("bgp-session", samepath.bgp.session.Session, "_restart_keepalive", rings_at_once),
    ("bgp-peer", samepath.bgp.rib.Rib, "end_of_rib", nothing),
    ("bfd-packet", samepath.bfd.packet, "_FINAL", 32),
    ("bfd-sessions", samepath.bfd.session.Session, "_interval_s", always(0.0)),
    ("cni-request", samepath.cni.spec, "_gentle_prev_result", refuses),
    ("cni-wire", samepath.cni.wire._Frame, "_read_header", impatient),
    ("cni-result", samepath.cni.result, "address_text", always("10.9.9.9")),
    ("manifests", samepath.model.documents.Document, "line_of", always(-1)),
    ("watch", samepath.kube.following.Following, "_pause", always(0.0)),
    ("config", samepath.model.neighbor, "session_times", nothing),
    ("selector", samepath.model.selector, "parse", always(always(True))),
    ("question", texts, "flow_of", always(None)),
    ("ipam-journal", samepath.cni.journal.Journal, "adopt", samepath.cni.journal.Journal._open),
    ("ipam-ledger", samepath.cni.ledger.Ledger, "release", half_a_release),
    ("ipam-claims", samepath.cni.claims, "_encode", always(b"{}")),
    ("netlink", samepath.netlink.decode, "_bucket", always((0, 0, 0, 0.0))),
]


def test_a_fault_is_planted_for_every_target() -> None:
    assert [fault[0] for fault in FAULTS] == list(TARGETS)


@pytest.mark.parametrize(("name", "where", "what", "fault"), FAULTS, ids=[f[0] for f in FAULTS])
def test_planted_faults_are_found(
    name: str, where: Any, what: str, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, what, fault)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the fault leads to
        replay(name)


# -- the tools


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "FOLDER", tmp_path)


@pytest.mark.usefixtures("folder")
def test_kept_inputs_are_read_as_written() -> None:
    assert corpus.load("x") == []
    corpus.save("x", [b"bb", b"", b"a", b"a"])
    assert corpus.load("x") == [b"", b"a", b"bb"]


def test_the_fewest_inputs_reach_all_that_all_of_them_do() -> None:
    target = TARGETS["bgp-prefixes"].run
    seeds = TARGETS["bgp-prefixes"].seeds()
    kept, steps = reach.fewest(target, [*seeds, *seeds, seeds[0] + b"\x18\1\2\3"])
    assert kept
    assert set(kept) < {*seeds, seeds[0] + b"\x18\1\2\3"}
    assert set().union(*(reach.reached(target, data) for data in kept)) == steps
    shares = reach.share(steps, ["bgp/nlri.py"])
    seen, whole = shares["bgp/nlri.py"]
    assert 0 < seen < whole


def test_octets_as_decisions() -> None:
    choices = Choices(b"\1\2ab\0\7")
    assert choices.number() == 1
    assert choices.block() == b"ab"
    assert choices.number(2) == 7
    assert choices.is_over
    assert (choices.number(), choices.block(), choices.pick("xyz")) == (0, b"", "x")
    assert list(Choices(b"abc").steps(2)) == [97, 98]


@pytest.mark.parametrize("seed", range(300))
def test_mutated_updates_are_whole_again(seed: int) -> None:
    """Nearly all of them reach beyond the framing, and none is longer than it may be."""

    def mutate(data: bytes, most: int) -> bytes:
        return (data[1:] + b"\7")[:most]

    start = TARGETS["bgp-update"].seeds()[seed % 7]
    data = update_mutator.mutated(start, 600, seed, mutate)
    assert len(data) <= 600
    bgp_codec.update(data)
    parts = update_mutator.taken_apart(start[bgp_codec.CONTEXT_OCTETS :])
    assert parts is not None
    assert update_mutator.put_together(parts) == start[bgp_codec.CONTEXT_OCTETS :]


def test_words_of_the_dictionary() -> None:
    assert "spec: " in words.manifest_words()
    assert "as: " in words.config_words()
    assert '"cniVersion":' in words.cni_words()
    assert words.libfuzzer_dictionary(["a", b"\xff"]) == '"\\x61"\n"\\xff"\n'

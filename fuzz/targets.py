"""All targets by name: what is run, what it is about, and what helps the fuzzer with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fuzz import (
    bfd_play,
    bgp_codec,
    bgp_play,
    cni_calls,
    ipam,
    kube_watch,
    netlink,
    seeds,
    texts,
    words,
)
from fuzz.update_mutator import Mutate, mutated


@dataclass(frozen=True, slots=True)
class Target:
    run: Callable[[bytes], None]
    files: tuple[str, ...]
    """What it is about, below src/samepath: of these the share of lines is told."""
    seeds: Callable[[], list[bytes]]
    words: Callable[[], list[str] | list[bytes]] = list
    mutated: Callable[[bytes, int, int, Mutate], bytes] | None = None
    octets: int = 4096
    """Longest input."""


_CODEC = (
    "bgp/update.py",
    "bgp/update_encoder.py",
    "bgp/attribute_framing.py",
    "bgp/attribute_decoder.py",
    "bgp/attribute_encoder.py",
    "bgp/communities.py",
)

TARGETS: dict[str, Target] = {
    "bgp-update": Target(
        bgp_codec.update, _CODEC, seeds.updates, words.attribute_octets, mutated, 1024
    ),
    "bgp-messages": Target(bgp_codec.messages, ("bgp/message.py", "bgp/errors.py"), seeds.messages),
    "bgp-open": Target(bgp_codec.open_, ("bgp/capabilities.py",), seeds.opens, octets=1024),
    "bgp-prefixes": Target(bgp_codec.prefixes, ("bgp/nlri.py", "model/net.py"), seeds.prefixes),
    "bgp-session": Target(bgp_play.session, ("bgp/session.py",), seeds.session_plays, octets=1024),
    "bgp-peer": Target(
        bgp_play.peer,
        ("bgp/peer.py", "bgp/stale.py", "bgp/rib.py", "bgp/adjout.py"),
        seeds.peer_plays,
        octets=1024,
    ),
    "bfd-packet": Target(bfd_play.packet, ("bfd/packet.py",), seeds.bfd_packets, octets=64),
    "bfd-sessions": Target(
        bfd_play.sessions, ("bfd/session.py", "bfd/system.py"), seeds.bfd_plays, octets=1024
    ),
    "cni-request": Target(
        cni_calls.request,
        ("cni/spec.py", "cni/config.py", "cni/environment.py", "cni/errors.py", "cni/versions.py"),
        seeds.cni_requests,
        words.cni_words,
    ),
    "cni-wire": Target(cni_calls.wire, ("cni/wire.py",), seeds.cni_wire, words.cni_words),
    "cni-result": Target(cni_calls.result, ("cni/result.py",), seeds.cni_results, words.cni_words),
    "manifests": Target(
        texts.manifests,
        (
            "model/documents.py",
            "kube/objects.py",
            "kube/core.py",
            "kube/requests.py",
            "kube/kinds.py",
            "kube/values.py",
            "kube/reading.py",
        ),
        seeds.manifests,
        words.manifest_words,
    ),
    "watch": Target(
        kube_watch.watch,
        ("kube/wire.py", "kube/following.py", "kube/api_source.py", "kube/core.py"),
        seeds.watches,
        words.watch_words,
    ),
    "config": Target(
        texts.config, ("model/config.py", "model/neighbor.py"), seeds.configs, words.config_words
    ),
    "selector": Target(
        texts.selector, ("model/selector.py",), seeds.selectors, words.selector_words, octets=512
    ),
    "question": Target(
        texts.question, ("programs/control.py",), seeds.questions, words.question_words, octets=512
    ),
    "ipam-journal": Target(ipam.journal, ("cni/journal.py",), seeds.journals, words.record_words),
    "ipam-ledger": Target(ipam.ledger, ("cni/ledger.py",), seeds.ledgers, words.record_words),
    "ipam-claims": Target(ipam.claim, ("cni/claims.py",), seeds.claims, words.record_words),
    "netlink": Target(
        netlink.datagram,
        ("netlink/codec.py", "netlink/decode.py"),
        seeds.netlink_bodies,
        octets=512,
    ),
}

"""An independent witness: ExaBGP reads what we write, and we read what it writes."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from samepath.bgp import message as m
from samepath.bgp.attributes import AsPath, Origin, PathAttributes
from samepath.bgp.capabilities import Capabilities, GracefulRestart
from samepath.model.net import (
    Family,
    address_text,
    make_nlri,
    parse_address,
    parse_prefix,
    prefix_text,
)

pytestmark = pytest.mark.interop

INTERPRETER = "/usr/bin/python3"
WITNESS = Path(__file__).with_name("exabgp_witness.py")

# ExaBGP's parser wants one statement a line.
CONFIG = """
neighbor 127.0.0.1 {{
  router-id 192.0.2.77;
  local-address 127.0.0.1;
  local-as {local};
  peer-as {peer};
  family {{
    ipv4 unicast;
    ipv6 unicast;
  }}
  capability {{
    asn4 {asn4};
    route-refresh enable;
    graceful-restart 120;
    {more}
  }}
  static {{
    {static}
  }}
}}
"""

STATIC = "\n".join(
    (
        "route 10.1.0.0/16 next-hop 192.0.2.1 origin egp as-path [ 65003 70000 ] med 5"
        " community [ 65535:0 65000:1 ] large-community [ 1:2:3 ]"
        " extended-community [ target:65000:5 ] aggregator ( 70001:192.0.2.5 ) atomic-aggregate"
        " local-preference 300;",
        "route 198.51.100.7/32 next-hop 192.0.2.1;",
        "route 0.0.0.0/0 next-hop 192.0.2.1 attribute [ 0x63 0xc0 0x0102 ];",
        "route 2001:db8:1::/49 next-hop 2001:db8::1 community [ 65000:1 ]"
        " originator-id 192.0.2.9 cluster-list [ 192.0.2.10 192.0.2.11 ];",
        "route ::/0 next-hop 2001:db8::1;",
    )
)


def context_of(four_octet_as: bool, internal: bool) -> m.Context:
    return m.Context(four_octet_as, frozenset(Family), internal)


def exabgp(
    messages: list[bytes], context: m.Context, static: str = "", more: str = ""
) -> dict[str, Any]:
    """What ExaBGP, in our peer's place, says; see `exabgp_witness.py`."""
    config = CONFIG.format(
        local=65001,
        peer=65001 if context.internal else 65002,
        asn4="enable" if context.four_octet_as else "disable",
        static=static,
        more=more,
    )
    task = json.dumps({"config": config, "decode": [x.hex() for x in messages]})
    # Its environment is empty, so that no package of ours is found by the other interpreter.
    done = subprocess.run(
        [INTERPRETER, str(WITNESS)],
        input=task,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    check = [INTERPRETER, "-c", "import exabgp"]
    if subprocess.run(check, capture_output=True, check=False).returncode:
        pytest.skip("ExaBGP is not installed")


def random_attributes(rng: random.Random, family: Family, context: m.Context) -> PathAttributes:
    internal = context.internal

    def words(most: int) -> tuple[int, ...]:
        return tuple(rng.getrandbits(32) for _ in range(rng.randint(0, most)))

    hop = "192.0.2.1" if family is Family.IPV4 else "2001:db8::1"
    asns = [rng.choice([rng.randint(1, 65535), rng.randint(1, 2**32 - 1)]) for _ in range(4)]
    # ExaBGP 4.2 reads a two-octet AS number from AS4_AGGREGATOR, against RFC 6793 §3.
    aggregators = [asn for asn in asns if asn <= 0xFFFF or context.four_octet_as] or [1]
    return PathAttributes(
        next_hop=parse_address(hop),
        origin=rng.choice(list(Origin)),
        as_path=AsPath.of(*asns[: rng.randint(0, 4)]),
        med=rng.choice([None, rng.getrandbits(32)]),
        local_pref=rng.getrandbits(32) if internal else None,
        atomic_aggregate=rng.random() < 0.5,
        aggregator=rng.choice([None, (aggregators[0], parse_address("192.0.2.5"))]),
        communities=words(4),
        large_communities=tuple((i, *rng.choices(range(99), k=2)) for i in words(2)),
        extended_communities=tuple(b"\0\2" + rng.randbytes(6) for _ in range(rng.randint(0, 2))),
        originator_id=rng.choice([None, rng.getrandbits(32)]) if internal else None,
        cluster_list=words(2) if internal else (),
    )


def random_reach(rng: random.Random, context: m.Context) -> m.Reach:
    family = rng.choice(list(Family))
    nlris = {
        make_nlri(rng.randbytes(family.octets), rng.randint(0, family.bits))
        for _ in range(rng.choice([1, 3, 30]))
    }
    return m.Reach(family, tuple(nlris), random_attributes(rng, family, context))


def dotted(number: int) -> str:
    return address_text(number.to_bytes(4, "big"))


def described(attributes: PathAttributes) -> dict[str, Any]:
    """In ExaBGP's words."""
    words: dict[str, Any] = {"origin": attributes.origin.name.lower()}
    if attributes.as_path.segments:
        words["as-path"] = list(attributes.as_path.asns)
    if attributes.med is not None:
        words["med"] = attributes.med
    if attributes.local_pref is not None:
        words["local-preference"] = attributes.local_pref
    words["atomic-aggregate"] = attributes.atomic_aggregate
    if attributes.aggregator is not None:
        asn, address = attributes.aggregator
        words["aggregator"] = f"{asn}:{address_text(address)}"
    if attributes.communities:
        words["community"] = [[c >> 16, c & 0xFFFF] for c in attributes.communities]
    if attributes.large_communities:
        words["large-community"] = [list(c) for c in attributes.large_communities]
    if attributes.extended_communities:
        numbers = [int.from_bytes(c, "big") for c in attributes.extended_communities]
        words["extended-community"] = numbers
    if attributes.originator_id is not None:
        words["originator-id"] = dotted(attributes.originator_id)
    if attributes.cluster_list:
        words["cluster-list"] = [dotted(c) for c in attributes.cluster_list]
    return words


def heard(attribute: dict[str, Any]) -> dict[str, Any]:
    """ExaBGP's words without what it adds of its own."""
    words = dict(attribute)
    words.pop("confederation-path", None)
    if not words.get("as-path"):
        words.pop("as-path", None)
    words.setdefault("atomic-aggregate", False)
    for name in ("community", "large-community"):
        if name in words:
            words[name] = sorted(words[name])
    if "extended-community" in words:
        words["extended-community"] = sorted(c["value"] for c in words["extended-community"])
    return words


@pytest.mark.parametrize("internal", [False, True])
@pytest.mark.parametrize("four_octet_as", [True, False])
def test_exabgp_reads_our_updates(four_octet_as: bool, internal: bool) -> None:
    rng = random.Random(4271)
    context = context_of(four_octet_as, internal)
    reaches = [random_reach(rng, context) for _ in range(60)]
    messages = [x for reach in reaches for x in m.encode_updates([reach], (), context)]
    assert len(messages) == len(reaches)
    for reach, update in zip(reaches, exabgp(messages, context)["read"], strict=True):
        label = f"{reach.family.label} unicast"
        announced = update["announce"][label][address_text(reach.attributes.next_hop)]
        nlris = sorted(route["nlri"] for route in announced)
        assert nlris == sorted(prefix_text(reach.family, n) for n in reach.nlris)
        assert heard(update["attribute"]) == described(reach.attributes)


def test_exabgp_reads_our_withdrawals_and_ends_of_rib() -> None:
    context = context_of(True, False)
    prefixes = {Family.IPV4: "198.51.100.0/24", Family.IPV6: "2001:db8:1::/48"}
    for family, text in prefixes.items():
        gone = m.Withdrawal(family, (parse_prefix(text)[1],))
        messages = [*m.encode_updates((), [gone], context), m.end_of_rib(family)]
        withdrawn, end = exabgp(messages, context)["read"]
        assert withdrawn["withdraw"] == {f"{family.label} unicast": [{"nlri": text}]}
        assert len(end["eor"]) == 1
        assert f"{family.label} unicast" in end["eor"][0]


@pytest.mark.parametrize("asn", [65002, 70000])
@pytest.mark.parametrize("families", [set(Family), {Family.IPV6}, {Family.IPV4}])
def test_exabgp_reads_our_open(asn: int, families: set[Family]) -> None:
    restart = GracefulRestart(True, False, 120, tuple((f, True) for f in Family))
    capabilities = Capabilities(
        families=frozenset(families),
        four_octet_as=asn,
        route_refresh=True,
        enhanced_route_refresh=True,
        graceful_restart=restart,
        extended_message=True,
    )
    context = context_of(True, False)
    message = m.encode(m.Open(asn, 9, 0xC0000263, capabilities), context)
    (answer,) = exabgp([message], context, more="extended-message enable;")["read"]
    assert answer["asn"] == asn
    assert answer["hold_time_s"] == 9
    assert answer["router_id"] == "192.0.2.99"
    assert answer["four_octet_as"] is True
    assert answer["families"] == sorted(f"{f.label} unicast" for f in families)
    assert answer["max_message"] == 65535
    assert set(answer["capabilities"]) == {1, 2, 6, 64, 65, 70}
    assert "120" in answer["graceful_restart"]


@pytest.mark.parametrize("four_octet_as", [True, False])
def test_we_read_exabgps_open(four_octet_as: bool) -> None:
    context = context_of(four_octet_as, False)
    data = bytes.fromhex(exabgp([], context)["open"])
    ((kind, body),), consumed = m.split(data)
    assert consumed == len(data)
    message = m.decode(kind, body, context)
    assert isinstance(message, m.Open)
    assert (message.asn, message.hold_time_s, message.router_id) == (65001, 9, 0xC000024D)
    capabilities = message.capabilities
    assert capabilities.families == frozenset(Family)
    assert capabilities.four_octet_as == (65001 if four_octet_as else None)
    assert capabilities.route_refresh
    assert capabilities.graceful_restart is not None
    assert capabilities.graceful_restart.restart_time_s == 120
    assert {family for family, _ in capabilities.graceful_restart.families} == set(Family)


@pytest.mark.parametrize("internal", [False, True])
@pytest.mark.parametrize("four_octet_as", [True, False])
def test_we_read_exabgps_updates(four_octet_as: bool, internal: bool) -> None:
    context = context_of(four_octet_as, internal)
    answer = exabgp([], context, STATIC)
    routes: dict[str, PathAttributes] = {}
    for text in answer["updates"]:
        data = bytes.fromhex(text)
        ((kind, body),), _ = m.split(data)
        update = m.decode(kind, body, context)
        assert isinstance(update, m.Update)
        # ExaBGP sends these two to anybody; nothing else may be wrong.
        assert all(not internal and p.attribute in (9, 10) for p in update.problems)
        for reach in update.reaches:
            for nlri in reach.nlris:
                routes[prefix_text(reach.family, nlri)] = reach.attributes
    first = routes["10.1.0.0/16"]
    own = () if internal else (65001,)
    assert first.next_hop == parse_address("192.0.2.1")
    assert first.origin is Origin.EGP
    assert first.as_path.asns == (65003, 70000)
    assert first.med == 5
    assert first.local_pref == (300 if internal else None)
    assert first.communities == (65000 << 16 | 1, 0xFFFF0000)
    assert first.large_communities == ((1, 2, 3),)
    assert first.extended_communities == (bytes.fromhex("0002fde800000005"),)
    assert first.aggregator == (70001, parse_address("192.0.2.5"))
    assert first.atomic_aggregate
    assert routes["198.51.100.7/32"].as_path.asns == own
    assert [(u.code, u.value) for u in routes["0.0.0.0/0"].unknown] == [(0x63, b"\1\2")]
    sixth = routes["2001:db8:1::/49"]
    assert sixth.next_hop == parse_address("2001:db8::1")
    assert sixth.communities == (65000 << 16 | 1,)
    assert sixth.originator_id == (0xC0000209 if internal else None)
    assert sixth.cluster_list == ((0xC000020A, 0xC000020B) if internal else ())
    assert "::/0" in routes
    assert len(routes) == 5

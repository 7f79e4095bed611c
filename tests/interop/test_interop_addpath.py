"""Several paths a prefix through other people's route reflectors, with their own view as witness.

One of ours tells a daemon several paths of one prefix; the daemon reflects them all to another of
ours. ExaBGP reflects nothing: it hears several paths, and tells several. RFC 7911, RFC 4456.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from interop_ours import OurSpeaker, two_hosts
from interop_peers import (
    HOLD_S,
    OURS,
    OURS_V6,
    THEIRS,
    THEIRS_V6,
    Bird,
    Daemon,
    ExaBgp,
    Frr,
    GoBgp,
    Terms,
    wait,
)

from samepath.bgp.adjout import Advertisement, Offered, Routes
from samepath.bgp.attributes import PathAttributes
from samepath.lab.netns import Namespace
from samepath.model.config import Bgp
from samepath.model.neighbor import Import, Neighbor
from samepath.model.net import Family, address_text, parse_address, parse_prefix

pytestmark = [pytest.mark.interop, pytest.mark.netns]

AS = 65001
TERMS = Terms(AS, AS)
LISTENER = "10.0.0.3"
"""The second of ours, which hears what is reflected."""
V4, V6 = "10.1.0.0/24", "2001:db8:1::/48"
HOPS = {
    V4: ["10.0.0.11", "10.0.0.12", "10.0.0.13"],
    V6: ["2001:db8::11", "2001:db8::12", "2001:db8::13"],
}


class FrrReflector(Frr):
    def _config(self) -> str:
        def each(text: str) -> str:
            return "\n".join(text.format(peer) for peer in (OURS, LISTENER))

        family = each(
            "  neighbor {0} activate\n  neighbor {0} route-reflector-client\n"
            "  neighbor {0} addpath-tx-all-paths"
        )
        return f"""
router bgp {AS}
 bgp router-id {THEIRS}
 no bgp default ipv4-unicast
 timers bgp 1 {HOLD_S}
{each(f" neighbor {{0}} remote-as {AS}")}
{each(" neighbor {0} timers connect 1")}
{each(" neighbor {0} advertisement-interval 0")}
 address-family ipv4 unicast
{family}
 exit-address-family
 address-family ipv6 unicast
{family}
"""

    def paths(self, prefix: str) -> set[str]:
        family = "ipv6" if ":" in prefix else "ipv4"
        text = self._vtysh(f"show bgp {family} unicast {prefix} json")
        paths = json.loads(text).get("paths", []) if text.startswith("{") else []
        return {path["nexthops"][0]["ip"] for path in paths}


class BirdReflector(Bird):
    def _config(self, offered: object) -> str:
        def protocol(name: str, peer: str) -> str:
            return f"""
protocol bgp {name} {{
  local {THEIRS} as {AS};
  neighbor {peer} as {AS};
  hold time {HOLD_S};
  connect retry time 1;
  error wait time 1, 1;
  rr client;
  ipv4 {{ import all; export all; add paths on; }};
  ipv6 {{ import all; export all; add paths on; }};
}}
"""

        start = f"router id {THEIRS};\nprotocol device {{ }}\nprotocol direct {{ ipv4; ipv6; }}\n"
        return start + protocol("ours", OURS) + protocol("listener", LISTENER)

    def paths(self, prefix: str) -> set[str]:
        text = self._birdc("show", "route", "protocol", "ours", prefix, "all")
        lines = [line.split() for line in text.splitlines()]
        return {words[1] for words in lines if words and words[0] == "BGP.next_hop:"}


class GoBgpReflector(GoBgp):
    def start(self, *, restarted: bool = False) -> None:
        config = self.write("gobgpd.toml", self._config())
        self.spawn(self.program, "-f", str(config), "--api-hosts", "127.0.0.1:50051",
                   "--pprof-disable")  # fmt: skip

    def _config(self) -> str:
        families = "".join(
            f"""
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "{family}-unicast"
    [neighbors.afi-safis.add-paths.config]
      receive = true
      send-max = 8
"""
            for family in ("ipv4", "ipv6")
        )
        neighbors = "".join(
            f"""
[[neighbors]]
  [neighbors.config]
    neighbor-address = "{peer}"
    peer-as = {AS}
  [neighbors.timers.config]
    hold-time = {HOLD_S}
    keepalive-interval = 1
    connect-retry = 1
    idle-hold-time-after-reset = 1
  [neighbors.route-reflector.config]
    route-reflector-client = true
    route-reflector-cluster-id = "{THEIRS}"
{families}
"""
            for peer in (OURS, LISTENER)
        )
        return f'[global.config]\n  as = {AS}\n  router-id = "{THEIRS}"\n{neighbors}'

    def paths(self, prefix: str) -> set[str]:
        family = "ipv6" if ":" in prefix else "ipv4"
        text = self._gobgp("neighbor", OURS, "adj-in", "-a", family, "-j")
        table = json.loads(text) if text.startswith("{") else {}
        told = table.get(prefix, []) if "error" not in table else []
        return {a["nexthop"] for path in told for a in path["attrs"] if "nexthop" in a}


Reflector = FrrReflector | BirdReflector | GoBgpReflector


@pytest.fixture(scope="module")
def lan() -> Iterator[tuple[Namespace, Namespace]]:
    with two_hosts("ap") as (ours, theirs):
        ours.ip("addr", "add", f"{LISTENER}/24", "dev", "eth0")
        yield ours, theirs


def config(address: str, add_path: str) -> Bgp:
    neighbor = Neighbor(
        address=THEIRS,
        local_address=address,
        remote_as="internal",
        hold_time_s=HOLD_S,
        connect_retry_s=1,
        add_path=add_path,  # type: ignore[arg-type]
        import_=Import(services=["0.0.0.0/0", "::/0"]),
    )
    return Bgp(
        router_id=address,
        local_as=AS,
        listen=[address],
        next_hops=[address, OURS_V6],
        neighbors=[neighbor],
    )


def several(chosen: dict[str, list[str]]) -> Routes:
    """For each prefix one path by each of its next hops, which keep their identity."""
    made: dict[Family, dict[bytes, Offered]] = {f: {} for f in Family}
    for prefix, hops in chosen.items():
        family, nlri = parse_prefix(prefix)
        made[family][nlri] = tuple(
            Advertisement(PathAttributes(parse_address(hop)), bytes(4), HOPS[prefix].index(hop))
            for hop in hops
        )
    return made


def heard(speaker: OurSpeaker, prefix: str) -> set[str]:
    family, nlri = parse_prefix(prefix)
    held = speaker.call(lambda s: s.rib.paths(family, nlri))
    return {address_text(p.attributes.next_hop) for p in held.paths} if held else set()


@pytest.fixture
def started() -> Iterator[Callable[..., None]]:
    running: list[OurSpeaker | Daemon] = []

    def start(*sides: OurSpeaker | Daemon) -> None:
        for side in sides:
            running.append(side)
            side.start()

    yield start
    for side in running:
        side.stop()


@pytest.mark.parametrize(
    "kind", [FrrReflector, BirdReflector, GoBgpReflector], ids=lambda kind: kind.name
)
def test_all_paths_go_through_a_reflector(
    kind: type[Reflector],
    lan: tuple[Namespace, Namespace],
    tmp_path: Path,
    started: Callable[..., None],
) -> None:
    if not kind.is_installed():
        pytest.skip(f"{kind.name} is not installed")
    theirs = kind(lan[1], tmp_path, TERMS)
    speaker = OurSpeaker(lan[0], config(OURS, "send"))
    listener = OurSpeaker(lan[0], config(LISTENER, "receive"))
    started(theirs, speaker, listener)
    wait(lambda: speaker.status().is_established, "our session", 20)
    wait(lambda: listener.status().is_established, "the listener's session", 20)
    assert "add-path send" in speaker.status().agreed
    assert "add-path receive" in listener.status().agreed

    for chosen in (HOPS, {V4: HOPS[V4][1:], V6: HOPS[V6][:1]}, HOPS, {V6: HOPS[V6]}):
        speaker.call(lambda s, chosen=chosen: s.set(speaker.name, several(chosen)))  # type: ignore[misc]
        for prefix in HOPS:
            wanted = set(chosen.get(prefix, ()))
            wait(lambda p=prefix, w=wanted: theirs.paths(p) == w, f"{prefix} there")  # type: ignore[misc]
            wait(lambda p=prefix, w=wanted: heard(listener, p) == w, f"{prefix} here")  # type: ignore[misc]
    assert speaker.status().flaps == listener.status().flaps == 0
    (path, *_) = listener.call(lambda s: s.rib.paths(*parse_prefix(V6))).paths  # type: ignore[union-attr]
    assert path.attributes.cluster_list
    assert path.attributes.originator_id is not None


class ExaBgpPaths(ExaBgp):
    def _config(self, script: Path) -> str:
        plain = super()._config(script)
        return plain.replace(
            "route-refresh enable;", "route-refresh enable; add-path send/receive;"
        )

    def _hop(self, prefix: str) -> str:
        return f"{super()._hop(prefix)} path-information 0.0.0.1"

    def tell(self, verb: str, prefix: str, hop: str, path_id: int) -> None:
        self._say(f"{verb} route {prefix} next-hop {hop} path-information 0.0.0.{path_id}")

    def paths(self, prefix: str) -> set[str]:
        """What is withdrawn goes by its path identifier."""
        known: dict[str, str] = {}
        for event in self._heard():
            update = event.get("message", {}).get("update", {})
            for by_hop in update.get("announce", {}).values():
                for hop, told in by_hop.items():
                    known |= {n["path-information"]: hop for n in told if n.get("nlri") == prefix}
            for gone in update.get("withdraw", {}).values():
                for nlri in gone:
                    if nlri["nlri"] == prefix:
                        known.pop(nlri["path-information"])
        return set(known.values())


def test_exabgp_hears_several_paths_and_tells_several(
    lan: tuple[Namespace, Namespace], tmp_path: Path, started: Callable[..., None]
) -> None:
    if not ExaBgpPaths.is_installed():
        pytest.skip("ExaBGP is not installed")
    theirs = ExaBgpPaths(lan[1], tmp_path, TERMS)
    speaker = OurSpeaker(lan[0], config(OURS, "both"))
    started(speaker, theirs)
    wait(lambda: speaker.status().is_established, "our session", 20)
    assert {"add-path send", "add-path receive"} <= set(speaker.status().agreed)
    for chosen in (HOPS, {V4: HOPS[V4][1:], V6: HOPS[V6][:1]}, {V6: HOPS[V6]}):
        speaker.call(lambda s, chosen=chosen: s.set(speaker.name, several(chosen)))  # type: ignore[misc]
        for prefix in HOPS:
            wanted = set(chosen.get(prefix, ()))
            wait(lambda p=prefix, w=wanted: theirs.paths(p) == w, f"{prefix} there")  # type: ignore[misc]
    for number, hop in enumerate(HOPS[V4], 1):
        theirs.tell("announce", V4, hop, number)
    wait(lambda: heard(speaker, V4) == set(HOPS[V4]), "three paths")
    theirs.tell("withdraw", V4, HOPS[V4][1], 2)
    wait(lambda: heard(speaker, V4) == {HOPS[V4][0], HOPS[V4][2]}, "two paths")
    assert heard(speaker, "10.2.0.0/24") == {THEIRS}
    assert heard(speaker, "2001:db8:2::/48") == {THEIRS_V6}

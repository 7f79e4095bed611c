"""The four peers of `interop_peers`, with everything switched on that a setting asks for.

`paths` is a peer's own view of what it has from us, in words that are the same for all of them.
"""

from __future__ import annotations

import contextlib
import json
import re
import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import interop_peers
from interop_peers import THEIRS, THEIRS_V6
from matrix_setting import (
    BANDWIDTH,
    LARGE,
    REASON,
    SECRET,
    SHARED,
    THEIR_DRAINING,
    THEIR_LARGE,
    THEIR_WEIGHTED,
    THEIRS_TO_US,
    THIRD_V6,
    Setting,
)

from samepath.lab.netns import Namespace


@dataclass
class Seen:
    """One path of a prefix, as the peer shows it."""

    next_hop: str = ""
    as_path: str = ""
    is_draining: bool = False
    large: int = 0
    """How many large communities."""
    bandwidth: float | None = None
    originator: str = ""
    cluster_list: list[str] = field(default_factory=list)


class Peer(interop_peers.Daemon, ABC):
    version: ClassVar[str]
    asks_version: ClassVar[tuple[str, ...]]
    listens = True
    knows_extended_messages = True
    our_ttl_security: ClassVar[bool | int] = True

    def __init__(self, namespace: Namespace, folder: Path, setting: Setting) -> None:
        super().__init__(namespace, folder, setting.terms)
        self.setting = setting

    @abstractmethod
    def paths(self, prefix: str) -> list[Seen]:
        """What it has of a prefix from our first speaker."""

    @abstractmethod
    def is_bfd_up(self) -> bool: ...

    def shut_down_with_reason(self) -> None:
        """Ends the session with `REASON`."""
        raise NotImplementedError

    @abstractmethod
    def heard_reason(self) -> str:
        """Where the reason of our goodbye is to be read."""

    @property
    def offered(self) -> tuple[str, ...]:
        own = THEIRS_TO_US if self.knows_extended_messages else THEIRS_TO_US[:-1]
        return (*own, SHARED) if self.setting.has_third else own


def _hop(prefix: str) -> str:
    return THEIRS_V6 if ":" in prefix else THEIRS


def _rate(octets: int) -> float:
    """Of the last four octets of a link bandwidth community."""
    return float(struct.unpack("!f", octets.to_bytes(4))[0])


def _large(count: int = LARGE, first: int = 0) -> list[tuple[int, int, int]]:
    return [(65002, 1, number) for number in range(first, first + count)]


class Frr(interop_peers.Frr, Peer):
    version = "8.4.4"
    asks_version = ("/usr/lib/frr/bgpd", "--version")
    our_ttl_security = 2  # With `ttl-security` its BFD is that of neighbours over several hops.

    def start(self, *, restarted: bool = False) -> None:
        super().start(restarted=restarted)
        if self.setting.has_bfd:
            run = self._run_folder
            assert run is not None
            (run / "bfdd.conf").write_text("")
            self.spawn("/usr/lib/frr/bfdd", "-f", f"{run}/bfdd.conf", "-i", f"{run}/bfdd.pid",
                       "--bfdctl", f"{run}/bfdd.sock", "-u", "frr", "-g", "frr", "-z",
                       f"{run}/zserv", "--vty_socket", str(run), "-P", "0", "--log",
                       "stdout")  # fmt: skip

    def _config(self) -> str:
        setting, terms = self.setting, self.terms
        restart = "bgp graceful-restart\n bgp graceful-restart preserve-fw-state"
        clients = [terms.ours, *([THIRD_V6] if setting.has_third else [])]
        return f"""
bgp route-map delay-timer 0
router bgp {terms.their_as}
 bgp router-id {THEIRS}
 {restart if terms.restarts else ""}
 no bgp ebgp-requires-policy
 no bgp network import-check
 no bgp default ipv4-unicast
 timers bgp {setting.hold_time_s // 3} {setting.hold_time_s}
{"".join(self._session(client) for client in clients)}
 address-family ipv4 unicast
{self._family(4, clients)}
 exit-address-family
 address-family ipv6 unicast
{self._family(6, clients)}
 exit-address-family
{self._policy()}
"""

    def _session(self, client: str) -> str:
        lines = [
            f"remote-as {self.terms.our_as}",
            "timers connect 1",
            "advertisement-interval 0",
        ]
        if self.setting.is_guarded:
            lines += [f"password {SECRET}", "ttl-security hops 1"]
        if self.setting.has_bfd and client == self.terms.ours:
            lines.append("bfd")
        if self.setting.has_third:
            lines.append("capability extended-nexthop")
        return "".join(f" neighbor {client} {line}\n" for line in lines)

    def _family(self, number: int, clients: list[str]) -> str:
        lines = [f"network {p}" for p in self.offered if (":" in p) == (number == 6)]
        for client in clients:
            lines += [f"neighbor {client} activate", f"neighbor {client} route-map mark out"]
            if self.setting.has_third:
                lines += [
                    f"neighbor {client} route-reflector-client",
                    f"neighbor {client} addpath-tx-all-paths",
                ]
        return "".join(f"  {line}\n" for line in lines)

    def _policy(self) -> str:
        """Route-maps; a line of theirs holds some hundred communities."""
        marks = [
            (THEIR_DRAINING, "set community graceful-shutdown"),
            (THEIR_WEIGHTED, f"set extcommunity bandwidth {BANDWIDTH * 8 / 1e6:.0f}"),
        ]
        for first in range(0, LARGE, 100):
            words = " ".join(f"{a}:{b}:{c}" for a, b, c in _large(100, first))
            marks.append((THEIR_LARGE, f"set large-community {words} additive"))
        lines = []
        for number, (prefix, mark) in enumerate(marks, start=1):
            name = prefix.replace(".", "-").replace("/", "-")
            lines += [
                f"ip prefix-list {name} permit {prefix}",
                f"route-map mark permit {number}",
                f" match ip address prefix-list {name}",
                f" {mark}",
                " on-match next",
            ]
        lines.append("route-map mark permit 100")
        if not self.setting.terms.over_ipv6:
            lines.append(f" set ipv6 next-hop global {THEIRS_V6}")
        return "\n".join(lines)

    def paths(self, prefix: str) -> list[Seen]:
        family = "ipv6" if ":" in prefix else "ipv4"
        text = self._vtysh(f"show bgp {family} unicast {prefix} json")
        table = json.loads(text) if text.startswith("{") else {}
        return [
            self._seen(path)
            for path in table.get("paths", [])
            if path["peer"].get("peerId") == self.terms.ours
        ]

    def _seen(self, path: dict[str, Any]) -> Seen:
        rate = re.search(r"LB:\d+:(\d+)", path.get("extendedCommunity", {}).get("string", ""))
        return Seen(
            next_hop=path["nexthops"][0]["ip"],
            as_path=path["aspath"]["string"].replace("Local", ""),
            is_draining="gracefulShutdown" in path.get("community", {}).get("list", []),
            large=len(path.get("largeCommunity", {}).get("list", [])),
            bandwidth=float(rate[1]) if rate else None,
            originator=path.get("originatorId", ""),
            cluster_list=path.get("clusterList", {}).get("list", []),
        )

    def neighbor(self) -> dict[str, Any]:
        text = self._vtysh(f"show bgp neighbors {self.terms.ours} json")
        view: dict[str, Any] = json.loads(text).get(self.terms.ours, {}) if text[:1] == "{" else {}
        return view

    def is_bfd_up(self) -> bool:
        return '"status":"Up"' in json.dumps(
            self.neighbor().get("peerBfdInfo", {}), separators=(",", ":")
        )

    def shut_down_with_reason(self) -> None:
        self._configure(f"neighbor {self.terms.ours} shutdown message {REASON}")

    def heard_reason(self) -> str:
        return str(self.neighbor().get("lastShutdownDescription", ""))


class Bird(interop_peers.Bird, Peer):
    version = "2.0.12"
    asks_version = ("/usr/sbin/bird", "--version")

    def start(self, *, restarted: bool = False) -> None:
        config = self.write("bird.conf", self._config(self.offered))
        recover = ("-R",) if restarted else ()
        self._offered = list(self.offered)
        self.spawn(self.program, "-f", "-c", str(config), "-s", f"{self.folder}/ctl",
                   "-P", f"{self.folder}/pid", *recover)  # fmt: skip

    def _config(self, offered: Any) -> str:
        setting = self.setting
        statics = {4: "", 6: ""}
        for prefix in offered:
            statics[6 if ":" in prefix else 4] += f"  route {prefix} blackhole;\n"
        rate = int.from_bytes(struct.pack("!f", BANDWIDTH))
        large = "".join(f"    bgp_large_community.add({c});\n" for c in _large())
        third = self._session("third", THIRD_V6) if setting.has_third else ""
        return f"""
router id {THEIRS};
graceful restart wait 5;
protocol device {{ }}
protocol direct {{ ipv4; ipv6; }}
protocol bfd {{ interface "*" {{ interval 300 ms; multiplier 3; }}; }}
protocol static s4 {{ ipv4;
{statics[4]} }}
protocol static s6 {{ ipv6;
{statics[6]} }}
filter marked {{
  if source = RTS_DEVICE then reject;
  if net = {THEIR_DRAINING} then bgp_community.add((65535,0));
  if net = {THEIR_WEIGHTED} then
    bgp_ext_community.add((generic, {0x00040000 | self.terms.their_as:#x}, {rate:#x}));
  if net = {THEIR_LARGE} then {{
{large}  }}
  accept;
}}
{self._session("ours", self.terms.ours)}{third}"""

    def _session(self, name: str, peer: str) -> str:
        setting, terms = self.setting, self.terms
        guard = f'password "{SECRET}";\n  ttl security on;'
        hops = ("extended next hop on;", "") if setting.has_third else (
            f"next hop address {THEIRS};", f"next hop address {THEIRS_V6};")  # fmt: skip
        several = "add paths on;" if setting.has_third else ""
        channels = "".join(
            f"  {family} {{ import all; export filter marked; {several} {hop} }};\n"
            for family, hop in zip(("ipv4", "ipv6"), hops, strict=True)
        )
        return f"""
protocol bgp {name} {{
  local {terms.theirs} as {terms.their_as};
  neighbor {peer} as {terms.our_as};
  hold time {setting.hold_time_s};
  connect delay time 1;
  connect retry time 1;
  error wait time 1, 1;
  graceful restart on;
  enable extended messages on;
  {guard if setting.is_guarded else ""}
  {"direct;" if terms.our_as == terms.their_as else ""}
  {"bfd on;" if setting.has_bfd and name == "ours" else ""}
  {"rr client;" if setting.has_third else ""}
{channels}}}
"""

    def paths(self, prefix: str) -> list[Seen]:
        found: list[Seen] = []
        show = ("show", "route", prefix, "protocol", "ours")
        # It prints no more than some dozens of communities, but counts them all.
        is_large = prefix in self._birdc(*show, "where", f"bgp_large_community.len={LARGE}")
        for line in self._birdc(*show, "all").splitlines():
            if " [ours " in line:
                found.append(Seen(large=LARGE if is_large else 0))
            name, _, value = line.strip().partition(": ")
            match name:
                case "BGP.next_hop":
                    found[-1].next_hop = value.split()[0]
                case "BGP.as_path":
                    found[-1].as_path = value
                case "BGP.community":
                    found[-1].is_draining = "(65535,0)" in value
                case "BGP.ext_community":
                    rate = re.search(r"\(unknown 0x4004, \d+, (\d+)\)", value)
                    if rate:
                        found[-1].bandwidth = _rate(int(rate[1]))
                case "BGP.originator_id":
                    found[-1].originator = value
                case "BGP.cluster_list":
                    found[-1].cluster_list = value.split()
        return found

    def is_bfd_up(self) -> bool:
        rows = (line.split() for line in self._birdc("show", "bfd", "sessions").splitlines())
        return any(row[0] == self.terms.ours and row[2] == "Up" for row in rows if len(row) > 2)

    def shut_down_with_reason(self) -> None:
        self._birdc("disable", "ours", f'"{REASON}"')

    def heard_reason(self) -> str:
        return self._birdc("show", "protocols", "all", "ours")


_CLOSED = """table inet closed {
  chain in { type filter hook input priority 0; tcp dport 179 reject with tcp reset; }
  chain out { type filter hook output priority 0; tcp dport 179 reject with tcp reset; }
}
"""


class GoBgp(interop_peers.GoBgp, Peer):
    version = "3.10.0"
    asks_version = ("/usr/bin/gobgpd", "--version")
    knows_extended_messages = False  # and ends with a panic, were it to send more than 4,096 octets

    def _config(self) -> str:
        setting, terms = self.setting, self.terms
        clients = [terms.ours, *([THIRD_V6] if setting.has_third else [])]
        return f"""
[global.config]
  as = {terms.their_as}
  router-id = "{THEIRS}"
[global.apply-policy.config]
  export-policy-list = ["weigh"]
  default-export-policy = "accept-route"
[[defined-sets.prefix-sets]]
  prefix-set-name = "weighted"
  [[defined-sets.prefix-sets.prefix-list]]
    ip-prefix = "{THEIR_WEIGHTED}"
[[policy-definitions]]
  name = "weigh"
  [[policy-definitions.statements]]
    [policy-definitions.statements.conditions.match-prefix-set]
      prefix-set = "weighted"
    [policy-definitions.statements.actions.bgp-actions.set-ext-community]
      options = "add"
      [policy-definitions.statements.actions.bgp-actions.set-ext-community.set-ext-community-method]
        communities-list = ["lb:{terms.their_as}:{BANDWIDTH:.0f}"]
{"".join(self._session(client) for client in clients)}"""

    def _session(self, client: str) -> str:
        setting, terms = self.setting, self.terms
        more = families = ""
        if setting.has_third:
            more = f"""
  [neighbors.route-reflector.config]
    route-reflector-client = true
    route-reflector-cluster-id = "{THEIRS}"
"""
        if setting.is_guarded:
            more += """
  [neighbors.ttl-security.config]
    enabled = true
    ttl-min = 255
"""
        several = """
    [neighbors.afi-safis.add-paths.config]
      receive = true
      send-max = 8
"""
        for family in ("ipv4", "ipv6"):
            families += f"""
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "{family}-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
{several if setting.has_third else ""}"""
        return f"""
[[neighbors]]
  [neighbors.config]
    neighbor-address = "{client}"
    peer-as = {terms.our_as}
    auth-password = "{SECRET if setting.is_guarded else ""}"
  [neighbors.timers.config]
    hold-time = {setting.hold_time_s}
    keepalive-interval = {setting.hold_time_s // 3}
    connect-retry = 1
    idle-hold-time-after-reset = 1
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 20
{more}{families}"""

    def start(self, *, restarted: bool = False) -> None:
        # It gets its routes by command, and takes itself for complete with the first session.
        self.namespace.run("nft", _CLOSED)
        try:
            super().start(restarted=restarted)
            self._announce_marked()
        finally:
            self.namespace.run("nft", "delete table inet closed")

    def _announce_marked(self) -> None:
        for prefix, *mark in (
            (THEIR_DRAINING, "community", "65535:0"),
            (THEIR_WEIGHTED,),  # by policy: the command for it takes no number
        ):
            self._gobgp("global", "rib", "-a", "ipv4", "add", prefix, "nexthop", self.hop(prefix),
                        *mark)  # fmt: skip
        if self.setting.has_third:
            self.announce(SHARED)

    def hop(self, prefix: str) -> str:
        return THEIRS_V6 if self.setting.has_third else _hop(prefix)

    def _rib(self, verb: str, prefix: str) -> None:
        self._gobgp("global", "rib", "-a", "ipv6" if ":" in prefix else "ipv4", verb, prefix,
                    "nexthop", self.hop(prefix))  # fmt: skip

    def paths(self, prefix: str) -> list[Seen]:
        family = "ipv6" if ":" in prefix else "ipv4"
        text = self._gobgp("neighbor", self.terms.ours, "adj-in", "-a", family, "-j")
        table = json.loads(text) if text.startswith("{") else {}
        paths = table.get(prefix, []) if "error" not in table else []
        return [self._seen({a["type"]: a for a in path["attrs"]}) for path in paths]

    def _seen(self, by_type: dict[int, dict[str, Any]]) -> Seen:
        reach = by_type.get(3) or by_type.get(14) or {}
        segments = by_type.get(2, {}).get("as_paths") or []
        rates = [c["bandwidth"] for c in by_type.get(16, {}).get("value", []) if "bandwidth" in c]
        return Seen(
            next_hop=reach.get("nexthop", ""),
            as_path=" ".join(str(asn) for segment in segments for asn in segment["asns"]),
            is_draining=0xFFFF0000 in by_type.get(8, {}).get("communities", []),
            large=len(by_type.get(32, {}).get("value", [])),
            bandwidth=float(rates[0]) if rates else None,
            originator=by_type.get(9, {}).get("value", ""),
            cluster_list=by_type.get(10, {}).get("value", []),
        )

    def is_bfd_up(self) -> bool:
        return False

    def shut_down_with_reason(self) -> None:
        self._gobgp("neighbor", self.terms.ours, "shutdown", "--reason", REASON)

    def heard_reason(self) -> str:
        return (self.folder / "log").read_text()


class ExaBgp(interop_peers.ExaBgp, Peer):
    version = "4.2.21"
    asks_version = ("/usr/sbin/exabgp", "--version")
    listens = False

    def _config(self, script: Path) -> str:
        setting, terms = self.setting, self.terms
        guard = f'md5-password "{SECRET}";\n  md5-base64 false;\n  outgoing-ttl 255;'
        restart = "graceful-restart 20;" if terms.restarts else ""
        marks_end = "manual-eor true;" if terms.restarts else ""
        several = "add-path send/receive; nexthop enable;" if setting.has_third else ""
        hops = "nexthop { ipv4 unicast ipv6; }" if setting.has_third else ""
        return f"""
process api {{
  run {script};
  encoder json;
}}
neighbor {terms.ours} {{
  router-id {THEIRS};
  local-address {terms.theirs};
  local-as {terms.their_as};
  peer-as {terms.our_as};
  hold-time {setting.hold_time_s};
  {guard if setting.is_guarded else ""}
  {marks_end}
  capability {{ route-refresh enable; extended-message enable; {several} {restart} }}
  family {{ ipv4 unicast; ipv6 unicast; }}
  {hops}
  api {{
    processes [ api ];
    neighbor-changes;
    receive {{ parsed; update; notification; }}
  }}
}}
"""

    def start(self, *, restarted: bool = False) -> None:
        super().start(restarted=restarted)
        words = " ".join(f"{a}:{b}:{c}" for a, b, c in _large())
        rate = f"bandwidth:{self.terms.their_as}:{BANDWIDTH:.0f}"
        self._tell(THEIR_DRAINING, "community [ 65535:0 ]")
        self._tell(THEIR_WEIGHTED, f"extended-community [ {rate} ]")
        self._tell(THEIR_LARGE, f"large-community [ {words} ]")
        if self.setting.has_third:
            # It has no table of routes from which to reflect: what a reflector would say is said.
            reflected = f"originator-id 10.0.0.3 cluster-list [ {THEIRS} ]"
            self._tell(SHARED, "path-information 0.0.0.1")
            self._tell(SHARED, f"path-information 0.0.0.2 {reflected}", THIRD_V6)
        if self.terms.restarts:
            for family in ("ipv4", "ipv6"):
                self._say(f"announce eor {family} unicast")

    def _tell(self, prefix: str, more: str, hop: str = "") -> None:
        self._say(f"announce route {prefix} next-hop {hop or self._hop(prefix)} {more}")

    def _hop(self, prefix: str) -> str:
        return THEIRS_V6 if self.setting.has_third else _hop(prefix)

    def paths(self, prefix: str) -> list[Seen]:
        known: dict[str, Seen] = {}
        for event in self._heard():
            if event.get("state") in ("down", "connected"):
                known.clear()
            update = event.get("message", {}).get("update", {})
            for by_hop in update.get("announce", {}).values():
                for hop, routes in by_hop.items():
                    for route in routes:
                        if route.get("nlri") == prefix:
                            seen = self._seen(hop, update["attribute"])
                            known[route.get("path-information", "")] = seen
            for routes in update.get("withdraw", {}).values():
                for route in routes:
                    if route["nlri"] == prefix:
                        known.pop(route.get("path-information", ""), None)
        return list(known.values())

    def _seen(self, hop: str, attributes: dict[str, Any]) -> Seen:
        communities = [c["value"] for c in attributes.get("extended-community", [])]
        rates = [_rate(c & 0xFFFFFFFF) for c in communities if c >> 48 == 0x4004]
        return Seen(
            next_hop=hop,
            as_path=" ".join(str(asn) for asn in attributes.get("as-path", [])),
            is_draining=[65535, 0] in attributes.get("community", []),
            large=len(attributes.get("large-community", [])),
            bandwidth=rates[0] if rates else None,
            originator=attributes.get("originator-id", ""),
            cluster_list=attributes.get("cluster-list", []),
        )

    def is_bfd_up(self) -> bool:
        return False

    def heard_reason(self) -> str:
        for event in reversed(self._heard()):
            data = event.get("notification", {})
            if isinstance(data, dict) and "data" in data:
                with contextlib.suppress(ValueError):
                    return bytes.fromhex(data["data"].removeprefix("0x")).decode(errors="replace")
        return ""


PEERS: dict[str, type[Peer]] = {"FRR": Frr, "BIRD": Bird, "GoBGP": GoBgp, "ExaBGP": ExaBgp}

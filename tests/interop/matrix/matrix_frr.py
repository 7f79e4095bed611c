"""FRR with everything that a setting asks for; its view is `show bgp ... json`."""

from __future__ import annotations

import json
import re
from typing import Any

import interop_peers
from interop_peers import THEIRS, THEIRS_V6
from matrix_peer import Peer, Seen, large_communities
from matrix_setting import (
    BANDWIDTH,
    LARGE,
    REASON,
    SECRET,
    THEIR_DRAINING,
    THEIR_LARGE,
    THEIR_WEIGHTED,
    THIRD_V6,
)


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
            words = " ".join(f"{a}:{b}:{c}" for a, b, c in large_communities(100, first))
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

"""ExaBGP with everything that a setting asks for; its view is what its API tells, in JSON."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import interop_peers
from interop_peers import THEIRS, THEIRS_V6
from matrix_peer import Peer, Seen, large_communities, own_hop, rate_of
from matrix_setting import (
    BANDWIDTH,
    SECRET,
    SHARED,
    THEIR_DRAINING,
    THEIR_LARGE,
    THEIR_WEIGHTED,
    THIRD_ID,
    THIRD_V6,
)


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
        words = " ".join(f"{a}:{b}:{c}" for a, b, c in large_communities())
        rate = f"bandwidth:{self.terms.their_as}:{BANDWIDTH:.0f}"
        self._tell(THEIR_DRAINING, "community [ 65535:0 ]")
        self._tell(THEIR_WEIGHTED, f"extended-community [ {rate} ]")
        self._tell(THEIR_LARGE, f"large-community [ {words} ]")
        if self.setting.has_third:
            # It has no table of routes from which to reflect: what a reflector would say is said.
            reflected = f"originator-id {THIRD_ID} cluster-list [ {THEIRS} ]"
            self._tell(SHARED, "path-information 0.0.0.1")
            self._tell(SHARED, f"path-information 0.0.0.2 {reflected}", THIRD_V6)
        if self.terms.restarts:
            for family in ("ipv4", "ipv6"):
                self._say(f"announce eor {family} unicast")

    def _tell(self, prefix: str, more: str, hop: str = "") -> None:
        self._say(f"announce route {prefix} next-hop {hop or self._hop(prefix)} {more}")

    def _hop(self, prefix: str) -> str:
        return THEIRS_V6 if self.setting.has_third else own_hop(prefix)

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
        rates = [rate_of(c & 0xFFFFFFFF) for c in communities if c >> 48 == 0x4004]
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

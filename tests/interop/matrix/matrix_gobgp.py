"""GoBGP with everything that a setting asks for; its view is `neighbor ... adj-in -j`."""

from __future__ import annotations

import json
from typing import Any

import interop_peers
from interop_peers import THEIRS, THEIRS_V6
from matrix_peer import Peer, Seen, own_hop
from matrix_setting import (
    BANDWIDTH,
    REASON,
    SECRET,
    SHARED,
    THEIR_DRAINING,
    THEIR_WEIGHTED,
    THIRD_V6,
)

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
        return THEIRS_V6 if self.setting.has_third else own_hop(prefix)

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

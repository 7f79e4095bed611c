"""BIRD with everything that a setting asks for; its view is `show route ... all`."""

from __future__ import annotations

import re
import struct
from typing import Any

import interop_peers
from interop_peers import THEIRS, THEIRS_V6
from matrix_peer import Peer, Seen, large_communities, rate_of
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
        large = "".join(f"    bgp_large_community.add({c});\n" for c in large_communities())
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
                        found[-1].bandwidth = rate_of(int(rate[1]))
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

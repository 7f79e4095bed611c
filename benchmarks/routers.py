"""The routers that are compared: Samepath's gateway, FRR and BIRD, each in the same task.

A router is started on host `router` of a stage, accepts every peer of the load by range, and puts
all equal paths into its kernel. Whatever each needs to be at its best in this task is set: no route
is sent back to the peers, no policy is run, and as many paths are allowed as there are peers.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.load import NETWORK, PEER_AS, PREFIXES, ROUTER, ROUTER_AS, Load
from benchmarks.stage import Stage, cpu_s, peak_mb, samepath, wait

HASH_SEED = 0x5A3E9A11
FRR = "/usr/lib/frr"
MERGED = 255
"""Most next hops of a route in BIRD."""


@dataclass(frozen=True, slots=True)
class Router:
    """One that runs."""

    name: str
    daemons: dict[str, subprocess.Popen[Any]] = field(default_factory=dict)

    @property
    def pids(self) -> list[int]:
        return [p.pid for p in self.daemons.values()]

    def cpu_s(self) -> float:
        return sum(map(cpu_s, self.pids))

    def peak_mb(self) -> float:
        return sum(map(peak_mb, self.pids))

    def ended(self) -> list[str]:
        """The daemons that should be running and are not."""
        return [name for name, p in self.daemons.items() if p.poll() is not None]


Start = Callable[[Stage, Load], Router]


def start_samepath(stage: Stage, load: Load, **more: object) -> Router:
    """`more`: settings that are not the defaults."""
    config = stage.file("gateway.yaml", gateway_config(stage, load, **more))
    daemon = stage.start("router", "gateway", *samepath("gateway", "--config", config))
    return Router("Samepath", {"gateway": daemon})


def gateway_config(stage: Stage, load: Load, **more: object) -> str:
    nodes = {
        "range": NETWORK,
        "remote_as": PEER_AS,
        "import": {"services": [PREFIXES], "max_prefixes": load.limit or load.prefixes + 1},
    }
    document = {
        "router_id": ROUTER,
        "as": ROUTER_AS,
        "listen": [ROUTER],
        "neighbors": [nodes],
        "run_dir": str(stage.folder / "run"),
        "hash_seed": HASH_SEED,
        "expected_peers": load.peers,
        **more,
    }
    return str(yaml.safe_dump(document, sort_keys=False))


def start_frr(stage: Stage, load: Load) -> Router:
    """bgpd and zebra as Debian has them, with all of their sockets in the stage's folder."""
    folder = str(stage.folder)
    socket = f"{folder}/zserv.api"
    # They give up root for a user who belongs to the group frrvty; here it is their own folder.
    shutil.chown(folder, "frr", "frr")
    common = ["-u", "frr", "-g", "frr", "-z", socket, "--vty_socket", folder, "-P", "0",
              "-A", "127.0.0.1", "--log", "stdout", "--log-level", "warnings"]  # fmt: skip
    zebra_conf = stage.file("zebra.conf", "hostname benchmark\n")
    bgpd_conf = stage.file("bgpd.conf", bgpd_config(load))
    zebra = stage.start(
        "router", "zebra", f"{FRR}/zebra", *common, "-i", f"{folder}/zebra.pid", "-f", zebra_conf,
        "-s", "90000000", "-e", "64",
    )  # fmt: skip
    # A bgpd that does not find zebra at once looks again only after 10 s.
    wait(Path(socket).exists, 10, "zebra")
    bgpd = stage.start(
        "router", "bgpd", f"{FRR}/bgpd", *common, "-i", f"{folder}/bgpd.pid", "-f", bgpd_conf,
        "-e", "64",
    )  # fmt: skip
    return Router("FRR", {"bgpd": bgpd, "zebra": zebra})


def bgpd_config(load: Load) -> str:
    limit = f"neighbor PEERS maximum-prefix {load.limit}" if load.limit else ""
    return f"""\
hostname benchmark
router bgp {ROUTER_AS}
 bgp router-id {ROUTER}
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp bestpath as-path multipath-relax
 neighbor PEERS peer-group
 neighbor PEERS remote-as {PEER_AS}
 bgp listen limit {load.peers + 1}
 bgp listen range {NETWORK} peer-group PEERS
 address-family ipv4 unicast
  neighbor PEERS activate
  neighbor PEERS route-map NONE out
  {limit}
  maximum-paths 64
 exit-address-family
route-map NONE deny 10
"""


def start_bird(stage: Stage, load: Load) -> Router:
    config = stage.file("bird.conf", bird_config(load))
    folder = str(stage.folder)
    daemon = stage.start(
        "router", "bird", "/usr/sbin/bird", "-f", "-c", config,
        "-s", f"{folder}/bird.ctl", "-P", f"{folder}/bird.pid",
    )  # fmt: skip
    return Router("BIRD", {"bird": daemon})


def bird_config(load: Load) -> str:
    merge = f"merge paths on limit {min(load.peers, MERGED)};" if load.peers > 1 else ""
    limit = f"import limit {load.limit} action block;" if load.limit else ""
    return f"""\
log stderr {{ warning, error, fatal, bug }};
router id {ROUTER};
protocol device {{ }}
protocol kernel {{
  {merge}
  ipv4 {{ import none; export all; }};
}}
protocol bgp peers {{
  local {ROUTER} as {ROUTER_AS};
  neighbor range {NETWORK} as {PEER_AS};
  dynamic name "peer";
  direct;
  ipv4 {{ import all; export none; {limit} }};
}}
"""


ROUTERS: dict[str, Start] = {
    "samepath": start_samepath,
    "frr": start_frr,
    "bird": start_bird,
}

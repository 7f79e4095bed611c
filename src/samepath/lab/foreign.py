"""Somebody else's BGP speaker on the nodes of a lab: MetalLB's, Calico's, Cilium's, kube-router's.

With `speaker: frr | bird | gobgp` in the lab's topology our agent still gives the pods of a node
their network and makes its service rules (kube-proxy's part), but it has no BGP neighbour: what the
gateways hear comes from FRR, BIRD or GoBGP, configured as those projects do (`lab.foreign_config`).
Called by `lab.running`, `lab.steps` and `lab.observe`.

The daemons are asked and told by their own tools: vtysh, birdc, gobgp. zebra runs as its own user,
who sees nothing below /run/samepath-lab; FRR's files are in a folder of their own, which
`lab.removal` removes.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samepath.lab import foreign_config as config
from samepath.lab.foreign_config import SUFFIX6, Foreign, Says
from samepath.lab.state import LabError, wait
from samepath.lab.topology import Node

if TYPE_CHECKING:
    from samepath.lab.running import Lab

FRR_ROOT = Path("/run/samepath-lab-frr")
PROGRAMS = {
    "frr": ("/usr/lib/frr/zebra", "/usr/lib/frr/bgpd", "/usr/bin/vtysh"),
    "bird": ("/usr/sbin/bird", "/usr/sbin/birdc"),
    "gobgp": ("/usr/bin/gobgpd", "/usr/bin/gobgp"),
}
ROLES = {"frr": ("bgpd", "zebra"), "bird": ("bird",), "gobgp": ("gobgpd",)}
"""Of its processes; the one that speaks BGP first."""


def missing(speaker: Foreign) -> list[str]:
    """What is not installed."""
    return [p for p in PROGRAMS[speaker] if not Path(p).exists()]


def folder(lab: Lab, node: str) -> Path:
    """Where a node's daemon has its files."""
    if lab.state.spec.speaker == "frr":
        return FRR_ROOT / lab.name / node
    return lab.run_dir / "run" / f"{node}-speaker"


def start(lab: Lab, node: str) -> None:
    """The daemon runs and advertises what `says` says. Raises LabError."""
    speaker = _foreign(lab)
    if absent := missing(speaker):
        raise LabError(f"speaker {speaker}: not installed: {', '.join(absent)}")
    folder(lab, node).mkdir(parents=True, exist_ok=True)
    _START[speaker](lab, lab.topology.node(node))


def stop(lab: Lab, node: str, *, goodbye: bool) -> None:
    """End it: with a NOTIFICATION to its neighbours, or as a crash does."""
    import signal

    number = signal.SIGTERM if goodbye else signal.SIGKILL
    for role in ROLES[_foreign(lab)]:
        lab.stop(node, role, number)


def says(lab: Lab, node: str) -> Says:
    blocks = config.blocks(lab.topology, lab.topology.node(node))
    return Says(draining=node in lab.state.draining, blocks=blocks)


def drain(lab: Lab, node: str) -> None:
    """Tell what `says` says anew: `node` is in the lab's `draining`, or is not."""
    _SAY[_foreign(lab)](lab, lab.topology.node(node), says(lab, node))


def withdraw(lab: Lab, node: str) -> None:
    """No service any more; the sessions stay."""
    _WITHDRAW[_foreign(lab)](lab, lab.topology.node(node))


def sessions(lab: Lab, node: str) -> dict[str, float]:
    """Established sessions by the gateway's name (`-v6`: over IPv6), and since when."""
    speaker = _foreign(lab)
    if lab.process(node, ROLES[speaker][0]) is None:
        return {}
    return _SESSIONS[speaker](lab, lab.topology.node(node))


def remove(name: str) -> None:
    """Files of the lab `name` outside its own folder."""
    shutil.rmtree(FRR_ROOT / name, ignore_errors=True)
    if FRR_ROOT.exists() and not any(FRR_ROOT.iterdir()):
        FRR_ROOT.rmdir()


def _foreign(lab: Lab) -> Foreign:
    speaker = lab.state.spec.speaker
    assert speaker != "agent"
    return speaker


def _gateways(lab: Lab) -> dict[str, str]:
    """Sessions' names by the gateway's address."""
    found = {g.segment4: g.name for g in lab.topology.gateways}
    return found | {g.segment6: g.name + SUFFIX6 for g in lab.topology.gateways}


def _ask(lab: Lab, node: Node, *command: str) -> str:
    return lab.host(node.name).run(*command, check=False)


# FRR


def _start_frr(lab: Lab, node: Node) -> None:
    place = folder(lab, node.name)
    FRR_ROOT.chmod(0o755)
    place.parent.chmod(0o755)
    shutil.chown(place, "frr", "frr")
    for stale in ("zserv", "zebra.vty", "bgpd.vty"):
        (place / stale).unlink(missing_ok=True)
    (place / "zebra.conf").write_text("ip nht resolve-via-default\nipv6 nht resolve-via-default\n")
    (place / "bgpd.conf").write_text(config.frr(lab.topology, node, says(lab, node.name)))
    zebra, bgpd, _ = PROGRAMS["frr"]
    for role, program, more in (("zebra", zebra, ()), ("bgpd", bgpd, ("-p", "179"))):
        lab.start(node.name, role, [
            program, "-f", f"{place}/{role}.conf", "-i", f"{place}/{role}.pid",
            "-z", f"{place}/zserv", "--vty_socket", str(place), "-P", "0", "--log", "stdout",
            "-u", "frr", "-g", "frr", *more,
        ])  # fmt: skip
        wait((place / f"{role}.vty").exists, 15, f"{node.name}: {role}")


def _vtysh(lab: Lab, node: Node, *lines: str) -> str:
    place = folder(lab, node.name)
    words = [word for line in lines for word in ("-c", line)]
    return _ask(lab, node, "vtysh", "--vty_socket", str(place), "-d", "bgpd", *words)


def _say_frr(lab: Lab, node: Node, says: Says) -> None:
    for one in config.sessions(lab.topology, node):
        _vtysh(lab, node, "configure terminal", *config.frr_out(one, says))
    _vtysh(lab, node, "clear bgp * soft out")


def _withdraw_frr(lab: Lab, node: Node) -> None:
    for address in says(lab, node.name).services:
        family = "ipv6" if config.is_six(address) else "ipv4"
        _vtysh(lab, node, "configure terminal", f"router bgp {config.NODE_AS}",
               f"address-family {family} unicast",
               f"no network {config.host_route(address)}")  # fmt: skip


def _frr_sessions(lab: Lab, node: Node) -> dict[str, float]:
    return parse_frr(_vtysh(lab, node, "show bgp summary json"), _gateways(lab), time.time())


def parse_frr(text: str, named: dict[str, str], now: float) -> dict[str, float]:
    """From `show bgp summary json`."""
    answer: dict[str, Any] = json.loads(text) if text.startswith("{") else {}
    return {
        named[address]: now - peer["peerUptimeMsec"] / 1000
        for family in answer.values()
        for address, peer in family.get("peers", {}).items()
        if peer["state"] == "Established" and address in named
    }


# BIRD


def _bird_text(lab: Lab, node: Node, says: Says) -> Path:
    place = folder(lab, node.name)
    path = place / "bird.conf"
    path.write_text(config.bird(lab.topology, node, says, str(lab.log(node.name, "bird"))))
    return path


def _start_bird(lab: Lab, node: Node) -> None:
    place = folder(lab, node.name)
    path = _bird_text(lab, node, says(lab, node.name))
    # With -R it takes itself for restarted, as Calico starts it always.
    lab.start(node.name, "bird", [
        PROGRAMS["bird"][0], "-f", "-R", "-c", str(path), "-s", f"{place}/bird.ctl",
        "-P", f"{place}/bird.pid",
    ])  # fmt: skip


def _birdc(lab: Lab, node: Node, *words: str) -> str:
    return _ask(lab, node, "birdc", "-s", f"{folder(lab, node.name)}/bird.ctl", *words)


def _say_bird(lab: Lab, node: Node, says: Says) -> None:
    _bird_text(lab, node, says)
    answer = _birdc(lab, node, "configure")
    if "Reconfigur" not in answer:
        raise LabError(f"{node.name}: bird: {answer.strip()}")


def _withdraw_bird(lab: Lab, node: Node) -> None:
    _say_bird(lab, node, Says(services=(), blocks=says(lab, node.name).blocks))


_BIRD_LINE = re.compile(
    r"^(?P<name>gw\d+(_v6)?)\s+BGP\s+\S+\s+up\s+(?P<since>\S+ \S+)\s+Established", re.M
)


def _bird_sessions(lab: Lab, node: Node) -> dict[str, float]:
    return parse_bird(_birdc(lab, node, "show", "protocols"))


def parse_bird(text: str) -> dict[str, float]:
    """From `show protocols` with `timeformat iso long ms`."""
    return {
        found["name"].replace("_", "-"): datetime.fromisoformat(found["since"]).timestamp()
        for found in _BIRD_LINE.finditer(text)
    }


# GoBGP


def _start_gobgp(lab: Lab, node: Node) -> None:
    host = lab.host(node.name)
    host.sysctl(**config.NEIGHBOR_SETTINGS)
    for words in config.way_back(lab.topology):
        host.ip(*words)
    path = folder(lab, node.name) / "gobgpd.toml"
    path.write_text(config.gobgp(lab.topology, node))
    lab.start(node.name, "gobgpd", [
        PROGRAMS["gobgp"][0], "-f", str(path), "--api-hosts", "127.0.0.1:50051", "--pprof-disable",
    ])  # fmt: skip
    wait(lambda: str(config.NODE_AS) in _ask(lab, node, "gobgp", "global"), 15,
         f"{node.name}: gobgpd")  # fmt: skip
    _say_gobgp(lab, node, says(lab, node.name))


def _say_gobgp(lab: Lab, node: Node, says: Says) -> None:
    prefixes = (*map(config.host_route, says.services), *says.blocks)
    for prefix in prefixes:
        _gobgp(lab, node, config.rib_command(node, "add", prefix, says))


def _withdraw_gobgp(lab: Lab, node: Node) -> None:
    told = says(lab, node.name)
    for address in told.services:
        _gobgp(lab, node, config.rib_command(node, "del", config.host_route(address), told))


def _gobgp(lab: Lab, node: Node, command: Sequence[str]) -> None:
    if answer := _ask(lab, node, *command).strip():
        raise LabError(f"{node.name}: {' '.join(command)}: {answer}")


def _gobgp_sessions(lab: Lab, node: Node) -> dict[str, float]:
    return parse_gobgp(_ask(lab, node, "gobgp", "neighbor", "-j"), _gateways(lab))


def parse_gobgp(text: str, named: dict[str, str]) -> dict[str, float]:
    """From `neighbor -j`."""
    peers: list[dict[str, Any]] = json.loads(text) if text.startswith("[") else []
    found = {}
    for peer in peers:
        state = peer["state"]
        name = named.get(state["neighbor_address"])
        if name is not None and state.get("session_state") == 6:
            found[name] = float(peer["timers"]["state"]["uptime"]["seconds"])
    return found


_START: dict[Foreign, Callable[[Lab, Node], None]] = {
    "frr": _start_frr, "bird": _start_bird, "gobgp": _start_gobgp,
}  # fmt: skip
_SAY: dict[Foreign, Callable[[Lab, Node, Says], None]] = {
    "frr": _say_frr, "bird": _say_bird, "gobgp": _say_gobgp,
}  # fmt: skip
_WITHDRAW: dict[Foreign, Callable[[Lab, Node], None]] = {
    "frr": _withdraw_frr, "bird": _withdraw_bird, "gobgp": _withdraw_gobgp,
}  # fmt: skip
_SESSIONS: dict[Foreign, Callable[[Lab, Node], dict[str, float]]] = {
    "frr": _frr_sessions, "bird": _bird_sessions, "gobgp": _gobgp_sessions,
}  # fmt: skip

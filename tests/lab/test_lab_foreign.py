"""Foreign speakers in the lab: what their configurations say, and how their answers are read."""

from __future__ import annotations

import ipaddress
import json
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest
import yaml

from samepath.lab import foreign, foreign_config, render
from samepath.lab.foreign_config import Says
from samepath.lab.topology import SERVICE_ADDRESSES, Speaker, Spec, read_spec, topology
from samepath.model.config import GatewayConfig
from samepath.programs.config import load

TOPOLOGY = topology(Spec(speaker="bird"))
NODE = TOPOLOGY.nodes[0]
DRAINING = Says(draining=True, blocks=foreign_config.blocks(TOPOLOGY, NODE))


def test_blocks_are_apart_and_in_their_pools() -> None:
    every = [
        ipaddress.ip_network(b) for n in TOPOLOGY.nodes for b in foreign_config.blocks(TOPOLOGY, n)
    ]
    assert len(set(every)) == 2 * len(TOPOLOGY.nodes)
    for one in every:
        assert sum(one.overlaps(other) for other in every if other.version == one.version) == 1


@pytest.mark.parametrize("speaker", ["frr", "bird", "gobgp"])
def test_a_gateway_behind_which_others_speak(speaker: Speaker) -> None:
    """One session a family, another AS, and so no block of one node is told to the others."""
    topo = topology(Spec(speaker=speaker))
    text = render.gateway_config(topo, topo.gateways[0], "kernel", "/run/x", 4)
    config = yaml.safe_load(text)
    *nodes, upstream = config["neighbors"]
    assert upstream["remote_as"] != foreign_config.NODE_AS
    assert {n["remote_as"] for n in nodes} == {foreign_config.NODE_AS}
    assert {tuple(n["families"]) for n in nodes} == {("ipv4",), ("ipv6",)}
    assert all(n["export"] == ["default"] for n in nodes)
    assert config["expected_peers"] == 8, "each node has two sessions"
    assert topo.gateways[0].segment6 in config["listen"]
    by_address = [n for n in nodes if "address" in n]
    assert len(by_address) == (2 * len(topo.nodes) if speaker == "frr" else 0)


def test_the_agent_beside_another_speaker_has_no_neighbours() -> None:
    places = render.Places("/m", "/r", "/s", "/c")
    config = yaml.safe_load(render.agent_config(TOPOLOGY, NODE, places))
    assert config["neighbors"] == []
    assert config["pod_cidrs"] == list(foreign_config.blocks(TOPOLOGY, NODE))
    ours = yaml.safe_load(render.agent_config(topology(Spec()), NODE, places))
    assert ours["neighbors"]
    assert ours["pod_cidrs"] == []


def test_draining_is_said_of_services_alone() -> None:
    block = DRAINING.blocks[0]
    service = foreign_config.host_route(SERVICE_ADDRESSES[0])
    words = foreign_config.rib_command(NODE, "add", service, DRAINING)
    assert words[-2:] == ["community", "65535:0"]
    assert "community" not in foreign_config.rib_command(NODE, "add", block, DRAINING)
    assert "community" not in foreign_config.rib_command(NODE, "add", service, Says())
    assert "(65535, 0)" in foreign_config.bird(TOPOLOGY, NODE, DRAINING, "/log")
    assert "65535" not in foreign_config.bird(TOPOLOGY, NODE, Says(), "/log")
    drained = foreign_config.frr(TOPOLOGY, NODE, DRAINING)
    assert " set community 65535:0 additive" in drained
    assert " no set community" in foreign_config.frr(TOPOLOGY, NODE, Says())


@pytest.mark.skipif(not Path("/usr/sbin/bird").exists(), reason="BIRD is not installed")
def test_bird_takes_its_configuration(tmp_path: Path) -> None:
    for says in (DRAINING, Says(), Says(services=())):
        (tmp_path / "bird.conf").write_text(
            foreign_config.bird(TOPOLOGY, NODE, says, str(tmp_path / "log"))
        )
        subprocess.run(["/usr/sbin/bird", "-p", "-c", str(tmp_path / "bird.conf")], check=True)


@pytest.mark.skipif(shutil.which("vtysh") is None, reason="FRR is not installed")
def test_frr_takes_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "bgpd.conf").write_text(foreign_config.frr(TOPOLOGY, NODE, DRAINING))
    subprocess.run(["/usr/lib/frr/bgpd", "-C", "-f", str(tmp_path / "bgpd.conf")], check=True)


def test_sessions_as_each_daemon_tells_them() -> None:
    named = {"10.83.0.1": "gw1", "2001:db8:83::1": "gw1-v6"}
    summary = {
        "ipv4Unicast": {
            "peers": {
                "10.83.0.1": {"state": "Established", "peerUptimeMsec": 5000},
                "10.83.0.2": {"state": "Established", "peerUptimeMsec": 5000},
            }
        },
        "ipv6Unicast": {"peers": {"2001:db8:83::1": {"state": "Active", "peerUptimeMsec": 0}}},
    }
    assert foreign.parse_frr(json.dumps(summary), named, 105.0) == {"gw1": 100.0}
    assert foreign.parse_frr("% no daemon", named, 0) == {}
    bird = (
        "gw1        BGP        ---        up     2026-01-02 03:04:05.678  Established   \n"
        "gw1_v6     BGP        ---        up     2026-01-02 03:04:05.678  Established   \n"
        "gw2        BGP        ---        start  2026-01-02 03:04:05.678  Connect       \n"
    )
    assert set(foreign.parse_bird(bird)) == {"gw1", "gw1-v6"}
    peers = [
        {
            "state": {"neighbor_address": "10.83.0.1", "session_state": 6},
            "timers": {"state": {"uptime": {"seconds": 77}}},
        },
        {"state": {"neighbor_address": "2001:db8:83::1", "session_state": 3}, "timers": {}},
    ]
    assert foreign.parse_gobgp(json.dumps(peers), named) == {"gw1": 77.0}
    assert foreign.parse_gobgp("", named) == {}


def test_the_page_for_operators_has_a_configuration_that_is_taken(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()
    block = page.split("```yaml\n")[1].split("```")[0]
    file = tmp_path / "gateway.yaml"
    file.write_text(textwrap.dedent(block))
    config = load(str(file), GatewayConfig)
    assert len(config.neighbors) == 3
    page = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()
    block = page.split("## Beside a routing daemon")[1].split("```yaml\n")[1].split("```")[0]
    file.write_text(block)
    assert load(str(file), GatewayConfig).kernel_routes is not None


def test_the_speaker_of_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "topology.yaml"
    file.write_text("speaker: frr\nnodes: 3\n")
    assert read_spec(file).speaker == "frr"
    assert read_spec(file, "bird").speaker == "bird"
    assert read_spec(file, "bird").nodes == 3
    assert read_spec(None, "gobgp").speaker == "gobgp"
    assert read_spec(None).speaker == "agent"

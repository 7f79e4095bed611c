"""The runtime of these tests works by itself: podman, the reference plugins, its removal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from samepath.lab.netns import Namespace
from samepath.lab.processes import wait_gone
from tests.runtime.podman import NETNS, Podman, control_groups, parent, remove_leftovers

pytestmark = [pytest.mark.netns, pytest.mark.timeout(360)]

PTP = {
    "type": "ptp",
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]],
             "routes": [{"dst": "0.0.0.0/0"}]},
}  # fmt: skip
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}


def reference(name: str, node: Namespace) -> Podman:
    ptp = {**PTP, "ipam": {**PTP["ipam"], "dataDir": str(parent() / name / "addresses")}}  # type: ignore[dict-item]
    return Podman.make(name, node, [ptp, PORTMAP])


def podman_spaces() -> set[Path]:
    return set(NETNS.glob("netns-*"))


@pytest.fixture
def node() -> Iterator[Namespace]:
    with Namespace(f"spt-{os.getpid()}-h") as node:
        yield node


def test_a_container_starts_answers_and_goes(node: Namespace) -> None:
    before = podman_spaces()
    podman = reference("harness", node)
    try:
        podman.run("a", "httpd", "-f", "-p", "80", options=["--publish", "8080:80"])
        address, _ = podman.addresses("a")["a"]
        assert f"inet {address}/" in podman("exec", "a", "ip", "addr", "show", "eth0")
        node.run("ping", "-c1", "-W2", address)
        assert len(podman.kept()) == 1
        assert "CNI-HOSTPORT-DNAT" in node.run("iptables-save", "-t", "nat")
        podman.remove_all()
        assert podman.kept() == []
    finally:
        podman.remove()
    assert not podman.folder.exists()
    assert podman_spaces() == before


@pytest.mark.parametrize("node_stands", [True, False])
def test_what_a_killed_test_run_leaves_is_removed(node: Namespace, node_stands: bool) -> None:
    """A test run of its own makes a container and is killed; the next one cleans up after it."""
    before, groups = podman_spaces(), control_groups()
    code = (
        "import time\n"
        "from tests.runtime.test_runtime_harness import *\n"
        f"podman = reference('killed', Namespace({node.name!r}))\n"
        "podman.run('a', 'sleep', '600')\n"
        "print(podman.pid('a'), podman.folder, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid, folder = run.stdout.readline().split()
        run.kill()
    assert Path(f"/proc/{pid}").exists()
    assert len(podman_spaces()) == len(before) + 1
    if not node_stands:
        node.delete()
    remove_leftovers()
    assert wait_gone(int(pid), 5)
    assert not Path(folder).parent.exists()
    assert podman_spaces() - before == set()
    assert folder not in Path("/proc/mounts").read_text()
    assert control_groups() == groups

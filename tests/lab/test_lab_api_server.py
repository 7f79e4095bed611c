"""A lab whose cluster is an API server: people use kubectl on it, and it may go away."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from samepath.lab import observe, processes
from samepath.lab.removal import down, namespaces_of
from samepath.lab.render import DRAIN_LABEL
from samepath.lab.run import measure
from samepath.lab.running import Lab
from samepath.lab.scenario import Paused
from samepath.lab.state import ROOT, wait
from samepath.lab.topology import Spec

KUBECTL = Path(sys.executable).parent / "kubectl"
SMALL = Spec(
    clients=1, gateways=1, nodes=2, spares=0, pods_per_node=1, source="api-server"
)  # fmt: skip


@pytest.fixture
def name() -> Iterator[str]:
    name = f"spt-{os.getpid()}-k"
    yield name
    down(name)


def kubectl(lab: Lab, *words: str) -> str:
    assert lab.cluster is not None
    done = subprocess.run(
        [str(KUBECTL), f"--kubeconfig={lab.cluster.kubeconfig}", *words],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def get(lab: Lab, *words: str) -> Any:
    return json.loads(kubectl(lab, "get", "-o", "json", *words))


@pytest.mark.netns
def test_people_use_kubectl_on_it(name: str) -> None:
    lab = Lab.up(name, SMALL)
    assert lab.cluster is not None
    lines = kubectl(lab, "get", "nodes").splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["n1", "Ready"], ["n2", "Ready"]]
    pods = kubectl(lab, "get", "pods", "-l", "app=web", "-o", "wide").splitlines()
    assert [line.split()[:3] for line in pods[1:]] == [
        ["web-n1-1", "1/1", "Running"],
        ["web-n2-1", "1/1", "Running"],
    ]
    kubectl(lab, "label", "node", "n1", f"{DRAIN_LABEL}=")
    wait(lambda: observe.converged(lab, "gw1", ["n2"], ["n1"]), 30, "n1 to drain")
    kubectl(lab, "label", "node", "n1", f"{DRAIN_LABEL}-", "theirs=kept")
    wait(lambda: observe.converged(lab, "gw1", ["n1", "n2"], []), 30, "n1 to be active")
    # What the lab says goes with it; what people say stays.
    lab.state.draining.append("n1")
    lab.write_manifests()
    assert set(get(lab, "node", "n1")["metadata"]["labels"]) > {DRAIN_LABEL, "theirs"}
    lab.state.draining.remove("n1")
    lab.write_manifests()
    labels = get(lab, "node", "n1")["metadata"]["labels"]
    assert "theirs" in labels
    assert DRAIN_LABEL not in labels
    # Another process opens the lab, as each command does.
    lab.state.nodes.remove("n2")
    lab._save()
    Lab.open(name).write_manifests()
    assert [one["metadata"]["name"] for one in get(lab, "nodes")["items"]] == ["n1"]
    down(name)
    assert not namespaces_of(name)
    assert not processes.marked(name)
    assert not (ROOT / name).exists()


@pytest.mark.netns
def test_on_the_host_nobody_comes_in_without_the_token(name: str) -> None:
    lab = Lab.up(name, SMALL, programs=False)
    assert lab.cluster is not None
    cluster = yaml.safe_load(lab.cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
    assert cluster["server"].startswith("https://127.0.0.1:")
    assert lab.cluster.kubeconfig.stat().st_mode & 0o077 == 0
    context = ssl._create_unverified_context()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{cluster['server']}/api/v1/nodes", context=context, timeout=10)
    # It comes back at the same port, so that the kubeconfig stays good.
    lab.cluster.stop()
    lab.cluster.start()
    assert len(get(lab, "nodes")["items"]) == 2


@pytest.mark.lab
@pytest.mark.timeout(900)
def test_survival_from_the_api_server(name: str) -> None:
    spec = Spec(nodes=4, idle_timer_s=18.0, source="api-server")
    steps = ("add", "drain", "roll", "scale", "api_away", "api_restored")
    for attempt in (1, 2):
        try:
            run = measure(name, spec, "kernel", 500, steps, False, Console(width=160))
        except Paused:
            if attempt == 2:
                raise
            continue
        if run.checks[0].passed:
            break
    assert [(c.name, c.found) for c in run.checks if not c.passed] == []
    assert [s.step for s in run.steps] == list(steps)
    assert all(s.broken_others == 0 for s in run.steps)
    for calm in run.steps[3:]:
        assert calm.broken_own == 0

"""A lab comes up once, tells what it is, and leaves nothing behind, however it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from samepath.cli.lab import lab as command
from samepath.lab import processes
from samepath.lab.netns import Namespace
from samepath.lab.removal import down, namespaces_of, programs_of
from samepath.lab.run import alone
from samepath.lab.running import Lab
from samepath.lab.state import ROOT, LabError, wait
from samepath.lab.topology import Spec
from samepath.programs.control import ask

pytestmark = pytest.mark.netns

SMALL = Spec(clients=1, nodes=2, spares=1, pods_per_node=1)


@pytest.fixture
def name() -> Iterator[str]:
    name = f"spt-{os.getpid()}-r"
    yield name
    down(name)


def nothing_left(name: str) -> bool:
    folders = (ROOT / name, programs_of(name))
    return not (namespaces_of(name) or processes.marked(name) or any(map(Path.exists, folders)))


def test_up_exec_status_down(name: str, tmp_path: Path) -> None:
    topology = tmp_path / "small.yaml"
    topology.write_text("clients: 1\nnodes: 2\nspares: 1\npods_per_node: 1\n")
    run = CliRunner()
    up = run.invoke(command, ["up", "--name", name, "--topology", str(topology)])
    assert up.exit_code == 0, up.output
    twice = run.invoke(command, ["up", "--name", name])
    assert twice.exit_code == 1
    assert "samepath lab down" in twice.output
    assert "Traceback" not in twice.output

    status = run.invoke(command, ["status", "--name", name])
    assert status.exit_code == 0
    for host in ("client1", "upstream", "gw1", "gw2", "n1", "n2", "n3", "fabric", "web-n2-1"):
        assert f"  {host} " in status.output
    assert "10.244." in next(x for x in status.output.splitlines() if "web-n2-1" in x)
    ping = ["exec", "--name", name, "web-n1-1", "--", "ping", "-c1", "-W2", "10.83.0.11"]
    assert run.invoke(command, ping).exit_code == 0
    assert run.invoke(command, ["exec", "--name", name, "client1", "--", "false"]).exit_code == 1
    nowhere = run.invoke(command, ["exec", "--name", name, "gw9", "--", "true"])
    assert "no host 'gw9'" in nowhere.output

    lost = subprocess.Popen(
        Namespace(f"{name}.n1").command(["sleep", "300"]), env=processes.environment(name)
    )
    gone = run.invoke(command, ["down", "--name", name])
    assert gone.exit_code == 0
    assert lost.wait(30) == -signal.SIGKILL
    assert nothing_left(name)
    again = run.invoke(command, ["down", "--name", name])
    assert (again.exit_code, again.output) == (0, f"There was no lab {name!r}.\n")
    assert "there is no lab" in run.invoke(command, ["status", "--name", name]).output


@pytest.mark.parametrize(
    "after", ["run directory", "first namespaces", "first process", "first pod", "whole"]
)
def test_down_after_the_lab_was_killed(name: str, after: str) -> None:
    """kill -9 in the middle of `up`, at several depths; what it had started is found again."""
    code = "from samepath.cli.main import main; main()"
    making = subprocess.Popen(
        [sys.executable, "-c", code, "lab", "up", "--name", name],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    reached = {
        "run directory": lambda: (ROOT / name).exists(),
        "first namespaces": lambda: len(namespaces_of(name)) > 3,
        "first process": lambda: bool(processes.marked(name)),
        "first pod": lambda: any((ROOT / name / "results").glob("*.json")),
        "whole": lambda: making.poll() is not None,
    }[after]
    try:
        wait(reached, 30, after, pause_s=0.001)
    finally:
        making.kill()
        making.wait(30)
    down(name)
    assert nothing_left(name)


def test_down_leaves_a_stranger_alone(name: str) -> None:
    """A process id from the record that is somebody else's by now is not killed."""
    lab = Lab.up(name, SMALL)
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        lab.state.processes.append(processes.Process("n1", "agent", stranger.pid, 1))
        lab._save()
        assert lab.process("n1", "agent") is None or lab.process("n1", "agent").start != 1  # type: ignore[union-attr]
        down(name)
        assert stranger.poll() is None
        assert nothing_left(name)
    finally:
        stranger.kill()
        stranger.wait(30)


def test_two_labs_do_not_know_each_other(name: str) -> None:
    """The prefix of one name is not taken for another lab's."""
    other = f"{name}-more"
    try:
        Lab.up(name, SMALL)
        Lab.up(other, SMALL)
        down(name)
        assert nothing_left(name)
        assert len(namespaces_of(other)) > 5
        assert processes.marked(other)
    finally:
        down(other)
    assert nothing_left(other)


def test_a_failed_up_leaves_nothing(name: str) -> None:
    """A namespace that is in the way makes `up` fail, and takes nothing with it but ours."""
    Namespace(f"{name}.gw1").create()
    with pytest.raises(RuntimeError, match="File exists"):
        Lab.up(name, SMALL)
    assert nothing_left(name)


def test_names_are_checked() -> None:
    for bad in ("", "Lab", "a b", "../x", "a.b"):
        with pytest.raises(LabError):
            Lab.open(bad)


def test_a_pod_is_reached_from_its_node(name: str) -> None:
    lab = Lab.up(name, SMALL)
    for pod in lab.pods("n1"):
        for address in (pod.address4, pod.address6):
            lab.host("n1").run("ping", "-c1", "-W2", address)
    (kept,) = attachments(lab, "n1")
    assert kept["addresses"] == [lab.pods("n1")[0].address4, lab.pods("n1")[0].address6]
    began = time.monotonic()
    lab.end_pods(lab.pods("n1"), signal.SIGKILL)
    assert time.monotonic() - began < 10
    assert lab.pods("n1") == []
    assert f"{name}.web-n1-1" not in namespaces_of(name)
    assert attachments(lab, "n1") == []
    assert not list((lab.run_dir / "results").glob("web-n1-*"))
    assert len(attachments(lab, "n2")) == 1


def test_pods_of_a_node_without_agent_end_without_it(name: str) -> None:
    """Nobody detaches them: their records are the agent's to settle when it comes back."""
    lab = Lab.up(name, SMALL)
    lab.stop("n1", "agent", signal.SIGKILL)
    lab.end_pods(lab.pods("n1"), signal.SIGKILL)
    lab.start_agent("n1")
    wait(lambda: lab.start_pods([lab.topology.node("n1")], None), 30, "a new pod")
    (kept,) = (a for a in attachments(lab, "n1") if a["pod"] == "default/web-n1-2")
    assert kept["addresses"] == [lab.pods("n1")[0].address4, lab.pods("n1")[0].address6]


def attachments(lab: Lab, node: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(lab.program_dir(node), "agent", "ipam")["attachments"]
    return found


def test_one_demo_at_a_time(name: str) -> None:
    """And it removes what a crashed one has left, but not what is running."""
    Namespace(f"{name}.gw1").create()
    with alone(name):
        assert nothing_left(name)
        with pytest.raises(LabError, match="running already"), alone(name):
            pass
    assert not Path(f"/run/{name}.lock").exists()
    with alone(name):
        pass

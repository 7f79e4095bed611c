"""The gateway's configuration: what takes effect, what is refused, and what cannot start."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any

import msgspec
import pytest
from gateway_stage import Stage, eventually, flaps, log_of, table, two_nodes

from samepath.model.neighbor import Import, Neighbor

pytestmark = pytest.mark.netns


def reload(stage: Stage, **changes: Any) -> None:
    stage.config = msgspec.structs.replace(stage.config, **changes)
    stage.write_config()
    assert stage.process is not None
    stage.process.send_signal(signal.SIGHUP)


def refused(stage: Stage, said: str) -> None:
    eventually(lambda: said in stage.status()["config_error"])


def test_refused_configurations_leave_everything_as_it_was(stage: Stage) -> None:
    two_nodes(stage)
    good = stage.config
    path = stage.folder / "gateway.yaml"
    text = path.read_text()
    blocker = stage.gateway.popen(
        sys.executable, "-c",
        "import socket, time; s = socket.create_server(('10.9.0.254', 1790)); print(flush=True); "
        "time.sleep(60)",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert blocker.stdout is not None
        blocker.stdout.readline()
        for changes, said in (
            ({"router_id": "10.9.0.9"}, "router_id: a change needs a restart"),
            ({"local_as": 64999}, "as: a change needs a restart"),
            ({"run_dir": "/run/else"}, "run_dir: a change needs a restart"),
            ({"dataplane": "plain"}, "dataplane: a change needs a restart"),
            ({"route_metric": 11}, "route_metric: a change needs a restart"),
            ({"listen_port": 1790}, "listen: Address already in use"),
        ):
            reload(stage, **changes)
            stage.config = good
            refused(stage, said)
            assert stage.status()["router_id"] == good.router_id
        for broken, said in (
            ("router_id: [", "gateway.yaml:2"),
            (text.replace('"buckets":127', '"buckets":0').replace('"buckets": 127', '"buckets": 0'),
             "buckets: 1 to 4093"),
            ("", "expected one document"),
        ):  # fmt: skip
            path.write_text(broken)
            refused(stage, said)
        path.unlink()
        time.sleep(1.2)
        path.parent.rename(path.parent.with_name("elsewhere"))
        time.sleep(1.2)
        path.parent.with_name("elsewhere").rename(path.parent)
        reload(stage)
        eventually(lambda: stage.status()["config_error"] == "")
        assert stage.owners() == table(1, 2)
        assert flaps(stage) == [0] * len(flaps(stage))
    finally:
        blocker.kill()
        blocker.wait()
        blocker.stdout.close()  # type: ignore[union-attr]


def test_changes_take_effect_without_a_flap(stage: Stage) -> None:
    two_nodes(stage)
    stage.serve(3)
    eventually(lambda: stage.status()["moves"]["waiting"])
    nodes, upstream = stage.config.neighbors
    one = stage.peers["n1"]
    # 10.77.0.1 is no address of anybody yet: it may be listened on all the same.
    reload(stage, listen=["10.9.0.254", "10.77.0.1"], hash_seed=78)
    seed = "net.ipv4.fib_multipath_hash_seed"
    eventually(lambda: stage.gateway.run("sysctl", "-n", seed).split()[-1] == "78")
    eventually(lambda: stage.status()["hash_seed"] == 78)
    eventually(lambda: set(stage.status()["flow_hash"].values()) == {"as predicted"})
    assert "10.77.0.1:179" in stage.gateway.run("ss", "-Htln")
    # Without imports of routes we know a way out by ourselves: the default route is exported.
    plain_up = msgspec.structs.replace(upstream, import_=Import())
    reload(stage, neighbors=[nodes, plain_up])
    eventually(lambda: one.knows().get("0.0.0.0/0") == ["10.9.0.254"])
    reload(stage, neighbors=[msgspec.structs.replace(nodes, export=[]), plain_up])
    eventually(lambda: "0.0.0.0/0" not in one.knows())
    reload(
        stage, neighbors=[*stage.config.neighbors, Neighbor(address="10.8.0.9", remote_as=65000)]
    )
    eventually(lambda: "10.8.0.9" in {p["address"] for p in stage.status()["peers"]})
    reload(stage, move_deadline_s=0.5)
    eventually(lambda: stage.owners() == table(1, 2, 3))
    reload(stage, buckets=31)
    eventually(lambda: (o := stage.owners()) is not None and o.buckets == 31)
    assert stage.owners() != table(1, 2, 3)
    assert set(flaps(stage)) == {0}


def test_changed_file_is_taken_without_a_signal(stage: Stage) -> None:
    two_nodes(stage)
    stage.config = msgspec.structs.replace(stage.config, idle_timer_s=77)
    stage.write_config()
    eventually(lambda: stage.status()["idle_timer_s"] == 77)


def test_second_gateway_is_refused_and_the_first_goes_on(stage: Stage) -> None:
    two_nodes(stage)
    assert stage.process is not None
    other = stage.gateway.popen(
        sys.executable, "-m", "samepath.cli.main", "gateway", "--config",
        str(stage.folder / "gateway.yaml"), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _, said = other.communicate(timeout=60)
    assert other.returncode == 1
    assert f"another gateway runs with it (process {stage.process.pid})" in said
    assert "Traceback" not in said
    assert stage.settled()


def test_gateway_that_cannot_listen_says_why(stage: Stage) -> None:
    blocker = stage.gateway.popen(
        sys.executable, "-c",
        "import socket, time; s = socket.create_server(('10.9.0.254', 179)); print(flush=True); "
        "time.sleep(60)",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert blocker.stdout is not None
        blocker.stdout.readline()
        stage.start()
        assert stage.process is not None
        assert stage.process.wait(30) == 1
        assert "cannot start: listen: " in log_of(stage)
        assert "Traceback" not in log_of(stage)
    finally:
        blocker.kill()
        blocker.wait()
        blocker.stdout.close()  # type: ignore[union-attr]

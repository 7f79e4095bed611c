"""The plugin under the runtimes' own library, and under a driver for what that does not know."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from samepath.lab.netns import Namespace
from samepath.lab.state import wait
from tests.runtime.podman import REFERENCE_PLUGINS
from tests.runtime.site import PORTMAP, Site, succeeds

pytestmark = [pytest.mark.lab, pytest.mark.timeout(360)]

NODE = "n1"
_numbers = itertools.count()


@dataclass(frozen=True)
class Libcni:
    """The program of `libcni/main.go`, with a cache of its own."""

    program: Path
    conflist: Path
    cache: Path
    node: Namespace
    plugins: str
    """Folders, separated by colons."""

    def __call__(self, verb: str, container: str, netns: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "CNI_PATH": self.plugins,
            "CNI_CACHE": str(self.cache),
        }
        words = [str(self.program), verb, str(self.conflist), container, netns, "eth0"]
        return subprocess.run(
            self.node.command(words), env=environment,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def add(self, container: str, pod: Namespace) -> dict[str, Any]:
        done = self("add", container, str(pod.path))
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def check(self, container: str, pod: Namespace) -> str:
        """What is wrong; empty: nothing."""
        done = self("check", container, str(pod.path))
        return done.stderr if done.returncode else ""


@pytest.fixture
def runtime(libcni: Path, site: Site, tmp_path: Path) -> Libcni:
    conflist = tmp_path / "10-pods.conflist"
    chain = [site.network(NODE), PORTMAP]
    conflist.write_text(json.dumps({"cniVersion": "1.0.0", "name": "driver", "plugins": chain}))
    plugins = f"{site.lab.plugin.parent}:{REFERENCE_PLUGINS}"
    return Libcni(libcni, conflist, tmp_path / "cache", site.node(NODE), plugins)


@pytest.fixture
def pod(site: Site) -> Iterator[Namespace]:
    with Namespace(f"spt-{os.getpid()}-p{next(_numbers)}") as pod:
        yield pod


@pytest.fixture(autouse=True)
def nothing_stays(site: Site) -> Iterator[None]:
    before = site.snapshot(NODE)
    yield
    site.driver(NODE).collect([])
    assert site.snapshot(NODE) == before


def test_add_check_del_twice(runtime: Libcni, pod: Namespace) -> None:
    result = runtime.add("c1", pod)
    assert result["cniVersion"] == "1.0.0"
    for entry in result["ips"]:
        address = entry["address"].partition("/")[0]
        runtime.node.run("ping", "-c1", "-W2", address)
    assert runtime.check("c1", pod) == ""
    for netns in (str(pod.path), str(pod.path), ""):
        done = runtime("del", "c1", netns)
        assert done.returncode == 0, done.stderr
    assert "eth0" not in pod.ip("link")


def test_check_sees_that_an_address_was_changed(runtime: Libcni, pod: Namespace) -> None:
    result = runtime.add("c1", pod)
    address = next(e["address"] for e in result["ips"] if ":" not in e["address"])
    assert runtime.check("c1", pod) == ""
    pod.ip("addr", "del", address, "dev", "eth0")
    pod.ip("addr", "add", "10.9.9.9/32", "dev", "eth0")
    assert address.partition("/")[0] in runtime.check("c1", pod)


def test_check_sees_that_the_pods_route_was_deleted(runtime: Libcni, pod: Namespace) -> None:
    runtime.add("c1", pod)
    pod.ip("route", "del", "default")
    assert "default" in runtime.check("c1", pod) or "0.0.0.0/0" in runtime.check("c1", pod)


def test_the_nodes_route_is_missed_or_mended(runtime: Libcni, pod: Namespace) -> None:
    """CHECK says that somebody deleted it, until the agent has put it back."""
    result = runtime.add("c1", pod)
    address = result["ips"][0]["address"].partition("/")[0]
    runtime.node.ip("route", "del", address)
    trouble = runtime.check("c1", pod)
    assert trouble == "" or address in trouble
    wait(lambda: runtime.check("c1", pod) == "", 20, "the route to come back")
    runtime.node.run("ping", "-c1", "-W2", address)


def test_status_follows_the_agent(site: Site, pod: Namespace) -> None:
    driver = site.driver(NODE)
    assert driver.status().status == 0
    assert driver.version().document["supportedVersions"][-1] == "1.1.0"  # type: ignore[index]
    site.lab.stop(NODE, "agent", signal.SIGKILL)
    try:
        assert driver.status().code == 50
        refused = driver.add("c1", pod)
        assert refused.code == 11
        assert "samepath" in refused.document["msg"]  # type: ignore[index]
        assert driver.delete("c1", pod).code == 11
    finally:
        site.lab.start_agent(NODE)
    wait(lambda: driver.status().status == 0, 20, "the agent to serve again")
    assert driver.add("c1", pod).status == 0
    assert driver.delete("c1", None).status == 0


def test_gc_takes_what_is_not_valid_and_nothing_else(site: Site) -> None:
    driver = site.driver(NODE)
    names = [f"spt-{os.getpid()}-g{i}" for i in range(3)]
    pods = [Namespace(name).create() for name in names]
    try:
        given = {pod.name: driver.add(pod.name, pod).addresses for pod in pods}
        assert driver.collect([(name, "eth0") for name in names[:2]]).status == 0
        for name in names[:2]:
            for address in given[name]:
                site.node(NODE).run("ping", "-c1", "-W2", address)
        assert driver.check(names[0], pods[0]).status == 0
        for address in given[names[2]]:
            assert not succeeds(site.node(NODE), "ping", "-c1", "-W1", address)()
        assert "eth0" not in pods[2].ip("link")
        assert driver.collect([]).status == 0
        again = [a for pod in pods for a in driver.add(pod.name, pod).addresses]
        assert not set(again) & {a for addresses in given.values() for a in addresses}, (
            "an address that was given back is the last to be used again"
        )
        assert driver.collect([]).status == 0
    finally:
        for pod in pods:
            pod.delete()

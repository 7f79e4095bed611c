"""Bad days of pods: killed at each step, rebooted, namespaces gone, stores lost, disks full.

After each of them nothing is left for ever, and no address is ever given twice.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cni_stage import Stage, own_blocks, within

from samepath.cni.attachment import State, host_link_name
from samepath.cni.errors import CniError, Code
from samepath.cni.operations import Operations
from samepath.cni.store import StoreError
from samepath.model.net import address_text
from samepath.netlink.kernel import RealKernel

pytestmark = [pytest.mark.netns, pytest.mark.timeout(360)]

ADD_STEPS = ("reserved", "created", "pod", "host", "wired", "recorded")
DEL_STEPS = ("unwired", "released")
CYCLES = 10_000
AT_ONCE = 64


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as made, within(made.node):
        yield made


def killed(work: Callable[[], None], after_s: float | None = None) -> None:
    """`work` in a process that is killed, by itself or by us."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(77)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "it was not killed"


def die_at(step: str) -> Callable[[str], None]:
    def look(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return look


def kill_in(stage: Stage, command: str, step: str, name: str) -> None:
    """The agent is killed right after this step of a request."""

    def work() -> None:
        stage.open(step=die_at(step))
        stage.ask(command, name)

    stage.pod(name)
    stage.close()
    killed(work)


def restart(stage: Stage) -> Operations:
    """As the agent does it when it starts."""
    stage.close()
    operations = stage.open()
    kernel = RealKernel()
    try:
        assert operations.addresses is not None
        operations.leftovers.settle(operations.addresses, kernel)
    finally:
        kernel.close()
    return operations


def valid(*names: str) -> dict[str, Any]:
    return {
        "cni.dev/valid-attachments": [{"containerID": name, "ifname": "eth0"} for name in names]
    }


def addresses_of(answer: dict[str, Any]) -> list[str]:
    return [ip["address"].partition("/")[0] for ip in answer["ips"]]


def check_books(stage: Stage) -> None:
    """Store and kernel say the same of everything, and nothing is there twice."""
    assert stage.store is not None
    routes = stage.routes()
    kept = stage.store.all()
    given = [address_text(address) for a in kept for address in a.addresses]
    assert len(set(given)) == len(given)
    assert all(a.state is State.WIRED for a in kept)
    assert stage.links() == sorted(a.host_link for a in kept)
    assert routes == {address_text(address): a.host_link for a in kept for address in a.addresses}


# -- Killed


@pytest.mark.parametrize("then", ["DEL", "GC", "ADD", "start"])
@pytest.mark.parametrize("step", ADD_STEPS)
def test_killed_in_add(stage: Stage, step: str, then: str) -> None:
    stage.open()
    told = stage.ask("ADD", "living")
    kill_in(stage, "ADD", step, "one")
    if then == "start":
        restart(stage)
        check_books(stage)
        assert len(stage.store.all()) == (2 if step == "recorded" else 1)
        return
    stage.open()
    if then == "DEL":
        stage.ask("DEL", "one")
    elif then == "GC":
        stage.ask("GC", "", netns=False, **valid("living"))
    elif step == "recorded":  # it was done, though nobody has heard of it
        assert stage.refusal("ADD", "one").code == Code.ALREADY_ATTACHED
        stage.ask("DEL", "one")
    else:
        again = stage.ask("ADD", "one")
        assert not set(addresses_of(again)) & set(addresses_of(told))
        stage.ask("CHECK", "one", prevResult=again)
        check_books(stage)
        stage.ask("DEL", "one")
    check_books(stage)
    stage.ask("CHECK", "living", prevResult=told)
    stage.ask("DEL", "living")
    assert stage.is_clean()


@pytest.mark.parametrize("then", ["DEL", "GC", "ADD", "start"])
@pytest.mark.parametrize("step", DEL_STEPS)
def test_killed_in_del(stage: Stage, step: str, then: str) -> None:
    stage.open()
    told = stage.ask("ADD", "living")
    stage.ask("ADD", "one")
    kill_in(stage, "DEL", step, "one")
    if then == "start":
        restart(stage)
    else:
        stage.open()
        if then == "DEL":
            stage.ask("DEL", "one", netns=False)
        elif then == "GC":
            stage.ask("GC", "", netns=False, **valid("living"))
        else:
            stage.ask("ADD", "one")
            check_books(stage)
            stage.ask("DEL", "one")
    check_books(stage)
    stage.ask("CHECK", "living", prevResult=told)
    stage.ask("DEL", "living")
    assert stage.is_clean()


@pytest.mark.parametrize("round_", range(12))
def test_killed_at_any_moment(stage: Stage, round_: int) -> None:
    """Twelve pods come and go side by side, and the agent dies among them."""
    names = [f"c{number}" for number in range(12)]
    for name in names:
        stage.pod(name)
    after_s = random.Random(round_).uniform(0.01, 0.25)

    def churn(name: str) -> None:
        while True:
            stage.ask("ADD", name)
            stage.ask("DEL", name)

    def work() -> None:
        stage.open()
        threads = [threading.Thread(target=churn, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    killed(work, after_s)
    restart(stage)
    check_books(stage)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda name: stage.ask("DEL", name), names))
    assert stage.is_clean()
    given = [a for name in names for a in addresses_of(stage.ask("ADD", name))]
    assert len(set(given)) == 24
    check_books(stage)


# -- Namespaces that go


@pytest.mark.parametrize("step", ["reserved", "created", "pod", "host", "wired"])
def test_a_namespace_that_ends_in_the_middle(stage: Stage, step: str) -> None:
    """The runtime removes it; the descriptor alone keeps it for as long as we work in it."""

    def end(name: str) -> None:
        if name == step:
            stage.pods["one"].delete()

    stage.open(step=end)
    with suppress(CniError):
        stage.ask("ADD", "one")
    stage.ask("DEL", "one", netns=False)
    wait(lambda: stage.is_clean())


def wait(condition: Callable[[], bool], limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_pods_whose_namespaces_went_without_del(stage: Stage) -> None:
    stage.open()
    for name in ("one", "two"):
        stage.ask("ADD", name)
    stage.pods["one"].delete()
    wait(lambda: len(stage.links()) == 1)
    assert len(stage.store.all()) == 2
    restart(stage)
    check_books(stage)
    assert [a.key[0] for a in stage.store.all()] == ["two"]


def test_reboot(stage: Stage) -> None:
    """Namespaces and links are gone, the store is of another boot."""
    stage.open()
    given = [a for name in ("one", "two") for a in addresses_of(stage.ask("ADD", name))]
    stage.close()
    for name in ("one", "two"):
        stage.pods.pop(name).delete()
    wait(lambda: not stage.links())
    stage.open(boot_id="another-boot")
    assert stage.is_clean()
    stage.ask("DEL", "one", netns=False)
    stage.ask("GC", "", netns=False, **valid())
    # What was in use before is the last to come again.
    assert not set(addresses_of(stage.ask("ADD", "three"))) & set(given)


# -- Stores


def test_a_store_that_was_lost(stage: Stage) -> None:
    """Living pods are taken into the new one: no other pod gets their addresses."""
    stage.open()
    told = {name: stage.ask("ADD", name) for name in ("one", "two")}
    stage.ask("ADD", "other", name="another")
    stage.close()
    (stage.folder / "attachments.db").unlink()
    restart(stage)
    check_books(stage)
    assert len(stage.store.all()) == 3
    for name, answer in told.items():
        stage.ask("CHECK", name, prevResult=answer)
    new = stage.ask("ADD", "three")
    assert not set(addresses_of(new)) & {a for t in told.values() for a in addresses_of(t)}
    # Their network is known still, so GC of another one leaves them alone.
    stage.ask("GC", "", netns=False, **valid("one", "three"))
    assert {a.key[0] for a in stage.store.all()} == {"one", "three", "other"}
    for name in ("one", "three", "other"):
        stage.ask("DEL", name)
    assert stage.is_clean()


def test_a_store_that_was_lost_under_our_feet(stage: Stage) -> None:
    """Where it is not even seen: the kernel refuses the second route to one address."""
    stage.open()
    stage.ask("ADD", "one")
    stage.close()
    (stage.folder / "attachments.db").unlink()
    stage.open()
    refusal = stage.refusal("ADD", "two")
    assert refusal.code == Code.KERNEL_REFUSED
    assert "10.244.1.1" in refusal.msg
    assert addresses_of(stage.ask("ADD", "two"))[0] != "10.244.1.1"


def test_disk_full(stage: Stage, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], check=True, timeout=10
    )
    try:
        stage.folder = disk
        stage.open()
        stage.operations.addresses.set_blocks(own_blocks("10.244.0.0/16"))
        stage.ask("ADD", "one")
        with open(disk / "ballast", "wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(4096)):
                    pass
            except OSError:
                pass
        addresses = stage.operations.addresses
        with suppress(StoreError):  # until the room that was reserved is used up
            for number in range(20_000):
                addresses.take((f"c{number}", "eth0"), "pods")
                addresses.release((f"c{number}", "eth0"))
        refused = stage.refusal("ADD", "two")
        assert refused.code == Code.IO_FAILURE
        assert "make room" in refused.msg
        assert stage.links() == [host_link_name(("one", "eth0"))]
        stage.ask("DEL", "one")
        assert stage.is_clean()
        (disk / "ballast").unlink()
        stage.ask("ADD", "two")
        check_books(stage)
        stage.close()
    finally:
        stage.close()
        subprocess.run(["umount", str(disk)], check=True, timeout=60)


# -- Many


@pytest.mark.timeout(600)
def test_cycles_leave_nothing(stage: Stage) -> None:
    """Pods come and go, 64 at once; then it is as if nothing had been."""
    operations = stage.open()
    names = [f"c{number}" for number in range(AT_ONCE)]
    for name in names:
        stage.pod(name)
    operations.addresses.set_blocks(own_blocks("10.244.0.0/22", "fd10:1::/118"))

    def cycle(name: str) -> None:
        for _ in range(-(-CYCLES // AT_ONCE)):
            stage.ask("ADD", name)
            stage.ask("DEL", name)

    def used() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        barrier = threading.Barrier(AT_ONCE)
        list(
            pool.map(lambda name: (barrier.wait(30), stage.ask("STATUS", name, netns=False)), names)
        )
    operations.close()
    before, links = used(), stage.node.ip("-o", "link").count("\n")
    files = sorted(os.listdir(stage.folder))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(cycle, names))
    operations.close()
    assert stage.is_clean()
    assert used() == before
    assert stage.node.ip("-o", "link").count("\n") == links
    assert sorted(os.listdir(stage.folder)) == files
    assert (stage.folder / "attachments.db").stat().st_size < 4 << 20
    for pod in stage.pods.values():
        assert pod.ip("-o", "link").count("\n") == 1
    stage.store.close()
    restart(stage)
    assert stage.is_clean()

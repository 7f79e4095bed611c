"""One world on two kernels: the same scenarios on the fake and, in a namespace, on the real one."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings

from samepath.lab.netns import Namespace
from samepath.model.net import parse_address
from samepath.netlink.fake import FakeKernel
from samepath.netlink.kernel import RealKernel
from samepath.netlink.ops import DeleteNextHop
from tests.side_by_side import (  # noqa: F401
    pytest_collection_modifyitems,
    pytest_xdist_make_scheduler,
)

# How long an example takes says something about the machine, and nothing about us. `make test`
# has the examples that it had before (decision 16); who works here looks for new ones.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeat", settings.get_profile("search"), derandomize=True)
settings.load_profile("search")

_numbers = itertools.count()


@dataclass
class World:
    """Two cables, `a` with 10.9.0.1/24 and fd09::1/64, `b` with 10.8.0.1/24 and fd08::1/64."""

    kernel: FakeKernel | RealKernel
    a: int
    b: int
    namespace: Namespace | None = None

    def set_link(self, index: int, *, up: bool | None = None, carrier: bool | None = None) -> None:
        if self.namespace is None:
            assert isinstance(self.kernel, FakeKernel)
            self.kernel.set_link(index, up=up, carrier=carrier)
            return
        name = "a" if index == self.a else "b"
        if up is not None:
            self.namespace.ip("link", "set", f"{name}0", "up" if up else "down")
        if carrier is not None:
            self.namespace.ip("link", "set", f"{name}1", "up" if carrier else "down")
        wanted = bool(carrier) if up is None else up
        self.wait(lambda: self.link_usable(index) == wanted)
        if not wanted:
            # The flags of a link are seen to change a moment before its next hops go.
            self.wait(lambda: all(hop.oif != index for hop in self.kernel.nexthops()[0]))

    def link_usable(self, index: int) -> bool:
        return next(link.usable for link in self.kernel.links() if link.index == index)

    def pass_time(self, seconds: float) -> None:
        """So that buckets count as idle for so long."""
        if isinstance(self.kernel, FakeKernel):
            self.kernel.advance(seconds)
        else:
            time.sleep(seconds)  # idle time itself is what is wanted

    def wait(self, condition: Callable[[], bool], limit_s: float = 30.0) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, "it never came"
            time.sleep(0.005)


def make_fake_world() -> World:
    kernel = FakeKernel()
    a = kernel.add_link("a0", (parse_address("10.9.0.1"), 24), (parse_address("fd09::1"), 64))
    b = kernel.add_link("b0", (parse_address("10.8.0.1"), 24), (parse_address("fd08::1"), 64))
    return World(kernel, a, b)


def make_real_world() -> World:
    namespace = Namespace(f"spt-{os.getpid()}-nl{next(_numbers)}").create()
    try:
        for name, net in (("a", 9), ("b", 8)):
            namespace.ip("link", "add", f"{name}0", "type", "veth", "peer", "name", f"{name}1")
            for end in (0, 1):
                namespace.ip("link", "set", f"{name}{end}", "up")
            namespace.ip("addr", "add", f"10.{net}.0.1/24", "dev", f"{name}0")
            namespace.ip("addr", "add", f"fd0{net}::1/64", "dev", f"{name}0", "nodad")
        namespace.sysctl(net__ipv4__nexthop_compat_mode=0)
        kernel = RealKernel(namespace.path)
    except BaseException:
        namespace.delete()
        raise
    index = {link.name: link.index for link in kernel.links()}
    world = World(kernel, index["a0"], index["b0"], namespace)
    world.wait(lambda: world.link_usable(world.a) and world.link_usable(world.b))
    return world


@pytest.fixture
def real_world() -> Iterator[World]:
    world = make_real_world()
    try:
        yield world
    finally:
        assert isinstance(world.kernel, RealKernel)
        assert world.namespace is not None
        # Groups first: a link that goes takes its next hops one by one out of every group, which
        # holds the kernel's lock for seconds where groups are large.
        world.kernel.apply([DeleteNextHop(group.id) for group in world.kernel.nexthops()[1]])
        world.kernel.close()
        world.namespace.delete()


@pytest.fixture
def fake_world() -> World:
    return make_fake_world()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.netns)])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "fake":
        return make_fake_world()
    real: World = request.getfixturevalue("real_world")
    return real


@pytest.fixture
def both(real_world: World) -> tuple[World, World]:
    """The fake and the real one, side by side."""
    return make_fake_world(), real_world

"""A node and its pods for tests: the test itself stands in the node's namespace meanwhile."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samepath.cni.addresses import Addresses
from samepath.cni.attachment import current_boot_id
from samepath.cni.operations import Operations
from samepath.cni.spec import CniError, Request, decode_request
from samepath.cni.store import Store
from samepath.lab.netns import Namespace
from samepath.model.net import parse_prefix
from samepath.netlink import socket as netlink_socket
from samepath.plan.addresses import Block
from samepath.plan.blocks import Origin, OwnBlock

BLOCK4, BLOCK6 = "10.244.1.0/26", "fd10:1::/122"
_numbers = itertools.count()


def own_blocks(*texts: str) -> list[OwnBlock]:
    return [OwnBlock(Block(*parse_prefix(text)), Origin.CONFIGURED) for text in texts]


@contextmanager
def within(namespace: Namespace) -> Iterator[None]:
    """This thread, and threads that it starts, in the namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        netlink_socket._setns(there, str(namespace.path))
        try:
            yield
        finally:
            netlink_socket._setns(home, "home")
    finally:
        os.close(home)
        os.close(there)


class Stage:
    """A node's namespace, with pods and an `Operations` over a store of its own."""

    def __init__(self, folder: Path, blocks: tuple[str, ...] = (BLOCK4, BLOCK6)) -> None:
        self.prefix = f"spt-{os.getpid()}-{next(_numbers)}"
        self.folder = folder
        self.blocks = blocks
        self.node = Namespace(f"{self.prefix}-n")
        self.pods: dict[str, Namespace] = {}
        self.store: Store | None = None
        self.operations: Operations | None = None

    def __enter__(self) -> Stage:
        self.node.create()
        self.node.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        for pod in self.pods.values():
            pod.delete()
        self.node.delete()

    def pod(self, name: str) -> Namespace:
        """A pod's namespace, made on first use."""
        if name not in self.pods:
            self.pods[name] = Namespace(f"{self.prefix}-{name}").create()
        return self.pods[name]

    def open(self, *, boot_id: str = "", step: Callable[[str], None] | None = None) -> Operations:
        """The agent's side, as after its start."""
        self.store = Store(self.folder / "attachments.db", boot_id or current_boot_id())
        more: dict[str, Any] = {} if step is None else {"step": step}
        self.operations = Operations(Addresses(self.store, own_blocks(*self.blocks)), **more)
        return self.operations

    def close(self) -> None:
        if self.operations is not None:
            self.operations.close()
        if self.store is not None:
            self.store.close()
        self.operations = self.store = None

    # what a runtime asks

    def ask(
        self, command: str, pod: str, /, ifname: str = "eth0", *, netns: bool = True, **config: Any
    ) -> dict[str, Any]:
        """The answer as JSON. Raises CniError."""
        assert self.operations is not None
        namespace = self.pod(pod) if netns else None
        asked = request(command, pod, ifname, str(namespace.path) if namespace else "", **config)
        descriptor = None
        if namespace is not None and namespace.path.exists():
            descriptor = os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            answer = self.operations.answer(asked, descriptor)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return json.loads(answer) if answer else {}

    def refusal(self, command: str, pod: str, /, ifname: str = "eth0", **more: Any) -> CniError:
        try:
            answer = self.ask(command, pod, ifname, **more)
        except CniError as error:
            return error
        raise AssertionError(f"{command} {pod} was not refused: {answer}")

    # what is there

    def links(self) -> list[str]:
        """Of pods, on the node."""
        found = json.loads(self.node.ip("-j", "link"))
        return sorted(link["ifname"] for link in found if link["ifname"].startswith("smp"))

    def routes(self) -> dict[str, str]:
        """Of pods, on the node: address -> link."""
        return {
            route["dst"]: route["dev"]
            for family in ("-4", "-6")
            for route in json.loads(self.node.ip("-j", family, "route", "show", "proto", "83"))
            if "dev" in route and route["dst"] != "fe80::/64"
        }

    def is_clean(self) -> bool:
        """Nothing is left of any pod."""
        assert self.store is not None
        return (self.links(), self.routes(), self.store.all()) == ([], {}, ())


def request(
    command: str, container: str, /, ifname: str = "eth0", netns: str = "", **config: Any
) -> Request:
    args = config.pop("CNI_ARGS", "")
    environment = {"CNI_COMMAND": command}
    if command in ("ADD", "DEL", "CHECK"):
        environment |= {
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": ifname,
            "CNI_NETNS": netns,
            "CNI_ARGS": args,
        }
    document = {"cniVersion": "1.1.0", "name": "pods", "type": "samepath-cni", **config}
    return decode_request(environment, json.dumps(document).encode())

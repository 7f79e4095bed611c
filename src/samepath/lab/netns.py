"""Network namespaces that we make and remove: the hosts of the lab and of the tests.

Names carry the maker's prefix, so that what a crashed run left behind can be found and removed.
`Namespace.popen` enters only the network namespace (nsenter, not `ip netns exec`, which would hide
bpffs and the cgroups).
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from samepath.netlink.kernel import RealKernel
from samepath.netlink.ops import DeleteNextHop
from samepath.netlink.socket import NetlinkError


def ip(*words: str, netns: str | None = None) -> str:
    """Run iproute2; its standard output. Raises CalledProcessError with stderr in the notes."""
    command = ["ip", *(("-n", netns) if netns else ()), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Namespace:
    """One host: a named network namespace with `lo` up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path("/run/netns") / name

    def create(self) -> Namespace:
        ip("netns", "add", self.name)
        ip("link", "set", "lo", "up", netns=self.name)
        return self

    def delete(self) -> None:
        """Remove it, if it is there; its next hop groups first.

        A namespace that ends with its groups takes each next hop out of each group, all under the
        lock that the whole machine shares: 0.17 s a group of 1021 buckets, half a minute for 200.
        """
        if self.path.exists():
            with suppress(OSError, NetlinkError):  # not a namespace yet: `ip netns add` was killed
                self._delete_groups()
            try:
                ip("netns", "del", self.name)
            except RuntimeError:
                if self.path.exists():
                    raise  # else somebody else has removed it in the meantime

    def _delete_groups(self) -> None:
        kernel = RealKernel(self.path)
        try:
            _, groups = kernel.nexthops()
            kernel.apply([DeleteNextHop(group.id) for group in groups])
        finally:
            kernel.close()

    def __enter__(self) -> Namespace:
        return self.create()

    def __exit__(self, *_: object) -> None:
        self.delete()

    def ip(self, *words: str) -> str:
        return ip(*words, netns=self.name)

    def command(self, command: Sequence[str]) -> list[str]:
        """`command`, to be run inside."""
        return ["nsenter", f"--net={self.path}", "--", *command]

    def run(self, *command: str, check: bool = True, timeout: float = 30) -> str:
        done = subprocess.run(
            self.command(command), capture_output=True, text=True, check=False, timeout=timeout
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen(self.command(command), **options)

    def sysctl(self, **settings: int | str) -> None:
        """Settings by name with `__` for a dot: `net__ipv4__ip_forward=1`."""
        for key, value in settings.items():
            name = key.replace("__", "/")
            self.run("sh", "-c", 'printf %s "$2" >"/proc/sys/$1"', "sh", name, str(value))


def veth(a: Namespace, a_name: str, b: Namespace, b_name: str) -> None:
    """A cable between two hosts, both ends up."""
    ip("link", "add", a_name, "netns", a.name, "type", "veth",
       "peer", "name", b_name, "netns", b.name)  # fmt: skip
    a.ip("link", "set", "dev", a_name, "up")
    b.ip("link", "set", "dev", b_name, "up")

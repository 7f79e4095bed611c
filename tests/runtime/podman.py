"""podman on a node of the lab: a real container runtime, which executes our plugin by itself.

Each node has its storage, locks, networks and image in a folder of its own, and runs in the node's
network namespace (nsenter, not `ip netns exec`, which would hide the cgroups). The image is made
of busybox, so no registry is asked; what a container needs of Python it sees read-only from here.
`remove` leaves nothing behind, whatever has happened; `remove_leftovers` does so for test runs that
were killed.

podman 4.3.1, CNI backend, runc; network lists up to version 1.0.0.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samepath.lab.netns import Namespace
from samepath.lab.processes import wait_gone
from samepath.lab.removal import down, labs
from samepath.lab.traffic import SERVER_SCRIPT

IMAGE = "localhost/bb:1"
APPLETS = ("sh", "sleep", "ping", "ip", "nc", "httpd", "cat", "ls", "traceroute")
REFERENCE_PLUGINS = "/usr/lib/cni"
NETNS = Path("/run/netns")
LIBCNI_CACHE = Path("/var/lib/cni/results")
PREFIX = "spt-"
SUFFIX = "-podman"

CONTAINERS_CONF = """\
[network]
network_backend = "cni"
cni_plugin_dirs = {plugins}
network_config_dir = "{folder}/networks"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
lock_type = "file"
static_dir = "{folder}/static"
tmp_dir = "{folder}/tmp"
volume_path = "{folder}/volumes"
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
"""
STORAGE_CONF = """\
[storage]
driver = "vfs"
graphroot = "{folder}/root"
runroot = "{folder}/run"
"""


class PodmanError(Exception):
    """podman said no; its words."""


def parent() -> Path:
    """The folder of this test run; its name has our process id."""
    return Path(tempfile.gettempdir()) / f"{PREFIX}{os.getpid()}{SUFFIX}"


@dataclass(frozen=True, slots=True)
class Podman:
    """One node's. `network` is unique on the machine: libcni's cache knows it by this name."""

    folder: Path
    node: Namespace
    network: str

    @classmethod
    def make(
        cls, name: str, node: Namespace, plugins: Sequence[Mapping[str, Any]],
        plugin_dirs: Sequence[str] = (),
    ) -> Podman:  # fmt: skip
        """With one network, a chain of these plugins."""
        folder = parent() / name
        (folder / "networks").mkdir(parents=True)
        (folder / "node").write_text(node.name)
        made = cls(folder, node, f"{PREFIX}{os.getpid()}-{name}")
        dirs = json.dumps([*plugin_dirs, REFERENCE_PLUGINS])
        (folder / "containers.conf").write_text(CONTAINERS_CONF.format(folder=folder, plugins=dirs))
        (folder / "storage.conf").write_text(STORAGE_CONF.format(folder=folder))
        conflist = {"cniVersion": "1.0.0", "name": made.network, "plugins": list(plugins)}
        (folder / "networks" / "10-pods.conflist").write_text(json.dumps(conflist))
        _image(folder / "image.tar")
        made("import", "-q", str(folder / "image.tar"), IMAGE)
        return made

    def command(self, *words: str) -> list[str]:
        return self.node.command(["podman", *words])

    def environment(self) -> dict[str, str]:
        return _environment(self.folder)

    def __call__(self, *words: str, limit_s: float = 60) -> str:
        """Its stdout. Raises PodmanError."""
        done = subprocess.run(
            self.command(*words), env=self.environment(),
            capture_output=True, text=True, check=False, timeout=limit_s,
        )  # fmt: skip
        if done.returncode:
            raise PodmanError(f"podman {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def popen(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words), env=self.environment(), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, name: str, *command: str, options: Sequence[str] = ()) -> str:
        """Start a container in the background. Its id."""
        return self(*self.run_words(name, *command, options=options))

    def run_words(self, name: str, *command: str, options: Sequence[str] = ()) -> list[str]:
        return ["run", "-d", "--name", name, "--network", self.network, *options, IMAGE, *command]

    def addresses(self, *names: str) -> dict[str, tuple[str, str]]:
        """IPv4 and IPv6 of each, as podman has them from the plugin's result."""
        networks = {
            found["Name"]: found["NetworkSettings"]["Networks"][self.network]
            for found in json.loads(self("inspect", *names))
        }
        return {n: (networks[n]["IPAddress"], networks[n]["GlobalIPv6Address"]) for n in names}

    def pid(self, name: str) -> int:
        return int(self("inspect", "--format", "{{.State.Pid}}", name))

    def remove_all(self) -> None:
        self("rm", "--all", "--force", "--time", "0", limit_s=120)

    def kept(self) -> list[str]:
        """What libcni keeps for each container of this node, until its DEL has succeeded."""
        return sorted(p.name for p in LIBCNI_CACHE.glob(f"{self.network}-*"))

    def remove(self) -> None:
        _remove(self.folder)


def pod_server(name: str, port: int, grace_s: float) -> tuple[list[str], list[str]]:
    """Options and command of a container that runs the lab's server."""
    python = getattr(sys, "_base_executable", sys.executable)
    seen = dict.fromkeys(["/usr", sys.base_prefix])
    if sys.base_prefix.startswith("/usr"):
        seen = dict.fromkeys(["/usr"])
    options = [w for path in seen for w in ("--volume", f"{path}:{path}:ro")]
    options += ["--volume", f"{SERVER_SCRIPT}:/srv/pod_server.py:ro"]
    command = [python, "-I", "-S", "/srv/pod_server.py",
               "--name", name, "--port", str(port), "--grace", str(grace_s)]  # fmt: skip
    return options, command


def remove_leftovers() -> None:
    """Containers and labs of test runs that are no more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*{SUFFIX}"):
        if _is_over(folder.name):
            for part in folder.iterdir():
                _remove(part)
            shutil.rmtree(folder)
    for lab in labs():
        if _is_over(lab):
            down(lab)


def _is_over(name: str) -> bool:
    """Whether this is the name of something of a test run that has ended: `spt-PID-...`."""
    found = re.fullmatch(rf"{PREFIX}(\d+)-.*", name)
    return found is not None and not Path(f"/proc/{found[1]}").exists()


def control_groups(container: str = "*") -> set[Path]:
    """Those of a container, or of all: in one hierarchy, or in several."""
    name = f"libpod_parent/libpod-{container}"
    root = Path("/sys/fs/cgroup")
    return {*root.glob(name), *root.glob(f"*/{name}")}


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
    }


def _image(file: Path) -> None:
    """busybox, and links to what is mounted from here when a container runs Python."""
    links = {f"bin/{applet}": "busybox" for applet in APPLETS}
    links |= {name: f"usr/{name}" for name in ("lib", "lib64")}
    with tarfile.open(file, "w") as tar:
        for name in ("bin", "usr", "etc", "tmp", "srv"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        tar.add("/bin/busybox", "bin/busybox")
        for name, target in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)


def _remove(folder: Path) -> None:
    """podman's own way first, where the node still stands; then whatever that left."""
    node = Namespace((folder / "node").read_text())
    if node.path.exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                node.command(["podman", "rm", "--all", "--force", "--time", "0"]),
                env=_environment(folder), capture_output=True, check=False, timeout=60,
            )  # fmt: skip
    spaces = [path for path in NETNS.glob("netns-*") if _is_ours(path, folder)]
    containers = [p.name for p in folder.glob("root/vfs-containers/*") if p.is_dir()]
    conmons = list(_conmons(folder))
    for container in containers:
        subprocess.run(
            ["runc", "delete", "--force", container], capture_output=True, check=False, timeout=30
        )
    for conmon in conmons:
        with contextlib.suppress(ProcessLookupError):
            os.kill(conmon, signal.SIGKILL)
        wait_gone(conmon, 5)
    for path in spaces:
        Namespace(path.name).delete()
    for group in [group for container in containers for group in control_groups(container)]:
        for part in (*(p for p in group.iterdir() if p.is_dir()), group):
            with contextlib.suppress(OSError):
                part.rmdir()
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed([m for m in mounts if m.startswith(f"{folder}/")]):
        subprocess.run(["umount", "-l", mount], check=False)
    for path in LIBCNI_CACHE.glob(f"{folder.parent.name.removesuffix(SUFFIX)}-{folder.name}-*"):
        path.unlink()
    shutil.rmtree(folder)


def _conmons(folder: Path) -> Iterator[int]:
    """The monitors of this folder's containers, by the folder in their command line."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                words = (path / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"conmon") and str(folder / "root").encode() in words:
                    yield int(path.name)


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def _is_ours(path: Path, folder: Path) -> bool:
    """Whether a container of this folder lives in that network namespace."""
    with contextlib.suppress(OSError):
        inode = path.stat().st_ino
        for conmon in _conmons(folder):
            for pid in _children(conmon):
                if os.stat(f"/proc/{pid}/ns/net").st_ino == inode:
                    return True
    return False

"""What of a host is not as a node or a gateway needs it. Looks only; changes nothing.

Called by `samepath install check`, before anything of ours runs. Each check gives one `Check`, also
when all is well: an operator wants to see what was looked at. Files are read below `Host.root`, so
that tests can have a host of their own; what the kernel itself is asked (nft, conntrack, sockets)
is asked through `Host.run`.

Not here: the settings that the programs set themselves (`apply.settings`), and what the API server
has (`programs.install_check`).
"""

from __future__ import annotations

import configparser
import ctypes
import enum
import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Outcome(enum.Enum):
    OK = "ok"
    NOTE = "note"
    """Worth knowing; it works."""
    MISSING = "missing"
    """It will not work, or not as promised."""

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Check:
    what: str
    outcome: Outcome
    found: str
    advice: str = ""
    """What to do; empty where all is well."""


Run = Callable[[Sequence[str]], tuple[int, str]]
"""Exit status (127: there is no such program) and what it said."""


def run_tool(command: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        return 127, "not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return 126, str(error)
    return done.returncode, (done.stdout or done.stderr).strip()


@dataclass(frozen=True, slots=True)
class Host:
    root: Path = Path("/")
    run: Run = run_tool

    def path(self, absolute: str | Path) -> Path:
        return self.root / str(absolute).lstrip("/")

    def read(self, absolute: str) -> str:
        try:
            return self.path(absolute).read_text(errors="replace")
        except OSError:
            return ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the configuration asks of the host."""

    role: str = "node"
    """`node` or `gateway`."""
    service_proxy: str = "none"
    cni: bool = True
    bin_dir: str = "/opt/cni/bin"
    conf_dir: str = "/etc/cni/net.d"
    listens: bool = False
    """On port 179: a mesh, or neighbours that connect to us."""
    dataplane: str = "kernel"


def checks(host: Host, wanted: Wanted) -> Iterator[Check]:
    """All that is looked at, in the order in which a person would mend it."""
    yield _rights(host)
    if wanted.role == "node":
        yield _program(host, "nft", ["nft", "--version"], "nftables", "the services' rules")
        yield _nf_tables(host)
        yield _program(host, "conntrack", ["conntrack", "--version"], "conntrack", "drains")
        yield _service_proxy(host, wanted.service_proxy)
        yield _forwarding(host)
        if wanted.cni:
            yield from _cni(host, wanted)
    elif wanted.dataplane in ("bpf", "auto"):
        yield _bpf(host)
    yield _other_speaker(host, listens=wanted.listens)
    yield _networkd(host)


def _rights(host: Host) -> Check:
    """CAP_NET_ADMIN (12) and CAP_SYS_ADMIN (21), capabilities(7)."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", host.read("/proc/self/status"), re.MULTILINE)
    bits = int(found[1], 16) if found else 0
    lacking = [
        n for n, bit in (("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21)) if not bits >> bit & 1
    ]
    if not lacking:
        return Check("rights", Outcome.OK, "CAP_NET_ADMIN, CAP_SYS_ADMIN")
    return Check("rights", Outcome.MISSING, f"no {', no '.join(lacking)}", "run it as root")


def _program(host: Host, name: str, command: list[str], package: str, purpose: str) -> Check:
    status, said = host.run(command)
    if status == 0:
        return Check(name, Outcome.OK, said.splitlines()[0] if said else "runs")
    return Check(
        name, Outcome.MISSING, said or f"exit status {status}",
        f"install the package {package} ({purpose} need it)",
    )  # fmt: skip


def _nf_tables(host: Host) -> Check:
    status, said = host.run(["nft", "list", "tables"])
    if status == 0:
        return Check("nf_tables", Outcome.OK, f"{len(said.splitlines())} tables")
    if status == 127:
        return Check("nf_tables", Outcome.NOTE, "not known without nft")
    return Check(
        "nf_tables", Outcome.MISSING, said.splitlines()[0] if said else f"exit status {status}",
        "the kernel needs CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET (modprobe nf_tables)",
    )  # fmt: skip


def _service_proxy(host: Host, configured: str) -> Check:
    """kube-proxy leaves its mark in the rules, whatever its mode, IPVS included."""
    kube = _kube_proxy(host)
    what = "service rules"
    if configured == "none":
        if kube:
            return Check(what, Outcome.OK, f"kube-proxy's ({kube}); serviceProxy: none")
        return Check(
            what, Outcome.MISSING, "serviceProxy: none, and no kube-proxy was found",
            "run kube-proxy, or set serviceProxy: nftables; else nothing answers for the services",
        )  # fmt: skip
    if kube:
        return Check(
            what, Outcome.MISSING, f"serviceProxy: nftables, and kube-proxy is here, too ({kube})",
            "take kube-proxy away and its rules with it (kube-proxy --cleanup), or set "
            "serviceProxy: none",
        )  # fmt: skip
    return Check(what, Outcome.OK, "ours; serviceProxy: nftables")


def _kube_proxy(host: Host) -> str:
    for table in ("inet kube-proxy", "ip kube-proxy"):
        if host.run(["nft", "list", "table", *table.split()])[0] == 0:
            return f"nft table {table}"
    for command in (["nft", "list", "chain", "ip", "nat", "KUBE-SERVICES"],
                    ["iptables-legacy", "-t", "nat", "-S", "KUBE-SERVICES"]):  # fmt: skip
        if host.run(command)[0] == 0:
            return "chain KUBE-SERVICES"
    for entry in _processes(host):
        if entry == "kube-proxy":
            return "a process"
    return ""


def _processes(host: Host) -> Iterator[str]:
    for comm in host.path("/proc").glob("[0-9]*/comm"):
        try:
            yield comm.read_text().strip()
        except OSError:
            continue


def _forwarding(host: Host) -> Check:
    """A chain of others in the forward hook that drops by default: Docker's, a firewall's."""
    what = "forwarding"
    status, said = host.run(["nft", "-j", "list", "chains"])
    if status != 0:
        return Check(what, Outcome.NOTE, "not known: nft does not tell")
    dropping = [
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in _json_objects(said, "chain")
        if chain.get("hook") == "forward" and chain.get("policy") == "drop"
    ]
    if not dropping:
        return Check(what, Outcome.OK, "no chain drops what is forwarded by default")
    return Check(
        what, Outcome.NOTE, f"policy drop in {', '.join(dropping)}",
        "that firewall must let pods' and services' packets through "
        "(Docker: iptables -P FORWARD ACCEPT)",
    )  # fmt: skip


def _json_objects(text: str, kind: str) -> Iterator[dict[str, Any]]:
    try:
        listed = json.loads(text)["nftables"]
    except (ValueError, KeyError, TypeError):
        return
    yield from (entry[kind] for entry in listed if isinstance(entry.get(kind), dict))


def _cni(host: Host, wanted: Wanted) -> Iterator[Check]:
    runtime = [
        name
        for name, socket in (
            ("containerd", "/run/containerd/containerd.sock"),
            ("CRI-O", "/run/crio/crio.sock"),
            ("Docker (cri-dockerd)", "/run/cri-dockerd.sock"),
        )
        if host.path(socket).exists()
    ]
    if runtime:
        yield Check("container runtime", Outcome.OK, ", ".join(runtime))
    else:
        yield Check(
            "container runtime", Outcome.NOTE, "no socket of containerd or CRI-O in /run",
            "pods need one that calls CNI plugins",
        )  # fmt: skip
    yield _plugins(f"plugins in {wanted.bin_dir}", host.path(wanted.bin_dir))
    yield _networks(f"networks in {wanted.conf_dir}", host.path(wanted.conf_dir))


def _plugins(what: str, bin_dir: Path) -> Check:
    if not bin_dir.is_dir():
        return Check(
            what, Outcome.NOTE, "the folder is not there", "it will be made; is it the right one?"
        )
    if not (bin_dir / "portmap").exists():
        return Check(
            what, Outcome.NOTE, "no portmap", "without it hostPort of pods does nothing: install "
            "the reference CNI plugins",
        )  # fmt: skip
    return Check(what, Outcome.OK, "portmap")


def _networks(what: str, conf_dir: Path) -> Check:
    """Runtimes take the first network by name."""
    names = sorted(
        path.name
        for path in (conf_dir.iterdir() if conf_dir.is_dir() else ())
        if path.suffix in (".conf", ".conflist", ".json")
    )
    before = [name for name in names if name < "10-samepath.conflist"]
    others = [name for name in names if name != "10-samepath.conflist"]
    if before:
        return Check(
            what, Outcome.MISSING, f"{', '.join(before)} comes before 10-samepath.conflist",
            "the runtime would take that one: take it away with its own uninstaller",
        )  # fmt: skip
    if others:
        return Check(
            what, Outcome.NOTE, f"{', '.join(others)}, too",
            "pods that another plugin attached keep its network until they are made anew",
        )  # fmt: skip
    return Check(what, Outcome.OK, "no other plugin's")


def _bpf(host: Host) -> Check:
    what = "BPF data plane"
    try:
        ctypes.CDLL("libbpf.so.1")
    except OSError:
        return Check(what, Outcome.MISSING, "no libbpf.so.1", "install the package libbpf1")
    if " /sys/fs/bpf bpf " not in host.read("/proc/self/mounts"):
        return Check(what, Outcome.MISSING, "no bpf file system", "mount -t bpf bpf /sys/fs/bpf")
    return Check(what, Outcome.OK, "libbpf.so.1, /sys/fs/bpf")


def _other_speaker(host: Host, *, listens: bool) -> Check:
    what = "port 179"
    holders = [
        name for name in ("bgpd", "bird", "gobgpd", "calico-node") if name in set(_processes(host))
    ]
    taken = any(_listening(host, 179))
    if not taken:
        return Check(what, Outcome.OK, "free")
    found = f"another BGP speaker listens ({', '.join(holders) or 'unknown'})"
    if not listens:
        return Check(what, Outcome.NOTE, found, "fine as long as ours only connects")
    return Check(
        what, Outcome.MISSING, found, "set listen_port, or take the other one away: two cannot "
        "listen on one address",
    )  # fmt: skip


def _listening(host: Host, port: int) -> Iterable[bool]:
    """/proc/net/tcp: local address in column 1, state 0A is LISTEN (Linux proc_net_tcp.rst)."""
    for name in ("tcp", "tcp6"):
        for line in host.read(f"/proc/net/{name}").splitlines()[1:]:
            fields = line.split()
            yield len(fields) > 3 and fields[3] == "0A" and fields[1].endswith(f":{port:04X}")


def _networkd(host: Host) -> Check:
    """networkd(5) deletes routes and next hops that it did not make, unless it is told not to."""
    what = "systemd-networkd"
    if "systemd-network" not in {name[:15] for name in _processes(host)}:
        return Check(what, Outcome.OK, "does not run")
    files = ["/etc/systemd/networkd.conf"]
    folder = host.path("/etc/systemd/networkd.conf.d")
    if folder.is_dir():
        files += [f"/etc/systemd/networkd.conf.d/{p.name}" for p in sorted(folder.glob("*.conf"))]
    settings: dict[str, str] = {}
    for name in files:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        try:
            parser.read_string(host.read(name))
        except configparser.Error:
            continue
        if parser.has_section("Network"):
            settings.update(parser.items("Network"))
    no = ("no", "false", "0", "off")
    lacking = [
        name
        for name in (
            "ManageForeignRoutes",
            "ManageForeignRoutingPolicyRules",
            "ManageForeignNextHops",
        )
        if settings.get(name.lower(), "yes").lower() not in no
    ]
    if not lacking:
        return Check(what, Outcome.OK, "leaves others' routes alone")
    return Check(
        what, Outcome.MISSING, "it deletes routes that it did not make when it restarts",
        f"in /etc/systemd/networkd.conf, [Network]: {', '.join(f'{n}=no' for n in lacking)}",
    )  # fmt: skip

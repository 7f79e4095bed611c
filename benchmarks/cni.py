"""ADD and DEL through our plugin and agent, beside the reference plugins `ptp` with `host-local`.

Each call is an exec of the plugin's program, as a runtime does it, for a network namespace of its
own; both give an IPv4 and an IPv6 address, both keep them on the same disk. The two take turns,
call by call, so that what else the machine does falls on both; then 16 calls at once, turn by turn.
At the end 250 pods are attached, and the agent's memory is read.

The pods' namespaces have duplicate address detection switched off: the reference plugin waits until
it has ended, 1 to 2 s, where we say that the address needs none. Even so it looks for it, and then
sleeps for 50 ms; so it is measured a second time with IPv4 alone, while we go on with both. That is
the lower figure, and `add_ratio` and the rest are to be read with `…_to_ipv4_alone`.

Needs the reference plugins (Debian: containernetworking-plugins).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.stage import (
    ROOT,
    Stage,
    StageError,
    pss_mb,
    rss_mb,
    samepath,
    signals_as_exit,
    wait,
)
from samepath.lab.netns import Namespace
from samepath.netlink.socket import in_namespace

ALONE = int(os.environ.get("BENCH_CNI_ALONE", "150"))
ROUNDS = int(os.environ.get("BENCH_CNI_ROUNDS", "12"))
AT_ONCE = 16
PODS = 250
REFERENCE = Path(os.environ.get("BENCH_CNI_REFERENCE", "/usr/lib/cni"))
PLUGIN = os.environ.get("BENCH_CNI_PLUGIN", "")
"""Another program than the one that belongs to this machine: the Python fallback."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

AGENT = """
router_id: 10.9.0.1
as: 64512
neighbors: []
node: n1
manifests: {folder}/manifests
run_dir: {folder}/run
serviceProxy: none
pod_cidrs: [10.244.0.0/22, "fd10:1::/118"]
cni: {{store: {folder}/store/attachments.db}}
"""


@dataclass
class Plugin:
    """One of the two, and what its calls took."""

    name: str
    program: str
    config: bytes
    took: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each call, by `add`, `del`, `add_16_at_once`, `del_16_at_once`."""

    def call(self, command: str, pod: Namespace, kind: str) -> None:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod.name,
            "CNI_NETNS": str(pod.path),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(REFERENCE),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        status, said, took_s = run(self.program, self.config, environment)
        if status:
            raise StageError(f"{self.name}: {command}: {said.decode(errors='replace')}")
        self.took.setdefault(kind, []).append(took_s)

    def median_ms(self, kind: str) -> float:
        return statistics.median(self.took[kind]) * 1000

    def figures(self) -> dict[str, float]:
        found = {}
        for kind, took in self.took.items():
            cuts = statistics.quantiles(took, n=20)
            for name, seconds in (("p50", statistics.median(took)), ("p95", cuts[18])):
                found[f"{self.name}_{kind}_{name}_ms"] = round(seconds * 1000, 2)
        return found


def run(program: str, stdin: bytes, environment: dict[str, str]) -> tuple[int, bytes, float]:
    """Exit status, output, and seconds from before the exec until the program has ended."""
    (asked, ask), (answer, answered) = os.pipe(), os.pipe()
    os.write(ask, stdin)  # less than a pipe holds
    os.close(ask)
    began = time.perf_counter()
    pid = os.posix_spawn(
        program,
        [program],
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, asked, 0), (os.POSIX_SPAWN_DUP2, answered, 1)],
    )
    os.close(answered)
    said = b""
    while part := os.read(answer, 65536):
        said += part
    _, status = os.waitpid(pid, 0)
    took_s = time.perf_counter() - began
    os.close(asked)
    os.close(answer)
    return os.waitstatus_to_exitcode(status), said, took_s


def main() -> None:
    ours = PLUGIN or _own_plugin()
    theirs = REFERENCE / "ptp"
    if not theirs.exists():
        raise StageError(f"{theirs} is not there: install containernetworking-plugins")
    with signals_as_exit(), Stage("cni") as stage:
        node = stage.host("node")
        agent = _start_agent(stage)
        plugins = [
            Plugin("samepath", ours, _config(stage)),
            Plugin(
                "reference", str(theirs), _reference_config(stage, "10.245.0.0/22", "fd10:2::/118")
            ),
            Plugin("reference_ipv4", str(theirs), _reference_config(stage, "10.246.0.0/22")),
        ]
        figures: dict[str, object] = {"benchmark": "cni"}
        pods = _pods(stage, AT_ONCE)
        in_namespace(node.path, lambda: _measure(plugins, pods))
        for plugin in plugins:
            figures |= plugin.figures()
        for kind in ("add", "del", "add_16_at_once", "del_16_at_once"):
            one, both, four = (p.median_ms(kind) for p in plugins)
            figures[f"{kind}_ratio"] = round(one / both, 3)
            figures[f"{kind}_ratio_to_ipv4_alone"] = round(one / four, 3)
            print(f"{kind}: {one:.2f} ms, reference {both:.2f} ms, with IPv4 alone {four:.2f} ms")
        figures["agent_rss_mb_without_pods"] = round(rss_mb(agent.pid), 1)
        many = pods + _pods(stage, PODS - len(pods), AT_ONCE)
        in_namespace(node.path, lambda: _fill(plugins[0], many))
        figures["agent_rss_mb_at_250_pods"] = round(rss_mb(agent.pid), 1)
        figures["agent_pss_mb_at_250_pods"] = round(pss_mb(agent.pid), 1)
        print(f"agent with {PODS} pods: {figures['agent_rss_mb_at_250_pods']} MB", flush=True)
    print(json.dumps(figures))


def _own_plugin() -> str:
    name = f"samepath-cni-{_ARCHITECTURES.get(platform.machine(), 'none')}"
    found = Path(ROOT) / "src" / "samepath" / "cni" / "bin" / name
    if not found.exists():
        raise StageError(f"{found} is not there: build it first")
    return str(found)


def _start_agent(stage: Stage) -> subprocess.Popen[bytes]:
    (stage.folder / "manifests").mkdir()
    path = stage.file("agent.yaml", AGENT.format(folder=stage.folder))
    agent = stage.start("node", "agent", *samepath("agent", "--config", path))
    ready = b'"cniVersion"'
    probe = _config(stage)
    environment = {"CNI_COMMAND": "STATUS", "CNI_PATH": str(REFERENCE)}

    def serves() -> bool:
        if agent.poll() is not None:
            raise StageError(f"the agent has ended: {stage.log('agent')}")
        status, said, _ = run(_own_plugin(), probe, environment)
        return not status and ready not in said

    wait(serves, 20, "the agent to serve pods", pause_s=0.1)
    return agent


def _config(stage: Stage) -> bytes:
    return json.dumps(
        {
            "cniVersion": "1.1.0",
            "name": "pods",
            "type": "samepath-cni",
            "socket": str(stage.folder / "run" / "cni.sock"),
        }
    ).encode()


def _reference_config(stage: Stage, *subnets: str) -> bytes:
    name = f"reference{len(subnets)}"
    return json.dumps(
        {
            "cniVersion": "1.0.0",
            "name": name,
            "type": "ptp",
            "mtu": 1500,
            "ipam": {
                "type": "host-local",
                "dataDir": str(stage.folder / "host-local"),
                "ranges": [[{"subnet": subnet}] for subnet in subnets],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}][: len(subnets)],
            },
        }
    ).encode()


def _pods(stage: Stage, count: int, first: int = 0) -> list[Namespace]:
    found = [stage.host(f"p{number}") for number in range(first, first + count)]
    for pod in found:
        pod.sysctl(net__ipv6__conf__default__accept_dad=0)
    return found


def _measure(plugins: list[Plugin], pods: list[Namespace]) -> None:
    """In the node's namespace, which threads and programs that start here have from us."""
    for plugin in plugins:  # the first call of each reads its program from the disk
        for command in ("ADD", "DEL"):
            plugin.call(command, pods[0], "first")
        plugin.took.clear()
    for number in range(ALONE):
        for plugin in _in_turn(plugins, number):
            for command in ("ADD", "DEL"):
                plugin.call(command, pods[number % len(pods)], command.lower())
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(ROUNDS):
            for plugin in _in_turn(plugins, number):
                for command in ("ADD", "DEL"):
                    kind = f"{command.lower()}_16_at_once"
                    _at_once(pool, lambda p, c=command, k=kind, w=plugin: w.call(c, p, k), pods)  # type: ignore[misc]


def _in_turn(plugins: list[Plugin], number: int) -> Iterable[Plugin]:
    first = number % len(plugins)
    return plugins[first:] + plugins[:first]


def _at_once(
    pool: ThreadPoolExecutor, call: Callable[[Namespace], None], pods: list[Namespace]
) -> None:
    barrier = threading.Barrier(len(pods))

    def one(pod: Namespace) -> None:
        barrier.wait(10)
        call(pod)

    for done in [pool.submit(one, pod) for pod in pods]:
        done.result(60)


def _fill(plugin: Plugin, pods: list[Namespace]) -> None:
    for pod in pods:
        plugin.call("ADD", pod, "fill")


if __name__ == "__main__":
    main()

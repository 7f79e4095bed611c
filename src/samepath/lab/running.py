"""A lab that is up: its hosts, processes and pods, and what may be done to them.

`Lab.up` builds, `Lab.open` finds one that stands; `lab.removal` removes all of it. Its one record
is `/run/samepath-lab/NAME/` (`lab.state`). Called by `cli.lab`, `lab.scenario` and the tests.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from samepath.cni.install import CONFLIST, PROGRAM, install
from samepath.kube import resources
from samepath.lab import build, foreign, processes, render, runtime
from samepath.lab.cluster import Cluster
from samepath.lab.netns import Namespace
from samepath.lab.processes import Process
from samepath.lab.removal import checked, down, namespaces_of, need_root, programs_of
from samepath.lab.render import Condition, Dataplane
from samepath.lab.state import FILE, ROOT, LabError, PodState, State, replace, wait
from samepath.lab.topology import POD_PORT, Node, Pod, Spec, Topology, topology
from samepath.lab.traffic import CLIENT_SCRIPT, SERVER_SCRIPT, Traffic, script
from samepath.programs.control import NotRunningError, ask

ATTACH_LIMIT_S = 30.0


class Lab:
    """One lab. Not shared between threads."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.name = state.name
        self.topology: Topology = topology(state.spec)
        self.run_dir = ROOT / state.name
        self.cluster = Cluster(self) if self.topology.control else None
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    # Up, open, down.

    @classmethod
    def up(
        cls,
        name: str,
        spec: Spec,
        dataplane: Dataplane = "kernel",
        tell: Callable[[str], None] = lambda text: None,
        *,
        programs: bool = True,
    ) -> Lab:
        """Build it and start everything; what was built is removed if that fails.

        Without `programs`: hosts and manifests, but no router, gateway, agent or pod.
        """
        need_root()
        checked(name)
        ROOT.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            (ROOT / name).mkdir(mode=0o700)
        except FileExistsError:
            raise LabError(
                f"the lab {name!r} is up, or was left by a crash: `samepath lab down` removes it"
            ) from None
        lab = cls(State(name=name, spec=spec, dataplane=dataplane))
        try:
            lab._build(tell, programs)
        except BaseException:
            down(name)
            raise
        return lab

    @classmethod
    def open(cls, name: str) -> Lab:
        """One that stands. Raises LabError."""
        checked(name)
        file = ROOT / name / FILE
        try:
            return cls(msgspec.json.decode(file.read_bytes(), type=State))
        except FileNotFoundError:
            raise LabError(f"there is no lab {name!r}: `samepath lab up` makes one") from None
        except PermissionError:
            raise LabError("the lab needs root") from None

    def _build(self, tell: Callable[[str], None], programs: bool) -> None:
        for folder in ("log", "config", "manifests", "run", "networks", "results", "stores"):
            (self.run_dir / folder).mkdir()
        programs_of(self.name).mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.run_dir / "bin").symlink_to(programs_of(self.name))
        self._save()
        tell("namespaces and cables")
        plan = build.hosts(self.topology)
        build.make(plan, {name: self.host(name) for name in plan.hosts}, self.name)
        self.state.nodes = [n.name for n in self.topology.working]
        self.state.expected_peers = len(self.state.nodes)
        if self.cluster is not None:
            tell("API server")
            self.cluster.start()
            self.cluster.define()
        self.write_manifests()
        if programs:
            self._start_programs(tell)
        self.state.ready = True
        self._save()

    def _start_programs(self, tell: Callable[[str], None]) -> None:
        """Pods need their node's agent; a gateway's first table needs all nodes' services."""
        tell("agents")
        for node in self.topology.working:
            self.start_agent(node.name)
        tell("pods")
        self.start_pods(self.topology.working, Condition.READY)
        self.write_manifests()
        if self.state.pods:
            names = [n.name for n in self.topology.working]
            wait(lambda: all(map(self._serves, names)), 30, f"{', '.join(names)} to serve")
        if self.state.spec.speaker != "agent":
            tell(f"{self.state.spec.speaker} on the nodes")
            for node in self.topology.working:
                self.start_speaker(node.name)
        tell("upstream router, gateways")
        self.start_upstream()
        names = [gateway.name for gateway in self.topology.gateways]
        for name in names:
            self.start_gateway(name)
        wait(lambda: all(map(self._answers, names)), 30, f"{', '.join(names)} to answer")

    def _answers(self, gateway: str) -> bool:
        try:
            return bool(ask(self.program_dir(gateway), "gateway", "status"))
        except (NotRunningError, ValueError):
            return False

    def start_speaker(self, node: str) -> None:
        """Where the agent does not speak BGP itself."""
        if self.state.spec.speaker != "agent":
            wait(lambda: self._serves(node), 30, f"{node} to serve")
            foreign.start(self, node)

    def _serves(self, node: str) -> bool:
        """Whether the agent advertises the service, in both families."""
        try:
            services = ask(self.program_dir(node), "agent", "status")["services"]
        except (NotRunningError, ValueError):
            return False
        return sum(1 for row in services if row["state"] == "active") >= 2

    def _save(self) -> None:
        replace(self.run_dir / FILE, msgspec.json.encode(self.state))

    # Hosts and processes.

    def host(self, name: str) -> Namespace:
        return Namespace(f"{self.name}.{name}")

    def program_dir(self, host: str) -> str:
        """Where a program's control socket lives."""
        return str(self.run_dir / "run" / host)

    @property
    def plugin(self) -> Path:
        return self.run_dir / "bin" / PROGRAM

    def network_list(self, node: str) -> Path:
        """What a container runtime on the node reads, in a folder of its own."""
        return self.run_dir / "networks" / node / CONFLIST

    def log(self, host: str, role: str) -> Path:
        return self.run_dir / "log" / f"{host}.{role}.log"

    def start(self, host: str, role: str, command: Sequence[str], **options: Any) -> Process:
        """A process that outlives ours, its output appended to its log."""
        with self.log(host, role).open("ab") as log:
            child = processes.spawn(
                self.name, self.host(host), command,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options,
            )  # fmt: skip
        self._children[child.pid] = child
        begun = processes.start_time(child.pid)
        if begun is None:
            raise LabError(f"{host}: {role} ended at once; see {self.log(host, role)}")
        process = Process(host, role, child.pid, begun)
        self.state.processes.append(process)
        self._save()
        return process

    def process(self, host: str, role: str) -> Process | None:
        """The living process of that role."""
        for process in self.state.processes:
            if (process.host, process.role) == (host, role) and processes.alive(process):
                return process
        return None

    def stop(self, host: str, role: str, number: signal.Signals, limit_s: float = 10) -> None:
        """Signal a process and wait for its end. Raises LabError when it does not end."""
        process = self.process(host, role)
        if process is None:
            return
        processes.send(process.pid, self.name, number)
        if not processes.wait_gone(process.pid, limit_s):
            raise LabError(f"{host}: {role} (pid {process.pid}) does not end")
        self._ended(process)

    def _ended(self, process: Process) -> None:
        if child := self._children.pop(process.pid, None):
            child.wait(5)
        self.state.processes.remove(process)
        self._save()

    def start_upstream(self) -> None:
        config = self._config("upstream.conf", render.bird_config(
            self.topology, str(self.log("upstream", "bird"))))  # fmt: skip
        control = Path(self.program_dir("upstream"))
        control.mkdir(exist_ok=True)
        self.start("upstream", "router", [
            "/usr/sbin/bird", "-f", "-c", config, "-s", str(control / "bird.ctl"),
            "-P", str(control / "bird.pid"),
        ])  # fmt: skip

    def start_gateway(self, name: str) -> None:
        self.start(name, "gateway", [*samepath(), "gateway", "--config", self.write_gateway(name)])

    def write_gateway(self, name: str) -> str:
        text = render.gateway_config(
            self.topology, self.topology.gateway(name), self.state.dataplane,
            self.program_dir(name), self.state.expected_peers,
            self.cluster.inner_kubeconfig() if self.cluster else None,
        )  # fmt: skip
        return self._config(f"{name}.yaml", text)

    def expect_peers(self, count: int) -> None:
        """Tell the gateways, as their operator would, how many nodes there are to wait for."""
        self.state.expected_peers = count
        self._save()
        for gateway in self.topology.gateways:
            self.write_gateway(gateway.name)

    def start_agent(self, name: str) -> None:
        places = render.Places(
            manifests=str(self.run_dir / "manifests"),
            run_dir=self.program_dir(name),
            store=str(self.run_dir / "stores" / f"{name}.db"),
            block_claims=str(self.run_dir / "claims"),
            kubeconfig=self.cluster.inner_kubeconfig() if self.cluster else None,
        )
        text = render.agent_config(self.topology, self.topology.node(name), places)
        config = self._config(f"{name}.yaml", text)
        install(
            self.plugin.parent, self.network_list(name).parent,
            socket=f"{places.run_dir}/cni.sock", chain=(),
        )  # fmt: skip
        self.start(name, "agent", [*samepath(), "agent", "--config", config])

    def _config(self, name: str, text: str) -> str:
        path = self.run_dir / "config" / name
        replace(path, text.encode())
        return str(path)

    def traffic(self, limit_s: float) -> Traffic:
        """One client process in each client namespace; they end with us."""
        clients = []
        for index, client in enumerate(self.topology.clients):
            sources = [w for a in (*client.addresses4, *client.addresses6) for w in ("--source", a)]
            command = [*script(CLIENT_SCRIPT), *sources, "--limit", str(limit_s),
                       "--seed", str(index + 1)]  # fmt: skip
            with self.log(client.name, "traffic").open("ab") as log:
                clients.append(processes.spawn(
                    self.name, self.host(client.name), command,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                ))  # fmt: skip
        return Traffic(clients)

    def execute(self, host: str, command: Sequence[str]) -> int:
        """Run a command on a host, with our own terminal. Its exit status."""
        namespace = self.host(host)
        if not namespace.path.exists():
            known = [n.removeprefix(f"{self.name}.") for n in namespaces_of(self.name)]
            raise LabError(f"no host {host!r} in the lab; there are {', '.join(known)}")
        return subprocess.run(
            namespace.command(command), env=processes.environment(self.name), check=False
        ).returncode

    def status(self) -> dict[str, Any]:
        """Hosts with their processes, pods with their addresses, as plain data."""
        pods = {p.pod.name: [p.pod.address4, p.pod.address6] for p in self.state.pods}
        hosts = [n.removeprefix(f"{self.name}.") for n in namespaces_of(self.name)]
        return {
            "name": self.name,
            "dataplane": self.state.dataplane,
            "run_dir": str(self.run_dir),
            "ready": self.state.ready,
            "hosts": [
                {
                    "name": host,
                    "addresses": pods.get(host, []),
                    "processes": [
                        {"role": p.role, "pid": p.pid, "alive": processes.alive(p)}
                        for p in self.state.processes
                        if p.host == host
                    ],
                }
                for host in hosts
            ],
        }

    # Pods and manifests.

    def start_pods(self, nodes: Sequence[Node], condition: Condition | None) -> list[Pod]:
        """As many new pods as each node has; listed with `condition` in the next manifests.

        The nodes' agents run. Raises LabError.
        """
        names = [
            self._next_pod(node) for node in nodes for _ in range(self.state.spec.pods_per_node)
        ]
        build.make(build.pods(names), {name: self.host(name) for name in names}, self.name)
        try:
            addresses = runtime.attach(self.name, map(self._sandbox, names), ATTACH_LIMIT_S)
        except runtime.AttachError as error:
            raise LabError(f"{error}; logs are in {self.run_dir / 'log'}") from None
        pods = [Pod(name, node_of(name), *addresses[name]) for name in names]
        for pod in pods:
            self.add_pod(pod, condition)
            self.start(pod.name, "pod", [
                *script(SERVER_SCRIPT), "--name", pod.name, "--port", str(POD_PORT),
                "--grace", str(self.state.spec.grace_s),
            ])  # fmt: skip
        for pod in pods:
            wait(partial(_listens, self.host(pod.name)), 10, f"{pod.name} to listen")
        return pods

    def _next_pod(self, node: Node) -> str:
        number = self.state.next_pod.get(node.name, 1)
        self.state.next_pod[node.name] = number + 1
        return f"web-{node.name}-{number}"

    def _sandbox(self, pod: str) -> runtime.Sandbox:
        node = node_of(pod)
        return runtime.Sandbox(
            name=pod,
            space=self.host(pod),
            node=self.host(node),
            plugin=self.plugin,
            network_list=self.network_list(node),
            result=self.run_dir / "results" / f"{pod}.json",
        )

    def add_pod(self, pod: Pod, condition: Condition | None) -> None:
        """One that runs already, from whomever it has its network."""
        name = condition.name if condition else None
        self.state.pods.append(PodState(pod=pod, condition=name))

    def pods(self, node: str) -> list[Pod]:
        return [p.pod for p in self.state.pods if p.pod.node == node]

    def list_pods(self, pods: Sequence[Pod], condition: Condition | None) -> None:
        """What the EndpointSlices say of these pods from the next `write_manifests` on."""
        name = condition.name if condition else None
        self.state.pods = [
            PodState(pod=p.pod, condition=name) if p.pod in pods else p for p in self.state.pods
        ]

    def forget_pods(self, pods: Sequence[Pod]) -> None:
        self.state.pods = [p for p in self.state.pods if p.pod not in pods]

    def end_pods(self, pods: Sequence[Pod], number: signal.Signals, limit_s: float = 15) -> None:
        """Signal them all, wait for all, detach them, remove their namespaces.

        On a node without an agent nobody detaches: the node itself is gone.
        """
        for pod in pods:
            if process := self.process(pod.name, "pod"):
                processes.send(process.pid, self.name, number)
        for pod in pods:
            if process := self.process(pod.name, "pod"):
                if not processes.wait_gone(process.pid, limit_s):
                    raise LabError(f"{pod.name} does not end")
                self._ended(process)
        served = [p.name for p in pods if self.process(p.node, "agent")]
        try:
            runtime.detach(self.name, map(self._sandbox, served), ATTACH_LIMIT_S)
        except runtime.AttachError as error:
            raise LabError(str(error)) from None
        self.forget_pods(pods)
        for pod in pods:
            self.host(pod.name).delete()
        self._save()

    def write_manifests(self) -> None:
        """Bring the folder to the present state, each changed file by rename; the API server, if
        there is one, too."""
        endpoints = [e for p in self.state.pods if (e := p.endpoint())]
        nodes = [n for n in self.topology.nodes if n.name in self.state.nodes]
        # Another speaker drains by what it says: the agent beside it knows of no drain.
        draining = self.state.draining if self.state.spec.speaker == "agent" else []
        if self.cluster is not None:
            found = render.objects(nodes, draining, endpoints)
            self.cluster.bring(found.values())
            self.cluster.bring(render.pod_object(one.pod) for one in self.state.pods)
            self.cluster.keep(resources.NODES, (node.name for node in nodes))
            self.cluster.keep(resources.PODS, (one.pod.name for one in self.state.pods), "default")
        files = render.manifests(nodes, draining, endpoints)
        folder = self.run_dir / "manifests"
        for name, text in files.items():
            path = folder / name
            if not path.exists() or path.read_text() != text:
                replace(path, text.encode())
        for path in folder.glob("*.yaml"):
            if path.name not in files:
                path.unlink()
        self._save()


def node_of(pod: str) -> str:
    """`web-n3-1` runs on n3."""
    return pod.split("-")[1] if pod.count("-") == 2 else "?"


def samepath() -> list[str]:
    """The command of our own programs, in this very installation."""
    return [sys.executable, "-c", "from samepath.cli.main import main; main()"]


def _listens(host: Namespace) -> bool:
    return f":{POD_PORT} " in host.run("ss", "-Hltn")

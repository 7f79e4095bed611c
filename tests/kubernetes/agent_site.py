"""Agents in network namespaces, their objects from the API server.

The server is in the namespace of the test; each node reaches it at 127.0.0.1 through a `Relay`.
"""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "programs"))

from agent_stage import AS, HOST, ROUTER_AS, Json, Stage

from samepath.kube.crds import KINDS, definition
from samepath.lab.api_server import ApiServer
from samepath.lab.netns import Namespace
from samepath.netlink.socket import in_namespace
from samepath.programs import control


class Relay:
    """A port of a namespace that leads to one of ours."""

    def __init__(self, host: Namespace, port: int) -> None:
        self._target = port
        self._listener = in_namespace(host.path, lambda: socket.create_server(("127.0.0.1", 0)))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            self._open |= {near, far}
            for here, there in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(here, there), daemon=True).start()

    def _carry(self, here: socket.socket, there: socket.socket) -> None:
        with suppress(OSError):
            while data := here.recv(65536):
                there.sendall(data)
        for end in (here, there):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            self._open.discard(end)

    def _break(self) -> None:
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._break()


class KubeStage(Stage):
    def __init__(self, folder: Path, server: ApiServer) -> None:
        super().__init__(folder)
        self.server = server
        self.relays: dict[str, Relay] = {}
        server.apply([definition(kind) for kind in KINDS])
        server.apply({"apiVersion": "v1", "kind": "Namespace",
                      "metadata": {"name": "samepath-system"}})  # fmt: skip

    def up(self, nodes: int = 1) -> None:
        super().up(nodes)
        for name, host in self.nodes.items():
            self.relays[name] = relay = Relay(host, self.server.port)
            self.closing.callback(relay.close)

    def put(self, *objects: Json) -> None:
        self.server.apply(list(objects))

    def delete(self, plural: str, name: str, namespace: str = "") -> None:
        self.server.delete(plural, name, namespace)

    def gateway_program(self) -> None:
        """A real gateway at 10.83.0.1, for whom the nodes' next hops are on its bridge."""
        config = {
            "router_id": "10.83.0.1",
            "as": ROUTER_AS,
            "listen": ["10.83.0.1"],
            "run_dir": str(self.folder / "run-gw"),
            "hash_seed": 7,
            "neighbors": [
                {
                    "range": "10.83.0.0/24",
                    "remote_as": AS,
                    "hold_time_s": 9,
                    "next_hops": ["10.83.0.1", "2001:db8:83::1"],
                    "import": {
                        "services": ["203.0.113.0/24", "2001:db8:113::/48"],
                        "pods": ["10.244.0.0/16", "2001:db8:244::/48"],
                    },
                    "export": ["pods", "default"],
                }
            ],
        }
        path = self.folder / "gateway.yaml"
        path.write_text(yaml.safe_dump(config))
        code = "import sys; from samepath.programs.gateway import run; sys.exit(run(sys.argv[1]))"
        with open(self.folder / "gateway.log", "ab") as log:
            running = self.gateway.popen(sys.executable, "-c", code, str(path), stderr=log)
        self.closing.callback(running.wait)
        self.closing.callback(running.kill)

    def paths(self, prefix: str = HOST) -> tuple[list[str], list[str]]:
        """The gateway's next hops for it: those that are active, and those that drain."""
        try:
            status = control.ask(str(self.folder / "run-gw"), "gateway", "status")
        except control.NotRunningError:
            return [], []
        for row in status["services"]:
            if row["prefix"] == prefix:
                return row["active"], row["draining"]
        return [], []

    def configure(self, node: str = "n1", **config: Any) -> None:
        """The kubeconfig is each node's own, since the relay's port is."""
        kubeconfig = self.folder / f"kubeconfig-{node}"
        self.server.kubeconfig(kubeconfig)
        document = yaml.safe_load(kubeconfig.read_text())
        of = document["clusters"][0]["cluster"]
        of["server"] = of["server"].replace(str(self.server.port), str(self.relays[node].port))
        kubeconfig.write_text(yaml.safe_dump(document))
        kubernetes = {"kubeconfig": str(kubeconfig)}
        super().configure(node, **{"kubernetes": kubernetes, "serviceProxy": "none", **config})

"""Controllers as processes of their own, against an API server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from samepath.kube.crds import definitions
from samepath.programs import control

Json = dict[str, Any]

QUICK = {"duration_s": 3, "renew_deadline_s": 2.0, "retry_s": 0.3}
"""Of a Lease, so that tests need not wait."""


def until(condition: Callable[[], Any], limit_s: float = 60.0, what: str = "") -> Any:
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.05)
    return found


class Site:
    """Pools, Services and controllers of one test. Names of what has no namespace are the test's
    own, and Services are of a class of their own, so that it can run beside others."""

    def __init__(self, cluster: Any, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.kind = f"samepath.dev/{cluster.namespace}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        cluster.apply(definitions(), "--server-side", "--force-conflicts")
        self.make_lease()

    def make_lease(self) -> None:
        """Empty: nobody has to be waited for."""
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "samepath-controller", "namespace": self.cluster.namespace},
            "spec": {"holderIdentity": "", "leaseDurationSeconds": 1},
        }
        self.cluster.apply(lease)

    def start(self, name: str = "c1", **config: Any) -> None:
        document = {
            "kubernetes": {
                "kubeconfig": str(self.cluster.kubeconfig),
                "namespace": self.cluster.namespace,
            },
            "load_balancer_class": self.kind,
            "default_class": False,
            "run_dir": str(self.folder / f"run-{name}"),
            "election": QUICK,
            **config,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document))
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "samepath.cli.main", "controller", "--config", str(path)],
                stdout=log, stderr=log, env={**os.environ, "SAMEPATH_POD": name},
            )  # fmt: skip

    def stop(self, name: str = "c1", how: int = signal.SIGTERM) -> int:
        process = self.processes.pop(name)
        process.send_signal(how)
        return process.wait(20)

    def end(self) -> None:
        for name in list(self.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(name)
        for log in sorted(self.folder.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text()[-3000:]}")

    def status(self, name: str = "c1") -> Json:
        try:
            found: Json = control.ask(str(self.folder / f"run-{name}"), "controller", "status")
            return found
        except (control.NotRunningError, ValueError):
            return {}

    def leader(self) -> str:
        leaders = [n for n in self.processes if self.status(n).get("leads")]
        assert len(leaders) <= 1
        return leaders[0] if leaders else ""

    # objects

    def pool(self, name: str, *addresses: str, **spec: Any) -> str:
        name = self.cluster.unique(name)
        body = {
            "apiVersion": "samepath.dev/v1",
            "kind": "IPAddressPool",
            "metadata": {"name": name},
            "spec": {"addresses": list(addresses), **spec},
        }
        self.cluster.apply(body)
        self.cluster.forget("ipaddresspools.samepath.dev", name)
        return name

    def service(self, name: str, **spec: Any) -> Json:
        annotations = spec.pop("annotations", {})
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {
                "type": "LoadBalancer",
                "loadBalancerClass": self.kind,
                "ports": [{"port": 80}],
                **spec,
            },
        }

    def addresses(self) -> dict[str, list[str]]:
        return {
            item["metadata"]["name"]: [
                i["ip"] for i in item.get("status", {}).get("loadBalancer", {}).get("ingress", [])
            ]
            for item in self.cluster.get("services")["items"]
        }

    def condition(self, service: str) -> Json:
        status = self.cluster.get("service", service).get("status", {})
        found = [
            c for c in status.get("conditions", []) if c["type"] == "samepath.dev/AddressAssigned"
        ]
        return found[0] if found else {}

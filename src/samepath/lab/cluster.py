"""The lab's API server: a process in a namespace that all nodes reach, and what the lab writes to
it in place of a folder of manifests.

Agents take their objects from it, without a token, in namespaces that only root enters. On the
host it listens at a port of the loopback address, with TLS, where everybody needs the token of the
kubeconfig in the lab's run directory: `KUBECONFIG=.../kubeconfig kubectl get nodes`. The lab itself
writes there by server-side apply, so that what others say of the same objects (conditions,
annotations, labels of people) stays. It speaks for the kubelets as well: its Nodes are ready.

Called by `lab.running`, and by the steps that take the server away.
"""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from samepath.kube import resources
from samepath.kube.crds import KINDS, definition
from samepath.kube.resources import Resource
from samepath.lab.state import LabError, replace, wait
from samepath.lab.topology import API_PORT
from samepath.programs.control import NotRunningError, ask

if TYPE_CHECKING:
    from samepath.lab.running import Lab

ROLE = "api-server"
MANAGER = "samepath-lab"
NAMESPACE = "samepath-system"
LIMIT_S = 10.0

_WRITTEN = {
    one.kind: one
    for one in (
        resources.NAMESPACES,
        resources.CUSTOM_RESOURCE_DEFINITIONS,
        resources.NODES,
        resources.SERVICES,
        resources.ENDPOINT_SLICES,
        resources.IP_POOLS,
        resources.PODS,
        Resource("", "v1", "configmaps", "ConfigMap", True),
    )
}

_READY = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "in the lab"}

Json = dict[str, Any]


class Cluster:
    """Of one lab. Nothing is kept here but what need not be written twice."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._written: dict[str, str] = {}

    # The process.

    @property
    def kubeconfig(self) -> Path:
        """For people and programs on the host."""
        return self._lab.run_dir / "kubeconfig"

    @property
    def state(self) -> Path:
        """What the server comes back with."""
        return self._lab.run_dir / "stores" / "api-server.json"

    def start(self) -> None:
        """Until it answers; with the state of before, if there was one. Raises LabError."""
        lab = self._lab
        control = lab.topology.control
        assert control is not None
        self._make_certificate()
        with socket.create_server(("127.0.0.1", self._port() or 0)) as listener:
            port = listener.getsockname()[1]
            self._write_kubeconfigs(f"http://{control.segment4}:{API_PORT}", port)
            command = [
                sys.executable, "-m", "samepath.lab.api_server",
                f"--listen={control.segment4}:{API_PORT}",
                f"--guarded={listener.fileno()}", f"--guarded-tls={self._tls}",
                f"--token={self._token}", f"--state={self.state}",
                f"--run-dir={lab.program_dir(control.name)}", "--bookmark-s=10",
            ]  # fmt: skip
            lab.start(control.name, ROLE, command, pass_fds=(listener.fileno(),))
        wait(self.answers, 30, "the API server to answer")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """With SIGTERM it saves all it knows."""
        control = self._lab.topology.control
        assert control is not None
        self._lab.stop(control.name, ROLE, number)

    def back_up(self) -> None:
        """The present state is what `restore` comes back with."""
        self._order("keep")

    def restore(self) -> None:
        """It comes back as it was then, its versions set back."""
        self._order("restart", kept=True)
        self._written.clear()

    def change(self, count: int) -> None:
        """So many changes that concern nobody."""
        metadata = {"name": "changes", "namespace": NAMESPACE}
        for number in range(count):
            data = {"count": str(number)}
            head = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
            self.bring([{**head, "data": data}])

    def _order(self, knob: str, **words: Any) -> None:
        control = self._lab.topology.control
        assert control is not None
        try:
            ask(self._lab.program_dir(control.name), ROLE, knob, **words)
        except (NotRunningError, ValueError) as error:
            raise LabError(f"the lab's API server: {knob}: {error}") from error

    def answers(self) -> bool:
        control = self._lab.topology.control
        assert control is not None
        try:
            return bool(ask(self._lab.program_dir(control.name), ROLE, "status"))
        except (NotRunningError, ValueError):
            return False

    # Who reaches it, and how.

    @property
    def _tls(self) -> Path:
        return self._lab.run_dir / "config" / "api-server.tls"

    @property
    def _token(self) -> Path:
        return self._lab.run_dir / "config" / "api-server.token"

    def inner_kubeconfig(self) -> str:
        return str(self._lab.run_dir / "config" / "kubeconfig")

    def _port(self) -> int | None:
        """On the host's loopback; it stays the same over restarts of the server."""
        with suppress(FileNotFoundError):
            server = yaml.safe_load(self.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
            return int(server.rpartition(":")[2])
        return None

    def _write_kubeconfigs(self, inside: str, port: int) -> None:
        if not self._token.exists():
            _write_secret(self._token, secrets.token_urlsafe(32))
        token = self._token.read_text()
        authority = base64.b64encode((self._tls / "tls.crt").read_bytes()).decode()
        outside = {
            "server": f"https://127.0.0.1:{port}",
            "certificate-authority-data": authority,
        }
        _write_secret(self.kubeconfig, _kubeconfig(outside, {"token": token}))
        _write_secret(Path(self.inner_kubeconfig()), _kubeconfig({"server": inside}, {}))

    def _make_certificate(self) -> None:
        """Its own authority. Raises LabError."""
        if self._tls.exists():
            return
        self._tls.mkdir(mode=0o700)
        command = [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "365", "-subj", f"/CN={self._lab.name}",
            "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", str(self._tls / "tls.key"), "-out", str(self._tls / "tls.crt"),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        except OSError as error:
            raise LabError(f"the API server's certificate: openssl: {error.strerror}") from None
        if done.returncode:
            raise LabError(f"the API server's certificate: {done.stderr.strip()}")

    # What the lab says.

    def define(self) -> None:
        """Our kinds, and the namespace of our own things."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        self.bring([namespace, *(definition(kind) for kind in KINDS)])

    def bring(self, bodies: Iterable[Json]) -> None:
        """Have the server hold these. Raises LabError."""
        for body in bodies:
            status = body.get("status")
            if body["kind"] == "Node":
                status = {**(status or {}), "conditions": [_READY]}
            self._apply({k: v for k, v in body.items() if k != "status"})
            if status is not None:
                head = {name: body[name] for name in ("apiVersion", "kind")}
                names = {k: v for k, v in body["metadata"].items() if k in ("name", "namespace")}
                self._apply({**head, "metadata": names, "status": status}, "status")

    def keep(self, resource: Resource, names: Iterable[str], namespace: str | None = None) -> None:
        """Of Nodes and Pods that the lab has said all but these go."""
        kept = set(names)
        for item in self._ask("GET", resource.path(namespace))["items"]:
            metadata = item["metadata"]
            managers = {one.get("manager") for one in metadata.get("managedFields", ())}
            if MANAGER in managers and metadata["name"] not in kept:
                path = resource.path(namespace, metadata["name"])
                self._ask("DELETE", path)
                self._written = {k: v for k, v in self._written.items() if not k.startswith(path)}

    def _apply(self, body: Json, subresource: str = "") -> None:
        resource, metadata = _WRITTEN[body["kind"]], body["metadata"]
        namespace = metadata.get("namespace") if resource.namespaced else None
        path = resource.path(namespace, metadata["name"], subresource)
        text = json.dumps(body)
        if self._written.get(path) != text:
            query = f"?fieldManager={MANAGER}&force=true"
            self._ask("PATCH", path + query, text, "application/apply-patch+yaml")
            self._written[path] = text

    def _ask(self, method: str, path: str, body: str = "", type: str = "application/json") -> Json:
        token = self._token.read_text()
        context = ssl.create_default_context(cafile=self._tls / "tls.crt")
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port(), timeout=LIMIT_S, context=context
        )
        headers = {"Authorization": f"Bearer {token}", "Content-Type": type}
        try:
            connection.request(method, path, body.encode(), headers)
            response = connection.getresponse()
            answer: Json = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise LabError(f"the lab's API server: {method} {path}: {error}") from error
        finally:
            connection.close()
        if response.status >= 300:
            raise LabError(f"the lab's API server: {method} {path}: {answer.get('message')}")
        return answer


def _kubeconfig(server: Json, user: Json) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": server}],
            "users": [{"name": "lab", "user": user}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "current-context": "lab",
        },
        sort_keys=False,
    )


def _write_secret(path: Path, text: str) -> None:
    replace(path, text.encode())
    path.chmod(0o600)

"""Pods of deploy/samepath.yaml on a node of the stage, with podman and runc: what a kubelet does
with them as far as it matters here. Init containers run first; volumes, environment, security
context, probes and hooks are those of the manifest, and no other.

The container's files are this machine's, read-only, with an overlay, so that no image is needed.
`SAMEPATH_TEST_IMAGE` names an archive (`podman save`) of the real one (deploy/Containerfile).
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from samepath.lab.api_server import ApiServer
from tests.runtime.podman import Podman, PodmanError

REPOSITORY = Path(__file__).parents[2]
ARCHIVE = os.environ.get("SAMEPATH_TEST_IMAGE", "")
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
HOSTS_OWN = ("/run/netns",)
"""Of the host's folders that pods see, this is the real one; others lie below `root`."""
Json = dict[str, Any]


class Kubelet:
    def __init__(
        self, podman: Podman, server: ApiServer, port: int, root: Path, node: str, address: str
    ) -> None:
        """`port`: the API server's on the node's loopback. `root`: for the host's files."""
        self.podman = podman
        self.server = server
        self.root = root
        self.port = port
        self.fields = {"spec.nodeName": node, "status.hostIP": address}
        self.image = podman("load", "-q", "-i", ARCHIVE, limit_s=300) if ARCHIVE else ""
        self.image = self.image.rpartition(" ")[2]

    def start(self, workload: Json) -> str:
        """The name of its one container, which runs."""
        meta, pod = workload["metadata"], workload["spec"]["template"]["spec"]
        name = f"{meta['name']}-{len(list(self.root.glob('volumes/*')))}"
        volumes = self._volumes(name, meta["namespace"], pod)
        account = self._account(name, meta["namespace"], pod["serviceAccountName"])
        for container in pod.get("initContainers", []):
            words = self._words(container, pod, volumes, account, name)
            self.podman("run", "--rm", *words, limit_s=120)
        (container,) = pod["containers"]
        words = self._words(container, pod, volumes, account, name)
        self.podman("run", "-d", "--name", name, *words, limit_s=120)
        return name

    def probe(self, name: str, container: Json, kind: str) -> tuple[bool, str]:
        return self._exec(name, container[kind]["exec"]["command"])

    def stop(self, name: str, container: Json) -> str:
        """As a kubelet ends a pod: the hook, SIGTERM, and at last SIGKILL. What the hook said."""
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        said = self._exec(name, hook)[1] if hook else ""
        self.podman("stop", "--time", "20", name, limit_s=60)
        return said

    def logs(self) -> str:
        done = subprocess.run(
            self.podman.command("ps", "-a", "--format", "{{.Names}}"),
            env=self.podman.environment(), capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        texts = []
        for name in done.stdout.split():
            log = subprocess.run(
                self.podman.command("logs", name), env=self.podman.environment(), text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=30,
            )  # fmt: skip
            texts.append(f"-- {name}\n{log.stdout[-4000:]}")
        return "\n".join(texts)

    def _exec(self, name: str, command: list[str]) -> tuple[bool, str]:
        try:
            return True, self.podman("exec", name, *command)
        except PodmanError as error:
            return False, str(error)

    def _words(
        self, container: Json, pod: Json, volumes: dict[str, str], account: str, name: str
    ) -> list[str]:
        words = ["--network", "host", "--volume", f"{account}:{ACCOUNT}:ro"]
        if pod.get("hostPID"):
            words += ["--pid", "host"]
        security = container["securityContext"]
        if security.get("privileged"):
            words += ["--privileged"]
        if security.get("readOnlyRootFilesystem"):
            words += ["--read-only", "--read-only-tmpfs=false"]
        if security.get("allowPrivilegeEscalation") is False:
            words += ["--security-opt", "no-new-privileges"]
        for capability in security.get("capabilities", {}).get("drop", []):
            words += ["--cap-drop", capability.lower()]
        user = pod.get("securityContext", {}).get("runAsUser")
        if user is not None and (self.image or everybody_may_run()):
            words += ["--user", str(user)]
        for mount in container.get("volumeMounts", []):
            options = ["ro"] if mount.get("readOnly") else []
            options += ["rslave"] if mount.get("mountPropagation") == "HostToContainer" else []
            tail = f":{','.join(options)}" if options else ""
            words += ["--volume", f"{volumes[mount['name']]}:{mount['mountPath']}{tail}"]
        for key, value in self._environment(container, name).items():
            words += ["--env", f"{key}={value}"]
        if self.image:
            return [*words, self.image, *container["command"]]
        for folder in (str(REPOSITORY), sys.base_prefix):
            if not folder.startswith("/usr"):
                words += ["--volume", f"{folder}:{folder}:ro"]
        words += ["--env", f"PATH={Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"]
        return [*words, "--env", "PYTHONDONTWRITEBYTECODE=1", "--rootfs", "/:O",
                *container["command"]]  # fmt: skip

    def _environment(self, container: Json, name: str) -> dict[str, str]:
        fields = {**self.fields, "metadata.name": name}
        found = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}
        for variable in container.get("env") or []:
            if "value" in variable:
                found[variable["name"]] = variable["value"]
            else:
                found[variable["name"]] = fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        return found

    def _volumes(self, name: str, namespace: str, pod: Json) -> dict[str, str]:
        """Name -> where it is on the host."""
        places = {}
        for volume in pod["volumes"]:
            place = self.root / "volumes" / name / volume["name"]
            if "hostPath" in volume:
                path = volume["hostPath"]["path"]
                place = Path(path) if path in HOSTS_OWN else self.root / path.lstrip("/")
                if volume["hostPath"].get("type") == "DirectoryOrCreate":
                    place.mkdir(parents=True, exist_ok=True)
            else:
                place.mkdir(parents=True)
                place.chmod(0o777)
            if "configMap" in volume:
                found = self.server.get("configmaps", volume["configMap"]["name"], namespace)
                for file, text in found["data"].items():
                    (place / file).write_text(text)
            places[volume["name"]] = str(place)
        return places

    def _account(self, name: str, namespace: str, account: str) -> str:
        folder = self.root / "volumes" / name / "service-account"
        folder.mkdir(parents=True)
        (folder / "token").write_text(self.server.service_account_token(namespace, account))
        (folder / "namespace").write_text(namespace)
        cluster = yaml.safe_load(self.server.kubeconfig(folder / "config").read_text())
        authority = cluster["clusters"][0]["cluster"]["certificate-authority-data"]
        (folder / "ca.crt").write_bytes(base64.b64decode(authority))
        return str(folder)


def everybody_may_run() -> bool:
    """Whether another user than root may reach our Python at all; in an image they may."""
    real = Path(os.path.realpath(sys.executable))
    return all(p.stat().st_mode & 0o001 for p in (*real.parents, *REPOSITORY.parents, REPOSITORY))

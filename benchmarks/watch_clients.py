"""The clients of `benchmarks.watch`, each in a process of its own: ours, lightkube, official.

Each lists all EndpointSlices of the server, keeps them by name, and follows the watch until the
slice `last` has come; then it says what that took of its process.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

LAST = "last"


def kubeconfig(url: str) -> str:
    path = Path(tempfile.mkdtemp()) / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return str(path)


def ours(url: str) -> int:
    from samepath.kube.api import Api
    from samepath.kube.api_source import ApiSource
    from samepath.kube.resources import ENDPOINT_SLICES
    from samepath.kube.watch import Wanted
    from samepath.model.config import Kubernetes

    begin()

    async def follow() -> int:
        done = asyncio.Event()
        key = f"EndpointSlice default/{LAST}"

        def wake() -> None:
            if key in source.objects:
                done.set()

        api = Api.connect(Kubernetes(kubeconfig=kubeconfig(url)))
        source = ApiSource(api, [Wanted(ENDPOINT_SLICES)], wake, close_api=True)
        task = asyncio.create_task(source.run())
        await done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return len(source.objects)

    return asyncio.run(follow())


def lightkube(url: str) -> int:
    from lightkube import Client, KubeConfig
    from lightkube.resources.discovery_v1 import EndpointSlice

    begin()
    client = Client(config=KubeConfig.from_file(kubeconfig(url)))
    listed = client.list(EndpointSlice, namespace="*")
    known = {(s.metadata.namespace, s.metadata.name): s for s in listed}
    for kind, found in client.watch(
        EndpointSlice, namespace="*", resource_version=listed.resourceVersion
    ):
        key = (found.metadata.namespace, found.metadata.name)
        if kind == "DELETED":
            known.pop(key, None)
        else:
            known[key] = found
        if found.metadata.name == LAST:
            break
    return len(known)


def official(url: str) -> int:
    from kubernetes import client, config, watch

    begin()
    config.load_kube_config(kubeconfig(url))
    api = client.DiscoveryV1Api()
    listed = api.list_endpoint_slice_for_all_namespaces()
    known = {(s.metadata.namespace, s.metadata.name): s for s in listed.items}
    stream = watch.Watch().stream(
        api.list_endpoint_slice_for_all_namespaces,
        resource_version=listed.metadata.resource_version,
    )
    for event in stream:
        found = event["object"]
        key = (found.metadata.namespace, found.metadata.name)
        if event["type"] == "DELETED":
            known.pop(key, None)
        else:
            known[key] = found
        if found.metadata.name == LAST:
            break
    return len(known)


BEGAN: dict[str, float] = {}


def begin() -> None:
    """All is imported."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    BEGAN["cpu_s"], BEGAN["mb"] = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    BEGAN["at"] = time.perf_counter()


def tell(count: int) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "objects": count,
        "wall_s": time.perf_counter() - BEGAN["at"],
        "cpu_s": usage.ru_utime + usage.ru_stime - BEGAN["cpu_s"],
        "import_cpu_s": BEGAN["cpu_s"],
        "peak_mb": usage.ru_maxrss / 1024,
        "import_mb": BEGAN["mb"],
    }
    print(json.dumps(figures), flush=True)
    os._exit(0)  # a client's threads are not waited for


CLIENTS = {"ours": ours, "lightkube": lightkube, "official": official}

if __name__ == "__main__":
    tell(CLIENTS[sys.argv[1]](sys.argv[2]))

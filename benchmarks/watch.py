"""List and watch: 3,000 EndpointSlices and 3,000 changes, beside lightkube and the official client.

One server process, plain HTTP, everything encoded beforehand. The clients take turns, each in a
process of its own (`benchmarks.watch_clients`): it lists the slices (3 to 10 endpoints each, with
the managedFields that a real server sends), keeps them by name, and then follows a watch that
brings 3,000 changes as fast as they are taken. CPU seconds are the client's own, after its imports;
peak memory is the whole process's. Ours ends with the objects that the plan uses; the others with
the structs of their models.

Needs lightkube and kubernetes (the development packages).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benchmarks.stage import ROOT, StageError
from benchmarks.watch_clients import CLIENTS, LAST

SLICES = int(os.environ.get("BENCH_WATCH_SLICES", "3000"))
CHANGES = int(os.environ.get("BENCH_WATCH_CHANGES", "3000"))
ROUNDS = int(os.environ.get("BENCH_WATCH_ROUNDS", "3"))
LIMIT_S = 120

UID = "6f1c9c6e-6d3a-4f0e-9f53-3f4a6f5f1c2d"
WHEN = "2026-01-01T00:00:00Z"
FIELDS = {
    "f:addressType": {},
    "f:endpoints": {},
    "f:metadata": {
        "f:annotations": {".": {}, "f:endpoints.kubernetes.io/last-change-trigger-time": {}},
        "f:generateName": {},
        "f:labels": {
            ".": {},
            "f:endpointslice.kubernetes.io/managed-by": {},
            "f:kubernetes.io/service-name": {},
        },
        "f:ownerReferences": {".": {}, f'k:{{"uid":"{UID}"}}': {}},
    },
    "f:ports": {},
}


def endpoint_slice(number: int, version: int, name: str = "") -> dict[str, Any]:
    service = f"service-{number:04d}"
    return {
        "metadata": {
            "name": name or f"{service}-x7k2p",
            "generateName": f"{service}-",
            "namespace": "default",
            "uid": UID,
            "resourceVersion": str(version),
            "generation": 1,
            "creationTimestamp": WHEN,
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": service,
            },
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": WHEN},
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": service,
                    "uid": UID,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": [
                {
                    "manager": "kube-controller-manager",
                    "operation": "Update",
                    "apiVersion": "discovery.k8s.io/v1",
                    "time": WHEN,
                    "fieldsType": "FieldsV1",
                    "fieldsV1": FIELDS,
                }
            ],
        },
        "addressType": "IPv4",
        "endpoints": [endpoint(number, n, version) for n in range(3 + number % 8)],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def endpoint(number: int, index: int, version: int) -> dict[str, Any]:
    return {
        "addresses": [f"10.{number % 200}.{version % 250}.{index + 1}"],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": f"node-{(number + index) % 100:03d}",
        "targetRef": {
            "kind": "Pod",
            "namespace": "default",
            "name": f"service-{number:04d}-{index}",
            "uid": UID,
        },
    }


def answers() -> tuple[bytes, bytes]:
    """The list, and all that the watch brings."""
    whole = {
        "kind": "EndpointSliceList",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"resourceVersion": "1000"},
        "items": [endpoint_slice(n, n) for n in range(SLICES)],
    }
    lines = []
    for change in range(CHANGES):
        lines.append(("MODIFIED", endpoint_slice(change % SLICES, 1001 + change)))
    lines.append(("ADDED", endpoint_slice(0, 1001 + CHANGES, LAST)))
    head = {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1"}
    events = [{"type": kind, "object": {**head, **thing}} for kind, thing in lines]
    stream = b"".join(json.dumps(e, separators=(",", ":")).encode() + b"\n" for e in events)
    return json.dumps(whole, separators=(",", ":")).encode(), stream


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    listed: bytes
    stream: bytes

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if query.get("watch", [""])[0].lower() not in ("true", "1"):
            self.send_header("Content-Length", str(len(self.listed)))
            self.end_headers()
            self.wfile.write(self.listed)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for line in self.stream.splitlines(keepends=True):  # a chunk for each event, as Go does
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.rfile.read(1)  # until the client goes
        except ConnectionError:
            pass

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve() -> None:
    """The server process: its port on standard output, until standard input ends."""
    Server.listed, Server.stream = answers()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], len(Server.listed), len(Server.stream), flush=True)
    sys.stdin.read()


def run(client: str, url: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.watch_clients", client, url],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=LIMIT_S,
    )
    if done.returncode:
        raise StageError(f"{client}: exit status {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if found["objects"] != SLICES + 1:
        raise StageError(f"{client}: {found['objects']} slices of {SLICES + 1}")
    return found


def main() -> None:
    command = [sys.executable, "-c", "from benchmarks.watch import serve; serve()"]
    server = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        port, listed, stream = map(int, server.stdout.readline().split())
        print(f"{SLICES} slices in {listed >> 10} KiB, {CHANGES} changes in {stream >> 10} KiB")
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in CLIENTS}
        for _ in range(ROUNDS):
            for name, found in rounds.items():
                found.append(run(name, f"http://127.0.0.1:{port}"))
                told = ", ".join(f"{k} {v:.2f}" for k, v in found[-1].items() if k != "objects")
                print(f"{name:10} {told}", flush=True)
    finally:
        server.stdin.close()
        server.wait()
    result: dict[str, float] = {"slices": SLICES, "changes": CHANGES}
    for name, found in rounds.items():
        for figure in ("wall_s", "cpu_s", "import_cpu_s", "peak_mb", "import_mb"):
            middle = statistics.median(one[figure] for one in found)
            result[f"{name}_{figure}"] = round(middle, 3)
    for name in ("lightkube", "official"):
        for figure in ("cpu_s", "peak_mb"):
            ratio = result[f"{name}_{figure}"] / result[f"ours_{figure}"]
            result[f"{name}_to_ours_{figure.partition('_')[0]}"] = round(ratio, 2)
    print(json.dumps({"benchmark": "watch", **result}))


if __name__ == "__main__":
    main()

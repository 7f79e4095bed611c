"""The BPF data plane: what it costs a packet, and what that is beside the kernel's multipath.

Two parts, in namespaces of its own; needs root, clang or PyPI's ziglang.
- The program alone, in PROG_TEST_RUN: net nanoseconds a packet, each packet another flow at random,
  beside the same source built otherwise: tracking every flow, asking bpf_fib_lookup. What is
  subtracted is the same run without the decision.
- Packets through a gateway between two hosts, with the program and with a resilient next hop
  group: bulk TCP, connections, and small packets that the kernel itself makes (live frames).
Runs of the two take turns, since the machine may be busy: of the program's times the best counts,
of the traffic's rates the median.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import hatch_build
from benchmarks.stage import ROOT, Stage, StageError
from samepath.bpf import syscall
from samepath.bpf.dataplane import Dataplane
from samepath.bpf.errors import Unavailable
from samepath.bpf.layout import Hop, Sizes
from samepath.lab.netns import Namespace, veth
from samepath.model.net import Address, parse_address
from samepath.netlink.socket import in_namespace

SEED = 83
BUCKETS = 1021
SERVICES = (1, 100, 10_000)
FLOWS = (1, 1 << 16, 1 << 20)
NODES = 8
REPEAT = 400_000
RUNS = 5
SERVICE, PORT = "203.0.113.1", 4430
CLIENT = "10.1.0.2"
TURNS = 16
BULK_S, CONNECTIONS, SMALL = 0.4, 400, 150_000
LIVE_FRAMES, TC_DROP, XDP_PASS = 1 << 1, 2, 2
_SCHED_CLS, _XDP, _PROG_LOAD = 3, 6, 5

VARIANTS: dict[str, tuple[str, ...]] = {
    "harness": ("-DHARNESS=1",),
    "shipped": (),
    "all tracked": ("-DTRACK_EVERY_FLOW=1",),
    "fib": ("-DWITH_FIB=1", '-DLICENSE="GPL"'),
}


def main() -> None:
    figures: dict[str, object] = {"benchmark": "dataplane"}
    with Stage("dataplane") as stage, bpffs(stage.folder) as pins:
        try:
            _program(stage, pins / "program", figures)
            _traffic(stage, pins / "traffic", figures)
        except Unavailable as error:
            raise StageError(str(error)) from error
    print(json.dumps(figures))


@contextlib.contextmanager
def bpffs(folder: Path) -> Iterator[Path]:
    path = folder / "bpf"
    path.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


# the program alone


def _program(stage: Stage, pins: Path, figures: dict[str, object]) -> None:
    objects = {name: _variant(stage.folder, name) for name in VARIANTS}
    host = stage.host("program")
    veth(host, "a0", stage.host("other"), "a1")
    host.ip("addr", "add", "10.9.0.1/24", "dev", "a0")
    host.sysctl(net__ipv4__ip_forward=1)
    for node in range(1, NODES + 1):
        host.ip("neigh", "add", f"10.9.0.{node + 1}", "lladdr", f"02:00:00:00:00:{node:02x}",
                "dev", "a0", "nud", "permanent")  # fmt: skip
    sizes = Sizes(max(SERVICES), 1, BUCKETS, NODES + 1, max(FLOWS) * 5 // 4)
    with _opened(pins, sizes) as plane:
        _fill(plane, host)
    bench = _Bench(host, pins, sizes, objects)
    for services in SERVICES:
        for flows in FLOWS:
            ns = bench.net("shipped", services, flows)
            figures[f"ns_steady_{services}_services_{flows}_flows"] = ns
            print(f"steady, {services} services, {flows} flows: {ns:.0f} ns a packet", flush=True)
    typical = 1, 1 << 16
    figures["ns_steady"] = bench.net("shipped", *typical)
    figures["ns_all_tracked"] = bench.net("all tracked", *typical)
    with_fib = bench.net("fib", *typical)
    figures["ns_with_fib_lookup"] = with_fib
    figures["ns_fib_lookup"] = round(with_fib - float(str(figures["ns_steady"])), 1)
    with _opened(pins, sizes) as plane:
        owner = plane.table(0)["owner"]
        old = np.where(np.arange(BUCKETS) % 5 == 0, owner % NODES + 1, 0)
        plane.put_table(0, owner, old)
    figures["ns_transition"] = bench.net("shipped", *typical)
    print(f"1 service, 65536 flows: steady {figures['ns_steady']} ns; a fifth of the buckets in "
          f"transition {figures['ns_transition']}; every flow tracked {figures['ns_all_tracked']}; "
          f"bpf_fib_lookup {figures['ns_fib_lookup']} more")  # fmt: skip


def _variant(folder: Path, name: str) -> Path:
    output = folder / f"{name.replace(' ', '-')}.o"
    extra = ("-include", "benchmarks/dataplane_variant.h", "-Isrc/samepath/bpf", *VARIANTS[name])
    artifact = hatch_build.BPF._replace(
        output=str(output), options=(*hatch_build.BPF.options, *extra)
    )
    try:
        with contextlib.chdir(ROOT):
            hatch_build.build(artifact, Path(ROOT))
    except hatch_build.Unbuilt as error:
        raise StageError(str(error)) from error
    return output


@contextlib.contextmanager
def _opened(pins: Path, sizes: Sizes, file: Path | None = None) -> Iterator[Dataplane]:
    plane = Dataplane.open(pins, sizes, SEED, file) if file else Dataplane.open(pins, sizes, SEED)
    try:
        yield plane
    finally:
        plane.close()


def _fill(plane: Dataplane, host: Namespace) -> None:
    mac, ifindex = _mac(host, "a0"), _index(host, "a0")
    for node in range(1, NODES + 1):
        address = bytes((10, 9, 0, node + 1))
        plane.put_hop(node, Hop(address, ifindex, mac, bytes((2, 0, 0, 0, 0, node)), 1500))
    plane.put_table(0, np.arange(BUCKETS, dtype="<u2") % NODES + 1)
    services: list[Address] = [(0x0A000000 + n).to_bytes(4, "big") for n in range(max(SERVICES))]
    plane.put_services(dict.fromkeys(services, 0))


@dataclass(frozen=True, slots=True)
class _Bench:
    host: Namespace
    pins: Path
    sizes: Sizes
    objects: dict[str, Path]

    def net(self, variant: str, services: int, flows: int) -> float:
        """Nanoseconds a packet, without the harness."""
        times: dict[str, list[float]] = {"harness": [], variant: []}
        for _ in range(RUNS):
            for name, measured in times.items():
                with _opened(self.pins, self.sizes, self.objects[name]) as plane:
                    measured.append(self._run(plane, services, flows))
        return round(min(times[variant]) - min(times["harness"]), 1)

    def _run(self, plane: Dataplane, services: int, flows: int) -> float:
        context = bytearray(192)
        struct.pack_into("=I", context, 8, services)  # mark
        struct.pack_into("=I", context, 32, flows)  # priority
        struct.pack_into("=I", context, 40, _index(self.host, "a0"))  # ifindex
        frame = _frame(_mac(self.host, "a0"), 6, bytes(10))
        run = in_namespace(
            self.host.path,
            lambda: syscall.run_program(plane.program(), frame, bytes(context), REPEAT),
        )
        if run.verdict != 7:
            raise StageError(f"the program passed its packets on: {plane.counters().totals}")
        return run.ns


def _frame(mac: bytes, protocol: int, payload: bytes, destination: str = "10.0.0.0") -> bytes:
    """A TCP segment amid a flow (or what `payload` makes of it), in 60 octets or more."""
    transport = struct.pack("!HH", 1024, 80) + bytes(8) + b"\x50\x10" + payload
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(transport), 1, 0x4000, 64, protocol, 0,
                     parse_address(CLIENT), parse_address(destination))  # fmt: skip
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + ip[12:]
    return (mac + bytes((2, 0, 0, 0, 1, 1)) + b"\x08\0" + ip + transport).ljust(60, b"\0")


def _mac(host: Namespace, name: str) -> bytes:
    words = host.ip("-o", "link", "show", name).split()
    return bytes.fromhex(words[words.index("link/ether") + 1].replace(":", ""))


def _index(host: Namespace, name: str) -> int:
    return int(host.ip("-o", "link", "show", name).split(":")[0])


# packets through a gateway


def _traffic(stage: Stage, pins: Path, figures: dict[str, object]) -> None:
    with _opened(pins, Sizes(16, 1, BUCKETS, 3, 1024)) as plane:
        way = _Way(stage, plane)
        ways: dict[str, Callable[[], object]] = {"kernel": way.by_kernel, "bpf": way.by_program}
        kinds = {
            "bulk": (way.bulk, "Gbit/s"), "connect": (way.connections, "connections/s"),
            "small_packet": (way.small, "packets/s"),
        }  # fmt: skip
        for kind, (measure, unit) in kinds.items():
            found: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(TURNS):
                for name in sorted(ways, reverse=turn % 2 == 0):
                    ways[name]()
                    found[name].append(measure())
            rates = {name: statistics.median(values) for name, values in found.items()}
            for name, rate in rates.items():
                figures[f"{kind}_{name}"] = round(rate, 2)
            figures[f"{kind}_ratio_to_kernel"] = round(rates["bpf"] / rates["kernel"], 2)
            print(f"{kind.replace('_', ' ')}: kernel {rates['kernel']:.4g} {unit}, program "
                  f"{rates['bpf']:.4g}", flush=True)  # fmt: skip
        way.by_nothing()
        bare = statistics.median(way.small() for _ in range(TURNS))
        figures["small_packet_harness"] = round(bare, 2)
        spent = {name: 1 / float(str(figures[f"small_packet_{name}"])) - 1 / bare for name in ways}
        figures["small_packet_ratio_net"] = round(spent["kernel"] / spent["bpf"], 2)
        for name, seconds in spent.items():
            figures[f"small_packet_ns_{name}"] = round(seconds * 1e9)
        way.by_kernel()


class _Way:
    """Client, gateway, two nodes."""

    def __init__(self, stage: Stage, plane: Dataplane) -> None:
        self.plane = plane
        self.client, self.gateway = stage.host("client"), stage.host("gateway")
        nodes = [stage.host(f"node{n}") for n in (1, 2)]
        veth(self.client, "eth0", self.gateway, "c0")
        self.client.ip("addr", "add", f"{CLIENT}/24", "dev", "eth0")
        self.gateway.ip("addr", "add", "10.1.0.1/24", "dev", "c0")
        self.client.ip("route", "add", "default", "via", "10.1.0.1")
        self.gateway.sysctl(
            net__ipv4__ip_forward=1, net__ipv4__fib_multipath_hash_policy=3,
            net__ipv4__fib_multipath_hash_fields=0x37,
        )  # fmt: skip
        for number, node in enumerate(nodes, 1):
            veth(self.gateway, f"n{number}", node, "eth0")
            self.gateway.ip("addr", "add", f"10.2.{number}.1/24", "dev", f"n{number}")
            node.ip("addr", "add", f"10.2.{number}.2/24", "dev", "eth0")
            node.ip("addr", "add", f"{SERVICE}/32", "dev", "lo")
            node.ip("route", "add", "default", "via", f"10.2.{number}.1")
            via = f"10.2.{number}.2"
            self.gateway.ip("nexthop", "add", "id", str(number), "via", via, "dev", f"n{number}")
            self.gateway.ip("neigh", "replace", via, "lladdr", _mac(node, "eth0").hex(":"),
                            "dev", f"n{number}", "nud", "permanent")  # fmt: skip
            hop = Hop(parse_address(via), _index(self.gateway, f"n{number}"),
                      _mac(self.gateway, f"n{number}"), _mac(node, "eth0"), 1500)  # fmt: skip
            plane.put_hop(number, hop)
        self.gateway.ip("nexthop", "add", "id", "10", "group", "1/2", "type", "resilient",
                        "buckets", str(BUCKETS))  # fmt: skip
        self.gateway.ip("route", "add", f"{SERVICE}/32", "nhid", "10")
        plane.put_table(0, np.arange(BUCKETS, dtype="<u2") % 2 + 1)
        plane.put_services({parse_address(SERVICE): 0})
        self.ingress = _index(self.gateway, "c0")
        self.mac = _mac(self.gateway, "c0")
        self.nodes = nodes
        self.frame = _frame(self.mac, 6, bytes(6), SERVICE)
        self.drop, self.source = _dropping(), _source(self.frame)
        self.dropping: list[int] = []
        self.listeners = [in_namespace(node.path, _listening) for node in nodes]

    def by_kernel(self) -> None:
        self._end_drop()
        in_namespace(self.gateway.path, lambda: self.plane.detach(self.ingress))

    def by_program(self) -> None:
        self._end_drop()
        in_namespace(self.gateway.path, lambda: self.plane.attach(self.ingress, self.mac))

    def by_nothing(self) -> None:
        """What comes to the gateway ends there: the harness of `small`."""
        self.by_kernel()
        self._drop_at(self.gateway, self.ingress)

    def _drop_at(self, host: Namespace, ifindex: int) -> None:
        kind = syscall.TCX_INGRESS
        link = in_namespace(host.path, lambda: syscall.link_create(self.drop, ifindex, kind))
        self.dropping.append(link)

    def _end_drop(self) -> None:
        while self.dropping:
            os.close(self.dropping.pop())

    def bulk(self) -> float:
        """One TCP connection, Gbit/s."""
        ours, theirs = self._connection()
        got = 0

        def receive() -> None:
            nonlocal got
            buffer = bytearray(1 << 20)
            while n := theirs.recv_into(buffer):
                got += n

        thread = threading.Thread(target=receive)
        thread.start()
        octets = bytes(1 << 20)
        began = time.perf_counter()
        while time.perf_counter() < began + BULK_S:
            ours.sendall(octets)
        ours.close()
        thread.join()
        spent = time.perf_counter() - began
        theirs.close()
        return got * 8 / spent / 1e9

    def connections(self) -> float:
        """Connections opened and closed one after the other, a second."""
        began = time.perf_counter()
        for _ in range(CONNECTIONS):
            for sock in self._connection():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
        return CONNECTIONS / (time.perf_counter() - began)

    def _connection(self) -> tuple[socket.socket, socket.socket]:
        ours = in_namespace(self.client.path, lambda: socket.socket(socket.AF_INET))
        ours.settimeout(10)
        ours.connect((SERVICE, PORT))
        for listener in self.listeners:
            with contextlib.suppress(BlockingIOError):
                theirs, _ = listener.accept()
                theirs.setblocking(True)
                return ours, theirs
        raise StageError("nobody took a connection")

    def small(self) -> float:
        """Small packets into the gateway, dropped where they arrive, a second."""
        if not self.dropping:
            for node in self.nodes:
                self._drop_at(node, _index(node, "eth0"))
        frame = np.frombuffer(self.frame, np.uint8)
        context = np.zeros(24, np.uint8)
        struct.pack_into("=IIII", context, 0, 0, len(frame), 0, self.ingress)
        attributes = struct.pack(
            "=IIIIQQIIIIQQIIII", self.source, 0, len(frame), 0, frame.ctypes.data, 0, SMALL, 0,
            len(context), 0, context.ctypes.data, 0, LIVE_FRAMES, 0, 64, 0,
        )  # fmt: skip
        began = time.perf_counter()
        in_namespace(self.gateway.path, lambda: syscall.call("live frames", 10, attributes))
        return SMALL / (time.perf_counter() - began)


def _listening() -> socket.socket:
    sock = socket.socket(socket.AF_INET)
    sock.bind(("", PORT))
    sock.listen(100)
    sock.setblocking(False)
    return sock


def _dropping() -> int:
    """A tc program: r0 = TC_ACT_SHOT; exit."""
    return _load(_SCHED_CLS, [(0xB7, 0, 0, TC_DROP), _EXIT])


def _source(frame: bytes) -> int:
    """An XDP program that makes a frame as it was again, of another flow, and passes it: frames
    are used again, with what the forwarding before wrote into them."""
    mac_high, mac_low = struct.unpack_from("=iH", frame)
    (sum_,) = struct.unpack_from("=H", frame, 24)
    return _load(_XDP, [
        (0xBF, 0x16, 0, 0),  # r6 = context
        (0x85, 0, 0, 7),  # r0 = bpf_get_prandom_u32()
        (0x61, 0x62, 0, 0), (0x61, 0x63, 4, 0),  # r2, r3 = data, data_end
        (0xBF, 0x24, 0, 0), (0x07, 4, 0, 60), (0x2D, 0x34, 6, 0),  # r2 + 60 > r3: pass
        (0x62, 2, 0, mac_high), (0x6A, 2, 4, mac_low),
        (0x72, 2, 22, 64), (0x6A, 2, 24, sum_),  # TTL, checksum
        (0x6B, 0x02, 34, 0),  # source port = r0
        (0xB7, 0, 0, XDP_PASS), (0xB7, 0, 0, XDP_PASS), _EXIT,
    ])  # fmt: skip


_EXIT = (0x95, 0, 0, 0)


def _load(kind: int, program: list[tuple[int, int, int, int]]) -> int:
    """Instructions (code, registers, offset, immediate), loaded."""
    octets = b"".join(struct.pack("=BBhi", *instruction) for instruction in program)
    instructions: Any = np.frombuffer(octets, np.uint8)
    license_: Any = np.frombuffer(b"Apache-2.0\0", np.uint8)
    places = instructions.ctypes.data, license_.ctypes.data
    return syscall.call(
        "load", _PROG_LOAD, struct.pack("=IIQQIIQ", kind, len(program), *places, 0, 0, 0)
    )

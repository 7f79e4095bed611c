"""Service rules of a large cluster on one node: written anew, and one endpoint changed.

1,000 nodes, 5,000 services (a fifth of them load balancers with policy Local and node ports) with
ten endpoints each. In a network namespace of its own, through nft(8), as the agent does it.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from samepath.apply.nft import Rules
from samepath.model.cluster import (
    Cluster,
    Endpoint,
    EndpointSlice,
    Node,
    Object,
    Service,
    ServicePort,
    SlicePort,
    make_cluster,
)
from samepath.model.config import Advertise
from samepath.model.net import Family
from samepath.plan import flows
from samepath.plan.proxy import Known, build
from samepath.plan.ruleset import change_text, full_text

NODES, SERVICES, ENDPOINTS, CHANGES = 1000, 5000, 10, 30
CIDRS = ("10.128.0.0/12",)
CLONE_NEWNET = 0x40000000
Anything = TypeVar("Anything")


def main() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespace of our own")
    figures = asyncio.run(measure())
    for name, value in figures.items():
        print(f"{name:32} {value}")
    print(json.dumps({"benchmark": "rules", **figures}))


async def measure() -> dict[str, float]:
    cluster = make_cluster(objects())
    known, rules = Known(), Rules()
    present, build_s = timed(partial(build, cluster, "n1", Advertise(), CIDRS, (), known))
    began = time.perf_counter()
    await rules.apply(present)
    figures: dict[str, float] = {
        "elements": sum(map(len, present.elements.values())),
        "text_mb": round(len(full_text(present)) / 1e6, 1),
        "planned_anew_s": round(build_s, 2),
        "written_anew_s": round(time.perf_counter() - began, 2),
        "nft_peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
    }
    planned, written, octets = [], [], 0
    for number in range(CHANGES):
        cluster = without_an_endpoint(cluster, number * 37 % SERVICES)
        changed, took_s = timed(partial(build, cluster, "n1", Advertise(), CIDRS, (), known))
        _, lost_s = timed(partial(list, flows.lost(present, changed)))
        octets = max(octets, len(str(change_text(present, changed))))
        began = time.perf_counter()
        await rules.apply(changed)
        written.append(1e3 * (time.perf_counter() - began))
        planned.append(1e3 * (took_s + lost_s))
        present = changed
    figures |= {
        "change_planned_ms": round(statistics.median(planned), 1),
        "change_written_ms": round(statistics.median(written), 1),
        "change_octets": octets,
        "own_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    await rules.remove()
    return figures


def timed(work: Callable[[], Anything]) -> tuple[Anything, float]:
    began = time.perf_counter()
    found = work()
    return found, time.perf_counter() - began


def objects() -> list[Object]:
    made: list[Object] = [
        Node(f"n{i}", addresses=(bytes((10, 1, *divmod(i, 250))),)) for i in range(NODES)
    ]
    for number in range(SERVICES):
        high, low = divmod(number, 250)
        is_balanced = number % 5 == 0
        node_port = 30000 + number // 5 if is_balanced else None
        made.append(
            Service(
                "scale",
                f"s{number}",
                (ServicePort(80, node_port=node_port),),
                cluster_ips=(bytes((10, 96, high, low)),),
                load_balancer=is_balanced,
                load_balancer_ips=(bytes((203, 0, high, low)),) if is_balanced else (),
                external_local=is_balanced,
            )
        )
        endpoints = tuple(
            Endpoint(
                (0x0A800000 + number * ENDPOINTS + i).to_bytes(4, "big"),
                f"n{(number * 7 + i * 13) % NODES}",
            )
            for i in range(ENDPOINTS)
        )
        name = f"s{number}"
        made.append(EndpointSlice("scale", name, name, Family.IPV4, (SlicePort(8080),), endpoints))
    return made


def without_an_endpoint(cluster: Cluster, number: int) -> Cluster:
    key = f"scale/s{number}"
    (part,) = cluster.slices[key]
    fewer = replace(part, endpoints=part.endpoints[1:])
    return replace(cluster, slices={**cluster.slices, key: (fewer,)})

"""How fast the RIB takes in many peers with the same prefixes. No sockets, no codec.

Ends in one line of JSON: seconds for 10,000 prefixes x 64 peers, for 100,000 x 1, and for one of
the 64 peers lost.
"""

from __future__ import annotations

import json
import time

from samepath.bgp.attributes import AsPath, PathAttributes
from samepath.bgp.policy import ImportRule, Own
from samepath.bgp.rib import Rib
from samepath.model.neighbor import Import
from samepath.model.net import Family, Nlri, make_nlri

BLOCK = 800
RULE = ImportRule(Import(services=["10.0.0.0/8"], max_prefixes=1_000_000))


def blocks(prefixes: int) -> list[tuple[Nlri, ...]]:
    first = int.from_bytes(bytes((10, 0, 0, 0)), "big")
    nlris = [make_nlri((first + i).to_bytes(4, "big"), 32) for i in range(prefixes)]
    return [tuple(nlris[i : i + BLOCK]) for i in range(0, prefixes, BLOCK)]


def fill(prefixes: int, peers: int, *, interleaved: bool) -> tuple[float, Rib]:
    """Seconds until all paths are in, and the RIB."""
    rib = Rib(Own(asn=65000, router_id=1, cluster_id=1))
    offered = blocks(prefixes)
    routes = []
    for i in range(peers):
        peer = bytes((192, 0, 2, i))
        attributes = PathAttributes(next_hop=peer, as_path=AsPath.of(65001))
        rib.peer_up(peer, external=True, router_id=i + 2, rule=RULE)
        routes += [(j, i, peer, block, attributes) for j, block in enumerate(offered)]
    if interleaved:
        routes.sort(key=lambda route: route[:2])
    start = time.perf_counter()
    for _, _, peer, block, attributes in routes:
        rib.announce(peer, Family.IPV4, block, attributes)
    seconds = time.perf_counter() - start
    assert len(rib.take_changed()[Family.IPV4]) == prefixes
    assert all(len(held.best) == peers for _, held in rib.items(Family.IPV4))
    return seconds, rib


def main() -> None:
    many, rib = fill(10_000, 64, interleaved=False)
    start = time.perf_counter()
    rib.peer_down(bytes((192, 0, 2, 7)))
    lost = time.perf_counter() - start
    figures = {
        "benchmark": "rib",
        "paths_10000x64_s": round(many, 3),
        "paths_10000x64_interleaved_s": round(fill(10_000, 64, interleaved=True)[0], 3),
        "paths_100000x1_s": round(fill(100_000, 1, interleaved=False)[0], 3),
        "peer_lost_s": round(lost, 4),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

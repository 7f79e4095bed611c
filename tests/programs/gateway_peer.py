"""A gateway's BGP, without its data plane: the other side in the tests of the agent.

Runs inside a namespace; a line `state` is answered with all that it knows, in JSON. Every change
of its RIB is kept with its time, so that a test can ask whether something was away meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from samepath.bgp.adjout import Advertisement
from samepath.bgp.attributes import GRACEFUL_SHUTDOWN, PathAttributes
from samepath.bgp.transport import Speaker
from samepath.model.config import Bgp
from samepath.model.neighbor import Import, Neighbor
from samepath.model.net import Family, address_text, parse_prefix, prefix_text


async def main(address: str, asn: int) -> None:
    woken = asyncio.Event()
    nodes = Neighbor(
        range="10.83.0.0/24",
        remote_as=asn,
        hold_time_s=9,
        import_=Import(
            services=["203.0.113.0/24", "2001:db8:113::/48", "10.96.0.0/16"],
            pods=["10.244.0.0/16", "2001:db8:244::/48"],
        ),
    )
    config = Bgp(
        router_id=address,
        local_as=asn,
        listen=[address],
        next_hops=[address, "2001:db8:83::1"],
        neighbors=[nodes],
    )
    speaker = Speaker(config, wake=woken.set)
    routes: dict[Family, dict[bytes, Advertisement]] = {f: {} for f in Family}
    for text in ("0.0.0.0/0", "::/0"):
        family, nlri = parse_prefix(text)
        routes[family][nlri] = Advertisement(PathAttributes(next_hop=b""))
    for text, via in (("10.244.9.0/24", b"\x0a\x53\x00\x09"),):
        family, nlri = parse_prefix(text)
        routes[family][nlri] = Advertisement(PathAttributes(next_hop=via))
    await speaker.start()
    speaker.set(nodes.name, routes)
    speaker.release_end_of_rib()
    history: list[tuple[float, dict[str, Any]]] = []

    def rib() -> dict[str, Any]:
        found = {}
        for family in Family:
            for nlri, paths in speaker.rib.items(family):
                a = paths.best[0].attributes
                bandwidth = a.link_bandwidth
                found[prefix_text(family, nlri)] = {
                    "via": address_text(a.next_hop),
                    "draining": a.has(GRACEFUL_SHUTDOWN),
                    "weight": None if bandwidth is None else bandwidth / 125_000,
                }
        return found

    async def follow() -> None:
        while True:
            await woken.wait()
            woken.clear()
            now = rib()
            if not history or history[-1][1] != now:
                history.append((time.monotonic(), now))

    following = asyncio.create_task(follow())
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    print("ready", flush=True)
    while line := await reader.readline():
        peers = [
            {"state": p.state.name, "flaps": p.flaps,
             "end_of_rib": all(f.end_of_rib_received for f in p.families.values())}
            for p in speaker.peers()
        ]  # fmt: skip
        answer: Any = {"rib": rib(), "peers": peers}
        if line.strip() == b"history":
            answer = history
        print(json.dumps(answer), flush=True)
    following.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))

"""A router beside the agents, for tests of what they tell it: `python agent_witness.py CONFIG`.

CONFIG is the JSON of `samepath.model.config.Bgp`. A line on standard input is answered by a line of
JSON: `state` with the RIB and the peers, `history` with every RIB there was. It tells nobody
anything. Ends at the end of its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import msgspec

from samepath.bgp.attributes import GRACEFUL_SHUTDOWN
from samepath.bgp.communities import community_text, large_community_text
from samepath.bgp.transport import Speaker
from samepath.model.config import Bgp
from samepath.model.net import Family, address_text, prefix_text


def rib(speaker: Speaker) -> dict[str, Any]:
    found = {}
    for family in Family:
        for nlri, paths in speaker.rib.items(family):
            for path in paths.paths:
                a = path.attributes
                rate = a.link_bandwidth
                found.setdefault(prefix_text(family, nlri), {})[address_text(path.peer)] = {
                    "draining": a.has(GRACEFUL_SHUTDOWN),
                    "weight": None if rate is None else rate / 125_000,
                    "local_pref": a.local_pref,
                    "communities": [
                        *(community_text(c) for c in a.communities if c != GRACEFUL_SHUTDOWN),
                        *(large_community_text(c) for c in a.large_communities),
                    ],
                }
    return found


def peers(speaker: Speaker) -> dict[str, Any]:
    return {
        address_text(p.address): {
            "state": p.state.name,
            "as": p.remote_as,
            "flaps": p.flaps,
            "lost_for": p.lost_for,
            "router_id": p.router_id and address_text(p.router_id.to_bytes(4, "big")),
            "end_of_rib": all(f.end_of_rib_received for f in p.families.values()),
            "families": [f.label for f in p.families],
            "hold_time_s": p.hold_time_s,
            "agreed": list(p.agreed),
            "stale": p.stale_until_s is not None,
        }
        for p in speaker.peers()
    }


async def main() -> None:
    config = msgspec.json.decode(sys.argv[1], type=Bgp)
    woken = asyncio.Event()
    speaker = Speaker(config, wake=woken.set)
    await speaker.start()
    for neighbor in config.neighbors:
        speaker.set(neighbor.name, {})
    speaker.release_end_of_rib()
    history: list[tuple[float, dict[str, Any]]] = []

    async def follow() -> None:
        while True:
            await woken.wait()
            woken.clear()
            now = rib(speaker)
            if not history or history[-1][1] != now:
                history.append((time.monotonic(), now))

    following = asyncio.create_task(follow())
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    print("ready", flush=True)
    while line := await reader.readline():
        answer: Any = {"rib": rib(speaker), "peers": peers(speaker)}
        if line.strip() == b"history":
            answer = history
        print(json.dumps(answer), flush=True)
    following.cancel()
    await speaker.stop(notify=False)


if __name__ == "__main__":
    asyncio.run(main())

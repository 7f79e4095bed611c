"""A BGP peer as a process of its own, for tests of the programs: `python peer.py CONFIG`.

CONFIG is the JSON of `samepath.model.config.Bgp`. Each line on standard input is a JSON object
{prefix: {"weight": n, "draining": bool, "next_hop": text}}: all that is to be advertised from now
on. Each line on standard output is a JSON object {prefix: next hops}: what was learned, whenever
it changes. Ends, with a NOTIFICATION, at the end of its input.
"""

from __future__ import annotations

import asyncio
import json
import sys

import msgspec

from samepath.bgp.attributes import (
    GRACEFUL_SHUTDOWN,
    Origin,
    PathAttributes,
    link_bandwidth_community,
)
from samepath.bgp.transport import Advertisement, Speaker
from samepath.model.config import Bgp
from samepath.model.net import Family, Nlri, address_text, parse_address, parse_prefix, prefix_text


def routes(line: str, asn: int) -> dict[Family, dict[Nlri, Advertisement]]:
    offered: dict[Family, dict[Nlri, Advertisement]] = {f: {} for f in Family}
    for text, how in json.loads(line).items():
        family, nlri = parse_prefix(text)
        weight = how.get("weight")
        community = None if weight is None else link_bandwidth_community(asn, weight * 125_000)
        next_hop = how.get("next_hop")
        attributes = PathAttributes(
            origin=Origin.IGP,
            next_hop=parse_address(next_hop) if next_hop else b"",
            communities=(GRACEFUL_SHUTDOWN,) if how.get("draining") else (),
            extended_communities=() if community is None else (community,),
        )
        offered[family][nlri] = Advertisement(attributes)
    return offered


async def main() -> None:
    config = msgspec.json.decode(sys.argv[1], type=Bgp)
    news = asyncio.Event()
    # As after a restart, End-of-RIB waits for the first routes.
    speaker = Speaker(config, wake=news.set, restarted=True, forwarding_preserved=True)
    await speaker.start()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def report() -> None:
        last = None
        while True:
            await news.wait()
            news.clear()
            learned = {
                prefix_text(family, nlri): sorted(
                    {address_text(p.attributes.next_hop) for p in paths.paths}
                )
                for family in Family
                for nlri, paths in speaker.rib.items(family)
            }
            if learned != last:
                last = learned
                print(json.dumps(learned), flush=True)

    task = asyncio.create_task(report())
    while line := await reader.readline():
        offered = routes(line.decode(), config.local_as)
        for neighbor in config.neighbors:
            speaker.set(neighbor.name, offered)
        speaker.release_end_of_rib()
    task.cancel()
    await speaker.stop()


asyncio.run(main())

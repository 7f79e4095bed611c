"""A whole gateway under load, in one process within a namespace: `python gateway_load.py FOLDER`.

Paths are put into its RIB as sessions would; a task that sleeps 5 ms at a time notes how late it
wakes. Prints, as JSON, the worst lateness of each phase in ms, and what stands in the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import defaultdict

import msgspec

from samepath.bgp.attributes import GRACEFUL_SHUTDOWN, Origin, PathAttributes
from samepath.bgp.policy import ImportRule
from samepath.model.config import GatewayConfig
from samepath.model.neighbor import Import, Neighbor
from samepath.model.net import Address, Family, Nlri, make_nlri
from samepath.programs.config import Watch
from samepath.programs.gateway import Gateway
from samepath.programs.gateway_view import status

SERVICES, SETS, PEERS, PODS, NEIGHBORS = 1000, 200, 64, 20_000, 50
IMPORT = Import(
    services=["192.0.0.0/8"], pods=["20.0.0.0/6"], routes=["0.0.0.0/0"], max_prefixes=200_000
)


class Load:
    def __init__(self, folder: str) -> None:
        nodes = Neighbor(
            range="10.9.0.0/24", remote_as=64512, import_=IMPORT, export=["pods", "default"]
        )
        others = [
            Neighbor(
                address=f"10.9.1.{n}", remote_as=64512, passive=True, import_=IMPORT,
                export=["services", "pods"],
            )
            for n in range(NEIGHBORS)
        ]  # fmt: skip
        config = GatewayConfig(
            router_id="10.9.0.254", local_as=64512, hash_seed=77, idle_timer_s=3600,
            run_dir=f"{folder}/run", neighbors=[nodes, *others],
        )  # fmt: skip
        path = f"{folder}/gateway.yaml"
        with open(path, "w") as file:
            json.dump(msgspec.to_builtins(config), file)
        self.gateway = Gateway(config, Watch(path))
        self.peers = [bytes((10, 9, 0, n)) for n in range(1, PEERS + 1)]
        self.late_ms: list[float] = [0.0]
        self.figures: dict[str, float] = {}

    async def note_lateness(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            self.late_ms.append((time.perf_counter() - began - 0.005) * 1000)

    async def tell(self, peer: Address, nlris: list[Nlri], *, draining: bool = False) -> None:
        """What an UPDATE would do, in pieces as the speaker would."""
        attributes = PathAttributes(
            origin=Origin.IGP, next_hop=peer, communities=(GRACEFUL_SHUTDOWN,) if draining else ()
        )
        for start in range(0, len(nlris), 500):
            rib = self.gateway.speaker.rib
            rib.announce(peer, Family.IPV4, nlris[start : start + 500], attributes)
            self.gateway.wake.set()
            await asyncio.sleep(0)

    async def phase(self, name: str) -> None:
        until = time.monotonic() + 60
        await asyncio.sleep(0.05)
        while self.gateway.is_behind or self.gateway.wake.is_set():
            assert time.monotonic() < until, f"{name}: never done"
            await asyncio.sleep(0.02)
        self.figures[name] = round(max(self.late_ms), 1)
        self.late_ms = [0.0]

    async def run(self) -> None:
        gateway = self.gateway
        running = asyncio.create_task(gateway.run())
        noting = asyncio.create_task(self.note_lateness())
        await self.phase("start")
        for peer in self.peers:
            gateway.speaker.rib.peer_up(
                peer, external=False, router_id=int.from_bytes(peer, "big"), rule=ImportRule(IMPORT)
            )
        chance = random.Random(1)
        sets = [chance.sample(range(PEERS), chance.choice([4, 16, 48])) for _ in range(SETS)]
        told: dict[int, list[Nlri]] = defaultdict(list)
        for number in range(SERVICES):
            nlri = make_nlri((0xC0000200 + number).to_bytes(4, "big"), 32)
            for member in sets[number % SETS]:
                told[member].append(nlri)
        for member, nlris in told.items():
            await self.tell(self.peers[member], nlris)
        await self.phase("services")
        groups = len(list(gateway.services.rows))
        pods = [make_nlri((0x14000000 + n * 64).to_bytes(4, "big"), 26) for n in range(PODS)]
        await self.tell(self.peers[0], pods)
        await self.phase("pods")
        gateway.services.links_changed()
        gateway.wake.set()
        await self.phase("links")
        await self.tell(self.peers[1], told[1], draining=True)
        await self.phase("drain")
        gateway.speaker.rib.withdraw(self.peers[2], Family.IPV4, told[2])
        gateway.wake.set()
        await self.phase("withdraw")
        gateway.suspect([])
        await asyncio.sleep(1)
        await self.phase("read back")
        settled = (await status(gateway, {}))["settled"]
        await self.phase("status")
        noting.cancel()
        print(json.dumps({"late_ms": self.figures, "groups": groups, "settled": settled}))
        sys.stdout.flush()
        running.cancel()
        os._exit(0)


asyncio.run(Load(sys.argv[1]).run())

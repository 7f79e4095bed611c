"""How fast UPDATEs are read and written, beside ExaBGP's decoder on the same octets.

The streams: one prefix an UPDATE, 800 an UPDATE, and the latter
from 64 peers that advertise the same prefixes with next hops of their own. "first" means that no
prefix has been seen before; all figures include cutting the stream into messages, except ExaBGP's,
which gets them cut. Best of several runs; the ratio is what to look at.

Ends in one line of JSON: prefixes per second, and ratios to ExaBGP (null where it is missing).
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

from samepath.bgp import attribute_decoder, nlri
from samepath.bgp import message as m
from samepath.bgp.attributes import AsPath, PathAttributes
from samepath.model.net import Family, Nlri, make_nlri

PREFIXES = 20_000
BLOCK = 800
PEERS = 64
CONTEXT = m.Context(four_octet_as=True, families=frozenset(Family), internal=False)

EXABGP = """
import json, sys, time
from exabgp.configuration.setup import environment
environment.setup("").log.enable = False
from exabgp.bgp.message import Open, Update
from exabgp.bgp.message.direction import Direction
from exabgp.bgp.message.open import ASN, HoldTime, RouterID, Version
from exabgp.bgp.message.open.capability import Capabilities, Negotiated
from exabgp.configuration.configuration import Configuration
text = '''
neighbor 127.0.0.1 {
  router-id 192.0.2.77;
  local-address 127.0.0.1;
  local-as 65001;
  peer-as 65002;
  family {
    ipv4 unicast;
    ipv6 unicast;
  }
}
'''
configuration = Configuration([text], True)
assert configuration.reload(), configuration.error
(neighbor,) = configuration.neighbors.values()
negotiated = Negotiated(neighbor)
capabilities = Capabilities().new(neighbor, False)
for take, asn in ((negotiated.sent, 65001), (negotiated.received, 65002)):
    take(Open(Version(4), ASN(asn), HoldTime(9), RouterID("192.0.2.77"), capabilities))
seconds = []
for line in sys.stdin:
    bodies = [bytes.fromhex(text) for text in line.split()]
    best = 1e9
    for _ in range(3):
        start = time.perf_counter()
        for body in bodies:
            Update.unpack_message(body, Direction.IN, negotiated)
        best = min(best, time.perf_counter() - start)
    seconds.append(best)
print(json.dumps(seconds))
"""


def prefixes(family: Family) -> tuple[Nlri, ...]:
    net = bytes((10,)) if family is Family.IPV4 else bytes.fromhex("20010db8") + bytes(8)
    wide = family.octets - len(net)
    return tuple(make_nlri(net + i.to_bytes(wide, "big"), family.bits) for i in range(PREFIXES))


def attributes(family: Family, peer: int) -> PathAttributes:
    net = bytes((192, 0, 2)) if family is Family.IPV4 else bytes.fromhex("20010db8ffff") + bytes(9)
    return PathAttributes(
        net + bytes((peer + 1,)), as_path=AsPath.of(65001, 65002), communities=(65001 << 16 | 1,)
    )


def stream(family: Family, peer: int, size: int) -> bytes:
    """All prefixes, `size` in each UPDATE."""
    nlris = prefixes(family)
    said = attributes(family, peer)
    blocks = [nlris[i : i + size] for i in range(0, len(nlris), size)]
    # IPv6 prefixes are longer: 800 of them need extended messages, so they go as they fit.
    return b"".join(
        b"".join(m.encode_updates([m.Reach(family, block, said)], (), CONTEXT)) for block in blocks
    )


def read(data: bytes) -> int:
    messages, consumed = m.split(data)
    assert consumed == len(data)
    found = 0
    for kind, body in messages:
        update = m.decode(kind, body, CONTEXT)
        assert isinstance(update, m.Update)
        found += len(update.reaches[0].nlris)
    return found


def best(run: Callable[[], int], expected: int, before: Callable[[], None] | None = None) -> float:
    """Prefixes per second of the best of five runs."""
    seconds = []
    for _ in range(5):
        if before is not None:
            before()
        start = time.perf_counter()
        done = run()
        seconds.append(time.perf_counter() - start)
        assert done == expected
    return expected / min(seconds)


def forget() -> None:
    nlri.forget()
    attribute_decoder.forget()


def exabgp(streams: list[bytes]) -> list[float]:
    """Prefixes per second of ExaBGP's decoder for each stream; empty where it is not installed."""
    lines = "\n".join(" ".join(body.hex() for _, body in m.split(data)[0]) for data in streams)
    try:
        done = subprocess.run(
            ["/usr/bin/python3", "-c", EXABGP],
            input=lines,
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": "/usr/bin:/bin"},
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return [PREFIXES / seconds for seconds in json.loads(done.stdout)]


def write(reaches: list[m.Reach]) -> int:
    for _ in m.encode_updates(reaches, (), CONTEXT):
        pass
    return PREFIXES


def measure(family: Family) -> tuple[dict[str, float], list[float]]:
    """Our rates by name, and ExaBGP's for `single_first` and `800_first`."""
    single, packed = stream(family, 0, 1), stream(family, 0, BLOCK)
    fabric = b"".join(stream(family, peer, BLOCK) for peer in range(PEERS))
    reach = m.Reach(family, prefixes(family), attributes(family, 0))
    each = [m.Reach(family, (nlri,), reach.attributes) for nlri in reach.nlris]
    ours = {
        "decode_single": best(lambda: read(single), PREFIXES),
        "decode_single_first": best(lambda: read(single), PREFIXES, forget),
        "decode_800_first": best(lambda: read(packed), PREFIXES, forget),
        "decode_800_64_peers": best(lambda: read(fabric), PREFIXES * PEERS, forget),
        "encode": best(lambda: write([reach]), PREFIXES),
        "encode_each": best(lambda: write(each), PREFIXES),
    }
    return ours, exabgp([single, packed])


def main() -> None:
    figures: dict[str, str | int | float | None] = {"benchmark": "codec"}
    for family in Family:
        label = family.label
        ours, theirs = measure(family)
        for name, rate in ours.items():
            figures[f"{label}_{name}_per_s"] = round(rate)
            print(f"{label} {name:20} {rate:13,.0f} prefixes/s")
        for i, name in enumerate(("decode_single_first", "decode_800_first")):
            ratio = round(ours[name] / theirs[i], 1) if theirs else None
            figures[f"{label}_{name}_vs_exabgp"] = ratio
            if theirs:
                print(f"{label} {name:20} {theirs[i]:13,.0f} prefixes/s by ExaBGP: {ratio} times")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

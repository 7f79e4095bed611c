"""Tables: how long they take to build, and how much a change moves.

Beside bounded weighted rendezvous stand Maglev (as in `samepath.hashing.baselines`) and the same
rendezvous built the plain way: all pairs sorted, then taken one by one.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable

from samepath.hashing import table as tables
from samepath.hashing.baselines import maglev
from samepath.hashing.table import Member, Table, build, member_key, moves, shares

Build = Callable[[list[Member], int], object]
SIZES = ((4093, 64), (1021, 4), (1021, 64))
COUNTS = (4, 8, 16, 64, 256)
BUCKETS = 1021


def main() -> None:
    figures: dict[str, float] = {}
    print("build, ms            best  median   naive greedy     Maglev (both in plain Python)")
    for buckets, count in SIZES:
        members = nodes(count, random.Random(1))
        ours = milliseconds(uncached, members, buckets, 15)
        naive = milliseconds(greedy, members, buckets, 2)
        other = milliseconds(maglev, members, buckets, 5)
        name = f"{buckets}x{count}"
        figures[f"{name}_ms"] = round(statistics.median(ours), 2)
        figures[f"{name}_best_ms"] = round(min(ours), 2)
        figures[f"{name}_naive_ratio"] = round(min(naive) / min(ours), 1)
        figures[f"{name}_maglev_ratio"] = round(min(other) / min(ours), 2)
        print(f"{buckets:5} buckets x {count:3} {min(ours):8.2f}{statistics.median(ours):8.2f}"
              f"{min(naive):10.1f} ({min(naive) / min(ours):3.0f}x)"
              f"{min(other):9.2f} ({min(other) / min(ours):4.2f}x)")  # fmt: skip
    print(f"\nmoved of {BUCKETS} buckets, relative to what no table can avoid, and Maglev's")
    print("members     add  Maglev  remove  Maglev  weight 1 to 2  of mixed weights +1")
    for count in COUNTS:
        row = movement(count)
        figures.update({f"{name}_{count}": value for name, value in row.items()})
        print(f"{count:7}" + "".join(f"{value:8.2f}" for value in row.values()))
    print(json.dumps({"benchmark": "tables", **figures}))


def nodes(count: int, rng: random.Random, weights: tuple[int, ...] = (1,)) -> list[Member]:
    ids = rng.sample(range(1 << 24), count)
    return [Member(bytes((10, *i.to_bytes(3, "big"))), rng.choice(weights)) for i in ids]


def uncached(members: list[Member], buckets: int) -> Table:
    tables._build.cache_clear()
    return build(members, buckets)


def greedy(members: list[Member], buckets: int) -> list[int]:
    """The definition, with the score as cheap as Python has it: the sort is the cost."""
    ordered = sorted(members)
    left = list(shares(ordered, buckets).values())
    pairs = []
    for index, member in enumerate(ordered):
        key = member_key(member.id)
        for bucket in range(buckets):
            x = (key + (bucket + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
            x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
            x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
            pairs.append((-(x ^ (x >> 31)), index, bucket))
    pairs.sort()
    owners = [-1] * buckets
    for _, index, bucket in pairs:
        if owners[bucket] < 0 and left[index]:
            owners[bucket] = index
            left[index] -= 1
    return owners


def milliseconds(make: Build, members: list[Member], buckets: int, times: int) -> list[float]:
    taken = []
    for _ in range(times):
        before = time.perf_counter()
        make(members, buckets)
        taken.append((time.perf_counter() - before) * 1e3)
    return taken


def movement(count: int, trials: int = 8) -> dict[str, float]:
    """Moved buckets over the sum of the shares that members gain: 1.00 is the least possible."""
    add, remove, heavier, mixed = ([] for _ in range(4))
    add_maglev, remove_maglev = [], []
    for trial in range(trials):
        rng = random.Random(trial)
        more = nodes(count + 1, rng)
        few = more[1:]
        add.append(moved(build, few, more))
        remove.append(moved(build, more, few))
        add_maglev.append(moved(maglev, few, more))
        remove_maglev.append(moved(maglev, more, few))
        heavier.append(moved(build, few, [Member(few[0].id, 2), *few[1:]]))
        uneven = nodes(count, rng, (1, 2, 3, 4))
        one_more = [Member(uneven[0].id, uneven[0].weight + 1), *uneven[1:]]
        mixed.append(moved(build, uneven, one_more))
    columns = {"add": add, "add_maglev": add_maglev, "remove": remove,
               "remove_maglev": remove_maglev, "heavier": heavier, "mixed": mixed}  # fmt: skip
    return {
        name: round(sum(m for m, _ in pairs) / sum(u for _, u in pairs), 2)
        for name, pairs in columns.items()
    }


def moved(
    make: Callable[[list[Member], int], Table], before: list[Member], after: list[Member]
) -> tuple[int, int]:
    """Buckets moved between the tables of two worlds, and how many no table could spare."""
    old, new = shares(before, BUCKETS), shares(after, BUCKETS)
    least = sum(max(0, part - old.get(member, 0)) for member, part in new.items())
    return len(moves(make(before, BUCKETS), make(after, BUCKETS))), least

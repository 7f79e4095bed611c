"""Who made a route, by name and number: `rtm_protocol` as /etc/iproute2/rt_protos names it.

Standards: rtnetlink(7); <linux/rtnetlink.h>.
"""

from __future__ import annotations

NUMBERS = {
    "static": 4, "gated": 8, "zebra": 11, "bird": 12, "babel": 42, "openr": 99, "bgp": 186,
    "isis": 187, "ospf": 188, "rip": 189, "eigrp": 192,
}  # fmt: skip
ZEBRA = NUMBERS["zebra"]


def number(name: str) -> int:
    """Raises ValueError."""
    found = NUMBERS.get(name, int(name) if name.isdigit() else -1)
    if not 4 <= found <= 255:
        raise ValueError(f"no routing protocol {name!r}: a number, or {', '.join(NUMBERS)}")
    return found

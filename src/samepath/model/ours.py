"""The numbers by which we recognise what we made, in the kernel and after any crash.

Marked before it is made; `is_ours` is asked before anything is deleted (docs/ARCHITECTURE.md).
"""

PROTOCOL = 83
"""rtm_protocol, nh_protocol and IFA_PROTO of all that is ours."""

TABLE = 83
"""The routing table of our own routes, for a gateway beside a routing daemon."""
RULE_PREFERENCE = 8300
"""Of the rules that lead there: after the local table's, before the main one's."""

POD_LINK = "smp"
"""What the name of a pod's link begins with, on the node's side."""

REPLICA_BASE = 0x53000000
REPLICAS_PER_SLOT = 4096
"""One member slot has room for the replicas of the largest table."""
SLOTS = 4095

GROUP_BASE = 0x54000000
PLAIN_GROUP_BASE = 0x54800000
"""Groups of plain routes (mpath) from here on; resilient groups of services below."""
GROUP_END = 0x55000000


def replica_id(slot: int, replica: int) -> int:
    assert 0 <= slot < SLOTS
    assert 0 <= replica < REPLICAS_PER_SLOT
    return REPLICA_BASE + slot * REPLICAS_PER_SLOT + replica


def slot_of(nexthop_id: int) -> int:
    return (nexthop_id - REPLICA_BASE) // REPLICAS_PER_SLOT


def is_replica(nexthop_id: int) -> bool:
    return REPLICA_BASE <= nexthop_id < REPLICA_BASE + SLOTS * REPLICAS_PER_SLOT


def is_group(nexthop_id: int) -> bool:
    return GROUP_BASE <= nexthop_id < GROUP_END


def is_plain_group(nexthop_id: int) -> bool:
    return PLAIN_GROUP_BASE <= nexthop_id < GROUP_END

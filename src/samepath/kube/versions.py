"""Resource versions: which of two of the same resource is the older.

Standards: Kubernetes API concepts, "Resource versions": numbers of one sequence, comparable among
objects of one resource (KEP-5504; what every server has done before).
"""

from __future__ import annotations


def is_older(one: str, other: str) -> bool:
    """Where they are no numbers, what is different is older: a watch will come to the other."""
    if one.isdigit() and other.isdigit():
        return int(one) < int(other)
    return one != other

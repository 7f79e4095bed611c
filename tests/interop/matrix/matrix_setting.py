"""The settings in which our speaker meets each peer, and what both offer there.

A setting is one start of a daemon and one session (internal: and a second speaker of ours behind
it), on which several cells of the matrix look. Pure data; `matrix_daemons` makes the peers'
configurations of it, `matrix_world` ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from interop_peers import OFFERED, Terms

SECRET = "one-word-for-both"
REASON = "a new line card at 10:00"
THIRD_V6 = "2001:db8::3"
THIRD_ID = "10.0.0.3"
LARGE = 400
"""Large communities of 12 octets: more than fits into a message of 4,096."""
BANDWIDTH = 250_000.0
"""Bytes a second."""

THEIR_DRAINING = "10.2.10.0/24"
THEIR_WEIGHTED = "10.2.11.0/24"
THEIR_LARGE = "10.2.12.0/24"
THEIRS_TO_US = (*OFFERED, THEIR_DRAINING, THEIR_WEIGHTED, THEIR_LARGE)

OUR_V4 = "10.1.0.0/24"
OUR_V6 = "2001:db8:1::/48"
OUR_DRAINING = "10.1.10.0/24"
OUR_WEIGHTED = "10.1.11.0/24"
OUR_LARGE = "10.1.12.0/24"

REFLECTED = "2001:db8:3::/48"
"""Of our third speaker alone: who reflects tells the others of it."""
SHARED = "2001:db8:2:1::/64"
"""Of the third speaker and of whoever tells of it: two paths."""


@dataclass(frozen=True)
class Setting:
    name: str
    terms: Terms
    hold_time_s: int
    is_guarded: bool = False
    """TCP-MD5, GTSM."""
    has_bfd: bool = False
    has_third: bool = False
    """Everybody reflects to everybody, add-path, IPv4 over IPv6 next hops."""


EXTERNAL = Setting("external", Terms(65001, 65002), 6, is_guarded=True, has_bfd=True)
INTERNAL = Setting("internal", Terms(65001, 65001, over_ipv6=True), 9, has_third=True, has_bfd=True)
RESTARTING = Setting("restarting", Terms(65001, 65002, restarts=True), 9)

"""The four peers, in the order of the table's columns."""

from __future__ import annotations

from matrix_bird import Bird
from matrix_exabgp import ExaBgp
from matrix_frr import Frr
from matrix_gobgp import GoBgp
from matrix_peer import Peer

PEERS: dict[str, type[Peer]] = {"FRR": Frr, "BIRD": Bird, "GoBGP": GoBgp, "ExaBGP": ExaBgp}

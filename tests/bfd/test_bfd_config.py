"""BFD profiles as an operator writes them."""

from __future__ import annotations

import msgspec
import pytest

from samepath.model.config import Bgp
from samepath.model.neighbor import BfdProfile


def test_defaults_are_the_ones_of_the_documentation() -> None:
    profile = BfdProfile()
    assert profile.receive_interval_ms == profile.transmit_interval_ms == 300
    assert profile.detect_multiplier == 3
    assert profile.minimum_ttl == 254
    assert profile.down_loses_forwarding


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("receive_interval_ms", 9, "10 to 60000"),
        ("transmit_interval_ms", 60_001, "10 to 60000"),
        ("detect_multiplier", 1, "2 to 255"),
        ("minimum_ttl", 255, "1 to 254"),
        ("echo_mode", True, "no echo function"),
        ("echo_receive_interval_ms", 50, "no echo function"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(field: str, value: int, said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert({field: value}, BfdProfile)


def test_a_neighbour_names_a_profile_that_is_there() -> None:
    data = {
        "router_id": "10.0.0.1",
        "as": 64512,
        "neighbors": [{"address": "10.0.0.2", "remote_as": 64512, "bfd": "fast"}],
    }
    with pytest.raises(msgspec.ValidationError, match=r"10\.0\.0\.2: bfd: no profile 'fast'"):
        msgspec.convert(data, Bgp)
    config = msgspec.convert({**data, "bfd_profiles": {"fast": {}}}, Bgp)
    assert config.bfd_profiles["fast"] == BfdProfile()


def test_what_is_too_fast_for_us_takes_bfdd() -> None:
    data = {
        "router_id": "10.0.0.1",
        "as": 64512,
        "neighbors": [],
        "bfd_profiles": {"fast": {"receive_interval_ms": 20}},
    }
    with pytest.raises(msgspec.ValidationError, match="fast: 20 ms: below 50 ms it takes bfdd"):
        msgspec.convert(data, Bgp)
    assert msgspec.convert({**data, "bfdd": "/run/frr/bfdd.sock"}, Bgp).bfdd

"""The gateway's fields of the BPF data plane: defaults, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from samepath.model.config import GatewayConfig

LEAST = {"router_id": "10.0.0.1", "as": 64512, "hash_seed": 7, "neighbors": []}


def config(**fields: Any) -> GatewayConfig:
    return msgspec.convert(LEAST | fields, GatewayConfig)


def test_the_kernels_groups_are_the_default() -> None:
    found = config()
    assert (found.dataplane, found.attach, found.attach_links) == ("kernel", "tc", [])
    assert found.transition_idle_s > found.idle_timer_s, "nobody waits for a transition to end"
    assert found.transition_deadline_s is None


@pytest.mark.parametrize("name", ["kernel", "plain", "bpf", "auto"])
def test_every_data_plane_has_its_name(name: str) -> None:
    assert config(dataplane=name).dataplane == name


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dataplane": "ebpf"}, "dataplane"),
        ({"attach": "skb"}, "attach"),
        ({"transition_idle_s": 0}, "transition_idle_s: more than 0"),
        ({"transition_deadline_s": -1}, "transition_deadline_s: more than 0"),
        ({"flow_table_entries": 1000}, "flow_table_entries: 1024 to"),
        ({"flow_table_entries": 1 << 27}, "flow_table_entries: 1024 to"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        config(**fields)

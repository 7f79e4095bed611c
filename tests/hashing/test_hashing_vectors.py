"""The published vectors: another implementation that agrees with them agrees with us.

A change of this file's results is a change of every table in the field: gateways of both versions
would disagree. docs/hashing.md describes the format.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from samepath.hashing.flow import Flow, bucket, local_hash, packet_hash
from samepath.hashing.table import Member, build, from_owners, member_key, score, shares
from samepath.model.net import address_text, parse_address

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("vectors.json").read_text())


def members_of(row: dict[str, Any]) -> list[Member]:
    return [Member(parse_address(text), weight) for text, weight in row["members"].items()]


def test_scores() -> None:
    for row in VECTORS["score"]:
        member = parse_address(row["member"])
        assert f"{member_key(member, row['seed']):016x}" == row["key"]
        assert f"{score(member, row['bucket'], row['seed']):016x}" == row["score"]


def test_shares() -> None:
    for row in VECTORS["shares"]:
        parts = shares(members_of(row), row["buckets"])
        assert {address_text(m): part for m, part in parts.items()} == row["shares"]


@pytest.mark.parametrize("row", VECTORS["tables"], ids=lambda row: row["digest"])
def test_tables(row: dict[str, Any]) -> None:
    table = build(members_of(row), row["buckets"], row["seed"])
    assert table.digest == row["digest"]
    assert [address_text(owner) for owner in table.addresses()[:8]] == row["first_owners"]
    assert from_owners(table.addresses()).digest == row["digest"]


def test_flows() -> None:
    for row in VECTORS["flows"]:
        flow = Flow(
            parse_address(row["source"]),
            parse_address(row["destination"]),
            row["protocol"],
            row["source_port"],
            row["destination_port"],
        )
        assert packet_hash(flow, row["seed"]) == row["packet_hash"]
        assert local_hash(flow, row["seed"]) == row["local_hash"]
        assert bucket(flow, row["seed"], 1021) == row["bucket_of_1021"]

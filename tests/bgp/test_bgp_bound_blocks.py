"""Pod blocks that the cluster says whose they are: nobody else has them, whoever comes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from test_bgp_ownership import A, B, C, held, refused, rib, take_back, tell

from samepath.bgp.policy import Reason
from samepath.bgp.rib import Rib
from samepath.model.net import Address, Family, Nlri, address_text, parse_prefix, prefix_text


def claims(**blocks: bytes) -> dict[tuple[Family, Nlri], Address]:
    """`b2=A`: 10.244.2.0/24 is A's."""
    return {parse_prefix(f"10.244.{name[1:]}.0/24"): Address(peer) for name, peer in blocks.items()}


def test_who_comes_first_does_not_count_where_a_claim_says_whose_it_is() -> None:
    table = rib(A, B)
    table.bind(claims(b2=B))
    tell(table, A, "10.244.2.0/24", "10.244.2.64/26", "10.244.0.0/16", "10.244.3.0/24")
    assert refused(table) == dict.fromkeys(
        ("10.244.2.0/24", "10.244.2.64/26", "10.244.0.0/16"), Reason.BLOCK_OF_ANOTHER
    )
    tell(table, B, "10.244.2.0/24", "10.244.2.64/26")
    assert held(table) == {
        "10.244.2.0/24": ["10.9.0.2"],
        "10.244.2.64/26": ["10.9.0.2"],
        "10.244.3.0/24": ["10.9.0.1"],
    }


def test_a_claim_that_becomes_known_later_sets_it_right_without_another_word_of_theirs() -> None:
    table = rib(A, B, C)
    tell(table, A, "10.244.2.0/24", "10.244.3.0/24", "10.244.4.0/24")
    tell(table, B, "10.244.2.0/24", "10.244.3.0/24")
    tell(table, C, "10.244.4.0/24")
    table.take_changed()
    table.bind(claims(b2=B, b3=A))
    assert held(table) == {
        "10.244.2.0/24": ["10.9.0.2"],
        "10.244.3.0/24": ["10.9.0.1"],
        "10.244.4.0/24": ["10.9.0.1"],
    }
    assert {prefix_text(Family.IPV4, n) for n in table.take_changed()[Family.IPV4]} == {
        "10.244.2.0/24"
    }


def test_a_claim_that_is_deleted_takes_nothing_from_who_has_the_block() -> None:
    table = rib(A, B)
    table.bind(claims(b2=A))
    tell(table, A, "10.244.2.0/24")
    tell(table, B, "10.244.2.0/24")
    table.take_changed()
    table.bind({})
    assert held(table) == {"10.244.2.0/24": ["10.9.0.1"]}
    assert not table.is_changed
    take_back(table, A, "10.244.2.0/24")
    assert held(table) == {"10.244.2.0/24": ["10.9.0.2"]}


BLOCKS = [f"10.244.{i}.0/24" for i in range(4)] + ["10.244.0.0/23", "10.244.0.128/25"]
STEPS = st.one_of(
    st.tuples(st.just("bind"), st.dictionaries(st.sampled_from(BLOCKS), st.sampled_from((A, B)))),
    st.tuples(st.just("tell"), st.sampled_from((A, B)), st.sampled_from(BLOCKS)),
    st.tuples(st.just("take_back"), st.sampled_from((A, B)), st.sampled_from(BLOCKS)),
    st.tuples(st.just("down"), st.sampled_from((A, B))),
)


def _do(table: Rib, step: tuple[object, ...]) -> None:
    match step:
        case ("bind", dict() as said):
            table.bind({parse_prefix(text): Address(peer) for text, peer in said.items()})
        case ("tell", bytes() as peer, str() as text):
            tell(table, peer, text)
        case ("take_back", bytes() as peer, str() as text):
            take_back(table, peer, text)
        case ("down", bytes() as peer):
            table.peer_down(peer)
            table.peer_up(peer, external=False, router_id=peer[3], rule=RULE_OF, asn=64512)


RULE_OF = next(iter(rib(A)._peers.values())).rule


@given(st.lists(STEPS, max_size=25), st.dictionaries(st.sampled_from(BLOCKS[:4]), st.just(B)))
def test_whatever_came_before_nobody_has_anothers_block(
    steps: list[tuple[object, ...]], last: dict[str, bytes]
) -> None:
    table = rib(A, B)
    for step in steps:
        _do(table, step)
    table.bind({parse_prefix(text): Address(peer) for text, peer in last.items()})
    for text, owners in held(table).items():
        assert len(owners) == 1, f"{text}: {owners}"
        if text in last:
            assert owners == [address_text(last[text])]
    for text, peer in last.items():
        tell(table, peer, text)
        assert held(table)[text] == [address_text(peer)]

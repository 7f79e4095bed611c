"""What a prefix is under import rules, beside the standard library's own arithmetic."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from samepath.bgp.policy import MARTIANS, ImportRule, Meaning, Reason
from samepath.model.neighbor import Import, Kind
from samepath.model.net import Family, Nlri, make_nlri, prefix_text

KINDS: tuple[Kind, ...] = ("services", "pods", "routes")


@st.composite
def prefixes(draw: st.DrawFn, family: Family) -> Nlri:
    """Close together, so that they often lie within one another."""
    length = draw(st.integers(0, family.bits))
    octets = draw(st.lists(st.sampled_from((0, 1, 128, 255)), min_size=2, max_size=2))
    return make_nlri(bytes(octets).ljust(family.octets, b"\1"), length)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Family, dict[Kind, list[Nlri]], list[Nlri]]:
    family = draw(st.sampled_from(Family))
    some = st.lists(prefixes(family), max_size=4)
    return family, {kind: draw(some) for kind in KINDS}, draw(st.lists(prefixes(family)))


def expected(family: Family, rules: dict[Kind, list[Nlri]], nlri: Nlri) -> Meaning:
    """The longest rule that the prefix lies in; of equal ones in the order of `KINDS`, and what is
    not routed behind them."""
    inner = ipaddress.ip_network(prefix_text(family, nlri))
    texts = [
        (prefix_text(family, rule), kind) for kind in KINDS for rule in rules.get(kind, ())
    ] + [(text, Reason.MARTIAN) for text in MARTIANS[family]]
    found = [
        (-outer.prefixlen, i)
        for i, (text, _) in enumerate(texts)
        if inner.subnet_of(outer := ipaddress.ip_network(text))  # type: ignore[arg-type]
    ]
    kind = texts[min(found)[1]][1] if found else Reason.NOT_ALLOWED
    is_default = not inner.prefixlen and found
    return Reason.DEFAULT_ROUTE if is_default and kind != "routes" else kind


@given(cases())
def test_a_block_is_parted_as_its_prefixes_lie_in_the_rules(
    case: tuple[Family, dict[Kind, list[Nlri]], list[Nlri]],
) -> None:
    family, rules, block = case
    texts = {kind: [prefix_text(family, n) for n in of] for kind, of in rules.items()}
    rule = ImportRule(Import(**texts))  # type: ignore[arg-type]
    for _ in range(2):  # also from memory
        parts = rule.classify(family, block)
        assert sorted(n for _, part in parts for n in part) == sorted(block)
        for kind, part in parts:
            assert [expected(family, rules, n) for n in part] == [kind] * len(part)


def test_a_block_of_one_kind_is_handed_back_as_it_is() -> None:
    rule = ImportRule(Import(services=["10.0.0.0/8"]))
    block = tuple(make_nlri(bytes((10, i, 0, 0)), 16) for i in range(200))
    [(kind, part)] = rule.classify(Family.IPV4, block)
    assert kind == "services"
    assert part is block

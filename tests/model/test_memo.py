"""Made again only where the input is another, and always as if it were made for the first time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from samepath.kube.objects import object_key
from samepath.model.cluster import (
    Cluster,
    Endpoint,
    EndpointSlice,
    Node,
    Object,
    Service,
    make_cluster,
    remake_cluster,
)
from samepath.model.kinds import Secret
from samepath.model.memo import Memo, changed
from samepath.model.net import Family

TABLES = st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2)), min_size=1)


@given(TABLES, TABLES, st.lists(st.integers(0, 1)))
def test_a_memo_changes_no_result(
    firsts: list[dict[str, int]], seconds: list[dict[str, int]], alsos: list[int]
) -> None:
    memo: Memo[str, tuple[int, int | None, int]] = Memo()
    former: object = None
    for first, second, also in zip(firsts, seconds, [*alsos, *([0] * len(firsts))], strict=False):

        def make(
            key: str, f: dict[str, int] = first, s: dict[str, int] = second, a: int = also
        ) -> tuple[int, int | None, int]:
            return f[key], s.get(key), a

        made = memo.update(make, (first, second), also)
        assert made == {key: make(key) for key in first}
        assert made is memo.update(make, (dict(first), dict(second)), also)
        if former == made:
            assert former is made
        former = made


def test_only_what_has_changed_is_made_again() -> None:
    asked: list[str] = []
    memo: Memo[str, str] = Memo()

    def make(key: str) -> str:
        asked.append(key)
        return key

    memo.update(make, ({"a": 1, "b": 1},))
    asked.clear()
    memo.update(make, ({"a": 1, "b": 2, "c": 1},))
    assert sorted(asked) == ["b", "c"]
    assert changed({"a": 1, "b": 1}, {"b": 1, "c": 1}) == {"a", "c"}


def _slice(name: str, service: str, pods: int) -> EndpointSlice:
    ends = tuple(Endpoint(bytes((10, 0, 0, number))) for number in range(pods))
    return EndpointSlice("default", name, service, Family.IPV4, (), ends)


THINGS: st.SearchStrategy[Object] = st.one_of(
    st.builds(Node, st.sampled_from(("n1", "n2")), addresses=st.sampled_from(((), (b"abcd",)))),
    st.builds(
        Service,
        st.just("default"),
        st.sampled_from(("web", "dns")),
        affinity=st.booleans(),
    ),
    st.builds(_slice, st.sampled_from("abc"), st.sampled_from(("web", "dns")), st.integers(0, 2)),
    st.builds(
        Secret, namespace=st.just("default"), name=st.just("s"), password=st.sampled_from("ab")
    ),
)


@given(st.lists(st.lists(THINGS, max_size=8), min_size=1))
def test_a_cluster_remade_is_the_cluster_made(worlds: list[list[Object]]) -> None:
    old: dict[str, Object] = {}
    cluster = Cluster()
    for things in worlds:
        new = {object_key(thing): thing for thing in things}
        former, cluster = cluster, remake_cluster(cluster, old, new)
        assert cluster == make_cluster(new.values())
        if former.nodes == cluster.nodes:
            assert former.nodes is cluster.nodes
        old = new

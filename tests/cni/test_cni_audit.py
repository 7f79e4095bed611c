"""What is found where store, kernel and blocks disagree, and what is done about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from samepath.cni import audit
from samepath.cni.audit import Adopt, Finding, Problem, Release, RemoveLink, RemoveRoute
from samepath.cni.blocks import Blocks
from samepath.cni.ipam import examine, read_kernel, rebuild_from_kernel, report
from samepath.cni.store import (
    Attachment,
    State,
    Store,
    StoreCorrupt,
    alias_of,
    host_link_name,
)
from samepath.model.cluster import Cluster, Node, make_cluster
from samepath.model.net import Family, address_text, host_nlri, parse_address, parse_prefix
from samepath.netlink.fake import FakeKernel
from samepath.netlink.objects import Link, Neighbor, Route
from samepath.netlink.ops import PutNeighbor, PutRoute, SetLink
from samepath.plan.addresses import Block
from samepath.plan.blocks import Origin, OwnBlock, Situation

NOW = 1_800_000_000.0
OWN = (OwnBlock(Block(*parse_prefix("10.1.0.0/24")), Origin.NODE),)


def attachment(number: int, *, wired: bool = True, made_at: float = NOW - 3600) -> Attachment:
    key = f"c{number}", "eth0"
    state = State.WIRED if wired else State.RESERVED
    address = parse_address(f"10.1.0.{number}")
    return Attachment(
        key, "pods", (address,), b"\2" * 6, host_link_name(key), "", f"d/web-{number}", made_at,
        "boot", state,
    )  # fmt: skip


def link(number: int, *, key: tuple[str, str] | None = None) -> Link:
    key = key or (f"c{number}", "eth0")
    return Link(number, host_link_name(key), True, True, 1500, b"\xee" * 6, "veth", alias_of(key))


def route(number: int, by: int | None = None) -> Route:
    address = parse_address(f"10.1.0.{number}")
    return Route(Family.IPV4, host_nlri(address), oif=number if by is None else by, metric=1)


def check(
    attachments: list[Attachment],
    links: list[Link],
    routes: list[Route],
    neighbors: list[Neighbor] | None = None,
) -> list[Finding]:
    view = audit.kernel_view(links, routes, neighbors or [])
    return list(audit.check(attachments, view, OWN, now=NOW, boot_id="boot"))


def test_in_order() -> None:
    other = Link(9, "eth0", True, True, 1500, b"", "", "uplink of rack 5")
    assert check([attachment(1)], [link(1), other], [route(1)]) == []


def test_attachments_without_a_link() -> None:
    gone = attachment(1)
    (finding,) = check([gone], [], [])
    assert finding.problem is Problem.NO_LINK
    assert finding.fix == Release(gone)
    assert finding.subject == "d/web-1 (c1 eth0)"


def test_what_is_on_its_way_is_left_alone() -> None:
    fresh = attachment(1, wired=False, made_at=NOW - 10)
    assert check([fresh], [], []) == []
    assert check([fresh], [link(1)], []) == []
    old = attachment(1, wired=False)
    (finding,) = check([old], [], [])
    assert (finding.problem, finding.fix) == (Problem.UNFINISHED, Release(old))


def test_links_without_an_attachment() -> None:
    mac = b"\2\0\0\0\0\7"
    (finding,) = check([], [link(7)], [route(7)], [Neighbor(7, route(7).nlri[1:], 128, mac)])
    assert finding.problem is Problem.LINK_UNKNOWN
    assert isinstance(finding.fix, Adopt)
    made = finding.fix.attachment
    assert (made.key, made.addresses, made.mac) == (("c7", "eth0"), (route(7).nlri[1:],), mac)
    (finding,) = check([], [link(7)], [])
    assert (finding.problem, finding.fix) == (
        Problem.LINK_EMPTY,
        RemoveLink(("c7", "eth0"), link(7)),
    )


def test_doubles() -> None:
    stray = replace(route(1), oif=8, metric=5)
    (finding,) = check([attachment(1)], [link(1), link(8)], [route(1), stray])
    assert (finding.problem, finding.fix) == (Problem.ADDRESS_TWICE, None)
    assert "10.1.0.1 of c8 eth0 is also that of d/web-1" in finding.text
    (finding,) = check([attachment(1)], [link(1)], [route(1), stray])
    assert finding.fix == RemoveRoute(stray, ("c1", "eth0"))
    found = check([attachment(1)], [link(1)], [stray])
    assert [f.problem for f in found] == [Problem.NO_ROUTE, Problem.ADDRESS_TWICE]
    assert [f.fix for f in found] == [None, None]


def test_routes_without_an_attachment() -> None:
    (finding,) = check([attachment(1)], [link(1)], [route(1), route(2, 1)])
    assert (finding.problem, finding.fix) == (Problem.ROUTE_UNKNOWN, RemoveRoute(route(2, 1)))
    others = [
        replace(route(3), protocol=4),
        replace(route(3), gateway=parse_address("10.0.0.1")),
        replace(route(3), nexthop_id=5),
        Route(*parse_prefix("10.2.0.0/26"), oif=1),
    ]
    assert check([attachment(1)], [link(1)], [route(1), *others]) == []


def test_addresses_outside_of_our_blocks() -> None:
    far = replace(attachment(1), addresses=(parse_address("10.9.0.1"),))
    away = replace(route(1), nlri=host_nlri(parse_address("10.9.0.1")))
    (finding,) = check([far], [link(1)], [away])
    assert (finding.problem, finding.fix) == (Problem.OUTSIDE_BLOCKS, None)
    assert "10.9.0.1 is in none of this node's blocks" in finding.text


def test_owners_of_blocks() -> None:
    nodes = [Node("n1", (parse_prefix("10.1.0.0/24"),)), Node("n2")]
    claims = {
        Block(*parse_prefix("10.1.0.64/26")): "n2",
        Block(*parse_prefix("10.5.0.0/26")): "n9",
        Block(*parse_prefix("10.5.0.64/26")): "n1",
    }
    found = audit.check(
        [], audit.Kernel(), OWN, Situation(make_cluster(nodes), "n1", (), claims), now=NOW
    )
    assert [(f.problem, f.subject) for f in found] == [
        (Problem.BLOCK_TWICE, "block 10.1.0.64/26"),
        (Problem.BLOCK_OWNER_UNKNOWN, "block 10.5.0.0/26"),
    ]
    assert "n1 has 10.1.0.0/24, n2 has 10.1.0.64/26" in found[0].text


def test_what_changes_while_we_look_is_left_out() -> None:
    view = audit.kernel_view([link(1), link(2), link(4)], [route(1), route(2), route(4)], [])
    before = [attachment(1), attachment(3), attachment(4)]
    after = [attachment(1), attachment(2), replace(attachment(4), made_at=NOW)]
    # 2 came, 3 went, 4 was made anew; of all three the kernel tells something else.
    attachments, kernel = audit.settled(before, view, after)
    assert attachments == (attachment(1),)
    assert audit.check(attachments, kernel, OWN, now=NOW) == ()
    late = audit.kernel_view([link(1)], [route(1), route(2)], [])
    attachments, kernel = audit.settled(before, late, after)
    assert audit.check(attachments, kernel, OWN, now=NOW) == ()


# -- Over a store and a kernel -----------------------------------------------------------------


class Site:
    """A store with pods 1 and 2, and a kernel that has them wired."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "attachments.db"
        self.store = Store(self.path, "boot")
        self.kernel = FakeKernel()
        configured = [Block(*parse_prefix("10.1.0.0/24"))]
        self.blocks = Blocks(self.store, "n1", configured)
        self.blocks.renew(Cluster())
        for number in (1, 2):
            self.store.wired(self.store.reserve(attachment(number)).key)
            self.wire(number)

    def wire(self, number: int, *, routed: bool = True) -> int:
        key = f"c{number}", "eth0"
        index = self.kernel.add_link(host_link_name(key))
        ops = [SetLink(index, alias=alias_of(key))]
        address = parse_address(f"10.1.0.{number}")
        if routed:
            ops += [
                PutRoute(Route(Family.IPV4, host_nlri(address), oif=index, metric=1)),
                PutNeighbor(Neighbor(index, address, 128, bytes((2, 0, 0, 0, 0, number)))),
            ]
        assert self.kernel.apply(ops) == [None] * len(ops)
        return index

    def problems(self, *, fix: bool = False) -> dict[str, str]:
        answer = examine(self.store, self.blocks, self.kernel, fix=fix)
        return {row["problem"]: row["fixed"] for row in answer["findings"]}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_what_can_be_mended_is(site: Site) -> None:
    assert site.problems() == {}
    site.store.wired(site.store.reserve(attachment(3)).key)  # no link
    site.wire(4)  # no attachment
    empty = site.wire(5, routed=False)
    first = site.kernel.link(host_link_name(("c1", "eth0")))
    assert first is not None
    site.kernel.apply([PutRoute(route(6, first.index))])
    expected = {
        "NO_LINK": "dropped, its addresses are free",
        "LINK_UNKNOWN": "taken into the store",
        "LINK_EMPTY": "removed",
        "ROUTE_UNKNOWN": "removed",
    }
    assert site.problems() == dict.fromkeys(expected, "")
    assert site.problems(fix=True) == expected
    assert site.problems() == {}
    assert {a.key[0] for a in site.store.all()} == {"c1", "c2", "c4"}
    assert site.kernel.link(empty) is None


def test_what_has_changed_meanwhile_is_left_alone(site: Site) -> None:
    from samepath.cni.ipam import mend

    gone = site.store.get(("c1", "eth0"))
    assert gone is not None
    site.store.release(gone.key)
    again = site.store.reserve(replace(attachment(1), made_at=NOW))
    assert mend(site.store, site.kernel, Release(gone)) == "has changed since"
    found = site.kernel.link(host_link_name(again.key))
    assert found is not None
    assert mend(site.store, site.kernel, RemoveLink(again.key, found)) == "has changed since"
    assert mend(site.store, site.kernel, RemoveRoute(route(1))) == "has changed since"
    said = mend(site.store, site.kernel, Adopt(replace(attachment(9), addresses=again.addresses)))
    assert said == "not done: 10.1.0.1 is c1 eth0's"
    assert site.store.get(again.key) == again


def test_a_damaged_store_is_made_anew_from_the_kernel(site: Site) -> None:
    site.store.close()
    octets = site.path.read_bytes()
    damaged = octets[: len(octets.rstrip(b"\0")) - 2] + b"x" + bytes(100_000)
    site.path.write_bytes(damaged)
    with pytest.raises(StoreCorrupt):
        Store(site.path, "boot")
    site.wire(5)
    aside, found = rebuild_from_kernel(site.path, "boot", site.kernel)
    assert aside.read_bytes() == damaged
    assert found == ["c1 eth0", "c2 eth0", "c5 eth0"]
    store = Store(site.path, "boot")
    assert [address_text(a.addresses[0]) for a in store.all()] == [
        "10.1.0.1",
        "10.1.0.2",
        "10.1.0.5",
    ]
    assert [a.pod for a in store.all()] == ["d/web-1", "d/web-2", ""]
    assert {a.state for a in store.all()} == {State.WIRED}
    assert store.all()[2].mac == bytes((2, 0, 0, 0, 0, 5))
    blocks = Blocks(store, "n1", [Block(*parse_prefix("10.1.0.0/24"))])
    blocks.renew(Cluster())
    assert examine(store, blocks, site.kernel) == {"attachments": 3, "findings": []}


def test_what_is_shown(site: Site) -> None:
    answer = report(site.store, site.blocks)
    assert answer["node"] == "n1"
    (row,) = answer["blocks"]
    assert (row["block"], row["in_use"], row["free"]) == ("10.1.0.0/24", 2, 253)
    assert [a["addresses"] for a in answer["attachments"]] == [["10.1.0.1"], ["10.1.0.2"]]
    assert answer["trouble"] == []
    assert len(read_kernel(site.kernel).links) == 2

"""natOutgoing, with real packets: whom a server sees outside, on another node, in another pod."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "apply"))

from flows import Client, Server
from pod_nodes import OUTSIDE, Site, address, block, pod_address, until

pytestmark = [pytest.mark.netns, pytest.mark.timeout(360)]

PORT = 8080


@pytest.fixture(params=["nftables", "none"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Two nodes in a mesh, their pods, and servers everywhere."""
    site = Site(tmp_path)
    try:
        for number in (1, 2):
            site.node(number)
            site.pod(number, 1)
            site.configure(number, serviceProxy=request.param)
            site.node_object(number)
        site.router()
        for name, host in site.hosts.items():
            if name in ("outside", "n1", "n2", "p1-1", "p2-1"):
                site.closing.callback(Server(host, name, PORT).stop)
        yield site
    finally:
        for path in sorted(tmp_path.glob("*.log")):
            print(path.name, path.read_text()[-2500:])
        site.down()


def up(site: Site) -> None:
    for number in (1, 2):
        site.start(number)
    for here, there in ((1, 2), (2, 1)):
        for family in (0, 1):
            text = block(there, family)
            until(lambda h=here, t=text: t in site.routes(h))  # type: ignore[misc]


def client(site: Site, name: str) -> Client:
    made = Client(site.hosts[name])
    site.closing.callback(made.stop)
    return made


def seen(pod: Client, target: str) -> str:
    return pod.source(target, PORT)


def test_who_is_seen(site: Site) -> None:
    site.pools(natOutgoing=True)
    up(site)
    pod, outside = client(site, "p1-1"), client(site, "outside")
    until(lambda: site.status(1)["rules"]["in_place"] and site.status(1)["rules"]["kernel"])
    for family in (0, 1):
        mine = pod_address(1, 1, family)
        assert seen(pod, OUTSIDE[family]) == address(1, family)
        assert pod.udp(OUTSIDE[family], PORT) == "outside"
        # To pods and to the own node: as it is. To another node, which is in no pool: as the node.
        assert seen(pod, pod_address(2, 1, family)) == mine
        assert seen(pod, address(1, family)) == mine
        assert seen(pod, address(2, family)) == address(1, family)
        # Whoever comes from outside is answered by the pod, and seen as who he is.
        assert outside.open(f"in{family}", mine, PORT) == "p1-1"
        assert seen(outside, mine) == OUTSIDE[family]
    # Pools without: a disabled one is a pool all the same.
    site.pools(natOutgoing=False, disabled=True)
    for family in (0, 1):
        until(lambda f=family: seen(pod, OUTSIDE[f]) == pod_address(1, 1, f))  # type: ignore[misc]
        assert seen(pod, pod_address(2, 1, family)) == pod_address(1, 1, family)
        assert outside.echo(f"in{family}") == "p1-1"


def test_a_packet_out_of_window_ends_no_connection(site: Site) -> None:
    """Conntrack calls it invalid and does not translate it: outside nobody knows its source, and
    the reset that it gets would end the pod's connection."""
    site.pools(natOutgoing=True)
    up(site)
    pod = client(site, "p1-1")
    until(lambda: seen(pod, OUTSIDE[0]) == address(1, 0))
    assert pod.open("living", OUTSIDE[0], PORT) == "outside"
    for strict in (False, True):
        if strict:  # the agent has set it otherwise
            site.hosts["n1"].sysctl(net__netfilter__nf_conntrack_tcp_be_liberal=0)
        assert pod.stray("living") == "sent"
        assert pod.echo("living") == "outside"


def test_a_change_of_the_pool_breaks_no_connection(site: Site) -> None:
    """In each direction, whatever the pools said when it was opened."""
    up(site)
    pod, outside = client(site, "p1-1"), client(site, "outside")
    opened: list[tuple[Client, str]] = []

    def open_more(when: str) -> None:
        for family in (0, 1):
            assert pod.open(f"{when}{family}", OUTSIDE[family], PORT) == "outside"
            assert outside.open(f"{when}{family}", pod_address(1, 1, family), PORT) == "p1-1"
            opened.extend(((pod, f"{when}{family}"), (outside, f"{when}{family}")))

    def all_live() -> None:
        for side, name in opened:
            assert side.echo(name) in ("outside", "p1-1"), name

    open_more("no pools")
    for turn, nat in enumerate((True, False, True)):
        site.pools(natOutgoing=nat)
        wanted = [address(1, f) if nat else pod_address(1, 1, f) for f in (0, 1)]
        until(lambda w=wanted: [seen(pod, OUTSIDE[f]) for f in (0, 1)] == w)  # type: ignore[misc]
        all_live()
        open_more(f"turn {turn} {nat}")
        all_live()
    # An agent that is killed takes nothing with it; the next one adopts what it finds.
    table = site.hosts["n1"].run("nft", "-a", "list", "table", "inet", "samepath")
    site.kill(1)
    assert seen(pod, OUTSIDE[0]) == address(1, 0)
    all_live()
    site.start(1)
    until(lambda: site.status(1)["rules"]["in_place"] and site.status(1)["in_sync"]["routes"])
    assert site.hosts["n1"].run("nft", "-a", "list", "table", "inet", "samepath") == table
    all_live()


def test_rules_that_somebody_removed_come_back(site: Site) -> None:
    site.pools(natOutgoing=True)
    up(site)
    pod = client(site, "p1-1")
    until(lambda: seen(pod, OUTSIDE[1]) == address(1, 1))
    site.hosts["n1"].run("nft", "flush", "ruleset")
    until(lambda: seen(pod, OUTSIDE[1]) == address(1, 1))
    (site.manifests / "pools.yaml").unlink()
    until(lambda: seen(pod, OUTSIDE[1]) == pod_address(1, 1, 1))
    if "serviceProxy: none" in (site.folder / "agent1.yaml").read_text():
        until(lambda: "samepath" not in site.hosts["n1"].run("nft", "list", "tables"))

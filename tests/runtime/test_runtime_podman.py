"""podman gives its containers their network through the plugin, on several nodes at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from samepath.lab.state import wait
from tests.runtime.podman import PodmanError
from tests.runtime.site import Site, finish, succeeds

pytestmark = [pytest.mark.lab, pytest.mark.timeout(360)]

NODES = ("n1", "n2")
MANY = 50


@pytest.fixture(autouse=True)
def nothing_stays(site: Site) -> Iterator[None]:
    """Whatever a test does, its containers leave no trace."""
    before = {node: site.snapshot(node) for node in NODES}
    yield
    for node in NODES:
        site.podman(node).remove_all()
    assert {node: site.snapshot(node) for node in NODES} == before


def serve(site: Site, node: str, name: str, *options: str) -> tuple[str, str]:
    """A container with a web server. Its addresses."""
    podman = site.podman(node)
    podman.run(name, "httpd", "-f", "-h", "/bin", "-p", "80", options=options)
    return podman.addresses(name)[name]


def fetch(address: str, port: int = 80) -> list[str]:
    """The command that fetches a file from one of our servers."""
    ask = "printf 'GET /busybox HTTP/1.0\\r\\n\\r\\n'"
    return ["sh", "-c", f"{ask} | busybox nc -w 2 {address} {port} | busybox grep -q '200 OK'"]


def test_containers_on_two_nodes_reach_each_other(site: Site) -> None:
    here, there = serve(site, "n1", "a"), serve(site, "n2", "b")
    assert len({*here, *there}) == 4
    a = site.podman("n1")
    for address in there:
        wait(succeeds(site.node("n1"), "ping", "-c1", "-W1", address), 10, f"n1 to reach {address}")
        a("exec", "a", *fetch(address))
        a("exec", "a", "ping", "-c1", "-W2", address)
    for address in (*here, *there):
        for host_name in ("n1", "gw1", "client1"):
            reaches = succeeds(site.node(host_name), "ping", "-c1", "-W1", address)
            wait(reaches, 10, f"{host_name} to reach {address}")


def test_the_server_sees_the_containers_own_address(site: Site) -> None:
    """Between pods nothing is masqueraded, in both families."""
    a, b = site.podman("n1"), site.podman("n2")
    mine = serve(site, "n1", "a")
    b.run("b", "sh", "-c", "exec httpd -f -vv -h /bin -p 80 2>&1")
    for source, target in zip(mine, b.addresses("b")["b"], strict=True):
        wait(succeeds(site.node("n1"), "ping", "-c1", "-W1", target), 10, f"n1 to reach {target}")
        a("exec", "a", *fetch(target))
        wait(lambda source=source: f"{source}]" in b("logs", "b"), 5, f"{source} in its log")


def test_a_port_is_published(site: Site) -> None:
    """By the reference `portmap` behind us in the chain: it works on our result."""
    serve(site, "n1", "a", "--publish", "8080:80")
    serve(site, "n2", "b")
    node = site.lab.topology.node("n1")
    for address in (node.segment4, node.segment6):
        for host in ("n2", "gw1"):
            site.node(host).run(*fetch(address, 8080))
        site.podman("n2")("exec", "b", *fetch(address, 8080))


def test_bandwidth_limits_our_link(site: Site) -> None:
    """The reference `bandwidth` finds the node's end of the link in our result."""
    serve(site, "n1", "a")
    queues = site.node("n1").run("tc", "qdisc")
    assert "tbf" in queues


def test_50_containers_side_by_side(site: Site) -> None:
    starting = {
        (NODES[i % 2], f"c{i}"): site.podman(NODES[i % 2]).popen(
            *site.podman(NODES[i % 2]).run_words(f"c{i}", "sleep", "600")
        )
        for i in range(MANY)
    }
    for process in starting.values():
        finish(process, 90)
    addresses = [
        address
        for node in NODES
        for pair in site.podman(node).addresses(*(n for on, n in starting if on == node)).values()
        for address in pair
    ]
    assert len(set(addresses)) == 2 * MANY
    for address in addresses[:12]:
        reaches = succeeds(site.node("n3"), "ping", "-c1", "-W1", address)
        wait(reaches, 10, f"n3 to reach {address}")
    ending = [site.podman(node).popen("rm", "-f", "-t", "0", name) for node, name in starting]
    for process in ending:
        finish(process, 90)


def test_an_address_that_is_asked_for(site: Site) -> None:
    """podman passes it by the capability `ips`; one that is taken is refused, and nothing stays."""
    free, _ = serve(site, "n1", "a")
    site.podman("n1")("rm", "-f", "-t", "0", "a")
    assert serve(site, "n1", "b", "--ip", free)[0] == free
    with pytest.raises(PodmanError, match=free):
        serve(site, "n1", "c", "--ip", free)

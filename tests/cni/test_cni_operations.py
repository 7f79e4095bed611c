"""ADD, DEL, CHECK, GC and STATUS, on a node of its own with real namespaces."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import ENOENT
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cni_stage import Stage, own_blocks, request, within

from samepath.cni import wiring
from samepath.cni.attachment import Key, State, alias_of, host_link_name
from samepath.cni.errors import CniError, Code
from samepath.cni.wiring import HOST_MAC, WiringError
from samepath.lab.netns import Namespace
from samepath.netlink.kernel import Kernel

pytestmark = [pytest.mark.netns, pytest.mark.timeout(360)]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as made, within(made.node):
        made.open()
        yield made


def addresses_of(answer: dict[str, Any]) -> list[str]:
    return [ip["address"].partition("/")[0] for ip in answer["ips"]]


def way_out(pod: Namespace) -> list[str]:
    """Links of the default routes, the best first."""
    found = json.loads(pod.ip("-j", "route", "show", "default"))
    return [r["dev"] for r in sorted(found, key=lambda r: r.get("metric", 0))]


# -- ADD


def test_add_tells_all_that_it_made(stage: Stage) -> None:
    answer = stage.ask("ADD", "one", dns={"nameservers": ["10.96.0.10"]})
    host, pod = answer["interfaces"]
    assert host["name"] == host_link_name(("one", "eth0"))
    assert (host["mac"], host["mtu"], "sandbox" in host) == (HOST_MAC.hex(":"), 1500, False)
    assert (pod["name"], pod["sandbox"]) == ("eth0", str(stage.pod("one").path))
    assert [(ip["address"], ip["gateway"], ip["interface"]) for ip in answer["ips"]] == [
        ("10.244.1.1/32", "169.254.1.1", 1),
        ("fd10:1::1/128", "fe80::ecee:eeff:feee:eeee", 1),
    ]
    assert answer["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
        {"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"},
    ]
    assert answer["dns"] == {"nameservers": ["10.96.0.10"]}
    (link,) = json.loads(stage.node.ip("-j", "link", "show", "dev", host["name"]))
    assert link["ifalias"] == alias_of(("one", "eth0"), "pods")
    assert stage.store.get(("one", "eth0")).state is State.WIRED


def test_pods_reach_each_other_at_once(stage: Stage) -> None:
    stage.ask("ADD", "server")
    listeners = []
    with within(stage.pod("server")):
        for family in (socket.AF_INET, socket.AF_INET6):
            listeners.append(socket.create_server(("", 8080), family=family, backlog=512))
    try:
        for number in range(30):
            name = f"c{number}"
            stage.ask("ADD", name)
            with within(stage.pod(name)):
                for address in ("10.244.1.1", "fd10:1::1"):
                    # Before a SYN that was lost would be sent again.
                    socket.create_connection((address, 8080), timeout=0.9).close()
    finally:
        for listener in listeners:
            listener.close()


def test_add_twice_is_refused_and_changes_nothing(stage: Stage) -> None:
    first = stage.ask("ADD", "one")
    before = stage.store.all(), stage.routes()
    refusal = stage.refusal("ADD", "one")
    assert refusal.code == Code.ALREADY_ATTACHED
    assert "10.244.1.1" in refusal.msg
    assert "DEL" in refusal.msg
    assert (stage.store.all(), stage.routes()) == before
    stage.ask("CHECK", "one", prevResult=first)


def test_an_interface_of_somebody_else_is_left_alone(stage: Stage) -> None:
    stage.pod("one").ip("link", "add", "eth0", "type", "veth", "peer", "name", "x")
    refusal = stage.refusal("ADD", "one")
    assert refusal.code == Code.INTERFACE_EXISTS
    assert "eth0" in refusal.msg
    assert stage.is_clean()
    assert "eth0" in stage.pod("one").ip("link")


def test_addresses_and_mac_that_are_asked_for(stage: Stage) -> None:
    answer = stage.ask(
        "ADD",
        "one",
        runtimeConfig={"ips": ["10.244.1.40", "fd10:1::28"], "mac": "02:00:00:00:00:99"},
    )
    assert addresses_of(answer) == ["10.244.1.40", "fd10:1::28"]
    assert answer["interfaces"][1]["mac"] == "02:00:00:00:00:99"
    taken = stage.refusal("ADD", "two", CNI_ARGS="IP=10.244.1.40")
    assert taken.code == Code.ADDRESS_TAKEN
    assert "one" in taken.msg
    assert stage.refusal("ADD", "two", CNI_ARGS="IP=192.0.2.1").code == Code.ADDRESS_NOT_OURS
    answer = stage.ask("ADD", "two", CNI_ARGS="IP=10.244.1.41")
    assert addresses_of(answer) == ["10.244.1.41", "fd10:1::1"]


def test_the_mac_is_the_same_for_the_same_attachment(stage: Stage) -> None:
    macs = set()
    for _ in range(2):
        macs.add(stage.ask("ADD", "one")["interfaces"][1]["mac"])
        stage.ask("DEL", "one")
    assert len(macs) == 1
    assert macs != {stage.ask("ADD", "two")["interfaces"][1]["mac"]}


def test_each_pod_reaches_the_node_by_link_local_addresses(stage: Stage) -> None:
    names = ("one", "two", "three")
    for name in names:
        stage.pod(name).sysctl(net__ipv6__conf__default__accept_dad=0)
        stage.ask("ADD", name)
    stage.ask("DEL", "two")
    for name in ("one", "three"):
        own = json.loads(stage.pod(name).ip("-j", "-6", "address", "show", "dev", "eth0"))
        known = [a for link in own for a in link.get("addr_info", [])]
        (address,) = (a["local"] for a in known if a.get("scope") == "link")
        where = ("-I", f"{address}%eth0", "fe80::ecee:eeff:feee:eeee%eth0")
        stage.pod(name).run("ping", "-c1", "-W1", *where)


def test_several_interfaces_of_a_pod(stage: Stage) -> None:
    first = stage.ask("ADD", "one")
    second = stage.ask("ADD", "one", "net1")
    assert "routes" not in second
    assert not any("gateway" in ip for ip in second["ips"])
    assert way_out(stage.pod("one")) == ["eth0", "net1"]
    for name, told in (("eth0", first), ("net1", second)):
        stage.ask("CHECK", "one", name, prevResult=told)
        address = addresses_of(told)[0]
        stage.node.ip("address", "replace", "192.0.2.1/32", "dev", "lo")
        stage.node.run("ping", "-c1", "-W1", address)
    stage.ask("DEL", "one", "net1")
    stage.ask("CHECK", "one", prevResult=first)
    stage.ask("DEL", "one")
    assert stage.is_clean()


def test_what_earlier_plugins_made_is_passed_on(stage: Stage) -> None:
    before = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "lo", "sandbox": "/x"}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}],
        "dns": {"nameservers": ["192.0.2.53"]},
    }
    answer = stage.ask("ADD", "one", cniVersion="1.0.0", prevResult=before)
    assert [i["name"] for i in answer["interfaces"]][::2] == ["lo", "eth0"]
    assert [ip["interface"] for ip in answer["ips"]] == [0, 2, 2]
    assert answer["dns"] == {"nameservers": ["192.0.2.53"]}
    stage.ask("CHECK", "one", cniVersion="1.0.0", prevResult=answer)


def test_the_mtu(stage: Stage) -> None:
    stage.operations.mtu = 1450
    assert stage.ask("ADD", "one")["interfaces"][1]["mtu"] == 1450
    assert stage.ask("ADD", "two", mtu=1400)["interfaces"][0]["mtu"] == 1400
    refusal = stage.refusal("ADD", "three", mtu=1000)
    assert refusal.code == Code.INVALID_CONFIG
    assert "1280" in refusal.msg
    assert len(stage.store.all()) == 2


def test_namespaces_that_cannot_be(stage: Stage) -> None:
    asked = request("ADD", "one", netns="/proc/self/ns/net")
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        with pytest.raises(CniError, match="node's own") as caught:
            stage.operations.answer(asked, own)
        assert caught.value.code == Code.INVALID_ENVIRONMENT
    finally:
        os.close(own)
    with pytest.raises(CniError, match="No such file") as caught:
        stage.operations.answer(asked, None, ENOENT)
    assert caught.value.code == Code.NAMESPACE_GONE
    assert stage.is_clean()


def test_a_pool_that_is_exhausted(stage: Stage) -> None:
    stage.operations.addresses.set_blocks(own_blocks("10.244.1.0/30"))
    for name in ("one", "two", "three"):
        stage.ask("STATUS", "", netns=False)
        stage.ask("ADD", name)
    refusal = stage.refusal("ADD", "four")
    assert refusal.code == Code.NO_ADDRESS
    assert "10.244.1.0/30" in refusal.msg
    status = stage.refusal("STATUS", "", netns=False)
    assert status.code == Code.NOT_AVAILABLE
    assert "10.244.1.0/30" in status.msg
    stage.ask("DEL", "two")
    stage.ask("STATUS", "", netns=False)
    assert addresses_of(stage.ask("ADD", "four")) == ["10.244.1.2"]


def test_before_the_blocks_are_known(stage: Stage) -> None:
    stage.ask("ADD", "one")
    stage.operations.trouble = CniError(Code.TRY_AGAIN_LATER, "not yet")
    assert stage.refusal("ADD", "two").code == Code.TRY_AGAIN_LATER
    assert stage.refusal("STATUS", "", netns=False).code == Code.NOT_AVAILABLE
    stage.ask("DEL", "one")
    assert stage.is_clean()


# -- DEL


def test_del_is_content_with_whatever_is_left(stage: Stage) -> None:
    for name in ("one", "two", "three"):
        stage.ask("ADD", name)
    stage.ask("DEL", "one")
    stage.ask("DEL", "one")
    stage.ask("DEL", "two", netns=False)
    stage.ask("DEL", "unknown", netns=False)
    stage.pods["three"].delete()
    stage.ask("DEL", "three", netns=False)
    assert stage.is_clean()


def test_an_address_that_was_released_is_the_last_to_come_again(stage: Stage) -> None:
    stage.operations.addresses.set_blocks(own_blocks("10.244.1.0/29"))
    seen = []
    for number in range(14):
        seen.append(addresses_of(stage.ask("ADD", f"c{number}"))[0])
        stage.ask("DEL", f"c{number}")
    assert seen == [f"10.244.1.{n}" for n in range(1, 8)] * 2


# -- CHECK


def test_check_says_what_differs(stage: Stage) -> None:
    told = stage.ask("ADD", "one")
    stage.ask("CHECK", "one", prevResult=told)
    stage.node.ip("route", "del", "10.244.1.1")
    refusal = stage.refusal("CHECK", "one", prevResult=told)
    assert refusal.code == Code.NOT_AS_ADDED
    assert "no route to 10.244.1.1" in refusal.msg
    stage.pod("one").ip("link", "del", "eth0")
    refusal = stage.refusal("CHECK", "one", prevResult=told)
    assert "the pod has no interface eth0" in refusal.details
    assert "the node has no interface" in refusal.details


def test_check_compares_with_what_the_runtime_remembers(stage: Stage) -> None:
    told = stage.ask("ADD", "one")
    other = json.loads(json.dumps(told))
    other["ips"][0]["address"] = "10.244.1.9/32"
    refusal = stage.refusal("CHECK", "one", prevResult=other)
    assert "10.244.1.9" in refusal.details
    assert "10.244.1.1" in refusal.details
    other = json.loads(json.dumps(told))
    other["interfaces"][1]["mac"] = "02:00:00:00:00:01"
    assert "MAC" in stage.refusal("CHECK", "one", prevResult=other).details
    assert stage.refusal("CHECK", "two", prevResult=told).code == Code.UNKNOWN_CONTAINER


# -- GC


def valid(*names: str) -> dict[str, Any]:
    return {
        "cni.dev/valid-attachments": [{"containerID": name, "ifname": "eth0"} for name in names]
    }


def test_gc_removes_what_is_not_valid_in_its_network(stage: Stage) -> None:
    told = {name: stage.ask("ADD", name) for name in ("one", "two")}
    stage.ask("ADD", "other", name="another")
    stage.ask("GC", "", netns=False, **valid("one"))
    assert {a.key[0] for a in stage.store.all()} == {"one", "other"}
    assert len(stage.links()) == 2
    stage.ask("CHECK", "one", prevResult=told["one"])
    stage.ask("GC", "", netns=False, **valid())
    assert [a.key[0] for a in stage.store.all()] == ["other"]
    stage.ask("GC", "", netns=False, name="another", **valid())
    assert stage.is_clean()


def test_gc_leaves_alone_what_is_being_added(tmp_path: Path) -> None:
    """The runtime's list is older than such an attachment."""
    reached, go_on = threading.Event(), threading.Event()

    def step(name: str) -> None:
        if name == "pod" and threading.current_thread().name == "adding":
            reached.set()
            assert go_on.wait(30)

    with Stage(tmp_path) as stage, within(stage.node):
        stage.open(step=step)
        stage.ask("ADD", "old")
        adding = threading.Thread(target=stage.ask, args=("ADD", "new"), name="adding")
        adding.start()
        assert reached.wait(30)
        stage.ask("GC", "", netns=False, **valid())
        go_on.set()
        adding.join(10)
        assert [a.key[0] for a in stage.store.all()] == ["new"]
        assert len(stage.links()) == 1
        assert len(stage.routes()) == 2


def test_gc_goes_on_past_an_error(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "three"):
        stage.ask("ADD", name)
    really = wiring.detach

    def detach(node: Kernel, key: Key) -> bool:
        if key[0] == "two":
            raise WiringError(wiring.Why.REFUSED, "no")
        return really(node, key)

    monkeypatch.setattr(wiring, "detach", detach)
    refusal = stage.refusal("GC", "", netns=False, **valid())
    assert "two eth0" in refusal.msg
    assert [a.key[0] for a in stage.store.all()] == ["two"]
    monkeypatch.undo()
    stage.ask("GC", "", netns=False, **valid())
    assert stage.is_clean()


def test_gc_removes_strays_but_no_link_of_another_network(stage: Stage) -> None:
    for name in ("one", "two"):
        stage.ask("ADD", name, name="pods" if name == "one" else "another")
        stage.store.release((name, "eth0"))
    stray = ("route", "add", "10.244.1.50/32", "dev", "lo", "proto", "83")
    stage.node.ip(*stray)
    stage.ask("GC", "", netns=False, **valid())
    assert stage.links() == [host_link_name(("two", "eth0"))]
    assert set(stage.routes().values()) == {host_link_name(("two", "eth0"))}


def test_gc_may_be_switched_off(stage: Stage) -> None:
    stage.ask("ADD", "one")
    stage.ask("GC", "", netns=False, disableGC=True, **valid())
    assert len(stage.store.all()) == 1


# -- Side by side


def test_many_at_once(stage: Stage) -> None:
    names = [f"c{number}" for number in range(32)]
    for name in names:
        stage.pod(name)
    for _ in range(2):
        with ThreadPoolExecutor(16) as pool:
            told = dict(zip(names, pool.map(lambda n: stage.ask("ADD", n), names), strict=True))
        given = [address for answer in told.values() for address in addresses_of(answer)]
        assert len(set(given)) == 64
        assert len(stage.routes()) == 64
        for name, answer in told.items():
            stage.ask("CHECK", name, prevResult=answer)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n: stage.ask("DEL", n), names))
        assert stage.is_clean()

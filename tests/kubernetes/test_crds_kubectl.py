"""Our kinds as people meet them: installed, explained, listed, and refused with a message, by the
real kubectl."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from samepath.kube.crds import KINDS, definitions

PAGE = Path(__file__).parents[2] / "docs" / "kubernetes-kinds.md"

Eventually = Callable[..., Any]


@pytest.fixture
def installed(cluster: Any, eventually: Eventually) -> Any:
    cluster.kubectl("apply", "--server-side", "-f", "-", given=yaml.safe_dump_all(definitions()))
    names = [f"crd/{kind.resource.full_name}" for kind in KINDS]
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=20s", *names)
    eventually(lambda: cluster.kubectl("get", "bgppeers.samepath.dev", check=False).returncode == 0)
    return cluster


def peer(cluster: Any, **spec: Any) -> dict[str, Any]:
    name = cluster.forget("bgppeers.samepath.dev", cluster.unique("tor"))
    usual = {"myASN": 64512, "peerASN": 64500, "peerAddress": "192.0.2.1"}
    return {
        "apiVersion": "samepath.dev/v1",
        "kind": "BGPPeer",
        "metadata": {"name": name},
        "spec": usual | spec,
    }


def refusal(cluster: Any, thing: dict[str, Any]) -> str:
    done = cluster.kubectl("apply", "-f", "-", given=yaml.safe_dump(thing), check=False)
    assert done.returncode != 0
    said: str = done.stderr
    return said


def test_a_peer_is_taken_filled_in_and_shown(installed: Any) -> None:
    thing = peer(installed, bfdProfile="fast")
    installed.apply(thing)
    stored = installed.get("bgpp", thing["metadata"]["name"])["spec"]
    assert (stored["holdTime"], stored["peerPort"], stored["disableMP"]) == ("90s", 179, False)
    head, row = installed.kubectl("get", "bgpp", thing["metadata"]["name"]).stdout.splitlines()
    columns = ["NAME", "ADDRESS", "ASN", "MY ASN", "BFD PROFILE", "AGE"]
    assert re.split(r"\s{2,}", head.strip()) == columns
    assert row.split()[1:5] == ["192.0.2.1", "64500", "64512", "fast"]


def test_refusals_are_for_people(installed: Any) -> None:
    for spec, said in (
        ({"peerAsn": 5}, 'unknown field "spec.peerAsn"'),
        ({"holdTime": "2s"}, "0s, or 3s to 65535s"),
        ({"vrf": "red"}, "VRFs are not supported"),
        ({"peerASN": 0}, "exactly one of peerASN and dynamicASN is given"),
        ({"peerAddress": "tor"}, "an IPv4 or IPv6 address"),
        ({"peerPort": 70000}, "should be less than or equal to 65535"),
    ):
        assert said in refusal(installed, peer(installed, **spec))


def test_a_pool_of_pods_keeps_its_cidr(installed: Any) -> None:
    name = installed.forget("ippools.samepath.dev", installed.unique("pods"))
    thing = {
        "apiVersion": "samepath.dev/v1",
        "kind": "IPPool",
        "metadata": {"name": name},
        "spec": {"cidr": "10.128.0.0/14", "blockSize": 26},
    }
    installed.apply(thing)
    wider = thing | {"spec": {"cidr": "10.128.0.0/13", "blockSize": 26}}
    assert "cidr cannot be changed: pods have its addresses" in refusal(installed, wider)
    smaller = thing | {"spec": {"cidr": "10.128.0.0/14", "blockSize": 27}}
    assert "blockSize cannot be changed" in refusal(installed, smaller)
    installed.apply(thing | {"spec": {**thing["spec"], "disabled": True}})  # type: ignore[dict-item]


def test_explain_tells_what_a_field_means(installed: Any) -> None:
    told = installed.kubectl("explain", "bgppeers.samepath.dev.spec.sourceAddress").stdout
    assert "Our own address of the session. Left out: the node's own choice." in told
    whole = installed.kubectl("explain", "ipaddresspools.samepath.dev.spec").stdout
    assert "serviceAllocation" in whole
    assert "-required-" in whole


def test_status_is_a_resource_of_its_own(installed: Any) -> None:
    name = installed.forget("ipaddresspools.samepath.dev", installed.unique("web"))
    thing: dict[str, Any] = {
        "apiVersion": "samepath.dev/v1",
        "kind": "IPAddressPool",
        "metadata": {"name": name},
        "spec": {"addresses": ["198.51.100.0/24"]},
        "status": {"assignedIPv4": 7},
    }
    installed.apply(thing)
    assert "status" not in installed.get("iap", name)
    patch = yaml.safe_dump({"status": {"assignedIPv4": 3, "availableIPv4": 253}})
    words = ("--subresource=status", "--type=merge", "-p", patch)
    installed.kubectl("patch", "ipaddresspools.samepath.dev", name, *words)
    assert installed.get("iap", name)["status"]["availableIPv4"] == 253
    row = installed.kubectl("get", "iap", name, "--no-headers").stdout.split()
    assert row[1:5] == ['["198.51.100.0/24"]', "true", "3", "253"]


def test_the_examples_of_the_page_are_taken(installed: Any) -> None:
    blocks = re.findall(r"(?:^    .*\n)+", PAGE.read_text(), re.MULTILINE)
    examples = [yaml.safe_load(block) for block in blocks if "apiVersion: samepath.dev" in block]
    assert len(examples) == 7
    plurals = {kind.name: kind.resource.full_name for kind in KINDS}
    for example in examples:
        name = installed.unique(example["metadata"]["name"])
        example["metadata"]["name"] = installed.forget(plurals[example["kind"]], name)
        installed.apply(example)
    assert len(installed.get("samepath")["items"]) >= len(examples)

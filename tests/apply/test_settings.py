from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from samepath.apply import settings
from samepath.apply.settings import (
    Finding,
    Reach,
    Setting,
    Severity,
    agent_settings,
    check,
    enforce,
    gateway_settings,
    surroundings,
)
from samepath.lab.netns import Namespace, veth

SEED = 0xC0FFEE01


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace(f"spt-{os.getpid()}-set") as made, Namespace(f"spt-{os.getpid()}-far") as far:
        veth(made, "a0", far, "a1")
        yield made


def test_a_finding_says_what_and_why() -> None:
    done = Finding(Severity.INFO, "net.ipv4.ip_forward", "0", "1", "packets are forwarded")
    assert done.text == "net.ipv4.ip_forward was 0, now 1: packets are forwarded"
    bad = Finding(Severity.ERROR, "net.ipv4.ip_forward", "0", "1", "packets are forwarded")
    assert bad.text == "net.ipv4.ip_forward: 0 instead of 1; packets are forwarded"
    assert [s.value for s in Severity] == [logging.INFO, logging.WARNING, logging.ERROR]


@pytest.mark.netns
@pytest.mark.parametrize("wanted", [gateway_settings(SEED), agent_settings()], ids=["gw", "node"])
def test_enforce_makes_a_fresh_namespace_right(
    namespace: Namespace, wanted: tuple[Setting, ...]
) -> None:
    before = check(wanted, namespace.path)
    assert before
    assert all(f.severity is Severity.ERROR and f.why for f in before)
    done = enforce(wanted, namespace.path)
    assert [f.what for f in done] == [f.what for f in before]
    assert {f.severity for f in done} == {Severity.INFO}
    assert check(wanted, namespace.path) == []
    assert enforce(wanted, namespace.path) == []
    # Another view than our own reading.
    assert namespace.run("sysctl", "-n", "net.ipv4.ip_forward").strip() == "1"
    assert namespace.run("sysctl", "-n", "net.ipv4.conf.a0.send_redirects").strip() == "0"


@pytest.mark.netns
def test_the_seed_and_the_hash_are_in_force(namespace: Namespace) -> None:
    enforce(gateway_settings(SEED), namespace.path)
    for name, value in {
        "ipv4.fib_multipath_hash_seed": SEED,
        "ipv4.fib_multipath_hash_policy": 3,
        "ipv4.fib_multipath_hash_fields": 0x37,
        "ipv6.fib_multipath_hash_policy": 3,
        "ipv6.fib_multipath_hash_fields": 0x37,
        "ipv4.nexthop_compat_mode": 0,
    }.items():
        assert namespace.run("sysctl", "-n", f"net.{name}").strip() == str(value)


@pytest.mark.netns
def test_what_is_in_force_is_the_greater_of_all_and_the_interface(namespace: Namespace) -> None:
    """An interface that is strict by itself is found, and conf/all makes it loose."""
    namespace.sysctl(net__ipv4__conf__all__rp_filter=0, net__ipv4__conf__a0__rp_filter=1)
    namespace.sysctl(net__ipv4__conf__lo__rp_filter=0, net__ipv4__conf__default__rp_filter=0)
    wanted = [s for s in gateway_settings(SEED) if s.path.endswith("rp_filter")]
    (finding,) = check(wanted, namespace.path)
    assert (finding.what, finding.found) == ("net.ipv4.conf.a0.rp_filter", "1")
    (done,) = enforce(wanted, namespace.path)
    assert done.severity is Severity.INFO
    assert check(wanted, namespace.path) == []
    namespace.sysctl(net__ipv4__conf__all__rp_filter=0, net__ipv4__conf__a0__rp_filter=0)
    assert check(wanted, namespace.path) == []


@pytest.mark.netns
def test_new_interfaces_get_what_counts_for_each(namespace: Namespace) -> None:
    enforce(gateway_settings(SEED), namespace.path)
    namespace.ip("link", "add", "b0", "type", "veth", "peer", "name", "b1")
    assert check(gateway_settings(SEED), namespace.path) == []


@pytest.mark.netns
def test_what_the_kernel_does_not_have_is_an_error(namespace: Namespace) -> None:
    (finding,) = enforce([Setting("net/ipv4/no_such", "1", "we need it")], namespace.path)
    assert finding.severity is Severity.ERROR
    assert finding.found == "not there"
    assert finding.why.startswith("we need it (it cannot be set: ")
    refused = Setting("net/ipv4/fib_multipath_hash_policy", "99", "we need it")
    (finding,) = enforce([refused], namespace.path)
    assert "Invalid argument" in finding.why


@pytest.mark.parametrize(
    ("release", "gateway", "severities"),
    [
        ("6.18.44", True, []),
        ("6.11.0-rc1", True, []),
        ("6.10.9", True, [Severity.WARNING]),
        ("5.14.21-generic", True, [Severity.ERROR]),
        ("4.19.0", True, [Severity.ERROR]),
        ("5.17.0", False, [Severity.WARNING]),
        ("6.1.0-44-amd64", False, []),
    ],
)
def test_kernel_versions(
    monkeypatch: pytest.MonkeyPatch, release: str, gateway: bool, severities: list[Severity]
) -> None:
    monkeypatch.setattr(settings, "zebras", list)
    found = surroundings(gateway=gateway, release=release)
    assert [f.severity for f in found] == severities
    assert all(f.found == release for f in found)


@pytest.mark.netns
def test_zebra_is_found_in_our_namespace_only(namespace: Namespace, tmp_path: Path) -> None:
    program = tmp_path / "zebra"
    shutil.copy("/bin/sleep", program)
    process = namespace.popen(str(program), "60")
    try:
        end = time.monotonic() + 5
        while not (found := surroundings(gateway=True, netns=namespace.path)):
            assert time.monotonic() < end
            time.sleep(0.01)
        (finding,) = found
        assert finding.severity is Severity.WARNING
        assert f"process {process.pid} " in finding.text
        assert process.pid not in settings.zebras()
    finally:
        process.kill()
        process.wait()


def test_every_setting_has_its_reason() -> None:
    for setting in (*gateway_settings(SEED), *agent_settings()):
        assert setting.why
        assert setting.reach is Reach.ONE or "/all/" in setting.path

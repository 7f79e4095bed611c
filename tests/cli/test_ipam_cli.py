"""`samepath ipam`: tables, JSON, exit statuses; by the agent and without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from samepath.cli import ipam as ipam_module
from samepath.cli.main import cli
from samepath.cni.claims import Claims
from samepath.cni.store import Attachment, Store, alias_of, current_boot_id, host_link_name
from samepath.lab.netns import Namespace
from samepath.model.net import parse_address, parse_prefix
from samepath.netlink import kernel
from samepath.netlink.fake import FakeKernel
from samepath.netlink.kernel import RealKernel
from samepath.plan.addresses import Block

KEY = "0123456789abcdef" * 4, "eth0"


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(cli, ["ipam", *arguments])


class Site:
    """The files of an agent: configuration, manifests, claims, store."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "agent.yaml"
        self.store = folder / "attachments.db"
        self.claims = folder / "claims.json"
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self.config.write_text(
            f"router_id: 192.0.2.1\nas: 64512\nneighbors: []\nnode: n1\n"
            f"manifests: {self.manifests}\n"
            f"cni: {{store: {self.store}, block_claims: {self.claims}}}\n"
        )
        (self.manifests / "site.yaml").write_text(
            "kind: IPPool\napiVersion: samepath.dev/v1\nmetadata: {name: blue}\n"
            "spec: {cidr: 10.1.0.0/16, natOutgoing: true, nodeSelector: has(blue)}\n---\n"
            "kind: Node\napiVersion: v1\nmetadata: {name: n1, labels: {blue: ''}}\n---\n"
            "kind: Node\napiVersion: v1\nmetadata: {name: n2}\nspec: {podCIDR: 10.9.0.0/24}\n"
        )
        Claims(self.claims).claim(Block(*parse_prefix("10.1.0.0/26")), "n1")
        Claims(self.claims).claim(Block(*parse_prefix("10.1.0.64/26")), "n2")
        store = Store(self.store, current_boot_id())
        made = Attachment(
            KEY,
            "pods",
            (parse_address("10.1.0.5"),),
            b"\2" * 6,
            host_link_name(KEY),
            pod="shop/web-5",
        )
        store.wired(store.reserve(made).key)
        store.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_pools_and_blocks(site: Site) -> None:
    shown = run("show", "--config", str(site.config), "--blocks", "--pods")
    assert shown.exit_code == 0, shown.output
    lines = [" ".join(line.split()) for line in shown.output.splitlines()]
    assert "blue 10.1.0.0/16 /26 65,536 128 (0%) 2 of 1,024 outgoing has(blue)" in lines
    assert "10.1.0.0/26 blue n1 64 1 (1%) 62 (96%) claimed" in lines
    assert "10.1.0.64/26 blue n2 64 ? ? claimed" in lines
    assert "10.9.0.0/24 - n2 256 ? ? node" in lines
    assert any(line.startswith("10.1.0.5 shop/web-5 0123456789ab eth0 smp") for line in lines)
    short = run("show", "--config", str(site.config)).output
    assert "blue" in short
    assert "10.1.0.64/26" not in short


def test_json(site: Site) -> None:
    answer = json.loads(run("show", "--config", str(site.config), "--json").output)
    assert answer["node"] == "n1"
    assert [p["name"] for p in answer["pools"]] == ["blue"]
    assert {b["block"]: (b["node"], b["in_use"], b["free"]) for b in answer["blocks"]} == {
        "10.1.0.0/26": ("n1", 1, 62),
        "10.1.0.64/26": ("n2", None, None),
        "10.9.0.0/24": ("n2", None, None),
    }
    assert answer["attachments"][0]["container"] == KEY[0]


def test_a_store_alone(site: Site) -> None:
    answer = json.loads(run("show", "--store", str(site.store), "--json").output)
    assert len(answer["attachments"]) == 1
    assert answer["blocks"] == []
    options = ["--store", str(site.store), "--claims", str(site.claims), "--node", "n1"]
    assert "10.1.0.0/26 " in run("show", *options).output


def test_check_finds_and_fixes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "RealKernel", FakeKernel)
    found = run("check", "--config", str(site.config))
    assert found.exit_code == 1
    assert "attachment without a link" in found.output
    assert "1 of 1 can be mended by --fix" in found.output
    fixed = run("check", "--config", str(site.config), "--fix")
    assert "dropped, its addresses are free" in " ".join(fixed.output.split())
    assert fixed.exit_code == 0
    good = run("check", "--config", str(site.config))
    assert (good.exit_code, good.output) == (0, "in order: 0 attachments, as in the kernel\n")


def test_what_cannot_be_looked_at(site: Site, tmp_path: Path) -> None:
    for arguments, said in (
        (["--run-dir", str(tmp_path)], "no agent answers here"),
        (["--store", str(tmp_path / "none")], "there is no such store"),
        (["--config", str(tmp_path / "none")], "cannot be read: No such file"),
    ):
        refused = run("check", *arguments)
        assert refused.exit_code == 2
        assert said in refused.output
    store = Store(site.store, current_boot_id())
    try:
        refused = run("show", "--store", str(site.store))
        assert refused.exit_code == 2
        assert f"it is open in another process ({os.getpid()})" in refused.output
    finally:
        store.close()


def test_the_agent_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def ask(run_dir: str, name: str, get: str, **more: Any) -> Any:
        asked.append((run_dir, name, get, more))
        row = {
            "problem": "NO_LINK", "what": "attachment without a link", "subject": "a [b]",
            "text": "c", "fixable": True, "fixed": "",
        }  # fmt: skip
        return {"attachments": 1, "findings": [row]}

    monkeypatch.setattr(ipam_module, "ask", ask)
    found = run("check", "--run-dir", "/r", "--fix")
    assert found.exit_code == 1
    assert "a [b]" in found.output
    assert json.loads(run("check", "--json").output)["findings"][0]["subject"] == "a [b]"
    assert asked == [
        ("/r", "agent", "ipam_check", {"fix": True}),
        ("/run/samepath", "agent", "ipam_check", {"fix": False}),
    ]


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace(f"spt-{os.getpid()}-ipam").create()
    try:
        yield made
    finally:
        made.delete()


@pytest.mark.netns
def test_a_damaged_store_and_the_real_kernel(site: Site, namespace: Namespace) -> None:
    """Refused with the way out; the way out works; the pod's address is not given to another."""
    name = host_link_name(KEY)
    namespace.ip("link", "add", name, "type", "veth", "peer", "name", "pod0")
    for link in (name, "pod0"):
        namespace.ip("link", "set", link, "up")
    namespace.ip("link", "set", name, "alias", alias_of(KEY))
    namespace.ip("route", "add", "10.1.0.5/32", "dev", name, "proto", "83", "metric", "1")
    octets = bytearray(site.store.read_bytes())
    octets[4200] ^= 1
    site.store.write_bytes(octets)

    def inside(*arguments: str) -> Any:
        code = "from samepath.cli.main import main; main()"
        command = namespace.command([sys.executable, "-c", code, "ipam", "check", *arguments])
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    refused = inside("--config", str(site.config))
    assert refused.returncode == 2
    assert "the store is damaged" in refused.stderr
    assert f"samepath ipam check --fix --store {site.store}" in refused.stderr
    fixed = inside("--config", str(site.config), "--fix")
    assert fixed.returncode == 0, fixed.stdout + fixed.stderr
    assert "store rebuilt" in fixed.stdout
    assert Path(f"{site.store}.damaged-1").read_bytes() == octets
    assert inside("--config", str(site.config)).returncode == 0
    store = Store(site.store, current_boot_id())
    assert [(a.key, a.addresses) for a in store.all()] == [(KEY, (parse_address("10.1.0.5"),))]
    store.close()
    node = RealKernel(namespace.path)
    try:
        assert node.link(name) is not None, "the pod still has its link"
    finally:
        node.close()

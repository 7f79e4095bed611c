"""`samepath import` as people call it: what is on which output, and the exit status."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from samepath.cli.main import cli
from samepath.kube.objects import parse_objects
from samepath.model.documents import parse

POOL = """apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: web}
spec: {addresses: [203.0.113.0/24]}
"""
LAYER2 = "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: arp}\n"
CALICO = """apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.48.0.0/16, natOutgoing: true, ipipMode: Never}
"""


def run(*arguments: str, text: str | bytes = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["import", *arguments], input=text)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def test_all_was_carried_over(tmp_path: Path) -> None:
    file = tmp_path / "metallb.yaml"
    file.write_text(POOL)
    status, out, err = run("metallb", str(file))
    assert status == 0
    assert list(yaml.safe_load_all(out)) == [
        {
            "apiVersion": "samepath.dev/v1",
            "kind": "IPAddressPool",
            "metadata": {"name": "web"},
            "spec": {"addresses": ["203.0.113.0/24"]},
        }
    ]
    assert "IPAddressPool web" in err
    assert "1 objects; 1 carried over" in err


def test_standard_input_and_what_was_left_out() -> None:
    status, out, err = run("metallb", "-", text=f"{POOL}---\n{LAYER2}")
    assert status == 1
    read = [thing for part in parse(out, "out") for _, thing in parse_objects(part)]
    assert [thing.name for thing in read] == ["web"]
    (line,) = (line for line in err.splitlines() if "L2Advertisement arp" in line)
    assert "left out" in line
    assert "not by ARP" in line


def test_several_files_and_calico(tmp_path: Path) -> None:
    files = [tmp_path / "a.yaml", tmp_path / "b.json"]
    files[0].write_text(CALICO)
    files[1].write_text('{"kind": "List", "items": []}')
    status, out, _ = run("calico", *map(str, files))
    assert status == 0
    assert yaml.safe_load(out)["spec"] == {"cidr": "10.48.0.0/16", "natOutgoing": True}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"kind: [", "standard input:2: did not find"),
        (b"5", "standard input:1: expected object, got int"),
        (b"kind: IPAddressPool\n", "standard input:1: metadata.name: missing"),
        (b"\xff\xfe\xfd", "standard input: not UTF-8"),
    ],
)
def test_what_cannot_be_read(text: bytes, said: str) -> None:
    status, out, err = run("metallb", "-", text=text)
    assert (status, out) == (2, "")
    assert err.startswith(said)


def test_a_file_that_is_not_there() -> None:
    status, out, err = run("calico", "/nowhere/x.yaml")
    assert (status, out) == (2, "")
    assert err == "/nowhere/x.yaml: No such file or directory\n"


def test_nothing_at_all() -> None:
    status, out, err = run("metallb", "-")
    assert (status, out) == (0, "")
    assert "nothing was there" in err

"""`samepath cni install` and `uninstall`: which program, which network, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from samepath.cli.main import cli
from samepath.cni import install as placing
from samepath.cni.spec import VERSION_ANSWER
from tests.cni.shims import C_PROGRAM


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """As on a machine with the reference plugins and another network."""
    bin_dir, conf_dir = tmp_path / "bin", tmp_path / "net.d"
    for folder, name in ((bin_dir, "portmap"), (bin_dir, "bandwidth"), (conf_dir, "87-x.conflist")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("kept")
    return bin_dir, conf_dir


def run(command: str, folders: tuple[Path, Path], *options: str) -> Result:
    bin_dir, conf_dir = folders
    return CliRunner().invoke(
        cli, ["cni", command, "--bin-dir", str(bin_dir), "--conf-dir", str(conf_dir), *options]
    )


def network(folders: tuple[Path, Path]) -> dict[str, object]:
    text = (folders[1] / "10-samepath.conflist").read_text()
    configuration: dict[str, object] = json.loads(text)
    return configuration


def listing(folders: tuple[Path, Path]) -> set[str]:
    return {path.name for folder in folders for path in folder.iterdir()}


def answers_version(program: Path) -> bool:
    done = subprocess.run(
        [program], env={"CNI_COMMAND": "VERSION"}, stdin=subprocess.DEVNULL, capture_output=True,
        timeout=60, check=True,
    )  # fmt: skip
    return done.stdout == VERSION_ANSWER


def test_install_places_a_program_that_runs_and_its_network(folders: tuple[Path, Path]) -> None:
    done = run("install", folders)
    assert done.exit_code == 0, done.output
    program = folders[0] / "samepath-cni"
    assert answers_version(program)
    assert program.stat().st_mode & 0o777 == 0o755
    if C_PROGRAM.exists():
        assert program.read_bytes() == C_PROGRAM.read_bytes()
        assert not done.stderr
    assert network(folders) == {
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": "samepath",
        "plugins": [
            {"type": "samepath-cni", "capabilities": {"ips": True, "mac": True}},
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }


def test_install_makes_its_folders_and_uninstall_removes_its_files_only(
    tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    before = listing(folders)
    assert run("install", folders).exit_code == 0
    assert run("install", folders).exit_code == 0  # again: nothing else appears
    assert listing(folders) == before | {"samepath-cni", "10-samepath.conflist"}
    done = run("uninstall", folders)
    assert done.exit_code == 0
    assert listing(folders) == before
    assert "nothing to remove" in run("uninstall", folders).output
    new = (tmp_path / "a" / "bin", tmp_path / "b" / "net.d")
    assert run("install", new).exit_code == 0
    assert listing(new) == {"samepath-cni", "10-samepath.conflist"}


def test_a_plugin_that_is_missing_is_left_out_and_said(folders: tuple[Path, Path]) -> None:
    (folders[0] / "portmap").unlink()
    done = run("install", folders, "--chain", "portmap", "--chain", "bandwidth")
    assert done.exit_code == 0
    assert "portmap does not exist" in done.stderr
    plugins = network(folders)["plugins"]
    assert isinstance(plugins, list)
    assert [plugin["type"] for plugin in plugins] == ["samepath-cni", "bandwidth"]


def test_another_socket_is_named(folders: tuple[Path, Path]) -> None:
    assert run("install", folders, "--socket", "/run/n1/cni.sock", "--no-chain").exit_code == 0
    assert network(folders)["plugins"] == [
        {
            "type": "samepath-cni", "capabilities": {"ips": True, "mac": True},
            "socket": "/run/n1/cni.sock",
        }
    ]  # fmt: skip


@pytest.mark.parametrize("built", ["absent", "of another machine"])
def test_without_a_program_that_runs_here_the_python_one_serves(tmp_path: Path, built: str) -> None:
    if built != "absent":
        (tmp_path / "bin").mkdir()
        other = tmp_path / "bin" / "samepath-cni-amd64"
        other.write_bytes(b"\x7fELF")
        other.chmod(0o755)
    program, notes = placing.plugin_program("x86_64", tmp_path)
    assert program.startswith(b"#!" + os.fsencode(os.path.realpath(sys.executable)) + b" -IS\n")
    assert "Python" in notes[0]
    placed = tmp_path / "samepath-cni"
    placed.write_bytes(program)
    placed.chmod(0o755)
    assert answers_version(placed)


@pytest.mark.parametrize("path", ["/has space/python3", "/" + "x" * 260])
def test_an_interpreter_that_no_first_line_can_name(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(sys, "executable", path)
    with pytest.raises(ValueError, match="install Samepath elsewhere"):
        placing.python_program()


def test_what_cannot_be_written_is_said_and_leaves_nothing(folders: tuple[Path, Path]) -> None:
    (folders[0] / "samepath-cni").mkdir()  # not even root can rename a file onto it
    before = listing(folders)
    done = run("install", folders)
    assert done.exit_code == 1
    assert done.stderr.startswith("samepath: ")
    assert listing(folders) == before

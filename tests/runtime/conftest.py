"""What all tests with real runtimes share: a clean start, and libcni's driver, built once."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.runtime.podman import parent, remove_leftovers
from tests.runtime.site import Site, made

LIBCNI = Path(__file__).with_name("libcni")
GOPATH = "/usr/share/gocode"
"""Where Debian's golang-github-appc-cni-dev puts its sources."""


@pytest.fixture(scope="session", autouse=True)
def clean() -> Iterator[None]:
    remove_leftovers()
    yield
    shutil.rmtree(parent(), ignore_errors=True)


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """One lab for all tests that want one; each leaves it as it was."""
    with made(f"spt-{os.getpid()}-c") as site:
        yield site


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what the programs have said."""
    report = yield
    site = getattr(item, "funcargs", {}).get("site")
    if report.failed and isinstance(site, Site):
        report.sections += site.logs()
    return report


@pytest.fixture(scope="session")
def libcni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver in `libcni/main.go`, a program."""
    folder = tmp_path_factory.mktemp("libcni")
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": GOPATH,
        "GOCACHE": str(folder / "cache"),
    }
    program = folder / "libcni"
    subprocess.run(
        ["go", "build", "-o", program, LIBCNI / "main.go"], env=environment, check=True, timeout=120
    )
    return program

"""The socket between a program and its BFD process is root's own, whatever the umask is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import bfd_hosts as hosts
import pytest

from samepath.bfd.wire import Want

pytestmark = pytest.mark.netns


@pytest.fixture
def host(tmp_path: Path) -> Iterator[hosts.Host]:
    umask = os.umask(0)
    with hosts.two_hosts("bs") as (ours, _):
        one = hosts.Host(ours, tmp_path)
        one.wanted = {hosts.THEIRS: Want()}
        yield one.start()
        one.stop()
    os.umask(umask)


def test_the_socket_is_roots_own_and_the_umask_nobody_elses_concern(
    host: hosts.Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def umask(mask: int) -> int:
        asked.append(mask)
        return 0

    monkeypatch.setattr(os, "umask", umask)
    hosts.wait(lambda: host.process.pid is not None, "the process")
    host.kill_process()
    hosts.wait(lambda: host.process.starts >= 2, "another process")
    assert asked == []  # it is the whole process's, with other threads that make files
    mode = (host.folder / "test-bfd.sock").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600

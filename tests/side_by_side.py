"""Which tests run beside which, when several run at once (`scripts/test.py`, `pytest -n 4`).

A test file is one piece of work, done by one worker in its order, so that what its tests share is
made once. Files of long tests that share nothing are handed out test by test; folders whose tests
share something costly stay together. What takes long begins first, and what is short fills the
end. What measures time or the processor, or looks at what the whole machine has in common, is
marked `alone` and runs afterwards, with nothing beside it.

Called by pytest-xdist, by way of `conftest`.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/runtime/", "tests/bpf/")
APART = (
    "tests/plan/test_allocation_properties",
    "tests/bgp/test_bgp_fuzz",
    "tests/lab/test_lab_survival",
    "tests/lab/test_lab_foreign_survival",
    "tests/lab/test_lab_api_server",
    "tests/kubernetes/",
    "tests/programs/test_gateway_bpf",
    "tests/programs/test_gateway_adversary",
    "tests/programs/test_agent_mesh",
    "tests/interop/test_interop_beside",
    "tests/interop/test_interop_md5",
)
FIRST = (
    "tests/lab/test_lab_api_server",
    "tests/lab/test_lab_survival",
    "tests/kubernetes/",
    "tests/interop/test_interop_llgr",
    "tests/lab/test_lab_foreign_survival",
    "tests/interop/test_interop_bgp",
    "tests/interop/test_interop_graceful8538",
    "tests/cni/test_cni_bad_days",
    "tests/runtime/",
    "tests/programs/test_agent",
    "tests/programs/test_gateway",
    "tests/interop/",
    "tests/lab/",
    "tests/benchmarks/",
    "tests/plan/test_allocation_properties",
    "tests/bgp/test_bgp_fuzz",
    "tests/apply/test_groups_churn",
    "tests/bgp/test_bgp_rfc7606",
    "tests/cni/",
)
"""By the beginnings of their names: the longest pieces of work, the longest first."""


class SideBySide(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return piece(nodeid)

    def remove_node(self, node: Any) -> str | None:
        """A worker is gone: the test in which it crashed has failed, and is not begun again as
        pytest-xdist would; what was left goes to others."""
        pieces = self.assigned_work.pop(node)
        left = [(tests, name) for tests in pieces.values() for name in tests if not tests[name]]
        if not left:
            return None
        tests, crashed = left[0]
        tests[crashed] = True
        self.workqueue.update({p: t for p, t in pieces.items() if not all(t.values())})
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed


def piece(nodeid: str) -> str:
    for folder in TOGETHER:
        if nodeid.startswith(folder):
            return folder
    return nodeid if nodeid.startswith(APART) else nodeid.partition("::")[0]


def rank(nodeid: str) -> int:
    found = (at for at, name in enumerate(FIRST) if nodeid.startswith(name))
    return next(found, len(FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SideBySide:
    config.option.loadscopereorder = False
    return SideBySide(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank(item.nodeid))

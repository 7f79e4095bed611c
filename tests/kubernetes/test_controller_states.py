"""States of nodes that are gone, deleted from a real server of ours."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from samepath.kube.api import Api
from samepath.kube.crds import KINDS, definition
from samepath.lab.api_server import ApiServer
from samepath.model.config import Kubernetes
from samepath.plan.node_status import NODE_LABEL
from samepath.programs.controller_states import AT_ONCE, OldStates


def state(node: str, service: str = "web") -> dict[str, Any]:
    return {
        "apiVersion": "samepath.dev/v1",
        "kind": "ServiceBGPStatus",
        "metadata": {
            "name": f"{service}-{node}",
            "namespace": "default",
            "labels": {NODE_LABEL: node},
        },
    }


@pytest.fixture
def server(api_server: ApiServer) -> ApiServer:
    api_server.apply([definition(kind) for kind in KINDS])
    return api_server


class Looker:
    def __init__(self, server: ApiServer, folder: Path) -> None:
        self.server = server
        self.config = Kubernetes(kubeconfig=str(server.kubeconfig(folder / "config")))
        self.may_write = True
        self.old = OldStates(Api.connect(self.config), lambda: self.may_write, grace_s=10.0)

    def look(self, nodes: set[str], *times: float) -> set[str]:
        """The nodes that states are left of."""

        async def run() -> None:
            self.old.api = Api.connect(self.config)
            for now in times:
                await self.old.look(nodes, now)
            await self.old.api.close()

        asyncio.run(run())
        left = self.server.list("servicebgpstatuses", "default")
        return {s["metadata"]["labels"][NODE_LABEL] for s in left}


@pytest.fixture
def looker(server: ApiServer, tmp_path: Path) -> Looker:
    return Looker(server, tmp_path)


def test_states_of_a_node_go_after_the_grace(server: ApiServer, looker: Looker) -> None:
    server.apply(state("n1"), state("n2"), state("n2", "api"))
    assert looker.look({"n1", "n2"}, 0.0) == {"n1", "n2"}
    assert looker.look({"n1"}, 5.0, 14.9) == {"n1", "n2"}
    assert looker.look({"n1"}, 15.0) == {"n1"}
    assert looker.old.deleted == 2


def test_a_node_that_is_back_in_time_keeps_its_states(server: ApiServer, looker: Looker) -> None:
    server.apply(state("n2"))
    looker.look({"n2"}, 0.0)
    looker.look(set(), 1.0)
    looker.look({"n2"}, 9.0)
    assert looker.look(set(), 12.0, 21.0) == {"n2"}
    assert looker.look(set(), 22.0) == set()


def test_what_was_left_under_an_earlier_leader_goes_too(server: ApiServer, looker: Looker) -> None:
    server.apply(state("n9"))
    assert looker.look({"n1"}, 0.0, 9.0) == {"n9"}
    looker.old.forget()  # the grace begins anew
    assert looker.look({"n1"}, 11.0, 20.0) == {"n9"}
    assert looker.look({"n1"}, 21.0) == set()


def test_a_crowd_goes_in_parts_and_none_without_leadership(
    server: ApiServer, looker: Looker
) -> None:
    server.apply([state("n2", f"s{i}") for i in range(AT_ONCE + 5)])
    looker.look(set(), 0.0)
    looker.may_write = False
    assert looker.look(set(), 10.0) == {"n2"}
    assert looker.old.deleted == 0
    looker.may_write = True
    looker.look(set(), 10.0)
    assert len(server.list("servicebgpstatuses", "default")) == 5
    assert looker.look(set(), 10.0) == set()


def test_a_server_that_refuses_is_asked_again(server: ApiServer, looker: Looker) -> None:
    server.apply(state("n2"))
    server.fault(500, method="GET", path="servicebgpstatuses")
    looker.look(set(), 0.0)
    assert "servicebgpstatuses" in looker.old.trouble
    server.no_faults()
    looker.look(set(), 1.0)
    assert looker.old.trouble == ""
    assert looker.look(set(), 11.0) == set()

"""A leader that is told to stop hands its Lease back, whatever was under way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from samepath.kube.api import Api
from samepath.kube.lease import LeaderElection, Terms
from samepath.lab.api_server import ApiServer
from samepath.model.config import Kubernetes

TERMS = Terms(duration_s=3.0, renew_deadline_s=2.0, retry_s=1.0)


def test_a_renewal_under_way_is_no_reason_to_keep_it(api_server: ApiServer, tmp_path: Path) -> None:
    """The renewal reaches the server; its answer is cut off by our end."""

    async def run() -> None:
        config = Kubernetes(kubeconfig=str(api_server.kubeconfig(tmp_path / "config")))
        api = Api.connect(config)
        election = LeaderElection(
            api, "default", "lease", identity="c1", terms=TERMS, changed=lambda: None
        )
        replace, arrived = api.replace, asyncio.Event()

        async def slow(*args: Any, **more: Any) -> Any:
            answer = await replace(*args, **more)
            arrived.set()
            await asyncio.sleep(60)
            return answer

        running = asyncio.create_task(election.run())
        async with asyncio.timeout(30):
            while not election.is_leader():
                await asyncio.sleep(0.01)
            api.replace = slow  # type: ignore[method-assign]
            await arrived.wait()
        running.cancel()
        api.replace = replace  # type: ignore[method-assign]
        await election.release()
        await api.close()

    asyncio.run(run())
    lease = api_server.get("leases", "lease", "default")
    assert lease["spec"]["holderIdentity"] == ""

"""Whether an agent's pod ends because Samepath is being uninstalled, or only for an upgrade.

Asked by the pod's preStop hook (`samepath cni uninstall --when-gone`): the plugin must stay over an
upgrade, or the runtime would call the node without network meanwhile; and it must go with the
DaemonSet, or no pod could start ever after.

An uninstall also takes our rights away, often before this is asked, so to be refused what we could
ask before counts as uninstalled. While the API server does not answer nothing is removed.
"""

from __future__ import annotations

import asyncio

from samepath.kube.api import Api, ApiError, Unreachable
from samepath.kube.resources import DAEMON_SETS
from samepath.model.config import Kubernetes

PATIENCE_S = 10.0


async def why_stay(daemon_set: str, config: Kubernetes | None = None) -> str:
    """`daemon_set`: namespace/name. Empty: it is gone."""
    namespace, _, name = daemon_set.rpartition("/")
    config = config or Kubernetes(namespace=namespace)
    api = Api.connect(config)
    try:
        async with asyncio.timeout(PATIENCE_S):
            found = await api.get(DAEMON_SETS, name, namespace)
    except Unreachable as error:
        return str(error)
    except TimeoutError:
        return f"{api.where} does not answer"
    except ApiError as error:
        # 403: the role is gone; 401: so is the service account.
        gone = error.is_not_found or error.code in (401, 403)
        return "" if gone else str(error)
    finally:
        await api.close()
    if found["metadata"].get("deletionTimestamp"):
        return ""
    return f"DaemonSet {daemon_set} stands"

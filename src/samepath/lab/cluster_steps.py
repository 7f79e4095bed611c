"""The steps of `survival` that need an API server: a Deployment is scaled, and the server itself
comes to harm: it is away for a minute, and it comes back from a backup, its versions set back.

Connections go on, nothing is withdrawn, and afterwards the agents hear of changes again. Only with
`source: api-server`. Driven by `lab.scenario`, listed by `lab.steps`.
"""

from __future__ import annotations

import signal
import time

from samepath.lab import observe
from samepath.lab.cluster import Cluster
from samepath.lab.render import Condition
from samepath.lab.scenario import Action, World
from samepath.lab.state import wait
from samepath.lab.traffic import Traffic

AWAY_S = 60.0
CHANGES = 50
"""By which the versions are set back."""


def scale(world: World, traffic: Traffic) -> None:
    """One node gets as many pods more as it has, and loses them again. Its weight changes twice,
    and with it buckets move; who is connected stays."""
    world.watch()
    name = world.active[0]
    world.tell(f"{name}: more pods")
    more = world.lab.start_pods([world.node(name)], None)
    world.doing.rolled.update(pod.name for pod in more)
    world.lab.list_pods(more, Condition.READY)
    world.lab.write_manifests()
    world.converge()
    traffic.check()
    world.tell(f"{name}: fewer pods, these terminate")
    world.lab.list_pods(more, Condition.TERMINATING)
    world.lab.write_manifests()
    world.lab.end_pods(more, signal.SIGTERM, limit_s=2 * world.lab.state.spec.grace_s + 5)
    world.lab.write_manifests()
    began = time.monotonic()
    world.converge()
    world.doing.converge_s = time.monotonic() - began


def api_away(world: World, traffic: Traffic) -> None:
    """Killed; nothing of it is left but what it wrote down."""
    world.watch()
    cluster = _cluster(world)
    cluster.stop(signal.SIGKILL)
    until = time.monotonic() + AWAY_S
    while (left := until - time.monotonic()) > 0:
        world.tell(f"the API server is away; {left:.0f} s more")
        time.sleep(min(left, 5.0))
    world.tell("every connection exchanges without the API server")
    traffic.check()
    world.sessions_up()
    world.converge()
    began = time.monotonic()
    cluster.start()
    _heard(world)
    _hear_of_a_drain(world)
    world.doing.converge_s = time.monotonic() - began


def api_restored(world: World, traffic: Traffic) -> None:
    """It comes back as it was some changes ago; all watches are of versions yet to come."""
    world.watch()
    cluster = _cluster(world)
    cluster.back_up()
    cluster.change(CHANGES)
    cluster.restore()
    began = time.monotonic()
    world.lab.write_manifests()
    _heard(world)
    traffic.check()
    world.sessions_up()
    _hear_of_a_drain(world)
    world.doing.converge_s = time.monotonic() - began


def _hear_of_a_drain(world: World) -> None:
    """A node is drained and taken back: the gateways see both, so its agent is not deaf."""
    name = world.active.pop()
    for is_drained in (True, False):
        if is_drained:
            world.lab.state.draining.append(name)
            world.draining.append(name)
        else:
            world.lab.state.draining.remove(name)
            world.draining.remove(name)
            world.active.append(name)
        world.lab.write_manifests()
        world.converge()


def _heard(world: World) -> None:
    """Until each agent follows the server again."""
    names = [*world.active, *world.draining]

    def follows(name: str) -> bool:
        answer = observe.status(world.lab, name, "agent")
        return answer is not None and not answer["manifests"]["trouble"]

    wait(lambda: all(map(follows, names)), 90, "the agents to follow the API server", 0.3)


def _cluster(world: World) -> Cluster:
    cluster = world.lab.cluster
    assert cluster is not None
    return cluster


CLUSTER_STEPS: list[tuple[str, str, Action]] = [
    ("scale", "Deployment scaled up and down", scale),
    ("api_away", "API server away for a minute", api_away),
    ("api_restored", "API server restored from a backup", api_restored),
]

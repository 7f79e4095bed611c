"""The steps of `survival`: what is done to the lab, and what is waited for. Each wait has a limit.

A step says which connections it may take (`own_nodes`, pods that are `rolled`) and whose BGP
sessions may go down (`watch`); everything else that happens is somebody's fault. Driven by
`lab.scenario`.
"""

from __future__ import annotations

import signal
import time

from samepath.lab import foreign, observe
from samepath.lab.cluster_steps import CLUSTER_STEPS
from samepath.lab.render import Condition
from samepath.lab.scenario import Action, World, list_node
from samepath.lab.state import wait
from samepath.lab.topology import Source, Speaker
from samepath.lab.traffic import Traffic

IDLE_MARGIN_S = 4.0
DEAD_S = 1.0
"""How long a killed daemon stays away."""


def gateway_kill(world: World, traffic: Traffic) -> None:
    _kill_gateway(world, traffic, world.gateways[0])


def gateway_kill_again(world: World, traffic: Traffic) -> None:
    _kill_gateway(world, traffic, world.gateways[-1])


def _kill_gateway(world: World, traffic: Traffic, name: str) -> None:
    """Its links down: the upstream sees it at once, the nodes when their hold timers expire."""
    if world.lab.state.dataplane != "plain":  # plain ECMP has no moves that could be in progress
        world.doing.differing = observe.differing(observe.tables(world.lab, world.gateways))
    if world.lab.state.dataplane == "bpf":  # what one gateway has recorded the other does not know
        for family, buckets in observe.in_transition(world.lab, world.gateways).items():
            world.doing.differing.setdefault(family, set()).update(buckets)
    count = sum(len(d) for d in world.doing.differing.values())
    if count:
        world.doing.notes.append(f"{name} is killed while {count} buckets differ by gateway")
    world.watch({name})
    host = world.lab.host(name)
    world.tell(f"{name}: links down")
    for port in ("up0", "seg0"):
        host.ip("link", "set", port, "down")
    others = [g for g in world.gateways if g != name]
    world.upstream_uses(others)
    nodes = [*world.active, *world.draining]
    world.tell(f"waiting until the nodes have lost {name}")
    wait(
        lambda: (
            not {(n, name + over) for n in nodes for over in world.over}
            & set(observe.sessions(world.lab).up)
        ),
        4 * world.spec_hold_s,
        f"the nodes to lose {name}",
        pause_s=0.3,
    )
    world.tell(f"every connection exchanges without {name}")
    traffic.check()
    world.tell(f"{name}: links up")
    for port in ("seg0", "up0"):
        host.ip("link", "set", port, "up")
    began = time.monotonic()
    world.converge([name], limit_s=90)
    world.doing.converge_s = time.monotonic() - began
    world.sessions_up()
    world.upstream_uses(world.gateways)


def add(world: World, traffic: Traffic) -> None:
    """A spare node joins: first its agent, then its pods, then its endpoints."""
    began = time.monotonic()
    node = next(n for n in world.lab.topology.spares if n.name not in world.active)
    world.lab.state.nodes.append(node.name)
    world.lab.write_manifests()
    world.lab.start_agent(node.name)
    world.lab.start_pods([node], Condition.READY)
    changed = time.monotonic()
    world.lab.write_manifests()
    world.lab.start_speaker(node.name)
    world.active.append(node.name)
    world.lab.expect_peers(len(world.active) + len(world.draining))
    world.converge()
    world.doing.converge_s = time.monotonic() - changed
    world.look_at_once()
    world.sessions_up()
    _outlast_idle_timer(world, began)


def drain(world: World, traffic: Traffic) -> None:
    """The label on its Node, or what its speaker is configured to say; its pods go on."""
    began = time.monotonic()
    name = world.active[1]
    world.active.remove(name)
    world.draining.append(name)
    world.lab.state.draining.append(name)
    if world.is_foreign:
        foreign.drain(world.lab, name)
    else:
        world.lab.write_manifests()
    world.converge()
    world.doing.converge_s = time.monotonic() - began
    world.look_at_once()
    _outlast_idle_timer(world, began)


def remove(world: World, traffic: Traffic) -> None:
    """The drained node goes: its agent says goodbye (another speaker: withdraws its services, then
    ends), then its pods are stopped."""
    name = world.draining.pop() if world.draining else world.active.pop(1)
    world.doing.own_nodes.add(name)
    world.watch({name})
    began = time.monotonic()
    if world.is_foreign:
        foreign.withdraw(world.lab, name)
    else:
        world.lab.stop(name, "agent", signal.SIGINT)
    world.converge()
    world.doing.converge_s = time.monotonic() - began
    if world.is_foreign:
        foreign.stop(world.lab, name, goodbye=True)
        world.lab.stop(name, "agent", signal.SIGINT)
    _forget_node(world, name)
    if name in world.lab.state.draining:
        world.lab.state.draining.remove(name)
    world.lab.end_pods(world.lab.pods(name), signal.SIGKILL)
    world.lab.write_manifests()


def crash(world: World, traffic: Traffic) -> None:
    """Its bridge port goes down, then everything on it is killed: no goodbye."""
    name = world.active.pop(1)
    world.doing.own_nodes.add(name)
    world.watch({name})
    began = time.monotonic()
    world.lab.host("fabric").ip("link", "set", name, "down")
    world.lab.stop(name, "agent", signal.SIGKILL)
    if world.is_foreign:
        foreign.stop(world.lab, name, goodbye=False)
    world.lab.end_pods(world.lab.pods(name), signal.SIGKILL)
    world.converge(limit_s=4 * world.spec_hold_s)
    world.doing.converge_s = time.monotonic() - began
    _forget_node(world, name)


def _forget_node(world: World, name: str) -> None:
    """What the cluster does in the end: Node and endpoints go from the manifests."""
    list_node(world.lab, name, None)
    world.lab.expect_peers(len(world.active) + len(world.draining))


def restart(world: World, traffic: Traffic) -> None:
    """kill -9 and start again, one after the other: each gateway, then each agent that speaks."""
    agents = [] if world.is_foreign else [*world.active, *world.draining]
    for name, program in (
        *((g, "gateway") for g in world.gateways),
        *((n, "agent") for n in agents),
    ):
        world.watch({name})
        world.tell(f"{name}: kill -9 and restart of the {program}")
        world.lab.stop(name, program, signal.SIGKILL)
        time.sleep(DEAD_S)
        began = time.monotonic()
        if program == "gateway":
            world.lab.start_gateway(name)
        else:
            world.lab.start_agent(name)
        world.sessions_up()
        world.converge()
        took = time.monotonic() - began
        world.doing.converge_s = max(world.doing.converge_s or 0.0, took)
    world.upstream_uses(world.gateways)


def speaker_restart(world: World, traffic: Traffic) -> None:
    """A node's foreign speaker: kill -9 and start again. What it makes of graceful restart is its
    own affair, and so are its node's connections; nobody else's are."""
    name = world.active[-1]
    world.doing.own_nodes.add(name)
    world.watch({name})
    foreign.stop(world.lab, name, goodbye=False)
    time.sleep(DEAD_S)
    began = time.monotonic()
    foreign.start(world.lab, name)
    world.sessions_up()
    world.converge()
    world.doing.converge_s = time.monotonic() - began


def roll(world: World, traffic: Traffic) -> None:
    """All pods of the service are replaced, one node at a time; then moves have their time."""
    for name in list(world.active):
        world.tell(f"{name}: new pods, old ones terminate")
        old = world.lab.pods(name)
        world.doing.rolled.update(pod.name for pod in old)
        new = world.lab.start_pods([world.node(name)], None)
        world.lab.list_pods(new, Condition.READY)
        world.lab.list_pods(old, Condition.TERMINATING)
        world.lab.write_manifests()
        world.lab.end_pods(old, signal.SIGTERM, limit_s=2 * world.lab.state.spec.grace_s + 5)
        world.lab.write_manifests()
    world.tell("waiting for the moves, which nobody holds up now")
    began = time.monotonic()
    limit_s = 2 * world.lab.state.spec.idle_timer_s + 15
    if world.lab.state.dataplane == "bpf":
        # The last word of a connection may be said again and again to a pod that is gone.
        limit_s = world.lab.state.spec.transition_idle_s + 60
    while observe.moves_waiting(world.lab, world.gateways):
        if time.monotonic() - began > limit_s:
            world.doing.notes.append("moves were still in progress after the roll")
            break
        time.sleep(0.5)
    began = time.monotonic()
    world.converge()
    world.doing.converge_s = time.monotonic() - began


def _outlast_idle_timer(world: World, began: float) -> None:
    """Go on until a bucket that was left alone at the step's beginning counts as idle."""
    until = began + world.lab.state.spec.idle_timer_s + IDLE_MARGIN_S
    while (left := until - time.monotonic()) > 0:
        waiting = observe.moves_waiting(world.lab, world.gateways)
        world.tell(f"idle buckets move, {waiting} moves wait; {left:.0f} s more")
        time.sleep(min(left, 1.0))


STEPS: list[tuple[str, str, Action]] = [
    ("gateway_kill", "Gateway killed, returns", gateway_kill),
    ("add", "Node added", add),
    ("drain", "Node drained", drain),
    ("remove", "Drained node removed", remove),
    ("crash", "Node crashes", crash),
    ("restart", "Daemons killed, restarted", restart),
    ("roll", "All pods rolled", roll),
    ("gateway_kill_again", "Gateway killed again, returns", gateway_kill_again),
]


FOREIGN_STEPS: list[tuple[str, str, Action]] = [
    *STEPS,
    ("speaker_restart", "A node's speaker killed, restarted", speaker_restart),
]


def chosen(
    names: tuple[str, ...] | None, speaker: Speaker = "agent", source: Source = "manifests"
) -> list[tuple[str, str, Action]]:
    """The steps of these names, in the scenario's order. Raises ValueError."""
    steps = list(STEPS if speaker == "agent" else FOREIGN_STEPS)
    if source == "api-server" and speaker == "agent":
        steps += CLUSTER_STEPS
    known = [name for name, _, _ in steps]
    for name in names or ():
        if name not in known:
            raise ValueError(f"no step {name!r}: there are {', '.join(known)}")
    return [step for step in steps if names is None or step[0] in names]

"""What a run found, with the names that its JSON has. Pure data and the judgement on it.

Written by `lab.scenario`, judged by `checks`, shown by `lab.table` and `lab.report`. A field's
docstring is its definition: docs/lab.md repeats them.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

GATEWAY_SHARE_MIN = 0.4
LAGS_BELOW = 0.8
"""A node with less than this part of its fair share of new connections is said to lag."""
DRAINS_STILL = 0.02
"""And one that drains is said to get more than this of new connections."""
NOISE = 3.5
"""Standard deviations: one share in two thousand is farther from what it should be by chance."""
BUSY = "they fall into buckets of its that are busy"

Dataplane = Literal["kernel", "plain", "bpf"]


class Step(msgspec.Struct, kw_only=True):
    """One step. Each broken connection is counted once, in the first class that fits."""

    step: str
    title: str
    started_s: float
    """Since the run began."""
    seconds: float
    broken_own: int = 0
    """Their pod was on the node that was removed or crashed in this step."""
    broken_silent: int = 0
    """They had been silent for longer than idle_timer."""
    broken_in_move: int = 0
    """A gateway was killed while their bucket had different owners on the gateways."""
    broken_others: int = 0
    """Everything else."""
    broken_why: dict[str, int] = {}
    """How many ended how, over all classes."""
    finished: int = 0
    """Closed by FIN, within their pod's grace, between two exchanges."""
    held: int = 0
    """Connections that were held when the step began."""
    silent: int = 0
    """Of these, silent until the step's end."""
    own_nodes: list[str] = []
    longest_stall_s: float = 0.0
    """The longest time that any connection which lived on waited for an answer."""
    new_connections: int = 0
    new_failed: int = 0
    shares_before: dict[str, float] = {}
    """Share of new connections by node."""
    shares_after: dict[str, float] = {}
    shares_at_once: dict[str, float] = {}
    """The same as soon as kernel = target, in steps that change who serves (BPF data plane)."""
    fair: dict[str, float] = {}
    """What each node should have of new connections after the step."""
    buckets_moved: int = 0
    """Buckets whose owner is another after the step than before, over gateways and families."""
    buckets_not_busy: int = 0
    """Buckets, over families, in which no busy connection was held when the step began."""
    moves_waiting: int = 0
    """Moves in progress at the end of the step."""
    converge_s: float | None = None
    """From the change until every gateway's kernel was as its target, but for moves in wait."""
    gateways_agree: bool = False
    """At the end of the step all gateways had the same tables."""
    digests: dict[str, dict[str, str]] = {}
    strips_before: dict[str, dict[str, str]] = {}
    """By gateway and family, the owner of each bucket: one character, an index into `nodes`."""
    strips_after: dict[str, dict[str, str]] = {}
    machine_pause_s: float = 0.0
    """The longest time in which nothing at all ran on this machine."""
    sessions_lost: list[str] = []
    """BGP sessions that were lost though the step asked for no such thing."""
    notes: list[str] = []

    @property
    def broken(self) -> int:
        return self.broken_own + self.broken_others + self.broken_silent + self.broken_in_move


class Check(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    passed: bool
    found: str


class Run(msgspec.Struct, kw_only=True):
    """One run of one scenario."""

    scenario: str
    dataplane: Dataplane
    connections: int
    idle_timer_s: float
    hold_time_s: int
    buckets: int
    kernel: str
    """`uname -r`."""
    upstream: str
    gateways: list[str]
    nodes: list[str]
    seconds: float = 0.0
    gateway_shares: list[dict[str, float]] = []
    """The share of the held connections that each gateway carried, at each time it was measured."""
    steps: list[Step] = []
    checks: list[Check] = []
    passed: bool = False

    def step(self, name: str) -> Step | None:
        return next((s for s in self.steps if s.step == name), None)


def judge(run: Run) -> None:
    """Fill in `checks` and `passed`."""
    run.checks = checks(run)
    run.passed = all(check.passed for check in run.checks)


def checks(run: Run) -> list[Check]:
    """What is required. The control is only required to be a fair one."""
    found = [_machine(run), _gateways_share(run), _sessions(run)]
    if run.dataplane != "plain":
        found += [_others(run), _moves(run), _new_connections(run), _agree(run)]
    if run.dataplane == "bpf":
        found += [_silent(run), _at_once(run)]
    return found


def _gateways_share(run: Run) -> Check:
    lowest = min((s for m in run.gateway_shares for s in m.values()), default=0.0)
    return Check(
        name=f"each gateway carries at least {GATEWAY_SHARE_MIN:.0%} of the connections",
        passed=lowest >= GATEWAY_SHARE_MIN,
        found=f"the least was {lowest:.0%}",
    )


def _machine(run: Run) -> Check:
    """Hold timers run on while a virtual machine is paused: such a run proves nothing."""
    limit_s = run.hold_time_s / 3
    bad = [
        f"{s.machine_pause_s:.1f} s in {s.step}" for s in run.steps if s.machine_pause_s > limit_s
    ]
    return Check(
        name=f"the machine never stood still for longer than {limit_s:.0f} s",
        passed=not bad,
        found=f"{', '.join(bad)}: run it again" if bad else "it did not",
    )


def _sessions(run: Run) -> Check:
    lost = [text for step in run.steps for text in step.sessions_lost]
    return Check(
        name="no BGP session is lost that no step asked for",
        passed=not lost,
        found="; ".join(lost) or "none was",
    )


def _others(run: Run) -> Check:
    bad = [f"{s.broken_others} in {s.step}" for s in run.steps if s.broken_others]
    return Check(
        name="broken_others is 0 in every step",
        passed=not bad and bool(run.steps),
        found=", ".join(bad) or "0",
    )


def _moves(run: Run) -> Check:
    counts = {s.step: s.buckets_moved for s in run.steps if s.step in ("add", "drain")}
    return Check(
        name="buckets move in add and in drain",
        passed=all(counts.values()),
        found=", ".join(f"{n} in {step}" for step, n in counts.items()) or "neither step was run",
    )


def _new_connections(run: Run) -> Check:
    bad = [f"{s.new_failed} in {s.step}" for s in run.steps if s.new_failed]
    return Check(
        name="no new connection fails once a step has converged",
        passed=not bad,
        found=", ".join(bad) or "none did",
    )


def _agree(run: Run) -> Check:
    """Promise 4: with no move in progress, the gateways' tables are the same."""
    bad = [s.step for s in run.steps if not s.moves_waiting and not s.gateways_agree]
    return Check(
        name="gateways without moves in progress have the same tables",
        passed=not bad,
        found=f"not after {', '.join(bad)}" if bad else "they have",
    )


def _silent(run: Run) -> Check:
    """A transition lasts longer than anybody is silent here."""
    bad = [f"{s.broken_silent} in {s.step}" for s in run.steps if s.broken_silent]
    return Check(
        name="broken_silent is 0 in every step", passed=not bad, found=", ".join(bad) or "0"
    )


def _at_once(run: Run) -> Check:
    """New connections follow the new table as soon as it is there, busy buckets or not."""
    bad = []
    for step in run.steps:
        for node, share in step.shares_at_once.items():
            fair = step.fair.get(node, 0.0)
            noise = NOISE * (fair * (1 - fair) / max(1, step.new_connections)) ** 0.5
            if abs(share - fair) > noise + 1 / run.buckets:
                bad.append(f"{node} had {share:.1%} instead of {fair:.1%} in {step.step}")
    return Check(
        name="new connections have their new shares at once",
        passed=not bad,
        found="; ".join(bad) or "all within the noise of sampling",
    )


def lagging(step: Step) -> list[str]:
    """Where a node gets clearly less than its fair share of new connections, and why that is."""
    told = []
    for node, fair in step.fair.items():
        share = step.shares_after.get(node, 0.0)
        if fair and share < LAGS_BELOW * fair:
            why = (
                f"{step.moves_waiting} buckets are busy and wait to be idle"
                if step.moves_waiting
                else "no move is in wait"
            )
            told.append(
                f"{node} gets {share:.0%} of new connections where {fair:.0%} is its fair "
                f"share: {why}"
            )
    for node, share in step.shares_after.items():
        if node not in step.fair and share > DRAINS_STILL:
            told.append(f"{node} drains, and still gets {share:.0%} of new connections: {BUSY}")
    return told


def encode(run: Run) -> bytes:
    return msgspec.json.format(msgspec.json.encode(run), indent=1)


def decode(text: bytes) -> Run:
    """Raises ValueError."""
    return msgspec.json.decode(text, type=Run)


def plain(run: Run) -> dict[str, Any]:
    found = msgspec.to_builtins(run)
    assert isinstance(found, dict)
    return found

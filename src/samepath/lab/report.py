"""The report page: one HTML file, plots inside, nothing fetched from anywhere.

`write` is called by `lab.run` and `lab.demo` with a run and, if there is one, its control.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

from samepath.lab.results import Check, Run, Step, encode
from samepath.lab.state import replace

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #222; background: #fff; margin: 0; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.5rem 5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; }
p { max-width: 46rem; } .lead { color: #555; margin-top: 0; }
.facts { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.4rem 0; }
.facts div { background: #f4f6f8; border-radius: .5rem; padding: .7rem 1rem; min-width: 9rem; }
.facts b { display: block; font-size: 1.5rem; line-height: 1.2; }
.facts span { color: #555; font-size: .85rem; }
figure { margin: 1rem 0; overflow-x: auto; } figure svg { width: 100%; height: auto; }
figcaption { color: #555; font-size: .9rem; max-width: 46rem; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
.wide { overflow-x: auto; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid #e4e4e4; }
th:first-child, td:first-child { text-align: left; } thead th { color: #555; font-weight: 600; }
.good { color: #1a7a2e; } .bad { color: #c02010; font-weight: 600; }
ul { padding-left: 1.2rem; } li { margin: .2rem 0; max-width: 52rem; }
code { background: #f4f6f8; padding: 0 .25rem; border-radius: .2rem; }
"""


def write(folder: Path, run: Run, control: Run | None = None) -> Path:
    """The page, and the runs as JSON beside it. The page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    replace(page, html(run, control).encode())
    replace(folder / f"{run.scenario}-{run.dataplane}.json", encode(run))
    if control is not None:
        replace(folder / f"{control.scenario}-{control.dataplane}.json", encode(control))
    return page


def html(run: Run, control: Run | None = None) -> str:
    from samepath.lab import plots

    title = "Which connections survive"
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="lead">{escape(_subtitle(run))}</p>',
        _facts(run, control),
        "<h2>Connections broken, step by step</h2>",
        _figure(plots.broken(run, control), _broken_caption(run, control)),
        "<h2>Who gets the new connections</h2>",
        _figure(
            plots.shares(run),
            f"{run.steps[0].new_connections if run.steps else 0} new connections before and after "
            "each step, by node. Black lines: fair shares after the step.",
        ),
        _lags(run),
        "<h2>Who owns which bucket</h2>",
        _figure(
            plots.strips(run),
            f"The {run.buckets} buckets of the IPv4 service, as each gateway's kernel has them. "
            "Each step has its buckets in the order of their owners before it, so what moved "
            "stands together; with no move in wait both gateways show the same.",
        ),
        "<h2>All figures</h2>",
        _table(run),
        *([] if control is None else ["<h3>The control</h3>", _table(control)]),
        "<h2>What was required</h2>",
        _checks("Samepath", run.checks),
        *([] if control is None else [_checks("The control", control.checks)]),
        "<h2>How it was measured</h2>",
        _method(run),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Samepath: {escape(title.lower())}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _subtitle(run: Run) -> str:
    return (
        f"Scenario {run.scenario}: {run.connections} held TCP connections, half of them IPv6, "
        f"through {len(run.gateways)} gateways to {len(run.nodes)} nodes in network namespaces; "
        f"upstream router {run.upstream.upper()}, Linux {run.kernel}, {run.seconds:.0f} s."
    )


def _facts(run: Run, control: Run | None) -> str:
    others = sum(s.broken_others for s in run.steps)
    facts = [
        (str(others), "unconcerned connections broken by Samepath"),
        *(
            []
            if control is None
            else [
                (
                    str(sum(s.broken_others for s in control.steps)),
                    f"broken by plain ECMP in {len(control.steps)} steps",
                )
            ]
        ),
        (str(sum(s.buckets_moved for s in run.steps)), "buckets moved"),
        (f"{max((s.longest_stall_s for s in run.steps), default=0):.1f} s", "longest stall"),
        ("passed" if run.passed else "failed", "all that was required"),
    ]
    return (
        '<div class="facts">'
        + "".join(f"<div><b>{escape(a)}</b><span>{escape(b)}</span></div>" for a, b in facts)
        + "</div>"
    )


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _broken_caption(run: Run, control: Run | None) -> str:
    text = (
        "Grey connections ended on a node that the step itself took away: nothing can save them. "
        f"Yellow ones had said nothing for longer than idle_timer ({run.idle_timer_s:g} s), the "
        "price of the kernel data plane. Red ones had nothing to do with the step."
    )
    if control is not None and len(control.steps) < len(run.steps):
        text += " The control took fewer steps."
    if control is not None and control.connections != run.connections:
        text += " The control held another number of connections: compare parts, not counts."
    return text


def _lags(run: Run) -> str:
    notes = [(s, note) for s in run.steps for note in s.notes]
    if not notes:
        return "<p>No node lagged behind its fair share.</p>"
    items = "".join(f"<li><b>{escape(s.title)}:</b> {escape(n)}</li>" for s, n in notes)
    return (
        "<p>To be said plainly: a busy bucket is never taken from a living node, so a node that "
        "was added gets its share only as buckets become idle, and a draining node keeps getting "
        f"new connections in those buckets of its that are busy.</p><ul>{items}</ul>"
    )


COLUMNS: tuple[tuple[str, Callable[[Step], str]], ...] = (
    ("step", lambda s: escape(s.title)),
    ("held", lambda s: str(s.held)),
    ("own", lambda s: str(s.broken_own)),
    ("others", lambda s: _sign(s.broken_others)),
    ("silent", lambda s: str(s.broken_silent)),
    ("in move", lambda s: str(s.broken_in_move)),
    ("ended by FIN", lambda s: str(s.finished)),
    ("longest stall", lambda s: f"{s.longest_stall_s:.2f} s"),
    ("buckets moved", lambda s: str(s.buckets_moved)),
    ("moves in wait", lambda s: str(s.moves_waiting)),
    ("kernel = target after", lambda s: "" if s.converge_s is None else f"{s.converge_s:.2f} s"),
    ("gateways agree", lambda s: "yes" if s.gateways_agree else "no"),
    ("new failed", lambda s: f"{s.new_failed} of {s.new_connections}"),
)


def _sign(count: int) -> str:
    return f'<span class="{"bad" if count else "good"}">{count}</span>'


def _table(run: Run) -> str:
    head = "".join(f"<th>{name}</th>" for name, _ in COLUMNS)
    rows = "".join(_row(step) for step in run.steps)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _row(step: Step) -> str:
    return "<tr>" + "".join(f"<td>{show(step)}</td>" for _, show in COLUMNS) + "</tr>"


def _checks(who: str, checks: list[Check]) -> str:
    items = "".join(
        f'<li><span class="{"good" if c.passed else "bad"}">{"✓" if c.passed else "✗"}</span> '
        f"{escape(c.name)}: {escape(c.found)}</li>"
        for c in checks
    )
    return f"<p>{escape(who)}:</p><ul>{items}</ul>"


def _reader(run: Run) -> str:
    if run.dataplane == "bpf":
        return "from each gateway's BPF maps"
    return "with iproute2 from each gateway's kernel"


def _method(run: Run) -> str:
    shares = "; ".join(
        ", ".join(f"{g} {share:.0%}" for g, share in found.items()) for found in run.gateway_shares
    )
    texts = [
        "Gateways and agents are the real programs, each a process in its own network namespace; "
        f"BGP with a hold time of {run.hold_time_s} s; real kernel routes, real TCP.",
        "Each connection exchanges octets again and again with the very pod that it began with, "
        "and checks the pod's name, a token of its own, the octets and their count. Reset, end of "
        "file, no answer within 20 s, or an answer from anybody else is broken.",
        "One connection in twenty stays silent from a step's beginning to its end, and is then "
        "checked like the others. Every broken connection is counted once and replaced.",
        f"Connections per gateway, counted on the upstream router: {shares or 'not measured'}.",
        f"Buckets are read {_reader(run)}, not from Samepath's own word.",
        "The control differs in one line of the gateways' configuration: dataplane plain, the "
        "kernel's own multipath group, rebuilt on each change as routing daemons do.",
    ]
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"

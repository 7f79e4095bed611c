"""The report's plots, as SVG text. matplotlib is imported here and nowhere else.

Colours follow the node or the class through all plots. One function a plot; each takes runs and
gives a string for `lab.report` to embed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from samepath.lab.results import Run, Step
from samepath.lab.scenario import ALPHABET

NODE_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb",
                "#332288", "#999933", "#882255")  # fmt: skip
"""Paul Tol's bright scheme, distinct to the colour-blind, and three more."""
OURS = "#228833"
CONTROL = "#cc3311"
CLASSES = (
    ("broken_others", "others: nothing to do with the step", "#cc3311"),
    ("broken_in_move", "a gateway died while their bucket moved", "#ee7733"),
    ("broken_silent", "silent for longer than idle_timer", "#ccbb44"),
    ("broken_own", "own: their pod's node is gone", "#bbbbbb"),
)

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "samepath",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def broken(run: Run, control: Run | None) -> str:
    """Connections broken per step and class; the control beside, where there is one."""
    runs = [r for r in (run, control) if r is not None]
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(runs), figsize=(5.6 * len(runs), 0.44 * len(run.steps) + 1.5),
            sharey=True, sharex=True, squeeze=False, layout="constrained",
        )  # fmt: skip
        for axis, one in zip(axes[0], runs, strict=True):
            _broken_bars(axis, run, one)
        axes[0][0].set_yticks(range(len(run.steps)), [s.title for s in run.steps])
        axes[0][0].invert_yaxis()
        figure.legend(
            handles=[Patch(color=colour, label=label) for _, label, colour in CLASSES],
            loc="outside lower center", ncols=2, frameon=False,
        )  # fmt: skip
        return _svg(figure)


def _broken_bars(axis: Any, steps_of: Run, one: Run) -> None:
    most = 0
    for row, wanted in enumerate(steps_of.steps):
        step = one.step(wanted.step)
        if step is None:
            axis.text(0, row, " not run", va="center", color="#888888")
            continue
        left = 0
        for name, _, colour in CLASSES:
            count = getattr(step, name)
            axis.barh(row, count, left=left, color=colour, height=0.62)
            left += count
        most = max(most, left)
        axis.text(left, row, f"  {step.broken_others} others" + _of_all(step), va="center",
                  fontsize=8.5, color="#333333")  # fmt: skip
    who = "Samepath" if one.dataplane != "plain" else "control: the kernel's plain ECMP"
    axis.set_title(f"{who}, {one.connections} connections", loc="left", fontsize=10.5)
    axis.set_xlabel("connections broken")
    axis.set_xlim(0, max(axis.get_xlim()[1], most * 1.35, 10))
    axis.grid(axis="x", color="#e4e4e4")


def _of_all(step: Step) -> str:
    return f" of {step.held}" if step.broken_others else ""


def strips(run: Run, family: str = "ipv4") -> str:
    """Who owns which bucket before and after each step, on every gateway.

    Within a step the buckets stand in the order of their owners on the first gateway, before and
    then after, the same order in each of the step's rows: what moved stands together.
    """
    steps = [s for s in run.steps if s.strips_after]
    rows = 2 * len(run.gateways)
    colours = ListedColormap([*_colours(run).values(), "#ffffff"])
    with mpl.rc_context(STYLE):
        height = 0.24 * rows * len(steps) + 0.22 * len(steps) + 1.2
        figure, axes = plt.subplots(
            len(steps), 1, figsize=(11, height), sharex=True, squeeze=False, layout="constrained"
        )
        for axis, step in zip(axes[:, 0], steps, strict=True):
            _strip_rows(axis, run, step, family, colours)
        axes[-1, 0].set_xlabel(
            f"all {run.buckets} buckets ({family}), in the order of their owners before the step"
        )
        figure.legend(
            handles=_node_patches(run, steps), loc="outside upper center", ncols=10, frameon=False
        )
        return _svg(figure)


def _strip_rows(axis: Any, run: Run, step: Step, family: str, colours: Any) -> None:
    found = []
    labels = []
    for gateway in run.gateways:
        for when, strips in (("before", step.strips_before), ("after", step.strips_after)):
            text = strips.get(gateway, {}).get(family, "")
            found.append(_codes(text, len(run.nodes), run.buckets))
            labels.append(f"{gateway} {when}")
    order = np.lexsort((found[1], found[0]))
    rows = np.array(found)[:, order]
    axis.imshow(
        rows, aspect="auto", cmap=colours, vmin=0, vmax=len(run.nodes), interpolation="nearest"
    )
    axis.set_yticks(range(len(labels)), labels, fontsize=7.5)
    axis.hlines(np.arange(0.5, len(labels) - 1), -0.5, run.buckets - 0.5, color="white", lw=1.5)
    axis.tick_params(length=0)
    axis.set_title(step.title, loc="left", fontsize=9.5)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _codes(text: str, unknown: int, buckets: int) -> Any:
    codes = [ALPHABET.find(sign) if sign in ALPHABET else unknown for sign in text]
    return np.array(codes if len(codes) == buckets else [unknown] * buckets)


def shares(run: Run) -> str:
    """The share of new connections by node before and after each step, with the fair share."""
    steps = run.steps
    colours = _colours(run)
    with mpl.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(11, 3.9), layout="constrained")
        for index, step in enumerate(steps):
            for offset, found in ((-0.2, step.shares_before), (0.2, step.shares_after)):
                _stack(axis, index + offset, found, run.nodes, colours)
            bottom = 0.0
            for share in [step.fair.get(n, 0.0) for n in run.nodes]:
                bottom += share
                if 0 < bottom < 0.999:
                    axis.hlines(bottom, index + 0.02, index + 0.38, color="black", linewidth=1.1)
        labels = [f"{s.step.replace('_', ' ')}\nbefore | after" for s in steps]
        axis.set_xticks(range(len(steps)), labels, fontsize=8.5)
        axis.set_ylabel("share of new connections")
        axis.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
        axis.set_ylim(0, 1)
        figure.legend(handles=_node_patches(run, steps), loc="outside upper center",
                      ncols=10, frameon=False)  # fmt: skip
        return _svg(figure)


def _stack(
    axis: Any, x: float, found: dict[str, float], nodes: Sequence[str], colours: dict[str, str]
) -> None:
    bottom = 0.0
    for node in nodes:
        share = found.get(node, 0.0)
        axis.bar(x, share, bottom=bottom, width=0.36, color=colours[node])
        if share > 0.04:
            axis.text(x, bottom + share / 2, f"{share:.0%}", ha="center", va="center",
                      fontsize=7, color="white")  # fmt: skip
        bottom += share


def _colours(run: Run) -> dict[str, str]:
    return {n: NODE_COLOURS[i % len(NODE_COLOURS)] for i, n in enumerate(run.nodes)}


def _node_patches(run: Run, steps: Sequence[Step]) -> list[Patch]:
    """The legend: nodes that had anything in these steps."""
    seen = {n for s in steps for n in (*s.shares_before, *s.shares_after)}
    return [Patch(color=c, label=node) for node, c in _colours(run).items() if node in seen]


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    # Only the element itself goes into the page, and it takes the page's width.
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    return re.sub(r'<svg ([^>]*?)width="[^"]+" ?', r"<svg \1", svg, count=1).replace(
        'height="', 'data-height="', 1
    )

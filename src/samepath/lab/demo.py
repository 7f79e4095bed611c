"""`make demo`: survival with Samepath, then the same with plain ECMP, tables, and a report page."""

from __future__ import annotations

import os
import sys
from pathlib import Path

STEPS_OF_CONTROL = ("add", "drain", "remove", "crash")
"""Where plain ECMP and Samepath differ; what they share need not be shown twice."""
CONNECTIONS = 2000
REPORT = Path("report")
NAME = "samepath-demo"


def main() -> int:
    """0 when everything that is required was so."""
    if os.geteuid() != 0:
        print("The demo makes network namespaces, so it needs root: sudo make demo")
        return 1
    from rich.console import Console

    from samepath.lab.report import write
    from samepath.lab.run import alone, measure
    from samepath.lab.state import LabError
    from samepath.lab.table import compare, show
    from samepath.lab.topology import Spec
    from samepath.lab.traffic import TrafficError

    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(
        "Two gateways, four nodes and two spare ones, eight pods, three clients and a BIRD router, "
        f"each a network namespace of its own; {CONNECTIONS} TCP connections. "
        "It takes about five minutes."
    )
    spec = Spec()
    try:
        with alone(NAME):
            ours = measure(NAME, spec, "kernel", CONNECTIONS, None, False, console)
            show(console, ours)
            plain = measure(NAME, spec, "plain", CONNECTIONS, STEPS_OF_CONTROL, False, console)
    except (LabError, TrafficError) as error:
        console.print(f"[red]The demo failed:[/] {error}")
        return 1
    show(console, plain)
    compare(console, ours, plain)
    page = write(REPORT, ours, plain)
    console.print(f"\nThe report: [bold]{page.resolve()}[/]", highlight=False)
    return 0 if ours.passed and plain.passed else 1


if __name__ == "__main__":
    sys.exit(main())

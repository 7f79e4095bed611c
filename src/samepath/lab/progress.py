"""What is happening now, and since when: one line that changes on a terminal, or plain lines.

Used by `lab.run`. A terminal gets rich's spinner, a log gets each step and each finding once.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from samepath.lab.results import Step

if TYPE_CHECKING:
    from rich.console import Console


PAUSE_WORTH_TELLING_S = 1.0


class Progress:
    """A context; `tell` may be called at any rate."""

    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self.title = title
        self.began = time.monotonic()
        self.status = console.status("", spinner="dots") if console.is_terminal else None
        self.last = ""

    def __enter__(self) -> Progress:
        self.console.print(f"[bold]{self.title}[/]")
        if self.status:
            self.status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.status:
            self.status.stop()

    def tell(self, text: str) -> None:
        """What is happening now."""
        elapsed = time.monotonic() - self.began
        if self.status:
            self.status.update(f"{elapsed:4.0f} s  {text}")
        elif (kind := text.partition(",")[0]) != self.last:
            # Counting down is for terminals: a log has each kind of line once in a row.
            self.last = kind
            self.console.print(f"  {elapsed:4.0f} s  {text}", highlight=False)

    def told(self, step: Step) -> None:
        """A step is done."""
        found = (
            f"own {step.broken_own}, others {step.broken_others}, silent {step.broken_silent}, "
            f"in move {step.broken_in_move}"
        )
        sign = "[green]✓[/]" if not (step.broken_others or step.sessions_lost) else "[red]✗[/]"
        self.console.print(
            f"  {sign} {step.title}: broken {found}; {step.buckets_moved} buckets moved, longest "
            f"stall {step.longest_stall_s:.1f} s [dim]({step.seconds:.0f} s)[/]",
            highlight=False,
        )
        if step.machine_pause_s > PAUSE_WORTH_TELLING_S:
            self.console.print(
                f"      [yellow]this machine stood still for {step.machine_pause_s:.1f} s[/]"
            )
        for note in (*step.sessions_lost, *step.notes):
            self.console.print(f"      [dim]{note}[/]", highlight=False)

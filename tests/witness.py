"""Whether the machine held a test up: then a promise about time was not put to the test.

A test that says "within a second" or "no false alarm" speaks about Samepath, and a virtual machine
that is paused for a second breaks it all the same. `steadily` has a witness beside the attempt
(`samepath.lab.pause`), a thread that asks for nothing but to go on; only an attempt that fails
while the witness, too, was held up is made again.
"""

from __future__ import annotations

from collections.abc import Callable

from samepath.lab.pause import Pulse
from samepath.lab.state import LabError

ATTEMPTS = 5


def steadily(attempt: Callable[[], None], held_up_s: float, attempts: int = ATTEMPTS) -> None:
    """`held_up_s`: a pause that long may explain a failure. The last attempt counts as it is."""
    pulse = Pulse()
    try:
        for left in reversed(range(attempts)):
            pulse.take()
            try:
                attempt()
            except (AssertionError, LabError) as error:
                paused_s = pulse.take()
                if paused_s < held_up_s or not left:
                    raise
                print(f"again, for the machine stood still for {paused_s:.2f} s: {error}")
            else:
                return
    finally:
        pulse.end()

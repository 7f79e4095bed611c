"""Running another program: `nft` and `conntrack`, with an argument list, never through a shell.

Used by `apply.nft` and `apply.conntrack`. What a person has to read of a failure is in `ToolError`.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence

PATIENCE_S = 30.0
SAID = 2000
"""Characters of a tool's complaint that are kept."""


class ToolError(Exception):
    """The world's fault: the tool is missing, slow, or refuses. The text is for people."""


async def run(command: Sequence[str], stdin: str = "", *, fine: Sequence[int] = (0,)) -> str:
    """The standard output of `command`. Raises ToolError unless its exit status is in `fine`."""
    return await asyncio.to_thread(_run, command, stdin, fine)


def _run(command: Sequence[str], stdin: str, fine: Sequence[int]) -> str:
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except FileNotFoundError as error:
        raise ToolError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{' '.join(command)}: no end after {PATIENCE_S:.0f} s") from error
    except OSError as error:
        raise ToolError(f"{command[0]}: {error.strerror}") from error
    if done.returncode not in fine:
        said = (done.stderr or done.stdout).strip()[:SAID]
        raise ToolError(f"{' '.join(command)}: {said or f'exit status {done.returncode}'}")
    return done.stdout

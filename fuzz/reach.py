"""What an input reaches: pairs of lines of our own code that follow one another.

Plain Python (`sys.settrace`), so that choosing what is kept needs no fuzzer. Of many inputs the
shortest are taken that together reach all that any of them does.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import samepath
from fuzz.corpus import order

HOME = str(Path(samepath.__file__).parent)

Step = tuple[str, int, int]
Target = Callable[[bytes], None]


def reached(target: Target, data: bytes) -> set[Step]:
    """Steps from line to line; what the target raises is raised."""
    steps: set[Step] = set()

    def local(file: str, first: int) -> Callable[[FrameType, str, Any], Any]:
        last = first

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal last
            if event == "line":
                steps.add((file, last, frame.f_lineno))
                last = frame.f_lineno
            return trace

        return trace

    def call(frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(HOME):
            return None
        return local(code.co_filename[len(HOME) + 1 :], code.co_firstlineno)

    former = sys.gettrace()
    sys.settrace(call)
    try:
        target(data)
    finally:
        sys.settrace(former)
    return steps


def fewest(target: Target, inputs: Iterable[bytes]) -> tuple[list[bytes], set[Step]]:
    """A few inputs, short ones first, that reach all that the inputs do; and what that is."""
    all_steps: set[Step] = set()
    chosen: list[tuple[bytes, set[Step]]] = []
    for data in sorted(set(inputs), key=order):
        steps = reached(target, data)
        if steps - all_steps:
            all_steps |= steps
            chosen.append((data, steps))
    # Backwards: an input whose steps later ones reach as well is not needed.
    kept: list[bytes] = []
    covered: set[Step] = set()
    for data, steps in reversed(chosen):
        if steps - covered:
            covered |= steps
            kept.append(data)
    return kept[::-1], all_steps


def share(steps: Iterable[Step], files: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Of each file the lines within functions that were reached, and how many there are."""
    lines: dict[str, set[int]] = {}
    for file, _, line in steps:
        lines.setdefault(file, set()).add(line)
    found = {}
    for file in files:
        path = Path(HOME) / file
        whole = _lines(compile(path.read_text(), str(path), "exec"), is_module=True)
        found[file] = len(lines.get(file, set()) & whole), len(whole)
    return found


def _lines(code: CodeType, *, is_module: bool) -> set[int]:
    found = set() if is_module else {line for _, line in dis.findlinestarts(code) if line}
    found.discard(code.co_firstlineno)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            # Bodies of classes run at import, as modules do.
            found |= _lines(constant, is_module=not constant.co_flags & 0x0002)
    return found

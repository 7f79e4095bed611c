"""The kept inputs: one text file for each target, an input a line in base64, the shortest first."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"


def path_of(target: str) -> Path:
    return FOLDER / f"{target}.txt"


def load(target: str) -> list[bytes]:
    path = path_of(target)
    if not path.exists():
        return []
    return [base64.b64decode(line, validate=True) for line in path.read_text().splitlines()]


def save(target: str, inputs: Iterable[bytes]) -> None:
    lines = [base64.b64encode(data).decode() for data in sorted(set(inputs), key=order)]
    path_of(target).write_text("".join(f"{line}\n" for line in lines))


def order(data: bytes) -> tuple[int, bytes]:
    return len(data), data

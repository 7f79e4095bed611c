"""Files of passwords that came as objects: for the speaker, which reads passwords from files.

Called by `programs.routing`: `write` before the neighbours are made known to the speaker, `sweep`
after those that are gone were taken from it. `run_dir` is on a tmpfs, so no password comes to a
disk; the folder is for us alone (0700), each file too (0600), and it is replaced as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from samepath.plan.peers import PASSWORDS


class PasswordFiles:
    def __init__(self, run_dir: str) -> None:
        self._folder = Path(run_dir) / PASSWORDS
        self._written: dict[str, str] = {}
        """What stands in the files, as far as it is by us."""

    def write(self, passwords: Mapping[str, str]) -> bool:
        """By name. Whether anything was written. Raises OSError."""
        changed = {n: p for n, p in passwords.items() if self._written.get(n) != p}
        if changed:
            self._folder.mkdir(mode=0o700, exist_ok=True)
        for name, password in changed.items():
            fresh = self._folder / f".{name}"
            fresh.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(fresh, flags, 0o600), "w") as file:
                file.write(password)
            fresh.rename(self._folder / name)
            self._written[name] = password
        return bool(changed)

    def sweep(self, passwords: Mapping[str, str]) -> None:
        """Remove all but these, whoever has left them. Raises OSError."""
        self._written = {n: p for n, p in self._written.items() if n in passwords}
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.name not in passwords:
                path.unlink(missing_ok=True)

"""What is wrong with a source is said once in the log, and once more when it is in order again.

Used by every source after each change, with all that is wrong at the moment.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from samepath.kube.texts import one_line

SAID_AT_ONCE = 50
"""Lines of one kind; of more the number is said."""


class Said:
    def __init__(self, log: logging.Logger, what: str) -> None:
        """`what` is refused, or in order again: `manifest`."""
        self._log = log
        self._what = what
        self._said: frozenset[str] = frozenset()

    def say(self, wrong: Iterable[str]) -> None:
        """What is newly wrong, or no longer."""
        now = frozenset(map(one_line, wrong))
        news = ((logging.WARNING, "refused", now - self._said),)
        for level, word, texts in (*news, (logging.INFO, "in order again", self._said - now)):
            for text in sorted(texts)[:SAID_AT_ONCE]:
                self._log.log(level, "%s %s: %s", self._what, word, text)
            if len(texts) > SAID_AT_ONCE:
                self._log.log(level, "%s %s: %d more", self._what, word, len(texts) - SAID_AT_ONCE)
        self._said = now

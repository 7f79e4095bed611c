"""What was found wrong with the settings of the namespace, for `samepath status` and the log.

A finding is logged when it is new. What was set right stays to be seen; what is wrong is shown for
as long as it is.
"""

from __future__ import annotations

import logging

from samepath.apply.settings import Finding, Severity, enforce, gateway_settings, surroundings

log = logging.getLogger("samepath.gateway")

KEPT = 20
"""Of those that were set right, the last so many."""


class Findings:
    def __init__(self, *, is_beside_daemon: bool = False) -> None:
        self.is_beside_daemon = is_beside_daemon
        self._around: list[Finding] = []
        self._wrong: list[Finding] = []
        self._righted: list[Finding] = []
        self._data_plane: list[Finding] = []
        self._beside: list[Finding] = []

    @property
    def all(self) -> list[Finding]:
        return [*self._around, *self._data_plane, *self._beside, *self._wrong, *self._righted]

    def look_around(self) -> None:
        """At what no write can change."""
        found = list(surroundings(gateway=True))
        if self.is_beside_daemon:  # who has its own word on that
            found = [f for f in found if f.what != "FRR's zebra"]
        self._say(found, self._around)
        self._around = found

    def note(self, found: list[Finding]) -> None:
        """What `settle` found."""
        wrong = [f for f in found if f.severity is not Severity.INFO]
        righted = [f for f in found if f.severity is Severity.INFO]
        self._say(wrong, self._wrong)
        self._say(righted, [])
        self._wrong = wrong
        self._righted = [*(f for f in self._righted if f not in righted), *righted][-KEPT:]

    def about_data_plane(self, found: list[Finding]) -> None:
        """What is wrong with the BPF data plane."""
        self._say(found, self._data_plane)
        self._data_plane = found

    def about_daemon(self, found: list[Finding]) -> None:
        """What is wrong with the routes of the daemon that is our source."""
        self._say(found, self._beside)
        self._beside = found

    def _say(self, found: list[Finding], known: list[Finding]) -> None:
        for finding in found:
            if finding not in known:
                log.log(finding.level, "%s", finding.text)


def settle(hash_seed: int) -> list[Finding]:
    """Set what a gateway needs, in the namespace of the calling thread."""
    return list(enforce(gateway_settings(hash_seed)))

"""A container runtime in a page: executes a CNI plugin as the specification says, one call each.

libcni 1.1.2 knows neither GC nor STATUS; this does, and shows an answer as it came. Nothing is kept
between calls but what `Driver.results` holds, which stands for a runtime's cache.

Standard: CNI 1.1.0, sections 2 (execution protocol) and 4 (plugin delegation is not done here).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samepath.lab.netns import Namespace

LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a plugin answered: exit status and the document on its stdout; None: nothing."""

    status: int
    document: dict[str, Any] | None
    log: str
    """Its stderr."""

    @property
    def code(self) -> int | None:
        """The error's code, when it is one."""
        return None if self.status == 0 or self.document is None else self.document["code"]

    @property
    def addresses(self) -> list[str]:
        """Those of a result, without their prefix lengths."""
        assert self.status == 0, self
        assert self.document is not None
        return [entry["address"].partition("/")[0] for entry in self.document["ips"]]


@dataclass(slots=True)
class Driver:
    """One node's runtime, with one network of one plugin."""

    plugin: Path
    config: Mapping[str, Any]
    node: Namespace
    results: dict[tuple[str, str], Any] = field(default_factory=dict)

    def call(
        self,
        command: str,
        container: str = "",
        netns: str = "",
        ifname: str = "",
        args: str = "",
        **config: Any,
    ) -> Answer:
        environment = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": str(self.plugin.parent),
        }
        done = subprocess.run(
            self.node.command([str(self.plugin)]),
            input=json.dumps({**self.config, **config}).encode(),
            env=environment, capture_output=True, check=False, timeout=LIMIT_S,
        )  # fmt: skip
        document = json.loads(done.stdout) if done.stdout.strip() else None
        return Answer(done.returncode, document, done.stderr.decode())

    def add(self, container: str, pod: Namespace, ifname: str = "eth0", args: str = "") -> Answer:
        answer = self.call("ADD", container, str(pod.path), ifname, args)
        if answer.status == 0:
            self.results[container, ifname] = answer.document
        return answer

    def check(self, container: str, pod: Namespace, ifname: str = "eth0") -> Answer:
        return self.call(
            "CHECK", container, str(pod.path), ifname, **self._previous(container, ifname)
        )

    def delete(self, container: str, pod: Namespace | None, ifname: str = "eth0") -> Answer:
        """Without a namespace when it is gone, as a runtime does after a restart."""
        netns = str(pod.path) if pod else ""
        answer = self.call("DEL", container, netns, ifname, **self._previous(container, ifname))
        if answer.status == 0:
            self.results.pop((container, ifname), None)
        return answer

    def collect(self, valid: Iterable[tuple[str, str]]) -> Answer:
        """GC: all attachments go but these (container, interface)."""
        attachments = [{"containerID": container, "ifname": ifname} for container, ifname in valid]
        return self.call("GC", **{"cni.dev/valid-attachments": attachments})

    def status(self) -> Answer:
        return self.call("STATUS")

    def version(self) -> Answer:
        """With the dummy values that libcni sends."""
        return self.call("VERSION", "dummy", "dummy", "dummy")

    def _previous(self, container: str, ifname: str) -> dict[str, Any]:
        result = self.results.get((container, ifname))
        return {} if result is None else {"prevResult": result}

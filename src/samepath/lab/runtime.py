"""The lab's container runtime, as far as the network goes: it executes the CNI plugin.

As a runtime does: the plugin runs in the node's namespace with the specification's environment, and
the configuration on its stdin; the result of ADD is kept and goes back with DEL; a plugin that says
"try again later" is asked again. The configuration is the file that a real runtime would read
(`cni.install`). Pods of many nodes are attached side by side. Called by `lab.running`.

Not done here: CHECK, GC and STATUS, which the tests call; chained plugins.

Standard: CNI 1.1.0, "Execution Protocol", "Lifecycle & Ordering", error code 11.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from samepath.lab import processes
from samepath.lab.netns import Namespace

IFNAME = "eth0"
VERSION = "1.1.0"
TRY_AGAIN = 11
AGAIN_S = 0.1
SIDE_BY_SIDE = 16
"""Plugins that run at one time."""

Command = Literal["ADD", "DEL"]


class AttachError(Exception):
    """The plugin refused, with its words."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod as a runtime knows it, before its network and after."""

    name: str
    space: Namespace
    node: Namespace
    plugin: Path
    network_list: Path
    """Of the node."""
    result: Path
    """Where the result of ADD is kept."""

    @property
    def container_id(self) -> str:
        return self.space.name


@dataclass(slots=True)
class _Call:
    sandbox: Sandbox
    command: Command
    child: subprocess.Popen[bytes]


def attach(lab: str, sandboxes: Iterable[Sandbox], limit_s: float) -> dict[str, list[str]]:
    """ADD for each; the addresses that each was given, by name. Raises AttachError.

    When one is refused the others have been attached, or not: their namespaces' end ends it all.
    """
    addresses = {}
    for sandbox, answer in _execute(lab, "ADD", sandboxes, limit_s):
        result = json.loads(answer)
        sandbox.result.write_bytes(answer)
        addresses[sandbox.name] = [entry["address"].partition("/")[0] for entry in result["ips"]]
    return addresses


def detach(lab: str, sandboxes: Iterable[Sandbox], limit_s: float) -> None:
    """DEL for each, whose namespace still stands. Raises AttachError."""
    for sandbox, _ in _execute(lab, "DEL", sandboxes, limit_s):
        sandbox.result.unlink(missing_ok=True)


def _execute(
    lab: str, command: Command, sandboxes: Iterable[Sandbox], limit_s: float
) -> Iterator[tuple[Sandbox, bytes]]:
    """Each one's answer, as they come in."""
    deadline = time.monotonic() + limit_s
    waiting = iter(sandboxes)
    while some := list(islice(waiting, SIDE_BY_SIDE)):
        while some:
            calls = [_start(lab, command, sandbox) for sandbox in some]
            some = []
            for call in calls:
                answer = _finish(call, deadline)
                if answer is None:
                    some.append(call.sandbox)
                else:
                    yield call.sandbox, answer
            if some:
                time.sleep(AGAIN_S)


def _start(lab: str, command: Command, sandbox: Sandbox) -> _Call:
    environment = {
        **processes.environment(lab),
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": sandbox.container_id,
        "CNI_NETNS": str(sandbox.space.path),
        "CNI_IFNAME": IFNAME,
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={sandbox.name}",
        "CNI_PATH": str(sandbox.plugin.parent),
    }
    child = subprocess.Popen(
        sandbox.node.command([str(sandbox.plugin)]), env=environment, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # it has ended, and says why
        child.stdin.write(_config(sandbox))
    child.stdin.close()
    child.stdin = None
    return _Call(sandbox, command, child)


def _config(sandbox: Sandbox) -> bytes:
    """What the plugin gets of the network list: its own part, with name and version."""
    document = json.loads(sandbox.network_list.read_bytes())
    ours = document["plugins"][0]
    config: dict[str, Any] = {"cniVersion": VERSION, "name": document["name"], **ours}
    if sandbox.result.exists():
        config["prevResult"] = json.loads(sandbox.result.read_bytes())
    return json.dumps(config).encode()


def _finish(call: _Call, deadline: float) -> bytes | None:
    """The answer; None: try again later. Raises AttachError."""
    try:
        answer, log = call.child.communicate(timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        call.child.kill()
        call.child.wait(5)
        raise AttachError(f"{call.sandbox.name}: {call.command} gives no answer") from None
    if call.child.returncode == 0:
        return answer
    code, words = _error(answer)
    if code == TRY_AGAIN and time.monotonic() < deadline:
        return None
    raise AttachError(
        f"{call.sandbox.name}: {call.command} refused: {words or log.decode(errors='replace')}"
    )


def _error(answer: bytes) -> tuple[int | None, str]:
    try:
        document = json.loads(answer)
    except ValueError:
        return None, ""
    words: Sequence[str] = [str(document.get(key, "")) for key in ("msg", "details")]
    return document.get("code"), "; ".join(word for word in words if word)

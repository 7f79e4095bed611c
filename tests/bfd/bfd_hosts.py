"""A program's end of BFD in a namespace of its own: `Process` on an event loop in a thread."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from samepath.bfd.process import Process
from samepath.bfd.wire import View, Want
from samepath.lab.netns import Namespace, veth
from samepath.netlink.socket import in_namespace

OURS, THEIRS = "10.0.0.1", "10.0.0.2"
OURS_V6, THEIRS_V6 = "2001:db8::1", "2001:db8::2"
T = TypeVar("T")


def wait(condition: Callable[[], object], what: str, limit_s: float = 45.0) -> float:
    """How long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s, f"not within {limit_s} s: {what}"
        time.sleep(0.005)
    return time.monotonic() - began


@contextmanager
def two_hosts(name: str) -> Iterator[tuple[Namespace, Namespace]]:
    """Joined by a cable `eth0`, IPv4 and IPv6."""
    names = [f"spt-{os.getpid()}-{name}{n}" for n in (1, 2)]
    with Namespace(names[0]) as ours, Namespace(names[1]) as theirs:
        for host in (ours, theirs):
            host.sysctl(net__ipv6__conf__default__accept_dad=0)
        veth(ours, "eth0", theirs, "eth0")
        for host, v4, v6 in ((ours, OURS, OURS_V6), (theirs, THEIRS, THEIRS_V6)):
            host.ip("addr", "add", f"{v4}/24", "dev", "eth0")
            host.ip("addr", "add", f"{v6}/64", "dev", "eth0", "nodad")
        yield ours, theirs


@contextmanager
def cut(host: Namespace) -> Iterator[None]:
    """All that comes to and goes from a host is dropped, while its links stay up."""
    rules = "table inet cut {\n"
    for hook in ("input", "output", "forward"):
        rules += f"chain {hook} {{ type filter hook {hook} priority -300; policy drop; }}\n"
    host.run("nft", rules + "}")
    try:
        yield
    finally:
        host.run("nft", "delete table inet cut")


class Host:
    """A program that wants BFD sessions; `kill` and `start` are its crash and its restart."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self.namespace = namespace
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.happened: list[tuple[float, str, View, int]] = []
        self.wanted: dict[str, Want] = {}
        self.linger_s = 60.0
        self.pids: set[int] = set()
        self.process: Process
        self._thread: threading.Thread | None = None

    def start(self) -> Host:
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: in_namespace(
                self.namespace.path, lambda: asyncio.run(self._main(ready))
            ),
            daemon=True,
        )
        self._thread.start()
        assert ready.wait(30)
        self.want(self.wanted)
        return self

    async def _main(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._goodbye = False
        self.process = Process(str(self.folder), "test", changed=self._changed)
        task = asyncio.create_task(self.process.run())
        ready.set()
        await self._end.wait()
        task.cancel()
        await self.process.close(goodbye=self._goodbye)

    def _changed(self, name: str, view: View, losses: int) -> None:
        self.happened.append((time.monotonic(), name, view, losses))
        if self.process.pid is not None:
            self.pids.add(self.process.pid)

    def _call(self, what: Callable[[], T]) -> T:
        async def there() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(there(), self._loop).result(5)

    def want(self, wanted: dict[str, Want]) -> None:
        self.wanted = wanted
        self._call(lambda: self.process.want(wanted, self.linger_s))

    def counters(self) -> dict[str, Any]:
        ask: Coroutine[Any, Any, dict[str, Any]] = self.process.counters()
        return asyncio.run_coroutine_threadsafe(ask, self._loop).result(5)

    def view(self, name: str) -> View | None:
        return self.process.sessions.get(name)

    def is_up(self, *names: str) -> bool:
        views = [self.view(name) for name in names or self.wanted]
        return all(view is not None and view.is_up for view in views)

    def losses(self) -> int:
        return sum(losses for *_, losses in self.happened)

    def leave(self, *, goodbye: bool = False) -> None:
        """The program ends, as if killed unless it says goodbye; its BFD process may stay."""
        if self._thread is not None and self._thread.is_alive():
            self._goodbye = goodbye
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def kill_process(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """At the end of a test: the process, too."""
        pid = getattr(getattr(self, "process", None), "pid", None)
        self.leave(goodbye=True)
        for one in {*self.pids, pid} - {None}:
            wait(lambda one=one: not is_running(one), f"process {one} to end", 30)  # type: ignore[misc]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

"""The BPF data plane of a gateway: whether there is one, and its work in every pass.

`programs.gateway` makes one of these whatever the configuration says. With `dataplane: bpf` or
`auto` it opens the pinned maps (or makes them), drives `apply.bpf_services` and attaches the
program; where that cannot be, the kernel's groups go on by themselves, `why_not` says why, and it
is tried again. With `kernel` or `plain` it takes away what an earlier configuration left pinned:
when the kernel's groups are as they should be, and not before. Flows that are in transition then
move; that is logged.

Nothing is undone when the gateway ends: what is pinned goes on forwarding, and the next one adopts
it. Each `run_dir` has its own folder in bpffs, so that several gateways may be on one machine.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from samepath.apply.bpf_hops import release
from samepath.apply.bpf_links import Attachments
from samepath.apply.bpf_services import BpfServices
from samepath.apply.row import LOOK_AT_LEAST_S
from samepath.apply.settings import Finding, Severity
from samepath.bpf.dataplane import Dataplane
from samepath.bpf.errors import BpfError, Unavailable
from samepath.bpf.layout import Sizes
from samepath.model.config import GatewayConfig
from samepath.model.net import Address

if TYPE_CHECKING:
    from samepath.programs.gateway import Gateway

log = logging.getLogger("samepath.gateway")

BPFFS = Path("/sys/fs/bpf")
RETRY_S = 60.0
"""After this time it is tried again to load what could not be loaded."""
LINKS_AGAIN_S = 30.0
"""Others may have detached the program."""
FIRST = Sizes(services=4096, tables=64, hops=512)
"""The maps begin so large, and grow."""


def pin_folder(run_dir: str) -> Path:
    """Where maps, program and attachments of the gateway with this `run_dir` are pinned. Names in
    bpffs have no dots."""
    digest = hashlib.sha256(os.fsencode(os.path.realpath(run_dir))).hexdigest()[:12]
    return BPFFS / f"samepath-{digest}"


class Bpf:
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.driver: BpfServices | None = None
        self.folder = pin_folder(gateway.config.run_dir)
        self.links = Attachments(gateway.config.attach, gateway.config.attach_links)
        self.why_not = ""
        """Why the kernel's groups serve alone, in words; empty if they do not, or should."""
        self._links_at = -math.inf
        self._retry_at = -math.inf
        self._pause_until = -math.inf
        self._told: list[Finding] = []
        if self.is_wanted:
            _mount(BPFFS)
            self._open()

    @property
    def is_wanted(self) -> bool:
        return self.gateway.config.dataplane in ("bpf", "auto")

    @property
    def is_serving(self) -> bool:
        """Packets come to the maps."""
        return self.driver is not None and self.driver.is_serving

    @property
    def is_settled(self) -> bool:
        return self.driver is None or (self.driver.is_settled and not self.links.errors)

    @property
    def next_look(self) -> float:
        if self.driver is None:
            return self._retry_at
        # News that came while a pass was at work are for the next one, but not without a pause.
        return min(self._links_at, max(self.driver.next_look, self._pause_until))

    def adopted_hops(self) -> set[Address]:
        """The living next hops of the maps: more than those of the kernel's groups, which follow
        when a transition ends. Without their paths no table may be made."""
        hops = self.driver.hops.known.values() if self.driver is not None else ()
        return {hop.address for hop in hops if hop.alive}

    def neighbors_changed(self) -> None:
        if self.driver is not None:
            self.driver.neighbors_changed()

    def links_changed(self) -> None:
        self._links_at = -math.inf
        if self.driver is not None:
            self.driver.links_changed()

    def configure(self, config: GatewayConfig, former: GatewayConfig) -> None:
        """Take a changed configuration, which is the gateway's already."""
        self.links.names = config.attach_links
        self._links_at = -math.inf
        if self.driver is None:
            return
        self.driver.configure(
            idle_s=config.transition_idle_s, deadline_s=config.transition_deadline_s
        )
        sized = (config.hash_seed, config.flow_table_entries)
        if sized != (former.hash_seed, former.flow_table_entries):
            self.driver.reopen_soon(config.flow_table_entries)

    # the work

    def work(self) -> Iterator[None]:
        """What a pass does, in small steps."""
        now = time.monotonic()
        if not self.is_wanted:
            yield from self._remove(now)
            return
        if self.driver is None:
            if now < self._retry_at:
                return
            self._open()
            yield
        if self.driver is None:
            return
        if now >= self._links_at and self.driver.is_open:
            self._attach()
            yield
        yield from self.driver.work()
        self._pause_until = now + LOOK_AT_LEAST_S / 10
        self._tell()

    def _open(self) -> None:
        config, gateway = self.gateway.config, self.gateway
        sizes = replace(FIRST, buckets=config.buckets, flows=config.flow_table_entries)
        self._retry_at = time.monotonic() + RETRY_S
        try:
            self.driver = BpfServices(
                lambda sizes: Dataplane.open(self.folder, sizes, self.gateway.config.hash_seed),
                sizes,
                gateway.kernel,
                gateway.services,
                mode=config.attach,
                idle_s=config.transition_idle_s,
                deadline_s=config.transition_deadline_s,
            )
        except (BpfError, Unavailable) as error:
            if str(error) != self.why_not:
                log.error("no BPF data plane, the kernel's groups serve: %s", error)
            self.why_not = str(error)
            self._tell()
            return
        self.why_not = ""
        log.info("BPF data plane, pinned in %s: %s", self.folder, self.driver.opened)

    def _attach(self) -> None:
        driver = self.driver
        assert driver is not None
        had = set(self.links.stands)
        self.links.put(driver.plane, self.gateway.kernel.links())
        self._links_at = time.monotonic() + LINKS_AGAIN_S
        # Where a link is without it, flows are by the kernel's groups, and idle times are theirs.
        driver.is_serving = bool(self.links.stands) and not self.links.errors
        if had != set(self.links.stands):
            log.info("attached to %s", ", ".join(sorted(self.links.stands)) or "no link")

    def _remove(self, now: float) -> Iterator[None]:
        """What an earlier configuration left."""
        gateway = self.gateway
        if now < self._retry_at:
            return
        if not (self.folder / "current").is_symlink():
            self._retry_at = math.inf
            return
        self._retry_at = now + LOOK_AT_LEAST_S
        if not gateway.services.in_sync or gateway.is_behind:
            return
        self._retry_at = now + RETRY_S
        sizes = replace(FIRST, buckets=gateway.config.buckets)
        try:
            plane = Dataplane.open(self.folder, sizes, gateway.config.hash_seed)
            moving = len(plane.moving())
            plane.remove()
            release(gateway.kernel)
        except (BpfError, Unavailable, OSError) as error:
            self.why_not = f"what is left of the BPF data plane could not be removed: {error}"
            log.error("%s", self.why_not)
            self._tell()
            return
        self._retry_at = math.inf
        self.why_not = ""
        text = f"; {moving} buckets were in transition: some of their flows move" if moving else ""
        log.warning("the BPF data plane was taken away: the kernel's groups serve%s", text)
        self._tell()
        yield

    # what is wrong

    def _tell(self) -> None:
        found = list(self._findings())
        if found != self._told:
            self._told = found
            self.gateway.findings.about_data_plane(found)

    def _findings(self) -> Iterator[Finding]:
        config = self.gateway.config
        if self.why_not and config.dataplane != "auto":
            yield Finding(
                Severity.ERROR, f"dataplane: {config.dataplane}", self.why_not, "",
                "the kernel's groups serve: new next hops wait for idle buckets",
            )  # fmt: skip
        driver = self.driver
        if driver is None:
            return
        if driver.error:
            yield Finding(
                Severity.ERROR, "the maps", driver.error, "",
                "they may not be as desired; it is tried again",
            )  # fmt: skip
        for name, text in self.links.errors.items():
            yield Finding(
                Severity.ERROR, f"link {name}", text, "",
                "packets that arrive there take the kernel's own path",
            )  # fmt: skip
        for text in driver.hops.errors:
            yield Finding(
                Severity.WARNING, "neighbours", text, "", "its MAC may be found later than it could"
            )


def _mount(folder: Path) -> None:
    """Mount bpffs where it is not. If that is refused, `Dataplane.open` says what is missing."""
    with open("/proc/self/mountinfo") as lines:
        if any(line.split()[4] == str(folder) for line in lines):
            return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(folder), b"bpf", 0, None):
        log.warning("bpffs could not be mounted: %s", os.strerror(ctypes.get_errno()))
    else:
        log.info("bpffs mounted at %s", folder)

"""Other people's BGP speakers, each in a namespace of its own, asked for their own view.

Every peer has the address 10.0.0.2 and 2001:db8::2, the router id 10.0.0.2, and offers what
`OFFERED` says; our speaker is at 10.0.0.1 and 2001:db8::1. Files, sockets and logs of a daemon are
in the test's folder; what a daemon prints is in `log` there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from samepath.lab.netns import Namespace

OURS = "10.0.0.1"
THEIRS = "10.0.0.2"
OURS_V6 = "2001:db8::1"
THEIRS_V6 = "2001:db8::2"
HOLD_S = 3

OFFERED = ("10.2.0.0/24", "10.2.1.0/24", "2001:db8:2::/48")


@dataclass(frozen=True)
class Terms:
    """Who speaks with whom."""

    our_as: int
    their_as: int
    over_ipv6: bool = False
    restarts: bool = False
    """The daemon keeps forwarding while it restarts (RFC 4724)."""

    @property
    def ours(self) -> str:
        return OURS_V6 if self.over_ipv6 else OURS

    @property
    def theirs(self) -> str:
        return THEIRS_V6 if self.over_ipv6 else THEIRS


def wait(condition: Callable[[], object], what: str, limit_s: float = 45.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.02)


class Daemon(ABC):
    name: ClassVar[str]
    program: ClassVar[str]

    def __init__(self, namespace: Namespace, folder: Path, terms: Terms) -> None:
        self.namespace = namespace
        self.folder = folder
        self.terms = terms
        self._processes: list[subprocess.Popen[Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)

    @classmethod
    def is_installed(cls) -> bool:
        return shutil.which(cls.program) is not None or Path(cls.program).exists()

    @abstractmethod
    def start(self, *, restarted: bool = False) -> None:
        """Runs until `stop`; `restarted`: after `kill`, as its operator would start it again."""

    @abstractmethod
    def learned(self) -> dict[str, str]:
        """Prefix to next hop: what it has from us, in its own view."""

    @abstractmethod
    def withdraw(self, prefix: str) -> None: ...

    @abstractmethod
    def announce(self, prefix: str) -> None: ...

    @abstractmethod
    def shut_down(self) -> None:
        """Ends the session with a NOTIFICATION, and keeps it down."""

    @abstractmethod
    def is_established(self) -> bool: ...

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def spawn(self, *command: str, **environment: str) -> None:
        with (self.folder / "log").open("ab") as log:
            process = self.namespace.popen(
                *command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._processes.append(process)

    def ask(self, *command: str) -> str:
        return self.namespace.run(*command, check=False)

    def signal(self, number: signal.Signals) -> None:
        """To every process of the daemon, at once: its kernel stays, it does not."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def kill(self) -> None:
        """No goodbye: the kernel closes its sockets."""
        self.signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def stop(self) -> None:
        """At the end of a test; nothing of it stays."""
        self.kill()


class Frr(Daemon):
    name = "FRR"
    program = "/usr/lib/frr/bgpd"
    _run_folder: Path | None = None

    def start(self, *, restarted: bool = False) -> None:
        # zebra insists on being its own user, and that user cannot see into the test's folder.
        run = self._run_folder = self._run_folder or Path(tempfile.mkdtemp(prefix="spt-frr-"))
        shutil.chown(run, "frr", "frr")
        common = ("-u", "frr", "-g", "frr", "-z", f"{run}/zserv", "--vty_socket", str(run),
                  "-P", "0", "--log", "stdout")  # fmt: skip
        (run / "zserv").unlink(missing_ok=True)
        (run / "zebra.conf").write_text("")
        (run / "bgpd.conf").write_text(self._config())
        self.spawn("/usr/lib/frr/zebra", "-f", f"{run}/zebra.conf", "-i", f"{run}/zebra.pid",
                   *common)  # fmt: skip
        wait(lambda: (run / "zserv").exists(), "zebra")
        self.spawn(self.program, "-f", f"{run}/bgpd.conf", "-i", f"{run}/bgpd.pid", *common)

    def stop(self) -> None:
        super().stop()
        if self._run_folder is not None:
            shutil.rmtree(self._run_folder)
            self._run_folder = None

    def _config(self) -> str:
        peer, terms = self.terms.ours, self.terms
        networks = {4: "", 6: ""}
        restart = "bgp graceful-restart\n bgp graceful-restart preserve-fw-state"
        for prefix in OFFERED:
            networks[6 if ":" in prefix else 4] += f"  network {prefix}\n"
        # Without delay: else routes wait 5 s for their route-map, and End-of-RIB does not.
        return f"""
bgp route-map delay-timer 0
router bgp {terms.their_as}
 bgp router-id {THEIRS}
 {restart if terms.restarts else ""}
 no bgp ebgp-requires-policy
 no bgp network import-check
 no bgp default ipv4-unicast
 timers bgp 1 {HOLD_S}
 neighbor {peer} remote-as {terms.our_as}
 neighbor {peer} timers connect 1
 neighbor {peer} advertisement-interval 0
 address-family ipv4 unicast
{networks[4]}  neighbor {peer} activate
  neighbor {peer} soft-reconfiguration inbound
 exit-address-family
 address-family ipv6 unicast
{networks[6]}  neighbor {peer} activate
  neighbor {peer} route-map v6 out
 exit-address-family
route-map v6 permit 10
 set ipv6 next-hop global {THEIRS_V6}
"""

    def _vtysh(self, *commands: str) -> str:
        words = [word for command in commands for word in ("-c", command)]
        return self.ask("vtysh", "--vty_socket", str(self._run_folder), "-d", "bgpd", *words)

    def _configure(self, *commands: str) -> None:
        self._vtysh("configure terminal", f"router bgp {self.terms.their_as}", *commands)

    def learned(self) -> dict[str, str]:
        found = {}
        for family in ("ipv4", "ipv6"):
            text = self._vtysh(f"show bgp {family} unicast json")
            routes = json.loads(text).get("routes", {}) if text.startswith("{") else {}
            for prefix, paths in routes.items():
                for path in paths:
                    if path.get("peerId") == self.terms.ours:
                        found[prefix] = path["nexthops"][0]["ip"]
        return found

    def is_stale(self, prefix: str) -> bool:
        text = self._vtysh(f"show bgp ipv4 unicast {prefix} json")
        return '"stale":true' in text.replace(" ", "")

    def _network(self, prefix: str, no: str) -> None:
        family = "ipv6" if ":" in prefix else "ipv4"
        self._configure(f"address-family {family} unicast", f"{no}network {prefix}")

    def withdraw(self, prefix: str) -> None:
        self._network(prefix, "no ")

    def announce(self, prefix: str) -> None:
        self._network(prefix, "")

    def shut_down(self) -> None:
        self._configure(f"neighbor {self.terms.ours} shutdown")

    def is_established(self) -> bool:
        text = self._vtysh(f"show bgp neighbors {self.terms.ours} json")
        return '"bgpState":"Established"' in text.replace(" ", "")


class Bird(Daemon):
    name = "BIRD"
    program = "/usr/sbin/bird"

    def start(self, *, restarted: bool = False) -> None:
        config = self.write("bird.conf", self._config(OFFERED))
        recover = ("-R",) if restarted else ()
        self._offered = list(OFFERED)
        self.spawn(self.program, "-f", "-c", str(config), "-s", f"{self.folder}/ctl",
                   "-P", f"{self.folder}/pid", *recover)  # fmt: skip

    def _config(self, offered: Sequence[str]) -> str:
        terms = self.terms
        static = {4: "", 6: ""}
        for prefix in offered:
            static[6 if ":" in prefix else 4] += f"  route {prefix} blackhole;\n"
        return f"""
router id {THEIRS};
graceful restart wait 5;
protocol device {{ }}
protocol direct {{ ipv4; ipv6; }}
protocol static s4 {{ ipv4;
{static[4]} }}
protocol static s6 {{ ipv6;
{static[6]} }}
protocol bgp ours {{
  local {terms.theirs} as {terms.their_as};
  neighbor {terms.ours} as {terms.our_as};
  hold time {HOLD_S};
  connect delay time 1;
  connect retry time 1;
  error wait time 1, 1;
  graceful restart on;
  ipv4 {{ import all; export where source = RTS_STATIC; next hop address {THEIRS}; }};
  ipv6 {{ import all; export where source = RTS_STATIC; next hop address {THEIRS_V6}; }};
}}
"""

    def _birdc(self, *words: str) -> str:
        return self.ask("birdc", "-s", f"{self.folder}/ctl", *words)

    def learned(self) -> dict[str, str]:
        found: dict[str, str] = {}
        prefix = ""
        for line in self._birdc("show", "route", "protocol", "ours", "all").splitlines():
            words = line.split()
            if len(words) > 1 and "/" in words[0] and words[0][0].isalnum():
                prefix = words[0]
            elif prefix and line.strip().startswith("BGP.next_hop:"):
                found[prefix] = words[1]
        return found

    def _reconfigure(self) -> None:
        self.write("bird.conf", self._config(self._offered))
        assert "Reconfigur" in self._birdc("configure")

    def withdraw(self, prefix: str) -> None:
        self._offered.remove(prefix)
        self._reconfigure()

    def announce(self, prefix: str) -> None:
        self._offered.append(prefix)
        self._reconfigure()

    def shut_down(self) -> None:
        self._birdc("disable", "ours")

    def is_established(self) -> bool:
        return "Established" in self._birdc("show", "protocols", "ours")


class GoBgp(Daemon):
    name = "GoBGP"
    program = "/usr/bin/gobgpd"

    def start(self, *, restarted: bool = False) -> None:
        config = self.write("gobgpd.toml", self._config())
        flags = ("-r",) if restarted else ()
        self.spawn(self.program, "-f", str(config), "--api-hosts", "127.0.0.1:50051",
                   "--pprof-disable", *flags)  # fmt: skip
        wait(lambda: "65" in self._gobgp("global"), "gobgpd")
        for prefix in OFFERED:
            self.announce(prefix)

    def _config(self) -> str:
        terms = self.terms
        families = "".join(
            f"""
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "{family}-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
"""
            for family in ("ipv4", "ipv6")
        )
        return f"""
[global.config]
  as = {terms.their_as}
  router-id = "{THEIRS}"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "{terms.ours}"
    peer-as = {terms.our_as}
  [neighbors.timers.config]
    hold-time = {HOLD_S}
    keepalive-interval = 1
    connect-retry = 1
    idle-hold-time-after-reset = 1
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 20
{families}
"""

    def _gobgp(self, *words: str) -> str:
        return self.ask("gobgp", *words)

    def learned(self) -> dict[str, str]:
        found = {}
        for family in ("ipv4", "ipv6"):
            text = self._gobgp("neighbor", self.terms.ours, "adj-in", "-a", family, "-j")
            table = json.loads(text) if text.startswith("{") else {}
            if "error" in table:  # no session, no table
                continue
            for prefix, paths in table.items():
                for path in paths:
                    found[prefix] = next(a["nexthop"] for a in path["attrs"] if "nexthop" in a)
        return found

    def _rib(self, verb: str, prefix: str) -> None:
        v6 = ":" in prefix
        self._gobgp("global", "rib", "-a", "ipv6" if v6 else "ipv4", verb, prefix,
                    "nexthop", THEIRS_V6 if v6 else THEIRS)  # fmt: skip

    def withdraw(self, prefix: str) -> None:
        self._rib("del", prefix)

    def announce(self, prefix: str) -> None:
        self._rib("add", prefix)

    def shut_down(self) -> None:
        self._gobgp("neighbor", self.terms.ours, "disable")

    def is_established(self) -> bool:
        return "ESTABLISHED" in self._gobgp("neighbor", self.terms.ours, "-j").replace(
            '"session_state": 6', "ESTABLISHED"
        ).replace('"session_state":6', "ESTABLISHED")


_EXABGP_API = """#!/bin/sh
# What ExaBGP tells goes into one file, what it is told comes from a pipe.
# Opened for writing, too, the pipe has no end; ExaBGP's own end ends both.
cat 0<>"$FOLDER/say" &
cat >>"$FOLDER/heard"
kill $!
"""


class ExaBgp(Daemon):
    name = "ExaBGP"
    program = "/usr/sbin/exabgp"

    def start(self, *, restarted: bool = False) -> None:
        script = self.write("api", _EXABGP_API)
        script.chmod(0o755)
        say = self.folder / "say"
        if not say.exists():
            os.mkfifo(say)
        self.write("heard", "")
        config = self.write("exabgp.conf", self._config(script))
        self.spawn(
            self.program,
            str(config),
            FOLDER=str(self.folder),
            exabgp_api_cli="false",
            exabgp_daemon_drop="false",
            exabgp_log_destination="stdout",
            exabgp_reactor_speed="0.1",
        )
        for prefix in OFFERED:
            self.announce(prefix)

    def _config(self, script: Path) -> str:
        terms = self.terms
        return f"""
process api {{
  run {script};
  encoder json;
}}
neighbor {terms.ours} {{
  router-id {THEIRS};
  local-address {terms.theirs};
  local-as {terms.their_as};
  peer-as {terms.our_as};
  hold-time {HOLD_S};
  capability {{ route-refresh enable; }}
  family {{ ipv4 unicast; ipv6 unicast; }}
  api {{
    processes [ api ];
    neighbor-changes;
    receive {{ parsed; update; }}
  }}
}}
"""

    def _say(self, text: str) -> None:
        descriptor = -1

        def is_open() -> bool:
            nonlocal descriptor
            with contextlib.suppress(OSError):
                descriptor = os.open(self.folder / "say", os.O_WRONLY | os.O_NONBLOCK)
            return descriptor >= 0

        wait(is_open, "ExaBGP's helper")
        os.write(descriptor, text.encode() + b"\n")
        os.close(descriptor)

    def _heard(self) -> list[dict[str, Any]]:
        whole, _, _ = (self.folder / "heard").read_text().rpartition("\n")  # the last: half, maybe
        lines = whole.splitlines()
        return [
            json.loads(line)["neighbor"] | json.loads(line) for line in lines if line[:1] == "{"
        ]

    def learned(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for event in self._heard():
            if event.get("state") in ("down", "connected"):
                found.clear()
            update = event.get("message", {}).get("update", {})
            for by_hop in update.get("announce", {}).values():
                for hop, prefixes in by_hop.items():
                    found.update({p["nlri"]: hop for p in prefixes if "nlri" in p})
            for prefixes in update.get("withdraw", {}).values():
                for prefix in prefixes:
                    found.pop(prefix["nlri"], None)
        return found

    def withdraw(self, prefix: str) -> None:
        self._say(f"withdraw route {prefix} next-hop {self._hop(prefix)}")

    def announce(self, prefix: str) -> None:
        self._say(f"announce route {prefix} next-hop {self._hop(prefix)}")

    def _hop(self, prefix: str) -> str:
        return THEIRS_V6 if ":" in prefix else THEIRS

    def shut_down(self) -> None:
        self._say(f"neighbor {self.terms.ours} teardown 2")

    def is_established(self) -> bool:
        states = [event["state"] for event in self._heard() if "state" in event]
        return states[-1:] == ["up"]


DAEMONS: tuple[type[Daemon], ...] = (Frr, Bird, GoBgp, ExaBgp)

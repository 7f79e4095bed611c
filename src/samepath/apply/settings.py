"""Settings of the network namespace that a gateway or a node needs, as data with their reasons.

`gateway_settings` and `agent_settings` say what is wanted and why; `check` compares, `enforce` also
writes; `surroundings` looks at what no write can change: the kernel's age, and another daemon that
would undo our work. All of it returns `Finding`s for people, and never raises for what it finds.

Called at start and whenever the configuration changes. What was set is not set back on exit: the
routes that need it stay, too. Not here: whether the kernel's flow hash is as we predict it.

Standards: Linux Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from samepath.netlink.socket import in_namespace

_ROOT = Path("/proc/sys")

NOT_THERE = "not there"
"""Instead of the value of a setting that the kernel does not have."""

KERNEL_FOR_RESILIENT = (5, 15)
KERNEL_FOR_ADDRESS_PROTOCOL = (5, 18)
KERNEL_FOR_SEED = (6, 11)


class Severity(enum.Enum):
    """The values are those of `logging`."""

    INFO = 20
    """It was wrong, and now is right."""
    WARNING = 30
    """It may become a trouble."""
    ERROR = 40
    """What we promise does not hold with it."""


class Reach(enum.Enum):
    """How a setting under `conf/` comes to an interface."""

    ONE = "one"
    """It is a single setting."""
    MAX = "max"
    """In force is the greater of conf/all and the interface's own: conf/all is set."""
    EACH = "each"
    """Every interface counts for itself: all of them are set, and the default of new ones."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A line of sysctl. For Reach.MAX and EACH `path` has `all` where the interface stands."""

    path: str
    """Below /proc/sys."""
    wanted: str
    why: str
    reach: Reach = Reach.ONE
    also_good: tuple[str, ...] = ()
    """Values that may stay."""

    @property
    def name(self) -> str:
        return self.path.replace("/", ".")

    def accepts(self, value: str) -> bool:
        return value == self.wanted or value in self.also_good


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    what: str
    found: str
    wanted: str
    why: str

    @property
    def level(self) -> int:
        """For `logging`."""
        return self.severity.value

    @property
    def text(self) -> str:
        if self.severity is Severity.INFO:
            return f"{self.what} was {self.found}, now {self.wanted}: {self.why}"
        wanted = f" instead of {self.wanted}" if self.wanted else ""
        return f"{self.what}: {self.found}{wanted}; {self.why}"


_FORWARD = (
    Setting("net/ipv4/ip_forward", "1", "packets are forwarded"),
    Setting("net/ipv6/conf/all/forwarding", "1", "packets are forwarded"),
)
_PATHS = (
    Setting(
        "net/ipv4/conf/all/rp_filter",
        "2",
        "strict reverse path filtering drops packets whose way back is another one",
        Reach.MAX,
        also_good=("0",),
    ),
    Setting(
        "net/ipv4/conf/all/send_redirects",
        "0",
        "a redirect would lead a neighbour around the next hop that was chosen for its flow",
        Reach.EACH,
    ),
    Setting(
        "net/ipv6/conf/all/keep_addr_on_down",
        "1",
        "a link that comes back is of no use without its IPv6 addresses",
    ),
    Setting(
        "net/ipv4/nexthop_compat_mode",
        "0",
        "with 1 each change of a group announces all of its routes (700 times slower), and "
        "dumps leave routes out",
    ),
)


def gateway_settings(seed: int) -> tuple[Setting, ...]:
    """`seed` is the tier's `hash_seed`."""
    hashing = []
    for family in ("ipv4", "ipv6"):
        hashing += [
            Setting(
                f"net/{family}/fib_multipath_hash_fields",
                str(0x37),
                "a flow is its addresses, protocol and ports",
            ),
            Setting(
                f"net/{family}/fib_multipath_hash_policy",
                "3",
                "with any other policy a flow changes its path by itself (a retransmission may), "
                "or two gateways disagree",
            ),
        ]
    same = Setting(
        "net/ipv4/fib_multipath_hash_seed",
        str(seed),
        "gateways with different seeds send one flow different ways (needs Linux 6.11)",
    )
    return (*_FORWARD, *_PATHS, *hashing, same)


def agent_settings() -> tuple[Setting, ...]:
    return (
        *_FORWARD,
        *_PATHS,
        Setting(
            "net/ipv4/conf/all/arp_ignore",
            "1",
            "a node that answers ARP for service addresses on `lo` takes their traffic past "
            "the gateways",
            Reach.MAX,
            also_good=("2",),
        ),
        Setting(
            "net/ipv4/conf/all/arp_announce",
            "2",
            "ARP requests must not carry a service address as their sender",
            Reach.MAX,
        ),
        Setting(
            "net/netfilter/nf_conntrack_tcp_be_liberal",
            "1",
            "a packet that conntrack calls out of window is not translated; the node itself would "
            "answer it with a reset, and end a connection of a pod that is masqueraded",
            also_good=(NOT_THERE,),  # before the first rules are written
        ),
    )


def check(settings: Iterable[Setting], netns: Path | None = None) -> list[Finding]:
    """What is not as wanted; nothing is written."""
    return in_namespace(netns, lambda: [f for s in settings if (f := _finding(s)) is not None])


def enforce(settings: Iterable[Setting], netns: Path | None = None) -> list[Finding]:
    """Write what is not as wanted. Findings: what was changed (INFO), what could not be (ERROR)."""

    def run() -> list[Finding]:
        findings = []
        for setting in settings:
            wrong = _finding(setting)
            if wrong is not None:
                refusal = _write(setting)
                after = _finding(setting)
                findings.append(_outcome(wrong, after, refusal))
        return findings

    return in_namespace(netns, run)


def _outcome(before: Finding, after: Finding | None, refusal: str) -> Finding:
    if after is None:
        return Finding(Severity.INFO, before.what, before.found, before.wanted, before.why)
    why = f"{after.why} (it cannot be set: {refusal})" if refusal else after.why
    return Finding(Severity.ERROR, after.what, after.found, after.wanted, why)


def surroundings(
    *, gateway: bool, netns: Path | None = None, release: str | None = None
) -> list[Finding]:
    """The kernel's version (`release` stands for uname's), and FRR's zebra in our namespace."""
    findings = list(_kernel_findings(gateway, release or os.uname().release))
    for pid in in_namespace(netns, zebras):
        findings.append(
            Finding(
                Severity.WARNING,
                "FRR's zebra",
                f"process {pid} in this network namespace",
                "",
                "it undoes changes of next hops that it did not make, unless its configuration "
                "has `no zebra nexthop kernel enable`",
            )
        )
    return findings


def _kernel_findings(gateway: bool, release: str) -> Iterator[Finding]:
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    needs = (
        (
            (KERNEL_FOR_RESILIENT, Severity.ERROR, "resilient groups are not in it"),
            (
                KERNEL_FOR_SEED,
                Severity.WARNING,
                "its hash has no seed to set: two gateways would not agree; one alone works",
            ),
        )
        if gateway
        else (
            (
                KERNEL_FOR_ADDRESS_PROTOCOL,
                Severity.WARNING,
                "addresses carry no mark of who made them: service addresses that a crashed "
                "agent left are not recognised",
            ),
        )
    )
    for least, severity, why in needs:
        if version < least:
            wanted = f"{least[0]}.{least[1]} or newer"
            yield Finding(severity, "Linux", release, wanted, why)
            return


def zebras() -> list[int]:
    """FRR's zebra in the network namespace of the calling thread."""
    return [pid for _, pid in processes({"zebra"})]


def processes(names: Collection[str]) -> list[tuple[str, int]]:
    """Processes of these names in the network namespace of the calling thread: name and id."""
    ours = os.stat("/proc/thread-self/ns/net")
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            name = Path(f"/proc/{entry}/comm").read_text().strip()
            if name not in names:
                continue
            theirs = os.stat(f"/proc/{entry}/ns/net")
        except OSError:  # it ended, or is not ours to look at
            continue
        if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
            found.append((name, int(entry)))
    return sorted(found)


def _finding(setting: Setting) -> Finding | None:
    """In the namespace of the calling thread."""
    for where, value in _in_force(setting):
        if not setting.accepts(value):
            return Finding(Severity.ERROR, where, value, setting.wanted, setting.why)
    return None


def _in_force(setting: Setting) -> Iterator[tuple[str, str]]:
    """(name, value in force) of the setting, or of it on each interface."""
    if setting.reach is Reach.ONE:
        yield setting.name, _read(setting.path)
        return
    before, after = setting.path.split("/all/")
    everywhere = _read(setting.path)
    for interface in _interfaces(before):
        path = f"{before}/{interface}/{after}"
        own = _read(path)
        if setting.reach is Reach.MAX and own.isdigit() and everywhere.isdigit():
            own = str(max(int(own), int(everywhere)))
        yield path.replace("/", "."), own


def _interfaces(folder: str) -> list[str]:
    """`default` included (new interfaces begin with it), `all` not."""
    try:
        return sorted(name for name in os.listdir(_ROOT / folder) if name != "all")
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        return (_ROOT / path).read_text().strip()
    except FileNotFoundError:
        return NOT_THERE
    except OSError as error:
        return f"not readable ({error.strerror})"


def _write(setting: Setting) -> str:
    """Why it could not be written; empty if it was."""
    paths = [setting.path]
    if setting.reach is Reach.EACH:
        before, after = setting.path.split("/all/")
        paths += [f"{before}/{interface}/{after}" for interface in _interfaces(before)]
    refusal = ""
    for path in paths:
        try:
            (_ROOT / path).write_text(setting.wanted)
        except OSError as error:
            refusal = refusal or error.strerror or str(error)
    return refusal

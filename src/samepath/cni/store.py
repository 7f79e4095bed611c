"""The attachments of this node on disk: which container has which addresses.

Opened once by the agent (or by `samepath ipam` where none runs: a lock sees to that), used by
`cni.addresses` and `cni.operations` from any thread. What stands here was true before anything was
wired, and stays until everything is unwired; so no address is given twice, whenever we are killed.

Every change is one line of the file (`cni.journal`); when lines have piled up, the present state is
written anew. An attachment of another boot is void, its network namespace is gone: when the store
is opened its addresses count as released at that moment, in the order in which they were taken.
Released addresses keep their order, the longest free first.

Disk full: an attachment is taken only when there is room to record its end, too. Where the disk
refuses even that (an error, a file system that copies on write), `release` holds in memory, and is
written before anything else is; killed before that, the attachment is found again by `ipam check`.

A file that does not read right is refused (`StoreCorrupt`), never mended in passing; one that was
left behind by a power failure may lack its last lines, which loses nothing but order.

Not done here: which address comes next (`plan.addresses`); whether the kernel agrees (`cni.audit`).
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from samepath.cni.journal import Illegible, Journal, Reading, read
from samepath.model.net import Address, Family, address_text, family_of, parse_address

Key = tuple[str, str]
"""Container id and interface name: what CNI identifies an attachment by."""

VERSION = 1
ROOM_EACH = 128
"""Octets that the two later lines of an attachment need at most: wired, released."""
SLACK = 4096
"""Octets that may be lost where a line does not fit the rest of its page."""
RELEASED_LIMIT = 65_536
"""Released addresses of a family whose order is kept. Those before count as never used."""
BATCH = 64
"""Released addresses in a line of a new file."""


class State(enum.Enum):
    RESERVED = "reserved"
    """Its addresses are its own; it may or may not be wired."""
    WIRED = "wired"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Attachment:
    """An interface of a container, and what it was given. CNI 1.1.0, "attachment"."""

    key: Key
    network: str
    addresses: tuple[Address, ...]
    mac: bytes
    host_link: str
    """The name of the veth's end on the node."""
    sandbox: str = ""
    """The path of the network namespace."""
    pod: str = ""
    """namespace/name, if known."""
    made_at: float = 0.0
    """Seconds since 1970."""
    boot_id: str = ""
    state: State = State.RESERVED


class StoreError(Exception):
    """The store cannot be used, or a change not be kept; the text names the file."""

    def __init__(self, path: Path, text: str, errno: int = 0) -> None:
        super().__init__(f"{path}: {text}")
        self.path = path
        self.errno = errno


class StoreCorrupt(StoreError):
    """The file does not read right; the text says the way out."""


class StoreBusy(StoreError):
    """Another process has it open."""


class Taken(ValueError):
    """The key, an address or the link's name belongs to an attachment already: `owner`."""

    def __init__(self, owner: Attachment, text: str) -> None:
        super().__init__(text)
        self.owner = owner


def host_link_name(key: Key) -> str:
    """`smp` and 12 digits: the same for the same attachment, 15 octets as the kernel allows."""
    return "smp" + hashlib.blake2b("\0".join(key).encode(), digest_size=6).hexdigest()


def alias_of(key: Key, network: str = "") -> str:
    """IFLA_IFALIAS of the veth's end on the node: from it the store can be rebuilt."""
    return f"samepath {key[0]} {key[1]} {network}".rstrip()


def key_of_alias(alias: str) -> Key | None:
    """The attachment that a link belongs to; None if it is not one of ours."""
    words = alias.split(" ")
    return (words[1], words[2]) if len(words) in (3, 4) and words[0] == "samepath" else None


def network_of_alias(alias: str) -> str:
    """Empty if the alias does not say."""
    words = alias.split(" ")
    return words[3] if len(words) == 4 and words[0] == "samepath" else ""


def current_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Store:
    """The store, open. Raises StoreError for what cannot be kept, and then nothing has changed."""

    def __init__(self, path: str | Path, boot_id: str) -> None:
        """Raises StoreBusy, StoreCorrupt, StoreError."""
        self.path = Path(path)
        self.boot_id = boot_id
        self._turn = threading.RLock()
        self._journal = Journal(self.path)
        self._state = _State()
        self._owed: list[bytes] = []
        self._lock = _lock(self.path)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    # -- What is ------------------------------------------------------------------------------

    def get(self, key: Key) -> Attachment | None:
        with self._turn:
            return self._state.attachments.get(key)

    def all(self) -> tuple[Attachment, ...]:
        """In the order in which they were taken."""
        with self._turn:
            return tuple(self._state.attachments.values())

    def owner(self, address: Address) -> Attachment | None:
        with self._turn:
            key = self._state.owners.get(address)
            return self._state.attachments[key] if key is not None else None

    def is_known(self, address: Address) -> bool:
        """Whether it is in use, or was."""
        return address in self._state.owners or address in self._state.released[family_of(address)]

    @property
    def forgotten(self) -> int:
        """How many released addresses have fallen off the end of the order (RELEASED_LIMIT)."""
        return self._state.forgotten

    def released(self, family: Family) -> tuple[Address, ...]:
        """Free addresses that were in use, the longest-free one first."""
        with self._turn:
            return tuple(self._state.released[family])

    def first_released(
        self, family: Family, choose: Callable[[Iterable[Address]], Address | None]
    ) -> Address | None:
        """What `choose` takes out of `released`, without a copy; nothing changes meanwhile."""
        with self._turn:
            return choose(self._state.released[family])

    # -- What becomes -------------------------------------------------------------------------

    def reserve(self, attachment: Attachment) -> Attachment:
        """Keep a new attachment, as RESERVED and of this boot. Raises Taken, StoreError."""
        with self._turn:
            self._state.check(attachment)
            made = replace(attachment, state=State.RESERVED, boot_id=self.boot_id)
            number = self._state.next_number
            record = _take_record(number, made)
            room = (len(self._state.attachments) + 1) * ROOM_EACH + 2 * SLACK + len(record)
            try:
                self._settle()
                self._make_room(room)
                self._journal.append(record)
            except OSError as error:
                raise self._error(error) from error
            except ValueError as error:
                raise StoreError(self.path, str(error)) from error
            self._state.take(number, made)
            return made

    def wired(self, key: Key) -> Attachment:
        """The attachment stands in the kernel. Raises KeyError, StoreError."""
        with self._turn:
            known = self._state.attachments[key]
            if known.state is State.WIRED:
                return known
            number = self._state.numbers[key]
            try:
                self._settle()
                self._journal.append(_record({"wired": number}))
            except OSError as error:
                raise self._error(error) from error
            return self._state.wire(key)

    def release(self, key: Key) -> Attachment | None:
        """Forget an attachment; its addresses are free, and last in order. None: it was unknown.
        Holds also where the disk refuses: it is written as soon as the disk takes it."""
        with self._turn:
            if key not in self._state.attachments:
                return None
            self._owed.append(_record({"release": self._state.numbers[key]}))
            gone = self._state.release(key)
            try:
                self._settle()
            except OSError:
                return gone
            return gone

    @property
    def owed(self) -> int:
        """Releases that the disk has not taken yet."""
        return len(self._owed)

    def close(self) -> None:
        with self._turn:
            self._journal.close()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    # -- The file -----------------------------------------------------------------------------

    def _begin(self) -> None:
        try:
            reading = read(self.path)
        except FileNotFoundError:
            self._rewrite(SLACK)
            return
        except Illegible as error:
            raise _corrupt(self.path, str(error)) from error
        except OSError as error:
            raise self._error(error) from error
        state, boot_id, damage = replay(reading)
        if boot_id == self.boot_id:
            if damage:
                raise _corrupt(self.path, damage)
            self._state = state
            self._journal.adopt(reading)
        else:
            state.end_boot()
            self._state = state
            self._rewrite(SLACK)

    def _settle(self) -> None:
        """Write what is owed. Raises OSError."""
        while self._owed:
            self._journal.append(self._owed[0])
            del self._owed[0]

    def _make_room(self, octets: int) -> None:
        """Raises OSError."""
        if self._journal.end + octets <= self._journal.size:
            return
        if self._journal.end > 3 * self._state.written:
            with contextlib.suppress(OSError):  # no room for a second file: go on in this one
                self._write_anew(octets)
                return
        self._journal.reserve(octets)

    def _rewrite(self, octets: int) -> None:
        try:
            self._write_anew(octets)
        except OSError as error:
            raise self._error(error) from error

    def _write_anew(self, octets: int) -> None:
        header = msgspec.json.encode(
            {"samepath": "attachments", "version": VERSION, "boot_id": self.boot_id}
        )
        self._journal.rewrite(header, self._state.records(), octets)
        self._state.written = self._journal.end

    def _error(self, error: OSError) -> StoreError:
        return StoreError(self.path, f"{error.strerror or error}", error.errno or 0)


class _State:
    """What the lines of a store amount to."""

    def __init__(self) -> None:
        self.attachments: dict[Key, Attachment] = {}
        self.numbers: dict[Key, int] = {}
        self.owners: dict[Address, Key] = {}
        self.links: dict[str, Key] = {}
        self.released: dict[Family, dict[Address, None]] = {f: {} for f in Family}
        self.next_number = 1
        self.forgotten = 0
        self.written = 0
        """Where the file ended when it was last written anew."""

    def check(self, new: Attachment) -> None:
        """Raises Taken."""
        if old := self.attachments.get(new.key):
            raise Taken(old, f"{' '.join(new.key)} is attached already")
        for address in new.addresses:
            if (key := self.owners.get(address)) is not None:
                raise Taken(self.attachments[key], f"{address_text(address)} is {' '.join(key)}'s")
        if (key := self.links.get(new.host_link)) is not None:
            raise Taken(self.attachments[key], f"link {new.host_link} is {' '.join(key)}'s")

    def take(self, number: int, new: Attachment) -> None:
        self.attachments[new.key] = new
        self.numbers[new.key] = number
        self.links[new.host_link] = new.key
        for address in new.addresses:
            self.owners[address] = new.key
            self.released[family_of(address)].pop(address, None)
        self.next_number = number + 1

    def wire(self, key: Key) -> Attachment:
        made = replace(self.attachments[key], state=State.WIRED)
        self.attachments[key] = made
        return made

    def release(self, key: Key) -> Attachment:
        gone = self.attachments.pop(key)
        del self.numbers[key]
        del self.links[gone.host_link]
        for address in gone.addresses:
            del self.owners[address]
            self.free(address)
        return gone

    def free(self, address: Address) -> None:
        released = self.released[family_of(address)]
        released.pop(address, None)
        released[address] = None
        if len(released) > RELEASED_LIMIT:
            del released[next(iter(released))]
            self.forgotten += 1

    def end_boot(self) -> None:
        for key in tuple(self.attachments):
            self.release(key)
        self.next_number = 1

    def records(self) -> Iterable[bytes]:
        for released in self.released.values():
            texts = [address_text(a) for a in released]
            for start in range(0, len(texts), BATCH):
                yield _record({"free": texts[start : start + BATCH]})
        for key, attachment in self.attachments.items():
            number = self.numbers[key]
            yield _take_record(number, attachment)
            if attachment.state is State.WIRED:
                yield _record({"wired": number})


def replay(reading: Reading) -> tuple[_State, str, str]:
    """The state that the lines amount to, the boot that they are of, and what is wrong."""
    state = _State()
    try:
        header = msgspec.json.decode(reading.header, type=dict[str, Any])
        boot_id = str(header["boot_id"])
        if (header["samepath"], header["version"]) != ("attachments", VERSION):
            return state, boot_id, f"version {header['version']} is not known here"
    except (msgspec.MsgspecError, KeyError) as error:
        return state, "", f"header: {error}"
    keys: dict[int, Key] = {}
    for record in reading.records:
        try:
            _replay_one(state, keys, record)
        except (msgspec.MsgspecError, KeyError, ValueError, TypeError) as error:
            return state, boot_id, f"record {record[:80]!r}: {error}"
    state.written = reading.end
    return state, boot_id, reading.damage


def _replay_one(state: _State, keys: dict[int, Key], record: bytes) -> None:
    line = msgspec.json.decode(record, type=dict[str, Any])
    if "take" in line:
        attachment = _attachment(line)
        state.check(attachment)
        state.take(line["take"], attachment)
        keys[line["take"]] = attachment.key
    elif "wired" in line:
        state.wire(keys[line["wired"]])
    elif "release" in line:
        state.release(keys.pop(line["release"]))
    else:
        for text in line["free"]:
            state.free(parse_address(text))


def _record(line: dict[str, Any]) -> bytes:
    return msgspec.json.encode(line)


def _take_record(number: int, made: Attachment) -> bytes:
    return _record(
        {
            "take": number,
            "container": made.key[0],
            "ifname": made.key[1],
            "network": made.network,
            "addresses": [address_text(a) for a in made.addresses],
            "mac": made.mac.hex(":"),
            "host_link": made.host_link,
            "sandbox": made.sandbox,
            "pod": made.pod,
            "made_at": made.made_at,
            "boot_id": made.boot_id,
        }
    )


def _attachment(line: dict[str, Any]) -> Attachment:
    return Attachment(
        key=(line["container"], line["ifname"]),
        network=line["network"],
        addresses=tuple(parse_address(text) for text in line["addresses"]),
        mac=bytes.fromhex(line["mac"].replace(":", "")),
        host_link=line["host_link"],
        sandbox=line["sandbox"],
        pod=line["pod"],
        made_at=line["made_at"],
        boot_id=line["boot_id"],
    )


def _corrupt(path: Path, damage: str) -> StoreCorrupt:
    return StoreCorrupt(
        path,
        f"the store is damaged: {damage}. No address is given out before it is mended: stop the "
        "agent and run `samepath ipam check --fix`, which moves the file aside and rebuilds it "
        "from the pods' links in the kernel",
    )


def _lock(path: Path) -> int:
    """The open lock file. Raises StoreBusy, StoreError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = path.with_name(path.name + ".lock")
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(path, f"{error.strerror}", error.errno or 0) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise StoreBusy(path, f"it is open in another process ({holder or 'unknown'})") from error
    os.pwrite(descriptor, f"{os.getpid():<20}".encode(), 0)
    return descriptor

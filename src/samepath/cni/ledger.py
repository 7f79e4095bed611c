"""The attachments and the released addresses in memory, and the lines that they are made of. Pure.

Used by `cni.store` alone, which keeps file and memory in step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any

import msgspec

from samepath.cni.attachment import Attachment, Key, State
from samepath.cni.journal import Illegible, Reading
from samepath.model.net import Address, Family, address_text, family_of

VERSION = 1
RELEASED_LIMIT = 4096
"""Released addresses of a family whose order is kept. Those before count as never used."""
BATCH = 64
"""Released addresses in a line of a new file."""


class Taken(ValueError):
    """The key, an address or the link's name belongs to an attachment already: `owner`."""

    def __init__(self, owner: Attachment, text: str) -> None:
        super().__init__(text)
        self.owner = owner


class Ledger:
    """What the lines of a store amount to."""

    def __init__(self) -> None:
        self.attachments: dict[Key, Attachment] = {}
        self.numbers: dict[Key, int] = {}
        self.owners: dict[Address, Key] = {}
        self.links: dict[str, Key] = {}
        self.released: dict[Family, dict[Address, None]] = {f: {} for f in Family}
        self.next_number = 1
        self.forgotten = dict.fromkeys(Family, 0)

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
        self.next_number = number + 1
        self.attachments[new.key] = new
        self.numbers[new.key] = number
        self.links[new.host_link] = new.key
        for address in new.addresses:
            self.owners[address] = new.key
            self.released[family_of(address)].pop(address, None)

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
        released[address] = None
        if len(released) > RELEASED_LIMIT:
            del released[next(iter(released))]
            self.forgotten[family_of(address)] += 1

    def end_boot(self) -> None:
        for key in tuple(self.attachments):
            self.release(key)
        self.next_number = 1

    def records(self) -> Iterable[bytes]:
        for released in self.released.values():
            texts = [_text(a) for a in released]
            for start in range(0, len(texts), BATCH):
                yield line({"free": texts[start : start + BATCH]})
        for key, attachment in self.attachments.items():
            number = self.numbers[key]
            yield take_line(number, attachment)
            if attachment.state is State.WIRED:
                yield line({"wired": number})


_NONSENSE = (
    msgspec.MsgspecError, KeyError, ValueError, TypeError, AttributeError, OSError, RecursionError,
)  # fmt: skip
"""What a record may raise that is no record of ours, though its checksum is right."""


def replay(reading: Reading) -> tuple[Ledger, str, str]:
    """What the lines amount to, the boot that they are of, and what is wrong. Raises Illegible."""
    try:
        header = msgspec.json.decode(reading.header, type=dict[str, Any])
        boot_id = str(header["boot_id"])
        if (header["samepath"], header["version"]) != ("attachments", VERSION):
            raise Illegible(f"its version is {header['version']}, only {VERSION} is known here")
    except _NONSENSE as error:
        raise Illegible(f"its first line is {error}") from error
    ledger = Ledger()
    keys: dict[int, Key] = {}
    for record in reading.records:
        try:
            _replay_one(ledger, keys, record)
        except _NONSENSE as error:
            return ledger, boot_id, f"record {record[:80]!r}: {error}"
    return ledger, boot_id, reading.damage


def _replay_one(ledger: Ledger, keys: dict[int, Key], record: bytes) -> None:
    fields = msgspec.json.decode(record, type=dict[str, Any])
    if "take" in fields:
        attachment = _attachment(fields)
        ledger.check(attachment)
        ledger.take(fields["take"], attachment)
        keys[fields["take"]] = attachment.key
    elif "wired" in fields:
        ledger.wire(keys[fields["wired"]])
    elif "release" in fields:
        ledger.release(keys.pop(fields["release"]))
    else:
        for text in fields["free"]:
            address = _address(text)
            if address in ledger.owners:
                raise ValueError(f"{text} is not free")
            ledger.free(address)


def header_line(boot_id: str) -> bytes:
    return line({"samepath": "attachments", "version": VERSION, "boot_id": boot_id})


def line(record: dict[str, Any]) -> bytes:
    return msgspec.json.encode(record)


def take_line(number: int, made: Attachment) -> bytes:
    return line(
        {
            "take": number,
            "container": made.key[0],
            "ifname": made.key[1],
            "network": made.network,
            "addresses": [_text(a) for a in made.addresses],
            "mac": made.mac.hex(":"),
            "host_link": made.host_link,
            "sandbox": made.sandbox,
            "pod": made.pod,
            "made_at": made.made_at,
            "boot_id": made.boot_id,
        }
    )


def _attachment(fields: dict[str, Any]) -> Attachment:
    return Attachment(
        key=(fields["container"], fields["ifname"]),
        network=fields["network"],
        addresses=tuple(_address(text) for text in fields["addresses"]),
        mac=bytes.fromhex(fields["mac"].replace(":", "")),
        host_link=fields["host_link"],
        sandbox=fields["sandbox"],
        pod=fields["pod"],
        made_at=fields["made_at"],
        boot_id=fields["boot_id"],
    )


# As `model.net` has it, at a tenth of the time: a file may hold thousands.


def _text(address: Address) -> str:
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


def _address(text: str) -> Address:
    """Raises OSError."""
    return inet_pton(AF_INET6 if ":" in text else AF_INET, text)

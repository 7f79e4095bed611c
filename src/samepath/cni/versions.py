"""Which versions of the CNI specification we speak, and which one an answer is written in.

An answer echoes the version that was asked for: podman 4.3 and containerd 1.6 refuse a result of
1.1.0 that answers a configuration of 1.0.0.

Standards: CNI 1.1.0, "Version considerations" and "VERSION".
"""

from __future__ import annotations

import msgspec

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Oldest first. 0.3.0 and older have another result, or none that can be chained."""

FALLBACK = "1.0.0"
"""An answer to a configuration that names no version."""

VERSION_OCTETS = 64
"""A longer `cniVersion` counts as none."""


def at_least(version: str, floor: str) -> bool:
    """Whether `version`, one of VERSIONS, is `floor` or newer."""
    return VERSIONS.index(version) >= VERSIONS.index(floor)


class _Version(msgspec.Struct):
    cniVersion: str | None = None


def version_of(stdin: bytes) -> str:
    """The version to answer in: as the configuration says, supported or not, else FALLBACK."""
    try:
        version = msgspec.json.decode(stdin, type=_Version).cniVersion
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return FALLBACK
    if not version or len(version.encode("utf-8", "replace")) > VERSION_OCTETS:
        return FALLBACK
    return version


def version_answer(version: str = VERSIONS[-1]) -> bytes:
    """The answer to VERSION, which echoes the version that was asked in."""
    return msgspec.json.encode({"cniVersion": version, "supportedVersions": list(VERSIONS)})


VERSION_ANSWER = version_answer()

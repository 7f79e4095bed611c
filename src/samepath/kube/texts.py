"""What texts of our kinds are, and the patterns that say so: for the parser and for the schemas.

Called by `kube.reading` and `kube.kinds`, which match them in full, and by `kube.schemas`, which
hands them to the API server: one truth. They are of the common part of Python's and Go's (RE2)
regular expressions, unanchored. Pure.

Standards: RFC 1123 (names), Kubernetes' labels, metav1.Duration (Go's time.ParseDuration), RFC 1997
and RFC 8092 (communities), in MetalLB's spelling.
"""

from __future__ import annotations

import enum

LINE_LIMIT = 1000


def one_line(text: str) -> str:
    """What others have written, for a log or a terminal: no control characters, and not endless."""
    shown = " ".join(text[: LINE_LIMIT + 1].split())
    shown = "".join(c if c.isprintable() else "?" for c in shown)
    return shown if len(text) <= LINE_LIMIT else f"{shown[:LINE_LIMIT]}…"


class Is(enum.Enum):
    """What a text is."""

    NAME = "the name of an object"
    NAME_OR_NONE = "the name of an object, or nothing"
    LABEL_KEY = "the key of a label"
    LABEL_VALUE = "the value of a label"
    ADDRESS = "an IPv4 or IPv6 address"
    ROUTER_ID = "an IPv4 address"
    PREFIX = "a CIDR, as 192.0.2.0/24 is"
    ADDRESSES = "a CIDR, as 192.0.2.0/24 is, or a range, as 192.0.2.1-192.0.2.9 is"
    DURATION = "a duration, as 90s, 1h30m and 500ms are"
    COMMUNITY = "a community: 65000:1, large:1:2:3, or a well-known name"
    COMMUNITY_OR_NAME = "a community, or a name for one: letters, digits, and - _ . in between"
    ALIAS = "a name for a community: letters, digits, and - _ . in between"

    __hash__ = object.__hash__


WELL_KNOWN = (
    "no-export",
    "no-advertise",
    "no-export-subconfed",
    "graceful-shutdown",
    "blackhole",
    "llgr-stale",
    "no-llgr",
)

_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
# `[.]` and not `\.`: what has no backslash needs no thought about who unescapes it.
_IPV4 = f"({_OCTET}[.]){{3}}{_OCTET}"
_IPV6 = "[0-9a-fA-F]{0,4}(:[0-9a-fA-F]{0,4}){2,7}"
"""Nearly: the parser looks closer. An IPv4 address at the end of one is not written here."""
_PREFIX = f"{_IPV4}/([0-9]|[12][0-9]|3[0-2])|{_IPV6}/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8])"
_RANGE = f"{_IPV4} *- *{_IPV4}|{_IPV6} *- *{_IPV6}"
_LABEL = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_NAME = r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?"
_ALIAS = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_UINT16 = r"([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_UINT32 = (
    r"([0-9]{1,9}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}"
    r"|42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5])"
)
_COMMUNITY = rf"{_UINT16}:{_UINT16}|large:{_UINT32}:{_UINT32}:{_UINT32}"

PATTERN = {
    Is.NAME: _NAME,
    Is.NAME_OR_NONE: rf"({_NAME})?",
    Is.LABEL_KEY: rf"([a-z0-9]([-.a-z0-9]{{0,251}}[a-z0-9])?/)?{_LABEL}",
    Is.LABEL_VALUE: rf"({_LABEL})?",
    Is.ADDRESS: f"{_IPV4}|{_IPV6}",
    Is.ROUTER_ID: _IPV4,
    Is.PREFIX: _PREFIX,
    Is.ADDRESSES: f"{_PREFIX}|{_RANGE}",
    Is.DURATION: r"0|([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+",
    Is.COMMUNITY: "|".join((_COMMUNITY, *WELL_KNOWN)),
    Is.COMMUNITY_OR_NAME: f"{_COMMUNITY}|{_ALIAS}",
    Is.ALIAS: _ALIAS,
}

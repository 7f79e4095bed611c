"""Target: what the kernel says over netlink.

The kernel is trusted, but its layouts grow with its versions. What must hold: a datagram of any
octets is objects or `Malformed`; the ways that read a usual layout at once say what the long way
says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from samepath.model.net import Family, make_nlri, nlri_address
from samepath.netlink import codec, decode
from samepath.netlink.codec import Malformed
from samepath.netlink.objects import Route

_READERS: tuple[Callable[[memoryview], Any], ...] = (
    decode.link,
    decode.address,
    decode.neighbor,
    decode.nexthop,
    decode.route,
    decode.lookup,
)

_RTMSG_OCTETS = 12


def datagram(data: bytes) -> None:
    """Which reader, then the body of a message."""
    body = memoryview(data)[1:]
    which = data[0] % 9 if data else 0
    if which < len(_READERS):
        found = outcome(_READERS[which], body)
        assert repr(found)
        if isinstance(found, Route):
            assert found.nlri == make_nlri(nlri_address(found.family, found.nlri), found.nlri[0])
    elif which == 6:
        assert outcome(lambda b: decode.buckets([b]), body) == outcome(_slow_bucket, body)
    elif which == 7:
        for family in Family:
            quick = outcome(lambda b, f=family: decode.nexthop_routes(f, [b]), body)  # type: ignore[misc]
            slow = outcome(lambda b, f=family: _slow_routes(f, b), body)  # type: ignore[misc]
            if isinstance(slow, dict) and isinstance(quick, dict) and _has_each_once(body):
                # The kernel clears host bits; the quick way leaves it to that.
                assert _canonical(family, quick) == slow, (quick, slow)
    else:
        outcome(lambda b: [(t, f, s, bytes(p)) for t, f, s, p in codec.messages(b)], body)


def outcome(read: Callable[[memoryview], Any], body: memoryview) -> Any:
    try:
        return read(body)
    except Malformed as error:
        assert str(error)  # noqa: PT017
        return error.args


def _slow_bucket(body: memoryview) -> list[decode.Row]:
    return [decode._bucket(body)]


def _slow_routes(family: Family, body: memoryview) -> Any:
    found = decode.route(body)
    if found is None or found.nexthop_id is None or found.family is not family:
        return None
    return {(found.nlri, found.metric): found.nexthop_id}


def _canonical(family: Family, routes: Any) -> Any:
    return {
        (make_nlri(nlri_address(family, nlri), nlri[0]), metric): id_
        for (nlri, metric), id_ in routes.items()
    }


def _has_each_once(body: memoryview) -> bool:
    """No attribute comes twice: the kernel repeats none, and the quick way reads the first."""
    found = codec.attributes(body, _RTMSG_OCTETS)
    octets = sum(4 + (len(payload) + 3 & ~3) for payload in found.values())
    return octets >= len(body) - _RTMSG_OCTETS

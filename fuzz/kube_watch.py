"""Target: what an API server sends to a watch.

Octets are: the kind that is followed, how the rest is cut into pieces, the rest: lines. What must
hold: the same is known however it is cut; a line is taken, or the watch is broken by an error that
can be shown on one line, and what stood before it counts; what comes next is a list then, after a
pause. The quick way to read an object (straight from JSON to the parser's struct) says what the way
of a manifest says.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from samepath.kube import resources
from samepath.kube.api_errors import ApiError
from samepath.kube.api_source import _read_slowly, _reader, label
from samepath.kube.following import WAIT_MOST_S, Broken, Doing, Following
from samepath.kube.resources import Resource
from samepath.kube.wire import Lines, ObjectMeta, WireError
from samepath.model.cluster import Object
from samepath.model.documents import DocumentError

KINDS = (
    resources.ENDPOINT_SLICES,
    resources.SERVICES,
    resources.NODES,
    resources.BGP_PEERS,
    resources.IP_POOLS,
    resources.IP_ADDRESS_POOLS,
    resources.BGP_ADVERTISEMENTS,
    resources.BLOCK_CLAIMS,
    resources.SECRETS,
)


def watch(data: bytes) -> None:
    if len(data) < 2:
        return
    resource, piece, rest = KINDS[data[0] % len(KINDS)], data[1] + 1, data[2:]
    pieces = [rest[at : at + piece] for at in range(0, len(rest), piece)]
    whole, cut = follow(resource, [rest]), follow(resource, pieces)
    assert (whole.rows, whole.refused) == (cut.rows, cut.refused)


def follow(resource: Resource, pieces: list[bytes]) -> Following:
    following = Following(both_ways(resource), lambda: 1.0, optional=True)
    following.next_step()
    following.listed("1")
    following.next_step()
    lines = Lines()
    try:
        for piece in pieces:
            following.take_lines(lines.feed(piece))
        following.ended(600.0)
    except (Broken, WireError) as broken:
        cause = broken.cause if isinstance(broken, Broken) else broken
        assert isinstance(cause, ApiError | WireError)
        following.failed(cause, 1.0)
        step = following.next_step()
        assert step.doing is Doing.LIST
        assert 0 < step.wait_s <= WAIT_MOST_S
    assert following.rows.keys().isdisjoint({("", "")})
    return following


def both_ways(resource: Resource) -> Callable[[msgspec.Raw, ObjectMeta], Object | None]:
    quickly = _reader(resource)

    def read(raw: msgspec.Raw, about: ObjectMeta) -> Object | None:
        quick, slow = (
            outcome(lambda: quickly(raw, about)),
            outcome(lambda: _read_slowly(resource, raw, label(resource, *_named(about)))),
        )
        # Of fields that are not read the quick way sees only where they end.
        assert quick == slow or ": not JSON: " in str(slow), (quick, slow)
        return quickly(raw, about)

    return read


def _named(about: ObjectMeta) -> tuple[str, str]:
    return about.namespace, about.name


def outcome(read: Callable[[], Object | None]) -> Object | str | None:
    try:
        return read()
    except DocumentError as error:
        return str(error)

"""Lists: which version they are of, one page or all, and the tokens with which they go on.

Kubernetes API concepts: the `resourceVersion` parameter's semantics of list and get, chunks.
Not done: the watch cache's staleness; `resourceVersion=0` gives the present, which the real server
may do as well.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from samepath.lab.api_server import status as st
from samepath.lab.api_server.selectors import Selects
from samepath.lab.api_server.store import Collection, Key, Store, Stored

_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can "
    "start a new list without the continue parameter, or use the continue token in this response "
    "to retrieve the remainder of the results. Continuing with the provided token results in an "
    "inconsistent list - objects that were created, modified, or deleted between the time the "
    "first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A list's parameters."""

    namespace: str = ""
    version: str = ""
    match: str = ""
    limit: int = 0
    token: str = ""
    selects: Selects | None = None


@dataclass(frozen=True, slots=True)
class Page:
    items: list[Stored]
    version: int
    token: str = ""
    remaining: int | None = None


def read(store: Store, collection: Collection, asked: Asked) -> Page:
    """Raises StatusError: 400, 410 expired, 504 not yet there."""
    if asked.token:
        return _go_on(store, collection, asked)
    version = number(asked.version)
    check_match(asked)
    if version > store.version:
        raise st.too_large(version, store.version)
    if asked.match == "Exact":
        if version < collection.forgotten:
            raise st.expired(
                f"The resourceVersion for the provided list is too old. ({version} is compacted)"
            )
        return _page(collection.at(version, asked.namespace), version, asked)
    return _page(collection.in_order(asked.namespace), store.version, asked)


def number(text: str) -> int:
    if not text:
        return 0
    if not text.isdigit():
        raise st.bad_request(
            f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    return int(text)


def check_match(asked: Asked) -> None:
    if not asked.match:
        return
    causes = []
    if asked.match not in ("Exact", "NotOlderThan"):
        causes.append(
            st.unsupported("resourceVersionMatch", asked.match, ["Exact", "NotOlderThan"])
        )
    elif not asked.version:
        text = "resourceVersionMatch is forbidden unless resourceVersion is provided"
        causes.append(st.forbidden_field("resourceVersionMatch", text))
    elif asked.match == "Exact" and asked.version == "0":
        text = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        causes.append(st.forbidden_field("resourceVersionMatch", text))
    if causes:
        raise st.invalid("meta.k8s.io", "ListOptions", "", causes)


def _go_on(store: Store, collection: Collection, asked: Asked) -> Page:
    try:
        token = json.loads(base64.urlsafe_b64decode(asked.token))
        version, start = int(token["rv"]), (str(token["start"][0]), str(token["start"][1]))
    except (ValueError, KeyError, IndexError, TypeError, binascii.Error) as error:
        raise st.bad_request("continue key is not valid") from error
    if asked.version not in ("", "0"):
        raise st.bad_request("specifying resource version is not allowed when using continue")
    if version == -1:
        version = store.version
    elif version < collection.forgotten:
        gone = st.expired(_EXPIRED)
        gone.token = _token(-1, start)
        raise gone
    elif version > store.version:
        raise st.too_large(version, store.version)
    things = ((k, v) for k, v in collection.at(version, asked.namespace) if k > start)
    return _page(things, version, asked)


def _page(things: Iterable[tuple[Key, Stored]], version: int, asked: Asked) -> Page:
    if asked.selects is not None:
        selects = asked.selects
        things = ((key, thing) for key, thing in things if selects(thing))
    if not asked.limit:
        return Page([thing for _, thing in things], version)
    it = iter(things)
    page = list(islice(it, asked.limit))
    more = sum(1 for _ in it)
    items = [thing for _, thing in page]
    if not more:
        return Page(items, version)
    token = _token(version, page[-1][0])
    # How many remain is not told where a selector applies.
    return Page(items, version, token, None if asked.selects else more)


def _token(version: int, start: Key) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": list(start)})
    return base64.urlsafe_b64encode(text.encode()).decode()

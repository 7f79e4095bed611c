from __future__ import annotations

import pytest

from samepath.model.net import parse_address
from samepath.netlink.connected import Connected
from samepath.netlink.objects import InterfaceAddress, Link


def link(index: int, name: str, *, up: bool = True, carrier: bool = True) -> Link:
    return Link(index, name, up, carrier, 1500, b"")


def own(index: int, text: str, length: int, scope: int = 0) -> InterfaceAddress:
    return InterfaceAddress(index, parse_address(text), length, scope=scope)


CONNECTED = Connected(
    [link(1, "lo"), link(2, "a0"), link(3, "b0"), link(4, "c0", carrier=False)],
    [
        own(1, "127.0.0.1", 8, scope=254),
        own(1, "10.9.0.77", 32),
        own(2, "10.9.0.1", 16),
        own(3, "10.9.5.1", 24),
        own(4, "10.7.0.1", 24),
        own(2, "fd09::1", 64),
        own(2, "fe80::1", 64, scope=253),
    ],
)


@pytest.mark.parametrize(
    ("gateway", "expected"),
    [("10.9.0.2", 2), ("10.9.5.2", 3), ("fd09::2", 2), ("10.9.6.2", 2)],
)
def test_the_longest_connected_prefix_counts(gateway: str, expected: int) -> None:
    assert CONNECTED(parse_address(gateway)) == expected
    assert CONNECTED.why_not(parse_address(gateway)) == ""


@pytest.mark.parametrize(
    ("gateway", "why"),
    [
        ("10.8.0.1", "no connected network holds 10.8.0.1"),
        ("fd08::1", "no connected network holds fd08::1"),
        ("127.0.0.5", "no connected network holds 127.0.0.5"),
        ("10.9.5.1", "10.9.5.1 is an address of our own"),
        ("10.7.0.5", "c0, which would lead to 10.7.0.5, is down"),
        ("fe80::5", "fe80::5 is link-local, and nothing says on which link"),
    ],
)
def test_why_there_is_no_link(gateway: str, why: str) -> None:
    assert CONNECTED(parse_address(gateway)) is None
    assert CONNECTED.why_not(parse_address(gateway)) == why


def test_equal_when_the_answers_are() -> None:
    one = Connected([link(2, "a0")], [own(2, "10.9.0.1", 24)])
    assert one == Connected([link(2, "a0")], [own(2, "10.9.0.1", 24)])
    assert one != Connected([link(2, "a0", up=False)], [own(2, "10.9.0.1", 24)])


def test_a_wider_network_serves_while_the_closer_link_is_down() -> None:
    connected = Connected(
        [link(2, "a0"), link(3, "b0", up=False)], [own(2, "10.9.0.1", 16), own(3, "10.9.5.1", 24)]
    )
    assert connected(parse_address("10.9.5.2")) == 2

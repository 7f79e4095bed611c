"""The quick way to read an address says what the slow one says."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.kube import reading

TEXTS = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda a: a.exploded.upper()),
    st.text("0123456789.:abcfF%/ x\u0661", max_size=20),
    st.sampled_from(["0.0.0.0", "127.1.2.3", "169.254.0.1", "224.0.0.1", "255.255.255.255"]),
    st.sampled_from(
        ["::", "::1", "fe80::1", "ff02::1", "::ffff:10.0.0.1", "fd00::1%e", "010.1.1.1"]
    ),
    st.sampled_from(["10.0.0.1\0", "10.0.0", "10.0.0.0.1", "2001:db8::1.2.3.4", "1e1.0.0.1"]),
)


def slowly(text: str) -> bytes | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    special = address.is_unspecified or address.is_loopback or address.is_multicast
    if special or address.is_link_local or text == "255.255.255.255":
        return None
    if "%" in text or (address.version == 6 and address.ipv4_mapped is not None):
        return None
    return address.packed


@given(TEXTS)
def test_an_address_is_read_as_by_the_standard_library(text: str) -> None:
    try:
        found = reading.unicast(text)
    except ValueError:
        found = None
    assert found == slowly(text)


@pytest.mark.parametrize(
    "text", ["fe80::1%a\nb", "2001:db8::1%eth0", "::ffff:127.0.0.1", "::ffff:192.0.2.1"]
)
def test_an_address_with_something_else_in_it_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"zone|IPv4|link-local") as caught:
        reading.unicast(text)
    assert "\n" not in str(caught.value)

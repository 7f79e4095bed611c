"""What the specification demands of a request, and how results are written and read."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.cni.spec import (
    STDIN_LIMIT,
    VERSION_ANSWER,
    VERSIONS,
    AttachmentId,
    CniError,
    Code,
    Command,
    Dns,
    Interface,
    IpConfig,
    Request,
    Result,
    Route,
    decode_request,
    decode_result,
    encode_error,
    encode_result,
    version_of,
)
from samepath.model.net import parse_address

ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG: dict[str, Any] = {"cniVersion": "1.0.0", "name": "pods", "type": "samepath-cni"}
RESULT: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "sandbox": "/run/netns/x"}],
    "ips": [{"address": "10.1.0.1/32", "interface": 0}],
}


def decode(command: str = "ADD", config: Any = None, /, **more: Any) -> Request:
    """`more` in capitals: variables (None: not set); else fields of the configuration."""
    environment = {**ENVIRONMENT, "CNI_COMMAND": command}
    fields = {**CONFIG, **(config or {})}
    for name, value in more.items():
        if not name.isupper():
            fields[name] = value
        elif value is None:
            del environment[f"CNI_{name}"]
        else:
            environment[f"CNI_{name}"] = value
    return decode_request(environment, json.dumps(fields).encode())


def refused(command: str = "ADD", config: Any = None, /, **more: Any) -> tuple[int, str]:
    with pytest.raises(CniError) as caught:
        decode(command, config, **more)
    return caught.value.code, caught.value.msg


def test_a_plain_add() -> None:
    request = decode()
    assert request.command is Command.ADD
    assert request.attachment == AttachmentId("c0ffee", "eth0")
    assert request.netns == "/run/netns/x"
    assert (request.config.version, request.config.name) == ("1.0.0", "pods")
    assert request.prev_result is None
    assert (request.static_ips, request.static_mac, request.config.mtu) == ((), None, None)


# Which variables and versions a command needs


@pytest.mark.parametrize(
    ("command", "needs"),
    [
        ("ADD", {"CONTAINERID", "NETNS", "IFNAME"}),
        ("DEL", {"CONTAINERID", "IFNAME"}),
        ("CHECK", {"CONTAINERID", "NETNS", "IFNAME"}),
        ("GC", set()),
        ("STATUS", set()),
        ("VERSION", set()),
    ],
)
def test_the_variables_that_a_command_needs(command: str, needs: set[str]) -> None:
    fields = {"cniVersion": "1.1.0", "prevResult": RESULT, "cni.dev/valid-attachments": []}
    for name in ("CONTAINERID", "NETNS", "IFNAME", "ARGS", "PATH"):
        for absent in (None, ""):
            if name in needs:
                code, message = refused(command, fields, **{name: absent})
                assert code == 4
                assert f"CNI_{name}:" in message
            else:
                decode(command, fields, **{name: absent})


def test_all_that_is_missing_is_named() -> None:
    assert refused(CONTAINERID="", NETNS=None)[1].startswith("CNI_CONTAINERID, CNI_NETNS:")


@pytest.mark.parametrize("command", ["", "add", "LIST", "ADD "])
def test_commands_that_are_none(command: str) -> None:
    code, message = refused(command)
    assert code == 4
    assert message.startswith("CNI_COMMAND:")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("command", "since"),
    [("ADD", "0.3.1"), ("DEL", "0.3.1"), ("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")],
)
def test_commands_by_version(version: str, command: str, since: str) -> None:
    fields = {"cniVersion": version, "cni.dev/valid-attachments": [], "prevResult": RESULT}
    if VERSIONS.index(version) < VERSIONS.index(since):
        assert refused(command, fields)[0] == 1
    else:
        assert decode(command, fields).config.version == version


@pytest.mark.parametrize("version", ["", None, "0.2.0", "0.3.0", "1.2.0", "1.0", "v1.0.0"])
@pytest.mark.parametrize("command", ["ADD", "DEL", "STATUS"])
def test_versions_that_we_do_not_speak(command: str, version: str | None) -> None:
    code, message = refused(command, cniVersion=version)
    assert code == 1
    assert "1.1.0" in message


def test_version_takes_dummies_and_no_configuration() -> None:
    assert decode_request({"CNI_COMMAND": "VERSION"}, b"").command is Command.VERSION
    answer = json.loads(VERSION_ANSWER)
    assert answer == {"cniVersion": "1.1.0", "supportedVersions": list(VERSIONS)}


# Names


@pytest.mark.parametrize("text", ["a", "0", "a_.-Z9", "x" * 255])
def test_container_ids(text: str) -> None:
    assert decode(CONTAINERID=text).container_id == text


@pytest.mark.parametrize(
    "text", ["-a", ".", "_a", "a/b", "a b", "é", "a\n", "\udcff", "x" * 256, "../../etc"]
)
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_container_ids_that_are_none(command: str, text: str) -> None:
    code, message = refused(command, CONTAINERID=text)
    assert code == 4
    assert message.startswith("CNI_CONTAINERID:")


@pytest.mark.parametrize("text", ["e", "eth0", "x" * 15, "…", "a.b", "ä" * 7])
def test_interface_names(text: str) -> None:
    assert decode(IFNAME=text).ifname == text


@pytest.mark.parametrize(
    "text",
    [".", "..", "a/b", "a:b", "a b", "a\tb", "a\u00a0b", "x" * 16, "ä" * 8, "\udcff", "a\x01"],
)  # fmt: skip
def test_interface_names_that_are_none(text: str) -> None:
    code, message = refused(IFNAME=text)
    assert code == 4
    assert message.startswith("CNI_IFNAME:")


@pytest.mark.parametrize("text", ["\udcff", "/" + "x" * 4095])
def test_namespaces_that_are_none(text: str) -> None:
    code, message = refused(NETNS=text)
    assert code == 4
    assert message.startswith("CNI_NETNS:")


@pytest.mark.parametrize("name", ["", None, "-x", "a/b", "a b", "x" * 256, "é"])
@pytest.mark.parametrize("command", ["ADD", "DEL", "STATUS"])
def test_network_names_that_are_none(command: str, name: str | None) -> None:
    version = {"cniVersion": "1.1.0"}
    code, message = refused(command, version, name=name)
    assert code == 7
    assert message.startswith("name")


# CNI_ARGS, and what it shares with the configuration


ARGS = {"IgnoreUnknown": "1", "K8S_POD_NAME": "web-0", "K8S_POD_NAMESPACE": "shop", "X": "y=z"}


@given(st.permutations(list(ARGS.items())))
def test_args_in_any_order(pairs: list[tuple[str, str]]) -> None:
    request = decode(ARGS=";".join(f"{key}={value}" for key, value in pairs))
    assert request.args == ARGS
    assert request.pod == "shop/web-0"


@pytest.mark.parametrize("text", ["", ";", "K8S_POD_UID=", "IgnoreUnknown=TRUE;a=b", "MAC=;IP="])
def test_args_that_say_little(text: str) -> None:
    request = decode(ARGS=text)
    assert (request.static_ips, request.static_mac, request.pod) == ((), None, "")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a", "'a'"),
        ("=b;IgnoreUnknown=1", "'=b'"),
        ("a=b", "'a'"),
        ("a=b;IgnoreUnknown=0", "'a'"),
        ("IgnoreUnknown=yes", "'yes'"),
        ("IP=10.0.0.256", "'10.0.0.256'"),
        ("IP=" + ",".join(f"10.0.0.{n}" for n in range(17)), "17"),
        ("MAC=02:00:00:00:00", "'02:00:00:00:00'"),
        ("MAC=03:00:00:00:00:01", "multicast"),
        ("\udcff", "\\udcff"),
    ],
)
def test_args_that_are_refused_for_add_and_passed_over_for_del(text: str, named: str) -> None:
    code, message = refused(ARGS=text)
    assert code == 4
    assert message.startswith("CNI_ARGS")
    assert named in message
    assert decode("DEL", ARGS=text).attachment == AttachmentId("c0ffee", "eth0")


def test_a_key_that_stands_twice_counts_as_it_stands_last() -> None:
    assert decode(ARGS="IP=10.0.0.1;IP=10.0.0.2").static_ips == (parse_address("10.0.0.2"),)


def test_static_addresses_with_and_without_length() -> None:
    """podman sends bare addresses, others with the length of a subnet."""
    ips = ["10.1.0.7", "10.1.0.8/24", "2001:db8::7/64", "10.1.0.7"]
    assert decode(runtimeConfig={"ips": ips}).static_ips == tuple(
        map(parse_address, ("10.1.0.7", "10.1.0.8", "2001:db8::7"))
    )


def test_the_most_specific_place_counts() -> None:
    args = "IP=10.0.0.1,2001:db8::1;MAC=02-00-00-00-00-0A"
    convention = {"cni": {"ips": ["10.0.0.2"], "mac": "02:00:00:00:00:02"}, "other": [1]}
    runtime = {"ips": ["10.0.0.3"], "mac": "02:00:00:00:00:03", "portMappings": [{"HostPort": 1}]}
    request = decode(ARGS=args)
    assert request.static_ips == (parse_address("10.0.0.1"), parse_address("2001:db8::1"))
    assert request.static_mac == "02:00:00:00:00:0a"
    request = decode(ARGS=args, args=convention)
    assert request.static_ips == (parse_address("10.0.0.2"),)
    assert request.static_mac == "02:00:00:00:00:02"
    request = decode(ARGS=args, args=convention, runtimeConfig=runtime)
    assert request.static_ips == (parse_address("10.0.0.3"),)
    assert request.static_mac == "02:00:00:00:00:03"
    request = decode(ARGS=args, args={"cni": None}, runtimeConfig={"ips": None, "mac": ""})
    assert request.static_ips == (parse_address("10.0.0.1"), parse_address("2001:db8::1"))


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("runtimeConfig", {"ips": ["x"]}, 7),
        ("runtimeConfig", {"ips": "10.0.0.1"}, 7),
        ("runtimeConfig", {"mac": "ff:ff:ff:ff:ff:ff"}, 7),
        ("runtimeConfig", {"mac": "00:00:00:00:00:00"}, 7),
        ("mtu", 575, 7),
        ("mtu", 65536, 7),
        ("mtu", -1, 7),
        ("mtu", "1500", 7),
        ("dns", {"nameservers": "10.0.0.1"}, 7),
        ("ipam", {"type": "host-local"}, 2),
        ("ipMasq", True, 2),
        ("socket", 1, 7),
    ],
)
def test_fields_that_are_refused_for_add_and_passed_over_for_del(
    field: str, value: Any, code: int
) -> None:
    said, message = refused(**{field: value})
    assert said == code
    assert field in message
    decode("DEL", **{field: value})


def test_fields_that_say_nothing() -> None:
    request = decode(
        mtu=0, ipam={}, ipMasq=False, dns=None, runtimeConfig=None, args=None, prevResult=None,
        capabilities={"ips": True}, unknown={"a": [1]}, socket=None,
    )  # fmt: skip
    assert request == decode()


def test_mtu_and_dns_are_the_configurations() -> None:
    dns = {"nameservers": ["10.0.0.53"], "domain": "d", "search": ["a", "b"], "options": ["x"]}
    config = decode(mtu=1400, dns=dns).config
    assert config.mtu == 1400
    assert config.dns == Dns(("10.0.0.53",), "d", ("a", "b"), ("x",))


# The configuration as a text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", 6),
        (b" \n", 6),
        (b"{", 6),
        (b"\xff", 6),
        (b'{"name":"\xff"}', 6),
        (b"{}{}", 6),
        (b'{"x":' + b"[" * 100_000, 6),
        (b"[]", 7),
        (b'{"cniVersion":1}', 7),
        (json.dumps(CONFIG).encode().ljust(STDIN_LIMIT + 1), 7),
    ],
)
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_texts_that_are_no_configuration(command: str, text: bytes, code: int) -> None:
    with pytest.raises(CniError) as caught:
        decode_request({**ENVIRONMENT, "CNI_COMMAND": command}, text)
    assert caught.value.code == code
    assert encode_error(caught.value, version_of(text))


@given(st.binary(max_size=200), st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS"]))
def test_any_octets_end_in_an_error_object(text: bytes, command: str) -> None:
    with pytest.raises(CniError) as caught:
        decode_request({**ENVIRONMENT, "CNI_COMMAND": command}, text)
    answer = json.loads(encode_error(caught.value, version_of(text)))
    assert answer["code"] in Code.__members__.values()
    assert answer["msg"]


# GC


def entry(container: str, ifname: str = "eth0") -> dict[str, str]:
    return {"containerID": container, "ifname": ifname}


def collected(fields: dict[str, Any]) -> set[tuple[str, str]]:
    config = decode("GC", {"cniVersion": "1.1.0", **fields}).config
    return {(a.container_id, a.ifname) for a in config.valid_attachments}


def test_gc_keeps_what_either_list_names() -> None:
    """libcni sends both names; what one of them names is alive."""
    new, old = "cni.dev/valid-attachments", "cni.dev/attachments"
    assert collected({new: [entry("a"), entry("a", "eth1")]}) == {("a", "eth0"), ("a", "eth1")}
    assert collected({old: [entry("a")]}) == {("a", "eth0")}
    assert collected({new: [entry("a")], old: [entry("b")]}) == {("a", "eth0"), ("b", "eth0")}
    assert collected({new: [], old: []}) == set()
    assert collected({new: None}) == set()  # Go's empty list


def test_gc_without_a_list_is_refused() -> None:
    code, message = refused("GC", {"cniVersion": "1.1.0"})
    assert code == 7
    assert message.startswith("cni.dev/valid-attachments is missing")


@pytest.mark.parametrize("bad", [[{"containerID": "a"}], {"a": "b"}, ["a"], [None], "a"])
def test_gc_with_half_a_list_is_refused(bad: Any) -> None:
    assert refused("GC", {"cniVersion": "1.1.0", "cni.dev/valid-attachments": bad})[0] == 7


def test_gc_may_be_switched_off() -> None:
    fields = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": [], "disableGC": True}
    assert decode("GC", fields).config.disable_gc


# Results


def test_check_needs_what_add_said() -> None:
    code, message = refused("CHECK", cniVersion="0.4.0")
    assert code == 7
    assert message.startswith("prevResult is missing")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.1/24"}}, 1),
        ({"ips": [{"address": "x"}]}, 7),
        ({"ips": [{"gateway": "10.0.0.1"}]}, 7),
        ({"ips": [{"address": "10.0.0.1/33"}]}, 7),
        ({"routes": [{"dst": "0.0.0.0/0", "gw": "x"}]}, 7),
        ({"interfaces": [{}]}, 7),
        ({"interfaces": [{"name": "x"}] * 1025}, 7),
        ([], 7),
    ],
)
def test_a_bad_prev_result_stops_add_but_not_del(text: Any, code: int) -> None:
    said, message = refused(prevResult=text)
    assert said == code
    assert message.startswith("prevResult")
    assert decode("DEL", prevResult=text).prev_result is None


WHOLE = Result(
    interfaces=(
        Interface("cali1", "ee:ee:ee:ee:ee:ee"),
        Interface("eth0", "02:00:00:00:00:01", 1400, "/run/netns/x", "/s", "0000:00:1f.6"),
    ),
    ips=(
        IpConfig(parse_address("10.1.0.1"), 32, parse_address("169.254.1.1"), 1),
        IpConfig(parse_address("2001:db8::1"), 128, None, None),
    ),
    routes=(
        Route(parse_address("0.0.0.0"), 0, parse_address("169.254.1.1"), 1400, 1360, 5, 254, 0),
        Route(parse_address("2001:db8::"), 32),
    ),
    dns=Dns(("10.0.0.53",), "d", ("a",), ("ndots:5",)),
)


def test_a_result_of_0_4_0() -> None:
    """As the specification of 0.4.0 writes it."""
    assert json.loads(encode_result(WHOLE, "0.4.0")) == {
        "cniVersion": "0.4.0",
        "interfaces": [
            {"name": "cali1", "mac": "ee:ee:ee:ee:ee:ee"},
            {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"},
        ],
        "ips": [
            {"version": "4", "address": "10.1.0.1/32", "gateway": "169.254.1.1", "interface": 1},
            {"version": "6", "address": "2001:db8::1/128"},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "2001:db8::/32"}],
        "dns": {
            "nameservers": ["10.0.0.53"], "domain": "d", "search": ["a"], "options": ["ndots:5"],
        },
    }  # fmt: skip


def test_what_the_versions_differ_by() -> None:
    texts = {version: json.loads(encode_result(WHOLE, version)) for version in VERSIONS}
    for version, text in texts.items():
        assert text.pop("cniVersion") == version
    assert texts["0.3.1"] == texts["0.4.0"]
    assert texts["0.4.0"]["ips"][0].pop("version") == "4"
    assert texts["0.4.0"]["ips"][1].pop("version") == "6"
    assert texts["0.4.0"] == texts["1.0.0"]
    assert texts["1.1.0"]["interfaces"][1].items() - texts["1.0.0"]["interfaces"][1].items() == {
        ("mtu", 1400), ("socketPath", "/s"), ("pciID", "0000:00:1f.6"),
    }  # fmt: skip
    assert texts["1.1.0"]["routes"][0].items() - texts["1.0.0"]["routes"][0].items() == {
        ("mtu", 1400), ("advmss", 1360), ("priority", 5), ("table", 254), ("scope", 0),
    }  # fmt: skip


def test_an_empty_result() -> None:
    assert json.loads(encode_result(Result(), "1.0.0")) == {
        "cniVersion": "1.0.0", "interfaces": [], "ips": [], "dns": {},
    }  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("of", VERSIONS)
def test_a_prev_result_of_any_version_is_read(version: str, of: str) -> None:
    text = json.loads(encode_result(WHOLE, of))
    got = decode(cniVersion=version, prevResult=text).prev_result
    assert got is not None
    assert encode_result(got, "1.0.0") == encode_result(WHOLE, "1.0.0")


def test_a_prev_result_as_go_writes_it() -> None:
    text = {
        "interfaces": None, "routes": None, "dns": {"nameservers": None},
        "ips": [{"address": "10.0.0.1/24", "gateway": "", "interface": -1},
                {"address": "10.0.0.2", "interface": 7}],
    }  # fmt: skip
    assert decode_result(json.dumps(text).encode()) == Result(
        ips=(IpConfig(parse_address("10.0.0.1"), 24), IpConfig(parse_address("10.0.0.2"), 32))
    )


NUMBERS = st.none() | st.integers(0, 2**31 - 1)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
ADDRESSES = st.ip_addresses().map(lambda a: (a.packed, a.max_prefixlen))
INTERFACES = st.builds(
    Interface, WORDS, st.sampled_from(["", "02:00:00:00:00:01"]),
    st.none() | st.integers(1, 65535), WORDS, WORDS, WORDS,
)  # fmt: skip


@st.composite
def results(draw: st.DrawFn) -> Result:
    interfaces = tuple(draw(st.lists(INTERFACES, max_size=3)))
    index = st.none() | st.integers(0, len(interfaces) - 1) if interfaces else st.none()
    ips = []
    for address, bits in draw(st.lists(ADDRESSES, max_size=3)):
        gateway = draw(st.none() | st.ip_addresses().map(lambda a: a.packed))
        ips.append(IpConfig(address, draw(st.integers(0, bits)), gateway, draw(index)))
    routes = [
        Route(address, draw(st.integers(0, bits)), None, *(draw(NUMBERS) for _ in range(5)))
        for address, bits in draw(st.lists(ADDRESSES, max_size=3))
    ]
    words = st.lists(WORDS, max_size=2).map(tuple)
    dns = Dns(draw(words), draw(WORDS), draw(words), draw(words))
    return Result(interfaces, tuple(ips), tuple(routes), dns)


@given(results())
def test_what_is_written_is_read_again(result: Result) -> None:
    assert decode_result(encode_result(result, "1.1.0")) == result


@given(results(), st.sampled_from(VERSIONS))
def test_addresses_are_those_of_ipaddress(result: Result, version: str) -> None:
    text = json.loads(encode_result(result, version))
    for ip, said in zip(result.ips, text["ips"], strict=True):
        assert ipaddress.ip_interface(said["address"]).packed == ip.address


# Errors


def test_an_error_object() -> None:
    error = CniError(Code.TRY_AGAIN_LATER, "wait", "for it")
    assert json.loads(encode_error(error, "0.4.0")) == {
        "cniVersion": "0.4.0", "code": 11, "msg": "wait", "details": "for it",
    }  # fmt: skip
    assert "details" not in json.loads(encode_error(CniError(5, "x"), "1.0.0"))


def test_messages_hold_what_json_can_carry() -> None:
    said = json.loads(encode_error(CniError(5, "\udcff" + "x" * 9000, "\ud800"), "1.0.0"))
    assert said["details"] == "\\ud800"
    assert len(said["msg"]) < 3000


def test_codes_are_the_specifications_or_ours() -> None:
    for code in Code:
        assert code in (1, 2, 3, 4, 5, 6, 7, 11, 50, 51) or code >= 100

"""Where the fuzzer begins: good inputs for each target, and what was found; made, not stored."""

from __future__ import annotations

import json
import struct

import yaml

from fuzz import kube_watch
from samepath.bgp import message
from samepath.bgp.attributes import AsPath, PathAttributes, SegmentType, UnknownAttribute
from samepath.bgp.capabilities import Capabilities, Fqdn, GracefulRestart
from samepath.bgp.errors import Cease, Code, shutdown_data
from samepath.bgp.message import Context
from samepath.cni.ledger import header_line
from samepath.model.net import Address, Family, make_nlri, parse_address
from samepath.netlink import codec, uapi

CONTEXTS = (b"\0\0", b"\0\1", b"\0\x09", b"\0\x08", b"\x01\x01", b"\xff\x39", b"\x55\x55")


def _attributes(next_hop: Address, link_local: Address | None = None) -> PathAttributes:
    return PathAttributes(
        next_hop=next_hop,
        as_path=AsPath(((SegmentType.AS_SEQUENCE, (65001, 70000)), (SegmentType.AS_SET, (3, 4)))),
        link_local_next_hop=link_local,
        med=7,
        local_pref=200,
        atomic_aggregate=True,
        aggregator=(70001, bytes((10, 0, 0, 9))),
        communities=(0xFFFF0000, 0xFDE80001),
        extended_communities=(bytes.fromhex("4004fde84ef00000"), bytes.fromhex("0002fde800000064")),
        large_communities=((65000, 1, 2),),
        originator_id=9,
        cluster_list=(1, 2),
        unknown=(UnknownAttribute(250, b"abc"),),
    )


_V4 = tuple(make_nlri(bytes((100, 64, i, 0)), length) for i, length in enumerate((24, 23, 32, 0)))
_V6 = tuple(make_nlri(parse_address("fd00::1"), length) for length in (128, 64, 17))


def _updates() -> list[message.Update]:
    v4 = _attributes(bytes((10, 0, 0, 2)))
    v6 = _attributes(parse_address("fd00::2"), parse_address("fe80::2"))
    return [
        message.Update(reaches=(message.Reach(Family.IPV4, _V4, v4),)),
        message.Update(reaches=(message.Reach(Family.IPV6, _V6, v6),)),
        message.Update(
            withdrawals=(message.Withdrawal(Family.IPV4, _V4), message.Withdrawal(Family.IPV6, _V6))
        ),
        message.Update(end_of_rib=Family.IPV4),
        message.Update(end_of_rib=Family.IPV6),
    ]


def _bodies() -> list[bytes]:
    found = []
    for four in (True, False):
        for internal in (True, False):
            context = Context(four_octet_as=four, families=frozenset(Family), internal=internal)
            found += [message.encode(update, context)[19:] for update in _updates()]
    return found


def updates() -> list[bytes]:
    return [context + body for body in (*_bodies(), _EMPTY) for context in CONTEXTS]


_EMPTY = b"\0\0\0\x25" + b"".join(
    (
        b"\x80\x0e\x15\0\2\1\x10" + parse_address("fd00::2") + b"\0",
        b"\x40\1\1\0",
        b"\x40\2\6\2\1\0\0\xfd\xe9",
    )
)
"""MP_REACH_NLRI without a prefix: the short way took it for a reach of nothing."""


def _opens() -> list[bytes]:
    context = Context(four_octet_as=True, families=frozenset(Family), internal=False)
    full = Capabilities(
        families=frozenset(Family),
        four_octet_as=70000,
        route_refresh=True,
        enhanced_route_refresh=True,
        graceful_restart=GracefulRestart(True, True, 120, ((Family.IPV4, True),)),
        extended_message=True,
        fqdn=Fqdn("router", "example.net"),
        unknown=((199, b"?"), (1, b"\0\x19\0\x46")),
    )
    others = b"\x45\x08\0\1\1\3\0\2\1\1" + b"\x05\x06\0\1\0\1\0\2" + b"\x47\x07\0\1\1\x80\0\1\0"
    raw = struct.pack(">BHHI", 4, 23456, 90, 1) + bytes((len(others) + 2, 2, len(others))) + others
    long = b"\x02" + (300).to_bytes(2, "big") + b"\xc7\x00" * 150
    extended = struct.pack(">BHHI", 4, 1, 0, 1) + b"\xff\xff" + len(long).to_bytes(2, "big") + long
    return [
        message.encode(message.Open(70000, 90, 1, full), context)[19:],
        message.encode(message.Open(1, 0, 1, Capabilities()), context)[19:],
        raw,
        extended,
    ]


def opens() -> list[bytes]:
    return _opens()


def messages() -> list[bytes]:
    context = Context(four_octet_as=True, families=frozenset(Family), internal=False)
    reason = shutdown_data("maintenance")
    said: list[message.Message] = [
        message.Keepalive(),
        message.Notification(Code.CEASE, Cease.ADMINISTRATIVE_SHUTDOWN, reason),
        message.Notification(Code.CEASE, Cease.ADMINISTRATIVE_RESET, b"\5a\n\x1b[2"),
        message.RouteRefresh(Family.IPV6, 1),
        *_updates(),
    ]
    whole = [message.encode(one, context) for one in said]
    whole += [b"\xff" * 16 + (19 + len(b)).to_bytes(2, "big") + b"\1" + b for b in _opens()]
    return [b"\0\1\0\x20" + octets for octets in (*whole, b"".join(whole[:4]))]


def prefixes() -> list[bytes]:
    paths = b"".join(b"\0\0\0" + bytes((i % 2,)) + nlri for i, nlri in enumerate(_V4))
    return [
        b"\2\0\0\0" + paths,
        b"\0\0\x40\x10" + b"".join(_V4),
        b"\1\0\x40\x40" + b"".join(_V6),
        b"\0\0\x14\x18" + _V4[0] * 9,
    ]


# Steps: see `bgp_play` and `bfd_play` for what each octet decides.

_OPEN = b"\x02\0\0\0\x03"
_KEEPALIVE = b"\x02\1"


def session_plays() -> list[bytes]:
    up = b"\x02\0" + b"\0\1" + _OPEN + _KEEPALIVE
    reach, end = b"\x02\3\1\3\0", b"\x02\3\0\0\4"
    return [
        up + reach + end + b"\6\4" * 2 + b"\6\5" * 4,
        up + reach + b"\x07" + b"\6\3" * 2 + b"\1" + _OPEN + _KEEPALIVE,
        up + b"\x02\4\5\4\0\1\0\1" + b"\x02\4\3\2\6\2" + b"\6\4",
        up + b"\x08\0" + b"\0\1" + _OPEN,
        b"\x12\x0f\0\1" + _OPEN + _KEEPALIVE + b"\x05\3\1\3\0\x09" + b"\x09\0" + b"\x0a\1",
        up + b"\x02\2\x04\0\0\0\0" + b"\x02\5\5abcde",
    ]


def peer_plays() -> list[bytes]:
    open_, alive = b"\2\0\0\0\x64\x03", b"\2\0\1"
    reach, withdraw, end = b"\2\0\3\1\3\0", b"\2\0\3\1\3\2", b"\2\0\3\0\0\4"
    up = b"\0\0" + b"\0" + open_ + alive
    return [
        up + reach + end + b"\x08\5" + withdraw + b"\6\5",
        up + reach + b"\x07\0" + b"\6\4",
        up + reach + b"\x07\0" + b"\6\3" + b"\0" + open_ + alive + end + b"\6\5\6\6",
        b"\2\x0c\0" + open_ + alive + reach + b"\x09\1\x0f" + reach,
        b"\0\0\1\0" + open_ + b"\2\1\0\0\0\3" + alive + b"\2\1\1" + reach,
        up + reach + b"\2\0\4\5\4\0\1\1\1" + reach + b"\2\0\4\5\4\0\1\2\1",
        up + b"\0" + b"\6\4" + open_ + b"\2\1\0\0\0\3",
        up + reach + b"\x09\0",
        b"\0\x0f\0"
        + b"\2\0\0\0\x64\x7f"
        + alive
        + b"\2\0\3\1\x43\0"
        + b"\2\0\3\1\x83\0\x07\0"
        + b"\6\6",
        up + b"\2\0\3\x30\3\0" + b"\x09\3\x30\0" + b"\x09\2\1",
    ]


def bfd_packets() -> list[bytes]:
    good = struct.pack(">BBBBIIIII", 0x20, 0xC8, 3, 24, 1, 2, 300000, 300000, 0)
    return [good, good + b"more", good[:20], b"\x20\xc4\3\x1a" + good[4:] + b"\1\2"]


def bfd_plays() -> list[bytes]:
    setup = b"\0\0\x20"
    down, init, up = b"\2\x21\0\3\3\0\1", b"\2\x22\x10\3\3\0\1", b"\2\x23\x10\3\3\0\1"
    return [
        setup + down + init + up + b"\6\4" * 6,
        setup + down + up + b"\2\x23\x11\3\3\0\1" + b"\6\3" * 4 + b"\0\0\xa0" + b"\6\4",
        setup + down + up + b"\2\x23\x14\3\3\0\1" + b"\6\5" + b"\1\0",
        setup + b"\0\3\x21" + down + b"\5\x18" + bfd_packets()[0] + b"\0\1" + b"\6\5",
    ]


_NET = '{"cniVersion":"1.0.0","name":"pods","type":"samepath-cni"'


def cni_requests() -> list[bytes]:
    base = b"CNI_CONTAINERID=abc\0CNI_NETNS=/run/netns/x\0CNI_IFNAME=eth0\0CNI_PATH=/opt/cni/bin"
    result = cni_results()[0][1:].decode()
    wishes = '"runtimeConfig":{"ips":["10.0.0.7/24"],"mac":"02:00:00:00:00:01"}'
    texts = [
        (b"ADD", f'{_NET},"mtu":1400,"dns":{{"nameservers":["10.0.0.1"]}},{wishes}}}'),
        (b"DEL", f'{_NET},"prevResult":{result}}}'),
        (b"CHECK", f'{_NET},"prevResult":{result}}}'),
        (b"STATUS", _NET.replace("1.0.0", "1.1.0") + "}"),
        (b"VERSION", "{}"),
        (
            b"GC",
            _NET.replace("1.0.0", "1.1.0")
            + ',"cni.dev/valid-attachments":[{"containerID":"abc","ifname":"eth0"}]}',
        ),
    ]
    args = b"\0CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=a;IP=10.0.0.9"
    found = [b"CNI_COMMAND=" + c + b"\0" + base + b"\0\0" + t.encode() for c, t in texts]
    found.append(
        b"CNI_COMMAND=ADD\0"
        + base
        + args
        + b"\0\0"
        + f'{_NET},"args":{{"cni":{{"mac":"x"}}}}}}'.encode()
    )
    return found


def cni_wire() -> list[bytes]:
    return [
        b"\x20samepath-cni 1 16 2\nCNI_COMMAND=ADD\0{}",
        b"\5samepath-cni 1 24 0\nSAMEPATH_NETNS_ERRNO=13\0",
        b"\0samepath-cni 1 0 0\n",
    ]


def cni_results() -> list[bytes]:
    full = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1500, "sandbox": "/n"}],
        "ips": [{"address": "10.0.0.7/24", "gateway": "10.0.0.1", "interface": 0},
                {"address": "fd00::7/64", "interface": -1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1400, "priority": 1, "table": 2}],
        "dns": {"nameservers": ["10.0.0.1"], "domain": "a", "search": ["b"], "options": ["c"]},
    }  # fmt: skip
    return [bytes((i,)) + json.dumps(full).encode() for i in range(4)] + [b"\0{}", b"\3null"]


_SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: a, annotations: {x: "y"}}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.1, "fd00::1"]
  externalTrafficPolicy: Local
  sessionAffinity: None
  ports:
  - {name: http, port: 80, protocol: TCP}
  - {port: 53, protocol: UDP}
status: {loadBalancer: {ingress: [{ip: 192.0.2.1, ipMode: VIP}]}}
"""
_OTHERS = """\
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {a: b}, annotations: {samepath.dev/drain: "true"}}
spec: {podCIDR: 10.244.0.0/24}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- addresses: [10.244.0.2]
  conditions: {ready: true, serving: true, terminating: false}
  nodeName: n1
  targetRef: {kind: Pod, name: p, namespace: a}
ports: [{name: http, port: 8080, protocol: TCP}]
---
apiVersion: samepath.dev/v1
kind: IPPool
metadata: {name: pool}
spec: {cidr: 10.244.0.0/16, blockSize: 26, natOutgoing: true, nodeSelector: 'a == "b"'}
"""
_OURS = """\
apiVersion: samepath.dev/v1
kind: BGPPeer
metadata: {name: tor-a, uid: u, resourceVersion: "1"}
spec:
  myASN: 64512
  peerASN: 64500
  peerAddress: 192.0.2.1
  sourceAddress: 192.0.2.9
  holdTime: 1m30s
  keepaliveTime: 500ms
  connectTime: 5s
  routerID: 10.0.0.1
  nodeSelectors:
  - matchLabels: {rack: a}
    matchExpressions: [{key: a/b, operator: NotIn, values: [x]}, {key: c, operator: Exists}]
  passwordSecret: {name: s, namespace: x}
  bfdProfile: fast
---
apiVersion: samepath.dev/v1
kind: BGPAdvertisement
metadata: {name: a}
spec:
  ipAddressPools: [p]
  aggregationLength: 24
  communities: ["1:2", "large:1:2:3", no-export, vpn]
  peers: [tor-a]
  drainDeadline: 10m
---
apiVersion: samepath.dev/v1
kind: IPAddressPool
metadata: {name: p, labels: {zone: dmz}}
spec:
  addresses: [198.51.100.0/24, 192.0.2.1-192.0.2.9, "2001:db8::1 - 2001:db8::9"]
  serviceAllocation: {priority: 1, namespaces: [a], serviceSelectors: [{matchLabels: {b: c}}]}
---
apiVersion: samepath.dev/v1
kind: BFDProfile
metadata: {name: fast}
spec: {receiveInterval: 100, transmitInterval: 100, echoMode: false}
---
apiVersion: samepath.dev/v1
kind: Community
metadata: {name: c}
spec: {communities: [{name: vpn, value: "1:2"}]}
---
apiVersion: samepath.dev/v1
kind: GatewayTier
metadata: {name: edge}
spec: {buckets: 1021, hashSeed: 1, idleTimer: 2m, moveDeadline: 0s, transitionIdle: 1h}
---
apiVersion: samepath.dev/v1
kind: BlockClaim
metadata: {name: 10-1-0-64-26, annotations: {samepath.dev/pending: "true"}}
spec: {cidr: 10.1.0.64/26, node: n1}
---
apiVersion: v1
kind: Namespace
metadata: {name: a, labels: {b: c}}
---
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: a}
data: {password: aHVzaAo=}
stringData: {password: hush}
"""
_ASKING = """\
apiVersion: v1
kind: Service
metadata:
  name: web
  creationTimestamp: "2026-01-01T00:00:00Z"
  annotations:
    samepath.dev/load-balancer-ips: 192.0.2.1, 2001:db8::1
    metallb.io/address-pool: p, q
    samepath.dev/allow-shared-ip: k
    samepath.dev/ip-allocated-from-pool: p
    service.beta.kubernetes.io/load-balancer-source-ranges: 10.0.0.0/8,x
spec:
  type: LoadBalancer
  loadBalancerIP: 192.0.2.2
  ipFamilies: [IPv6, IPv4]
  ipFamilyPolicy: PreferDualStack
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  healthCheckNodePort: 30000
  selector: {app: web}
  ports: [{port: 80, nodePort: 31000}]
status: {conditions: [{type: samepath.dev/AddressAssigned, reason: r, message: m}]}
"""


def manifests() -> list[bytes]:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {}}
    listed = {"apiVersion": "v1", "kind": "List", "items": [service]}
    odd = "a: &x [1, 0x1f, 0o17, 1e3, .inf, ~, 'q', \"\\t\\u263a\", !!str 7, |\n  text\n]\nb: *x\n"
    return [
        b"y" + _SERVICE.encode(),
        b"y" + _OTHERS.encode(),
        b"y" + _OURS.encode(),
        b"y" + _ASKING.encode(),
        *(b"y" + part.encode() for part in _OURS.split("---\n")),
        b"j" + json.dumps(listed).encode(),
        b"j" + json.dumps({**listed, "kind": "ServiceList"}).encode(),
        b"y" + odd.encode(),
        b"y" + _OTHERS.replace("samepath.dev", "projectcalico.org").encode(),
        b"y"
        + _OTHERS.replace("blockSize: 26, ", "").replace("10.244.0.0/16", "0.0.0.0/0").encode(),
        b"y" + _SERVICE.replace("53", "80").replace("UDP", "TCP").encode(),
        b"ya: !!int x",
        b"ya: " + b"9" * 5000,
        b"j" + b"9" * 5000,
        b"j" + b"[" * 3000,
        b'j{"a": NaN}',
    ]


_GATEWAY = """\
router_id: 10.0.0.1
as: 65000
listen: [10.0.0.1]
hash_seed: 1
neighbors:
- {range: 10.0.0.0/24, remote_as: 65001, import: {services: [192.0.2.0/24], max_prefixes: 10}}
- {address: 10.1.0.1, remote_as: 65000, families: [ipv4], hold_time_s: 9, export: [services]}
"""
_AGENT = """\
router_id: 10.0.0.2
as: 65001
node: n1
manifests: /etc/samepath
serviceProxy: none
neighbors: [{address: 10.0.0.1, remote_as: 65000, bfd: fast}]
bfd_profiles: {fast: {}}
pod_cidrs: [10.244.0.0/24]
"""


def configs() -> list[bytes]:
    short = _GATEWAY.replace("hold_time_s: 9", "hold_time_s: 2")
    return [b"g" + _GATEWAY.encode(), b"g" + short.encode(), b"a" + _AGENT.encode()]


def selectors() -> list[bytes]:
    texts = (
        'a == "b" && !has(c) || (d in {"x", "y"} && e not in {"z"})',
        'a contains "p" || b starts with "q" || c ends with \'r\'',
        "all()", "!global()", "has(a)", "", 'a != "b"',
    )  # fmt: skip
    return [text.encode() for text in texts]


def watches() -> list[bytes]:
    kinds = {resource.kind: number for number, resource in enumerate(kube_watch.KINDS)}
    found = []
    for document in yaml.safe_load_all("---\n".join((_SERVICE, _OTHERS, _OURS, _ASKING))):
        if not document or document["kind"] not in kinds:
            continue
        document["metadata"]["resourceVersion"] = "7"
        for names in (("ADDED", "MODIFIED", "DELETED"), ("ADDED", "BOOKMARK", "ERROR")):
            events = [{"type": name, "object": document} for name in names]
            lines = b"\n".join(json.dumps(event).encode() for event in events)
            found.append(bytes((kinds[document["kind"]], 40)) + lines + b"\n")
    expired = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
    nameless = {"type": "ADDED", "object": {"metadata": {"resourceVersion": "1"}}}
    odd = (expired, nameless, {"type": "NEWS", "object": nameless["object"]}, {"type": 1}, [])
    found += [b"\0\0" + json.dumps(event).encode() + b"\n" for event in odd]
    return [*found, b"\0\xff" + b"x" * 3000, b"\0\7\n\n{\n", b"\0\0" + b"[" * 1500 + b"\n"]


def questions() -> list[bytes]:
    trace = {
        "get": "trace", "client": "192.0.2.1", "service": "198.51.100.1",
        "client_port": 40000, "service_port": 80, "protocol": "tcp",
    }  # fmt: skip
    asked: tuple[object, ...] = (trace, {"get": "status"}, {"get": 7}, [])
    found = [b'{"get": "\xa5"}', b'{"get":' + b"[" * 2000]
    return [*(json.dumps(question).encode() for question in asked), *found]


_TAKE = {
    "take": 1, "container": "abc", "ifname": "eth0", "network": "pods",
    "addresses": ["10.244.0.2", "fd00::2"], "mac": "02:00:00:00:00:01", "host_link": "sp1",
    "sandbox": "/n", "pod": "a/b", "made_at": 1.5, "boot_id": "fuzz",
}  # fmt: skip


def _records() -> list[bytes]:
    other = {
        **_TAKE,
        "take": 2,
        "container": "def",
        "addresses": ["10.244.0.3"],
        "host_link": "sp2",
    }
    said = (_TAKE, {"wired": 1}, other, {"release": 1}, {"free": ["10.244.0.9", "fd00::9"]})
    return [json.dumps(record).encode() for record in said]


def ledgers() -> list[bytes]:
    records = _records()
    taken = json.dumps(_TAKE).encode() + b'\n{"free":["10.244.0.2"]}'
    odd = ({**_TAKE, "mac": 7}, {**_TAKE, "take": "1"}, {"free": [1]}, {"wired": 9}, {"take": 1})
    found = [header_line("fuzz") + b"\n" + json.dumps(record).encode() for record in odd]
    found += [
        header_line("fuzz") + b"\n" + taken,
        b'{"samepath":"\xff"}',
        b"{" * 2000,
        header_line("fuzz") + b"\n" + b"[" * 2000,
    ]
    return found + [
        b"\n".join((header_line("fuzz"), *records[:n])) for n in range(len(records) + 1)
    ]


def journals() -> list[bytes]:
    lines = [b"!" + line for line in (header_line("fuzz"), *_records())]
    return [b"\n".join(lines), lines[0], b"\n".join((*lines[:2], b"00000000 x", *lines[2:]))]


def claims() -> list[bytes]:
    blocks = {"10.1.0.0/26": "n1", "10.1.0.64/26": "n2", "fd00::/122": "n1"}
    document = {"samepath": "blocks", "version": 1, "blocks": blocks}
    return [json.dumps(document).encode(), json.dumps({**document, "checksum": "0"}).encode()]


def netlink_bodies() -> list[bytes]:
    number, raw = codec.attribute_u32, codec.attribute
    host = bytes((10, 0, 0, 2))
    bucket = codec.nested(
        uapi.NHA_RES_BUCKET,
        codec.attribute_u16(uapi.NHA_RES_BUCKET_INDEX, 5),
        number(uapi.NHA_RES_BUCKET_NH_ID, 7),
        raw(uapi.NHA_RES_BUCKET_IDLE_TIME, struct.pack("=Q", 99)),
    )
    table = number(uapi.RTA_TABLE, 254) + raw(uapi.RTA_DST, host)
    route = table + number(uapi.RTA_PRIORITY, 10) + number(uapi.RTA_NH_ID, 5)
    route_head = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 83, 0, 1, 0)
    paths = struct.pack("=HBBi", 16, 0, 0, 3) + raw(uapi.RTA_GATEWAY, host)
    members = struct.pack("=IBBxxIBBxx", 1, 0, 0, 2, 1, 0)
    hop = number(uapi.NHA_ID, 8) + raw(uapi.NHA_GATEWAY, host)
    group = number(uapi.NHA_ID, 9) + raw(uapi.NHA_GROUP, members)
    link = raw(uapi.IFLA_IFNAME, b"eth0\0") + number(uapi.IFLA_MTU, 1500)
    return [
        b"\0" + struct.pack("=BxHiII", 0, 1, 3, 0x11043, 0) + link,
        b"\1" + struct.pack("=BBBBI", 2, 24, 0, 0, 3) + raw(uapi.IFA_LOCAL, host),
        b"\2" + struct.pack("=B3xiHBB", 2, 3, 2, 0, 1) + raw(uapi.NDA_DST, host),
        b"\3" + struct.pack("=BBBxI", 2, 0, 83, 0) + hop,
        b"\3" + struct.pack("=BBBxI", 0, 0, 83, 0) + group,
        b"\4" + route_head + route,
        b"\4" + route_head + raw(uapi.RTA_DST, host) + raw(uapi.RTA_MULTIPATH, paths),
        b"\5" + route_head + route,
        b"\6" + struct.pack("=BBBxI", 0, 0, 83, 0) + number(uapi.NHA_ID, 9) + bucket,
        b"\7" + route_head + route,
        b"\x08" + codec.message(24, 2, 1, route_head + route),
    ]  # fmt: skip

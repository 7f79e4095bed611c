"""What each field of our kinds means, and the rules between fields that the API server checks.

Called by `kube.crds`, which makes the schemas of it (so `kubectl explain` shows these texts), and
by `kube.crd_files` for the tables of docs/kubernetes-kinds.md. By struct and field, as `kube.specs`
and `kube.statuses` have them. The rules say, in CEL, what `kube.kinds` refuses: a rule that is only
here would let a folder of manifests be what the API server is not.

Not said here, because CEL cannot: whether an IPv6 address has the right number of parts, whether an
address of a range is before another, whether a prefix has bits beyond its length, and what a
nodeSelector in Calico's language means.

Standards: Kubernetes API conventions; CEL, in the part of Kubernetes 1.25.
"""

from __future__ import annotations

from samepath.kube import specs, statuses
from samepath.kube.schemas import WHOLE, Note, Notes, Rule

_LIST_SET = (("x-kubernetes-list-type", "set"),)


def _by(key: str) -> tuple[tuple[str, object], ...]:
    return (("x-kubernetes-list-type", "map"), ("x-kubernetes-list-map-keys", [key]))


_V4_MULTICAST = "22[4-9][.]|23[0-9][.]"
_V6_LOCAL = "[fF][eE][89abAB][0-9a-fA-F]:"
_V6_MULTICAST = "[fF][fF][0-9a-fA-F]{2}:"
_NOT_PEERS = (
    f"0[.]0[.]0[.]0$|255[.]255[.]255[.]255$|::$|{_V4_MULTICAST}|{_V6_LOCAL}|{_V6_MULTICAST}"
)
_NOT_HOSTS = (
    "0[.]0[.]0[.]0|127[.]|169[.]254[.]|255[.]255[.]255[.]255|::1?( |/|-|$)|"
    f"{_V4_MULTICAST}|{_V6_LOCAL}|{_V6_MULTICAST}"
)
_SESSION = Rule(
    f"!self.matches('^({_NOT_PEERS})')",
    "must be the address of one host, and of IPv6 not a link-local one",
)
_PREFIX = Rule(
    f"!self.matches('^({_NOT_HOSTS})') && !self.endsWith('/0')",
    "unspecified, loopback, link-local and multicast addresses are no pod's",
)
_ADDRESSES = Rule(
    f"self.all(a, !a.matches('(^|- *)({_NOT_HOSTS})') && !a.endsWith('/0'))",
    "unspecified, loopback, link-local and multicast addresses are no service's",
)
_POSITIVE = Rule("duration(self) > duration('0s')", "must be more than 0s")
_SELECTORS = "Any of these selects; none at all selects every one."

_SPECS: Notes = {
    specs.Expression: {
        WHOLE: Note(
            "A requirement of a selector.",
            rules=(
                Rule(
                    "(self.operator in ['In', 'NotIn']) == (has(self.values) && "
                    "size(self.values) > 0)",
                    "In and NotIn need at least one value; Exists and DoesNotExist need no values",
                ),
            ),
        ),
        "key": Note("The key of the label."),
        "operator": Note("How the label's value and `values` relate."),
        "values": Note("At least one for In and NotIn, none for Exists and DoesNotExist."),
    },
    specs.LabelSelector: {
        "matchLabels": Note("Labels with exactly these values."),
        "matchExpressions": Note("Requirements, all of which must hold."),
    },
    specs.SecretReference: {
        "name": Note("Name of the Secret; its key `password` counts."),
        "namespace": Note("Does not count: the Secret is in Samepath's own namespace."),
    },
    specs.BGPPeerSpec: {
        WHOLE: Note(
            "A BGP neighbour of the nodes.",
            rules=(
                Rule(
                    "(has(self.peerASN) && self.peerASN != 0) != has(self.dynamicASN)",
                    "exactly one of peerASN and dynamicASN is given",
                ),
                Rule(
                    "!(has(self.password) && self.password != '' && has(self.passwordSecret) && "
                    "has(self.passwordSecret.name) && self.passwordSecret.name != '')",
                    "either password or passwordSecret, not both",
                ),
                Rule(
                    "!has(self.keepaliveTime) || !has(self.holdTime) || "
                    "duration(self.keepaliveTime) <= duration(self.holdTime)",
                    "keepaliveTime is not longer than holdTime",
                ),
                Rule(
                    "!has(self.keepaliveTime) || !has(self.holdTime) || "
                    "duration(self.keepaliveTime) > duration('0s') || "
                    "duration(self.holdTime) == duration('0s')",
                    "keepaliveTime is 0s only with holdTime 0s",
                ),
                Rule(
                    "!has(self.sourceAddress) || "
                    "self.sourceAddress.contains(':') == self.peerAddress.contains(':')",
                    "sourceAddress is of the family of peerAddress",
                ),
                Rule(
                    "!(has(self.disableMP) && self.disableMP && "
                    "has(self.dualStackAddressFamily) && self.dualStackAddressFamily)",
                    "disableMP and dualStackAddressFamily say opposite things",
                ),
            ),
        ),
        "myASN": Note("AS number of the nodes."),
        "peerASN": Note("AS number of the neighbour. Either this or dynamicASN; 0 is none."),
        "dynamicASN": Note("The neighbour's AS is `internal` (ours) or `external` (any other)."),
        "peerAddress": Note("Address of the neighbour.", rules=(_SESSION,)),
        "peerPort": Note("TCP port of the neighbour."),
        "sourceAddress": Note(
            "Our own address of the session.", rules=(_SESSION,), unset="the node's own choice"
        ),
        "holdTime": Note(
            "The session is lost when nothing was heard for so long: 0s (never), or 3s to 65535s. "
            "The smaller one of both sides counts (RFC 4271). Fractions are rounded up.",
            rules=(
                Rule(
                    "duration(self) == duration('0s') || (duration(self) >= duration('3s') && "
                    "duration(self) <= duration('65535s'))",
                    "must be 0s, or 3s to 65535s",
                ),
            ),
        ),
        "keepaliveTime": Note(
            "Read for MetalLB's sake: keepalives go every third of the agreed hold time (RFC 4271),"
            " and `samepath status` notes a peer that asks for another. Not longer than holdTime."
        ),
        "connectTime": Note(
            "Time between two attempts to connect, 1s to 65535s.",
            rules=(
                Rule(
                    "duration(self) >= duration('1s') && duration(self) <= duration('65535s')",
                    "must be 1s to 65535s",
                ),
            ),
            unset="5s",
        ),
        "routerID": Note(
            "BGP identifier that the node must have (RFC 6286): a node has one for all peers, "
            "and a peer that asks for another is refused.",
            rules=(Rule("self != '0.0.0.0'", "a router ID is not 0.0.0.0"),),
            unset="the node's, whatever it is",
        ),
        "nodeSelectors": Note(f"Which nodes have this neighbour. {_SELECTORS}", unset="all nodes"),
        "password": Note("TCP-MD5 password (RFC 2385), at most 80 octets. A Secret is better."),
        "passwordSecret": Note("Secret with the TCP-MD5 password, in Samepath's own namespace."),
        "bfdProfile": Note("BFDProfile of the session.", unset="no BFD"),
        "enableGracefulRestart": Note(
            "Announce graceful restart (RFC 4724), so that the neighbour keeps its paths while an "
            "agent restarts. MetalLB's default is false."
        ),
        "ebgpMultiHop": Note("The external neighbour may be several hops away."),
        "disableMP": Note("One family only, that of peerAddress, as with MetalLB's disableMP."),
        "dualStackAddressFamily": Note(
            "false: one family only, that of peerAddress.",
            unset="both families are offered, whatever the session's own is",
        ),
        "interface": Note(
            "Not supported: sessions without addresses.",
            rules=(Rule("self == ''", "sessions without addresses are not supported"),),
        ),
        "vrf": Note(
            "Not supported: sessions in a VRF.",
            rules=(Rule("self == ''", "VRFs are not supported"),),
        ),
    },
    specs.BGPAdvertisementSpec: {
        WHOLE: Note("How addresses of IPAddressPools are advertised, and to whom."),
        "ipAddressPools": Note("Names of IPAddressPools."),
        "ipAddressPoolSelectors": Note(
            "IPAddressPools by label, besides those by name. Neither names nor selectors: all."
        ),
        "aggregationLength": Note("IPv4 addresses are advertised as the prefix of this length."),
        "aggregationLengthV6": Note("IPv6 addresses are advertised as the prefix of this length."),
        "localPref": Note("LOCAL_PREF towards internal neighbours.", unset="100"),
        "communities": Note(
            "Communities: `65000:1`, `large:1:2:3`, a well-known one (`no-export`, ...), or the "
            "name that a Community object gives one.",
            extra=_LIST_SET,
        ),
        "nodeSelectors": Note(f"From which nodes. {_SELECTORS}", unset="all nodes"),
        "peers": Note("Names of BGPPeers.", unset="every neighbour"),
        "serviceSelectors": Note(
            f"Which services, by their labels. {_SELECTORS}", unset="all services"
        ),
        "drainDeadline": Note(
            "A draining service is withdrawn when no connection is left, or after so long.",
            unset="drain_deadline_s of agent.yaml",
        ),
    },
    specs.ServiceAllocation: {
        "priority": Note("The lower is tried first; 0 is tried last."),
        "namespaces": Note("Services of these namespaces."),
        "namespaceSelectors": Note("Services of namespaces with these labels."),
        "serviceSelectors": Note("Services with these labels."),
    },
    specs.IPAddressPoolSpec: {
        WHOLE: Note("Addresses that services of type LoadBalancer get."),
        "addresses": Note(
            "CIDRs (`198.51.100.0/24`) and ranges (`198.51.100.10-198.51.100.20`).",
            rules=(_ADDRESSES,),
        ),
        "autoAssign": Note("false: only services that ask for this pool get its addresses."),
        "avoidBuggyIPs": Note("IPv4 addresses that end in .0 or .255 are not given out."),
        "serviceAllocation": Note(
            "Which services may have its addresses, and which pool is tried first.",
            unset="every service",
        ),
    },
    specs.IPPoolSpec: {
        WHOLE: Note(
            "Addresses of pods, cut into blocks of which each is one node's.",
            rules=(
                Rule(
                    "has(self.blockSize) == has(oldSelf.blockSize) && "
                    "(!has(self.blockSize) || self.blockSize == oldSelf.blockSize)",
                    "blockSize cannot be changed: nodes have blocks of that size",
                ),
                Rule(
                    "!has(self.blockSize) || (self.blockSize >= int(self.cidr.split('/')[1]) && "
                    "self.blockSize <= (self.cidr.contains(':') ? 128 : 32) && "
                    "self.blockSize >= (self.cidr.contains(':') ? 112 : 16))",
                    "a block is within cidr, and has at most 65536 addresses (/16 or /112)",
                ),
            ),
        ),
        "cidr": Note(
            "All addresses of the pool; cannot be changed.",
            rules=(
                Rule("self == oldSelf", "cidr cannot be changed: pods have its addresses"),
                _PREFIX,
            ),
        ),
        "blockSize": Note(
            "Prefix length of a block, 16 to 32 and 112 to 128; cannot be changed.",
            unset="26, or 122 for IPv6; a smaller pool is one block",
        ),
        "natOutgoing": Note("What leaves for an address outside of all pools gets the node's own."),
        "disabled": Note("No new address comes from this pool; those in use stay."),
        "nodeSelector": Note(
            "Which nodes may claim blocks of it, in Calico's selector language: "
            "`rack == 'a' && !has(storage)`."
        ),
    },
    specs.BFDProfileSpec: {
        WHOLE: Note("How BFD watches a neighbour (RFC 5880)."),
        "receiveInterval": Note("Milliseconds: the neighbour sends so often at most."),
        "transmitInterval": Note("Milliseconds: we send so often, or less if the neighbour wants."),
        "detectMultiplier": Note("After so many lost packets the neighbour is lost."),
        "passiveMode": Note("Silent until the neighbour has spoken."),
        "minimumTtl": Note(
            "Least TTL of packets from neighbours several hops away (RFC 5883); from others it is "
            "255."
        ),
        "echoInterval": Note("Does not count: there is no echo function."),
        "echoMode": Note(
            "Not supported: the echo function.",
            rules=(Rule("!self", "there is no echo function"),),
        ),
    },
    specs.CommunityAlias: {
        "name": Note("What BGPAdvertisements call it."),
        "value": Note("`65000:1`, `large:1:2:3`, or a well-known one (`no-export`, ...)."),
    },
    specs.CommunitySpec: {
        WHOLE: Note("Names for BGP communities."),
        "communities": Note("Names and what they stand for.", extra=_by("name")),
    },
    specs.GatewayTierSpec: {
        WHOLE: Note(
            "What the gateways of a tier have in common. A field that is left out is as in their "
            "gateway.yaml."
        ),
        "buckets": Note(
            "Buckets of a table. Another number is another hash for every connection.",
            unset="as in gateway.yaml",
        ),
        "hashSeed": Note(
            "net.ipv4.fib_multipath_hash_seed, the same on all gateways of the tier.",
            unset="as in gateway.yaml",
        ),
        "idleTimer": Note(
            "A bucket may move to another node when it was idle for so long.",
            rules=(_POSITIVE,),
            unset="as in gateway.yaml",
        ),
        "moveDeadline": Note(
            "A bucket moves after so long even if it is in use, and breaks its connections.",
            unset="as in gateway.yaml",
        ),
        "transitionIdle": Note(
            "BPF: a bucket's transition is done when no old connection was seen for so long.",
            rules=(_POSITIVE,),
            unset="as in gateway.yaml",
        ),
        "transitionDeadline": Note(
            "BPF: a bucket's transition is done after so long, whatever its connections do.",
            rules=(_POSITIVE,),
            unset="as in gateway.yaml",
        ),
    },
    specs.BlockClaimSpec: {
        WHOLE: Note(
            "A block of an IPPool is a node's. Made by agents; its name follows from the block.",
            rules=(Rule("self == oldSelf", "a claim cannot be changed"),),
        ),
        "cidr": Note("The block.", rules=(_PREFIX,)),
        "node": Note("Name of the Node."),
    },
}

_STATUSES: Notes = {
    statuses.Condition: {
        "type": Note("What it is about."),
        "status": Note("Whether it holds."),
        "reason": Note("Why, in one word."),
        "message": Note("Why, for people."),
        "lastTransitionTime": Note("When `status` last changed."),
        "observedGeneration": Note("The metadata.generation that it is about."),
    },
    statuses.IPAddressPoolStatus: {
        WHOLE: Note("How much of the pool is in use."),
        "assignedIPv4": Note("IPv4 addresses that services have."),
        "assignedIPv6": Note("IPv6 addresses that services have."),
        "availableIPv4": Note("IPv4 addresses that are free."),
        "availableIPv6": Note(
            "IPv6 addresses that are free; at most 9223372036854775807 are said."
        ),
        "conditions": Note("States of the pool.", extra=_by("type")),
    },
    statuses.ServiceBGPStatusStatus: {
        WHOLE: Note("What one node advertises of one service."),
        "node": Note("Name of the Node."),
        "serviceName": Note("Name of the Service."),
        "serviceNamespace": Note("Namespace of the Service."),
        "peers": Note("Neighbours that it is advertised to, by their BGPPeers, or addresses."),
        "state": Note("`draining`: it keeps its connections and should get no new ones."),
        "reason": Note("Why it is advertised, or drains."),
        "addresses": Note("Addresses of the service that are advertised."),
    },
    statuses.BGPSessionStateStatus: {
        WHOLE: Note("The BGP session of one node with one neighbour."),
        "node": Note("Name of the Node."),
        "peer": Note("Address of the neighbour."),
        "bgpStatus": Note("`Established` or `Down`."),
        "bfdStatus": Note("State of its BFD session: Up, Down, ..., or N/A."),
        "localASN": Note("AS number of the node."),
        "peerASN": Note("AS number of the neighbour."),
        "since": Note("When bgpStatus last changed."),
    },
}

NOTES: Notes = {**_SPECS, **_STATUSES}

"""Reading conntrack's listing; the tool itself is tested in test_nft.py, on real flows."""

from __future__ import annotations

from samepath.apply import conntrack
from samepath.model.net import parse_address
from samepath.plan.flows import Tracked
from samepath.plan.ruleset import Claim

A = parse_address
LISTING = """\
tcp      6 431999 ESTABLISHED src=192.0.2.2 dst=203.0.113.10 sport=40001 dport=80 src=10.244.1.2 dst=192.0.2.2 sport=8080 dport=40001 [ASSURED] mark=0 use=1
tcp      6 110 TIME_WAIT src=192.0.2.2 dst=203.0.113.10 sport=40002 dport=80 src=10.244.1.2 dst=192.0.2.2 sport=8080 dport=40002 [ASSURED] mark=0 use=1
tcp      6 9 CLOSE src=192.0.2.2 dst=203.0.113.10 sport=40003 dport=80 src=10.244.1.2 dst=192.0.2.2 sport=8080 dport=40003 mark=0 use=1
tcp      6 119 SYN_SENT src=192.0.2.2 dst=203.0.113.10 sport=40004 dport=80 [UNREPLIED] src=10.244.1.3 dst=192.0.2.2 sport=8080 dport=40004 mark=0 use=1
tcp      6 59 CLOSE_WAIT src=192.0.2.2 dst=203.0.113.10 sport=40005 dport=80 src=10.244.1.3 dst=192.0.2.2 sport=8080 dport=40005 [ASSURED] mark=0 use=1
udp      17 29 src=192.0.2.2 dst=203.0.113.10 sport=40006 dport=53 [UNREPLIED] src=10.244.1.2 dst=192.0.2.2 sport=53 dport=40006 mark=0 use=1
udp      17 119 src=192.0.2.2 dst=203.0.113.10 sport=40007 dport=53 src=10.244.1.4 dst=192.0.2.2 sport=53 dport=40007 [ASSURED] mark=0 use=1
tcp      6 431999 ESTABLISHED src=203.0.113.10 dst=192.0.2.9 sport=179 dport=40008 src=192.0.2.9 dst=203.0.113.10 sport=40008 dport=179 [ASSURED] mark=0 use=1
tcp      6 431999 ESTABLISHED src=2001:db8::2 dst=2001:db8:113::10 sport=40009 dport=80 src=fd00:1::2 dst=2001:db8::2 sport=8080 dport=40009 [ASSURED] mark=0 use=1
conntrack v1.4.7 (conntrack-tools): 9 flow entries have been shown.
""".splitlines()  # noqa: E501

PING = (
    "icmp     1 29 src=192.0.2.2 dst=203.0.113.10 type=8 code=0 id=5"
    " src=203.0.113.10 dst=192.0.2.2 type=0 code=0 id=5 mark=0 use=1"
)
FOUR, SIX = A("203.0.113.10"), A("2001:db8:113::10")


def test_living_flows() -> None:
    """Established, opening, closing; not over, not unanswered, not of another destination."""
    assert conntrack.count(LISTING, [FOUR, SIX]) == {FOUR: 4, SIX: 1}
    assert conntrack.count(LISTING, [SIX]) == {SIX: 1}
    assert conntrack.count(LISTING, [A("203.0.113.1")]) == {}
    assert conntrack.count(["", "tcp", "conntrack: words"], [FOUR]) == {}


def test_who_answers() -> None:
    web, dns = Claim(FOUR, "tcp", 80), Claim(FOUR, "udp", 53)
    assert conntrack.tracked([*LISTING, PING], [FOUR, SIX]) == {
        Tracked(web, A("10.244.1.2"), 8080),
        Tracked(web, A("10.244.1.3"), 8080),
        Tracked(dns, A("10.244.1.2"), 53),
        Tracked(dns, A("10.244.1.4"), 53),
        Tracked(Claim(SIX, "tcp", 80), A("fd00:1::2"), 8080),
    }

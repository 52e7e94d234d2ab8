"""Our messages beside pyroute2's, byte for byte.

The one thing that differs is NLA_F_NESTED, the flag of an attribute that holds attributes: pyroute2 leaves it off
where it may be missing, we set it everywhere. So it is taken from ours before they are compared; that it is there
is tested with the framing. An alias is not here: pyroute2 ends it with a NUL, and so can't send the longest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cni.kernel import inet, link, netlink
from cni.kernel.inet import LinkAddress, LinkRoute
from cni.kernel.linksettings import LinkSettings, PortMtu
from cni.kernel.neighbour import FdbEntry, Neighbour
from cni.kernel.netlink import Message, Request
from cni.kernel.ports import Bridge, BridgePort, Ifb, LinkUp, Veth
from cni.kernel.tc import TCA_OPTIONS, TCA_TBF_PARMS, IngressQdisc, Redirect, TokenBucket
from ipam.address import Address, Interface, Network
from tests import oracle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NEW = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK | netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
PUT = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK | netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
SET = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK
ASK = netlink.NLM_F_REQUEST

LINK, PORT_NETNS, MASTER = 5, 9, 6
MAC, OTHER_MAC = "02:00:00:00:00:02", "02:00:00:00:00:03"
AF_INET, AF_INET6, AF_BRIDGE = 2, 10, 7

VETH = Veth("pw0123456789abc", MAC, "eth0", OTHER_MAC, 1400, "cni0")
PLAIN_VETH = Veth("pw0123456789abc", MAC, "eth0", OTHER_MAC, 0)
BRIDGE = Bridge("cni0", MAC, 1400)
PORT = BridgePort("pw0123456789abc", hairpin=True, isolated=False)
V4 = LinkAddress("eth0", Interface.parse("10.1.2.3/16"))
V4_ALONE = LinkAddress("eth0", Interface.parse("10.1.2.3/32"))
V6 = LinkAddress("eth0", Interface.parse("fd00::3/64"))
V6_DAD = LinkAddress("eth0", Interface.parse("fd00::3/64"), dad=True)
DEFAULT = LinkRoute("eth0", Network.parse("0.0.0.0/0"), Address.parse("10.1.0.1"))
FULL = LinkRoute("eth0", Network.parse("10.9.0.0/16"), Address.parse("10.1.0.1"), 1400, 1300, 7, 777, 0)
NEAR = LinkRoute("eth0", Network.parse("10.8.0.0/16"), table=77)
DEFAULT_6 = LinkRoute("eth0", Network.parse("::/0"), Address.parse("fd00::1"))
FULL_6 = LinkRoute("eth0", Network.parse("fd09::/48"), Address.parse("fd00::1"), 1400, 1300, 7, 777)
SEED = Neighbour("eth0", Address.parse("10.1.0.1"), OTHER_MAC)
SEED_6 = Neighbour("eth0", Address.parse("fd00::1"), OTHER_MAC)
FDB = FdbEntry("pw0123456789abc", OTHER_MAC)
IFB = Ifb("pwcba9876543210", 1400, MAC)
BUCKET = TokenBucket("port0", 80_000_000, 800_000, 25_000, 0x7077)
HOOK, REDIRECT = IngressQdisc("port0"), Redirect("port0", IFB.name, 0x4002)
TO = 7

AT = {"index": LINK}


def nest(*attributes: tuple[str, object]) -> dict[str, object]:
    return {"attrs": list(attributes)}


def veth(*mtu: tuple[str, object], master: Sequence[tuple[str, object]] = ()) -> list[tuple[str, object]]:
    peer = nest(("IFLA_IFNAME", "eth0"), ("IFLA_ADDRESS", OTHER_MAC), ("IFLA_NET_NS_FD", PORT_NETNS), *mtu)
    return [
        ("IFLA_IFNAME", "pw0123456789abc"),
        ("IFLA_ADDRESS", MAC),
        *mtu,
        *master,
        ("IFLA_LINKINFO", nest(("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", nest(("VETH_INFO_PEER", peer))))),
    ]


def port(hairpin: int) -> list[tuple[str, object]]:
    flooded = [(f"IFLA_BRPORT_{kind}_FLOOD", 1) for kind in ("UNICAST", "MCAST", "BCAST")]
    return [("IFLA_PROTINFO", nest(("IFLA_BRPORT_MODE", hairpin), ("IFLA_BRPORT_ISOLATED", 0), *flooded))]


def address(ip: str, flags: int, *broadcast: tuple[str, object]) -> list[tuple[str, object]]:
    return [("IFA_LOCAL", ip), ("IFA_ADDRESS", ip), *broadcast, ("IFA_FLAGS", flags)]


BROADCAST = ("IFA_BROADCAST", "10.1.255.255")
METRICS = ("RTA_METRICS", nest(("RTAX_MTU", 1400), ("RTAX_ADVMSS", 1300)))
IN_777 = [("RTA_OIF", LINK), ("RTA_TABLE", 777), ("RTA_PRIORITY", 7), METRICS]
IN_MAIN = [("RTA_OIF", LINK), ("RTA_TABLE", 254)]
STATIC = {"proto": 4, "type": 1, "table": 254}

CLSACT = {**AT, "handle": 0xFFFF0000, "parent": 0xFFFFFFF1}
INCOMING = {**AT, "parent": 0xFFFFFFF2, "info": 0xC0050300}
MATCH_ALL = {"flags": 1, "keys": ["0x0/0x0+0"]}
MIRRED = ("TCA_MIRRED_PARMS", {"action": 4, "eaction": 1, "ifindex": TO})
ACTION = nest(("TCA_ACT_KIND", "mirred"), ("TCA_ACT_OPTIONS", nest(MIRRED)))

Case = tuple[Request, str, int, dict[str, Any], list[tuple[str, object]]]
CASES: dict[str, Callable[[], Case]] = {
    "veth": lambda: (
        VETH.make(PORT_NETNS, MASTER), "link", NEW, {"flags": 1, "change": 1},
        veth(("IFLA_MTU", 1400), master=[("IFLA_MASTER", MASTER)]),
    ),
    "veth without mtu and master": lambda: (
        PLAIN_VETH.make(PORT_NETNS, 0), "link", NEW, {"flags": 1, "change": 1}, veth()
    ),
    "bridge": lambda: (
        BRIDGE.make(), "link", NEW, {},
        [("IFLA_IFNAME", "cni0"), ("IFLA_ADDRESS", MAC), ("IFLA_MTU", 1400),
         ("IFLA_LINKINFO", nest(("IFLA_INFO_KIND", "bridge")))],
    ),
    "ifb": lambda: (
        IFB.make(), "link", NEW, {},
        [("IFLA_IFNAME", IFB.name), ("IFLA_ADDRESS", MAC), ("IFLA_MTU", 1400),
         ("IFLA_LINKINFO", nest(("IFLA_INFO_KIND", "ifb")))],
    ),
    "bucket gone": lambda: (
        BUCKET.drop(LINK), "tc", SET, {**AT, "handle": 0x10770000, "parent": 0xFFFFFFFF}, [("TCA_KIND", "tbf")]
    ),
    "hook": lambda: (HOOK.make(LINK), "tc", NEW, CLSACT, [("TCA_KIND", "clsact")]),
    "hook gone": lambda: (HOOK.drop(LINK), "tc", SET, CLSACT, [("TCA_KIND", "clsact")]),
    "redirect": lambda: (
        REDIRECT.make(LINK, TO), "tc", NEW, INCOMING,
        [("TCA_KIND", "u32"),
         ("TCA_OPTIONS", nest(("TCA_U32_ACT", nest(("TCA_ACT_PRIO_1", ACTION))), ("TCA_U32_SEL", MATCH_ALL)))],
    ),
    "redirect gone": lambda: (REDIRECT.drop(LINK), "tc", SET, INCOMING, [("TCA_KIND", "u32")]),
    "link gone": lambda: (VETH.drop(LINK), "link", SET, AT, []),
    "link up": lambda: (LinkUp("eth0").make(LINK), "link", SET, {**AT, "flags": 1, "change": 1}, []),
    "link down": lambda: (LinkUp("eth0").drop(LINK), "link", SET, {**AT, "flags": 0, "change": 1}, []),
    "mtu": lambda: (link.set_mtu(LINK, "eth0", 1400), "link", SET, AT, [("IFLA_MTU", 1400)]),
    "settings": lambda: (
        LinkSettings("eth0", MAC, 1400, True, False, 500).make(LINK), "link", SET,
        {**AT, "flags": 0x100, "change": 0x300}, [("IFLA_ADDRESS", MAC), ("IFLA_MTU", 1400), ("IFLA_TXQLEN", 500)],
    ),
    "one setting": lambda: (
        LinkSettings("eth0", allmulti=True).make(LINK), "link", SET, {**AT, "flags": 0x200, "change": 0x200}, []
    ),
    "mtu of a port back": lambda: (PortMtu("port0", 1400, 1500).drop(LINK), "link", SET, AT, [("IFLA_MTU", 1500)]),
    "port": lambda: (PORT.make(LINK), "link", SET, {**AT, "family": AF_BRIDGE}, port(hairpin=1)),
    "port as it begins": lambda: (PORT.drop(LINK), "link", SET, {**AT, "family": AF_BRIDGE}, port(hairpin=0)),
    "address": lambda: (
        V4.make(LINK), "address", NEW, {**AT, "family": AF_INET, "prefixlen": 16, "flags": 0x80},
        address("10.1.2.3", 0x80, BROADCAST),
    ),
    "address alone": lambda: (
        V4_ALONE.make(LINK), "address", NEW, {**AT, "family": AF_INET, "prefixlen": 32, "flags": 0x80},
        address("10.1.2.3", 0x80),
    ),
    "address v6": lambda: (
        V6.make(LINK), "address", NEW, {**AT, "family": AF_INET6, "prefixlen": 64, "flags": 0x82},
        address("fd00::3", 0x82),
    ),
    "address v6 with dad": lambda: (
        V6_DAD.make(LINK), "address", NEW, {**AT, "family": AF_INET6, "prefixlen": 64, "flags": 0x80},
        address("fd00::3", 0x80),
    ),
    "address gone": lambda: (
        V4.drop(LINK), "address", SET, {**AT, "family": AF_INET, "prefixlen": 16}, address("10.1.2.3", 0, BROADCAST)
    ),
    "default route": lambda: (
        DEFAULT.make(LINK), "route", NEW, {**STATIC, "family": AF_INET}, [("RTA_GATEWAY", "10.1.0.1"), *IN_MAIN]
    ),
    "route with everything": lambda: (
        FULL.make(LINK), "route", NEW, {**STATIC, "family": AF_INET, "dst_len": 16, "table": 0},
        [("RTA_DST", "10.9.0.0"), ("RTA_GATEWAY", "10.1.0.1"), *IN_777],
    ),
    "route on the link": lambda: (
        NEAR.make(LINK), "route", NEW, {**STATIC, "family": AF_INET, "dst_len": 16, "table": 77, "scope": 253},
        [("RTA_DST", "10.8.0.0"), ("RTA_OIF", LINK), ("RTA_TABLE", 77)],
    ),
    "default route v6": lambda: (
        DEFAULT_6.make(LINK), "route", NEW, {**STATIC, "family": AF_INET6}, [("RTA_GATEWAY", "fd00::1"), *IN_MAIN]
    ),
    "route v6 with everything": lambda: (
        FULL_6.make(LINK), "route", NEW, {**STATIC, "family": AF_INET6, "dst_len": 48, "table": 0},
        [("RTA_DST", "fd09::"), ("RTA_GATEWAY", "fd00::1"), *IN_777],
    ),
    "route gone": lambda: (
        FULL.drop(LINK), "route", SET, {**STATIC, "family": AF_INET, "dst_len": 16, "table": 0, "type": 0},
        [("RTA_DST", "10.9.0.0"), ("RTA_GATEWAY", "10.1.0.1"), *IN_777],
    ),
    "neighbour": lambda: (
        SEED.make(LINK), "neighbour", PUT, {"family": AF_INET, "ifindex": LINK, "state": 0x04},
        [("NDA_DST", "10.1.0.1"), ("NDA_LLADDR", OTHER_MAC)],
    ),
    "neighbour v6": lambda: (
        SEED_6.make(LINK), "neighbour", PUT, {"family": AF_INET6, "ifindex": LINK, "state": 0x04},
        [("NDA_DST", "fd00::1"), ("NDA_LLADDR", OTHER_MAC)],
    ),
    "neighbour gone": lambda: (
        SEED.drop(LINK), "neighbour", SET, {"family": AF_INET, "ifindex": LINK, "state": 0x04},
        [("NDA_DST", "10.1.0.1")],
    ),
    "fdb entry": lambda: (
        FDB.make(LINK), "neighbour", PUT, {"family": AF_BRIDGE, "ifindex": LINK, "state": 0x40, "flags": 0x04},
        [("NDA_LLADDR", OTHER_MAC)],
    ),
    "fdb entry gone": lambda: (
        FDB.drop(LINK), "neighbour", SET, {"family": AF_BRIDGE, "ifindex": LINK, "state": 0x40, "flags": 0x04},
        [("NDA_LLADDR", OTHER_MAC)],
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def without_the_flag_of_nested_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "NLA_F_NESTED", 0)


@pytest.mark.parametrize("case", CASES)
def test_a_request_is_the_bytes_that_pyroute2_would_send(case: str) -> None:
    request, family, flags, fields, attributes = CASES[case]()

    ours = netlink.frame(request, 7, flags & netlink.NLM_F_ACK)

    assert ours.hex() == oracle.encode(family, request.type, flags, 7, fields, attributes).hex()


def test_a_buckets_parameters_are_the_bytes_that_pyroute2_would_send() -> None:
    """And no more than that: of the kernel's newer options pyroute2 knows nothing."""
    parms = {"rate": 10_000_000, "limit": 350_000}

    ours = netlink.attributes(BUCKET.make(LINK).body, 20)[TCA_OPTIONS]

    told = oracle.encode("tc", 36, NEW, 7, AT, [("TCA_KIND", "tbf"), ("TCA_OPTIONS", nest(("TCA_TBF_PARMS", parms)))])
    theirs = netlink.attributes(netlink.attributes(told, 36)[TCA_OPTIONS])[TCA_TBF_PARMS]
    # Of what describes the rate they fill in how to read a table, which we don't send, where we name the link layer.
    assert netlink.attributes(ours)[TCA_TBF_PARMS].hex() == (b"\0\1" + bytes(6) + theirs[8:]).hex()


# --- questions --------------------------------------------------------------------------------------


class Asked:
    """In a socket's place: keeps what was asked, and knows nothing."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def get(self, request: Request) -> Message | None:
        self.requests.append(request)
        return None

    def dump(self, request: Request) -> list[Message]:
        self.requests.append(request)
        return []


BRIEFLY = ("IFLA_EXT_MASK", 8)  # RTEXT_FILTER_SKIP_STATS

Question = tuple["Callable[[Any], object]", str, dict[str, Any], list[tuple[str, object]]]
QUESTIONS: dict[str, Question] = {
    "link by name": (lambda nl: link.find(nl, "cni0"), "link", {}, [BRIEFLY, ("IFLA_IFNAME", "cni0")]),
    "link by index": (lambda nl: link.find_index(nl, LINK), "link", AT, [BRIEFLY]),
    "links of a kind": (
        lambda nl: link.dump(nl, "veth"), "link", {}, [BRIEFLY, ("IFLA_LINKINFO", nest(("IFLA_INFO_KIND", "veth")))]
    ),
    "ports of a bridge": (lambda nl: link.dump(nl, master=MASTER), "link", {}, [BRIEFLY, ("IFLA_MASTER", MASTER)]),
    "addresses": (lambda nl: inet.addresses(nl, LINK), "address", AT, []),
    "routes": (lambda nl: inet.routes(nl, 6, LINK), "route", {"family": AF_INET6, "type": 1}, [("RTA_OIF", LINK)]),
    "advertised routes": (inet.advertised_links, "route", {"family": AF_INET6, "proto": 9, "type": 1}, []),
    "neighbour": (
        lambda nl: SEED.find(nl, LINK), "neighbour", {"family": AF_INET, "ifindex": LINK}, [("NDA_DST", "10.1.0.1")]
    ),
    "fdb entry": (
        lambda nl: FDB.find(nl, LINK), "neighbour", {"family": AF_BRIDGE, "ifindex": LINK, "flags": 0x04},
        [("NDA_LLADDR", OTHER_MAC)],
    ),
    "bucket": (lambda nl: BUCKET.find(nl, LINK), "tc", {**AT, "parent": 0xFFFFFFFF}, []),
    "hook": (lambda nl: HOOK.find(nl, LINK), "tc", {**AT, "parent": 0xFFFFFFF1}, []),
}  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_the_bytes_that_pyroute2_would_send(question: str) -> None:
    ask, family, fields, attributes = QUESTIONS[question]
    nl = Asked()

    ask(nl)

    (request,) = nl.requests
    theirs = oracle.encode(family, request.type, ASK | request.flags, 7, fields, attributes)
    assert netlink.frame(request, 7, 0).hex() == theirs.hex()

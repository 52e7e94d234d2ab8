"""What an error calls a request is a command: run by hand, it does to a kernel what our message did to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cni.kernel import inet, link
from cni.kernel.inet import LinkAddress, LinkRoute
from cni.kernel.linksettings import LinkSettings, PortMtu
from cni.kernel.neighbour import FdbEntry, Neighbour
from cni.kernel.netlink import Message, Request, Socket
from cni.kernel.netns import Netns
from cni.kernel.ports import Bridge, BridgePort, Ifb, LinkUp, Veth
from cni.kernel.tc import IngressQdisc, Redirect, TokenBucket
from ipam.address import Address, Interface, Network
from tests import namespaces, oracle
from tests.kernel import furniture

if TYPE_CHECKING:
    from collections.abc import Callable

MAC = "02:00:00:00:00:0a"

# Both kernels begin with these, made in the same order and so with the same indexes.
BR0, PORT0, ETH0 = 2, 4, 3
NEXT = 5


def furnish(netns: Path) -> None:
    with namespaces.inside(netns, Socket) as nl:
        port = furniture.make_port(nl, netns, furniture.make_bridge(nl))
        assert (port.master, port.ifindex, port.peer) == (BR0, PORT0, ETH0)
        nl.do(LinkUp("eth0").make(ETH0))
        nl.do(LinkAddress("br0", Interface.parse("10.0.0.1/24")).make(BR0))
        nl.do(LinkAddress("br0", Interface.parse("fd00::1/64")).make(BR0))


NEAR, FAR = Address.parse("10.0.0.2"), Address.parse("fd00::2")
PORT = BridgePort("port0", hairpin=True, isolated=True)
ON_ETH0 = [LinkAddress("eth0", Interface.parse(one)) for one in ("10.1.2.3/16", "10.1.2.3/32", "fd01::3/64")]
OVER_BR0 = [
    LinkRoute("br0", Network.parse("0.0.0.0/0"), NEAR),
    LinkRoute("br0", Network.parse("10.8.0.0/16")),
    LinkRoute("br0", Network.parse("10.9.0.0/16"), NEAR, 1400, 1300, 7, 77, 0),
    LinkRoute("br0", Network.parse("::/0"), FAR),
    LinkRoute("br0", Network.parse("fd08::/48")),
    LinkRoute("br0", Network.parse("fd09::/48"), FAR, 1400, 1300, 7, 77),
]
SEEDS = [Neighbour("eth0", Address.parse(one), MAC) for one in ("10.0.0.9", "fd00::9")]
ENTRY = FdbEntry("port0", MAC)

IFB = Ifb("ifb9", 1400, MAC)
BUCKETS = [
    TokenBucket("port0", 1_000_000, 121_440, 25_000, 1 << 63),
    TokenBucket("port0", 123, 456_789, 100_000, 1 << 63),
    TokenBucket("port0", 1_000_000_007, 10_000_000, 25_000, 1 << 63),
    TokenBucket("port0", 40_000_000_000, 400_000_000, 1, 1 << 63),
]
HOOK, REDIRECT = IngressQdisc("port0"), Redirect("port0", "ifb9", 1 << 63)

REQUESTS: dict[str, list[Request]] = {
    "bridge": [Bridge("br1", MAC, 1400).make(), Bridge("br0", "", 0).drop(BR0)],
    "up": [LinkUp("port0").drop(PORT0), LinkUp("port0").make(PORT0)],
    "port": [PORT.make(PORT0), PORT.drop(PORT0)],
    "alias": [link.set_alias(PORT0, "port0", alias) for alias in ("net/c1@eth0@bridge", "x" * 255)],
    "mtu": [link.set_mtu(PORT0, "port0", 1400)],
    "settings": [
        LinkSettings("eth0", MAC, 1400, True, True, 500).make(ETH0),
        LinkSettings("eth0", promisc=False, txqlen=0).make(ETH0),
        LinkSettings("eth0", allmulti=False).make(ETH0),
    ],
    "mtu of a port": [PortMtu("port0", 1400, 1500).make(PORT0), PortMtu("port0", 1400, 1500).drop(PORT0)],
    "addresses": [one.make(ETH0) for one in ON_ETH0] + [one.drop(ETH0) for one in ON_ETH0],
    "routes": [one.make(BR0) for one in OVER_BR0] + [one.drop(BR0) for one in OVER_BR0],
    "neighbours": [one.make(ETH0) for one in SEEDS] + [one.drop(ETH0) for one in SEEDS],
    "fdb entry": [ENTRY.make(PORT0), ENTRY.drop(PORT0)],
    "ifb": [IFB.make(), IFB.drop(NEXT), Ifb("ifb9", 0, MAC).make()],
    "bucket": [request for one in BUCKETS for request in (one.make(PORT0), one.drop(PORT0))],
    "redirect": [
        IFB.make(),
        HOOK.make(PORT0),
        REDIRECT.make(PORT0, NEXT),
        REDIRECT.drop(PORT0),
        HOOK.drop(PORT0),
    ],
}
"""Each goes to one kernel as a message, and to another as a command."""


@pytest.fixture
def ours(make_netns: Callable[[], Path]) -> Path:
    path = make_netns()
    furnish(path)
    return path


@pytest.fixture
def by_hand(make_netns: Callable[[], Path]) -> Path:
    path = make_netns()
    furnish(path)
    return path


@pytest.mark.parametrize("case", REQUESTS)
def test_a_request_can_be_replayed_by_hand(ours: Path, by_hand: Path, case: str) -> None:
    with namespaces.inside(ours, Socket) as nl:
        now = oracle.everything(ours)
        for request in REQUESTS[case]:
            nl.do(request)
            namespaces.shell(by_hand, request.what)

            before, now = now, oracle.everything(ours)
            assert now == oracle.everything(by_hand), request.what
            assert now != before, request.what


@pytest.mark.parametrize(("mtu", "master"), [(1400, "br0"), (0, "")])
def test_a_veth_can_be_replayed_by_hand(ours: Path, by_hand: Path, mtu: int, master: str) -> None:
    veth = Veth("pw0123456789abc", MAC, "net1", "02:00:00:00:00:0b", mtu, master)
    with namespaces.inside(ours, Socket) as nl, Netns(str(ours)) as there:
        request = veth.make(there.fd, BR0 if master else 0)

        nl.do(request)
        namespaces.shell(by_hand, request.what.replace("POD", by_hand.parts[2]))

        assert oracle.everything(ours) == oracle.everything(by_hand), request.what
        assert {"net1", veth.name} <= {one.name for one in oracle.links(ours)}

        request = veth.drop(link.need(nl, veth.name).ifindex)
        nl.do(request)
        namespaces.shell(by_hand, request.what)

        assert oracle.everything(ours) == oracle.everything(by_hand), request.what


# --- questions --------------------------------------------------------------------------------------


class Overheard:
    """In a socket's place: passes questions on, and keeps them."""

    def __init__(self, nl: Socket) -> None:
        self._nl = nl
        self.asked: list[Request] = []

    def get(self, request: Request) -> Message | None:
        self.asked.append(request)
        return self._nl.get(request)

    def dump(self, request: Request) -> list[Message]:
        self.asked.append(request)
        return self._nl.dump(request)


QUESTIONS: dict[str, tuple[Callable[[Any], object], str]] = {
    "link by name": (lambda nl: link.find(nl, "br0"), "br0"),
    "link by index": (lambda nl: link.find_index(nl, BR0), "br0"),
    "links": (link.dump, "br0"),
    "addresses": (lambda nl: inet.addresses(nl, BR0), "fd00::1/64"),
    "routes": (lambda nl: inet.routes(nl, 4, BR0), "10.0.0.0/24"),
    "routes v6": (lambda nl: inet.routes(nl, 6, BR0), "fd00::/64"),
    "advertised": (inet.advertised_links, ""),
    "neighbour": (lambda nl: SEEDS[0].find(nl, ETH0), f"10.0.0.9 dev eth0 lladdr {MAC} STALE"),
    "fdb entry": (lambda nl: ENTRY.find(nl, PORT0), f"{MAC} dev port0 master br0 static"),
    "bucket": (lambda nl: BUCKETS[0].find(nl, PORT0), "tbf 2000: root refcnt 3 rate 1Mbit burst 15180b lat 25ms"),
    "hook": (lambda nl: HOOK.find(nl, PORT0), "clsact ffff: parent ffff:fff1"),
}


def test_a_question_can_be_asked_by_hand(netns: Path) -> None:
    furnish(netns)
    with namespaces.inside(netns, Socket) as nl:
        nl.do(SEEDS[0].make(ETH0), ENTRY.make(PORT0), BUCKETS[0].make(PORT0), HOOK.make(PORT0))
        for ask, told in QUESTIONS.values():
            overheard = Overheard(nl)
            ask(overheard)

            (request,) = overheard.asked
            assert told in namespaces.shell(netns, request.what), request.what

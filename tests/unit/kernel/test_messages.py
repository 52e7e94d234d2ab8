"""What our objects say and what they understand: as far as it can be told without a kernel."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.kernel import inet, link, netlink
from cni.kernel.inet import FoundAddress, LinkAddress, LinkRoute
from cni.kernel.link import Link
from cni.kernel.linksettings import LinkSettings
from cni.kernel.neighbour import Neighbour
from cni.kernel.netlink import Message, Request
from cni.kernel.ports import Bridge, Veth
from cni.spec.result import Route
from ipam.address import Address, Interface, Network
from tests.unit.kernel import objects

if TYPE_CHECKING:
    from collections.abc import Callable

INDEXES = st.integers(1, 0x7FFFFFFF)
PARSERS: dict[str, Callable[[Message], object]] = {
    "link": Link.parse,
    "address": FoundAddress.parse,
    "route v4": lambda message: inet._parse_route(message, 4),
    "route v6": lambda message: inet._parse_route(message, 6),
}
LINK_OBJECTS = st.one_of(
    objects.UPS,
    objects.PORTS,
    objects.PORT_MTUS,
    objects.LINK_ADDRESSES,
    objects.ROUTES,
    objects.NEIGHBOURS,
    objects.FDB_ENTRIES,
    objects.BUCKETS,
    objects.HOOKS,
    objects.REDIRECTS,
)


def as_told(request: Request) -> Message:
    """The request as if the kernel had sent it: an object is described in the words in which it was asked for."""
    return Message(request.type, 0, 0, request.body)


@pytest.mark.parametrize("parser", PARSERS)
@given(body=st.binary(max_size=80))
def test_whatever_comes_as_an_object_is_read_or_refused(parser: str, body: bytes) -> None:
    try:
        PARSERS[parser](Message(16, 0, 0, body))
    except ValueError:
        pass


@given(LINK_OBJECTS, INDEXES, st.data())
def test_a_message_cut_off_anywhere_is_read_or_refused(thing: inet.LinkRoute, index: int, data: st.DataObject) -> None:
    body = thing.make(index).body
    cut = Message(16, 0, 0, body[: data.draw(st.integers(0, len(body)))])

    for parse in PARSERS.values():
        try:
            parse(cut)
        except ValueError:
            pass


@given(objects.LINK_ADDRESSES, INDEXES)
def test_an_address_reads_as_it_was_written(wanted: LinkAddress, index: int) -> None:
    found = FoundAddress.parse(as_told(wanted.make(index)))

    assert (found.ifindex, found.address) == (index, wanted.address)
    assert bool(found.flags & inet.IFA_F_NODAD) == (wanted.address.address.version == 6 and not wanted.dad)


@given(objects.ROUTES, INDEXES)
def test_a_route_reads_as_it_was_written(wanted: LinkRoute, index: int) -> None:
    found = inet._parse_route(as_told(wanted.make(index)), wanted.dst.version)

    assert found is not None
    assert wanted.matches(found)
    assert found._replace(link=wanted.link, table=wanted.table, scope=wanted.scope) == wanted._replace(takes_over=False)


@given(objects.BRIDGES)
def test_a_bridge_reads_as_it_was_written(wanted: Bridge) -> None:
    found = Link.parse(as_told(wanted.make()))

    assert (found.name, found.mac, found.mtu) == (wanted.name, wanted.mac, wanted.mtu)
    assert (found.kind, found.up) == ("bridge", False)


@given(objects.VETHS, INDEXES, INDEXES)
def test_both_ends_of_a_veth_read_as_they_were_written(wanted: Veth, netns: int, master: int) -> None:
    body = wanted.make(netns, master).body

    near = Link.parse(Message(16, 0, 0, body))
    info = netlink.attributes(netlink.attributes(body, 16)[link.IFLA_LINKINFO])
    far = netlink.attributes(info[link.IFLA_INFO_DATA])[link.VETH_INFO_PEER]
    peer = Link.parse(Message(16, 0, 0, far))
    assert (near.name, near.kind, near.mac, near.mtu) == (wanted.name, "veth", wanted.mac, wanted.mtu)
    assert (near.up, near.master) == (True, master)
    assert (peer.name, peer.kind, peer.mac, peer.mtu) == (wanted.peer, "", wanted.peer_mac, wanted.mtu)
    assert (peer.up, peer.master) == (False, 0)
    assert netlink.as_int(netlink.attributes(far, 16)[link.IFLA_NET_NS_FD]) == netns


@given(LINK_OBJECTS, INDEXES)
def test_every_request_can_be_framed_and_says_what_it_asks(thing: inet.LinkRoute, index: int) -> None:
    for request in (thing.make(index), thing.drop(index)):
        (message,) = netlink.messages(netlink.frame(request, 1, 0))
        assert message.body == request.body
        assert request.what.startswith(("ip ", "bridge ", "tc "))
        assert thing.link in request.what


@given(objects.SETTINGS, INDEXES)
def test_what_is_said_of_a_link_reads_as_it_was_written_and_nothing_else_is_said(
    wanted: LinkSettings, index: int
) -> None:
    request = wanted.make(index)

    found = Link.parse(as_told(request))
    _, _, _, _, change = struct.unpack_from("=BxHiII", request.body)
    told = netlink.attributes(request.body, 16)
    assert (found.ifindex, found.mac, found.mtu) == (index, wanted.mac, wanted.mtu or 0)
    assert (found.promisc, found.allmulti, found.txqlen) == (
        bool(wanted.promisc),
        bool(wanted.allmulti),
        wanted.txqlen or 0,
    )
    assert bool(change & link.IFF_PROMISC) == (wanted.promisc is not None)
    assert bool(change & link.IFF_ALLMULTI) == (wanted.allmulti is not None)
    assert set(told) == {
        kind
        for kind, said in (
            (link.IFLA_ADDRESS, wanted.mac != ""),
            (link.IFLA_MTU, wanted.mtu is not None),
            (link.IFLA_TXQLEN, wanted.txqlen is not None),
        )
        if said
    }
    assert request.what.startswith(f"ip link set {wanted.link}")


# --- what differs in one thing only -----------------------------------------------------------------


WANTED = LinkRoute("eth0", Network.parse("10.9.0.0/16"), Address.parse("10.0.0.1"), 1400, 1300, 7, 77, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"dst": Network.parse("10.9.0.0/17")},
        {"gw": Address.parse("10.0.0.2")},
        {"gw": None},
        {"mtu": 1500},
        {"mtu": 0},
        {"advmss": 1200},
        {"priority": 8},
        {"table": 254},
        {"scope": 253},
    ],
    ids=str,
)
def test_a_route_that_differs_in_one_thing_is_another(change: dict[str, Any]) -> None:
    other = WANTED._replace(**change)

    assert WANTED.matches(WANTED)
    assert not WANTED.matches(other)


def test_a_route_that_leaves_something_to_the_kernel_takes_what_the_kernel_chose() -> None:
    loose = LinkRoute("eth0", WANTED.dst, WANTED.gw)

    assert loose.matches(WANTED._replace(table=254))
    assert not loose.matches(WANTED)  # the main table is not the kernel's choice, but ours


def test_ipv6_reports_no_scope_so_none_is_compared() -> None:
    wanted = LinkRoute("eth0", Network.parse("fd00::/64"), table=254, scope=253)

    assert wanted.matches(wanted._replace(scope=0))


@pytest.mark.parametrize(
    ("interface", "broadcast"),
    [("10.1.2.3/16", "10.1.255.255"), ("10.1.2.3/30", "10.1.2.3"), ("10.1.2.3/31", None), ("10.1.2.3/32", None),
     ("fd00::1/64", None)],
)  # fmt: skip
def test_only_an_ipv4_subnet_with_room_for_it_has_a_broadcast_address(interface: str, broadcast: str | None) -> None:
    body = LinkAddress("eth0", Interface.parse(interface)).make(1).body

    found = netlink.attributes(body, 8).get(inet.IFA_BROADCAST)

    assert found == (Address.parse(broadcast).packed if broadcast else None)


def test_only_a_bridges_port_has_what_a_bridges_port_has() -> None:
    """Under the numbers of IFLA_BRPORT_MODE and _ISOLATED, a bond counts other things."""

    def port_of(kind: str) -> Message:
        data = netlink.nested(link.IFLA_INFO_SLAVE_DATA, netlink.u8(4, 1), netlink.u8(33, 1))
        info = netlink.nested(link.IFLA_LINKINFO, netlink.text(link.IFLA_INFO_SLAVE_KIND, kind), data)
        return Message(16, 0, 0, struct.pack("=BxHiII", 0, 0, 2, 0, 0) + info)

    for kind, is_port in (("bridge", True), ("bond", False)):
        found = Link.parse(port_of(kind))
        assert (found.hairpin, found.isolated) == (is_port, is_port)


# --- kernels without IPv6 ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "drop",
    [
        LinkAddress("eth0", Interface.parse("fd00::1/64")).drop,
        LinkRoute("eth0", Network.parse("fd00::/64")).drop,
        Neighbour("eth0", Address.parse("fd00::1"), "02:00:00:00:00:01").drop,
    ],
    ids=["address", "route", "neighbour"],
)
def test_what_a_kernel_without_ipv6_cannot_have_is_gone(drop: Callable[[int], Request]) -> None:
    assert drop(1).fine >= netlink.ABSENT | netlink.NO_FAMILY


def test_a_results_route_keeps_all_that_it_says() -> None:
    told = Route(Network.parse("10.9.0.0/16"), Address.parse("10.0.0.1"), 1400, 1300, 7, 77, 253)

    found = LinkRoute.of("eth0", told)

    assert {field: getattr(found, field) for field in told._fields} == told._asdict()
    assert found.link == "eth0"

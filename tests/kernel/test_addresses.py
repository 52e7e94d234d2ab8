"""Addresses as we make them: seen by pyroute2, found by us, and gone when dropped, be it twice."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cni.kernel import inet, link
from cni.kernel.inet import RTMGRP_IPV6_IFADDR, LinkAddress
from cni.kernel.link import Link
from cni.kernel.netlink import NetlinkError, Socket
from cni.kernel.ports import LinkUp
from ipam.address import Interface
from tests import namespaces, oracle

INTERFACES = ("10.1.2.3/16", "10.1.2.3/31", "10.1.2.3/32", "fd00::3/64", "fd00::3/128")


def on(name: str, interface: str, *, dad: bool = False) -> LinkAddress:
    return LinkAddress(name, Interface.parse(interface), dad)


@pytest.mark.parametrize("interface", INTERFACES)
def test_an_address_can_be_used_at_once(netns: Path, nl: Socket, bridge: Link, interface: str) -> None:
    wanted = on("br0", interface)
    assert not wanted.find(nl, bridge.ifindex)

    nl.do(wanted.make(bridge.ifindex))

    flags = {"permanent", "nodad"} if ":" in interface else {"permanent"}
    assert oracle.addresses(netns, "br0") == [oracle.Address(interface, "br0", frozenset(flags), "global")]
    assert wanted.find(nl, bridge.ifindex)
    address = interface.partition("/")[0]
    namespaces.listening(netns, address, 7000).close()  # what is tentative can't be bound


@pytest.mark.parametrize("interface", ["10.1.2.3/16", "fd00::3/64"])
def test_an_address_can_do_without_the_route_to_its_subnet(
    netns: Path, nl: Socket, bridge: Link, interface: str
) -> None:
    nl.do(on("br0", interface)._replace(prefix_route=False).make(bridge.ifindex))

    (found,) = oracle.addresses(netns, "br0")
    assert "noprefixroute" in found.flags
    assert oracle.routes(netns) == []
    assert on("br0", interface).find(nl, bridge.ifindex)


@pytest.mark.parametrize("interface", INTERFACES)
def test_an_address_may_be_dropped_twice(netns: Path, nl: Socket, bridge: Link, interface: str) -> None:
    wanted = on("br0", interface)
    nl.do(wanted.make(bridge.ifindex))

    nl.do(wanted.drop(bridge.ifindex))
    nl.do(wanted.drop(bridge.ifindex))

    assert oracle.addresses(netns, "br0") == []
    assert not wanted.find(nl, bridge.ifindex)


@pytest.mark.parametrize("interface", ["10.1.2.3/16", "fd00::3/64"])
def test_an_address_that_is_there_already_is_an_error_and_stays(
    netns: Path, nl: Socket, bridge: Link, interface: str
) -> None:
    nl.do(on("br0", interface).make(bridge.ifindex))

    with pytest.raises(NetlinkError) as caught:
        nl.do(on("br0", interface).make(bridge.ifindex))

    assert caught.value.errno == errno.EEXIST
    assert [one.interface for one in oracle.addresses(netns, "br0")] == [interface]


def test_an_ipv4_subnet_has_its_broadcast_address(netns: Path, nl: Socket, bridge: Link) -> None:
    for interface in ("10.1.2.3/16", "10.2.2.3/31", "10.3.2.3/32", "fd00::3/64"):
        nl.do(on("br0", interface).make(bridge.ifindex))

    assert oracle.broadcasts(netns, "br0") == {"10.1.2.3/16": "10.1.255.255"}


def test_the_same_address_with_another_prefix_is_another(nl: Socket, bridge: Link) -> None:
    nl.do(on("br0", "10.1.2.3/16").make(bridge.ifindex))
    nl.do(on("br0", "fd00::3/64").make(bridge.ifindex))

    assert not on("br0", "10.1.2.3/24").find(nl, bridge.ifindex)
    assert not on("br0", "fd00::3/48").find(nl, bridge.ifindex)


def test_a_link_that_is_gone_has_no_address_and_none_can_be_given(nl: Socket) -> None:
    for interface in INTERFACES:
        wanted = on("eth0", interface)

        assert not wanted.find(nl, 999)
        nl.do(wanted.drop(999))
        with pytest.raises(NetlinkError, match=f"address add {interface} .*dev eth0.*ENODEV"):
            nl.do(wanted.make(999))


def test_of_one_link_only_its_own_addresses_are_listed(netns: Path, nl: Socket, port: Link) -> None:
    eth0 = link.need(nl, "eth0").ifindex
    nl.do(on("br0", "10.1.0.1/16").make(port.master), on("br0", "fd00::1/64").make(port.master))
    nl.do(on("eth0", "10.2.0.1/16").make(eth0), on("eth0", "fd02::1/64").make(eth0))

    found = [str(one.address) for one in inet.addresses(nl, eth0)]

    assert [one for one in found if not one.startswith("fe80:")] == ["10.2.0.1/16", "fd02::1/64"]


def test_a_list_longer_than_a_datagram_is_read_whole(nl: Socket, bridge: Link) -> None:
    wanted = [on("br0", f"10.1.{number // 256}.{number % 256}/32") for number in range(600)]

    nl.do(*[one.make(bridge.ifindex) for one in wanted])

    found = [one.address for one in inet.addresses(nl, bridge.ifindex) if one.address.address.version == 4]
    assert sorted(found) == sorted(one.address for one in wanted)


def test_a_peer_address_is_read_as_the_links_own(netns: Path, nl: Socket, bridge: Link) -> None:
    """IFA_ADDRESS is the peer's then, and IFA_LOCAL ours, in IPv6 too."""
    namespaces.shell(netns, "ip address add 10.1.0.1 peer 10.1.0.2/32 dev br0")
    namespaces.shell(netns, "ip address add fd00::1 peer fd00::2/128 dev br0 nodad")

    found = {str(one.address) for one in inet.addresses(nl, bridge.ifindex)}

    assert {"10.1.0.1/32", "fd00::1/128"} <= found


# --- duplicate address detection --------------------------------------------------------------------


def news(netns: Path) -> Socket:
    return namespaces.inside(netns, lambda: Socket(groups=RTMGRP_IPV6_IFADDR))


def flags_after(monitor: Socket, nl: Socket, index: int, wanted: LinkAddress, flag: int, *, there: bool) -> bool:
    """Waits for the kernel's news that make the address's `flag` be there, or gone."""
    for _ in range(20):
        (found,) = [one for one in inet.addresses(nl, index) if one.address == wanted.address]
        if bool(found.flags & flag) == there:
            return True
        monitor.receive("news of an address")
    return False


@pytest.fixture
def eth0(netns: Path, nl: Socket, port: Link) -> Link:
    """The other end of the bridge's port, up; the detection goes quickly here."""
    for name in ("eth0", "br0"):
        conf, neigh = f"/proc/sys/net/ipv6/conf/{name}", f"/proc/sys/net/ipv6/neigh/{name}"
        # A solicitation at once rather than within a second, and 10 ms for objections.
        namespaces.shell(netns, f"echo 0 >{conf}/router_solicitation_delay; echo 10 >{neigh}/retrans_time_ms")
        namespaces.shell(netns, f"echo 1 >{conf}/accept_dad")
    found = link.need(nl, "eth0")
    nl.do(LinkUp("eth0").make(found.ifindex))
    return found


def test_an_address_that_waits_for_objections_is_not_found_yet(netns: Path, nl: Socket, bridge: Link) -> None:
    wanted = on("br0", "fd00::3/64", dad=True)

    nl.do(wanted.make(bridge.ifindex))  # and a bridge without ports waits for ever

    (made,) = oracle.addresses(netns, "br0")
    assert made.flags == {"permanent", "tentative"}
    assert not wanted.find(nl, bridge.ifindex)


def test_an_address_that_nobody_objected_to_is_found(netns: Path, nl: Socket, eth0: Link) -> None:
    wanted = on("eth0", "fd00::3/64", dad=True)
    with news(netns) as monitor:
        nl.do(wanted.make(eth0.ifindex))

        assert flags_after(monitor, nl, eth0.ifindex, wanted, inet.IFA_F_TENTATIVE, there=False)

    assert wanted.find(nl, eth0.ifindex)
    (made,) = oracle.addresses(netns, "eth0")
    assert made.flags == {"permanent"}


def test_an_address_that_another_host_has_is_not_found(netns: Path, nl: Socket, eth0: Link) -> None:
    wanted = on("eth0", "fd00::3/64", dad=True)
    nl.do(on("br0", "fd00::3/64").make(link.need(nl, "br0").ifindex))
    with news(netns) as monitor:
        nl.do(wanted.make(eth0.ifindex))

        assert flags_after(monitor, nl, eth0.ifindex, wanted, inet.IFA_F_DADFAILED, there=True)

    assert not wanted.find(nl, eth0.ifindex)
    assert "dadfailed" in next(one for one in oracle.addresses(netns, "eth0")).flags

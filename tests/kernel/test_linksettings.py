"""A link's settings: changed while it is in use, found by what was asked for alone, and put back."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from cni.kernel import link
from cni.kernel.inet import LinkAddress, LinkRoute
from cni.kernel.link import Link
from cni.kernel.linksettings import LinkSettings, PortMtu
from cni.kernel.netlink import NetlinkError, Socket
from cni.kernel.netns import Netns
from cni.kernel.ports import Bridge, LinkUp, Veth
from ipam.address import Address, Interface, Network
from tests import namespaces, oracle

if TYPE_CHECKING:
    from pathlib import Path

MAC = "02:00:00:00:00:0a"
ALL = LinkSettings("eth0", MAC, 1400, True, True, 500)


@pytest.fixture
def eth0(netns: Path, nl: Socket, port: Link) -> int:
    """The index of the other end of a bridge's port: up, with addresses and routes."""
    index = port.peer
    nl.do(
        LinkUp("eth0").make(index),
        LinkAddress("eth0", Interface.parse("10.1.0.2/16")).make(index),
        LinkAddress("eth0", Interface.parse("fd00::2/64")).make(index),
        LinkRoute("eth0", Network.parse("10.9.0.0/16"), Address.parse("10.1.0.1")).make(index),
        LinkRoute("eth0", Network.parse("fd09::/48"), Address.parse("fd00::1")).make(index),
    )
    return index


def settings(netns: Path) -> tuple[object, ...]:
    found = oracle.link(netns, "eth0")
    return found.mac, found.mtu, found.promisc, found.allmulti, found.txqlen


def test_all_of_them_are_set_at_once_while_the_link_is_in_use(netns: Path, nl: Socket, eth0: int) -> None:
    before = oracle.addresses(netns, "eth0"), [route for route in oracle.routes(netns) if route.link == "eth0"]
    assert not ALL.find(nl, eth0)

    nl.do(ALL.make(eth0))

    assert settings(netns) == (MAC, 1400, True, True, 500)
    assert oracle.link(netns, "eth0").up
    assert ALL.find(nl, eth0)
    after = oracle.addresses(netns, "eth0"), [route for route in oracle.routes(netns) if route.link == "eth0"]
    assert after == before


@pytest.mark.parametrize(
    "wanted",
    [
        LinkSettings("eth0", MAC),
        LinkSettings("eth0", mtu=1400),
        LinkSettings("eth0", promisc=True),
        LinkSettings("eth0", allmulti=True),
        LinkSettings("eth0", txqlen=0),
    ],
    ids=str,
)
def test_what_is_not_asked_for_is_neither_touched_nor_looked_at(
    netns: Path, nl: Socket, eth0: int, wanted: LinkSettings
) -> None:
    before = settings(netns)

    nl.do(wanted.make(eth0))

    changed = [number for number, (old, new) in enumerate(zip(before, settings(netns))) if old != new]
    assert changed == [number for number, field in enumerate(wanted[1:]) if field not in ("", None)]
    assert wanted.find(nl, eth0)
    assert not wanted._replace(mac="02:00:00:00:00:0b").find(nl, eth0)


def test_how_it_was_puts_it_back(netns: Path, nl: Socket, eth0: int) -> None:
    before = settings(netns)
    then = ALL.now(nl, eth0)
    nl.do(ALL.make(eth0))

    nl.do(then.make(eth0))

    assert settings(netns) == before
    assert LinkSettings("eth0", mtu=1400).now(nl, eth0) == LinkSettings("eth0", mtu=oracle.link(netns, "eth0").mtu)
    assert LinkSettings("eth0", promisc=True).now(nl, eth0) == LinkSettings("eth0", promisc=False)


def test_who_else_listens_makes_no_difference(netns: Path, nl: Socket, port: Link) -> None:
    """A bridge has its ports listen to everything, and so does tcpdump."""
    wanted = LinkSettings("port0", promisc=False)
    assert oracle.link(netns, "port0").raw.get("IFLA_PROMISCUITY") == 1

    assert wanted.find(nl, port.ifindex)
    assert wanted.now(nl, port.ifindex) == wanted

    def listening() -> socket.socket:
        found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        membership = port.ifindex.to_bytes(4, "little") + b"\x01\0\0\0" + bytes(8)  # PACKET_MR_PROMISC
        found.setsockopt(263, 1, membership)  # SOL_PACKET, PACKET_ADD_MEMBERSHIP
        return found

    with namespaces.inside(netns, listening):
        assert oracle.link(netns, "port0").raw.get("IFLA_PROMISCUITY") == 2
        assert wanted.find(nl, port.ifindex)
        assert not LinkSettings("port0", promisc=True).find(nl, port.ifindex)


def test_a_link_that_is_gone_is_not_so_and_cannot_be_made_so(nl: Socket) -> None:
    assert not LinkSettings("eth0").find(nl, 999)
    for ask in (lambda: nl.do(ALL.make(999)), lambda: ALL.now(nl, 999)):
        with pytest.raises(NetlinkError) as caught:
            ask()
        assert caught.value.errno == errno.ENODEV


def test_a_refusal_names_all_that_was_asked_for(nl: Socket, eth0: int) -> None:
    told = "ip link set eth0 address 02:00:00:00:00:0a mtu 20 promisc on allmulticast on txqueuelen 500: mtu less than"

    with pytest.raises(NetlinkError, match=f"^{told}"):
        nl.do(ALL._replace(mtu=20).make(eth0))


# --- the node's end -------------------------------------------------------------------------------------


def test_a_ports_mtu_is_set_found_and_put_back(netns: Path, nl: Socket, port: Link) -> None:
    wanted = PortMtu("port0", 1400, port.mtu)
    assert not wanted.find(nl, port.ifindex)

    nl.do(wanted.make(port.ifindex))
    assert oracle.link(netns, "port0").mtu == 1400
    assert wanted.find(nl, port.ifindex)

    nl.do(wanted.drop(port.ifindex))
    nl.do(wanted.drop(port.ifindex))
    assert oracle.link(netns, "port0").mtu == 1500
    assert not wanted.find(nl, port.ifindex)


def test_a_port_that_is_gone_has_nothing_to_put_back(nl: Socket) -> None:
    wanted = PortMtu("port0", 1400, 1500)

    assert not wanted.find(nl, 999)
    nl.do(wanted.drop(999))
    with pytest.raises(NetlinkError):
        nl.do(wanted.make(999))


def test_a_bridge_has_the_least_mtu_of_its_ports(netns: Path, nl: Socket, port: Link) -> None:
    """Why a pod that has less doesn't take its port along: all others would feel it."""
    with Netns(str(netns)) as there:
        nl.do(Veth("port1", "02:00:00:00:00:0c", "eth1", "02:00:00:00:00:0d", 0, "br0").make(there.fd, port.master))

    nl.do(PortMtu("port0", 1400, 1500).make(port.ifindex))
    assert oracle.link(netns, "br0").mtu == 1400

    nl.do(PortMtu("port0", 9000, 1500).make(port.ifindex))
    assert oracle.link(netns, "br0").mtu == 1500


def test_links_of_other_kinds_have_them_too(netns: Path, nl: Socket) -> None:
    nl.do(Bridge("br0", "02:00:00:00:00:01", 0).make())
    wanted = LinkSettings("br0", MAC, 1400, True, True, 7)

    nl.do(wanted.make(link.need(nl, "br0").ifindex))

    assert wanted.find(nl, link.need(nl, "br0").ifindex)

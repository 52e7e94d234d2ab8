"""Neighbours and forwarding entries as we make them: seen by pyroute2, found by us, and gone when dropped."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cni.kernel import link
from cni.kernel.inet import LinkAddress
from cni.kernel.link import Link
from cni.kernel.neighbour import FdbEntry, Neighbour
from cni.kernel.netlink import NetlinkError, Socket
from cni.kernel.netns import Netns
from cni.kernel.ports import LinkUp, Veth
from ipam.address import Address, Interface
from tests import namespaces, oracle

MAC, OTHER = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
ADDRESSES = ("10.0.0.9", "fd00::9")


@pytest.fixture
def eth0(netns: Path, nl: Socket) -> int:
    """The index of one end of a veth, with addresses of both families.

    Both ends are up: a link that finds that it has no carrier forgets its neighbours, and it may find that late.
    """
    with Netns(str(netns)) as there:
        nl.do(Veth("peer0", "02:00:00:00:00:02", "eth0", "02:00:00:00:00:03", 0).make(there.fd, 0))
    index = link.need(nl, "eth0").ifindex
    nl.do(LinkUp("eth0").make(index))
    for interface in ("10.0.0.1/24", "fd00::1/64"):
        nl.do(LinkAddress("eth0", Interface.parse(interface)).make(index))
    return index


def at(address: str, mac: str = MAC) -> Neighbour:
    return Neighbour("eth0", Address.parse(address), mac)


# --- neighbours -------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_neighbour_is_known_until_it_is_dropped(netns: Path, nl: Socket, eth0: int, address: str) -> None:
    wanted = at(address)
    assert not wanted.find(nl, eth0)

    nl.do(wanted.make(eth0))

    assert oracle.neighbours(netns) == [oracle.Neighbour(address, MAC, "eth0", "stale")]
    assert wanted.find(nl, eth0)
    assert not at(address, OTHER).find(nl, eth0)

    nl.do(wanted.drop(eth0))
    nl.do(wanted.drop(eth0))

    assert oracle.neighbours(netns) == []
    assert not wanted.find(nl, eth0)


@pytest.mark.parametrize("left", ["nud permanent", "nud reachable", "nud noarp"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_a_neighbour_replaces_what_an_earlier_holder_left(
    netns: Path, nl: Socket, eth0: int, address: str, left: str
) -> None:
    namespaces.shell(netns, f"ip neighbour add {address} lladdr {OTHER} dev eth0 {left}")

    nl.do(at(address).make(eth0))

    assert oracle.neighbours(netns) == [oracle.Neighbour(address, MAC, "eth0", "stale")]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_permanent_neighbour_can_be_dropped_too(netns: Path, nl: Socket, eth0: int, address: str) -> None:
    namespaces.shell(netns, f"ip neighbour add {address} lladdr {MAC} dev eth0 nud permanent")
    assert at(address).find(nl, eth0)

    nl.do(at(address).drop(eth0))

    assert oracle.neighbours(netns) == []


def test_a_neighbour_that_did_not_answer_is_not_found(netns: Path, nl: Socket, eth0: int) -> None:
    namespaces.shell(netns, "ip neighbour add 10.0.0.9 dev eth0 nud failed")

    assert [one.state for one in oracle.neighbours(netns)] == ["failed"]
    assert not at("10.0.0.9").find(nl, eth0)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_link_that_is_gone_has_no_neighbours_and_none_can_be_given(nl: Socket, address: str) -> None:
    assert not at(address).find(nl, 999)
    nl.do(at(address).drop(999))
    with pytest.raises(NetlinkError, match=f"^ip neighbour replace {address} lladdr {MAC} dev eth0 nud stale: "):
        nl.do(at(address).make(999))


def test_a_full_table_is_fine() -> None:
    """It can't be shown: the table is one for all namespaces of the machine."""
    assert at("10.0.0.9").make(3).fine == {errno.ENOBUFS}


# --- forwarding entries -----------------------------------------------------------------------------


def static(netns: Path) -> list[oracle.FdbEntry]:
    return [entry for entry in oracle.fdb(netns, "br0") if entry.state == "noarp"]


def test_an_entry_is_static_until_it_is_dropped(netns: Path, nl: Socket, port: Link) -> None:
    wanted = FdbEntry("port0", MAC)
    assert not wanted.find(nl, port.ifindex)

    nl.do(wanted.make(port.ifindex))

    assert static(netns) == [oracle.FdbEntry(MAC, "port0", "br0", "noarp")]
    assert wanted.find(nl, port.ifindex)
    assert not FdbEntry("port0", OTHER).find(nl, port.ifindex)

    nl.do(wanted.drop(port.ifindex))
    nl.do(wanted.drop(port.ifindex))

    assert static(netns) == []
    assert not wanted.find(nl, port.ifindex)


def test_an_entry_moves_here_from_the_port_that_had_it(netns: Path, nl: Socket, port: Link) -> None:
    with Netns(str(netns)) as there:
        nl.do(Veth("port1", "02:00:00:00:00:04", "eth1", "02:00:00:00:00:05", 0).make(there.fd, port.master))
    other = link.need(nl, "port1")
    nl.do(FdbEntry("port1", MAC).make(other.ifindex))

    nl.do(FdbEntry("port0", MAC).make(port.ifindex))

    assert static(netns) == [oracle.FdbEntry(MAC, "port0", "br0", "noarp")]
    assert FdbEntry("port0", MAC).find(nl, port.ifindex)
    assert not FdbEntry("port1", MAC).find(nl, other.ifindex)


def test_an_entry_of_another_port_is_not_dropped(netns: Path, nl: Socket, port: Link) -> None:
    with Netns(str(netns)) as there:
        nl.do(Veth("port1", "02:00:00:00:00:04", "eth1", "02:00:00:00:00:05", 0).make(there.fd, port.master))
    other = link.need(nl, "port1")
    nl.do(FdbEntry("port1", MAC).make(other.ifindex))

    nl.do(FdbEntry("port0", MAC).drop(port.ifindex))

    assert [entry.link for entry in static(netns)] == ["port1"]


def test_an_entry_of_the_bridges_own_is_not_the_wanted_one_and_becomes_it(netns: Path, nl: Socket, port: Link) -> None:
    namespaces.shell(netns, f"bridge fdb add {MAC} dev port0 master local")

    assert not FdbEntry("port0", MAC).find(nl, port.ifindex)
    assert not FdbEntry("port0", port.mac).find(nl, port.ifindex)

    nl.do(FdbEntry("port0", MAC).make(port.ifindex))

    assert static(netns) == [oracle.FdbEntry(MAC, "port0", "br0", "noarp")]


@pytest.mark.parametrize("what", ["left its bridge", "never had one", "gone"])
def test_what_is_no_port_has_no_entries_and_none_can_be_given(netns: Path, nl: Socket, port: Link, what: str) -> None:
    wanted = FdbEntry("port0", MAC)
    nl.do(wanted.make(port.ifindex))
    namespaces.shell(netns, "ip link set port0 nomaster")
    index = {"left its bridge": port.ifindex, "never had one": link.need(nl, "eth0").ifindex, "gone": 999}[what]

    assert not wanted.find(nl, index)
    nl.do(wanted.drop(index))
    with pytest.raises(NetlinkError, match=f"^bridge fdb replace {MAC} dev port0 master static: "):
        nl.do(wanted.make(index))

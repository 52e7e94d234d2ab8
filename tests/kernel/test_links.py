"""Links as we make them: seen by pyroute2, found by us, and gone when dropped, be it twice."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cni.kernel import link
from cni.kernel.link import Link
from cni.kernel.netlink import NetlinkError, Socket
from cni.kernel.netns import Netns
from cni.kernel.ports import Bridge, BridgePort, LinkUp, Veth
from tests import namespaces, oracle

if TYPE_CHECKING:
    from collections.abc import Callable

MAC, PEER_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0b"


# --- veth -------------------------------------------------------------------------------------------


def test_one_message_makes_both_ends_the_pods_end_in_the_pod(
    netns: Path, nl: Socket, bridge: Link, make_netns: Callable[[], Path]
) -> None:
    pod = make_netns()
    veth = Veth("pw0123456789abc", MAC, "eth0", PEER_MAC, 1400, "br0")

    with Netns(str(pod)) as there:
        nl.do(veth.make(there.fd, bridge.ifindex))

    near, far = oracle.link(netns, "pw0123456789abc"), oracle.link(pod, "eth0")
    assert (near.kind, near.mac, near.mtu, near.up, near.master) == ("veth", MAC, 1400, True, "br0")
    assert (far.kind, far.mac, far.mtu, far.up, far.master) == ("veth", PEER_MAC, 1400, False, "")
    assert (near.peer_index, far.peer_index) == (far.index, near.index)
    assert [one.name for one in oracle.links(netns)] == ["br0", "pw0123456789abc"]
    found = veth.find(nl)
    assert found is not None
    assert (found.ifindex, found.name, found.kind, found.mac) == (near.index, near.name, "veth", MAC)
    assert (found.mtu, found.up, found.master, found.peer) == (1400, True, bridge.ifindex, far.index)


def test_a_veth_may_have_the_kernels_mtu_and_no_bridge(netns: Path, nl: Socket) -> None:
    with Netns(str(netns)) as there:
        nl.do(Veth("a", MAC, "b", PEER_MAC, 0).make(there.fd, 0))

    assert [(one.name, one.mtu, one.master) for one in oracle.links(netns)] == [("a", 1500, ""), ("b", 1500, "")]


@pytest.mark.parametrize("taken", ["node's", "pod's"])
def test_a_name_that_is_taken_is_an_error_and_nothing_is_made(
    netns: Path, nl: Socket, make_netns: Callable[[], Path], taken: str
) -> None:
    pod = make_netns()
    namespaces.shell(netns if taken == "node's" else pod, "ip link add taken type bridge")
    name, peer = ("taken", "eth0") if taken == "node's" else ("port0", "taken")

    with Netns(str(pod)) as there, pytest.raises(NetlinkError) as caught:
        nl.do(Veth(name, MAC, peer, PEER_MAC, 0).make(there.fd, 0))

    assert caught.value.errno == errno.EEXIST
    assert [one.kind for one in oracle.links(netns) + oracle.links(pod)] == ["bridge"]


def test_a_veth_goes_with_its_other_end_and_may_be_dropped_twice(
    netns: Path, nl: Socket, make_netns: Callable[[], Path]
) -> None:
    pod = make_netns()
    veth = Veth("port0", MAC, "eth0", PEER_MAC, 0)
    with Netns(str(pod)) as there:
        nl.do(veth.make(there.fd, 0))
    index = oracle.link(netns, "port0").index

    nl.do(veth.drop(index))
    nl.do(veth.drop(index))

    assert oracle.links(netns) == oracle.links(pod) == []
    assert veth.find(nl) is None


def test_dropping_goes_by_index_so_another_link_of_that_name_stays(netns: Path, nl: Socket) -> None:
    bridge = Bridge("br0", MAC, 0)
    nl.do(bridge.make())
    first = oracle.link(netns, "br0").index
    nl.do(bridge.drop(first))
    nl.do(bridge.make())

    nl.do(bridge.drop(first))

    assert [one.name for one in oracle.links(netns)] == ["br0"]


# --- bridge -----------------------------------------------------------------------------------------


def test_a_bridge_is_made_down_with_its_mac(netns: Path, nl: Socket) -> None:
    bridge = Bridge("br0", MAC, 1400)

    nl.do(bridge.make())

    made = oracle.link(netns, "br0")
    assert (made.kind, made.mac, made.mtu, made.up) == ("bridge", MAC, 1400, False)
    found = bridge.find(nl)
    assert found is not None
    assert (found.ifindex, found.name, found.kind, found.mac) == (made.index, "br0", "bridge", MAC)
    assert (found.mtu, found.up, found.master, found.peer) == (1400, False, 0, 0)


def test_a_bridge_keeps_its_mac_whatever_ports_it_gets(netns: Path, nl: Socket) -> None:
    nl.do(Bridge("br0", "fe:00:00:00:00:01", 0).make())
    index = oracle.link(netns, "br0").index

    with Netns(str(netns)) as there:
        nl.do(Veth("port0", "02:00:00:00:00:02", "eth0", PEER_MAC, 0).make(there.fd, index))

    assert oracle.link(netns, "br0").mac == "fe:00:00:00:00:01"


def test_making_a_bridge_that_is_there_changes_nothing(netns: Path, nl: Socket, bridge: Link) -> None:
    before = oracle.links(netns)

    nl.do(Bridge("br0", "02:00:00:00:00:99", 1300).make())

    assert [(one.index, one.mac, one.mtu, one.up) for one in oracle.links(netns)] == [
        (one.index, one.mac, one.mtu, one.up) for one in before
    ]


def test_a_bridge_may_be_dropped_twice(netns: Path, nl: Socket, bridge: Link) -> None:
    wanted = Bridge("br0", bridge.mac, 0)

    nl.do(wanted.drop(bridge.ifindex))
    nl.do(wanted.drop(bridge.ifindex))

    assert oracle.links(netns) == []
    assert wanted.find(nl) is None


# --- up, alias, mtu ---------------------------------------------------------------------------------


def test_a_link_goes_up_and_down_and_nothing_else_changes(netns: Path, nl: Socket, port: Link) -> None:
    eth0 = oracle.link(netns, "eth0")
    wanted = LinkUp("eth0")
    assert not wanted.find(nl, eth0.index)

    nl.do(wanted.make(eth0.index))

    assert oracle.link(netns, "eth0").up
    assert wanted.find(nl, eth0.index)

    nl.do(wanted.drop(eth0.index))
    nl.do(wanted.drop(eth0.index))

    assert not oracle.link(netns, "eth0").up
    assert not wanted.find(nl, eth0.index)
    assert oracle.link(netns, "eth0").raw["flags"] == eth0.raw["flags"]


def test_a_link_that_is_gone_is_not_up_and_need_not_be_set_down(nl: Socket) -> None:
    assert not LinkUp("eth0").find(nl, 999)

    nl.do(LinkUp("eth0").drop(999))


def test_an_alias_is_kept_whole_or_cut_at_255_bytes_between_characters(netns: Path, nl: Socket, bridge: Link) -> None:
    for alias, kept in (("net/c1@eth0@bridge", "net/c1@eth0@bridge"), ("x" * 300, "x" * 255), ("ü" * 200, "ü" * 127)):
        nl.do(link.set_alias(bridge.ifindex, "br0", alias))

        assert oracle.link(netns, "br0").alias == kept
        assert link.need(nl, "br0").alias == kept


def test_the_kernel_gives_no_address_to_a_link_that_wants_none(netns: Path, nl: Socket) -> None:
    namespaces.shell(netns, "ip link add near type veth peer far; ip link set far up")
    near = link.need(nl, "near").ifindex

    nl.do(link.set_no_link_local(near, "near"), link.set_up(near, "near"))

    # The kernel's watch over carriers serves links in turn: when the other end has its route, it has been here too.
    namespaces.shell(netns, "until ip -6 route show dev far | grep -q fe80; do :; done")
    assert "inet6" not in namespaces.shell(netns, "ip address show dev near")


def test_a_link_without_ipv6_is_fine(netns: Path, nl: Socket) -> None:
    namespaces.shell(netns, "ip link add near mtu 1000 type veth peer far")

    nl.do(link.set_no_link_local(link.need(nl, "near").ifindex, "near"))


def test_an_mtu_is_set(netns: Path, nl: Socket, bridge: Link) -> None:
    nl.do(link.set_mtu(bridge.ifindex, "br0", 1300))

    assert oracle.link(netns, "br0").mtu == 1300
    assert link.need(nl, "br0").mtu == 1300


# --- port -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hairpin", [False, True])
@pytest.mark.parametrize("isolated", [False, True])
def test_a_port_is_treated_as_wanted_and_in_nothing_else_differently(
    netns: Path, nl: Socket, port: Link, hairpin: bool, isolated: bool
) -> None:
    wanted = BridgePort("port0", hairpin, isolated)

    nl.do(wanted.make(port.ifindex))

    made = oracle.link(netns, "port0")
    assert (made.hairpin, made.isolated, made.learning) == (hairpin, isolated, True)
    found = link.need(nl, "port0")
    assert (found.hairpin, found.isolated) == (hairpin, isolated)
    assert wanted.find(nl, port.ifindex)
    assert not wanted._replace(hairpin=not hairpin).find(nl, port.ifindex)
    assert not wanted._replace(isolated=not isolated).find(nl, port.ifindex)


def test_a_dropped_port_is_as_it_began(netns: Path, nl: Socket, port: Link) -> None:
    wanted = BridgePort("port0", hairpin=True, isolated=True)
    nl.do(wanted.make(port.ifindex))

    nl.do(wanted.drop(port.ifindex))
    nl.do(wanted.drop(port.ifindex))

    made = oracle.link(netns, "port0")
    assert (made.hairpin, made.isolated, made.learning) == (False, False, True)
    assert not wanted.find(nl, port.ifindex)


def test_what_is_no_port_or_is_gone_has_nothing_to_drop_and_cannot_be_treated(nl: Socket, bridge: Link) -> None:
    wanted = BridgePort("br0", hairpin=False, isolated=False)

    for index in (bridge.ifindex, 999):
        assert not wanted.find(nl, index)
        nl.do(wanted.drop(index))
        with pytest.raises(NetlinkError):
            nl.do(wanted.make(index))


# --- looking ----------------------------------------------------------------------------------------


def test_a_link_is_found_by_name_and_by_index_as_pyroute2_sees_it(netns: Path, nl: Socket, port: Link) -> None:
    seen = oracle.link(netns, "port0")

    assert (port.ifindex, port.name, port.kind, port.mac) == (seen.index, "port0", seen.kind, seen.mac)
    assert (port.mtu, port.up, port.master) == (seen.mtu, seen.up, oracle.link(netns, "br0").index)
    assert link.find_index(nl, port.ifindex) == link.find(nl, "port0") == port
    lo = link.need(nl, "lo")
    assert (lo.ifindex, lo.kind, lo.mac, lo.mtu) == (1, "", "00:00:00:00:00:00", 65536)


def test_what_is_not_there_is_none_or_for_who_needs_it_an_error(nl: Socket) -> None:
    assert link.find(nl, "nothing") is None
    assert link.find_index(nl, 999) is None
    with pytest.raises(NetlinkError, match=r"^ip link show nothing: No such device \(ENODEV\)$"):
        link.need(nl, "nothing")


def test_links_are_listed_by_kind_and_by_bridge(netns: Path, nl: Socket, port: Link) -> None:
    def names(kind: str = "", master: int = 0) -> list[str]:
        return sorted(one.name for one in link.dump(nl, kind, master))

    assert names() == ["br0", "eth0", "lo", "port0"]
    assert names("veth") == ["eth0", "port0"]
    assert names("bridge") == ["br0"]
    assert names(master=port.master) == ["port0"]
    assert names("bridge", port.master) == []


def test_of_a_kind_that_the_kernel_does_not_know_there_are_no_links(nl: Socket, bridge: Link) -> None:
    """It answers with all links: so does one whose module for veth isn't loaded."""
    assert link.dump(nl, "no-such-kind") == []


def test_a_list_longer_than_a_datagram_is_read_whole(netns: Path, nl: Socket) -> None:
    wanted = [Bridge(f"br{number}", f"02:00:00:00:01:{number:02x}", 0) for number in range(40)]
    for bridge in wanted:
        nl.do(bridge.make())

    assert {(one.name, one.mac) for one in link.dump(nl, "bridge")} == {(one.name, one.mac) for one in wanted}


def test_a_name_that_is_not_utf8_is_read_and_found(netns: Path, nl: Socket) -> None:
    namespaces.shell(netns, "ip link add $(printf '\\344') type bridge")

    (found,) = link.dump(nl, "bridge")

    assert found.name == "\udce4"
    assert link.find(nl, found.name) == found
    assert link.find_index(nl, found.ifindex) == found

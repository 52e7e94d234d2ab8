"""What the kernel really answers when it refuses, when it is late, and when nobody listens."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

import pytest

from cni.kernel import link, netlink
from cni.kernel.inet import LinkAddress
from cni.kernel.link import RTMGRP_LINK, Link
from cni.kernel.netlink import NLMSG_ERROR, NetlinkError, Request, Socket
from cni.kernel.ports import Bridge, LinkUp
from ipam.address import Interface
from tests import namespaces, oracle

MAC = "02:00:00:00:00:0a"


def bridge(name: str) -> Bridge:
    return Bridge(name, MAC, 0)


def option(nl: Socket, level: int, name: int, value: bytes | int) -> None:
    with socket.socket(fileno=os.dup(nl.fileno())) as same:
        same.setsockopt(level, name, value)


# --- what an error says -----------------------------------------------------------------------------


def test_an_error_is_the_command_and_the_kernels_sentence_about_it(nl: Socket) -> None:
    body = bytes(16) + netlink.nested(link.IFLA_LINKINFO, netlink.text(link.IFLA_INFO_KIND, "no-such-kind"))
    request = Request(link.RTM_NEWLINK, netlink.NLM_F_CREATE, body, "ip link add eth0 type no-such-kind")

    with pytest.raises(NetlinkError) as caught:
        nl.do(request)

    assert str(caught.value) == "ip link add eth0 type no-such-kind: Unknown device type (ENOTSUP)"
    assert caught.value.errno == errno.EOPNOTSUPP


def test_where_the_kernel_has_no_sentence_the_c_librarys_is_said(nl: Socket) -> None:
    nl.do(bridge("br0").make())

    with pytest.raises(NetlinkError) as caught:
        nl.do(bridge("br0").make()._replace(fine=frozenset()))

    assert str(caught.value) == f"ip link add br0 address {MAC} type bridge: File exists (EEXIST)"


def test_the_sentence_is_found_behind_a_refused_message_of_any_length_capped_or_whole(nl: Socket) -> None:
    for cap in (1, 0):
        option(nl, netlink.SOL_NETLINK, netlink.NETLINK_CAP_ACK, cap)
        for padding in range(5):
            body = bytes(16) + netlink.text(link.IFLA_IFNAME, "x" * (16 + padding))

            with pytest.raises(NetlinkError) as caught:
                nl.get(Request(link.RTM_GETLINK, 0, body, "ip link show"))

            assert caught.value.hint == "Attribute failed policy validation"


def test_a_dump_that_is_refused_says_why(nl: Socket) -> None:
    body = struct.pack("=BxHiII", 0, 0, 7, 0, 0)  # an index, where all links are asked for

    with pytest.raises(NetlinkError) as caught:
        nl.dump(Request(link.RTM_GETLINK, 0, body, "ip link show"))

    assert caught.value.errno == errno.EINVAL
    assert caught.value.hint


# --- several at once --------------------------------------------------------------------------------


def test_a_batch_does_not_stop_at_its_first_error_and_raises_it(netns: Path, nl: Socket) -> None:
    taken = bridge("br1").make()._replace(fine=frozenset())

    with pytest.raises(NetlinkError) as caught:
        nl.do(taken, bridge("br2").make(), taken, link.set_mtu(999, "nothing", 1400), bridge("br3").make())

    assert (caught.value.errno, caught.value.what) == (errno.EEXIST, taken.what)
    assert [one.name for one in oracle.links(netns)] == ["br1", "br2", "br3"]


def test_what_is_fine_stops_nothing_wherever_it_stands(netns: Path, nl: Socket) -> None:
    gone = link.drop(999, "nothing")

    nl.do(gone, bridge("br0").make(), gone)
    nl.do(gone)

    assert [one.name for one in oracle.links(netns)] == ["br0"]


def test_after_an_error_the_socket_is_as_good_as_new(nl: Socket) -> None:
    for _ in range(3):
        with pytest.raises(NetlinkError):
            nl.do(link.set_mtu(999, "nothing", 1400), link.set_mtu(998, "nothing", 1400))

        nl.do(bridge("br0").make())
        assert link.need(nl, "br0").name == "br0"


def test_several_hundred_requests_are_one_batch(nl: Socket) -> None:
    nl.do(bridge("br0").make())
    index = link.need(nl, "br0").ifindex
    addresses = [LinkAddress("br0", Interface.parse(f"10.{n // 256}.{n % 256}.1/32")) for n in range(500)]

    nl.do(*[address.make(index) for address in addresses])

    assert addresses[-1].find(nl, index)
    nl.do(*[address.drop(index) for address in addresses])
    assert not addresses[0].find(nl, index)


# --- answers that others wait for -------------------------------------------------------------------


def test_an_answer_that_is_still_to_be_read_is_not_taken_for_another(nl: Socket) -> None:
    nl.send(link.set_mtu(999, "nothing", 1400), nl.reserve())  # refused, and nobody reads it
    nl.send(Request(link.RTM_GETLINK, 0, struct.pack("=BxHiII", 0, 0, 1, 0, 0), "ip link show lo"), nl.reserve())

    nl.do(bridge("br0").make())
    assert link.need(nl, "br0").name == "br0"


def test_an_answer_reserved_can_be_read_by_whoever_reserved_it(nl: Socket) -> None:
    sequence = nl.reserve()

    nl.send(link.set_mtu(999, "nothing", 1400), sequence)

    (message,) = netlink.messages(nl.receive())
    assert (message.type, message.sequence) == (NLMSG_ERROR, sequence)
    assert netlink.refusal(message)[0] == errno.ENODEV


def test_no_answer_within_the_patience_is_an_error_that_names_the_question(nl: Socket) -> None:
    option(nl, socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 1000))

    with pytest.raises(NetlinkError) as caught:
        nl.receive("ip monitor link")

    assert caught.value.errno == errno.ETIMEDOUT
    assert str(caught.value).startswith("ip monitor link: no answer from the kernel within ")


def test_a_socket_waits_ten_seconds_and_not_for_ever(nl: Socket) -> None:
    with socket.socket(fileno=os.dup(nl.fileno())) as same:
        patience = struct.unpack("@ll", same.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))

    assert patience == (10, 0)


def test_a_neighbour_process_cannot_answer_in_the_kernels_place(netns: Path, nl: Socket) -> None:
    with socket.socket(fileno=os.dup(nl.fileno())) as same:
        port, _groups = same.getsockname()
    if not port:
        nl.do(bridge("br0").make())  # the first message binds it
        with socket.socket(fileno=os.dup(nl.fileno())) as same:
            port, _groups = same.getsockname()
    forged = struct.pack("=IHHII", 36, NLMSG_ERROR, netlink.NLM_F_CAPPED, nl.reserve() + 1, 0) + bytes(20)

    def forge() -> None:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETLINK_ROUTE) as somebody:
            somebody.sendto(forged, (port, 0))

    namespaces.inside(netns, forge)
    with pytest.raises(NetlinkError):
        nl.do(link.set_mtu(999, "nothing", 1400))


# --- a monitor that nobody reads --------------------------------------------------------------------


def listen(monitor: Socket) -> int:
    """Reads what there is; the number of the error that this ends with."""
    while True:
        try:
            monitor.receive(flags=socket.MSG_DONTWAIT)
        except NetlinkError:
            raise  # nobody refused anything
        except OSError as error:
            return error.errno or 0


def test_a_deaf_monitor_is_told_that_it_lost_something_and_hears_again(netns: Path, nl: Socket, port: Link) -> None:
    with namespaces.inside(netns, lambda: Socket(groups=RTMGRP_LINK)) as monitor:
        option(monitor, socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        for _ in range(40):
            nl.do(LinkUp("port0").drop(port.ifindex), LinkUp("port0").make(port.ifindex))

        assert listen(monitor) == errno.ENOBUFS
        assert listen(monitor) == errno.EAGAIN

        nl.do(link.set_mtu(port.ifindex, "port0", 1400))
        (news, *_) = netlink.messages(monitor.receive())
        assert Link.parse(news).mtu == 1400


def test_news_of_a_link_that_goes_are_read_as_that_link(netns: Path, nl: Socket, bridge: Link) -> None:
    with namespaces.inside(netns, lambda: Socket(groups=RTMGRP_LINK)) as monitor:
        nl.do(link.drop(bridge.ifindex, "br0"))

        heard = [message for _ in range(2) for message in netlink.messages(monitor.receive())]

    gone = [Link.parse(message) for message in heard if message.type == link.RTM_DELLINK]
    assert [(one.ifindex, one.name) for one in gone] == [(bridge.ifindex, "br0")]

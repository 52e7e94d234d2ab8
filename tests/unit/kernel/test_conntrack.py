"""What the kernel is asked to forget, byte for byte, and what becomes of its answers: the kernel is played."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from cni.kernel import conntrack, inet, netlink
from cni.kernel.conntrack import Flow
from cni.kernel.netlink import NetlinkError, Refused, Socket, attribute, nested
from ipam.address import Address
from tests.unit.kernel.played import Kernel, answer, done, message

if TYPE_CHECKING:
    from collections.abc import Sequence

TCP, UDP, SCTP = 6, 17, 132
POD, OLD, NODE, CLIENT = (Address.parse(text) for text in ("10.1.0.5", "10.1.0.4", "10.99.0.1", "10.99.0.2"))
POD6, OLD6, NODE6, CLIENT6 = (Address.parse(text) for text in ("fd00::5", "fd00::4", "fd99::1", "fd99::2"))
V4, V6 = "02000000", "0a000000"
ID = bytes.fromhex("01020304")


@pytest.fixture(autouse=True)
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections, in a namespace that has none: so many that the kernel isn't asked for a text of them."""
    monkeypatch.setattr(conntrack, "entries", lambda: 3000)


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch, nl: Socket) -> Socket:
    """The node's own addresses are NODE, of either family."""
    monkeypatch.setattr(inet, "is_local", lambda _nl, address: address in (NODE, NODE6))
    return nl


def entry(source: Address, target: Address, port: int, reached: Address, protocol: int = UDP, zone: int = 0) -> bytes:
    """A connection, as the kernel tells of one."""
    version = source.version
    kinds = {4: (1, 2), 6: (3, 4)}[version]

    def side(*addresses: Address) -> bytes:
        numbers = attribute(2, b"\x9c\x40") + attribute(3, port.to_bytes(2, "big"))
        return nested(1, *[attribute(kind, one.packed) for kind, one in zip(kinds, addresses)]) + nested(
            2, attribute(1, bytes([protocol])) + numbers
        )

    told = nested(1, side(source, target)) + nested(2, side(reached, source)) + attribute(12, ID)
    return bytes.fromhex(V4 if version == 4 else V6) + told + (attribute(18, zone.to_bytes(2, "big")) if zone else b"")


def plays(kernel: Kernel, *entries: bytes) -> None:
    """The next question is answered with these, and what is then deleted is gone."""
    kernel.say(*[message(0x100, netlink.NLM_F_MULTI, 1, body) for body in entries], done(1))
    if entries:
        kernel.say(*[answer(number) for number in range(2, 2 + len(entries))])


def sent(kernel: Kernel) -> list[tuple[int, str]]:
    """Types and bodies of all messages, in order."""
    return [(one.type, one.body.hex()) for datagram in kernel.sent for one in datagram]


GET, DELETE = 0x101, 0x102


# --- the questions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (
            {"version": 4, "protocol": UDP, "port": 8080},
            V4
            + "18000180 14000280 0500010011000000 060003001f900000"  # original: protocol and destination port
            + "14001980 0800010028000000 0800020000000000",  # which are compared, and nothing else
        ),
        (
            {"version": 6, "protocol": UDP},
            V6 + "10000180 0c000280 0500010011000000" + "14001980 0800010008000000 0800020000000000",
        ),
        (
            {"version": 4, "begun_by": POD},
            V4 + "10000180 0c000180 08000100 0a010005" + "14001980 0800010001000000 0800020000000000",
        ),
        (
            {"version": 4, "protocol": TCP, "port": 80, "replied_by": POD},
            V4
            + "18000180 14000280 0500010006000000 0600030000500000"
            + "10000280 0c000180 08000100 0a010005"
            + "14001980 0800010028000000 0800020001000000",
        ),
        ({"version": 6, "begun_by": POD6, "replied_by": POD6}, V6 + "14001980 0800010000000000 0800020000000000"),
    ],
    ids=["port", "protocol", "source", "port and replies", "never an address of IPv6"],
)  # fmt: skip
def test_a_filter_is_what_is_compared_and_with_what(which: dict[str, int], expected: str) -> None:
    body, _ = conntrack._which(**which)  # type: ignore[arg-type]  # by name, each of its type

    assert body.hex() == expected.replace(" ", "")


def test_words_are_those_of_conntrack() -> None:
    assert conntrack._which(4, UDP, 53, CLIENT, POD)[1] == (
        "-f ipv4 --orig-src 10.99.0.2 -p 17 --orig-port-dst 53 --reply-src 10.1.0.5"
    )


# --- when a pod comes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "flow", "goes"),
    [
        (entry(CLIENT, NODE, 53, NODE), Flow(UDP, 53, POD), True),
        (entry(CLIENT, NODE, 53, OLD), Flow(UDP, 53, POD), True),
        (entry(CLIENT, NODE, 53, OLD), Flow(UDP, 53, POD, NODE), True),
        (entry(CLIENT6, NODE6, 53, OLD6), Flow(UDP, 53, POD6), True),
        (entry(CLIENT, NODE, 53, POD), Flow(UDP, 53, POD), False),
        (entry(CLIENT, NODE, 53, OLD), Flow(UDP, 53, POD, CLIENT), False),
        (entry(OLD, CLIENT, 53, CLIENT), Flow(UDP, 53, POD), False),
        (entry(CLIENT, NODE, 54, OLD), Flow(UDP, 53, POD), False),
    ],
    ids=["node itself", "old pod", "for the hostIP", "IPv6", "this pod", "for another hostIP", "elsewhere",
         "another port"],
)  # fmt: skip
def test_a_stray_is_what_the_node_would_have_had_the_pod_get(
    left: bytes, flow: Flow, goes: bool, kernel: Kernel, nl: Socket, routes: Socket
) -> None:
    plays(kernel, left)

    conntrack.forget_strays(nl, routes, [flow])

    assert [kind for kind, _ in sent(kernel)] == [GET, DELETE] if goes else [GET]


@pytest.mark.parametrize("protocol", [TCP, SCTP])
def test_connections_look_after_themselves(protocol: int, kernel: Kernel, nl: Socket, routes: Socket) -> None:
    conntrack.forget_strays(nl, routes, [Flow(protocol, 53, POD)])

    assert sent(kernel) == []


def test_what_is_deleted_is_named_to_its_number(kernel: Kernel, nl: Socket, routes: Socket) -> None:
    left = entry(CLIENT, NODE, 53, OLD, zone=7)
    plays(kernel, left)

    conntrack.forget_strays(nl, routes, [Flow(UDP, 53, POD)])

    told = netlink.attributes(left, 4)
    assert sent(kernel)[1] == (
        DELETE,
        V4 + (nested(1, told[1]) + attribute(18, told[18]) + attribute(12, ID)).hex(),
    )


def test_what_is_gone_already_or_has_another_in_its_place_is_fine(kernel: Kernel, nl: Socket, routes: Socket) -> None:
    kernel.say(message(0x100, netlink.NLM_F_MULTI, 1, entry(CLIENT, NODE, 53, OLD)), done(1))
    kernel.say(answer(2, errno.ENOENT))

    conntrack.forget_strays(nl, routes, [Flow(UDP, 53, POD)])


@pytest.mark.parametrize(("ports", "questions"), [((53,), 1), ((53, 54), 2), (range(100, 110), 1)])
def test_many_ports_are_one_question(
    ports: Sequence[int], questions: int, kernel: Kernel, nl: Socket, routes: Socket
) -> None:
    for number in range(1, 1 + questions):
        kernel.say(done(number))

    conntrack.forget_strays(nl, routes, [Flow(UDP, port, POD) for port in ports])

    assert [kind for kind, _ in sent(kernel)] == [GET] * questions


def test_a_kernel_that_cannot_be_asked_is_told_what_it_lacks(kernel: Kernel, nl: Socket, routes: Socket) -> None:
    kernel.say(answer(1, errno.EINVAL))

    with pytest.raises(Refused, match="CONFIG_NF_CT_NETLINK") as caught:
        conntrack.forget_strays(nl, routes, [Flow(UDP, 53, POD)])

    assert caught.value.errno == errno.ENOPROTOOPT
    assert caught.value.what == "conntrack -L -f ipv4 -p 17 --orig-port-dst 53"


# --- when a pod goes --------------------------------------------------------------------------------


def test_ipv4_goes_by_filters_in_one_datagram(kernel: Kernel, nl: Socket) -> None:
    kernel.say(answer(2))
    kernel.say(answer(4))

    conntrack.forget_served(nl, [Flow(UDP, 53, POD), Flow(TCP, 53, POD, NODE)])
    conntrack.forget_address(nl, POD)

    assert [[one.type for one in datagram] for datagram in kernel.sent] == [[DELETE, DELETE]] * 2
    bodies = {one.body for datagram in kernel.sent for one in datagram}
    assert bodies == {
        conntrack._which(4, UDP, 53, replied_by=POD)[0],
        conntrack._which(4, TCP, 53, replied_by=POD)[0],
        conntrack._which(4, begun_by=POD)[0],
        conntrack._which(4, replied_by=POD)[0],
    }


def test_ipv6_is_listed_and_goes_by_name(kernel: Kernel, nl: Socket) -> None:
    to_pod, from_pod = entry(CLIENT6, NODE6, 53, POD6), entry(POD6, CLIENT6, 443, CLIENT6, TCP)
    plays(kernel, to_pod, from_pod, entry(CLIENT6, NODE6, 53, OLD6), entry(OLD6, POD6, 53, OLD6))

    conntrack.forget_address(nl, POD6)

    names = [nested(1, netlink.attributes(one, 4)[1]) + attribute(12, ID) for one in (to_pod, from_pod)]
    assert sent(kernel) == [(GET, conntrack._which(6)[0].hex()), *[(DELETE, V6 + name.hex()) for name in names]]


def test_of_ports_only_those_served_go(kernel: Kernel, nl: Socket) -> None:
    plays(kernel, entry(CLIENT6, NODE6, 53, POD6), entry(CLIENT6, POD6, 80, POD6, TCP), entry(POD6, NODE6, 53, NODE6))

    conntrack.forget_served(nl, [Flow(UDP, 53, POD6), Flow(TCP, 8080, POD6)])

    assert [kind for kind, _ in sent(kernel)] == [GET, DELETE]


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EOPNOTSUPP])
def test_an_older_kernel_lists_for_ipv4_too(refusal: int, kernel: Kernel, nl: Socket) -> None:
    kernel.say(answer(1, refusal), answer(2, refusal))
    kernel.say(message(0x100, netlink.NLM_F_MULTI, 3, entry(CLIENT, NODE, 53, POD)), done(3))
    kernel.say(answer(4))

    conntrack.forget_address(nl, POD)

    assert [kind for kind, _ in sent(kernel)] == [DELETE, DELETE, GET, DELETE]


def test_a_kernel_that_cannot_be_asked_keeps_nobody(kernel: Kernel, nl: Socket) -> None:
    for number in (2, 3, 4):
        kernel.say(answer(number - 1, errno.EINVAL), answer(number, errno.EINVAL))

    conntrack.forget_address(nl, POD)
    conntrack.forget_address(nl, POD6)


def test_what_else_is_refused_is_told(kernel: Kernel, nl: Socket) -> None:
    kernel.say(answer(1, errno.EPERM), answer(2, errno.EPERM))

    with pytest.raises(NetlinkError) as caught:
        conntrack.forget_address(nl, POD)

    assert (caught.value.errno, caught.value.what) == (errno.EPERM, "conntrack -D -f ipv4 --orig-src 10.1.0.5")


def test_where_nothing_is_remembered_nothing_is_asked(
    kernel: Kernel, nl: Socket, routes: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrack, "entries", lambda: 0)

    conntrack.forget_strays(nl, routes, [Flow(UDP, 53, POD)])
    conntrack.forget_served(nl, [Flow(UDP, 53, POD)])
    conntrack.forget_address(nl, POD6)

    assert sent(kernel) == []

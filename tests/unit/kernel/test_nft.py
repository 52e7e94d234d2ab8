"""Elements as bytes and as nft's words, and a transaction: with a kernel that says what the test has it say."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.kernel import netlink, nft, nftlist
from cni.kernel.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Message, NetlinkError, Request, Socket
from cni.kernel.nft import Element
from tests.unit.kernel import objects
from tests.unit.kernel.played import Kernel, answer, message

if TYPE_CHECKING:
    from collections.abc import Sequence

TAG = "pw0123456789abc"
POD = Element("pods4", "ifname . ipv4_addr", "cni0 . 10.244.0.5", TAG)
PORT = Element(
    "hostports_any4",
    "inet_proto . inet_service : ipv4_addr . inet_service",
    "tcp . 8080 : 10.244.0.5 . 80",
    TAG,
)


# --- keys and values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "text", "packed"),
    [
        ("ifname", "cni0", "636e6930 00000000 00000000 00000000"),
        ("ifname", "a.b-c@d'e*f\\g", "612e622d 63406427 652a665c 67000000"),
        ("ifname", "123456789012345", "31323334 35363738 39303132 33343500"),
        ("ipv4_addr", "10.0.0.1", "0a000001"),
        ("ipv6_addr", "fd00::1", "fd000000 00000000 00000000 00000001"),
        ("ether_addr", "02:00:0a:F4:00:01", "02000af4 0001"),
        ("inet_proto", "tcp", "06"),
        ("inet_proto", "udp", "11"),
        ("inet_proto", "sctp", "84"),
        ("inet_proto", "udplite", "88"),
        ("inet_proto", "icmp", "01"),
        ("inet_proto", "58", "3a"),
        ("inet_service", "80", "0050"),
        ("inet_service", "65535", "ffff"),
        ("inet_proto . inet_service", "tcp . 80", "06000000 00500000"),
        ("ifname . ether_addr", "e . 02:00:00:00:00:01", f"65{'00' * 15} 02000000 00010000"),
        ("ipv4_addr . inet_proto . inet_service", "10.0.0.1 . udp . 53", "0a000001 11000000 00350000"),
    ],
)
def test_fields_are_bytes_in_network_order_and_padded_only_beside_others(type: str, text: str, packed: str) -> None:
    assert nft.encoded(type, text) == bytes.fromhex(packed)


@pytest.mark.parametrize(
    ("type", "text"),
    [
        ("ifname", ""),
        ("ifname", "1234567890123456"),
        ("ifname", "ééééééééé"),
        ("ifname", "a\0b"),
        ("ifname", 'a"b'),
        ("ipv4_addr", "fd00::1"),
        ("ipv4_addr", "10.0.0.0/24"),
        ("ipv4_addr", "10.0.0.1-10.0.0.9"),
        ("ipv6_addr", "10.0.0.1"),
        ("ipv6_addr", "fe80::1%eth0"),
        ("ether_addr", "02:00:00:00:00"),
        ("ether_addr", "02:00:00:00:00:0g"),
        ("ether_addr", "0 :00:00:00:00:01"),
        ("ether_addr", "  :00:00:00:00:01"),
        ("ether_addr", "02-00-00-00-00-01"),
        ("ether_addr", "02:00:00:00:00:01:02"),
        ("inet_proto", "TCP"),
        ("inet_proto", "256"),
        ("inet_proto", ""),
        ("inet_service", "65536"),
        ("inet_service", "-1"),
        ("inet_service", "http"),
        ("inet_service", "٣"),
        ("inet_service", "9" * 5000),
        ("mark", "1"),
        ("verdict", "accept"),
        ("", ""),
        ("ifname . ipv4_addr", "cni0"),
        ("ifname", "cni0 . 10.0.0.1"),
        ("ifname . ipv4_addr", "cni0.10.0.0.1"),
    ],
)
def test_a_text_that_is_not_of_its_type_is_a_value_error(type: str, text: str) -> None:
    with pytest.raises(ValueError):
        nft.encoded(type, text)


@given(objects.TYPED)
def test_what_is_encoded_is_decoded_to_the_same_text(typed: tuple[str, str]) -> None:
    type, text = typed

    assert nftlist.decoded(type, nft.encoded(type, text)) == text


@given(st.lists(st.sampled_from(sorted(objects.FIELDS)), min_size=1, max_size=3), st.binary(max_size=40))
def test_whatever_bytes_come_as_a_key_are_decoded_or_refused(words: Sequence[str], packed: bytes) -> None:
    try:
        nftlist.decoded(" . ".join(words), packed)
    except ValueError:
        pass


@given(objects.TYPED, st.integers(1, 16))
def test_bytes_that_are_missing_or_too_many_are_a_value_error(typed: tuple[str, str], size: int) -> None:
    type, text = typed
    packed = nft.encoded(type, text)

    for other in (packed[:-size], packed + bytes(size)):
        with pytest.raises(ValueError):
            nftlist.decoded(type, other)


@pytest.mark.parametrize(
    "change",
    [
        {"text": "tcp . 8080"},
        {"text": "tcp . 8080 : 10.244.0.5"},
        {"text": "8080 : 10.244.0.5 . 80"},
        {"type": "inet_proto . inet_service"},
        {"tag": "x" * 128},
    ],
    ids=str,
)
def test_an_element_whose_text_is_not_of_its_type_is_not_made(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        PORT._replace(**change).make()


# --- messages ---------------------------------------------------------------------------------------


# What nft 1.0.6 sends for the same, without the set's number (NFTA_SET_ELEM_LIST_SET_ID), which is for sets that are
# made in the same transaction. `tests/kernel/test_nft.py` asks the nft that is there.
NFT_SENDS = {
    PORT._replace(tag="TAG", text="tcp . 80 : 10.0.0.1 . 80"): (
        "01000000 0c000100 706f647769726500 13000200 686f7374706f7274735f616e793400 00"
        "34000380 30000180 10000180 0c000100 0600000000500000 10000280 0c000100 0a00000100500000"
        "0a000600 000454414700 0000"
    ),
    Element("ports", "ifname", "cni0", "x"): (
        "01000000 0c000100 706f647769726500 0a000200 706f72747300 0000"
        "28000380 24000180 18000180 14000100 636e6930 000000000000000000000000 08000600 00027800"
    ),
    Element("pods4", "ifname . ipv4_addr", "cni0 . 10.0.0.1", "x"): (
        "01000000 0c000100 706f647769726500 0a000200 706f64733400 0000"
        "2c000380 28000180 1c000180 18000100 636e6930 000000000000000000000000 0a000001 08000600 00027800"
    ),
}


@pytest.mark.parametrize("element", NFT_SENDS, ids=lambda element: element.text)
def test_an_element_is_made_of_the_bytes_that_nft_sends(element: Element) -> None:
    request = element.make()

    assert request.body == bytes.fromhex(NFT_SENDS[element])
    assert (request.type, request.flags) == (0x0A0C, NLM_F_CREATE | NLM_F_EXCL)


def test_an_element_is_dropped_by_its_key_alone() -> None:
    request = PORT.drop()

    assert request.body == PORT._replace(type="inet_proto . inet_service", text="tcp . 8080").drop().body
    assert TAG.encode() not in request.body
    assert (request.type, request.flags, request.fine) == (0x0A0E, 0, frozenset({errno.ENOENT}))


@given(objects.ELEMENTS)
def test_every_element_says_what_it_asks(element: Element) -> None:
    for request, verb in ((element.make(), "create"), (element.drop(), "delete")):
        assert request.what.startswith(f"nft '{verb} element {element.family} podwire {element.set} {{ ")
        assert request.what.endswith(" }'")
        assert request.body[0] == {"inet": 1, "bridge": 7}[element.family]


@pytest.mark.parametrize(
    ("element", "line"),
    [
        (POD, f'add element inet podwire pods4 {{ "cni0" . 10.244.0.5 comment "{TAG}" }}'),
        (PORT, f'add element inet podwire hostports_any4 {{ tcp . 8080 comment "{TAG}" : 10.244.0.5 . 80 }}'),
        (
            Element("s", "ifname", "eth*", "t", family="bridge"),
            'add element bridge podwire s { "eth\\*" comment "t" }',
        ),
        (
            Element("m", "ipv4_addr : ifname", "10.0.0.1 : a*b", "t"),
            'add element inet podwire m { 10.0.0.1 comment "t" : "a*b" }',
        ),
    ],
)
def test_an_element_is_a_line_of_nfts_language(element: Element, line: str) -> None:
    assert element.line() == line


def test_a_line_can_stand_between_the_quotes_of_a_shell() -> None:
    assert Element("s", "ifname", "it's", "t").drop().what == ("nft 'delete element inet podwire s { \"it'\\''s\" }'")


@pytest.mark.parametrize(
    ("userdata", "comment"),
    [
        (b"", ""),
        (b"\x00\x04TAG\x00", "TAG"),
        (b"\x01\x04\x02\x00\x00\x00\x00\x02x\x00", "x"),
        (b"\x01\x04\x02\x00\x00\x00", ""),
        (b"\x00", ""),
        (b"\x00\xffshort", "short"),
    ],
)
def test_a_comment_is_found_among_what_nft_keeps_beside_it(userdata: bytes, comment: str) -> None:
    assert nft.comment_in(userdata) == comment


# --- asking -----------------------------------------------------------------------------------------


def element_message(sequence: int, *parts: bytes) -> bytes:
    body = nft.nfgenmsg("inet") + netlink.nested(3, netlink.nested(1, *parts))
    return message(nft.NFT_MSG_NEWSETELEM, 0, sequence, body)


KEY = netlink.attribute(
    nft.NFTA_SET_ELEM_KEY, netlink.attribute(1, nft.encoded("inet_proto . inet_service", "tcp . 8080"))
)
VALUE = nft.encoded("ipv4_addr . inet_service", "10.244.0.5 . 80")
COMMENT = netlink.attribute(nft.NFTA_SET_ELEM_USERDATA, b"\x00\x10pw0123456789abc\x00")


def data(value: bytes) -> bytes:
    return netlink.attribute(nft.NFTA_SET_ELEM_DATA, value)


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ((KEY, data(netlink.attribute(1, VALUE)), COMMENT), True),
        ((KEY, data(netlink.attribute(1, VALUE[:-1] + b"\1")), COMMENT), False),
        ((KEY, data(b""), COMMENT), False),
        ((KEY, COMMENT), False),
        ((KEY, data(netlink.attribute(1, VALUE))), False),
        ((), False),
    ],
)
def test_an_element_is_found_with_its_value_and_its_comment(
    nl: Socket, kernel: Kernel, parts: Sequence[bytes], found: bool
) -> None:
    kernel.say(element_message(1, *parts))

    assert PORT.find(nl) == found


def test_an_element_that_is_not_there_is_not_found_and_other_refusals_are_raised(nl: Socket, kernel: Kernel) -> None:
    kernel.say(answer(1, errno.ENOENT))
    kernel.say(answer(2, errno.EPERM))

    assert not PORT.find(nl)
    with pytest.raises(NetlinkError, match=r"^nft 'get element inet podwire hostports_any4 { tcp \. 8080 }': .*EPERM"):
        PORT.find(nl)


def chain_message(sequence: int, rules: int, *parts: bytes) -> bytes:
    use = netlink.attribute(6, rules.to_bytes(4, "big"))
    return message(0x0A03, 0, sequence, nft.nfgenmsg("inet") + netlink.text(1, "podwire") + use + b"".join(parts))


def test_the_rules_version_is_the_comment_of_a_chain_that_goes_with_them(nl: Socket, kernel: Kernel) -> None:
    comment = netlink.attribute(12, b"\x00\x0apodwire 1\x00")
    kernel.say(chain_message(1, 1, comment))
    kernel.say(chain_message(2, 1))
    kernel.say(chain_message(3, 0, comment))  # its rule is gone, and with it all others
    kernel.say(answer(4, errno.ENOENT))

    assert [nft.rules_version(nl) for _ in range(4)] == ["podwire 1", "", None, None]
    asked = b"\1\0\0\0\x0c\0\1\0podwire\0\x0b\0\3\0intact\0\0"
    assert [one.body for (one,) in kernel.sent] == [asked] * 4


# How a kernel says that it has no nf_tables: in a message, in a batch, and to who wants a socket.


def test_a_kernel_without_nf_tables_is_told_by_the_option_that_it_lacks(nl: Socket, kernel: Kernel) -> None:
    kernel.say(answer(1, errno.EINVAL))
    kernel.say(answer(2 | BATCH, errno.EOPNOTSUPP))

    with pytest.raises(NetlinkError, match=r"^nft list chain inet podwire intact: .*CONFIG_NF_TABLES.*ENOTSUP"):
        nft.rules_version(nl)
    with pytest.raises(NetlinkError, match=r"^nft 'create element .*': .*CONFIG_NF_TABLES.*ENOTSUP"):
        nft.transact(nl, [POD.make()])


def test_a_kernel_without_netfilters_netlink_is_told_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_protocol: int) -> Socket:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    monkeypatch.setattr(nft, "Socket", refuse)

    with pytest.raises(NetlinkError, match=r"^nft list tables: .*CONFIG_NF_TABLES.*ENOTSUP"):
        nft.connect()


def test_a_socket_that_cannot_be_had_for_another_reason_is_that_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_protocol: int) -> Socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(nft, "Socket", refuse)

    with pytest.raises(OSError) as caught:
        nft.connect()
    assert caught.value.errno == errno.EMFILE


# --- transactions -----------------------------------------------------------------------------------


BATCH = 1 << 31
"""In the sequence numbers of a batch, which no other question has."""

BEGIN, END = 16, 17


def request(what: str, *fine: int) -> Request:
    return Request(nft.NFT_MSG_NEWSETELEM, 0, b"body", what, frozenset(fine))


def said(datagram: list[Message]) -> list[tuple[int, int, bool]]:
    return [(one.type, one.sequence & ~BATCH, bool(one.flags & NLM_F_ACK)) for one in datagram]


def test_a_transaction_is_one_datagram_between_two_marks_with_one_acknowledgement(nl: Socket, kernel: Kernel) -> None:
    kernel.say(answer(3 | BATCH))

    assert nft.transact(nl, [request("a"), request("b")]) == ()

    (datagram,) = kernel.sent
    assert said(datagram) == [(BEGIN, 1, False), (0x0A0C, 2, False), (0x0A0C, 3, True), (END, 4, False)]
    assert datagram[0].body == datagram[-1].body == b"\0\0\0\x0a"


def test_nothing_to_change_is_not_sent(nl: Socket, kernel: Kernel) -> None:
    assert nft.transact(nl, []) == ()

    assert kernel.sent == []


def test_the_first_refusal_is_raised_by_its_name_after_all_were_read(nl: Socket, kernel: Kernel) -> None:
    kernel.say(answer(3 | BATCH, errno.EEXIST, "there is one"))
    kernel.say(answer(4 | BATCH, errno.ENOENT))

    with pytest.raises(NetlinkError, match=r"^b: there is one \(EEXIST\)$"):
        nft.transact(nl, [request("a"), request("b"), request("c")])

    assert not kernel.answers


def test_what_is_refused_and_fine_is_left_out_and_the_rest_tried_anew(nl: Socket, kernel: Kernel) -> None:
    a, b, c = (request(what, errno.ENOENT) for what in "abc")
    kernel.say(answer(2 | BATCH, errno.ENOENT), answer(4 | BATCH))
    kernel.say(answer(8 | BATCH, errno.ENOENT))
    kernel.say(answer(11 | BATCH))

    assert nft.transact(nl, [a, b, c]) == (a, c)

    assert [len(datagram) - 2 for datagram in kernel.sent] == [3, 2, 1]


def test_a_transaction_of_nothing_but_what_is_fine_ends(nl: Socket, kernel: Kernel) -> None:
    requests = [request(what, errno.ENOENT) for what in "ab"]
    kernel.say(answer(2 | BATCH, errno.ENOENT), answer(3 | BATCH, errno.ENOENT))

    assert nft.transact(nl, requests) == tuple(requests)
    assert len(kernel.sent) == 1


def test_a_refusal_that_is_not_fine_is_raised_beside_one_that_is(nl: Socket, kernel: Kernel) -> None:
    kernel.say(answer(2 | BATCH, errno.ENOENT), answer(3 | BATCH, errno.EBUSY))

    with pytest.raises(NetlinkError, match=r"^b: .*EBUSY"):
        nft.transact(nl, [request("a", errno.ENOENT), request("b", errno.ENOENT)])


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOMEM, errno.EAGAIN])
def test_a_batch_that_is_refused_as_such_is_an_error_at_once(nl: Socket, kernel: Kernel, code: int) -> None:
    kernel.say(answer(1 | BATCH, code))

    with pytest.raises(NetlinkError) as caught:
        nft.transact(nl, [request("a", code), request("b", code)])

    assert (caught.value.errno, caught.value.what) == (code, "a")


def test_an_acknowledgement_of_the_mark_that_newer_kernels_may_give_is_none_of_the_batch(
    nl: Socket, kernel: Kernel
) -> None:
    kernel.say(answer(1 | BATCH), answer(2 | BATCH))

    assert nft.transact(nl, [request("a")]) == ()


def test_late_answers_to_earlier_questions_are_passed_over(nl: Socket, kernel: Kernel) -> None:
    with pytest.raises(NetlinkError):
        nl.do(request("slow"))  # 1
    kernel.say(answer(1, errno.EPERM), answer(3 | BATCH))

    assert nft.transact(nl, [request("a")]) == ()


def test_refusals_that_got_lost_come_with_the_next_try(nl: Socket, kernel: Kernel) -> None:
    requests = [request(what, errno.ENOENT) for what in "abcd"]
    kernel.answers.append(errno.ENOBUFS)  # and that of the last is among the lost
    kernel.say(answer(2 | BATCH, errno.ENOENT))
    kernel.say(answer(3 | BATCH, errno.ENOENT))
    kernel.answers.append(errno.EAGAIN)
    kernel.say(answer(8 | BATCH, errno.ENOENT), answer(9 | BATCH, errno.ENOENT))

    assert nft.transact(nl, requests) == tuple(requests)
    assert [len(datagram) - 2 for datagram in kernel.sent] == [4, 2]


def test_a_transaction_without_any_answer_is_a_time_out(nl: Socket) -> None:
    with pytest.raises(NetlinkError) as caught:
        nft.transact(nl, [request("a")])

    assert caught.value.errno == errno.ETIMEDOUT


def test_where_all_answers_got_lost_that_is_the_error(nl: Socket, kernel: Kernel) -> None:
    kernel.answers.append(errno.ENOBUFS)

    with pytest.raises(NetlinkError) as caught:
        nft.transact(nl, [request("a")])

    assert (caught.value.errno, str(caught.value)) == (errno.ENOBUFS, "a: the kernel's answers got lost (ENOBUFS)")

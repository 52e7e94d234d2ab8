"""Netlink's framing: attributes, messages, and what a refusal says."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.kernel import netlink
from cni.kernel.netlink import Message, NetlinkError, Request

KINDS = st.integers(1, netlink.NLA_TYPE_MASK)
VALUES = st.binary(max_size=40)
REQUESTS = st.builds(Request, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), VALUES, st.just("ip it"))
TEXTS = st.binary(max_size=20).filter(lambda data: b"\0" not in data)
"""What an interface may be called: any bytes but NUL, UTF-8 or not."""


# --- attributes -------------------------------------------------------------------------------------


def test_an_attribute_is_padded_and_its_length_does_not_count_the_padding() -> None:
    assert netlink.attribute(3, b"") == struct.pack("=HH", 4, 3)
    assert netlink.attribute(3, b"a") == struct.pack("=HH", 5, 3) + b"a\0\0\0"
    assert netlink.attribute(3, b"abcd") == struct.pack("=HH", 8, 3) + b"abcd"
    assert netlink.attribute(3, b"abcde") == struct.pack("=HH", 9, 3) + b"abcde\0\0\0"


def test_numbers_are_in_native_byte_order_and_text_ends_with_a_nul() -> None:
    assert netlink.u8(1, 0xFE)[4:] == b"\xfe\0\0\0"
    assert netlink.u32(1, 0xFEDCBA98)[4:] == struct.pack("=I", 0xFEDCBA98)
    assert netlink.text(1, "eth0") == struct.pack("=HH", 9, 1) + b"eth0\0\0\0\0"


@given(st.dictionaries(KINDS, VALUES, max_size=6), st.integers(0, 8))
def test_attributes_come_back_as_they_went_in(values: dict[int, bytes], start: int) -> None:
    data = b"".join(netlink.attribute(kind, value) for kind, value in values.items())

    assert len(data) % 4 == 0
    assert netlink.attributes(b"x" * start + data, start) == values


@given(st.dictionaries(KINDS, VALUES, max_size=4), KINDS, KINDS)
def test_attributes_nest(values: dict[int, bytes], outer: int, middle: int) -> None:
    parts = [netlink.attribute(kind, value) for kind, value in values.items()]

    data = netlink.nested(outer, netlink.nested(middle, *parts))

    (kind,) = struct.unpack_from("=H", data, 2)
    assert kind == outer | netlink.NLA_F_NESTED
    assert netlink.attributes(netlink.attributes(netlink.attributes(data)[outer])[middle]) == values


@given(KINDS, st.binary(min_size=1, max_size=40), st.data())
def test_an_attribute_that_was_cut_off_is_refused(kind: int, value: bytes, data: st.DataObject) -> None:
    whole = netlink.attribute(kind, value)
    cut = whole[: data.draw(st.integers(4, 3 + len(value)))]

    with pytest.raises(ValueError, match=f"netlink attribute {kind} of {4 + len(value)} bytes"):
        netlink.attributes(cut)


@pytest.mark.parametrize("length", [0, 3])
def test_an_attribute_shorter_than_its_header_does_not_keep_us_for_ever(length: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        netlink.attributes(struct.pack("=HH", length, 1) + b"abcd")


@given(st.binary(max_size=100), st.integers(0, 100))
def test_whatever_comes_as_attributes_is_read_or_refused(data: bytes, start: int) -> None:
    try:
        found = netlink.attributes(data, start)
    except ValueError:
        return
    assert sum(map(len, found.values())) <= len(data)


@given(TEXTS)
def test_any_name_that_the_kernel_may_have_comes_back_as_it_went_in(name: bytes) -> None:
    text = netlink.as_text(name + b"\0")

    assert netlink.attributes(netlink.text(3, text))[3] == name + b"\0"


@given(st.sampled_from("BHIQ"), st.data())
def test_a_number_of_any_width_is_read(width: str, data: st.DataObject) -> None:
    value = data.draw(st.integers(0, (1 << 8 * struct.calcsize(f"={width}")) - 1))

    assert netlink.as_int(struct.pack(f"={width}", value)) == value


def test_a_number_that_is_not_there_is_0() -> None:
    assert netlink.as_int(b"") == 0


# --- messages ---------------------------------------------------------------------------------------


def test_a_request_is_a_header_of_16_bytes_and_its_body() -> None:
    request = Request(16, netlink.NLM_F_CREATE, b"body", "ip link add")

    framed = netlink.frame(request, 7, netlink.NLM_F_ACK)

    flags = netlink.NLM_F_REQUEST | netlink.NLM_F_CREATE | netlink.NLM_F_ACK
    assert framed == struct.pack("=IHHII", 20, 16, flags, 7, 0) + b"body"


@given(st.lists(st.tuples(REQUESTS, st.integers(0, 0xFFFFFFFF)), max_size=4))
def test_messages_come_back_as_they_went_in(sent: list[tuple[Request, int]]) -> None:
    framed = [netlink.frame(request, sequence, 0) for request, sequence in sent]
    datagram = b"".join(one + b"\0" * (-len(one) % 4) for one in framed)

    assert list(netlink.messages(datagram)) == [
        Message(request.type, request.flags | netlink.NLM_F_REQUEST, sequence, request.body)
        for request, sequence in sent
    ]


@given(REQUESTS, st.data())
def test_a_message_that_was_cut_off_is_refused(request: Request, data: st.DataObject) -> None:
    framed = netlink.frame(request._replace(body=request.body + b"x"), 1, 0)
    cut = framed[: data.draw(st.integers(16, len(framed) - 1))]

    with pytest.raises(ValueError, match=f"netlink message of {len(framed)} bytes"):
        list(netlink.messages(cut))


@given(st.binary(max_size=100))
def test_whatever_comes_as_a_datagram_is_read_or_refused(datagram: bytes) -> None:
    try:
        found = list(netlink.messages(datagram))
    except ValueError:
        return
    assert sum(len(message.body) + 16 for message in found) <= len(datagram)


# --- refusals ---------------------------------------------------------------------------------------


def refused(code: int, refused_message: bytes, *told: bytes, flags: int = 0) -> Message:
    """An NLMSG_ERROR as the kernel makes it (`netlink_ack`)."""
    body = struct.pack("=i", -code) + refused_message
    if told:
        flags |= netlink.NLM_F_ACK_TLVS
        body += b"\0" * (-len(body) % 4) + b"".join(told)
    return Message(netlink.NLMSG_ERROR, flags, 1, body)


HINT = netlink.text(netlink.NLMSGERR_ATTR_MSG, "Unknown device type")
OFFSET = netlink.u32(2, 40)  # NLMSGERR_ATTR_OFFS
WHOLE = netlink.frame(Request(16, 0, b"five!", "ip link add"), 1, 0)


def test_an_acknowledgement_is_error_0() -> None:
    assert netlink.refusal(refused(0, WHOLE[:16], flags=netlink.NLM_F_CAPPED)) == (0, "")


def test_a_refusal_without_extended_acknowledgement_has_no_sentence() -> None:
    assert netlink.refusal(refused(errno.EPERM, WHOLE)) == (errno.EPERM, "")


@pytest.mark.parametrize("told", [(HINT,), (OFFSET, HINT), (HINT, OFFSET)])
def test_the_sentence_stands_behind_the_header_of_the_refused_message(told: tuple[bytes, ...]) -> None:
    capped = refused(errno.ENOTSUP, WHOLE[:16], *told, flags=netlink.NLM_F_CAPPED)

    assert netlink.refusal(capped) == (errno.ENOTSUP, "Unknown device type")


def test_the_sentence_stands_behind_the_whole_refused_message_where_that_was_not_capped() -> None:
    assert len(WHOLE) % 4  # so the padding counts

    assert netlink.refusal(refused(errno.ENOTSUP, WHOLE, HINT)) == (errno.ENOTSUP, "Unknown device type")


def test_a_refusal_may_point_at_an_attribute_and_say_nothing() -> None:
    assert netlink.refusal(refused(errno.EINVAL, WHOLE, OFFSET)) == (errno.EINVAL, "")


def test_the_end_of_a_dump_may_be_a_refusal_with_a_sentence_behind_its_number() -> None:
    body = struct.pack("=i", -errno.EINVAL) + HINT
    flags = netlink.NLM_F_MULTI | netlink.NLM_F_ACK_TLVS

    assert netlink.refusal(Message(netlink.NLMSG_DONE, flags, 1, body)) == (errno.EINVAL, "Unknown device type")
    assert netlink.refusal(Message(netlink.NLMSG_DONE, netlink.NLM_F_MULTI, 1, body[:4])) == (errno.EINVAL, "")


@given(st.sampled_from([netlink.NLMSG_ERROR, netlink.NLMSG_DONE]), st.integers(0, 0xFFFF), st.binary(max_size=60))
def test_whatever_comes_as_a_refusal_is_read_or_refused(kind: int, flags: int, body: bytes) -> None:
    try:
        code, hint = netlink.refusal(Message(kind, flags, 1, body))
    except ValueError:
        return
    assert isinstance(code, int)
    assert isinstance(hint, str)


# --- the error --------------------------------------------------------------------------------------


def test_an_error_says_what_can_be_replayed_then_the_kernels_sentence_then_the_errors_name() -> None:
    error = NetlinkError(errno.EOPNOTSUPP, "ip link add eth0 type dummy", "Unknown device type")

    assert str(error) == "ip link add eth0 type dummy: Unknown device type (ENOTSUP)"
    assert (error.errno, error.what, error.hint) == (
        errno.EOPNOTSUPP, "ip link add eth0 type dummy", "Unknown device type"
    )  # fmt: skip


def test_an_error_without_a_sentence_of_the_kernels_has_the_c_librarys() -> None:
    assert str(NetlinkError(errno.EPERM, "ip link del eth0")) == "ip link del eth0: Operation not permitted (EPERM)"


def test_an_error_number_without_a_name_is_an_error_all_the_same() -> None:
    assert str(NetlinkError(4095, "ip link del eth0", "no such thing")) == "ip link del eth0: no such thing (?)"


def test_an_error_is_an_oserror_whose_number_can_be_asked() -> None:
    with pytest.raises(OSError) as caught:
        raise NetlinkError(errno.ENODEV, "ip link show eth0")
    assert caught.value.errno == errno.ENODEV

"""How a socket understands the answers: with a kernel that says what the test has it say."""

from __future__ import annotations

import errno

import pytest

from cni.kernel import netlink
from cni.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_MULTI,
    NetlinkError,
    Request,
    Socket,
)
from tests.unit.kernel.played import NEWLINK, SOMEBODY, Kernel, answer, done, thing


def request(what: str, fine: frozenset[int] = frozenset()) -> Request:
    return Request(NEWLINK, 0, b"body", what, fine)


# --- do ---------------------------------------------------------------------------------------------


def test_a_batch_is_one_datagram_that_asks_for_one_acknowledgement(nl: Socket, kernel: Kernel) -> None:
    kernel.say(answer(3))

    nl.do(request("a"), request("b"), request("c"))

    (batch,) = kernel.sent
    assert [(one.sequence, one.flags & NLM_F_ACK) for one in batch] == [(1, 0), (2, 0), (3, NLM_F_ACK)]


def test_nothing_to_do_is_not_sent(nl: Socket, kernel: Kernel) -> None:
    nl.do()

    assert kernel.sent == []


def test_a_refusal_names_the_request_that_it_refuses_and_not_the_last(nl: Socket, kernel: Kernel) -> None:
    kernel.say(answer(2, errno.EEXIST, "there is one"))
    kernel.say(answer(3))

    with pytest.raises(NetlinkError, match=r"^b: there is one \(EEXIST\)$"):
        nl.do(request("a"), request("b"), request("c"))


def test_of_several_refusals_the_first_is_raised_and_all_are_read(nl: Socket, kernel: Kernel) -> None:
    kernel.say(answer(1, errno.EEXIST))
    kernel.say(answer(2, errno.ENODEV), answer(3, errno.EPERM))

    with pytest.raises(NetlinkError, match=r"^a: .*EEXIST"):
        nl.do(request("a"), request("b"), request("c"))

    assert not kernel.answers


def test_a_refusal_that_is_fine_hides_none_that_is_not(nl: Socket, kernel: Kernel) -> None:
    kernel.say(answer(1, errno.ENODEV), answer(2, errno.EPERM), answer(3))

    with pytest.raises(NetlinkError, match=r"^b: .*EPERM"):
        nl.do(request("a", netlink.ABSENT), request("b", netlink.ABSENT), request("c"))


def test_a_last_request_whose_refusal_is_fine_ends_the_batch(nl: Socket, kernel: Kernel) -> None:
    kernel.say(answer(2, errno.ENODEV))

    nl.do(request("a"), request("b", netlink.ABSENT))


def test_late_answers_to_earlier_requests_are_passed_over(nl: Socket, kernel: Kernel) -> None:
    with pytest.raises(NetlinkError):
        nl.do(request("slow"))  # 1: timed out
    reserved = nl.reserve()  # 2
    kernel.say(answer(1, errno.EPERM), answer(reserved, errno.ENODEV), thing(3, b"an echo"))
    kernel.say(answer(3))

    nl.do(request("a"))

    assert not kernel.answers


# --- get --------------------------------------------------------------------------------------------


def test_one_object_is_got_without_an_acknowledgement(nl: Socket, kernel: Kernel) -> None:
    kernel.say(thing(1, b"it"))

    found = nl.get(request("a"))

    assert found is not None
    assert found.body == b"it"
    assert not kernel.sent[0][0].flags & (NLM_F_ACK | NLM_F_DUMP)


def test_what_is_not_there_is_none_where_that_is_fine_and_an_error_where_not(nl: Socket, kernel: Kernel) -> None:
    kernel.say(answer(1, errno.ENODEV))
    kernel.say(answer(2, errno.ENODEV, "no such thing"))

    assert nl.get(request("a", netlink.ABSENT)) is None
    with pytest.raises(NetlinkError, match=r"^b: no such thing \(ENODEV\)$"):
        nl.get(request("b"))


def test_a_late_object_is_not_taken_for_the_one_that_was_asked_for(nl: Socket, kernel: Kernel) -> None:
    with pytest.raises(NetlinkError):
        nl.get(request("slow"))
    kernel.say(thing(1, b"late"), thing(2, b"asked for"))

    found = nl.get(request("a"))

    assert found is not None
    assert found.body == b"asked for"


# --- dump -------------------------------------------------------------------------------------------


def test_a_dump_is_all_objects_of_all_datagrams_until_done(nl: Socket, kernel: Kernel) -> None:
    kernel.say(thing(1, b"1", NLM_F_MULTI) + b"\0" * 3, thing(1, b"2   ", NLM_F_MULTI))
    kernel.say(thing(1, b"3   ", NLM_F_MULTI), done(1))

    found = nl.dump(request("a"))

    assert [one.body.strip() for one in found] == [b"1", b"2", b"3"]
    assert kernel.sent[0][0].flags & NLM_F_DUMP == NLM_F_DUMP


@pytest.mark.parametrize("torn_at_the_end", [False, True])
def test_a_dump_that_was_interrupted_is_asked_for_anew(nl: Socket, kernel: Kernel, torn_at_the_end: bool) -> None:
    at_thing, at_end = (0, NLM_F_DUMP_INTR) if torn_at_the_end else (NLM_F_DUMP_INTR, 0)
    kernel.say(thing(1, b"torn", at_thing), done(1, flags=at_end))
    kernel.say(thing(2, b"good"), done(2))

    found = nl.dump(request("a"))

    assert [one.body for one in found] == [b"good"]
    assert len(kernel.sent) == 2


def test_a_dump_that_is_interrupted_again_and_again_is_an_error(nl: Socket, kernel: Kernel) -> None:
    for sequence in range(1, 20):
        kernel.say(thing(sequence, b"torn", NLM_F_DUMP_INTR), done(sequence))

    with pytest.raises(NetlinkError, match=r"^a: the kernel's list kept changing while it was read \(EINTR\)$"):
        nl.dump(request("a"))

    assert len(kernel.sent) == 5


@pytest.mark.parametrize("refuse", [answer, done])
def test_a_dump_is_refused_at_its_beginning_or_its_end(nl: Socket, kernel: Kernel, refuse: object) -> None:
    assert callable(refuse)
    kernel.say(refuse(1, errno.EINVAL))
    kernel.say(refuse(2, errno.EAFNOSUPPORT))

    with pytest.raises(NetlinkError, match=r"^a: .*EINVAL"):
        nl.dump(request("a"))
    assert nl.dump(request("b", frozenset({errno.EAFNOSUPPORT}))) == []


def test_what_is_left_of_an_earlier_dump_is_passed_over(nl: Socket, kernel: Kernel) -> None:
    kernel.say(thing(1, b"old "))
    with pytest.raises(NetlinkError):
        nl.dump(request("slow"))
    kernel.say(thing(1, b"old ", NLM_F_DUMP_INTR), done(1))
    kernel.say(thing(2, b"new "), done(2))

    assert [one.body for one in nl.dump(request("a"))] == [b"new "]
    assert len(kernel.sent) == 2


# --- every answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [Socket.do, Socket.get, Socket.dump])
def test_no_answer_within_the_patience_is_a_time_out_that_names_the_request(nl: Socket, ask: object) -> None:
    assert callable(ask)

    with pytest.raises(NetlinkError) as caught:
        ask(nl, request("ip link show eth0"))

    assert caught.value.errno == errno.ETIMEDOUT
    assert str(caught.value) == "ip link show eth0: no answer from the kernel within 10 s (ETIMEDOUT)"


@pytest.mark.parametrize("ask", [Socket.do, Socket.get, Socket.dump])
def test_what_others_than_the_kernel_say_is_not_believed(nl: Socket, kernel: Kernel, ask: object) -> None:
    assert callable(ask)
    kernel.say(answer(1), port=SOMEBODY)
    kernel.say(thing(1, b"forged"), done(1), port=SOMEBODY)
    kernel.say(b"junk" * 9, port=SOMEBODY)
    kernel.say(answer(1, errno.EPERM))

    with pytest.raises(NetlinkError, match="EPERM"):
        ask(nl, request("a"))


def test_what_the_socket_cannot_do_is_its_own_error(nl: Socket, kernel: Kernel) -> None:
    kernel.answers.append(errno.ENOBUFS)

    with pytest.raises(OSError) as caught:
        nl.do(request("a"))

    assert caught.value.errno == errno.ENOBUFS


def test_who_does_not_want_to_wait_is_told_that_there_is_nothing(nl: Socket) -> None:
    from cni.lean import socket

    with pytest.raises(OSError) as caught:
        nl.receive(flags=socket.MSG_DONTWAIT)

    assert not isinstance(caught.value, NetlinkError)
    assert caught.value.errno == errno.EAGAIN


def test_a_request_may_be_sent_by_one_and_its_answer_read_by_another(nl: Socket, kernel: Kernel) -> None:
    sequence = nl.reserve()

    nl.send(request("a"), sequence, NLM_F_ACK)

    ((sent,),) = kernel.sent
    assert (sent.sequence, sent.flags & NLM_F_ACK) == (sequence, NLM_F_ACK)


# --- messages that the caller frames ----------------------------------------------------------------


def test_numbers_that_are_reserved_together_follow_each_other_and_are_nobody_elses(nl: Socket, kernel: Kernel) -> None:
    first, second = nl.reserve(3), nl.reserve()
    kernel.say(answer(5))

    nl.do(request("a"))

    assert second == first + 3
    assert kernel.sent[0][0].sequence == 5


@pytest.mark.parametrize(
    "grants", [{netlink.SO_SNDBUFFORCE}, {7}, {7, netlink.SO_SNDBUFFORCE}], ids=["root", "user", "both"]
)
def test_more_than_the_buffer_holds_is_sent_by_whoever_may(nl: Socket, kernel: Kernel, grants: set[int]) -> None:
    kernel.room, kernel.grants = 20, grants  # 7: SO_SNDBUF, asm-generic/socket.h

    nl.send_framed(netlink.frame(request("a"), 1, 0) * 2, "a")

    assert len(kernel.sent[0]) == 2


def test_more_than_may_be_sent_at_once_is_an_error_that_says_so(nl: Socket, kernel: Kernel) -> None:
    kernel.room = 19

    with pytest.raises(NetlinkError, match=r"^a: 20 bytes can't be sent at once \(EMSGSIZE\)$"):
        nl.send_framed(netlink.frame(request("a"), 1, 0), "a")

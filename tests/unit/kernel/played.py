"""A kernel that says what the test has it say, and what it says it in."""

from __future__ import annotations

import errno
import os
import struct
from collections import deque

from cni.kernel import netlink
from cni.kernel.netlink import NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_MULTI, NLMSG_DONE, NLMSG_ERROR, Message

NEWLINK = 16
SOMEBODY = 4711
"""A port that isn't the kernel's."""


class Kernel:
    """The other end of a socket: takes down what is sent, and answers what it was told to."""

    def __init__(self) -> None:
        self.sent: list[list[Message]] = []
        """The messages of each datagram."""
        self.answers: deque[tuple[bytes, int] | int] = deque()
        """Datagrams with the port they come from; or error numbers of `recv`."""
        self.room = 1 << 30
        """Bytes of the largest datagram that it takes."""
        self.grants: set[int] = set()
        """Options by which it may be asked for more."""

    def say(self, *messages: bytes, port: int = 0) -> None:
        """Answers with one datagram."""
        self.answers.append((b"".join(messages), port))

    # What `Socket` calls:

    def setsockopt(self, _level: int, option: int, value: int) -> None:
        if option not in self.grants:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        self.room = value

    def send(self, datagram: bytes) -> int:
        if len(datagram) > self.room:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        self.sent.append(list(netlink.messages(datagram)))
        return len(datagram)

    def recvfrom(self, _size: int, _flags: int) -> tuple[bytes, tuple[int, int]]:
        answer = self.answers.popleft() if self.answers else errno.EAGAIN  # what SO_RCVTIMEO ends in
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        datagram, port = answer
        return datagram, (port, 0)

    def close(self) -> None:
        pass


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, SOMEBODY) + body


def answer(sequence: int, code: int = 0, hint: str = "") -> bytes:
    told = netlink.text(netlink.NLMSGERR_ATTR_MSG, hint) if hint else b""
    flags = NLM_F_CAPPED | (NLM_F_ACK_TLVS if told else 0)
    return message(NLMSG_ERROR, flags, sequence, struct.pack("=i", -code) + bytes(16) + told)


def thing(sequence: int, body: bytes, flags: int = 0) -> bytes:
    return message(NEWLINK, flags, sequence, body)


def done(sequence: int, code: int = 0, flags: int = 0) -> bytes:
    return message(NLMSG_DONE, NLM_F_MULTI | flags, sequence, struct.pack("=i", -code))

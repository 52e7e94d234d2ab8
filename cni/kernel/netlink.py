"""Netlink: how a program asks the kernel's network stack for something, and hears what became of it.

A netlink socket carries datagrams of one or more messages. A message is a header (length, type, flags,
sequence number, sender), a fixed struct that its type decides, and attributes: length, kind, value,
padded to four bytes, and nested where a value has parts of its own (netlink(7), rtnetlink(7)).

    request ──▶  header │ ifinfomsg, rtmsg, …  │ attribute │ attribute [ attribute │ attribute ]
    reply   ◀──  header │ nlmsgerr (0 = done)  │ extended ack: a sentence, the offset of the attribute
            ◀──  header │ the object asked for │ attributes …

The kernel works through a datagram before `send` returns, in order, and answers each message by itself;
a refusal carries the sequence number of the request it refuses. It does *not* stop at the first refusal.

A `Socket` belongs to the network namespace it was opened in, wherever its process goes afterwards: that is
how the rest of the tree works in a pod without being there. What the messages say is not known here: see
`link`, `ports`, `inet` and `neighbour`. pyroute2 does all of this and more, and takes as long to import as ten
pods to attach (docs/bench.md); our tests read with it what these messages did.
"""

from __future__ import annotations

import errno

from cni.lean import NamedTuple, posix, socket, struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final, Self

# linux/netlink.h
NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_REQUEST: Final = 0x1
NLM_F_MULTI: Final = 0x2
NLM_F_ACK: Final = 0x4
NLM_F_ECHO: Final = 0x8
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_CAPPED: Final = 0x100
NLM_F_ACK_TLVS: Final = 0x200
NLMSGERR_ATTR_MSG: Final = 1
SOL_NETLINK: Final = 270
NETLINK_CAP_ACK: Final = 10
NETLINK_EXT_ACK: Final = 11
NETLINK_GET_STRICT_CHK: Final = 12
# asm-generic/socket.h
SO_SNDBUFFORCE: Final = 32
SO_NETNS_COOKIE: Final = 71  # Linux 5.14
NLA_F_NESTED: Final = 0x8000
NLA_TYPE_MASK: Final = 0x3FFF

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length (unpadded), kind
_ERROR = struct.Struct("=i")  # negative error number
_LENGTH = struct.Struct("=I")
_LARGEST_DATAGRAM = 32768  # what the kernel fills at most while it dumps
_PATIENCE_S = 10
_RESERVED = 1 << 31
_DUMP_TRIES = 5

# linux/socket.h; what carries IP, by version
AF_BRIDGE: Final = 7
FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}

# The ways in which the kernel says "that is not here": for whoever wants it gone, each is a success.
ABSENT: Final = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO})
# What a kernel says of a kind of object that it doesn't know: the second of links, the first of everything in tc.
_LACKING: Final = frozenset({errno.ENOENT, errno.EOPNOTSUPP})
# What kernels without IPv6 say of anything in it.
NO_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EPFNOSUPPORT})


class Refused(OSError):
    """The kernel refused one thing that was asked of it.

    `what` is the request as a command that does the same (`ip`, `bridge`, `sysctl`, `nsenter`), so that an operator
    can replay it by hand; `hint` is the kernel's own sentence about it, or "" when there is none.
    """

    def __init__(self, code: int, what: str, hint: str = "") -> None:
        super().__init__(code, posix.strerror(code))
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        name = errno.errorcode.get(self.errno or 0, "?")
        return f"{self.what}: {self.hint or self.strerror} ({name})"


class NetlinkError(Refused):
    """… in a netlink message; `hint` is the extended ack's."""


class Request(NamedTuple):
    """One message to the kernel, without its sequence number."""

    type: int
    flags: int
    body: bytes
    what: str
    """The same request in the syntax of `ip` or `bridge`."""
    fine: frozenset[int] = frozenset()
    """Error numbers that mean: as wanted already."""
    option: str = ""
    """What a kernel may have been built without that then refuses this, as its configuration calls it."""


class Message(NamedTuple):
    """One message from the kernel."""

    type: int
    flags: int
    sequence: int
    body: bytes


# --- attributes -------------------------------------------------------------------------------------


def attribute(kind: int, value: bytes) -> bytes:
    """A length that does not count the padding, the kind, the value, the padding."""
    length = 4 + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + b"\0" * (-length % 4)


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, value.to_bytes(1, "little"))


def u32(kind: int, value: int) -> bytes:
    """Native byte order: netlink never leaves the machine. What the kernel types as __be32 goes through `attribute`."""
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string; the inverse of `as_text`, which keeps bytes that aren't UTF-8 by surrogate escapes."""
    return attribute(kind, value.encode("utf-8", "surrogateescape") + b"\0")


def mac(kind: int, value: str) -> bytes:
    """Of a MAC address as text, as in 02:00:00:00:00:01."""
    return attribute(kind, bytes.fromhex(value.replace(":", "")))


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def attributes(data: bytes, start: int = 0) -> dict[int, bytes]:
    """The attributes in `data` from `start` on, by kind without its flags. Raises ValueError when one does not fit."""
    found = {}
    end = len(data)
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > end:
            raise ValueError(f"netlink attribute {kind} of {length} bytes at {start} does not fit into {end}")
        found[kind & NLA_TYPE_MASK] = data[start + 4 : start + length]
        start += length + (-length % 4)
    return found


def fixed(layout: struct.Struct, data: bytes, start: int = 0) -> tuple[int, ...]:
    """The fields of the struct at `start`. Raises ValueError when `data` ends before it does."""
    if len(data) < start + layout.size:
        raise ValueError(f"netlink message of {len(data)} bytes, where {start + layout.size} are the least")
    return layout.unpack_from(data, start)


def as_text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "surrogateescape")


def as_int(value: bytes) -> int:
    """From an unsigned number of any width, in native byte order."""
    return int.from_bytes(value, "little" if _LITTLE else "big")


def _with_option(request: Request, code: int, hint: str) -> str:
    """The kernel's sentence, or ours, ending in what the kernel may lack."""
    if not request.option or code not in _LACKING:
        return hint
    return f"{hint or posix.strerror(code)}: does this kernel have {request.option}?"


_LITTLE = struct.pack("=H", 1) == b"\1\0"


# --- framing ----------------------------------------------------------------------------------------


def frame(request: Request, sequence: int, flags: int) -> bytes:
    return (
        _HEADER.pack(16 + len(request.body), request.type, request.flags | flags | NLM_F_REQUEST, sequence, 0)
        + request.body
    )


def messages(datagram: bytes) -> Iterator[Message]:
    """The messages of one datagram. Raises ValueError when one does not fit."""
    start, end = 0, len(datagram)
    while start + 16 <= end:
        length, kind, flags, sequence, _port = _HEADER.unpack_from(datagram, start)
        if length < 16 or start + length > end:
            raise ValueError(f"netlink message of {length} bytes at {start} does not fit into {end}")
        yield Message(kind, flags, sequence, datagram[start + 16 : start + length])
        start += length + (-length % 4)


def refusal(message: Message) -> tuple[int, str]:
    """The error number of an NLMSG_ERROR or NLMSG_DONE (0: it is done) and the kernel's sentence about it.

    Raises ValueError for a message that is too short for that.
    """
    code = -fixed(_ERROR, message.body)[0]
    if not message.flags & NLM_F_ACK_TLVS:
        return code, ""
    # Behind the error number of an NLMSG_ERROR stands the refused message: its header alone when capped, else all.
    length = 0
    if message.type == NLMSG_ERROR:
        length = 16 if message.flags & NLM_F_CAPPED else fixed(_LENGTH, message.body, 4)[0]
    told = attributes(message.body, 4 + length + (-length % 4))
    return code, as_text(told.get(NLMSGERR_ATTR_MSG, b""))


# --- the socket -------------------------------------------------------------------------------------


class Socket:
    """A netlink socket of the network namespace that the calling thread is in when it opens it.

    Not for two threads at once. Raises NetlinkError for what the kernel refuses and OSError for what the
    socket can't do.
    """

    def __init__(self, protocol: int = NETLINK_ROUTE, groups: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        try:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
            # The kernel has answered before send returns. Should an answer be lost for want of memory, we must
            # not wait for it for ever. (settimeout would cost a poll before each receive.)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _PATIENCE_S, 0))
            if groups:
                self._socket.bind((0, groups))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def netns_cookie(self) -> int:
        """A number that no other network namespace has or will have until the next boot; 0 before Linux 5.14."""
        try:
            return as_int(self._socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))
        except OSError as error:
            if error.errno == errno.ENOPROTOOPT:
                return 0
            raise

    def do(self, *requests: Request) -> None:
        """Has the kernel carry out the requests, in one datagram. Raises NetlinkError for the first that it refuses.

        The kernel carries out those behind a refused one all the same: send together only what is harmless then.
        """
        if not requests:
            return
        first = self._sequence + 1
        last = self._sequence = self._sequence + len(requests)
        # A refusal is always reported, so an acknowledgement of the last is one of all.
        self._send(
            b"".join([frame(r, first + i, NLM_F_ACK if first + i == last else 0) for i, r in enumerate(requests)])
        )
        failed: NetlinkError | None = None
        while True:
            for message in messages(self.receive(requests[-1].what)):
                if message.type != NLMSG_ERROR or not first <= message.sequence <= last:
                    continue  # an echo, or the late answer to a request that timed out
                code, hint = refusal(message)
                request = requests[message.sequence - first]
                if code and code not in request.fine and not failed:
                    failed = NetlinkError(code, request.what, _with_option(request, code, hint))
                if message.sequence == last:
                    if failed:
                        raise failed
                    return

    def get(self, request: Request) -> Message | None:
        """The one object that the request names, or None where the refusal is `fine`. Raises NetlinkError."""
        self._sequence += 1
        self._send(frame(request, self._sequence, 0))
        while True:
            for message in messages(self.receive(request.what)):
                if message.sequence != self._sequence:
                    continue
                if message.type != NLMSG_ERROR:
                    return message
                code, hint = refusal(message)
                if code in request.fine:
                    return None
                raise NetlinkError(code, request.what, hint)

    def dump(self, request: Request) -> list[Message]:
        """All objects that the request describes; asked anew while they change underneath. Raises NetlinkError.

        A dump costs what there is on the node, so it has no place on the path of a pod but where it is filtered
        down to one link.
        """
        for _ in range(_DUMP_TRIES):
            found, torn = self._dump(request)
            if not torn:
                return found
        raise NetlinkError(errno.EINTR, request.what, "the kernel's list kept changing while it was read")

    def _dump(self, request: Request) -> tuple[list[Message], bool]:
        self._sequence += 1
        self._send(frame(request, self._sequence, NLM_F_DUMP))
        found: list[Message] = []
        torn = False
        while True:
            for message in messages(self.receive(request.what)):
                if message.sequence != self._sequence:
                    continue
                torn = torn or bool(message.flags & NLM_F_DUMP_INTR)
                if message.type == NLMSG_ERROR or message.type == NLMSG_DONE:
                    code, hint = refusal(message)
                    if code and code not in request.fine:
                        raise NetlinkError(code, request.what, hint)
                    return found, torn
                found.append(message)

    def reserve(self, count: int = 1) -> int:
        """The first of as many sequence numbers, which no other method asks with, of this socket or of another.

        What the kernel tells of a request's effects goes under the number of the request, and in each namespace to
        the socket that has the asker's port there. Ours all have the same: our process's ID.
        """
        self._sequence += count
        return (self._sequence - count + 1) | _RESERVED

    def send(self, request: Request, sequence: int, flags: int = NLM_F_ACK) -> None:
        """Sends one request without reading the answer: that is for whoever reserved the sequence number."""
        self._send(frame(request, sequence, flags))

    def send_framed(self, datagram: bytes, what: str) -> None:
        """Sends messages that the caller has framed, however many. Raises NetlinkError."""
        # What lets a socket send more than its buffer holds: that of the node's root, then that of everybody else.
        ways = [socket.SO_SNDBUF, SO_SNDBUFFORCE]
        while True:
            try:
                return self._send(datagram)
            except OSError as error:
                if error.errno != errno.EMSGSIZE or not ways:
                    raise NetlinkError(
                        error.errno or 0, what, f"{len(datagram)} bytes can't be sent at once"
                    ) from error
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, ways.pop(), len(datagram))
            except OSError:
                pass  # the next one, or else the error above, tells

    def receive(self, what: str = "netlink", flags: int = 0) -> bytes:
        """One datagram of the kernel's. Raises NetlinkError ETIMEDOUT; ENOBUFS where messages were lost since nobody
        read them."""
        try:
            while True:
                datagram, (port, _groups) = self._socket.recvfrom(_LARGEST_DATAGRAM, flags)
                # Whoever has CAP_NET_ADMIN in the socket's namespace may write to it as well, and in a pod that
                # can be anybody. The kernel is port 0.
                if port == 0:
                    return datagram
        except OSError as error:
            if error.errno == errno.EAGAIN and not flags & socket.MSG_DONTWAIT:
                raise NetlinkError(
                    errno.ETIMEDOUT, what, f"no answer from the kernel within {_PATIENCE_S} s"
                ) from error
            raise

    def _send(self, datagram: bytes) -> None:
        # A datagram of bytes goes whole or not at all.
        self._socket.send(datagram)

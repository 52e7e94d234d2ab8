"""Deleting a link, answered when the kernel announces that it is gone.

The kernel acknowledges RTM_DELLINK only after a grace period of some 20 ms, which it spends waiting for
readers of structures that nobody can reach any more. The link is unlisted and silent, and its names can be
given again, within one: the announcement says so. So a helper sends the request and waits with it, and the
caller goes on at the announcement.

    caller ── fork ──▶ helper ── RTM_DELLINK ──▶ kernel
      │ ◀────────────────── announcement ───────────┤   0.7 ms: done, as far as anyone can see
      ▼ answers the runtime     helper ◀── ack ─────┘   20 ms

Since Linux 6.2 the announcement of one link comes to the requesting socket, which caller and helper share (NLM_F_ECHO);
before that, and for several links, to a socket that is bound to the group of all link news. Either way the
acknowledgement is the end: a refusal is an error, a helper that dies leaves the work to the caller, and so does a
kernel that has no process for it.
"""

from __future__ import annotations

import errno

from cni.kernel import link as links
from cni.kernel.link import RTM_DELLINK, RTMGRP_LINK, Link
from cni.kernel.netlink import (
    ABSENT,
    NLM_F_ACK,
    NLM_F_ECHO,
    NLMSG_ERROR,
    NetlinkError,
    Request,
    Socket,
    messages,
    refusal,
)
from cni.key import hash_of
from cni.lean import posix, select, signal, socket, time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from cni.attach.node import Node

_ECHO_SINCE: Final = (6, 2)
_PATIENCE_S: Final = 10.0
_HIGHEST_DESCRIPTOR: Final = 1 << 16
_READ_AT_ONCE: Final = 32
_REST_S: Final = 0.2
_GROUPS: Final = 1 << 30
"""Numbers of groups from here on are ours; people use small ones."""


def delete(node: Node, found: list[Link]) -> None:
    """Deletes links of the node; returns once they are gone for everyone. Raises NetlinkError, OSError."""
    if not found:
        return
    if len(found) == 1:
        request = links.drop(found[0].ifindex, found[0].name)
    else:
        # As a group they share one grace period. That they are one lasts no longer than this; should another's deletion
        # have hit upon the same number, what is deleted with ours is being deleted anyway.
        group = _GROUPS | hash_of(found[0].name) & (_GROUPS - 1)
        node.nl.do(*[links.set_group(link.ifindex, link.name, group) for link in found])
        request = links.drop_group(group)
    echo = len(found) == 1 and _kernel_version() >= _ECHO_SINCE
    sequence = node.nl.reserve()
    monitor = None
    reader = writer = -1
    try:
        if not echo:
            monitor = Socket(groups=RTMGRP_LINK)
        reader, writer = posix.pipe2(posix.O_CLOEXEC)
        listener = monitor or node.nl
        poll = select.poll()
        for fd in (node.nl.fileno(), listener.fileno(), reader):
            poll.register(fd, select.POLLIN)
        flags = NLM_F_ACK | (NLM_F_ECHO if echo else 0)
        if not _started(node, lambda: _send(node, request, sequence, flags, writer)):
            node.nl.do(request)  # then we wait ourselves
            return
        posix.close(writer)
        writer = -1
        if not _announced(poll, node.nl, listener, sequence, request, {link.ifindex for link in found}, reader):
            node.nl.do(request)
    finally:
        for fd in (reader, writer):
            if fd >= 0:
                posix.close(fd)
        if monitor:
            monitor.close()


def _started(node: Node, work: Callable[[], None]) -> bool:
    """Has a helper do this and end. False where there is no process to be had (EAGAIN, ENOMEM, a seccomp filter's
    EPERM)."""
    # No signal in between, or an interrupt would make a second caller of the helper; which goes on without them.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        helper = posix.fork()
        if not helper:
            try:
                work()
            finally:
                posix._exit(0)
        node.helpers.append(helper)
    except OSError:
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return True


def _send(node: Node, request: Request, sequence: int, flags: int, pipe: int) -> None:
    """The helper's part: sends the request, which takes as long as the kernel takes."""
    _keep(node.nl.fileno(), pipe, *node.lingering())
    node.nl.send(request, sequence, flags)
    posix.close(pipe)
    _rest(node)


def _keep(*descriptors: int) -> None:
    """A helper's own session, and no other descriptors: what ends the caller's process group shall not end this half
    way. No stdio, since a runtime reads our stdout until the last holder closes it; no locks, since they go with the
    descriptor."""
    posix.setsid()
    low = 0
    for one in sorted(descriptors):
        posix.closerange(low, one)
        low = one + 1
    posix.closerange(low, _HIGHEST_DESCRIPTOR)


def linger(node: Node) -> None:
    """Has a helper hold the socket to the packet filter a little longer than we do, unless one does already.

    Its last holder waits, when it closes it, until the kernel has freed what elements anyone deleted: a grace period.
    """
    if not node.helpers and node.lingering():
        _started(node, lambda: _hold(node))  # without one, we wait


def _hold(node: Node) -> None:
    _keep(*node.lingering())
    _rest(node)


def _rest(node: Node) -> None:
    """While it waits so, the kernel lets nobody else change the packet filter (nft_rcv_nl_event, as of Linux 6.18). A
    while after the deletion there is nothing to wait for, and of twenty pods that go at once none waits for another."""
    if node.exiting and node.lingering():
        time.sleep(_REST_S)


def _announced(
    poll: select.poll, nl: Socket, listener: Socket, sequence: int, request: Request, pending: set[int], pipe: int
) -> bool:
    """Waits for the announcement of all `pending` indexes. False when the helper ended and one is still there: then
    nobody deleted it.

    Raises NetlinkError when the kernel refused.
    """
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        ended = pipe in [fd for fd, _ in poll.poll(1000)]
        # What the helper caused came before its end, so it is read first.
        for source in {nl, listener}:
            if _says_so(source, sequence, request, pending):
                return True
        if ended:
            break
    return not _there(pending)


def _says_so(source: Socket, sequence: int, request: Request, pending: set[int]) -> bool:
    """Whether what has come to a socket says that the links are gone; those that are go from `pending`. Raises
    NetlinkError when the kernel refused.

    Not all of it is read at once: while links come and go all over the node there is always more, and the other
    socket, which has the acknowledgement, must have its turn.
    """
    for _ in range(_READ_AT_ONCE):
        try:
            datagram = source.receive(flags=socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return False
            if error.errno != errno.ENOBUFS:
                raise
            # More news than the socket holds: the one we wait for may be among the lost.
            if not _there(pending):
                return True
            continue
        for message in messages(datagram):
            if message.type == NLMSG_ERROR and message.sequence == sequence:
                code, hint = refusal(message)
                if code and code not in ABSENT:
                    raise NetlinkError(code, request.what, hint)
                return True
            # A port that leaves its bridge is announced first, in the same words but for the family.
            if message.type == RTM_DELLINK and message.body[0] == socket.AF_UNSPEC:
                pending.discard(Link.parse(message).ifindex)
                if not pending:
                    return True
    return False


def _there(pending: set[int]) -> bool:
    """Whether one of the links still exists, asked on a socket of our own: the shared one has answers under way."""
    with Socket() as own:
        return any(links.find_index(own, index) is not None for index in pending)


def _kernel_version() -> tuple[int, int]:
    return version_of(posix.uname().release)


def version_of(release: str) -> tuple[int, int]:
    """The first two numbers of what uname(2) says, as in "6.1.0-13-amd64" or "6.2-rc1"; (0, 0) for anything else."""
    numbers = []
    for part in release.split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers.append(int(digits or 0))
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)

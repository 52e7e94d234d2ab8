"""conntrack: what the kernel remembers of connections, and has to forget when their pod comes or goes.

NAT decides at a connection's first packet, and the kernel's entry repeats that decision for all that follow. So
who sends UDP from one port goes on reaching what the first packet reached: the node itself, when no pod served the
port yet, or the address of a pod that is gone.

The table is the kernel's, one for all namespaces, and whatever is asked of it goes through all of its buckets,
usually 262144. So nothing is asked where the namespace has no entries. A deletion that the kernel filters (Linux
6.11) takes 0.2 ms and 0.16 µs for each entry there is; the list of what passes a filter (Linux 5.8), 10 ms, since
it locks each bucket. Hence lists are for older kernels and for what no filter can say, and asked for where the kernel's
text of all connections, if that isn't too long, mentions what is meant. What no filter can say is every address of
IPv6, too: the kernel takes those that differ from the one asked for (as of Linux 6.18), so it is asked for none.
(linux/netfilter/nfnetlink_conntrack.h)
"""

from __future__ import annotations

import errno

from cni.kernel import sysctl
from cni.kernel.netlink import ABSENT, FAMILY, NLA_F_NESTED, Refused, Request, attribute, attributes, nested, u8, u32
from cni.lean import NamedTuple, posix, struct
from ipam.address import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

    from cni.kernel.netlink import Socket

# linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
IPCTNL_MSG_CT_GET: Final = 1 << 8 | 1
IPCTNL_MSG_CT_DELETE: Final = 1 << 8 | 2
CTA_TUPLE_ORIG: Final = 1
CTA_TUPLE_REPLY: Final = 2
CTA_ID: Final = 12
CTA_ZONE: Final = 18
CTA_FILTER: Final = 25
CTA_TUPLE_IP: Final = 1
CTA_TUPLE_PROTO: Final = 2
CTA_PROTO_NUM: Final = 1
CTA_PROTO_DST_PORT: Final = 3
CTA_FILTER_ORIG_FLAGS: Final = 1
CTA_FILTER_REPLY_FLAGS: Final = 2
# What a filter compares of a tuple (net/netfilter/nf_internals.h).
_BY_SOURCE: Final = 1 << 0
_BY_PROTOCOL: Final = 1 << 3
_BY_DESTINATION_PORT: Final = 1 << 5
# Kinds of the attributes with a tuple's source and destination, by version.
_SOURCE: Final = {4: 1, 6: 3}
_DESTINATION: Final = {4: 2, 6: 4}

_UDP: Final = 17

_NAME: Final = ((CTA_TUPLE_ORIG, NLA_F_NESTED), (CTA_ZONE, 0), (CTA_ID, 0))
"""What names one connection, so that one which began in its place meanwhile isn't meant."""
# Refusals by a kernel that doesn't know the request: what it does not filter by, or anything about connections.
_NOT_UNDERSTOOD: Final = (errno.EINVAL, errno.EOPNOTSUPP)
_NO_EAR: Final = (
    "it can't be asked about connections: CONFIG_NF_CT_NETLINK, the module nf_conntrack_netlink, is missing"
)
_BATCH: Final = 64
# What costs as much as what.
_ENTRIES_PER_LIST: Final = 400
_DELETIONS_PER_LIST: Final = 40
_LINES_PER_LIST: Final = 2000


class Flow(NamedTuple):
    """Connections to a port of the node that a pod serves."""

    protocol: int
    """IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP."""
    port: int
    """Of the node: the destination before translation."""
    address: Address
    """Of the pod: the destination after translation."""
    host: Address | None = None
    """The one address of the node at which the pod serves it; None for all of the family."""


def forget_strays(nl: Socket, routes: Socket, flows: Sequence[Flow]) -> None:
    """Has the kernel forget what would keep senders of UDP from the pod of `flows`, when it comes.

    That is, entries for the port at an address of the node which lead elsewhere: those for the same port of another
    machine stay. To be called when the ports are mapped: a packet that came in between would have the old decision
    remembered anew. TCP and SCTP need none of this: a connection that was refused or has ended is remembered as
    such, and the next begins anew.

    `nl` speaks NETLINK_NETFILTER, `routes` NETLINK_ROUTE. Raises Refused; ENOPROTOOPT, with the option that it lacks,
    where there are entries and the kernel can't be asked about them.
    """
    flows = [flow for flow in flows if flow.protocol == _UDP]
    local: dict[Address, bool] = {}

    def stray(port: int, _source: Address, destination: Address, reached: Address) -> bool:
        for flow in flows:
            # A flow of the other family has no address in common with the entry.
            meant = flow.host == destination or (flow.host is None and flow.address.version == destination.version)
            if flow.port == port and meant and flow.address != reached:
                if destination not in local:
                    from cni.kernel.inet import is_local

                    local[destination] = is_local(routes, destination)
                return local[destination]
        return False

    count = entries() if flows else 0
    if not count or not _may_mention(*{f"dport={flow.port} " for flow in flows}):
        return
    for version in {flow.address.version for flow in flows}:
        ports = {flow.port for flow in flows if flow.address.version == version}
        # One list of all of UDP, where that is cheaper than one of each port.
        for port in ports if len(ports) * _ENTRIES_PER_LIST <= count else {0 if len(ports) > 1 else min(ports)}:
            _delete_listed(nl, _which(version, _UDP, port), stray)


def forget_served(nl: Socket, flows: Sequence[Flow]) -> None:
    """Has the kernel forget the connections that reached the pod of `flows` by its ports of the node, when it goes.

    Raises Refused. A kernel that can't be asked keeps them, and nothing is raised: they end by themselves, UDP's
    after two minutes at most, and the pod is not to stay for that.
    """
    for address in {flow.address for flow in flows}:
        served = {flow[:2] for flow in flows if flow.address == address}
        ports = {port for _, port in served}

        def meant(port: int, _source: Address, _destination: Address, reached: Address) -> bool:
            # Another protocol's connection to the same port may be among them, which ends with the pod as well.
            return reached == address and port in ports  # noqa: B023  # called before the loop goes on

        which = [_which(address.version, protocol, port, replied_by=address) for protocol, port in served]
        _delete(nl, which, meant, address)


def forget_address(nl: Socket, address: Address) -> None:
    """Has the kernel forget all connections from and to an address that nobody has any more. As `forget_served`."""

    def meant(_port: int, source: Address, _destination: Address, reached: Address) -> bool:
        return address in (source, reached)

    version = address.version
    _delete(nl, [_which(version, begun_by=address), _which(version, replied_by=address)], meant, address)


def entries() -> int:
    """How many connections the kernel remembers in the calling thread's namespace. 0 where it tracks none."""
    return int(sysctl.read("net/netfilter/nf_conntrack_count") or 0)


# --- messages ---------------------------------------------------------------------------------------


def _which(
    version: int,
    protocol: int = 0,
    port: int = 0,
    begun_by: Address | None = None,
    replied_by: Address | None = None,
) -> tuple[bytes, str]:
    """Connections of which all holds that is said, addresses of IPv4 only: as a message's body, and in the words of
    conntrack(8)."""
    words = f"-f ipv{version}"
    body = struct.pack("=BBH", FAMILY[version], 0, 0)
    original, reply = b"", b""
    compared, compared_of_reply = 0, 0
    if begun_by and version == 4:
        original += nested(CTA_TUPLE_IP, attribute(_SOURCE[version], begun_by.packed))
        compared |= _BY_SOURCE
        words += f" --orig-src {begun_by}"
    if protocol:
        number = u8(CTA_PROTO_NUM, protocol)
        compared |= _BY_PROTOCOL
        words += f" -p {protocol}"
        if port:
            number += attribute(CTA_PROTO_DST_PORT, port.to_bytes(2, "big"))
            compared |= _BY_DESTINATION_PORT
            words += f" --orig-port-dst {port}"
        original += nested(CTA_TUPLE_PROTO, number)
    if replied_by and version == 4:
        reply += nested(CTA_TUPLE_IP, attribute(_SOURCE[version], replied_by.packed))
        compared_of_reply |= _BY_SOURCE
        words += f" --reply-src {replied_by}"
    body += nested(CTA_TUPLE_ORIG, original) if original else b""
    body += nested(CTA_TUPLE_REPLY, reply) if reply else b""
    filters = u32(CTA_FILTER_ORIG_FLAGS, compared) + u32(CTA_FILTER_REPLY_FLAGS, compared_of_reply)
    return body + nested(CTA_FILTER, filters), words


def _delete(
    nl: Socket,
    which: Sequence[tuple[bytes, str]],
    meant: Callable[[int, Address, Address, Address], bool],
    address: Address,
) -> None:
    """Deletes what is meant, all of which has to do with this address: in one go where the kernel can tell it."""
    if not entries():
        return
    if address.version == 4 and len(which) <= _DELETIONS_PER_LIST:
        try:
            nl.do(*[Request(IPCTNL_MSG_CT_DELETE, 0, body, f"conntrack -D {words}") for body, words in which])
        except Refused as error:
            # So says a kernel before 6.11, too, of a deletion that is neither of one connection nor of all.
            if error.errno not in _NOT_UNDERSTOOD:
                raise
        else:
            return
    if not _may_mention(f"={_in_full(address)} "):
        return
    try:
        _delete_listed(nl, which[0] if len(which) == 1 else _which(address.version), meant, address.packed)
    except Refused as error:
        if error.errno != errno.ENOPROTOOPT:
            raise


def _may_mention(*texts: str) -> bool:
    """Whether any of these may be in the kernel's own text of all connections.

    It writes that, where it is built to, without a lock: in 0.4 ms and 3 µs for each, which is less than a list takes
    while they are few.
    """
    if entries() > _LINES_PER_LIST:
        return True
    try:
        # Of the calling thread's namespace; /proc/net is of the process's first.
        fd = posix.open("/proc/thread-self/net/nf_conntrack", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return True
    try:
        # A read ends with a line.
        while part := posix.read(fd, 1 << 20):
            for text in texts:
                if text.encode() in part:
                    return True
        return False
    finally:
        posix.close(fd)


def _in_full(address: Address) -> str:
    """An address as the kernel writes it there, IPv6 without anything left out."""
    if address.version == 4:
        return str(address)
    digits = address.packed.hex()
    return ":".join([digits[at : at + 4] for at in range(0, 32, 4)])


def _delete_listed(
    nl: Socket,
    which: tuple[bytes, str],
    meant: Callable[[int, Address, Address, Address], bool],
    containing: bytes = b"",
) -> None:
    """Deletes, one by one, those that are meant.

    `meant` is told, of a connection: port, source and destination of the packet that began it, and the source of the
    replies. What doesn't contain these bytes isn't looked at: that takes longer than all else.
    """
    body, words = which
    version = 4 if body[0] == FAMILY[4] else 6
    try:
        found = nl.dump(Request(IPCTNL_MSG_CT_GET, 0, body, f"conntrack -L {words}"))
    except Refused as error:
        if error.errno not in _NOT_UNDERSTOOD:
            raise
        raise Refused(errno.ENOPROTOOPT, error.what, _NO_EAR) from error
    doomed = []
    for message in found:
        if containing not in message.body:
            continue
        told = attributes(message.body, 4)
        original, reply = attributes(told[CTA_TUPLE_ORIG]), attributes(told[CTA_TUPLE_REPLY])
        port = attributes(original[CTA_TUPLE_PROTO]).get(CTA_PROTO_DST_PORT, b"")  # what has none is none
        sent, answered = attributes(original[CTA_TUPLE_IP]), attributes(reply[CTA_TUPLE_IP])
        source, destination = (
            Address.from_packed(sent[_SOURCE[version]]),
            Address.from_packed(sent[_DESTINATION[version]]),
        )
        reached = Address.from_packed(answered[_SOURCE[version]])
        if meant(int.from_bytes(port, "big"), source, destination, reached):
            name = b"".join([attribute(kind | flag, told[kind]) for kind, flag in _NAME if kind in told])
            what = f"conntrack -D -f ipv{version} --orig-src {source} --orig-dst {destination} --reply-src {reached}"
            # Gone already is fine, and so is that another has come in its place.
            doomed.append(Request(IPCTNL_MSG_CT_DELETE, 0, body[:4] + name, what, fine=ABSENT))
    for start in range(0, len(doomed), _BATCH):
        nl.do(*doomed[start : start + _BATCH])

"""conntrack: what the kernel remembers of connections, and has to forget when their pod comes or goes.

NAT decides at a connection's first packet, and the kernel's entry repeats that decision for all that follow. So
who sends UDP from one port goes on reaching what the first packet reached: the node itself, when no pod served the
port yet, or the address of a pod that is gone.

The table is the kernel's, one for all namespaces, and whatever is asked of it goes through all of its buckets,
usually 262144. So nothing is asked where the namespace has no entries. A deletion that the kernel filters (Linux
6.11) takes 0.2 ms and 0.16 µs for each entry there is; the list of what passes a filter (Linux 5.8), 10 ms, since
it locks each bucket. Hence the list is for older kernels, and for the one question that no filter can put.
(linux/netfilter/nfnetlink_conntrack.h)
"""

from __future__ import annotations

import errno

from cni.kernel import sysctl
from cni.kernel.inet import is_local
from cni.kernel.netlink import ABSENT, FAMILY, NLA_F_NESTED, Refused, Request, attribute, attributes, nested, u8, u32
from cni.lean import NamedTuple, struct
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
_ENTRIES_PER_QUESTION: Final = 400


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

    def stray(port: int, destination: Address, reached: Address) -> bool:
        for flow in flows:
            # A flow of the other family has no address in common with the entry.
            meant = flow.host == destination or (flow.host is None and flow.address.version == destination.version)
            if flow.port == port and meant and flow.address != reached:
                if destination not in local:
                    local[destination] = is_local(routes, destination)
                return local[destination]
        return False

    count = entries() if flows else 0
    for version in {flow.address.version for flow in flows} if count else ():
        ports = {flow.port for flow in flows if flow.address.version == version}
        # A question costs as much as reading the answer's entries by the hundred: those for all ports may be fewer.
        for port in ports if len(ports) * _ENTRIES_PER_QUESTION <= count else {0 if len(ports) > 1 else min(ports)}:
            _delete_listed(nl, _which(version, _UDP, port), stray)


def forget_served(nl: Socket, flows: Sequence[Flow]) -> None:
    """Has the kernel forget the connections that reached the pod of `flows` by its ports of the node, when it goes.

    Raises Refused. A kernel that can't be asked keeps them, and nothing is raised: they end by themselves, UDP's
    after two minutes at most, and the pod is not to stay for that.
    """
    for protocol, port, address in dict.fromkeys([flow[:3] for flow in flows]):
        _delete(nl, _which(address.version, protocol, port, replied_by=address))


def forget_address(nl: Socket, address: Address) -> None:
    """Has the kernel forget all connections from and to an address that nobody has any more. As `forget_served`."""
    _delete(nl, _which(address.version, begun_by=address))
    _delete(nl, _which(address.version, replied_by=address))


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
    """Connections of which all holds that is said: as a message's body, and in the words of conntrack(8)."""
    words = f"-f ipv{version}"
    parts = struct.pack("=BBH", FAMILY[version], 0, 0)
    original, reply = b"", b""
    compared, compared_of_reply = 0, 0
    if begun_by:
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
    if replied_by:
        reply += nested(CTA_TUPLE_IP, attribute(_SOURCE[version], replied_by.packed))
        compared_of_reply |= _BY_SOURCE
        words += f" --reply-src {replied_by}"
    parts += nested(CTA_TUPLE_ORIG, original) if original else b""
    parts += nested(CTA_TUPLE_REPLY, reply) if reply else b""
    filters = u32(CTA_FILTER_ORIG_FLAGS, compared) + u32(CTA_FILTER_REPLY_FLAGS, compared_of_reply)
    return parts + nested(CTA_FILTER, filters), words


def _delete(nl: Socket, which: tuple[bytes, str]) -> None:
    if not entries():
        return
    body, words = which
    try:
        nl.do(Request(IPCTNL_MSG_CT_DELETE, 0, body, f"conntrack -D {words}"))
        return
    except Refused as error:
        # So says a kernel before 6.11, too, of a deletion that isn't of one connection or of all.
        if error.errno not in _NOT_UNDERSTOOD:
            raise
    try:
        _delete_listed(nl, which)
    except Refused as error:
        if error.errno != errno.ENOPROTOOPT:
            raise


def _delete_listed(
    nl: Socket, which: tuple[bytes, str], meant: Callable[[int, Address, Address], bool] | None = None
) -> None:
    """Deletes them one by one; where `meant` is given, those that it is true of.

    It is told, of a connection, port and destination of the first packet, and the source of the replies.
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
        told = attributes(message.body, 4)
        if meant:
            original, reply = attributes(told[CTA_TUPLE_ORIG]), attributes(told[CTA_TUPLE_REPLY])
            port = int.from_bytes(attributes(original[CTA_TUPLE_PROTO])[CTA_PROTO_DST_PORT], "big")
            destination = Address.from_packed(attributes(original[CTA_TUPLE_IP])[_DESTINATION[version]])
            reached = Address.from_packed(attributes(reply[CTA_TUPLE_IP])[_SOURCE[version]])
            if not meant(port, destination, reached):
                continue
        name = b"".join([attribute(kind | flag, told[kind]) for kind, flag in _NAME if kind in told])
        # Gone already is fine, and so is that another has come in its place.
        doomed.append(Request(IPCTNL_MSG_CT_DELETE, 0, body[:4] + name, f"conntrack -D {words}", fine=ABSENT))
    for start in range(0, len(doomed), _BATCH):
        nl.do(*doomed[start : start + _BATCH])

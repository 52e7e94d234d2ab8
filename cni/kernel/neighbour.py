"""Who is where, told beforehand: neighbours of a link, and a bridge's forwarding entries (linux/neighbour.h)."""

from __future__ import annotations

import errno

from cni.kernel.netlink import (
    ABSENT,
    AF_BRIDGE,
    FAMILY,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    NO_FAMILY,
    Request,
    attribute,
    attributes,
    fixed,
    mac,
)
from cni.lean import NamedTuple, struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from cni.kernel.netlink import Socket
    from ipam.address import Address

# linux/rtnetlink.h
RTM_NEWNEIGH: Final = 28
RTM_DELNEIGH: Final = 29
RTM_GETNEIGH: Final = 30
# linux/neighbour.h
NDA_DST: Final = 1
NDA_LLADDR: Final = 2
NUD_STALE: Final = 0x04
NUD_NOARP: Final = 0x40
NTF_MASTER: Final = 0x04

_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type


class Neighbour(NamedTuple):
    """That an IP address on a link lives at a MAC address.

    Known beforehand, so the first packet needs no question. Stale rather than permanent: should the pod's MAC change
    behind our back (a chained `tuning` does that), the kernel asks anew, five seconds after it has used the entry,
    instead of sending to nobody for ever. And stale rather than reachable: all namespaces of a machine share one table,
    which is full at 1,024 entries unless told otherwise, and what is reachable can't be thrown out of it for half a
    minute. A few hundred pods at once would leave no room for anybody's neighbours.
    """

    link: str
    address: Address
    mac: str

    def _body(self, index: int) -> bytes:
        return _NDMSG.pack(FAMILY[self.address.version], index, NUD_STALE, 0, 0) + attribute(
            NDA_DST, self.address.packed
        )

    def make(self, index: int) -> Request:
        """Replaces: an earlier holder of the address may have left its entry behind, and the address is ours now."""
        body = self._body(index) + mac(NDA_LLADDR, self.mac)
        what = f"ip neighbour replace {self.address} lladdr {self.mac} dev {self.link} nud stale"
        # ENOBUFS: the table is full. We can do without, and there will be room when somebody has to ask.
        return Request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, what, fine=frozenset([errno.ENOBUFS]))

    def drop(self, index: int) -> Request:
        return Request(
            RTM_DELNEIGH,
            0,
            self._body(index),
            f"ip neighbour del {self.address} dev {self.link}",
            fine=ABSENT | NO_FAMILY,
        )

    def find(self, nl: Socket, index: int) -> bool:
        """Whether the kernel has an entry of the address with this MAC (asked for by name, not dumped; Linux 5.0)."""
        body = _NDMSG.pack(FAMILY[self.address.version], index, 0, 0, 0) + attribute(NDA_DST, self.address.packed)
        message = nl.get(
            Request(RTM_GETNEIGH, 0, body, f"ip neighbour get {self.address} dev {self.link}", fine=ABSENT | NO_FAMILY)
        )
        return bool(message and attributes(message.body, _NDMSG.size).get(NDA_LLADDR, b"").hex(":") == self.mac)


class FdbEntry(NamedTuple):
    """That a bridge reaches a MAC address through a port.

    `static`: it does not age. (`permanent` would mean the bridge's own address: every frame to the pod would end
    at the node.)
    """

    link: str
    """The port."""
    mac: str

    def _body(self, index: int, state: int) -> bytes:
        lladdr = mac(NDA_LLADDR, self.mac)
        return _NDMSG.pack(AF_BRIDGE, index, state, NTF_MASTER, 0) + lladdr

    def make(self, index: int) -> Request:
        what = f"bridge fdb replace {self.mac} dev {self.link} master static"
        return Request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, self._body(index, NUD_NOARP), what)

    def drop(self, index: int) -> Request:
        what = f"bridge fdb del {self.mac} dev {self.link} master"
        return Request(RTM_DELNEIGH, 0, self._body(index, NUD_NOARP), what, fine=ABSENT | {errno.EOPNOTSUPP})

    def find(self, nl: Socket, index: int) -> bool:
        # EINVAL is how the kernel says that the link is no port, EOPNOTSUPP (in `drop`) how it says it there.
        body = self._body(index, 0)
        message = nl.get(
            Request(
                RTM_GETNEIGH, 0, body, f"bridge fdb get {self.mac} dev {self.link} master", fine=ABSENT | {errno.EINVAL}
            )
        )
        if not message:
            return False
        _family, port, state, _flags, _type = fixed(_NDMSG, message.body)
        return bool(port == index and state & NUD_NOARP)

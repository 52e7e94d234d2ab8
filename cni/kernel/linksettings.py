"""What a link was made with and may be changed while it is in use: its MAC, MTU, queue, and whom it listens to.

Unlike what hangs on a link, these have no "gone": whoever changes one must know how it was, to put it back.
"""

from __future__ import annotations

import errno

from cni.kernel import link as links
from cni.kernel.link import (
    IFF_ALLMULTI,
    IFF_PROMISC,
    IFLA_ADDRESS,
    IFLA_MTU,
    IFLA_TXQLEN,
    RTM_SETLINK,
    ifinfomsg,
)
from cni.kernel.netlink import ABSENT, NetlinkError, Request, mac, u32
from cni.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from cni.kernel.netlink import Socket


class LinkSettings(NamedTuple):
    """Settings of one link; what is "" or None isn't touched, nor looked at."""

    link: str
    mac: str = ""
    mtu: int | None = None
    promisc: bool | None = None
    allmulti: bool | None = None
    txqlen: int | None = None

    def make(self, index: int) -> Request:
        """All of them in one message. The kernel does them one by one, and leaves those before a refused one done.

        The link stays up, and so keeps its addresses and routes: a veth takes another MAC while it is in use. Raises,
        when sent, EBUSY for one that doesn't.
        """
        flags = change = 0
        attributes, words = b"", ""
        if self.mac:
            attributes += mac(IFLA_ADDRESS, self.mac)
            words += f" address {self.mac}"
        if self.mtu is not None:
            attributes += u32(IFLA_MTU, self.mtu)
            words += f" mtu {self.mtu}"
        if self.promisc is not None:
            flags |= IFF_PROMISC if self.promisc else 0
            change |= IFF_PROMISC
            words += f" promisc {'on' if self.promisc else 'off'}"
        if self.allmulti is not None:
            flags |= IFF_ALLMULTI if self.allmulti else 0
            change |= IFF_ALLMULTI
            words += f" allmulticast {'on' if self.allmulti else 'off'}"
        if self.txqlen is not None:
            attributes += u32(IFLA_TXQLEN, self.txqlen)
            words += f" txqueuelen {self.txqlen}"
        return Request(RTM_SETLINK, 0, ifinfomsg(index, flags, change) + attributes, f"ip link set {self.link}{words}")

    def find(self, nl: Socket, index: int) -> bool:
        """Whether the link is so. Who else has it listen promiscuously doesn't count (`Link.promisc`)."""
        found = links.find_index(nl, index)
        return bool(found and self._like(found) == self)

    def now(self, nl: Socket, index: int) -> Self:
        """The same settings as they are: made, they put back what `make` changes. Raises NetlinkError ENODEV."""
        found = links.find_index(nl, index)
        if not found:
            raise NetlinkError(errno.ENODEV, f"ip link show {self.link}")
        return self._like(found)

    def _like(self, found: links.Link) -> Self:
        return self._replace(
            mac=self.mac and found.mac,
            mtu=None if self.mtu is None else found.mtu,
            promisc=None if self.promisc is None else found.promisc,
            allmulti=None if self.allmulti is None else found.allmulti,
            txqlen=None if self.txqlen is None else found.txqlen,
        )


class PortMtu(NamedTuple):
    """The MTU of the node's end of a pod's veth, where the pod's end is given another.

    A veth drops without a word what is larger than the end it comes out of. So a node that thinks its end the larger
    loses packets to the pod, where it would otherwise cut them up or tell their sender.
    """

    link: str
    mtu: int
    before: int

    def make(self, index: int) -> Request:
        return links.set_mtu(index, self.link, self.mtu)

    def drop(self, index: int) -> Request:
        """Back to what it was. A link that is gone is fine."""
        return links.set_mtu(index, self.link, self.before)._replace(fine=ABSENT)

    def find(self, nl: Socket, index: int) -> bool:
        found = links.find_index(nl, index)
        return bool(found and found.mtu == self.mtu)

"""Links that we make, and what it means for one to be a port of a bridge.

A pod hangs on a *veth*: two devices, one in the pod and one on the node, and what goes into one comes out
of the other. The node's ends meet in a *bridge*, a switch whose ports they are. One message makes both
ends, the pod's end already in the pod's namespace, named and addressed; so nothing has to be renamed or
moved, udev finds no device without a permanent address to meddle with, and there is no half-made pair.

An *ifb* stands beside the way in where that is shaped.

Each object has `make`, `drop` and `find` side by side (rtnetlink(7), linux/if_link.h).
"""

from __future__ import annotations

import errno

from cni.kernel import link as links
from cni.kernel.link import (
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_BRPORT_BCAST_FLOOD,
    IFLA_BRPORT_ISOLATED,
    IFLA_BRPORT_MCAST_FLOOD,
    IFLA_BRPORT_MODE,
    IFLA_BRPORT_UNICAST_FLOOD,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    IFLA_PROTINFO,
    RTM_NEWLINK,
    RTM_SETLINK,
    VETH_INFO_PEER,
    ifinfomsg,
)
from cni.kernel.netlink import ABSENT, AF_BRIDGE, NLM_F_CREATE, NLM_F_EXCL, Request, mac, nested, text, u8, u32
from cni.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.kernel.link import Link
    from cni.kernel.netlink import Socket

_IFB_OPTION = "CONFIG_IFB"


class Veth(NamedTuple):
    """The pair that joins a pod to the node. Both MACs are chosen by us, so that nothing has to be read back."""

    name: str
    """Of the node's end: the attachment's tag."""
    mac: str
    peer: str
    """Of the pod's end: CNI_IFNAME."""
    peer_mac: str
    mtu: int
    """Of both ends; 0 leaves it to the kernel."""
    master: str = ""
    """The bridge whose port the node's end becomes."""

    def make(self, peer_netns: int, master_index: int) -> Request:
        """Makes the pair, the pod's end in the namespace open as `peer_netns`, the node's end up.

        The pod's end can't be created up: while it is registered its peer does not exist yet (ENOTCONN).
        Without EEXIST tolerance: a name that is taken belongs to somebody else.
        """
        both = u32(IFLA_MTU, self.mtu) if self.mtu else b""
        peer = (
            ifinfomsg()
            + text(IFLA_IFNAME, self.peer)
            + mac(IFLA_ADDRESS, self.peer_mac)
            + u32(IFLA_NET_NS_FD, peer_netns)
            + both
        )
        body = (
            ifinfomsg(flags=IFF_UP, change=IFF_UP)
            + text(IFLA_IFNAME, self.name)
            + mac(IFLA_ADDRESS, self.mac)
            + both
            + (u32(IFLA_MASTER, master_index) if master_index else b"")
            + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "veth"), nested(IFLA_INFO_DATA, nested(VETH_INFO_PEER, peer)))
        )
        what = f"ip link add {self.name} address {self.mac}{f' mtu {self.mtu}' if self.mtu else ''} up"
        if self.master:
            what += f" master {self.master}"
        what += f" type veth peer {self.peer} address {self.peer_mac}{f' mtu {self.mtu}' if self.mtu else ''} netns POD"
        return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, what)

    def drop(self, index: int) -> Request:
        return links.drop(index, self.name)

    def find(self, nl: Socket) -> Link | None:
        return links.find(nl, self.name)


class Bridge(NamedTuple):
    """A switch. It keeps the MAC that it is made with: one that the kernel chose would follow its ports'."""

    name: str
    mac: str
    mtu: int
    """0 leaves it to the kernel: the least of its ports'."""
    promisc: bool = False
    """Whether the node is to see every frame on it."""

    def make(self) -> Request:
        """Makes the bridge, down: what must hold before its first packet is set before `up`."""
        body, what = _alone("bridge", self.name, self.mac, self.mtu)
        # Fifty first pods of a node come at once: one of them makes the bridge.
        return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, what, fine=frozenset({errno.EEXIST}))

    def drop(self, index: int) -> Request:
        return links.drop(index, self.name)

    def find(self, nl: Socket) -> Link | None:
        return links.find(nl, self.name)


class Ifb(NamedTuple):
    """A link that sends back to be received what is redirected to it, so that what comes in can be queued: see `tc`.

    Its transmit queue stays as long as the kernel makes it, 32 packets. What waits for its turn waits in its qdisc;
    the queue behind that holds what is on its way back, and with a length of 0 would stop and start for each packet.
    """

    name: str
    """The attachment's ifb tag."""
    mtu: int
    """0 leaves it to the kernel."""
    mac: str

    @staticmethod
    def ask() -> Request:
        """One with a MAC that no link may have: no kernel makes it, and one without ifbs says so (see `tc`)."""
        body, what = _alone("ifb", "pw", "01:00:00:00:00:00", 0)
        fine = frozenset({errno.EADDRNOTAVAIL})
        return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, what, fine, _IFB_OPTION)

    def make(self) -> Request:
        """Makes it, down. Without EEXIST tolerance: a name that is taken belongs to somebody else."""
        body, what = _alone("ifb", self.name, self.mac, self.mtu)
        return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, what, option=_IFB_OPTION)

    def drop(self, index: int) -> Request:
        return links.drop(index, self.name)

    def find(self, nl: Socket) -> Link | None:
        return links.find(nl, self.name)


def _alone(kind: str, name: str, address: str, mtu: int) -> tuple[bytes, str]:
    """A new link that has no other end: as a message, and in the words of `ip`."""
    body = (
        ifinfomsg()
        + text(IFLA_IFNAME, name)
        + mac(IFLA_ADDRESS, address)
        + (u32(IFLA_MTU, mtu) if mtu else b"")
        + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind))
    )
    return body, f"ip link add {name} address {address}{f' mtu {mtu}' if mtu else ''} type {kind}"


class LinkUp(NamedTuple):
    """That a link is up."""

    link: str

    def make(self, index: int) -> Request:
        return links.set_up(index, self.link)

    def drop(self, index: int) -> Request:
        return Request(RTM_SETLINK, 0, ifinfomsg(index, 0, IFF_UP), f"ip link set {self.link} down", fine=ABSENT)

    def find(self, nl: Socket, index: int) -> bool:
        found = links.find_index(nl, index)
        return bool(found and found.up)


class BridgePort(NamedTuple):
    """How a bridge treats one port: whether frames may leave where they came in (hairpin), whether it is
    kept from other isolated ports, and whether it gets what other ports send to everybody, or to nobody known."""

    link: str
    hairpin: bool
    isolated: bool
    flooded: bool = True

    def make(self, index: int) -> Request:
        """Raises, when sent, EOPNOTSUPP for a link that is no bridge's port."""
        flooded = _switch(self.flooded)
        port = nested(
            IFLA_PROTINFO,
            u8(IFLA_BRPORT_MODE, self.hairpin),
            u8(IFLA_BRPORT_ISOLATED, self.isolated),
            u8(IFLA_BRPORT_UNICAST_FLOOD, self.flooded),
            u8(IFLA_BRPORT_MCAST_FLOOD, self.flooded),
            u8(IFLA_BRPORT_BCAST_FLOOD, self.flooded),
        )
        what = f"bridge link set dev {self.link} hairpin {_switch(self.hairpin)} isolated {_switch(self.isolated)}"
        what += f" flood {flooded} mcast_flood {flooded} bcast_flood {flooded}"
        return Request(RTM_SETLINK, 0, ifinfomsg(index, family=AF_BRIDGE) + port, what)

    def drop(self, index: int) -> Request:
        """Back to how a port begins. One that has left its bridge, or is gone, has nothing to go back from."""
        begun = BridgePort(self.link, hairpin=False, isolated=False).make(index)
        return begun._replace(fine=ABSENT | {errno.EOPNOTSUPP})

    def find(self, nl: Socket, index: int) -> bool:
        """Whether the link is a port of some bridge and is treated so."""
        found = links.find_index(nl, index)
        treated = found and (found.hairpin, found.isolated, found.flooded)
        return bool(found and found.master and treated == (self.hairpin, self.isolated, self.flooded))


def _switch(on: bool) -> str:
    return "on" if on else "off"

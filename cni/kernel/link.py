"""Links: network devices, and what it means for one to be a port of a bridge.

A pod hangs on a *veth*: two devices, one in the pod and one on the node, and what goes into one comes out
of the other. The node's ends meet in a *bridge*, a switch whose ports they are. One message makes both
ends, the pod's end already in the pod's namespace, named and addressed; so nothing has to be renamed or
moved, udev finds no device without a permanent address to meddle with, and there is no half-made pair.

Each object has `make`, `drop` and `find` side by side (rtnetlink(7), linux/if_link.h).
"""

from __future__ import annotations

import errno

from cni.kernel.netlink import (
    ABSENT,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkError,
    Request,
    as_int,
    as_text,
    attribute,
    attributes,
    fixed,
    nested,
    text,
    u8,
    u32,
)
from cni.lean import NamedTuple, socket, struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from cni.kernel.netlink import Socket

# linux/rtnetlink.h
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19
RTMGRP_LINK: Final = 1
RTEXT_FILTER_SKIP_STATS: Final = 8
# linux/if_link.h
IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_LINK: Final = 5
IFLA_MASTER: Final = 10
IFLA_PROTINFO: Final = 12
IFLA_LINKINFO: Final = 18
IFLA_IFALIAS: Final = 20
IFLA_NET_NS_FD: Final = 28
IFLA_EXT_MASK: Final = 29
IFLA_INFO_KIND: Final = 1
IFLA_INFO_DATA: Final = 2
IFLA_INFO_SLAVE_KIND: Final = 4
IFLA_INFO_SLAVE_DATA: Final = 5
IFLA_BRPORT_MODE: Final = 4
IFLA_BRPORT_ISOLATED: Final = 33
VETH_INFO_PEER: Final = 1
# linux/if.h
IFF_UP: Final = 1
AF_BRIDGE: Final = 7

_IFINFOMSG = struct.Struct("=BxHiII")  # family, device type, index, flags, which flags


def _ifinfomsg(index: int = 0, flags: int = 0, change: int = 0, family: int = socket.AF_UNSPEC) -> bytes:
    return _IFINFOMSG.pack(family, 0, index, flags, change)


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


# --- what the kernel says ---------------------------------------------------------------------------


class Link(NamedTuple):
    """A device as the kernel describes it."""

    name: str
    kind: str
    """"veth", "bridge", …; "" for physical ones and lo."""
    mac: str
    mtu: int
    ifindex: int = 0
    """0: it does not exist (yet)."""
    up: bool = False
    master: int = 0
    """Index of the bridge whose port this is; 0 for none."""
    alias: str = ""
    hairpin: bool = False
    isolated: bool = False
    peer: int = 0
    """Of a veth: the index of the other end, in the other end's namespace."""

    @classmethod
    def parse(cls, message: Message) -> Link:
        """From an RTM_NEWLINK or RTM_DELLINK. Raises ValueError for what is none."""
        _family, _type, index, flags, _change = fixed(_IFINFOMSG, message.body)
        found = attributes(message.body, _IFINFOMSG.size)
        info = attributes(found.get(IFLA_LINKINFO, b""))
        # Another kind of master counts other things under the same numbers.
        is_port = as_text(info.get(IFLA_INFO_SLAVE_KIND, b"")) == "bridge"
        port = attributes(info.get(IFLA_INFO_SLAVE_DATA, b"")) if is_port else {}
        return cls(
            ifindex=index,
            name=as_text(found.get(IFLA_IFNAME, b"")),
            kind=as_text(info.get(IFLA_INFO_KIND, b"")),
            mac=found.get(IFLA_ADDRESS, b"").hex(":"),
            mtu=as_int(found.get(IFLA_MTU, b"")),
            up=bool(flags & IFF_UP),
            master=as_int(found.get(IFLA_MASTER, b"")),
            alias=as_text(found.get(IFLA_IFALIAS, b"")),
            hairpin=bool(as_int(port.get(IFLA_BRPORT_MODE, b""))),
            isolated=bool(as_int(port.get(IFLA_BRPORT_ISOLATED, b""))),
            peer=as_int(found.get(IFLA_LINK, b"")),
        )


def find(nl: Socket, name: str) -> Link | None:
    """The link of that name in the socket's namespace, or None. Raises NetlinkError."""
    body = _ifinfomsg() + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS) + text(IFLA_IFNAME, name)
    message = nl.get(Request(RTM_GETLINK, 0, body, f"ip link show {name}", fine=ABSENT))
    return Link.parse(message) if message else None


def find_index(nl: Socket, index: int) -> Link | None:
    """The link of that index in the socket's namespace, or None. Raises NetlinkError."""
    body = _ifinfomsg(index) + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    # `ip link` takes no indexes, but its sister does.
    message = nl.get(Request(RTM_GETLINK, 0, body, f"ip address show dev if{index}", fine=ABSENT))
    return Link.parse(message) if message else None


def need(nl: Socket, name: str) -> Link:
    """The link of that name, which is known to have been there. Raises NetlinkError ENODEV."""
    found = find(nl, name)
    if not found:
        raise NetlinkError(errno.ENODEV, f"ip link show {name}")
    return found


def dump(nl: Socket, kind: str = "", master: int = 0) -> list[Link]:
    """All links of a kind and of a bridge, as far as given. Costs what there is on the node: for GC and repair."""
    body = _ifinfomsg() + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    if master:
        body += u32(IFLA_MASTER, master)
    if kind:
        body += nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind))
    found = [Link.parse(message) for message in nl.dump(Request(RTM_GETLINK, 0, body, "ip link show"))]
    # A kernel that knows no links of the kind at all (its module isn't loaded) answers with every link.
    return [link for link in found if kind in ("", link.kind) and master in (0, link.master)]


# --- what can be asked of any link -------------------------------------------------------------------


def set_alias(index: int, name: str, alias: str) -> Request:
    """Cut at 255 bytes, which is what the kernel keeps (IFALIASZ)."""
    kept = alias.encode()[:255].decode("utf-8", "ignore")
    # Without the NUL of other strings: it would count, and so many bytes be refused.
    body = _ifinfomsg(index) + attribute(IFLA_IFALIAS, kept.encode())
    return Request(RTM_SETLINK, 0, body, f"ip link set {name} alias {kept}")


def set_mtu(index: int, name: str, mtu: int) -> Request:
    return Request(RTM_SETLINK, 0, _ifinfomsg(index) + u32(IFLA_MTU, mtu), f"ip link set {name} mtu {mtu}")


def set_mac(index: int, name: str, mac: str) -> Request:
    return Request(
        RTM_SETLINK, 0, _ifinfomsg(index) + attribute(IFLA_ADDRESS, _mac(mac)), f"ip link set {name} address {mac}"
    )


def drop(index: int, name: str) -> Request:
    """Deletes a link; its peer, its addresses, routes and ports go with it. One that is gone already is fine.

    By index: between a look-up by name and the deletion a name can pass to another link, an index can't.
    """
    return Request(RTM_DELLINK, 0, _ifinfomsg(index), f"ip link del {name}", fine=ABSENT)


# --- objects ----------------------------------------------------------------------------------------


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
            _ifinfomsg()
            + text(IFLA_IFNAME, self.peer)
            + attribute(IFLA_ADDRESS, _mac(self.peer_mac))
            + u32(IFLA_NET_NS_FD, peer_netns)
            + both
        )
        body = (
            _ifinfomsg(flags=IFF_UP, change=IFF_UP)
            + text(IFLA_IFNAME, self.name)
            + attribute(IFLA_ADDRESS, _mac(self.mac))
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
        return drop(index, self.name)

    def find(self, nl: Socket) -> Link | None:
        return find(nl, self.name)


class Bridge(NamedTuple):
    """A switch. It keeps the MAC that it is made with: one that the kernel chose would follow its ports'."""

    name: str
    mac: str
    mtu: int
    """0 leaves it to the kernel: the least of its ports'."""

    def make(self) -> Request:
        """Makes the bridge, down: what must hold before its first packet is set before `up`."""
        body = (
            _ifinfomsg()
            + text(IFLA_IFNAME, self.name)
            + attribute(IFLA_ADDRESS, _mac(self.mac))
            + (u32(IFLA_MTU, self.mtu) if self.mtu else b"")
            + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge"))
        )
        what = f"ip link add {self.name} address {self.mac}{f' mtu {self.mtu}' if self.mtu else ''} type bridge"
        # Fifty first pods of a node come at once: one of them makes the bridge.
        return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, what, fine=frozenset({errno.EEXIST}))

    def drop(self, index: int) -> Request:
        return drop(index, self.name)

    def find(self, nl: Socket) -> Link | None:
        return find(nl, self.name)


class LinkUp(NamedTuple):
    """That a link is up."""

    link: str

    def make(self, index: int) -> Request:
        return Request(RTM_SETLINK, 0, _ifinfomsg(index, IFF_UP, IFF_UP), f"ip link set {self.link} up")

    def drop(self, index: int) -> Request:
        return Request(RTM_SETLINK, 0, _ifinfomsg(index, 0, IFF_UP), f"ip link set {self.link} down", fine=ABSENT)

    def find(self, nl: Socket, index: int) -> bool:
        found = find_index(nl, index)
        return bool(found and found.up)


class BridgePort(NamedTuple):
    """How a bridge treats one port: whether frames may leave where they came in (hairpin), and whether it is
    kept from other isolated ports."""

    link: str
    hairpin: bool
    isolated: bool

    def make(self, index: int) -> Request:
        """Raises, when sent, EOPNOTSUPP for a link that is no bridge's port."""
        port = nested(IFLA_PROTINFO, u8(IFLA_BRPORT_MODE, self.hairpin), u8(IFLA_BRPORT_ISOLATED, self.isolated))
        what = f"bridge link set dev {self.link} hairpin {_switch(self.hairpin)} isolated {_switch(self.isolated)}"
        return Request(RTM_SETLINK, 0, _ifinfomsg(index, family=AF_BRIDGE) + port, what)

    def drop(self, index: int) -> Request:
        """Back to how a port begins. One that has left its bridge, or is gone, has nothing to go back from."""
        begun = self._replace(hairpin=False, isolated=False).make(index)
        return begun._replace(fine=ABSENT | {errno.EOPNOTSUPP})

    def find(self, nl: Socket, index: int) -> bool:
        """Whether the link is a port of some bridge and is treated so."""
        found = find_index(nl, index)
        return bool(found and found.master and (found.hairpin, found.isolated) == (self.hairpin, self.isolated))


def _switch(on: bool) -> str:
    return "on" if on else "off"

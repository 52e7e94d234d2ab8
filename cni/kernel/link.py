"""Links: network devices, as the kernel describes them, and what can be asked of any.

(rtnetlink(7), linux/if_link.h)
"""

from __future__ import annotations

import errno

from cni.kernel.netlink import (
    ABSENT,
    FAMILY,
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
from cni.kernel.netlink import mac as mac_attribute
from cni.lean import NamedTuple, socket, struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from cni.kernel.netlink import Message, Socket

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
IFLA_TXQLEN: Final = 13
IFLA_LINKINFO: Final = 18
IFLA_IFALIAS: Final = 20
IFLA_AF_SPEC: Final = 26
IFLA_GROUP: Final = 27
IFLA_NET_NS_FD: Final = 28
IFLA_EXT_MASK: Final = 29
IFLA_INFO_KIND: Final = 1
IFLA_INFO_DATA: Final = 2
IFLA_INFO_SLAVE_KIND: Final = 4
IFLA_INFO_SLAVE_DATA: Final = 5
IFLA_INET6_ADDR_GEN_MODE: Final = 8
IN6_ADDR_GEN_MODE_NONE: Final = 1
IFLA_BRPORT_MODE: Final = 4
IFLA_BRPORT_UNICAST_FLOOD: Final = 9
IFLA_BRPORT_MCAST_FLOOD: Final = 27
IFLA_BRPORT_BCAST_FLOOD: Final = 30
IFLA_BRPORT_ISOLATED: Final = 33
VETH_INFO_PEER: Final = 1
# linux/if.h
IFF_UP: Final = 0x1
IFF_PROMISC: Final = 0x100
IFF_ALLMULTI: Final = 0x200

_IFINFOMSG = struct.Struct("=BxHiII")  # family, device type, index, flags, which flags


def ifinfomsg(index: int = 0, flags: int = 0, change: int = 0, family: int = socket.AF_UNSPEC) -> bytes:
    return _IFINFOMSG.pack(family, 0, index, flags, change)


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
    flooded: bool = True
    """Of a port: whether the bridge sends by it what is for everybody, or for nobody that it knows."""
    peer: int = 0
    """Of a veth: the index of the other end, in the other end's namespace."""
    promisc: bool = False
    """Set on the link itself. That something listens promiscuously (a bridge to its ports, tcpdump) doesn't show."""
    allmulti: bool = False
    txqlen: int = 0

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
            flooded=port.get(IFLA_BRPORT_BCAST_FLOOD) != b"\0",
            peer=as_int(found.get(IFLA_LINK, b"")),
            promisc=bool(flags & IFF_PROMISC),
            allmulti=bool(flags & IFF_ALLMULTI),
            txqlen=as_int(found.get(IFLA_TXQLEN, b"")),
        )


def find(nl: Socket, name: str) -> Link | None:
    """The link of that name in the socket's namespace, or None. Raises NetlinkError."""
    body = ifinfomsg() + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS) + text(IFLA_IFNAME, name)
    message = nl.get(Request(RTM_GETLINK, 0, body, f"ip link show {name}", fine=ABSENT))
    return Link.parse(message) if message else None


def find_index(nl: Socket, index: int) -> Link | None:
    """The link of that index in the socket's namespace, or None. Raises NetlinkError."""
    body = ifinfomsg(index) + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
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
    body = ifinfomsg() + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
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
    body = ifinfomsg(index) + attribute(IFLA_IFALIAS, kept.encode())
    return Request(RTM_SETLINK, 0, body, f"ip link set {name} alias {kept}")


def set_up(index: int, name: str) -> Request:
    return Request(RTM_SETLINK, 0, ifinfomsg(index, IFF_UP, IFF_UP), f"ip link set {name} up")


def set_no_link_local(index: int, name: str) -> Request:
    """That the kernel gives it no IPv6 address of its own accord, once it is up. A node without IPv6 is fine."""
    inet6 = nested(FAMILY[6], u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE))
    what = f"ip link set {name} addrgenmode none"
    fine = frozenset([errno.EAFNOSUPPORT])
    return Request(RTM_SETLINK, 0, ifinfomsg(index) + nested(IFLA_AF_SPEC, inet6), what, fine)


def set_mtu(index: int, name: str, mtu: int) -> Request:
    return Request(RTM_SETLINK, 0, ifinfomsg(index) + u32(IFLA_MTU, mtu), f"ip link set {name} mtu {mtu}")


def set_promisc(index: int, name: str) -> Request:
    return Request(RTM_SETLINK, 0, ifinfomsg(index, IFF_PROMISC, IFF_PROMISC), f"ip link set {name} promisc on")


def set_mac(index: int, name: str, mac: str) -> Request:
    return Request(
        RTM_SETLINK, 0, ifinfomsg(index) + mac_attribute(IFLA_ADDRESS, mac), f"ip link set {name} address {mac}"
    )


def set_group(index: int, name: str, group: int) -> Request:
    """A link that is gone already is fine."""
    return Request(
        RTM_SETLINK, 0, ifinfomsg(index) + u32(IFLA_GROUP, group), f"ip link set {name} group {group}", fine=ABSENT
    )


def drop_group(group: int) -> Request:
    """Deletes all links of a group; none is fine."""
    return Request(RTM_DELLINK, 0, ifinfomsg() + u32(IFLA_GROUP, group), f"ip link del group {group}", fine=ABSENT)


def drop(index: int, name: str) -> Request:
    """Deletes a link; its peer, its addresses, routes and ports go with it. One that is gone already is fine.

    By index: between a look-up by name and the deletion a name can pass to another link, an index can't.
    """
    return Request(RTM_DELLINK, 0, ifinfomsg(index), f"ip link del {name}", fine=ABSENT)

"""What there is on a node, in a pod or in a folder, as a set of sentences: to compare one look with another.

`tests.oracle` reads the kernel with care; this is for tests that look a thousand times. Left out is what comes and
goes by itself: counters, timers, states of neighbours, what a bridge learns, multicast, link-local IPv6.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, Self

from tests import namespaces

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

# linux/netlink.h, linux/rtnetlink.h
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE, RTM_GETNEIGH = 18, 22, 26, 30
# linux/if_link.h, linux/if_addr.h, linux/neighbour.h
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_IFALIAS = 1, 3, 4, 10, 20
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
NDA_DST, NDA_LLADDR, NDA_MASTER = 1, 2, 9
IFF_UP = 1
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
AF_BRIDGE = 7

NOT_OURS = ("fe80:", "ff00:", "ff02:", "224.0.0.")
"""How addresses begin that the kernel gives and takes by itself."""

IFINFOMSG = "=BxHiII"  # family, device type, index, flags, which flags
IFADDRMSG = "=BBBBI"  # family, prefix length, flags, scope, index
RTMSG = "=BBBBBBBBI"  # family, dst length, src length, tos, table, protocol, scope, type, flags
NDMSG = "=BxxxiHBB"  # family, index, state, flags, type


class Watch:
    """Looks at a network namespace (None: the session's) as often as wanted; closed at the end of a `with`."""

    def __init__(self, netns: Path | None) -> None:
        self._socket = namespaces.inside(netns, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def look(self) -> frozenset[str]:
        """All of it, each thing with the name of the link that it is on."""
        links = {}
        for (_, _, index, flags, _), told in self._dump(RTM_GETLINK, IFINFOMSG):
            links[index] = _text(told[IFLA_IFNAME]), bool(flags & IFF_UP), told
        names = {index: name for index, (name, _, _) in links.items()}
        found = [
            f"{name}: link {index} {'up' if up else 'down'} {told.get(IFLA_ADDRESS, b'').hex(':')} "
            f"mtu {_number(told[IFLA_MTU])} of {names.get(_number(told.get(IFLA_MASTER, b'')), 'nobody')} "
            f"alias {_text(told.get(IFLA_IFALIAS, b''))}"
            for index, (name, up, told) in links.items()
        ]
        for (_, length, _, _, index), told in self._dump(RTM_GETADDR, IFADDRMSG):
            found.append(f"{names[index]}: address {_ip(told.get(IFA_LOCAL) or told[IFA_ADDRESS])}/{length}")
        for (family, length, _, _, _, _, _, kind, _), told in self._dump(RTM_GETROUTE, RTMSG):
            target = _ip(told[RTA_DST]) if RTA_DST in told else f"any{family}"
            via = f" via {_ip(told[RTA_GATEWAY])}" if RTA_GATEWAY in told else ""
            name = names.get(_number(told.get(RTA_OIF, b"")), "")
            found.append(f"{name}: route {target}/{length}{via} kind {kind} table {_number(told[RTA_TABLE])}")
        for (_, index, state, _, _), told in self._dump(RTM_GETNEIGH, NDMSG):
            if NDA_LLADDR in told and not state & NUD_NOARP:
                found.append(f"{names[index]}: neighbour {_ip(told[NDA_DST])} at {told[NDA_LLADDR].hex(':')}")
        for (_, index, state, _, _), told in self._dump(RTM_GETNEIGH, NDMSG, AF_BRIDGE):
            if state & (NUD_NOARP | NUD_PERMANENT) and not told[NDA_LLADDR][0] & 1:
                found.append(f"{names[index]}: forwards {told[NDA_LLADDR].hex(':')}")
        return frozenset(one for one in found if not any(f" {start}" in one for start in NOT_OURS))

    def _dump(self, kind: int, layout: str, family: int = 0) -> Iterator[tuple[tuple[int, ...], dict[int, bytes]]]:
        """The fixed part and the attributes of each object."""
        size = struct.calcsize(layout)
        body = bytes([family]) + bytes(size - 1)
        self._socket.send(struct.pack("=IHHII", 16 + size, kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
        objects: list[tuple[tuple[int, ...], dict[int, bytes]]] = []
        while True:
            data = self._socket.recv(1 << 16)
            while data:
                length, told = struct.unpack_from("=IH", data)
                if told in (NLMSG_DONE, NLMSG_ERROR):
                    return iter(objects)
                objects.append((struct.unpack_from(layout, data, 16), _attributes(data[16 + size : length])))
                data = data[(length + 3) & ~3 :]


def files(*tops: Path, without: Collection[str] = ()) -> frozenset[str]:
    """Every file below, with what is in it, but those of these names."""
    found = []
    for top in tops:
        for folder, _, names in os.walk(top):
            for name in names:
                if name not in without:
                    with open(os.path.join(folder, name), "rb") as file:
                        found.append(f"{file.name}: {file.read()!r}")
    return frozenset(found)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


def _ip(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)

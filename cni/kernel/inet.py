"""What makes links talk IP: addresses and routes.

Objects name their link; the index that the kernel knows it by is given when a message is made, since one
object may be wanted long before its link exists (rtnetlink(7), linux/if_addr.h).

Both families go the same way; where they differ, it is here and nowhere else:
- an IPv6 address is *tentative* until duplicate address detection has waited a second for objections. Ours
  come from an allocator that hands out each once, so they carry IFA_F_NODAD and work at once;
- an IPv4 address has a broadcast address, and two names in netlink (local and peer).
"""

from __future__ import annotations

import errno

from cni.kernel.netlink import (
    ABSENT,
    FAMILY,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NO_FAMILY,
    Request,
    as_int,
    attribute,
    attributes,
    fixed,
    nested,
    u32,
)
from cni.lean import NamedTuple, socket, struct
from ipam.address import BITS, Address, Interface, Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self

    from cni.kernel.netlink import Message, Socket
    from cni.spec.result import Route

# linux/rtnetlink.h
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
RTMGRP_IPV6_IFADDR: Final = 0x100
RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RTA_PREFSRC: Final = 7
RTA_METRICS: Final = 8
RTA_TABLE: Final = 15
RTAX_MTU: Final = 2
RTAX_ADVMSS: Final = 8
RT_TABLE_MAIN: Final = 254
IP6_RT_PRIO_USER: Final = 1024  # linux/ipv6_route.h
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_LINK: Final = 253
RT_SCOPE_HOST: Final = 254
RTPROT_STATIC: Final = 4
RTPROT_RA: Final = 9
RTN_UNSPEC: Final = 0
RTN_UNICAST: Final = 1
RTN_LOCAL: Final = 2
# linux/if_addr.h
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_BROADCAST: Final = 4
IFA_FLAGS: Final = 8
IFA_F_NODAD: Final = 0x02
IFA_F_DADFAILED: Final = 0x08
IFA_F_TENTATIVE: Final = 0x40
IFA_F_PERMANENT: Final = 0x80
IFA_F_NOPREFIXROUTE: Final = 0x200

# What is said of an address that no route leads to; EACCES and EINVAL, of one that a route forbids.
_NO_ROUTE: Final = ABSENT | NO_FAMILY | {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL}

_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst length, src length, tos, table, protocol, scope, type, flags


def _ip(version: int) -> str:
    return "ip -6" if version == 6 else "ip"


def _address(packed: bytes) -> Address:
    if len(packed) not in (4, 16):
        raise ValueError(f"no IP address has {len(packed)} bytes")
    return Address.from_packed(packed)


# --- addresses --------------------------------------------------------------------------------------


class LinkAddress(NamedTuple):
    """An IP address on a link."""

    link: str
    address: Interface
    dad: bool = False
    """Whether to have the kernel detect duplicates first (IPv6)."""
    prefix_route: bool = True
    """Whether it brings a route to its subnet along."""

    def _body(self, index: int, flags: int) -> bytes:
        ip, length = self.address
        packed = ip.packed
        # Flags beyond the first eight only fit the attribute, which then counts in place of the field.
        body = _IFADDRMSG.pack(FAMILY[ip.version], length, flags & 0xFF, RT_SCOPE_UNIVERSE, index)
        body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
        if ip.version == 4 and length < 31:
            body += attribute(IFA_BROADCAST, self.address.network.last.packed)
        return body + u32(IFA_FLAGS, flags)

    def make(self, index: int) -> Request:
        """Raises, when sent, EEXIST for an address that the link has already."""
        version = self.address.address.version
        flags = IFA_F_PERMANENT | (0 if self.dad or version == 4 else IFA_F_NODAD)
        flags |= 0 if self.prefix_route else IFA_F_NOPREFIXROUTE
        broadcast = " broadcast +" if version == 4 and self.address.length < 31 else ""
        nodad = " nodad" if flags & IFA_F_NODAD else ""
        alone = "" if self.prefix_route else " noprefixroute"
        what = f"{_ip(version)} address add {self.address}{broadcast} dev {self.link}{nodad}{alone}"
        return Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, self._body(index, flags), what)

    def drop(self, index: int) -> Request:
        what = f"{_ip(self.address.address.version)} address del {self.address} dev {self.link}"
        return Request(RTM_DELADDR, 0, self._body(index, 0), what, fine=ABSENT | NO_FAMILY)

    def find(self, nl: Socket, index: int) -> bool:
        """Whether the link has it, usable: neither waiting for objections nor refused after one."""
        return any(
            found.address == self.address and not found.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED)
            for found in addresses(nl, index)
        )

    def is_longer_or_shorter(self, nl: Socket, index: int) -> bool:
        """Whether the link has this IPv6 address with another prefix: reason enough for the kernel to say EEXIST."""
        ip, length = self.address
        body = _IFADDRMSG.pack(FAMILY[ip.version], 0, 0, 0, index) + attribute(IFA_ADDRESS, ip.packed)
        what = f"{_ip(ip.version)} address show to {ip} dev {self.link}"
        message = nl.get(Request(RTM_GETADDR, 0, body, what, fine=ABSENT)) if ip.version == 6 else None
        return bool(message and FoundAddress.parse(message).address.length != length)


class FoundAddress(NamedTuple):
    """An address as the kernel describes it."""

    ifindex: int
    address: Interface
    flags: int

    @classmethod
    def parse(cls, message: Message) -> FoundAddress:
        """From an RTM_NEWADDR or RTM_DELADDR. Raises ValueError for what is none."""
        _family, length, flags, _scope, index = fixed(_IFADDRMSG, message.body)
        found = attributes(message.body, _IFADDRMSG.size)
        packed = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS, b"")
        return cls(
            index,
            Interface(_address(packed), length),
            as_int(found[IFA_FLAGS]) if IFA_FLAGS in found else flags,
        )


def addresses(nl: Socket, index: int) -> list[FoundAddress]:
    """The addresses of one link (a dump that the kernel filters; Linux 4.20)."""
    body = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, index)
    dumped = nl.dump(Request(RTM_GETADDR, 0, body, f"ip address show dev if{index}", fine=ABSENT))
    return [found for found in map(FoundAddress.parse, dumped) if found.ifindex == index]


# --- routes -----------------------------------------------------------------------------------------


class LinkRoute(NamedTuple):
    """A route over a link. Metrics and places that are 0 or None are left to the kernel."""

    link: str
    dst: Network
    gw: Address | None = None
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None
    src: Address | None = None
    """The pod's address that packets by this route bear, where their sender has chosen none."""
    takes_over: bool = False
    """Whether it takes the place of what leads to its destination already, over whatever link."""

    @classmethod
    def of(cls, link: str, route: Route) -> Self:
        """A result's route, over a link."""
        return cls(
            link,
            route.dst,
            route.gw,
            route.mtu,
            route.advmss,
            priority=route.priority,
            table=route.table,
            scope=route.scope,
        )

    @property
    def _table(self) -> int:
        """The main one unless another is asked for; 0 is the kernel's name for that too."""
        return self.table or RT_TABLE_MAIN

    def _body(self, index: int, kind: int) -> bytes:
        table = self._table
        scope = self.scope
        if scope is None:
            # IPv6 knows no scopes. In IPv4 what has no gateway is on the link.
            scope = RT_SCOPE_LINK if self.gw is None and self.dst.version == 4 else RT_SCOPE_UNIVERSE
        body = _RTMSG.pack(
            FAMILY[self.dst.version], self.dst.length, 0, 0, table if table < 256 else 0, RTPROT_STATIC, scope, kind, 0
        )
        if self.dst.length:
            body += attribute(RTA_DST, self.dst.first.packed)
        if self.gw is not None:
            body += attribute(RTA_GATEWAY, self.gw.packed)
        body += u32(RTA_OIF, index) + u32(RTA_TABLE, table)
        if self.priority:
            body += u32(RTA_PRIORITY, self.priority)
        if self.src is not None:
            body += attribute(RTA_PREFSRC, self.src.packed)
        metrics = (u32(RTAX_MTU, self.mtu) if self.mtu else b"") + (
            u32(RTAX_ADVMSS, self.advmss) if self.advmss else b""
        )
        return body + (nested(RTA_METRICS, metrics) if metrics else b"")

    def _what(self, verb: str) -> str:
        told = [_ip(self.dst.version), "route", verb, str(self.dst) if self.dst.length else "default"]
        told += ["via", str(self.gw)] if self.gw else []
        told += ["dev", self.link, "proto", "static"]
        options = {
            "metric": self.priority or None,
            "table": self.table or None,
            "scope": self.scope,
            "src": self.src,
            "mtu": self.mtu or None,
            "advmss": self.advmss or None,
        }
        return " ".join(told + [f"{word} {value}" for word, value in options.items() if value is not None])

    def make(self, index: int) -> Request:
        """One that is there already stays, unless its place is taken over: IPAM plugins repeat routes, and the first is
        as good."""
        body = self._body(index, RTN_UNICAST)
        if self.takes_over:
            return Request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body, self._what("replace"))
        fine = frozenset({errno.EEXIST})
        return Request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body, self._what("add"), fine)

    def drop(self, index: int) -> Request:
        return Request(RTM_DELROUTE, 0, self._body(index, RTN_UNSPEC), self._what("del"), fine=ABSENT | NO_FAMILY)

    def find(self, nl: Socket, index: int) -> bool:
        return any(self.matches(found) for found in routes(nl, self.dst.version, index))

    def is_kept_out_by(self, found: LinkRoute, index: int) -> bool:
        """Whether `found` is over another link and has the place of this route, so that `make` left it at that."""
        usual = IP6_RT_PRIO_USER if self.dst.version == 6 else 0
        place = self.dst, self._table, self.priority or usual
        return not self.takes_over and found.link != f"if{index}" and (found.dst, found.table, found.priority) == place

    def matches(self, found: LinkRoute) -> bool:
        """Whether `found`, over whatever link, is this route in everything that this one asks for."""
        return (
            (found.dst, found.gw, found.table) == (self.dst, self.gw, self._table)
            and self.priority in (0, found.priority)
            and self.mtu in (0, found.mtu)
            and self.advmss in (0, found.advmss)
            and self.src in (None, found.src)
            # IPv6 knows no scopes, and reports the widest.
            and (self.scope in (None, found.scope) or self.dst.version == 6)
        )


def routes(nl: Socket, version: int, index: int = 0) -> list[LinkRoute]:
    """The unicast routes over one link (0: over any), of all tables. Named `if<index>`; empty where the kernel lacks
    the family."""
    body = _RTMSG.pack(FAMILY[version], 0, 0, 0, 0, 0, 0, RTN_UNICAST, 0) + (u32(RTA_OIF, index) if index else b"")
    what = f"{_ip(version)} route show table all{f' dev if{index}' if index else ''}"
    request = Request(RTM_GETROUTE, 0, body, what, fine=ABSENT | NO_FAMILY)
    found = [_parse_route(message, version) for message in nl.dump(request)]
    return [route for route in found if route and (not index or route.link == f"if{index}")]


def is_local(nl: Socket, address: Address) -> bool:
    """Whether the node would take packets to this address for its own. Raises NetlinkError."""
    version = address.version
    body = _RTMSG.pack(FAMILY[version], BITS[version], 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, address.packed)
    message = nl.get(Request(RTM_GETROUTE, 0, body, f"{_ip(version)} route get {address}", fine=_NO_ROUTE))
    return message is not None and fixed(_RTMSG, message.body)[7] == RTN_LOCAL


def advertised_links(nl: Socket) -> frozenset[int]:
    """Indexes of the links whose IPv6 default route came from a router advertisement."""
    body = _RTMSG.pack(socket.AF_INET6, 0, 0, 0, 0, RTPROT_RA, 0, RTN_UNICAST, 0)
    found = nl.dump(Request(RTM_GETROUTE, 0, body, "ip -6 route show proto ra", fine=ABSENT | NO_FAMILY))
    routes = [(fixed(_RTMSG, message.body)[5], attributes(message.body, _RTMSG.size)) for message in found]
    return frozenset(
        [as_int(route[RTA_OIF]) for protocol, route in routes if protocol == RTPROT_RA and RTA_OIF in route]
    )


def _parse_route(message: Message, version: int) -> LinkRoute | None:
    _family, length, _src, _tos, table, _protocol, scope, kind, _flags = fixed(_RTMSG, message.body)
    found = attributes(message.body, _RTMSG.size)
    if kind != RTN_UNICAST or RTA_OIF not in found:
        return None
    metrics = attributes(found.get(RTA_METRICS, b""))
    value = int.from_bytes(found.get(RTA_DST, b""), "big")
    return LinkRoute(
        link=f"if{as_int(found[RTA_OIF])}",
        dst=Network(version, value, length),
        gw=_address(found[RTA_GATEWAY]) if RTA_GATEWAY in found else None,
        mtu=as_int(metrics.get(RTAX_MTU, b"")),
        advmss=as_int(metrics.get(RTAX_ADVMSS, b"")),
        priority=as_int(found.get(RTA_PRIORITY, b"")),
        table=as_int(found[RTA_TABLE]) if RTA_TABLE in found else table,
        scope=scope,
        src=_address(found[RTA_PREFSRC]) if RTA_PREFSRC in found else None,
    )

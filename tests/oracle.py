"""What the kernel says, read by pyroute2: the second opinion on everything that our own codec does.

The only module that imports pyroute2. Traps that it knows of: pyroute2 creates a namespace that it can't find,
so it never gets to open one (a thread that is inside makes the socket); the routes of all tables come mixed; an IPv6
address has no IFA_LOCAL.

Each reader takes the path of a network namespace, or None for the session's. Records name links, not indexes,
and states as `ip` writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import act_mirred, tcmsg

from tests import namespaces

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

AF_INET, AF_INET6 = 2, 10
MAIN = 254  # linux/rtnetlink.h: RT_TABLE_MAIN

IFF_UP, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x100, 0x200  # linux/if.h
HOOK, INCOMING = 0xFFFF0000, 0xFFFFFFF2  # linux/pkt_sched.h: ffff:, and the filters of what comes in there
EGRESS_REDIRECT = 1  # linux/tc_act/tc_mirred.h
NTF_SELF, NTF_MASTER, NTF_STICKY = 0x02, 0x04, 0x40  # linux/neighbour.h

STATES = {0x00: "none", 0x01: "incomplete", 0x02: "reachable", 0x04: "stale", 0x08: "delay", 0x10: "probe",
          0x20: "failed", 0x40: "noarp", 0x80: "permanent"}  # fmt: skip
ADDRESS_FLAGS = {0x01: "secondary", 0x02: "nodad", 0x04: "optimistic", 0x08: "dadfailed", 0x10: "homeaddress",
                 0x20: "deprecated", 0x40: "tentative", 0x80: "permanent", 0x100: "mngtmpaddr", 0x200: "noprefixroute",
                 0x400: "autojoin", 0x800: "stable-privacy"}  # fmt: skip
SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
ROUTE_TYPES = {1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole", 7: "unreachable",
               8: "prohibit", 9: "throw"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Link:
    name: str
    index: int
    kind: str
    """"bridge", "veth", …; "" for `lo` and what has no kind."""
    mac: str
    mtu: int
    up: bool
    alias: str
    group: int
    master: str
    """Name of the bridge that this is a port of; ""."""
    peer_index: int
    """Index of a veth's other end, in the namespace where that is; 0."""
    hairpin: bool | None
    """None where the link is not a bridge port; so are the other two."""
    isolated: bool | None
    learning: bool | None
    promisc: bool
    """Set on the link itself; so is allmulti."""
    allmulti: bool
    txqlen: int
    raw: Any
    """pyroute2's own message, for what has no name here: `raw.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")`."""


@dataclass(frozen=True, slots=True)
class Address:
    interface: str
    """Address and prefix length: "10.1.0.2/24"."""
    link: str
    flags: frozenset[str]
    scope: str


@dataclass(frozen=True, slots=True)
class Route:
    dst: str
    """"10.1.0.0/24"; the default routes are "0.0.0.0/0" and "::/0"."""
    link: str
    gateway: str
    src: str
    table: int
    scope: str
    kind: str
    priority: int
    """The metric, as the kernel keeps it: an IPv6 route that asked for none has 1024."""
    mtu: int
    advmss: int
    protocol: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    address: str
    mac: str
    link: str
    state: str


@dataclass(frozen=True, slots=True)
class FdbEntry:
    mac: str
    link: str
    """The port; the bridge's own addresses stand at the bridge."""
    bridge: str
    """"" for an entry of the device itself."""
    state: str
    """"noarp" is what `bridge fdb` calls static; "permanent" is the bridge's own; "reachable" was learned."""


@dataclass(frozen=True, slots=True)
class Qdisc:
    link: str
    kind: str
    handle: int
    parent: int
    rate_bytes_per_s: int = 0
    """Of a tbf; so are the other two. Above 32 bits all of the kernel's answer that pyroute2 reads is the largest."""
    limit_bytes: int = 0
    buffer_ticks: int = 0
    """How long the burst takes at the rate, in units of 64 ns."""


@dataclass(frozen=True, slots=True)
class Filter:
    link: str
    kind: str
    parent: int
    preference: int
    redirects_to: str
    """Where the first action redirects to; "" for another action, or a link that is gone."""


def links(netns: Path | None) -> list[Link]:
    """Every link but `lo`, by name."""
    return sorted((link for link in _links(netns).values() if link.name != "lo"), key=lambda link: link.name)


def link(netns: Path | None, name: str) -> Link:
    found = {link.name: link for link in _links(netns).values()}
    assert name in found, f"no link {name} in {netns}; there are {sorted(found)}"
    return found[name]


def addresses(netns: Path | None, link: str) -> list[Address]:
    """Of one link, in the kernel's order (IPv4 first), without the IPv6 link-local ones."""
    names = _names(netns)
    found = [_address(message, names) for message in _dump(netns, "get_addr")]
    return [address for address in found if address.link == link and not _is_link_local(address)]


def broadcasts(netns: Path | None, link: str) -> dict[str, str]:
    """The broadcast address of each address of one link that has one: {"10.1.0.2/24": "10.1.0.255"}."""
    names = _names(netns)
    return {
        _address(message, names).interface: message.get("IFA_BROADCAST")
        for message in _dump(netns, "get_addr")
        if names[message["index"]] == link and message.get("IFA_BROADCAST")
    }


def routes(netns: Path | None, *, table: int = MAIN) -> list[Route]:
    """Of one table, both families, without those of multicast and link-local IPv6."""
    names = _names(netns)
    found = [_route(message, names) for message in _dump(netns, "get_routes")]
    return [route for route in found if route.table == table and not _is_the_kernels(route)]


def neighbours(netns: Path | None) -> list[Neighbour]:
    """Of both families, without multicast."""
    names = _names(netns)
    return [_neighbour(message, names) for message in _dump(netns, "get_neighbours") if _is_unicast(message)]


def fdb(netns: Path | None, bridge: str) -> list[FdbEntry]:
    """What `bridge` knows, without multicast groups."""
    names = _names(netns)
    entries = [_fdb_entry(message, names) for message in _fdb(netns) if not message["flags"] & NTF_SELF]
    # A kernel that can filter VLANs keeps an entry for each VLAN of its port: to us, who use none, it is one.
    return list(dict.fromkeys(entry for entry in entries if entry.bridge == bridge))


def qdiscs(netns: Path | None) -> list[Qdisc]:
    """All that somebody made: those that the kernel gives every link have no handle."""
    names = _names(netns)
    return [_qdisc(message, names) for message in _dump(netns, "get_qdiscs") if message["handle"]]


def filters(netns: Path | None, link: str, parent: int) -> list[Filter]:
    """What hangs on a qdisc of one link, without the tables that filters are kept in."""
    names = _names(netns)
    index = next(index for index, name in names.items() if name == link)
    found = _dump(netns, "get_filters", index=index, parent=parent)
    return [_filter(message, names) for message in found if message.get_nested("TCA_OPTIONS", "TCA_U32_SEL")]


def everything(netns: Path | None) -> frozenset[object]:
    """All of the above at once, by one socket: to compare two namespaces, or one before and after.

    Without what a bridge learned: that comes and goes with the traffic.
    """

    def ask() -> list[list[Any]]:
        with IPRoute() as route:
            questions = (route.get_links, route.get_addr, route.get_routes, route.get_neighbours,
                         route.get_qdiscs)  # fmt: skip
            answers = [list(question()) for question in questions]
            hooked = [message["index"] for message in answers[-1] if message["handle"] == HOOK]
            filters = [list(route.get_filters(index=index, parent=INCOMING)) for index in hooked]
            return [*answers, list(route.fdb("dump")), [message for of_link in filters for message in of_link]]

    links, addresses, routes, neighbours, qdiscs, entries, filters = namespaces.inside(netns, ask)
    by_index = {message["index"]: message for message in links}
    names = {index: message.get("IFLA_IFNAME") for index, message in by_index.items()}
    found: list[object] = [replace(_link(message, by_index), raw=None) for message in links]
    found += [
        (address, message.get("IFA_BROADCAST"))
        for address, message in [(_address(message, names), message) for message in addresses]
        if not _is_link_local(address)
    ]
    found += [route for route in [_route(message, names) for message in routes] if not _is_the_kernels(route)]
    found += [_neighbour(message, names) for message in neighbours if _is_unicast(message)]
    found += [_qdisc(message, names) for message in qdiscs if message["handle"]]
    found += [_filter(message, names) for message in filters if message.get_nested("TCA_OPTIONS", "TCA_U32_SEL")]
    kept = [_fdb_entry(message, names) for message in entries if not message["flags"] & NTF_SELF]
    found += [entry for entry in kept if entry.state in ("noarp", "permanent")]
    return frozenset(found)


def _address(message: Any, names: Mapping[int, str]) -> Address:
    flags = message.get("IFA_FLAGS", message["flags"])
    return Address(
        f"{message.get('IFA_LOCAL') or message.get('IFA_ADDRESS')}/{message['prefixlen']}",
        names[message["index"]],
        frozenset(name for bit, name in ADDRESS_FLAGS.items() if flags & bit),
        SCOPES.get(message["scope"], str(message["scope"])),
    )


def _is_link_local(address: Address) -> bool:
    return address.interface.startswith("fe80:")


def _route(message: Any, names: Mapping[int, str]) -> Route:
    metrics = message.get("RTA_METRICS")
    anywhere = "::" if message["family"] == AF_INET6 else "0.0.0.0"
    return Route(
        dst=f"{message.get('RTA_DST') or anywhere}/{message['dst_len']}",
        link=names.get(message.get("RTA_OIF"), ""),
        gateway=message.get("RTA_GATEWAY") or "",
        src=message.get("RTA_PREFSRC") or "",
        table=message.get("RTA_TABLE") or message["table"],
        scope=SCOPES.get(message["scope"], str(message["scope"])),
        kind=ROUTE_TYPES.get(message["type"], str(message["type"])),
        priority=message.get("RTA_PRIORITY") or 0,
        mtu=(metrics.get("RTAX_MTU") or 0) if metrics else 0,
        advmss=(metrics.get("RTAX_ADVMSS") or 0) if metrics else 0,
        protocol=message["proto"],
    )


def _is_the_kernels(route: Route) -> bool:
    """Whether the route is one of those that IPv6 has for itself on every link."""
    return route.dst.startswith(("fe80:", "ff00:"))


def _neighbour(message: Any, names: Mapping[int, str]) -> Neighbour:
    mac = message.get("NDA_LLADDR") or ""
    return Neighbour(message.get("NDA_DST"), mac, names[message["ifindex"]], STATES[message["state"]])


def _is_unicast(message: Any) -> bool:
    return message["ndm_type"] in (0, 1)  # unspecified, unicast


def _fdb_entry(message: Any, names: Mapping[int, str]) -> FdbEntry:
    bridge = names.get(message.get("NDA_MASTER"), "")
    return FdbEntry(message.get("NDA_LLADDR"), names[message["ifindex"]], bridge, STATES[message["state"]])


def _qdisc(message: Any, names: Mapping[int, str]) -> Qdisc:
    kind, options = message.get("TCA_KIND"), message.get("TCA_OPTIONS")
    parms = options.get("TCA_TBF_PARMS") if kind == "tbf" else {"rate": 0, "limit": 0, "buffer": 0}
    where = names[message["index"]], kind, message["handle"], message["parent"]
    return Qdisc(*where, parms["rate"], parms["limit"], parms["buffer"])


def _filter(message: Any, names: Mapping[int, str]) -> Filter:
    acts = message.get_nested("TCA_OPTIONS", "TCA_U32_ACT")
    first = acts["attrs"][0][1] if acts else None
    mirred = first.get_nested("TCA_ACT_OPTIONS", "TCA_MIRRED_PARMS") if first else None
    to = mirred["ifindex"] if mirred and mirred["eaction"] == EGRESS_REDIRECT else 0
    where = names[message["index"]], message.get("TCA_KIND"), message["parent"], message["info"] >> 16
    return Filter(*where, names.get(to, ""))


# --- encoding ---------------------------------------------------------------------------------------

# Nowhere else does it set the flag of what is nested; so that `encode` is alike in all:
act_mirred.options.nla_flags = 0

MESSAGES = {"link": ifinfmsg, "address": ifaddrmsg, "route": rtmsg, "neighbour": ndmsg, "tc": tcmsg}


def encode(
    what: str,
    kind: int,
    flags: int,
    sequence: int,
    fields: Mapping[str, object],
    attributes: Sequence[tuple[str, object]],
) -> bytes:
    """One request as pyroute2 puts it on the wire, header included; `fields` are those of the family's struct.

    `encode("address", RTM_NEWADDR, flags, 7, {"family": 2, "prefixlen": 24, "index": 3}, [("IFA_LOCAL", "10.1.0.2")])`
    """
    message = MESSAGES[what]()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attributes)
    message["header"] = {"type": kind, "flags": flags, "sequence_number": sequence, "pid": 0}
    message.encode()
    return bytes(message.data)


# --- reading ----------------------------------------------------------------------------------------


def _dump(netns: Path | None, call: str, **arguments: object) -> list[Any]:
    def ask() -> list[Any]:
        with IPRoute() as route:
            return list(getattr(route, call)(**arguments))

    return namespaces.inside(netns, ask)


def _fdb(netns: Path | None) -> list[Any]:
    def ask() -> list[Any]:
        with IPRoute() as route:
            return list(route.fdb("dump"))

    return namespaces.inside(netns, ask)


def _names(netns: Path | None) -> dict[int, str]:
    return {message["index"]: message.get("IFLA_IFNAME") for message in _dump(netns, "get_links")}


def _links(netns: Path | None) -> dict[int, Link]:
    messages = {message["index"]: message for message in _dump(netns, "get_links")}
    return {index: _link(message, messages) for index, message in messages.items()}


def _link(message: Any, messages: Mapping[int, Any]) -> Link:
    info = message.get("IFLA_LINKINFO")
    port = info.get("IFLA_INFO_SLAVE_DATA") if info and info.get("IFLA_INFO_SLAVE_KIND") == "bridge" else None
    master = messages.get(message.get("IFLA_MASTER"))
    return Link(
        name=message.get("IFLA_IFNAME"),
        index=message["index"],
        kind=(info.get("IFLA_INFO_KIND") or "") if info else "",
        mac=message.get("IFLA_ADDRESS") or "",
        mtu=message.get("IFLA_MTU"),
        up=bool(message["flags"] & IFF_UP),
        alias=message.get("IFLA_IFALIAS") or "",
        group=message.get("IFLA_GROUP") or 0,
        master=master.get("IFLA_IFNAME") if master else "",
        peer_index=message.get("IFLA_LINK") or 0,
        hairpin=bool(port.get("IFLA_BRPORT_MODE")) if port else None,
        isolated=bool(port.get("IFLA_BRPORT_ISOLATED")) if port else None,
        learning=bool(port.get("IFLA_BRPORT_LEARNING")) if port else None,
        promisc=bool(message["flags"] & IFF_PROMISC),
        allmulti=bool(message["flags"] & IFF_ALLMULTI),
        txqlen=message.get("IFLA_TXQLEN"),
        raw=message,
    )

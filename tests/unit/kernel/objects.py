"""Kernel objects of every kind, for hypothesis; and the messages in which they would be asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from cni.kernel.forwarding import BACKENDS, ForwardOpening
from cni.kernel.inet import LinkAddress, LinkRoute
from cni.kernel.linksettings import LinkSettings, PortMtu
from cni.kernel.neighbour import FdbEntry, Neighbour
from cni.kernel.nft import Element
from cni.kernel.ports import Bridge, BridgePort, Ifb, LinkUp, Veth
from cni.kernel.sysctl import Sysctl
from cni.kernel.tc import IngressQdisc, Redirect, TokenBucket
from cni.wanted import Switch
from ipam.address import BITS, Address, Interface, Network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypothesis.strategies import SearchStrategy

U32 = st.integers(0, 0xFFFFFFFF)
U64 = st.integers(0, 0xFFFFFFFFFFFFFFFF)
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/: "), min_size=1, max_size=5)
MACS = st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":"))


def addresses(version: int) -> SearchStrategy[Address]:
    return st.builds(Address, st.just(version), st.integers(0, (1 << BITS[version]) - 1))


def _prefixed(version: int) -> SearchStrategy[Interface]:
    return st.builds(Interface, addresses(version), st.integers(0, BITS[version]))


VERSIONS = st.sampled_from((4, 6))
ADDRESSES = VERSIONS.flatmap(addresses)
PREFIXED = VERSIONS.flatmap(_prefixed)
NETWORKS = PREFIXED.map(lambda prefixed: prefixed.network)

VETHS = st.builds(Veth, NAMES, MACS, NAMES, MACS, U32, st.just("") | NAMES)
BRIDGES = st.builds(Bridge, NAMES, MACS, U32, st.booleans())
IFBS = st.builds(Ifb, NAMES, U32, MACS)
UPS = st.builds(LinkUp, NAMES)
PORTS = st.builds(BridgePort, NAMES, st.booleans(), st.booleans())
LINK_ADDRESSES = st.builds(LinkAddress, NAMES, PREFIXED, st.booleans(), st.booleans())


def _routes(dst: Network) -> SearchStrategy[LinkRoute]:
    others = st.none() | addresses(dst.version)
    scopes = st.none() | st.integers(0, 255)
    return st.builds(
        LinkRoute, NAMES, st.just(dst), others, U32, U32, U32, st.none() | U32, scopes, others, st.booleans()
    )


ROUTES = NETWORKS.flatmap(_routes)
OPENINGS = st.builds(ForwardOpening, ADDRESSES, st.sampled_from(BACKENDS), NAMES, NAMES)
NEIGHBOURS = st.builds(Neighbour, NAMES, ADDRESSES, MACS)
FDB_ENTRIES = st.builds(FdbEntry, NAMES, MACS)
PORT_MTUS = st.builds(PortMtu, NAMES, U32, U32)
SETTINGS = st.builds(
    LinkSettings,
    NAMES,
    st.just("") | MACS,
    st.none() | U32,
    st.none() | st.booleans(),
    st.none() | st.booleans(),
    st.none() | U32,
)
BUCKETS = st.builds(TokenBucket, NAMES, U64, U64, U32, U64)
HOOKS = st.builds(IngressQdisc, NAMES)
REDIRECTS = st.builds(Redirect, NAMES, NAMES, U64)
SYSCTLS = st.builds(Sysctl, NAMES.map("net/ipv4/conf/{}/arp_notify".format), st.sampled_from("012"))
SWITCHES = st.builds(Switch, BRIDGES, st.lists(PREFIXED, max_size=3).map(tuple), st.booleans())

# By nft's word for a type, all texts that are of it. Spaces are in no interface's name, and quotes in none for us.
FIELDS = {
    "ifname": st.text(st.characters(exclude_categories=("Cs", "Cc", "Z"), exclude_characters='/:"'), min_size=1)
    .map(lambda name: name.encode()[:15].decode("utf-8", "ignore"))
    .filter(bool),
    "ipv4_addr": addresses(4).map(str),
    "ipv6_addr": addresses(6).map(str),
    "ether_addr": MACS,
    "inet_proto": st.sampled_from(("tcp", "udp", "sctp", "udplite", "icmp")) | st.integers(200, 255).map(str),
    "inet_service": st.integers(0, 65535).map(str),
}


def typed(words: Sequence[str]) -> SearchStrategy[tuple[str, str]]:
    """A concatenation of these types, and a text of it."""
    return st.tuples(*[FIELDS[word] for word in words]).map(lambda texts: (" . ".join(words), " . ".join(texts)))


TYPED = st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=4).flatmap(typed)


def _element(key: tuple[str, str], value: tuple[str, str] | None, name: str, tag: str, family: str) -> Element:
    type, text = (f"{key[i]} : {value[i]}" if value else key[i] for i in (0, 1))
    return Element(name, type, text, tag, family=family)


ELEMENTS = st.builds(
    _element,
    TYPED,
    st.none() | TYPED,
    st.sampled_from(("pods4", "hostports_any4")),
    st.sampled_from(("pw0123456789abc", "")),
    st.sampled_from(("inet", "bridge")),
)

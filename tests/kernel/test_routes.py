"""Routes as we make them: seen by pyroute2, found by us, and gone when dropped, be it twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cni.kernel import inet, link
from cni.kernel.inet import LinkAddress, LinkRoute
from cni.kernel.link import Link
from cni.kernel.netlink import NetlinkError, Socket
from cni.kernel.ports import Bridge, LinkUp
from ipam.address import Address, Interface, Network
from tests import namespaces, oracle

STATIC = 4  # linux/rtnetlink.h: RTPROT_STATIC
V6_METRIC = 1024
"""What the kernel gives an IPv6 route that asks for none."""


@pytest.fixture
def br0(nl: Socket, bridge: Link) -> int:
    """The index of a bridge with addresses of both families."""
    for interface in ("10.0.0.1/24", "fd00::1/64"):
        nl.do(LinkAddress("br0", Interface.parse(interface)).make(bridge.ifindex))
    return bridge.ifindex


def to(dst: str, gw: str = "", *, src: str = "", **more: Any) -> LinkRoute:
    route = LinkRoute("br0", Network.parse(dst), Address.parse(gw) if gw else None, **more)
    return route._replace(src=Address.parse(src) if src else None)


def seen(dst: str, gw: str = "", *, scope: str = "global", table: int = oracle.MAIN, **more: int) -> oracle.Route:
    plain = oracle.Route(dst, "br0", gw, "", table, scope, "unicast", 0, 0, 0, STATIC)
    return replace(plain, **more)  # type: ignore[arg-type]  # mypy would have numbers in every field


CASES = {
    "default": (to("0.0.0.0/0", "10.0.0.2"), seen("0.0.0.0/0", "10.0.0.2")),
    "by a gateway": (to("10.9.0.0/16", "10.0.0.2"), seen("10.9.0.0/16", "10.0.0.2")),
    "on the link": (to("10.9.0.0/16"), seen("10.9.0.0/16", scope="link")),
    "on the link, with a scope": (to("10.9.0.0/16", scope=0), seen("10.9.0.0/16")),
    "on this very host": (to("10.9.0.7/32", scope=254), seen("10.9.0.7/32", scope="host")),
    "from an address": (
        to("10.9.0.0/16", "10.0.0.2", src="10.0.0.1"),
        replace(seen("10.9.0.0/16", "10.0.0.2"), src="10.0.0.1"),
    ),
    "one host": (to("10.9.0.7/32", "10.0.0.2"), seen("10.9.0.7/32", "10.0.0.2")),
    "mtu": (to("10.9.0.0/16", "10.0.0.2", mtu=1400), seen("10.9.0.0/16", "10.0.0.2", mtu=1400)),
    "advmss": (to("10.9.0.0/16", "10.0.0.2", advmss=1300), seen("10.9.0.0/16", "10.0.0.2", advmss=1300)),
    "priority": (to("10.9.0.0/16", "10.0.0.2", priority=7), seen("10.9.0.0/16", "10.0.0.2", priority=7)),
    "table": (to("10.9.0.0/16", "10.0.0.2", table=77), seen("10.9.0.0/16", "10.0.0.2", table=77)),
    "table of a high number": (to("10.9.0.0/16", "10.0.0.2", table=777), seen("10.9.0.0/16", "10.0.0.2", table=777)),
    "table 0": (to("10.9.0.0/16", "10.0.0.2", table=0), seen("10.9.0.0/16", "10.0.0.2")),
    "everything": (
        to("10.9.0.0/16", "10.0.0.2", mtu=1400, advmss=1300, priority=7, table=777, scope=200),
        seen("10.9.0.0/16", "10.0.0.2", mtu=1400, advmss=1300, priority=7, table=777, scope="site"),
    ),
    "v6 default": (to("::/0", "fd00::2"), seen("::/0", "fd00::2", priority=V6_METRIC)),
    "v6 on the link": (to("fd09::/48"), seen("fd09::/48", priority=V6_METRIC)),
    "v6 from an address": (
        to("fd09::/48", "fd00::2", src="fd00::1"),
        replace(seen("fd09::/48", "fd00::2", priority=V6_METRIC), src="fd00::1"),
    ),
    "v6 table 0": (to("fd09::/48", "fd00::2", table=0), seen("fd09::/48", "fd00::2", priority=V6_METRIC)),
    "v6 everything": (
        to("fd09::/48", "fd00::2", mtu=1400, advmss=1300, priority=7, table=777, scope=253),
        seen("fd09::/48", "fd00::2", mtu=1400, advmss=1300, priority=7, table=777),
    ),
}  # fmt: skip


def is_kept_out(nl: Socket, wanted: LinkRoute, index: int) -> bool:
    return any(wanted.is_kept_out_by(found, index) for found in inet.routes(nl, wanted.dst.version))


def routes(netns: Path, table: int) -> list[oracle.Route]:
    """Without those that came with the addresses."""
    return [route for route in oracle.routes(netns, table=table) if route.protocol == STATIC]


@pytest.mark.parametrize("case", CASES)
def test_a_route_is_as_it_was_asked_for_until_it_is_dropped(netns: Path, nl: Socket, br0: int, case: str) -> None:
    wanted, as_seen = CASES[case]
    nl.do(wanted.drop(br0))
    assert not wanted.find(nl, br0)

    nl.do(wanted.make(br0))

    assert routes(netns, as_seen.table) == [as_seen]
    assert wanted.find(nl, br0)

    nl.do(wanted.drop(br0))
    nl.do(wanted.drop(br0))

    assert routes(netns, as_seen.table) == []
    assert not wanted.find(nl, br0)


@pytest.mark.parametrize("version", [4, 6])
def test_a_route_that_is_there_already_stays_as_it_is(netns: Path, nl: Socket, br0: int, version: int) -> None:
    dst, gw = ("10.9.0.0/16", "10.0.0.2") if version == 4 else ("fd09::/48", "fd00::2")
    nl.do(to(dst, gw, mtu=1400).make(br0))

    nl.do(to(dst, gw, mtu=1300).make(br0))

    assert [route.mtu for route in routes(netns, oracle.MAIN)] == [1400]
    assert not to(dst, gw, mtu=1300).find(nl, br0)


@pytest.mark.parametrize("version", [4, 6])
def test_a_route_that_takes_over_leads_where_it_says_whatever_was_there(
    netns: Path, nl: Socket, br0: int, version: int
) -> None:
    nl.do(Bridge("br1", "02:00:00:00:00:07", 0).make())
    other = link.need(nl, "br1").ifindex
    nl.do(LinkUp("br1").make(other))
    old = to("10.9.0.7/32" if version == 4 else "fd09::7/128")
    new = old._replace(link="br1", takes_over=True)
    nl.do(old.make(br0))

    nl.do(new.make(other))
    nl.do(new.make(other))
    nl.do(old.drop(br0))  # comes late

    assert [route.link for route in routes(netns, oracle.MAIN)] == ["br1"]
    assert new.find(nl, other)
    assert not new.is_kept_out_by(to(str(old.dst))._replace(link=f"if{br0}"), other)


@pytest.mark.parametrize(
    "other",
    [
        "10.9.0.0/16 via 10.0.0.3",
        "10.9.0.0/16 dev br0",
        "10.9.0.0/16 via 10.0.0.2 table 77",
        "10.9.0.0/24 via 10.0.0.2",
        "unreachable 10.9.0.0/16",
    ],
)
def test_another_route_is_not_taken_for_the_wanted_one(netns: Path, nl: Socket, br0: int, other: str) -> None:
    namespaces.shell(netns, f"ip route add {other}")

    assert not to("10.9.0.0/16", "10.0.0.2").find(nl, br0)


def test_a_source_that_was_asked_for_must_be_there(netns: Path, nl: Socket, br0: int) -> None:
    namespaces.shell(netns, "ip route add 10.9.0.0/16 via 10.0.0.2")

    assert not to("10.9.0.0/16", "10.0.0.2", src="10.0.0.1").find(nl, br0)
    assert to("10.9.0.0/16", "10.0.0.2").find(nl, br0)


def test_a_scope_that_was_asked_for_must_be_there(netns: Path, nl: Socket, br0: int) -> None:
    namespaces.shell(netns, "ip route add 10.9.0.0/16 dev br0 scope host")

    assert not to("10.9.0.0/16", scope=253).find(nl, br0)
    assert to("10.9.0.0/16").find(nl, br0)


def test_a_gateway_that_cannot_be_reached_is_an_error_in_the_words_of_ip(nl: Socket, br0: int) -> None:
    wanted = to("10.9.0.0/16", "10.7.0.1", priority=7)

    with pytest.raises(
        NetlinkError,
        match=r"^ip route add 10.9.0.0/16 via 10.7.0.1 dev br0 proto static metric 7: .*gateway.*\(ENETUNREACH\)$",
    ):
        nl.do(wanted.make(br0))


def test_a_link_that_is_gone_has_no_routes_and_none_can_be_given(nl: Socket) -> None:
    for wanted in (to("10.9.0.0/16"), to("fd09::/48")):
        assert not wanted.find(nl, 999)
        nl.do(wanted.drop(999))
        with pytest.raises(NetlinkError):
            nl.do(wanted.make(999))


def test_of_one_link_its_own_unicast_routes_of_all_tables_are_listed(netns: Path, nl: Socket, br0: int) -> None:
    namespaces.shell(netns, "ip link add br1 type bridge; ip link set br1 up; ip address add 10.1.0.1/24 dev br1")
    namespaces.shell(netns, "ip route add 10.8.0.0/16 via 10.1.0.2; ip route add unreachable 10.7.0.0/16")
    nl.do(to("10.9.0.0/16").make(br0), to("10.6.0.0/16", "10.0.0.2", table=77).make(br0), to("fd09::/48").make(br0))

    found = {version: [str(one.dst) for one in inet.routes(nl, version, br0)] for version in (4, 6)}

    assert sorted(found[4]) == ["10.0.0.0/24", "10.6.0.0/16", "10.9.0.0/16"]
    assert sorted(dst for dst in found[6] if not dst.startswith("fe80:")) == ["fd00::/64", "fd09::/48"]


@pytest.mark.parametrize(
    "wanted", [to("10.9.0.0/16"), to("10.9.0.0/16", priority=7), to("fd09::/48"), to("fd09::/48", table=77)], ids=str
)
def test_a_route_over_another_link_keeps_the_wanted_one_out(
    netns: Path, nl: Socket, br0: int, wanted: LinkRoute
) -> None:
    nl.do(Bridge("br1", "02:00:00:00:00:02", 0).make())
    other = link.need(nl, "br1").ifindex
    nl.do(LinkUp("br1").make(other), LinkAddress("br1", Interface.parse("fd01::1/64")).make(other))
    assert not is_kept_out(nl, wanted, br0)

    nl.do(wanted._replace(link="br1").make(other))
    nl.do(wanted.make(br0))

    assert is_kept_out(nl, wanted, br0)
    assert not wanted.find(nl, br0)
    assert not is_kept_out(nl, wanted, other)
    for elsewhere in (wanted._replace(priority=9), wanted._replace(table=78)):
        nl.do(elsewhere.make(br0))
        assert not is_kept_out(nl, elsewhere, br0)
        assert elsewhere.find(nl, br0)


def test_over_any_link_all_unicast_routes_are_listed(netns: Path, nl: Socket, br0: int) -> None:
    namespaces.shell(netns, "ip link add br1 type bridge; ip link set br1 up; ip address add 10.1.0.1/24 dev br1")

    found = {(str(one.dst), one.link) for one in inet.routes(nl, 4)}

    br1 = link.need(nl, "br1").ifindex
    assert found == {("10.0.0.0/24", f"if{br0}"), ("10.1.0.0/24", f"if{br1}")}


def test_links_that_live_on_router_advertisements_are_known(netns: Path, nl: Socket, br0: int) -> None:
    assert inet.advertised_links(nl) == frozenset()
    namespaces.shell(netns, "ip -6 route add default via fd00::2 proto static metric 9")
    assert inet.advertised_links(nl) == frozenset()

    namespaces.shell(netns, "ip -6 route add default via fd00::2 proto ra metric 1024")

    assert inet.advertised_links(nl) == {br0}

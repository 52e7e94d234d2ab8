"""Ranges and range sets: defaults, refusals, and the order in which addresses are tried."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.address import Address, Interface, Network
from ipam.ranges import Range, RangeSet, Run, address, exclusion, require_disjoint

if TYPE_CHECKING:
    from collections.abc import Iterable

POD = "10.1.0.0/24"


def at(text: str) -> Address:
    return Address.parse(text)


def tried(runs: Iterable[Run]) -> list[str]:
    return [str(Address(run.range.network.version, value)) for run in runs for value in range(run.first, run.last + 1)]


# --- one range --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subnet", "start", "end", "gateway"),
    [
        ("10.1.0.0/24", "10.1.0.1", "10.1.0.254", "10.1.0.1"),
        ("10.0.0.0/8", "10.0.0.1", "10.255.255.254", "10.0.0.1"),
        ("10.1.0.4/30", "10.1.0.5", "10.1.0.6", "10.1.0.5"),
        ("10.1.0.4/31", "10.1.0.4", "10.1.0.5", "10.1.0.5"),
        ("0.0.0.0/0", "0.0.0.1", "255.255.255.254", "0.0.0.1"),
        ("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff", "fd00::1"),
        ("fd00::/8", "fd00::1", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fd00::1"),
        ("fd00::4/126", "fd00::5", "fd00::7", "fd00::5"),
        ("fd00::4/127", "fd00::4", "fd00::5", "fd00::5"),
    ],
)
def test_a_subnet_alone_is_a_range(subnet: str, start: str, end: str, gateway: str) -> None:
    assert Range.parse(subnet) == Range(Network.parse(subnet), at(start), at(end), at(gateway))


@given(st.ip_addresses(), st.integers(0, 126))
def test_every_host_of_a_subnet_is_in_its_range(
    inside: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int
) -> None:
    network = ipaddress.ip_network((inside, min(length, inside.max_prefixlen - 2)), strict=False)
    if network.version == 6 and network.subnet_of(ipaddress.IPv6Network("::ffff:0:0/96")):
        return

    found = Range.parse(str(network))

    ends = [network.network_address + 1, network.broadcast_address - (1 if network.version == 4 else 0)]
    assert [found.start.value, found.end.value] == [int(end) for end in ends]
    assert not found.holds(Address(network.version, int(network.network_address)))
    assert all(found.holds(Address(network.version, int(end))) for end in ends)


def test_ends_and_gateway_can_be_chosen() -> None:
    found = Range.parse(POD, "10.1.0.10", "10.1.0.20", "10.1.0.254")

    assert (str(found), str(found.gateway)) == ("10.1.0.10-10.1.0.20", "10.1.0.254")
    assert [found.holds(at(f"10.1.0.{i}")) for i in (9, 10, 20, 21)] == [False, True, True, False]
    assert not found.holds(Address(6, at("10.1.0.10").value))


@pytest.mark.parametrize(("subnet", "gateway"), [(POD, "169.254.1.1"), ("fd00::/64", "fe80::1")])
def test_a_gateway_may_be_link_local(subnet: str, gateway: str) -> None:
    assert Range.parse(subnet, gateway=gateway).gateway == at(gateway)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("10.1.0.5/24",), "Network has host bits set. For a subnet mask of length 24 the network address is 10.1.0.0"),
        (("10.1.0.5/32",), "Network 10.1.0.5/32 too small to allocate from"),
        (("fd00::5/128",), "Network fd00::5/128 too small to allocate from"),
        (("::ffff:10.1.0.0/120",), "Network ::ffff:10.1.0.0/120 holds IPv4 addresses written as IPv6"),
        ((POD, "10.1.1.9"), "RangeStart 10.1.1.9 not in network 10.1.0.0/24"),
        ((POD, "fd00::1"), "RangeStart fd00::1 not in network 10.1.0.0/24"),
        ((POD, "", "10.2.0.9"), "RangeEnd 10.2.0.9 not in network 10.1.0.0/24"),
        ((POD, "10.1.0.9", "10.1.0.3"), "RangeStart 10.1.0.9 not in network 10.1.0.0/24 up to RangeEnd 10.1.0.3"),
        ((POD, "", "", "10.9.0.1"), "gateway 10.9.0.1 not in network 10.1.0.0/24"),
        ((POD, "", "", "fe80::1"), "gateway fe80::1 not in network 10.1.0.0/24"),
        ((POD, "x"), "invalid IP address: 'x'"),
        (("",), "invalid CIDR address: ''"),
    ],
)
def test_what_cannot_be_a_range_is_refused_in_the_words_of_the_reference(
    arguments: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ValueError) as raised:
        Range.parse(*arguments)

    assert str(raised.value) == words


def test_an_address_of_ipv4_may_be_written_as_one_of_ipv6() -> None:
    assert address("::ffff:10.1.0.5") == at("10.1.0.5")
    assert Range.parse(POD, "::ffff:10.1.0.5").start == at("10.1.0.5")


# --- range sets -------------------------------------------------------------------------------------


def ranges(*found: tuple[str, str, str] | str) -> RangeSet:
    return RangeSet.of([Range.parse(one) if isinstance(one, str) else Range.parse(*one) for one in found])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((), "empty range set"),
        ((POD, "fd00::/64"), "mixed address families"),
        ((POD, "10.1.0.0/25"), "subnets 10.1.0.1-10.1.0.254 and 10.1.0.1-10.1.0.126 overlap"),
        (("10.1.0.0/25", "10.2.0.0/24", POD), "subnets 10.1.0.1-10.1.0.126 and 10.1.0.1-10.1.0.254 overlap"),
        (((POD, "10.1.0.5", "10.1.0.9"), (POD, "10.1.0.9", "10.1.0.12")),
         "subnets 10.1.0.5-10.1.0.9 and 10.1.0.9-10.1.0.12 overlap"),
    ],
)  # fmt: skip
def test_ranges_that_do_not_go_together_are_refused(found: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError) as raised:
        ranges(*found)

    assert str(raised.value) == words


def test_two_stretches_of_one_subnet_go_together() -> None:
    found = ranges((POD, "10.1.0.10", "10.1.0.12"), (POD, "10.1.0.20", "10.1.0.21"))

    assert str(found) == "10.1.0.10-10.1.0.12,10.1.0.20-10.1.0.21"
    assert found.range_of(at("10.1.0.20")) == found.ranges[1]
    assert found.range_of(at("10.1.0.15")) is None


def test_sets_must_not_share_an_address() -> None:
    require_disjoint([ranges(POD), ranges("fd00::/64"), ranges("10.2.0.0/24")])

    with pytest.raises(ValueError, match="range set 1 overlaps with 3"):
        require_disjoint(
            [ranges("10.2.0.0/24"), ranges(POD), ranges("fd00::/64"), ranges("10.3.0.0/24", "10.1.0.64/26")]
        )


# --- the order --------------------------------------------------------------------------------------

TWO = ranges((POD, "10.1.0.10", "10.1.0.12"), ("10.2.0.0/24", "10.2.0.20", "10.2.0.21"))


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("", "1.10 1.11 1.12 2.20 2.21"),
        ("10.1.0.10", "1.11 1.12 2.20 2.21 1.10"),
        ("10.1.0.12", "2.20 2.21 1.10 1.11 1.12"),
        ("10.2.0.20", "2.21 1.10 1.11 1.12 2.20"),
        ("10.2.0.21", "1.10 1.11 1.12 2.20 2.21"),
        ("10.9.0.9", "1.10 1.11 1.12 2.20 2.21"),
        ("fd00::1", "1.10 1.11 1.12 2.20 2.21"),
    ],
)
def test_the_order_is_round_robin_through_all_ranges_and_ends_with_the_last_one_given(last: str, expected: str) -> None:
    found = tried(TWO.order(at(last) if last else None))

    assert found == ["10.{}.0.{}".format(*one.split(".")) for one in expected.split()]


@given(st.data())
def test_every_address_is_tried_exactly_once(data: st.DataObject) -> None:
    edges = data.draw(st.lists(st.integers(1, 254), min_size=2, max_size=12, unique=True).map(sorted))
    pairs = list(zip(edges[::2], edges[1::2]))
    found = ranges(*[(POD, f"10.1.0.{first}", f"10.1.0.{last}") for first, last in data.draw(st.permutations(pairs))])
    everything = [f"10.1.0.{value}" for first, last in pairs for value in range(first, last + 1)]
    last = data.draw(st.none() | st.sampled_from(everything))

    order = tried(found.order(at(last) if last else None))

    assert sorted(order) == sorted(everything)
    assert last is None or order[-1] == last


def test_a_range_of_any_size_costs_the_same() -> None:
    found = ranges("fd00::/8", "fc00::/8")

    runs = found.order(at("fd00:1234::5"))

    assert len(runs) == 3
    assert sum(run.last - run.first + 1 for run in runs) == 2 * (2**120 - 1)


# --- exclusions ---------------------------------------------------------------------------------------


def without(*texts: str, subnet: str = "10.1.0.0/28") -> Range:
    return Range.parse(subnet).without([exclusion(text) for text in texts])


@pytest.mark.parametrize(
    ("texts", "left"),
    [
        ((), [(1, 14)]),
        (("10.1.0.3",), [(1, 2), (4, 14)]),
        (("10.1.0.4/30", "10.1.0.5"), [(1, 3), (8, 14)]),
        (("10.1.0.0/30", "10.1.0.12/30"), [(4, 11)]),
        (("10.1.0.12", "10.1.0.2", "10.1.0.3"), [(1, 1), (4, 11), (13, 14)]),
        (("10.1.0.0/24",), []),
        (("10.2.0.0/24", "fd00::/64", "::/0"), [(1, 14)]),
        (("::ffff:10.1.0.3",), [(1, 2), (4, 14)]),
    ],
)
def test_what_is_excluded_is_not_tried(texts: tuple[str, ...], left: list[tuple[int, int]]) -> None:
    runs = RangeSet.of([without(*texts)]).order(None)

    assert [(run.first & 0xFF, run.last & 0xFF) for run in runs] == left


@given(
    st.lists(st.tuples(st.integers(0, 63), st.integers(26, 32)), max_size=6), st.one_of(st.none(), st.integers(1, 62))
)
def test_the_order_without_exclusions_is_the_order_less_what_is_excluded(
    blocks: list[tuple[int, int]], last: int | None
) -> None:
    base = Range.parse("10.1.0.0/26")
    networks = [Interface(base.network.first.plus(at), length).network for at, length in blocks]
    behind = None if last is None else base.network.first.plus(last)

    def values(one: Range) -> list[int]:
        return [value for run in RangeSet.of([one]).order(behind) for value in range(run.first, run.last + 1)]

    expected = [value for value in values(base) if not any(one.holds(Address(4, value)) for one in networks)]
    assert values(base.without(networks)) == expected


def test_an_excluded_address_is_in_its_range_and_given_to_nobody() -> None:
    ranges = RangeSet.of([without("10.1.0.4/30")])
    here, there, gateway = (Address.parse(f"10.1.0.{i}") for i in (5, 8, 1))

    assert ranges.range_of(here)
    assert [ranges.gives(one) for one in (here, there, gateway)] == [False, True, False]


@pytest.mark.parametrize("text", ["", "10.1.0", "10.1.0.1/24", "10.1.0.0/33", "10.1.0.1-10.1.0.5"])
def test_an_exclusion_is_an_address_or_a_network(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid|host bits"):
        exclusion(text)

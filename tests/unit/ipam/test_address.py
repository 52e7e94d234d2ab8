"""Addresses as integers, against the standard `ipaddress`."""

from __future__ import annotations

import ipaddress
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipam.address import BITS, Address, Interface, Network, default_route

OracleAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
OracleNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

addresses = st.ip_addresses()
almost_addresses = st.text("0123456789abcdefABCDEFg:. /-+_٣\0", max_size=45)
"""Everything that an address is made of, and some that it isn't; no "%", since zones are no addresses here."""


def ours(address: OracleAddress) -> Address:
    return Address(address.version, int(address))


def networks() -> st.SearchStrategy[OracleNetwork]:
    def of(version: Literal[4, 6]) -> st.SearchStrategy[OracleNetwork]:
        return st.tuples(st.ip_addresses(v=version), st.integers(0, BITS[version])).map(
            lambda pair: ipaddress.ip_network(pair, strict=False)
        )

    return st.one_of(of(4), of(6))


def oracle_or_none(text: str) -> OracleAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def is_mapped(address: OracleAddress) -> bool:
    return address.version == 6 and int(address) >> 32 == 0xFFFF


# --- addresses --------------------------------------------------------------------------------------


@given(addresses)
@example(ipaddress.ip_address("::"))
@example(ipaddress.ip_address("::1"))
@example(ipaddress.ip_address("::1:2"))
@example(ipaddress.ip_address("::102:304"))
@example(ipaddress.ip_address("1:0:0:2:0:0:0:3"))
@example(ipaddress.ip_address("255.255.255.255"))
def test_an_address_reads_and_writes_as_the_oracle_has_it(oracle: OracleAddress) -> None:
    for text in {str(oracle), oracle.exploded, str(oracle).upper()}:
        assert Address.parse(text) == ours(oracle)
    assert Address.from_packed(oracle.packed) == ours(oracle)
    assert ours(oracle).packed == oracle.packed
    if not is_mapped(oracle):  # which the oracle writes in another way from Python 3.13 on
        assert str(ours(oracle)) == oracle.compressed


@given(st.integers(0, 2**32 - 1))
def test_there_is_one_spelling_of_an_address_also_where_libc_has_a_dotted_tail(tail: int) -> None:
    for high in (0, 0xFFFF << 32):
        text = str(Address(6, high | tail))

        assert "." not in text
        assert text == text.lower()
        assert int(ipaddress.IPv6Address(text)) == high | tail


@given(almost_addresses)
@example("010.1.1.1")
@example("1.2.3.4.5")
@example("1::2::3")
@example("10.1.0.5\0")
@example("")
def test_only_addresses_are_read_as_addresses(text: str) -> None:
    oracle = oracle_or_none(text)

    if oracle is None:
        with pytest.raises(ValueError, match="invalid IP address") as raised:
            Address.parse(text)
        assert repr(text) in str(raised.value)
    else:
        assert Address.parse(text) == ours(oracle)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "10.1.0.1/16", " 10.1.0.1", "10.1.0.1\n", "\ud800", "٣.1.1.1"])
def test_zones_prefixes_blanks_and_foreign_digits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid IP address"):
        Address.parse(text)


@given(addresses, addresses)
def test_addresses_are_ordered_by_family_and_then_by_value(one: OracleAddress, other: OracleAddress) -> None:
    expected = (one.version, int(one)) < (other.version, int(other))

    assert (ours(one) < ours(other)) is expected


@given(addresses, st.integers(-(2**33), 2**33))
@example(ipaddress.ip_address("0.0.0.0"), -1)
@example(ipaddress.ip_address("255.255.255.255"), 1)
@example(ipaddress.ip_address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), 1)
def test_counting_on_ends_at_the_edges_of_the_family(oracle: OracleAddress, count: int) -> None:
    try:
        expected = ours(oracle + count)
    except ipaddress.AddressValueError:
        with pytest.raises(ValueError, match="is not an IPv"):
            ours(oracle).plus(count)
    else:
        assert ours(oracle).plus(count) == expected


@given(addresses)
def test_an_address_alone_has_the_longest_prefix(oracle: OracleAddress) -> None:
    assert str(ours(oracle).alone()) == f"{ours(oracle)}/{oracle.max_prefixlen}"


# --- networks ---------------------------------------------------------------------------------------


@given(networks())
def test_a_network_reads_and_writes_as_the_oracle_has_it(oracle: OracleNetwork) -> None:
    network = Network.parse(str(oracle))

    assert network.first == ours(oracle.network_address)
    assert network.last == ours(oracle.broadcast_address)
    assert (network.version, network.length) == (oracle.version, oracle.prefixlen)
    assert Network.parse(str(network)) == network


@given(networks(), addresses)
def test_a_network_holds_what_the_oracle_says_it_holds(oracle: OracleNetwork, address: OracleAddress) -> None:
    network = Network.parse(str(oracle))

    for one in (address, oracle.network_address, oracle.broadcast_address):
        assert network.holds(ours(one)) is (one in oracle)
    for edge, step in ((network.first, -1), (network.last, 1)):
        try:
            outside = edge.plus(step)
        except ValueError:
            continue
        assert not network.holds(outside)


@given(networks(), networks())
def test_networks_overlap_when_the_oracle_says_so(one: OracleNetwork, other: OracleNetwork) -> None:
    expected = one.version == other.version and one.overlaps(other)

    assert Network.parse(str(one)).overlaps(Network.parse(str(other))) is expected


@given(networks(), st.integers(0, 128))
def test_a_network_overlaps_each_of_its_own_parts(oracle: OracleNetwork, longer: int) -> None:
    whole = Network.parse(str(oracle))
    part = Interface(whole.last, min(whole.length + longer, BITS[whole.version])).network

    assert whole.overlaps(part)
    assert part.overlaps(whole)


@given(networks().filter(lambda network: network.num_addresses > 1))
def test_host_bits_are_refused_and_the_network_is_named(oracle: OracleNetwork) -> None:
    with pytest.raises(ValueError, match="has host bits set") as raised:
        Network.parse(f"{oracle.broadcast_address}/{oracle.prefixlen}")

    assert str(raised.value).endswith(str(Network.parse(str(oracle))))


def test_default_routes_are_the_empty_prefixes() -> None:
    assert [str(default_route(version)) for version in (4, 6)] == ["0.0.0.0/0", "::/0"]


# --- interfaces -------------------------------------------------------------------------------------


@given(addresses, st.integers(0, 128))
def test_an_interface_is_an_address_in_its_network(oracle: OracleAddress, length: int) -> None:
    length = min(length, oracle.max_prefixlen)

    interface = Interface.parse(f"{oracle}/{length}")

    assert interface == Interface(ours(oracle), length)
    assert str(interface) == f"{ours(oracle)}/{length}"
    assert interface.network == Network.parse(str(ipaddress.ip_network((oracle, length), strict=False)))


@pytest.mark.parametrize(
    "text",
    ["", "/", "10.1.0.1", "10.1.0.1/", "/16", "10.1.0.1/33", "fd00::1/129", "10.1.0.1/016", "10.1.0.1/-1",
     "10.1.0.1/+8", "10.1.0.1/1_6", "10.1.0.1/٣", "10.1.0.1/255.255.0.0", "10.1.0.1/16/16", "10.1.0.1/16 ", "10.1/16",
     "10.1.0.1/" + "1" * 5000],
)  # fmt: skip
def test_only_an_address_with_a_length_is_an_interface(text: str) -> None:
    with pytest.raises(ValueError, match="invalid"):
        Interface.parse(text)

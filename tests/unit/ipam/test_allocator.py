"""Who gets which address, over a store in memory."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from ipam import census
from ipam.address import Address
from ipam.allocator import AllocationError, Lease, allocate, assign
from ipam.errors import Exhausted, IsExcluded, IsGateway, Taken, Unmatched
from ipam.ranges import Range, RangeSet, exclusion
from ipam.releasing import collect, release
from tests.unit.ipam.memory import Memory

if TYPE_CHECKING:
    from ipam.releasing import Store

SMALL = RangeSet.of([Range.parse("10.1.0.0/29")])  # .1 is the gateway, .2 to .6 can be had
SIX = RangeSet.of([Range.parse("fd00::/64")])
TWO = RangeSet.of(
    [Range.parse("10.2.0.0/24", "10.2.0.10", "10.2.0.11"), Range.parse("10.3.0.0/24", "10.3.0.5", "10.3.0.6")]
)


def at(text: str) -> Address:
    return Address.parse(text)


def given(store: Store, owner: str, *sets: RangeSet, requested: tuple[str, ...] = ()) -> list[str]:
    return [str(lease.address) for lease in allocate(store, owner, sets, [at(one) for one in requested])]


# --- one after the other ----------------------------------------------------------------------------


def test_each_owner_gets_the_next_address_and_never_the_gateway() -> None:
    store = Memory()

    assert [given(store, f"c{i}", SMALL) for i in range(5)] == [[f"10.1.0.{i}/29"] for i in (2, 3, 4, 5, 6)]
    assert at("10.1.0.1") not in store.tried


def test_a_lease_says_the_prefix_and_the_gateway_of_its_range() -> None:
    store = Memory()

    leases = [allocate(store, owner, [TWO])[0] for owner in "abc"]

    assert [(str(lease.address), str(lease.gateway)) for lease in leases] == [
        ("10.2.0.10/24", "10.2.0.1"),
        ("10.2.0.11/24", "10.2.0.1"),
        ("10.3.0.5/24", "10.3.0.1"),
    ]


def test_an_address_given_back_rests_until_all_others_had_their_turn() -> None:
    store = Memory()
    given(store, "a", SMALL)
    release(store, "a")

    assert [given(store, f"c{i}", SMALL) for i in range(5)] == [[f"10.1.0.{i}/29"] for i in (3, 4, 5, 6, 2)]


def test_the_order_goes_on_where_a_requested_address_was() -> None:
    store = Memory()
    given(store, "a", SMALL, requested=("10.1.0.4",))

    assert given(store, "b", SMALL) == ["10.1.0.5/29"]


def test_the_last_one_given_may_be_in_no_range_any_more() -> None:
    store = Memory()
    store.remember(0, at("192.0.2.1"))

    assert given(store, "a", SMALL) == ["10.1.0.2/29"]


def test_no_range_of_a_set_gives_away_the_gateway_of_another() -> None:
    subnet = "10.2.0.0/24"
    low = Range.parse(subnet, "10.2.0.1", "10.2.0.2", "10.2.0.9")
    high = Range.parse(subnet, "10.2.0.8", "10.2.0.10")
    store = Memory()

    found = [given(store, f"c{i}", RangeSet.of([low, high])) for i in range(3)]

    assert found == [["10.2.0.2/24"], ["10.2.0.8/24"], ["10.2.0.10/24"]]


def test_one_address_from_each_set() -> None:
    store = Memory()

    assert given(store, "a", SMALL, SIX) == ["10.1.0.2/29", "fd00::2/64"]
    assert store.held == {at("10.1.0.2"): "a", at("fd00::2"): "a"}
    assert store.remembered == {0: at("10.1.0.2"), 1: at("fd00::2")}


# --- again ------------------------------------------------------------------------------------------


def test_asking_again_gets_the_same() -> None:
    store = Memory()
    first = given(store, "a", SMALL, SIX)

    assert given(store, "a", SMALL, SIX) == first
    assert len(store.held) == 2


def test_what_a_crash_left_of_two_is_completed() -> None:
    store = Memory({at("fd00::7"): "a"})

    assert given(store, "a", SMALL, SIX) == ["10.1.0.2/29", "fd00::7/64"]


def test_what_is_held_outside_the_ranges_does_not_count() -> None:
    store = Memory({at("192.0.2.7"): "a", at("10.1.0.1"): "a"})

    assert given(store, "a", SMALL) == ["10.1.0.2/29"]


def test_another_owner_of_the_same_name_and_more_is_another_owner() -> None:
    store = Memory()
    given(store, "a\r\neth0", SMALL)

    assert given(store, "a\r\neth1", SMALL) == ["10.1.0.3/29"]


# --- requested --------------------------------------------------------------------------------------


def test_a_requested_address_is_given() -> None:
    store = Memory()

    assert given(store, "a", SMALL, SIX, requested=("fd00::1234",)) == ["10.1.0.2/29", "fd00::1234/64"]


def test_each_set_takes_the_first_requested_address_that_lies_in_it() -> None:
    wanted = [at("fd00::5"), at("10.1.0.4"), at("fd00::5")]

    assert assign([SMALL, SIX, TWO], wanted) == [at("10.1.0.4"), at("fd00::5"), None]


@pytest.mark.parametrize(
    ("requested", "words"),
    [
        (("10.9.0.1",), "failed to allocate all requested IPs: 10.9.0.1"),
        (("10.1.0.3", "10.1.0.4", "fd01::1"), "failed to allocate all requested IPs: 10.1.0.4 fd01::1"),
        (("10.1.0.0",), "failed to allocate all requested IPs: 10.1.0.0"),
    ],
)
def test_requested_addresses_that_cannot_be_placed_are_an_error(requested: tuple[str, ...], words: str) -> None:
    store = Memory()

    with pytest.raises(Unmatched) as raised:
        given(store, "a", SMALL, SIX, requested=requested)

    assert str(raised.value) == words
    assert not store.held


def test_a_gateway_cannot_be_requested() -> None:
    with pytest.raises(IsGateway) as raised:
        given(Memory(), "a", SMALL, requested=("10.1.0.1",))

    assert str(raised.value) == "failed to allocate for range 0: requested ip 10.1.0.1 is subnet's gateway"


def test_a_requested_address_of_somebody_else_names_its_holder() -> None:
    store = Memory({at("10.1.0.3"): "b"})

    with pytest.raises(Taken) as raised:
        given(store, "a", SMALL, requested=("10.1.0.3",))

    assert str(raised.value) == (
        "failed to allocate for range 0: requested IP address 10.1.0.3 is not available in range set 10.1.0.1-10.1.0.6"
    )
    assert (raised.value.address, raised.value.owner) == (at("10.1.0.3"), "b")


def test_a_requested_address_that_is_held_already_is_kept() -> None:
    store = Memory({at("10.1.0.3"): "a", at("10.1.0.5"): "a"})

    assert given(store, "a", SMALL, requested=("10.1.0.5",)) == ["10.1.0.5/29"]
    assert given(store, "a", SMALL, requested=("10.1.0.6",)) == ["10.1.0.6/29"]


# --- all or none ------------------------------------------------------------------------------------


def full(ranges: RangeSet) -> dict[Address, str]:
    return {
        Address(ranges.version, value): "x" for run in ranges.order(None) for value in range(run.first, run.last + 1)
    }


@pytest.mark.parametrize("ranges", [SMALL, TWO])
def test_a_full_range_is_an_error_that_names_it(ranges: RangeSet) -> None:
    store = Memory(full(ranges))

    with pytest.raises(Exhausted) as raised:
        given(store, "a", ranges)

    assert str(raised.value) == f"failed to allocate for range 0: no IP addresses available in range set: {ranges}"


def test_when_one_set_is_full_nothing_of_the_others_is_kept() -> None:
    store = Memory(before := full(TWO))

    with pytest.raises(Exhausted, match="failed to allocate for range 2"):
        given(store, "a", SMALL, SIX, TWO)

    assert store.held == before


def test_what_was_held_before_a_failure_is_held_after_it() -> None:
    store = Memory(before := {at("10.1.0.4"): "a", **full(TWO)})

    with pytest.raises(Exhausted):
        given(store, "a", SMALL, SIX, TWO)

    assert store.held == before


def test_what_nobody_owns_is_given_before_a_range_is_called_full() -> None:
    store = Memory({**full(SMALL), at("10.1.0.4"): "", at("10.1.0.1"): "", at("192.0.2.1"): ""})

    assert given(store, "a", SMALL) == ["10.1.0.4/29"]
    with pytest.raises(Exhausted):
        given(store, "b", SMALL)


class Failing(Memory):
    """Fails at the third claim, and at giving back the first."""

    def claim(self, address: Address, owner: str) -> bool:
        if len(self.held) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().claim(address, owner)

    def free(self, address: Address, owner: str) -> None:
        if address == at("10.1.0.2"):
            raise OSError(errno.EIO, "Input/output error")
        super().free(address, owner)


def test_when_the_store_fails_that_is_the_error_and_everything_else_is_given_back() -> None:
    store = Failing()

    with pytest.raises(OSError) as raised:
        given(store, "a", SMALL, SIX, TWO)

    assert raised.value.errno == errno.ENOSPC
    assert store.held == {at("10.1.0.2"): "a"}


# --- giving back ------------------------------------------------------------------------------------


def test_release_gives_back_all_of_one_owner_and_nothing_of_another() -> None:
    store = Memory({at("10.1.0.4"): "a", at("fd00::5"): "a", at("10.1.0.5"): "b"})

    assert release(store, "a") == [at("10.1.0.4"), at("fd00::5")]
    assert release(store, "a") == []
    assert store.held == {at("10.1.0.5"): "b"}


def test_collect_gives_back_what_belongs_to_none_of_the_living() -> None:
    store = Memory({at("10.1.0.4"): "a", at("fd00::5"): "a", at("10.1.0.5"): "b", at("10.1.0.6"): ""})

    assert sorted(collect(store, lambda owner: owner == "b")) == [at("10.1.0.4"), at("10.1.0.6"), at("fd00::5")]
    assert store.held == {at("10.1.0.5"): "b"}


def test_collect_goes_on_where_giving_back_fails_and_says_so_at_the_end() -> None:
    store = Failing({at("10.1.0.2"): "a", at("10.1.0.3"): "a"})

    with pytest.raises(OSError) as raised:
        collect(store, lambda _: False)

    assert raised.value.errno == errno.EIO
    assert store.held == {at("10.1.0.2"): "a"}


# --- size -------------------------------------------------------------------------------------------


def test_a_large_range_is_searched_without_being_listed() -> None:
    huge = RangeSet.of([Range.parse("fd00::/8")])
    store = Memory()
    store.remember(0, huge.ranges[0].end)

    lease = allocate(store, "a", [huge])

    assert lease == (Lease(at("fd00::2").alone()._replace(length=8), at("fd00::1")),)
    assert len(store.tried) == 1


def test_all_that_can_go_wrong_with_an_allocation_has_one_name() -> None:
    assert {Exhausted, IsExcluded, IsGateway, Taken, Unmatched} == set(AllocationError.__subclasses__())


# --- exclusions, and what is taken back -----------------------------------------------------------------

HOLED = RangeSet.of([Range.parse("10.1.0.0/29").without([exclusion("10.1.0.2/31"), exclusion("10.1.0.5")])])


def test_what_is_excluded_is_given_to_nobody() -> None:
    store = Memory()

    assert [given(store, f"c{i}", HOLED) for i in range(2)] == [["10.1.0.4/29"], ["10.1.0.6/29"]]
    with pytest.raises(Exhausted):
        given(store, "c2", HOLED)


def test_what_is_excluded_cannot_be_requested() -> None:
    with pytest.raises(IsExcluded) as raised:
        given(Memory(), "a", HOLED, requested=("10.1.0.5",))

    assert str(raised.value) == (
        "failed to allocate for range 0: requested IP address 10.1.0.5 is excluded from range set 10.1.0.1-10.1.0.6"
    )


def test_what_was_excluded_after_it_was_given_is_not_given_again() -> None:
    assert given(Memory({at("10.1.0.5"): "a"}), "a", HOLED) == ["10.1.0.4/29"]


def test_owners_that_are_gone_make_room_before_a_range_is_called_full() -> None:
    store = Memory({**full(SMALL), at("10.1.0.4"): "gone", at("192.0.2.1"): "gone"})

    [lease] = allocate(store, "a", [SMALL], (), lambda: {"gone"})

    assert str(lease.address) == "10.1.0.4/29"
    assert store.held[at("192.0.2.1")] == "gone"
    with pytest.raises(Exhausted):
        allocate(store, "b", [SMALL], (), lambda: {"gone"})


@pytest.mark.parametrize("holder", ["gone", ""])
def test_a_requested_address_of_an_owner_that_is_gone_is_given(holder: str) -> None:
    store = Memory({at("10.1.0.4"): holder, at("10.1.0.5"): "gone", at("10.1.0.6"): "b"})

    [lease] = allocate(store, "a", [SMALL], [at("10.1.0.4")], lambda: {"gone"})

    assert str(lease.address) == "10.1.0.4/29"
    assert store.held[at("10.1.0.5")] == "gone"
    with pytest.raises(Taken):
        allocate(store, "a", [SMALL], [at("10.1.0.6")], lambda: {"gone"})


def test_who_is_gone_is_not_asked_while_there_is_room() -> None:
    def asked() -> set[str]:
        raise AssertionError

    allocate(Memory(), "a", [SMALL, SIX], [at("10.1.0.4")], asked)


# --- census -------------------------------------------------------------------------------------------


def test_a_census_counts_what_somebody_may_have() -> None:
    assert census.count(HOLED, [at("10.1.0.4"), at("10.1.0.5"), at("10.1.0.1"), at("fd00::1")]) == (HOLED, 2, 1)
    assert census.count(SIX, []).size == 2**64 - 2
    assert str(census.count(HOLED, [])) == "0 of 2 addresses in 10.1.0.1-10.1.0.6 are held"


def test_a_set_is_full_when_nobody_can_be_served_even_after_taking_back() -> None:
    store = Memory({**full(SMALL), **full(HOLED), at("10.1.0.6"): "gone"})

    assert census.full(store, [SIX, SMALL], lambda: {"gone"}) == []
    store.held[at("10.1.0.6")] = "b"
    assert [(one.held, one.size) for one in census.full(store, [SIX, SMALL, HOLED], set)] == [(5, 5), (2, 2)]

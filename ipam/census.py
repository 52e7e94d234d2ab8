"""How many addresses there are and how many of them are held: for those who ask, not for those who want one."""

from __future__ import annotations

from cni.lean import NamedTuple
from ipam import releasing
from ipam.address import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from ipam.ranges import RangeSet
    from ipam.releasing import Store


class Census(NamedTuple):
    """Of one range set."""

    ranges: RangeSet
    size: int
    """Addresses that somebody may have: without gateways and what is excluded."""
    held: int
    """Of those."""

    def __str__(self) -> str:
        return f"{self.held} of {self.size} addresses in {self.ranges} are held"


def count(ranges: RangeSet, held: Iterable[Address]) -> Census:
    """Of a set whose network's addresses are held."""
    size = sum(run.last - run.first + 1 for run in ranges.order(None))
    for value in ranges.gateways:
        size -= any(run.first <= value <= run.last for run in ranges.order(None))
    return Census(ranges, size, len([address for address in held if ranges.gives(address)]))


def full(store: Store, sets: Iterable[RangeSet], departed: Callable[[], Container[str]]) -> list[Census]:
    """The sets in which nobody could get an address, after what belongs to nobody any more was taken back.

    Costs the same however many are held, unless a set seems to be full.
    """
    found = []
    for ranges in sets:
        if not has_room(store, ranges):
            store.look()
            releasing.take_back(store, ranges.gives, departed())
            if not has_room(store, ranges):
                found.append(count(ranges, [address for address, _ in store.claims()]))
    return found


def has_room(store: Store, ranges: RangeSet) -> bool:
    """Whether an address can be had."""
    for run in ranges.order(None):
        for value in store.candidates(ranges.version, run.first, run.last):
            if value not in ranges.gateways and store.owner_of(Address(ranges.version, value)) is None:
                return True
    return False

"""Which addresses an owner gets: one from each of its range sets, all of them or none.

Pure over the `Store` interface: the answer follows from the ranges, from what the store says is taken,
and from nothing else. The caller holds the store's lock over the whole of `allocate`, so nobody ever sees
half of a dual-stack owner, and is left with one only by a crash in between; what that owner then holds is
found again by the next call, or given back by `release`.

Asking again is harmless: an owner that holds addresses of these ranges gets the same ones. Whether it
still deserves them is for the caller to know.

A store may have hints about what is free, and they may be wrong; so before a range is called full, or a requested
address somebody else's, the store looks at everything, and what belongs to nobody any more is taken back: a claim
that its writer died over, and those of owners that the caller knows to be gone.
"""

from __future__ import annotations

from cni.lean import NamedTuple
from ipam import releasing
from ipam.address import Address, Interface

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from ipam.ranges import RangeSet
    from ipam.releasing import Store


class Lease(NamedTuple):
    """An address as its owner is to configure it."""

    address: Interface
    gateway: Address


class AllocationError(Exception):
    """The ranges or the store can't give what is asked for; the text says what. `ipam.errors` has the kinds of it."""


def _nobody() -> frozenset[str]:
    return frozenset()


def allocate(
    store: Store,
    owner: str,
    sets: Sequence[RangeSet],
    requested: Iterable[Address] = (),
    departed: Callable[[], Container[str]] = _nobody,
) -> tuple[Lease, ...]:
    """One address from each set, the requested ones where they fit.

    `departed` names the owners that are gone for certain. It is asked when there is no other way to serve this one.
    Raises AllocationError, or what the store raises, after having given back whatever this call had taken;
    what the owner held before stays.
    """
    wishes = assign(sets, requested)
    held = store.held_by(owner)
    leases: list[Lease] = []
    taken: list[Address] = []
    try:
        for index, (ranges, wish) in enumerate(zip(sets, wishes)):
            address = _kept(held, ranges, wish)
            if address is None:
                address = _claimed(store, owner, index, ranges, wish, departed)
                taken.append(address)
                store.remember(index, address)
            leases.append(_lease(ranges, address))
    except BaseException:
        _give_back(store, owner, taken)
        raise
    return tuple(leases)


def assign(sets: Sequence[RangeSet], requested: Iterable[Address]) -> list[Address | None]:
    """Which of the requested addresses each set is to give: the first that lies in it. Raises AllocationError."""
    left = list(dict.fromkeys(requested))
    wishes: list[Address | None] = []
    for index, ranges in enumerate(sets):
        wish = next((address for address in left if ranges.range_of(address)), None)
        if wish is not None:
            left.remove(wish)
            if wish.value in ranges.gateways:
                from ipam.errors import IsGateway

                raise IsGateway(f"{_failed(index)}: requested ip {wish} is subnet's gateway")
            if not ranges.gives(wish):
                from ipam.errors import IsExcluded

                raise IsExcluded(f"{_failed(index)}: requested IP address {wish} is excluded from range set {ranges}")
        wishes.append(wish)
    if left:
        from ipam.errors import Unmatched

        raise Unmatched(f"failed to allocate all requested IPs: {' '.join(map(str, left))}")
    return wishes


def _kept(held: list[Address], ranges: RangeSet, wish: Address | None) -> Address | None:
    """What the owner holds already, unless it asks for something else now."""
    for address in held:
        if wish in (None, address) and ranges.gives(address):
            return address
    return None


def _claimed(
    store: Store,
    owner: str,
    index: int,
    ranges: RangeSet,
    wish: Address | None,
    departed: Callable[[], Container[str]],
) -> Address:
    if wish is None:
        last = store.last(index)
        address = _next_free(store, owner, ranges, last)
        if address is None:
            store.look()
            releasing.take_back(store, ranges.gives, departed())
            address = _next_free(store, owner, ranges, last)
        if address is None:
            from ipam.errors import Exhausted

            raise Exhausted(f"{_failed(index)}: no IP addresses available in range set: {ranges}")
        return address
    if not store.claim(wish, owner):
        releasing.take_back(store, wish.__eq__, departed())
        if not store.claim(wish, owner):
            from ipam.errors import Taken

            text = f"{_failed(index)}: requested IP address {wish} is not available in range set {ranges}"
            raise Taken(text, wish, store.owner_of(wish) or "")
    return wish


def _next_free(store: Store, owner: str, ranges: RangeSet, last: Address | None) -> Address | None:
    version, gateways = ranges.version, ranges.gateways
    for run in ranges.order(last):
        for value in store.candidates(version, run.first, run.last):
            if value not in gateways:
                address = Address(version, value)
                if store.claim(address, owner):
                    return address
    return None


def _lease(ranges: RangeSet, address: Address) -> Lease:
    source = ranges.range_of(address)
    assert source is not None  # it was taken from there
    return Lease(Interface(address, source.network.length), source.gateway)


def _failed(index: int) -> str:
    return f"failed to allocate for range {index}"


def _give_back(store: Store, owner: str, taken: list[Address]) -> None:
    for address in taken:
        try:
            store.free(address, owner)
        except OSError:
            # The caller hears of the first failure. What stays is still the owner's, and goes with its release.
            pass

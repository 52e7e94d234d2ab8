"""Where addresses may come from, and in which order they are tried.

A range is a stretch of one network with that network's gateway; a range set is several ranges of one
family, any of which will do. An owner gets one address from each set it is configured with, so two sets
are dual stack.

Everything is arithmetic on two integers per range. No list of addresses is ever built, so a /64 costs what
a /30 does, and the order of trying is told as stretches (`Run`), which whoever knows the free addresses
better than by trying can search as a whole.

Defaults, order and error texts are those of the reference's host-local, with three differences: /31 and /127
are networks of two hosts (RFC 3021, RFC 6164); a gateway outside its network is an error unless it is
link-local, as IPv6 routers are; and no range of a set gives away another one's gateway. And a range can
exclude addresses and whole networks.
"""

from __future__ import annotations

from cni.lean import NamedTuple
from ipam.address import BITS, Address, Interface, Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final, Self

# As numbers, since text would be read at each start: 169.254.0.0/16 and fe80::/10, and ::ffff:0:0/96.
_LINK_LOCAL: Final = {4: Network(4, 0xA9FE << 16, 16), 6: Network(6, 0xFE80 << 112, 10)}
_MAPPED: Final = Network(6, 0xFFFF << 32, 96)


class Range(NamedTuple):
    """The addresses from `start` to `end`, both included, without the gateway and what is excluded."""

    network: Network
    start: Address
    end: Address
    gateway: Address
    excluded: tuple[Network, ...] = ()
    """Whose addresses are given to nobody; single ones are networks of full length."""

    @classmethod
    def parse(cls, subnet: str, start: str = "", end: str = "", gateway: str = "") -> Self:
        """From text; "" stands for the default.

        The gateway is the network's second address, the range everything but the first address and, for IPv4,
        the last one. Raises ValueError.
        """
        interface = Interface.parse(subnet)
        network = interface.network
        free_bits = BITS[network.version] - network.length
        if free_bits < 1:
            raise ValueError(f"Network {subnet} too small to allocate from")
        if network.first != interface.address:
            told = f"For a subnet mask of length {network.length} the network address is {network.first}"
            raise ValueError(f"Network has host bits set. {told}")
        if _MAPPED.holds(network.first) and network.length >= _MAPPED.length:
            raise ValueError(f"Network {subnet} holds IPv4 addresses written as IPv6")
        pair = free_bits == 1
        first = address(start) if start else network.first.plus(0 if pair else 1)
        last = address(end) if end else network.last.plus(-1 if network.version == 4 and not pair else 0)
        for name, edge in (("RangeStart", first), ("RangeEnd", last)):
            if not network.holds(edge):
                raise ValueError(f"{name} {edge} not in network {network}")
        if first > last:
            raise ValueError(f"RangeStart {first} not in network {network} up to RangeEnd {last}")
        router = address(gateway) if gateway else network.first.plus(1)
        if not network.holds(router) and not _LINK_LOCAL[network.version].holds(router):
            raise ValueError(f"gateway {router} not in network {network}")
        return cls(network, first, last, router)

    def without(self, excluded: Iterable[Network]) -> Self:
        """The same, with nothing given from these networks; those that lie elsewhere don't matter."""
        met = [one for one in excluded if one.holds(self.start) or self.holds(one.first)]
        return self._replace(excluded=self.excluded + tuple(met)) if met else self

    def holds(self, address: Address) -> bool:
        """Whether the address lies between the ends; the gateway may."""
        return self.start.version == address.version and self.start.value <= address.value <= self.end.value

    def overlaps(self, other: Range) -> bool:
        """Whether any address lies in both."""
        return self.holds(other.start) or other.holds(self.start)

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"


class Run(NamedTuple):
    """Addresses to try one after the other: from `first` to `last`, both included, of one range."""

    first: int
    last: int
    range: Range


class RangeSet(NamedTuple):
    """Ranges of one family, none of which overlap."""

    ranges: tuple[Range, ...]

    @classmethod
    def of(cls, ranges: Iterable[Range]) -> Self:
        """Raises ValueError for ranges that don't go together."""
        found = tuple(ranges)
        if not found:
            raise ValueError("empty range set")
        for i, one in enumerate(found):
            if one.network.version != found[0].network.version:
                raise ValueError("mixed address families")
            for other in found[i + 1 :]:
                if one.overlaps(other):
                    raise ValueError(f"subnets {one} and {other} overlap")
        return cls(found)

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.ranges[0].network.version

    @property
    def gateways(self) -> frozenset[int]:
        """The values of the addresses that are nobody's to have."""
        return frozenset([one.gateway.value for one in self.ranges])

    def gives(self, address: Address) -> bool:
        """Whether somebody may have the address: in a range, no gateway, not excluded."""
        one = self.range_of(address)
        return one is not None and address.value not in self.gateways and not excludes(one, address)

    def range_of(self, address: Address) -> Range | None:
        """The range that the address lies in."""
        for one in self.ranges:
            if one.holds(address):
                return one
        return None

    def overlaps(self, other: RangeSet) -> bool:
        """Whether any address lies in both."""
        return any(one.overlaps(another) for one in self.ranges for another in other.ranges)

    def order(self, last: Address | None) -> list[Run]:
        """Round robin: from behind `last` through all ranges and back, so that `last` itself comes at the end.

        An address that was given back rests as long as possible that way. From the beginning, when `last` is
        None or lies in none of the ranges. What is excluded is left out, gateways aren't.
        """
        runs = [*map(_whole, self.ranges)]
        for i, one in enumerate(self.ranges):
            if last is not None and one.holds(last):
                behind = [Run(last.value + 1, one.end.value, one)] if last != one.end else []
                runs = [*behind, *runs[i + 1 :], *runs[:i], Run(one.start.value, last.value, one)]
                break
        return [part for run in runs for part in (_parts(run) if run.range.excluded else (run,))]

    def __str__(self) -> str:
        return ",".join(map(str, self.ranges))


def require_disjoint(sets: Sequence[RangeSet]) -> None:
    """Raises ValueError when two sets overlap: one owner could get one address twice."""
    for i, one in enumerate(sets):
        for j in range(i + 1, len(sets)):
            if one.overlaps(sets[j]):
                raise ValueError(f"range set {i} overlaps with {j}")


def excludes(one: Range, address: Address) -> bool:
    """Whether the range leaves the address out."""
    return any(network.holds(address) for network in one.excluded)


def exclusion(text: str) -> Network:
    """An address or a CIDR, as an `exclude` list has them. Raises ValueError."""
    if "/" in text:
        return Network.parse(text)
    alone = address(text)
    return Network(*alone, BITS[alone.version])


def address(text: str) -> Address:
    """An address, of IPv4 also when written as IPv6 (::ffff:10.1.0.5). Raises ValueError."""
    found = Address.parse(text)
    return Address(4, found.value & 0xFFFFFFFF) if _MAPPED.holds(found) else found


def _whole(one: Range) -> Run:
    return Run(one.start.value, one.end.value, one)


def _parts(run: Run) -> list[Run]:
    """What is left of it without what its range excludes."""
    parts = []
    first = run.first
    for network in sorted(run.range.excluded):
        if first <= network.last.value and network.value <= run.last:
            if first < network.value:
                parts.append(Run(first, network.value - 1, run.range))
            first = network.last.value + 1
    return [*parts, Run(first, run.last, run.range)] if first <= run.last else parts

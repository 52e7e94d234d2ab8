"""A store in memory: the whole of what `ipam.allocator` expects of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipam.address import Address


class Memory:
    """`ipam.allocator.Store` as a dictionary."""

    def __init__(self, held: dict[Address, str] | None = None) -> None:
        self.held = dict(held or {})
        self.remembered: dict[int, Address] = {}
        self.looked = 0
        self.tried: list[Address] = []
        """Every address that somebody wanted to claim, in order."""

    def held_by(self, owner: str) -> list[Address]:
        return sorted(address for address, holder in self.held.items() if holder == owner)

    def owner_of(self, address: Address) -> str | None:
        return self.held.get(address)

    def claims(self) -> list[tuple[Address, str]]:
        return list(self.held.items())

    def claim(self, address: Address, owner: str) -> bool:
        self.tried.append(address)
        if address in self.held:
            return False
        self.held[address] = owner
        return True

    def candidates(self, version: int, first: int, last: int) -> range:
        return range(first, last + 1)

    def look(self) -> None:
        self.looked += 1

    def free(self, address: Address, owner: str) -> None:
        self.held.pop(address, None)

    def last(self, index: int) -> Address | None:
        return self.remembered.get(index)

    def remember(self, index: int, address: Address) -> None:
        self.remembered[index] = address

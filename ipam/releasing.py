"""Addresses given back: by their holders, or by others once these are gone. Pure over the `Store` interface."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable
    from typing import Protocol

    from ipam.address import Address

    class Store(Protocol):
        """Who holds what in one network, while this caller holds the network's lock.

        An owner is a text without blanks around it, and never "": that is what an address torn by a crash of
        somebody else's has for an owner.
        """

        def held_by(self, owner: str) -> list[Address]:
            """What exactly this owner holds, in order."""

        def owner_of(self, address: Address) -> str | None:
            """Who holds it; None when it is free, "" when it is taken and can't be said by whom."""

        def claims(self) -> Iterable[tuple[Address, str]]:
            """Everything that is held, by whom."""

        def candidates(self, version: int, first: int, last: int) -> Iterable[int]:
            """Which of these values are worth a `claim`, in order: all, or without those that seem to be taken."""

        def look(self) -> None:
            """Forgets whatever it thinks it knows: from here on, what is free is among the candidates."""

        def claim(self, address: Address, owner: str) -> bool:
            """Takes a free address; False if it isn't free. Durable and whole, or not done."""

        def free(self, address: Address, owner: str) -> None:
            """Gives an address back that this owner holds; a free one is fine."""

        def last(self, index: int) -> Address | None:
            """What `remember` was told last about the range set of that index. A hint."""

        def remember(self, index: int, address: Address) -> None: ...


def release(store: Store, owner: str) -> list[Address]:
    """Gives back all that the owner holds, in whatever ranges; returns it."""
    held = store.held_by(owner)
    for address in held:
        store.free(address, owner)
    return held


def collect(store: Store, living: Callable[[str], bool]) -> list[Address]:
    """Gives back all that is held by owners who aren't `living`; returns it.

    Goes on where giving back fails, and raises the first of these errors at the end.
    """
    freed: list[Address] = []
    failures: list[OSError] = []
    for address, owner in [*store.claims()]:
        if not living(owner):
            try:
                store.free(address, owner)
                freed.append(address)
            except OSError as error:
                failures.append(error)
    if failures:
        raise failures[0]
    return freed


def take_back(store: Store, concerned: Callable[[Address], bool], departed: Container[str]) -> None:
    """Gives back what is held by nobody any more, of the addresses `concerned`.

    A claim that names no owner is one of those: its writer died, for we hold the lock that it held.
    """
    for address, holder in [*store.claims()]:
        if concerned(address) and (not holder or holder in departed):
            store.free(address, holder)

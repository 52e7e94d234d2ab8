"""Any sequence of ADD, DEL, GC, their crashes and failures, restarts of the node, the reference's work in between,
and what befalls the index, against a model.

What must hold after every step: no address is promised to two owners, none that was promised is lost, none
lies outside the ranges or is a gateway, and everything on disk names an owner that may hold it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ipam.address import Address
from ipam.allocator import allocate
from ipam.errors import Exhausted, Taken
from ipam.ranges import Range, RangeSet
from ipam.releasing import collect, release
from ipam.store import Directory
from tests.unit.ipam import faults

if TYPE_CHECKING:
    from collections.abc import Iterator

# Small, so that they run out and wrap: four and two addresses in one set, five in the other.
FOUR = RangeSet.of([Range.parse("10.1.0.0/29", "10.1.0.2", "10.1.0.5"), Range.parse("10.2.0.0/24", "", "10.2.0.3")])
SIX = RangeSet.of([Range.parse("fd00::/64", "", "fd00::6")])
CHOICES = {"both": (FOUR, SIX), "four": (FOUR,), "six": (SIX,)}
ALL = [
    str(Address(ranges.version, value))
    for ranges in (FOUR, SIX)
    for run in ranges.order(None)
    for value in range(run.first, run.last + 1)
    if value not in ranges.gateways
]

owners = st.integers(0, 9).map(lambda number: f"c{number}\r\neth0")
choices = st.sampled_from(sorted(CHOICES))
moments = st.integers(0, 30)


class Interleavings(RuleBasedStateMachine):
    """One network's directory, and what its users were told."""

    def __init__(self) -> None:
        super().__init__()
        self.top = tempfile.mkdtemp()
        self.blue = Path(self.top, "blue")
        self.leases: dict[str, set[str]] = {}
        """Owner → what ADD answered. Until its DEL begins, nothing may take that away."""
        self.boot = 1
        self.theirs: dict[str, tuple[int, int]] = {}
        """What the reference wrote: address → which file."""
        self.stamped: dict[str, str] = {}
        """What is held since an earlier boot, by us: address → owner. The next ADD takes it back."""
        self.departed: set[str] = set()
        """Owners that are gone for certain, without a DEL."""
        self.index_of_old = b""
        self.remains: dict[str, str] = {}
        """Address → owner, of what failed or died: may be held still, by nobody else than that owner."""

    def teardown(self) -> None:
        shutil.rmtree(self.top)

    # --- what can happen ---

    @rule(owner=owners, choice=choices)
    def add(self, owner: str, choice: str) -> None:
        self._add(owner, choice)
        self._nothing_is_left_of_earlier_boots()

    @rule()
    def restart(self) -> None:
        """All pods are dead. What the reference wrote can't be told from what lives, so it stays."""
        self.boot += 1
        ours = {address: owner for address, owner in self._names().items() if not self._is_theirs(address) and owner}
        self.stamped |= ours
        for owner, addresses in [*self.leases.items()]:
            self.remains |= {address: owner for address in addresses if address in ours}
            if not (kept := addresses - set(ours)):
                del self.leases[owner]
            else:
                self.leases[owner] = kept

    @rule(owner=owners)
    def vanish(self, owner: str) -> None:
        """Its namespace is gone and nobody says so but its record."""
        self._gone(owner)
        self.departed.add(owner)

    @rule(owner=owners, wish=st.sampled_from(ALL))
    def add_requested(self, owner: str, wish: str) -> None:
        self._add(owner, "six" if ":" in wish else "four", wish)
        self._nothing_is_left_of_earlier_boots()

    @rule(owner=owners)
    def delete(self, owner: str) -> None:
        self._gone(owner)
        with self._directory() as store:
            release(store, owner)
        self._settle(owner)

    @rule(living=st.sets(owners))
    def gc(self, living: set[str]) -> None:
        for owner in {*self.leases, *self.remains.values()} - living:
            self._gone(owner)
        with self._directory() as store:
            store.sweep()
            collect(store, living.__contains__)
        for owner in set(self.remains.values()) - living:
            self._settle(owner)

    @rule(owner=owners, choice=choices, moment=moments)
    def add_dies(self, owner: str, choice: str, moment: int) -> None:
        with self._dying(moment):
            self._add(owner, choice)
        self._look_for_remains(owner)

    @rule(owner=owners, choice=choices, moment=moments, code=st.sampled_from([errno.EIO, errno.ENOSPC]))
    def add_fails(self, owner: str, choice: str, moment: int, code: int) -> None:
        before = self._held(owner)
        with pytest.MonkeyPatch.context() as patch, faults.at_call(patch, moment, code):
            try:
                self._add(owner, choice)
            except OSError:
                assert self._held(owner) <= before, "a failed ADD kept something"

    @rule(owner=owners, moment=moments)
    def delete_dies(self, owner: str, moment: int) -> None:
        self._gone(owner)
        with self._dying(moment), self._directory() as store:
            release(store, owner)
        self._look_for_remains(owner)

    @rule(living=st.sets(owners), moment=moments)
    def gc_dies(self, living: set[str], moment: int) -> None:
        for owner in set(self.leases) - living:
            self._gone(owner)
        with self._dying(moment), self._directory() as store:
            collect(store, living.__contains__)
        self.remains = {
            address: owner for address, owner in self.remains.items() if self._names().get(address) == owner
        }

    @rule(owner=owners, address=st.sampled_from(ALL))
    def the_reference_adds(self, owner: str, address: str) -> None:
        """As its store does it: create, then write. It picks as we do, but for what is held already."""
        if self.leases.get(owner) or self._held(owner):
            return
        self.blue.mkdir(exist_ok=True)
        try:
            with (self.blue / address).open("x") as file:
                file.write(owner)
        except FileExistsError:
            return
        (self.blue / "last_reserved_ip.0").write_text(address)
        self.leases[owner] = {address}
        self.departed.discard(owner)
        self.theirs[address] = self._file(address)

    @rule(owner=owners)
    def the_reference_deletes(self, owner: str) -> None:
        self._gone(owner)
        for address, holder in self._names().items():
            if holder == owner:
                (self.blue / address).unlink()
        self._settle(owner)

    @rule(address=st.sampled_from(ALL))
    def the_reference_dies(self, address: str) -> None:
        """Between creating a claim and writing into it."""
        self.blue.mkdir(exist_ok=True)
        if address not in self._names():
            (self.blue / address).touch()

    @rule(address=st.sampled_from(ALL), instant=st.sampled_from([0, 1, 1 << 60]))
    def somebody_deletes_a_file(self, address: str, instant: int) -> None:
        """And the clock steps to whatever instant."""
        if owner := self._names().get(address):
            (self.blue / address).unlink()
            os.utime(self.blue, ns=(instant, instant))
            self.leases[owner] = self.leases.get(owner, set()) - {address}
            if not self.leases[owner]:
                del self.leases[owner]

    @rule()
    def the_index_is_kept(self) -> None:
        with contextlib.suppress(OSError):
            self.index_of_old = self._index().read_bytes()

    @rule(what=st.sampled_from(["lost", "torn", "empty", "old"]), size=st.integers(0, 9000))
    def the_index_is_harmed(self, what: str, size: int) -> None:
        if not self._index().exists():
            return
        if what == "lost":
            self._index().unlink()
        elif what == "old":
            self._index().write_bytes(self.index_of_old)
        elif size < 4096 or what == "empty":
            os.truncate(self._index(), size if what == "torn" else 0)

    @rule(text=st.sampled_from(["", "10.1.0", "10.2.0.3", "10.1.0.77", "fd00::6", "192.0.2.1"]))
    def the_hint_is_torn(self, text: str) -> None:
        self.blue.mkdir(exist_ok=True)
        (self.blue / "last_reserved_ip.0").write_text(text)

    # --- what must hold ---

    @invariant()
    def nothing_promised_is_lost(self) -> None:
        names = self._names()
        for owner, addresses in self.leases.items():
            for address in addresses:
                assert names.get(address) == owner, f"{address} was promised to {owner!r}"

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        everything = [address for addresses in self.leases.values() for address in addresses]
        assert len(everything) == len(set(everything))

    @invariant()
    def everything_is_in_its_range_and_whole(self) -> None:
        for address, owner in self._names().items():
            assert address in ALL
            assert owner == "" or owner.endswith("\r\neth0")
            assert owner == "" or address in self.leases.get(owner, ()) or self.remains.get(address) == owner, (
                f"{address} is held by {owner!r}, which neither was promised it nor died over it"
            )

    # --- the model ---

    @contextlib.contextmanager
    def _dying(self, moment: int) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch, faults.at_call(patch, moment, faults.CRASHING):
            yield

    def _directory(self) -> Directory:
        return Directory(self.top, "blue", boot=f"0f9d {self.boot}")

    def _index(self) -> Path:
        return Path(self.top, ".podwire", "blue", "index")

    def _file(self, address: str) -> tuple[int, int]:
        found = (self.blue / address).stat()
        return found.st_ino, found.st_mtime_ns

    def _is_theirs(self, address: str) -> bool:
        return self.theirs.get(address) == self._file(address)

    def _names(self) -> dict[str, str]:
        """What is on disk, read by other means than ours."""
        if not self.blue.exists():
            return {}
        return {
            path.name: path.read_bytes().decode()
            for path in self.blue.iterdir()
            if path.name != "lock" and not path.name.startswith("last_reserved_ip.")
        }

    def _held(self, owner: str) -> set[str]:
        return {address for address, holder in self._names().items() if holder == owner}

    def _add(self, owner: str, choice: str, wish: str = "") -> None:
        sets = CHOICES[choice]
        self.departed.discard(owner)
        before = {address: one for address, one in self._names().items() if self.stamped.get(address) != one}
        held = {address for address, one in before.items() if one == owner}
        try:
            with self._directory() as store:
                wishes = [Address.parse(wish)] if wish else []
                leases = allocate(store, owner, sets, wishes, lambda: self.departed)
        except Exhausted:
            assert any(self._is_full(ranges, before) for ranges in sets), f"{sets} are not full: {before}"
            assert self._held(owner) == held
        except Taken:
            assert before.get(wish, owner) not in {owner, *self.departed}
            assert self._held(owner) == held
        else:
            found = {str(lease.address.address) for lease in leases}
            assert len(found) == len(sets)
            assert not wish or wish in found
            for ranges in sets:
                kept = sorted(Address.parse(one) for one in held if ranges.range_of(Address.parse(one)))
                assert wish or not kept or str(kept[0]) in found, "a repeated ADD got something else"
            self.leases[owner] = self.leases.get(owner, set()) | found
            self.remains = {address: one for address, one in self.remains.items() if address not in found}
            self.stamped = {address: one for address, one in self.stamped.items() if address not in found}

    def _nothing_is_left_of_earlier_boots(self) -> None:
        names = self._names()
        assert not {address for address, owner in self.stamped.items() if names.get(address) == owner}
        self.stamped = {}

    def _is_full(self, ranges: RangeSet, names: dict[str, str]) -> bool:
        inside = [one for one in ALL if ranges.range_of(Address.parse(one))]
        return all(names.get(one) and names[one] not in self.departed for one in inside)

    def _gone(self, owner: str) -> None:
        """Its DEL has begun: what it holds may go at any moment."""
        self.remains |= dict.fromkeys(self.leases.pop(owner, ()), owner)

    def _settle(self, owner: str) -> None:
        """Its DEL has succeeded."""
        assert not self._held(owner)
        self.remains = {address: one for address, one in self.remains.items() if one != owner}

    def _look_for_remains(self, owner: str) -> None:
        mine = self._held(owner) - self.leases.get(owner, set())
        self.remains = {address: one for address, one in self.remains.items() if one != owner} | dict.fromkeys(
            mine, owner
        )


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=80, stateful_step_count=40)

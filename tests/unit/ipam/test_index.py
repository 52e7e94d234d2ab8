"""The index: what it finds, what it skips, and that it never claims to be good when it isn't."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam import index, recovery
from ipam.address import Address
from ipam.index import Index

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def at(text: str) -> Address:
    return Address.parse(text)


OWNER = b"0123abcd\r\neth0"
FOUR, SIX = at("10.1.0.5"), at("fd00::5")


@pytest.fixture
def folder(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path)


def written(folder: bytes, claims: Iterable[tuple[Address, str]] = (), boot: str = "") -> Index:
    found = recovery.written(folder, boot, list(claims))
    assert found
    return found


@pytest.fixture
def empty(folder: bytes) -> Iterator[Index]:
    found = written(folder)
    yield found
    found.close()


def reopened(folder: bytes) -> Index:
    found = Index.open(folder)
    assert found
    return found


# --- who holds what -----------------------------------------------------------------------------------


def test_what_was_added_is_found_until_it_is_dropped(empty: Index, folder: bytes) -> None:
    empty.add(OWNER, FOUR)
    empty.add(OWNER, SIX)
    empty.add(OWNER, SIX)
    empty.add(b"other", at("10.1.0.6"))

    assert reopened(folder).of(OWNER) == [FOUR, SIX]
    empty.drop(OWNER, FOUR)
    empty.drop(OWNER, FOUR)
    assert reopened(folder).of(OWNER) == [SIX]
    assert reopened(folder).of(b"nobody") == []
    assert not empty.spoilt


def test_an_index_of_many_claims_finds_each(folder: bytes) -> None:
    claims = [(Address(4, 0x0A000000 + i), f"c{i}\r\neth0") for i in range(3000)]

    found = written(folder, claims)

    assert all(found.of(owner.encode()) == [address] for address, owner in claims)
    # Room for as many again: it needn't be made anew for a while.
    for i in range(3000):
        found.add(b"d%d\r\neth0" % i, Address(4, 0x0B000000 + i))
    assert not found.spoilt


def test_a_bucket_that_is_full_makes_it_spoilt_and_it_is_not_sealed_any_more(empty: Index, folder: bytes) -> None:
    for i in range(index.SLOTS):
        empty.add(OWNER, Address(4, i))
    before = empty.spoilt

    empty.add(OWNER, FOUR)

    assert (before, empty.spoilt) == (False, True)
    assert not empty.seal(5)
    assert reopened(folder).tag == 0


def test_owners_that_share_a_slot_s_hash_are_both_found(empty: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_hash", lambda _: 0xABCDEF00)

    empty.add(b"one", FOUR)
    empty.add(b"two", SIX)

    assert empty.of(b"one") == empty.of(b"two") == [FOUR, SIX]


# --- what is taken ------------------------------------------------------------------------------------


@given(taken=st.sets(st.integers(0, 3 << index.PAGE_BITS)), first=st.integers(0, 70_000), size=st.integers(-1, 40_000))
def test_candidates_are_those_that_are_not_taken_in_order(
    tmp_path_factory: pytest.TempPathFactory, taken: set[int], first: int, size: int
) -> None:
    found = written(os.fsencode(tmp_path_factory.mktemp("index")))
    for value in range(0, 4 << index.PAGE_BITS, 1 << index.PAGE_BITS):
        next(found.candidates(4, value, value))  # which makes a page of each
    for value in taken:
        found.taken(Address(4, value))

    candidates = list(found.candidates(4, first, first + size))

    assert candidates == [value for value in range(first, first + size + 1) if value not in taken]
    found.close()


def test_a_crowd_is_passed_over_without_being_looked_at(folder: bytes) -> None:
    dense = [(Address(4, value), f"c{value}") for value in range(1000, 70_000)]
    found = written(folder, dense)

    assert next(found.candidates(4, 1000, 1 << 20)) == 70_000
    found.drop(b"c40000", Address(4, 40_000))
    assert next(reopened(folder).candidates(4, 1000, 1 << 20)) == 40_000


def test_few_claims_get_no_page_and_are_candidates_until_somebody_meets_them(folder: bytes) -> None:
    found = written(folder, [(FOUR, "c1")])
    value = FOUR.value

    assert next(found.candidates(4, value, value + 1)) == value
    found.taken(FOUR)
    assert next(reopened(folder).candidates(4, value, value + 1)) == value + 1


def test_the_two_families_do_not_share_a_page(empty: Index) -> None:
    assert next(empty.candidates(4, 5, 9)) == 5
    empty.taken(Address(4, 5))

    assert next(empty.candidates(6, 5, 9)) == 5


def test_when_there_is_no_room_for_more_pages_everything_is_a_candidate(empty: Index) -> None:
    for number in range(index.PAGES):
        next(empty.candidates(6, number << index.PAGE_BITS, 1 << 127))
    beyond = Address(6, index.PAGES << index.PAGE_BITS)

    empty.taken(beyond)

    assert next(empty.candidates(6, beyond.value, 1 << 127)) == beyond.value
    assert not empty.spoilt


# --- what can't be used -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"", b"podwire2", b"x" * 5000, bytes(4096)])
def test_what_is_no_index_is_none(folder: bytes, text: bytes) -> None:
    with open(folder + b"/index", "wb") as file:
        file.write(text)

    assert Index.open(folder) is None


def test_a_torn_one_is_none_and_one_whose_end_is_missing_is_taken_for_empty_there(folder: bytes) -> None:
    written(folder, [(FOUR, "c1")])
    path = folder + b"/index"

    os.truncate(path, index.BLOCK_BYTES)
    assert reopened(folder).of(b"c1") == []
    os.truncate(path, index.BLOCK_BYTES - 1)
    assert Index.open(folder) is None


def test_boot_and_tag_are_kept(folder: bytes) -> None:
    found = written(folder, (), "0f9d-11 4711")

    assert found.seal((1 << 63) + 5)

    assert (reopened(folder).boot, reopened(folder).tag) == ("0f9d-11 4711", (1 << 63) + 5)


@given(st.lists(st.tuples(st.sampled_from(["add", "drop"]), st.integers(0, 5), st.integers(0, 20))))
def test_it_finds_what_a_dictionary_would(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    found = written(os.fsencode(tmp_path_factory.mktemp("index")))
    model: dict[bytes, set[Address]] = {}
    for what, owner, value in steps:
        name, address = b"owner %d" % owner, Address(4 if value % 2 else 6, value)
        if what == "add":
            found.add(name, address)
            model.setdefault(name, set()).add(address)
        else:
            found.drop(name, address)
            model.setdefault(name, set()).discard(address)

    assert all(set(found.of(name)) == addresses for name, addresses in model.items())
    found.close()

"""What is reclaimed after a restart, and that nothing is read twice, or overlooked, between two."""

from __future__ import annotations

import itertools
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from ipam import recovery
from ipam.address import Address
from ipam.allocator import allocate
from ipam.errors import Exhausted
from ipam.ranges import Range, RangeSet
from ipam.releasing import collect, release
from ipam.store import Directory
from tests.unit.ipam import faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PODS = [RangeSet.of([Range.parse("10.1.0.0/16")])]
FEW = [RangeSet.of([Range.parse("10.1.0.0/29")])]
FIRST, SECOND = "0f9d8c7b 100", "0f9d8c7b 200"
ELSEWHERE = "1111aaaa 50"


def owner(name: str) -> str:
    return f"{name}\r\neth0"


def directory(blue: Path, boot: str = FIRST, about: str = "") -> Directory:
    return Directory(str(blue.parent), blue.name, boot=boot, about=about)


def add(blue: Path, name: str, boot: str = FIRST, sets: list[RangeSet] = PODS) -> str:
    with directory(blue, boot) as store:
        [lease] = allocate(store, owner(name), sets)
    return str(lease.address.address)


def delete(blue: Path, name: str) -> list[str]:
    with directory(blue, "") as store:
        return [str(address) for address in release(store, owner(name))]


def held(blue: Path, name: str) -> list[str]:
    """As a CHECK asks."""
    with directory(blue, "") as store:
        return [str(address) for address in store.held_by(owner(name))]


def theirs(blue: Path, address: str, name: str) -> None:
    """A claim as the reference makes it."""
    blue.mkdir(exist_ok=True)
    with (blue / address).open("x") as file:
        file.write(owner(name))


def claims(blue: Path) -> dict[str, str]:
    return {
        path.name: path.read_bytes().decode().partition("\r")[0]
        for path in blue.iterdir()
        if path.name != "lock" and not path.name.startswith("last_")
    }


def stamps(blue: Path) -> list[str]:
    return sorted(os.listdir(blue.parent / ".podwire" / "blue" / "stamps"))


# --- boots --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boot", [SECOND, ELSEWHERE])
def test_what_we_stamped_in_an_earlier_boot_is_reclaimed_at_the_first_add(blue: Path, boot: str) -> None:
    for i in range(3):
        add(blue, f"old{i}")

    add(blue, "new", boot)

    assert set(claims(blue).values()) == {"new"}
    assert stamps(blue) == ["10.1.0.5"]


def test_what_was_stamped_in_this_boot_stays(blue: Path) -> None:
    add(blue, "one")
    shutil.rmtree(blue.parent / ".podwire" / "blue" / "index", ignore_errors=True)
    (blue.parent / ".podwire" / "blue" / "index").unlink()

    add(blue, "two")

    assert set(claims(blue).values()) == {"one", "two"}


def test_of_one_boot_id_only_what_is_older_is_reclaimed(blue: Path) -> None:
    add(blue, "later", SECOND)

    add(blue, "earlier", FIRST)

    assert set(claims(blue).values()) == {"later", "earlier"}


def test_what_the_reference_wrote_is_never_reclaimed_for_its_age(blue: Path) -> None:
    theirs(blue, "10.1.0.9", "theirs")
    os.utime(blue / "10.1.0.9", (1, 1))
    add(blue, "ours")

    add(blue, "new", SECOND)

    assert claims(blue)["10.1.0.9"] == "theirs"
    assert set(claims(blue).values()) == {"theirs", "new"}


def test_a_stamp_does_not_count_for_the_claim_of_another_owner(blue: Path) -> None:
    address = add(blue, "ours")
    (blue / address).unlink()  # the reference's DEL, which knows nothing of stamps
    theirs(blue, address, "theirs")

    add(blue, "new", SECOND)

    assert claims(blue)[address] == "theirs"


def test_a_stamp_does_not_count_for_what_the_reference_gave_to_the_same_owner_since(blue: Path) -> None:
    address = add(blue, "same")
    (blue / address).unlink()
    theirs(blue, address, "same")

    add(blue, "new", SECOND)

    assert claims(blue)[address] == "same"


@pytest.mark.parametrize("text", ["", "x", "0f9d8c7b 100\n", "0f9d8c7b 100\nx\n\nold\r\neth0", "\n\n\n\n", "\xff" * 9])
def test_a_stamp_that_is_torn_reclaims_nothing(blue: Path, text: str) -> None:
    address = add(blue, "old")
    (blue.parent / ".podwire" / "blue" / "stamps" / address).write_bytes(text.encode("latin-1"))

    add(blue, "new", SECOND)

    assert claims(blue)[address] == "old"


def test_without_a_boot_nothing_is_stamped_and_nothing_reclaimed(blue: Path) -> None:
    add(blue, "old", "")
    add(blue, "stamped", FIRST)
    add(blue, "new", "")

    assert set(claims(blue).values()) == {"old", "stamped", "new"}
    assert stamps(blue) == ["10.1.0.3"]


def test_a_del_in_a_new_boot_does_not_keep_the_next_add_from_reclaiming(blue: Path) -> None:
    add(blue, "old")
    add(blue, "older")

    delete(blue, "older")
    add(blue, "new", SECOND)

    assert set(claims(blue).values()) == {"new"}


def test_trying_a_taken_address_leaves_its_stamp_alone(blue: Path) -> None:
    add(blue, "old")
    (blue / "last_reserved_ip.0").unlink()
    (blue.parent / ".podwire" / "blue" / "index").unlink()

    add(blue, "young")
    add(blue, "new", SECOND)

    assert set(claims(blue).values()) == {"new"}


def test_a_stamp_says_who_it_is_to_people(blue: Path) -> None:
    with directory(blue, about="shop/cart-5d9") as store:
        [lease] = allocate(store, owner("c1"), PODS)
        stamp = recovery.stamp_of(store, lease.address.address, owner("c1"))

    assert stamp
    assert (stamp.boot, stamp.about, stamp.owner) == (FIRST, "shop/cart-5d9", owner("c1"))


# --- the index is only a hint -------------------------------------------------------------------------


def calls_of(work: Callable[[], object]) -> list[str]:
    """The system calls that it makes."""
    with pytest.MonkeyPatch.context() as patch, faults.at_call(patch, 1 << 30, faults.CRASHING) as calls:
        work()
    return calls.made


@pytest.mark.parametrize("spread", [1, 7], ids=["contiguous", "spread"])
def test_add_check_and_del_make_the_same_calls_however_many_claims_there_are(blue: Path, spread: int) -> None:
    def verbs() -> list[list[str]]:
        works: list[Callable[[], object]] = [
            lambda: add(blue, "c"),
            lambda: add(blue, "c"),
            lambda: held(blue, "c"),
            lambda: delete(blue, "c"),
            lambda: delete(blue, "c"),
        ]
        return [calls_of(work) for work in works]

    add(blue, "first")
    few = verbs()
    first = Address.parse("10.1.0.9").value
    for i in range(2000):
        theirs(blue, str(Address(4, first + i * spread)), f"t{i}")
    (blue / "last_reserved_ip.0").write_text("10.1.0.8")
    add(blue, "second")  # which makes an index of what is new

    assert verbs() == few


def test_the_free_addresses_behind_the_wrap_are_found_as_fast(blue: Path) -> None:
    last = Address.parse("10.1.255.254").value
    for i in range(3000):
        theirs(blue, str(Address(4, last - i)), f"t{i}")
    (blue / "last_reserved_ip.0").write_text("10.1.250.0")
    assert add(blue, "a") == "10.1.0.2"

    (blue / "last_reserved_ip.0").write_text("10.1.250.0")
    made = calls_of(lambda: add(blue, "b"))

    assert len(made) < 60
    assert claims(blue)["10.1.0.3"] == "b"


def test_what_the_reference_reserves_and_releases_in_between_is_seen(blue: Path) -> None:
    add(blue, "a")
    theirs(blue, "10.1.0.3", "t")

    assert held(blue, "t") == ["10.1.0.3"]
    assert add(blue, "b") == "10.1.0.4"
    (blue / "10.1.0.4").unlink()
    assert held(blue, "b") == []
    assert delete(blue, "t") == ["10.1.0.3"]


def test_a_change_within_the_same_tick_is_seen(blue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still: the kernel gives every change the same mtime."""
    add(blue, "a")
    natural_ns = 1_700_000_000_000_000_000

    def change(work: Callable[[], object]) -> None:
        work()
        os.utime(blue, ns=(natural_ns, natural_ns))

    link = os.link
    with monkeypatch.context() as patch:
        # As if our own claim, too, had been made at that instant.
        patch.setattr("ipam.store.posix.link", lambda *names: change(lambda: link(*names)))
        add(blue, "b")
    assert blue.stat().st_mtime_ns == natural_ns + 1
    change(lambda: theirs(blue, "10.1.0.9", "t"))

    assert held(blue, "t") == ["10.1.0.9"]


@pytest.mark.parametrize("harm", ["lost", "empty", "torn", "of another time", "a directory"])
def test_an_index_that_does_not_fit_never_makes_a_result_wrong(blue: Path, harm: str) -> None:
    add(blue, "a")
    path = blue.parent / ".podwire" / "blue" / "index"
    early = path.read_bytes()
    add(blue, "b")
    if harm == "of another time":
        path.write_bytes(early)
    elif harm == "torn":
        path.write_bytes(path.read_bytes()[:5000])
        os.utime(blue)
    else:
        path.unlink()
        if harm == "empty":
            path.touch()
        elif harm == "a directory":
            path.mkdir()

    assert add(blue, "b") == "10.1.0.3"
    assert add(blue, "c") == "10.1.0.4"
    assert held(blue, "a") == ["10.1.0.2"]
    assert [delete(blue, name) for name in "abc"] == [["10.1.0.2"], ["10.1.0.3"], ["10.1.0.4"]]


def test_an_index_that_calls_everything_taken_hides_nothing(blue: Path) -> None:
    for name in "abcde":
        add(blue, name, sets=FEW)
    with pytest.raises(Exhausted):
        add(blue, "f", sets=FEW)
    before = (blue.stat().st_atime_ns, blue.stat().st_mtime_ns)
    (blue / "10.1.0.4").unlink()
    os.utime(blue, ns=before)  # so that the index seems to hold

    assert add(blue, "f", sets=FEW) == "10.1.0.4"


def test_after_a_crash_at_any_call_every_owner_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    works: list[Callable[[Path], object]] = [lambda blue: add(blue, "c"), lambda blue: delete(blue, "b")]
    for work in works:
        for number in itertools.count():
            blue = tmp_path / f"{works.index(work)}-{number}" / "blue"
            add(blue, "a")
            add(blue, "b")
            with faults.at_call(monkeypatch, number, faults.CRASHING) as calls:
                work(blue)

            for name in "abc":
                by_reading = sorted(address for address, one in claims(blue).items() if one == name)
                assert held(blue, name) == by_reading
                assert delete(blue, name) == by_reading
            assert claims(blue) == {}
            assert stamps(blue) == []
            if not calls.reached:
                break


def test_it_serves_without_any_place_for_an_index(blue: Path) -> None:
    add(blue, "a", "")
    shutil.rmtree(blue.parent / ".podwire" / "blue")
    (blue.parent / ".podwire" / "blue").touch()

    assert held(blue, "a") == ["10.1.0.2"]
    assert delete(blue, "a") == ["10.1.0.2"]


def test_more_claims_of_one_owner_than_a_bucket_holds_are_all_found(blue: Path) -> None:
    for i in range(400):
        theirs(blue, f"10.1.{i >> 8}.{i & 255}", "t")

    assert len(held(blue, "t")) == 400
    assert len(delete(blue, "t")) == 400


# --- sweeping -----------------------------------------------------------------------------------------


def test_a_sweep_takes_what_died_writers_left_and_stamps_without_claims(blue: Path) -> None:
    kept, gone = add(blue, "a"), add(blue, "b")
    (blue / gone).unlink()
    for name in ("claim.1.2", "index.new"):
        (blue.parent / ".podwire" / "blue" / name).touch()

    with directory(blue) as store:
        store.sweep()
        assert store.sweep_stamps() == 1

    assert stamps(blue) == [kept]
    assert sorted(os.listdir(blue.parent / ".podwire" / "blue")) == ["index", "stamps"]


def test_what_a_gc_frees_is_free_for_the_index_too(blue: Path) -> None:
    for name in "abcde":
        add(blue, name, sets=FEW)
    with directory(blue) as store:
        store.look()
        collect(store, lambda one: one == owner("a"))

    assert [add(blue, name, sets=FEW) for name in "fg"] == ["10.1.0.3", "10.1.0.4"]
    assert stamps(blue) == ["10.1.0.2", "10.1.0.3", "10.1.0.4"]


def test_an_index_of_an_earlier_boot_is_not_believed(blue: Path) -> None:
    """What of it reached the disk before a power cut is anybody's guess."""
    theirs(blue, "10.1.0.9", "t")
    add(blue, "a")
    index = blue.parent / ".podwire" / "blue" / "index"
    with index.open("r+b") as file:
        header = file.read(4096)
        file.truncate(0)
        file.seek(0)
        file.write(header)  # with the tag of the last change, and nothing else

    with directory(blue, SECOND) as store:
        assert [str(one) for one in release(store, owner("t"))] == ["10.1.0.9"]

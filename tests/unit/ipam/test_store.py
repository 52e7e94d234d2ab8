"""The directory: its format, its lock, and what is in it after a crash at any call."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import threading
from typing import TYPE_CHECKING

import pytest

from ipam.address import Address
from ipam.allocator import allocate
from ipam.ranges import Range, RangeSet
from ipam.releasing import release
from ipam.store import Busy, Directory
from tests.unit.ipam import faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ipam.releasing import Store

OWNER = "0123abcd\r\neth0"
OTHER = "4567cdef\r\neth0"

SETS = [RangeSet.of([Range.parse("10.1.0.0/29")]), RangeSet.of([Range.parse("fd00::/64")])]


def at(text: str) -> Address:
    return Address.parse(text)


def directory(blue: Path, *, create: bool = True, patience_s: float = 1.0) -> Directory:
    return Directory(str(blue.parent), blue.name, create, patience_s)


def add(blue: Path, owner: str = OWNER) -> list[str]:
    with directory(blue) as store:
        return [str(lease.address.address) for lease in allocate(store, owner, SETS)]


def delete(blue: Path, owner: str = OWNER) -> list[str]:
    with directory(blue, create=False) as store:
        return [str(address) for address in release(store, owner)]


def files(blue: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in blue.iterdir() if path.is_file()}


def claims(blue: Path) -> dict[str, bytes]:
    return {name: text for name, text in files(blue).items() if name != "lock" and not name.startswith("last_")}


def staged(blue: Path) -> list[str]:
    """Claims being written."""
    return [name for name in os.listdir(blue.parent / ".podwire" / blue.name) if name.startswith("claim.")]


# --- format -----------------------------------------------------------------------------------------


def test_the_files_are_those_of_the_reference(blue: Path) -> None:
    add(blue)

    assert files(blue) == {
        "10.1.0.2": b"0123abcd\r\neth0",
        "fd00::2": b"0123abcd\r\neth0",
        "last_reserved_ip.0": b"10.1.0.2",
        "last_reserved_ip.1": b"fd00::2",
        "lock": b"",
    }
    assert staged(blue) == []
    assert {path.stat().st_mode & 0o777 for path in blue.iterdir()} == {0o600}


def test_it_is_a_store(blue: Path) -> None:
    def is_one(_: Store) -> None: ...  # for mypy

    with directory(blue) as store:
        is_one(store)
        assert store.claim(at("10.1.0.5"), OWNER)
        assert not store.claim(at("10.1.0.5"), OTHER)
        assert store.claim(at("10.1.0.6"), OTHER)
        assert store.owner_of(at("10.1.0.5")) == OWNER
        assert store.owner_of(at("10.1.0.7")) is None
        assert store.held_by(OWNER) == [at("10.1.0.5")]
        assert sorted(store.claims()) == [(at("10.1.0.5"), OWNER), (at("10.1.0.6"), OTHER)]
        store.free(at("10.1.0.5"), OWNER)
        store.free(at("10.1.0.5"), OWNER)
        assert store.owner_of(at("10.1.0.5")) is None


def test_what_is_remembered_is_read_and_written_as_the_reference_does(blue: Path) -> None:
    with directory(blue) as store:
        assert store.last(0) is None
        for text in ("10.1.0.200", "10.1.0.9", "fd00::1"):
            store.remember(0, at(text))
            assert (blue / "last_reserved_ip.0").read_text() == text
            with_a_fresh_look = directory(blue)
            assert with_a_fresh_look.last(0) == at(text)


@pytest.mark.parametrize("text", ["", "10.1.0", "x" * 9000, "\0", "10.1.0.5\n"])
def test_a_torn_memory_is_none_and_is_overwritten_whole(blue: Path, text: str) -> None:
    blue.mkdir()
    (blue / "last_reserved_ip.0").write_text(text)

    with directory(blue) as store:
        assert store.last(0) is None
        store.remember(0, at("10.1.0.5"))

    assert (blue / "last_reserved_ip.0").read_text() == "10.1.0.5"


def test_blanks_around_an_owner_do_not_count(blue: Path) -> None:
    blue.mkdir()
    (blue / "10.1.0.3").write_text(f"  {OWNER}\r\n\n")

    assert delete(blue) == ["10.1.0.3"]


def test_an_owner_of_any_length_is_read_whole(blue: Path) -> None:
    long = "a" * 4096 * 2
    add(blue, long)

    assert delete(blue, "a" * 4096) == []
    assert delete(blue, long) == ["10.1.0.2", "fd00::2"]


def test_everything_else_in_the_directory_is_left_alone(blue: Path) -> None:
    blue.mkdir()
    (blue / "10.1.0.2").mkdir()
    os.mkfifo(blue / "10.1.0.3")
    (blue / "10.1.0.4").symlink_to("nowhere")
    for name in ("010.1.0.5", "FD00::5", "fd00:0::6", "10.1.0.5~", "d", "readme"):
        (blue / name).write_text(OWNER)
    before = sorted(os.listdir(blue))

    assert add(blue) == ["10.1.0.5", "fd00::2"]
    assert delete(blue) == ["10.1.0.5", "fd00::2"]
    assert sorted(set(os.listdir(blue)) - {"lock", "last_reserved_ip.0", "last_reserved_ip.1"}) == before


def test_something_that_is_no_file_is_taken_by_nobody_one_could_name(blue: Path) -> None:
    (blue / "10.1.0.2").mkdir(parents=True)

    with directory(blue) as store:
        assert store.owner_of(at("10.1.0.2")) == ""
        assert not list(store.claims())


def test_names_that_are_no_text_are_skipped(blue: Path) -> None:
    blue.mkdir()
    (blue / os.fsdecode(b"1\xff")).write_text(OWNER)

    assert add(blue) == ["10.1.0.2", "fd00::2"]


# --- directories ------------------------------------------------------------------------------------


def test_directories_are_made_when_they_are_needed(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "blue"

    assert add(deep) == ["10.1.0.2", "fd00::2"]
    assert deep.stat().st_mode & 0o777 == 0o755
    assert (deep.parent / ".podwire").stat().st_mode & 0o777 == 0o700


def test_where_nothing_ever_was_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised:
        delete(tmp_path / "a" / "blue")

    assert raised.value.errno == errno.ENOENT
    assert not list(tmp_path.iterdir())
    assert directory(tmp_path / "a" / "blue").held_by(OWNER) == []


def test_claims_can_be_released_although_somebody_removed_the_lock(blue: Path) -> None:
    add(blue)
    (blue / "lock").unlink()

    assert delete(blue) == ["10.1.0.2", "fd00::2"]


def test_what_dead_writers_left_is_swept(blue: Path) -> None:
    add(blue)
    (blue.parent / ".podwire" / "blue" / "claim.1.2").write_text(OTHER)

    with directory(blue) as store:
        store.claim(at("10.1.0.6"), OTHER)
        store.sweep()
        assert len(staged(blue)) == 1
        assert store.claim(at("10.1.0.5"), OTHER)

    assert staged(blue) == []


def test_a_leftover_under_the_very_same_name_is_no_way_into_a_claim(
    blue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Died between link and unlink: the temporary file is a second name of the claim.
    add(blue)
    monkeypatch.setattr("ipam.store.posix.getpid", lambda: 7)
    with directory(blue) as store:
        store.claim(at("10.1.0.3"), OTHER)
        [name] = staged(blue)
    os.link(blue / "10.1.0.2", blue.parent / ".podwire" / "blue" / name)

    with directory(blue) as store:
        store.claim(at("10.1.0.4"), OTHER)

    assert claims(blue) == {
        "10.1.0.2": OWNER.encode(),
        "10.1.0.3": OTHER.encode(),
        "10.1.0.4": OTHER.encode(),
        "fd00::2": OWNER.encode(),
    }


# --- the lock ---------------------------------------------------------------------------------------


@pytest.fixture
def locked(blue: Path) -> Iterator[int]:
    """A descriptor that holds the lock, as another process would."""
    blue.mkdir()
    descriptor = os.open(blue / "lock", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


@pytest.mark.usefixtures("locked")
def test_a_lock_held_for_long_is_given_up_on(blue: Path) -> None:
    with pytest.raises(Busy, match=f"{blue}/lock has been held for 0.01 seconds"), directory(blue, patience_s=0.01):
        pass

    assert claims(blue) == {}


def test_a_lock_is_taken_when_it_is_given_up(blue: Path, locked: int) -> None:
    timer = threading.Timer(0.02, fcntl.flock, (locked, fcntl.LOCK_UN))
    timer.start()

    with directory(blue, patience_s=30) as store:
        assert store.claim(at("10.1.0.5"), OWNER)
    timer.join()


def test_while_entered_nobody_else_can_have_the_lock(blue: Path) -> None:
    with directory(blue), open(blue / "lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with open(blue / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_was_removed_while_we_waited_is_not_relied_on(blue: Path, locked: int) -> None:
    def remove_and_let_go() -> None:
        (blue / "lock").unlink()
        blue.rmdir()
        fcntl.flock(locked, fcntl.LOCK_UN)

    timer = threading.Timer(0.02, remove_and_let_go)
    timer.start()

    with directory(blue, patience_s=30), open(blue / "lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    timer.join()


def test_every_descriptor_is_closed_again(blue: Path) -> None:
    add(blue)
    before = os.listdir("/proc/self/fd")

    add(blue, OTHER)
    delete(blue, OTHER)

    assert os.listdir("/proc/self/fd") == before


# --- faults -----------------------------------------------------------------------------------------


def owners(blue: Path) -> dict[str, str]:
    """Address → owner; fails where a claim is not whole."""
    found = {name: text.decode() for name, text in claims(blue).items()}
    assert set(found.values()) <= {OWNER, OTHER}, found
    return found


def fails_with(code: int, work: Callable[[Path], object], blue: Path) -> bool:
    """Whether it failed, which it may only with this errno."""
    try:
        work(blue)
    except OSError as error:
        if error.errno != code:
            raise
        return True
    return False


@pytest.mark.parametrize("first", [True, False], ids=["new directory", "old directory"])
def test_a_crash_in_an_add_leaves_every_address_owned_or_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    for number in itertools.count():
        blue = tmp_path / str(number) / "blue"
        before = {} if first else dict.fromkeys(add(blue, OTHER), OTHER)

        with faults.at_call(monkeypatch, number, faults.CRASHING) as calls:
            add(blue)

        found = owners(blue) if blue.exists() else {}
        assert {name: owner for name, owner in found.items() if owner == OTHER} == before
        again = add(blue)
        assert dict.fromkeys(again, OWNER) | before == owners(blue)
        assert sorted(delete(blue)) == sorted(again)
        assert owners(blue) == before
        if not calls.reached:
            assert calls.made.count("link") == 2
            break


def test_a_crash_in_a_del_leaves_every_address_owned_or_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in itertools.count():
        blue = tmp_path / str(number) / "blue"
        before = dict.fromkeys(add(blue, OTHER), OTHER)
        add(blue)

        with faults.at_call(monkeypatch, number, faults.CRASHING) as calls:
            delete(blue)

        assert before.items() <= owners(blue).items()
        delete(blue)
        assert owners(blue) == before
        if not calls.reached:
            assert calls.made.count("unlink") == 4  # and their stamps
            break


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_a_failure_in_an_add_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    for number in itertools.count():
        blue = tmp_path / str(number) / "blue"
        before = dict.fromkeys(add(blue, OTHER), OTHER)
        descriptors = os.listdir("/proc/self/fd")

        with faults.at_call(monkeypatch, number, code) as calls:
            failed = fails_with(code, add, blue)

        assert os.listdir("/proc/self/fd") == descriptors
        if not calls.reached:
            break
        # Hints may fail unnoticed: claims are what counts. So may taking the temporary file away, when all is done.
        assert failed or number in calls.about_hints or calls.made[number] == "unlink"
        assert owners(blue) == before or not failed
        assert len(add(blue)) == 2


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE])
def test_a_failure_in_a_del_is_told_and_the_next_one_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    for number in itertools.count():
        blue = tmp_path / str(number) / "blue"
        before = dict.fromkeys(add(blue, OTHER), OTHER)
        add(blue)

        with faults.at_call(monkeypatch, number, code) as calls:
            failed = fails_with(code, delete, blue)

        assert failed or not calls.reached or number in calls.about_hints
        assert failed or owners(blue) == before
        delete(blue, OWNER)
        assert owners(blue) == before
        if not calls.reached:
            break


# --- whether it can be used -------------------------------------------------------------------------


def test_a_directory_that_is_not_there_yet_can_be_used_and_is_not_made(tmp_path: Path) -> None:
    directory(tmp_path / "a" / "blue").require_usable()

    assert not list(tmp_path.iterdir())


def test_a_file_where_the_directory_should_be_cannot(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")

    with pytest.raises(OSError) as raised:
        directory(tmp_path / "a" / "blue").require_usable()

    assert (raised.value.errno, raised.value.filename) == (errno.ENOTDIR, str(tmp_path / "a"))


class Statvfs:
    """What statvfs(3) would say."""

    f_flag, f_blocks, f_bfree, f_files, f_ffree = 0, 5, 5, 5, 5

    def __init__(self, **different: int) -> None:
        self.__dict__.update(different)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (Statvfs(), 0),
        (Statvfs(f_bfree=1), errno.ENOSPC),
        (Statvfs(f_ffree=1), errno.ENOSPC),
        (Statvfs(f_files=0, f_ffree=0), 0),  # as btrfs says: they don't run out
        (Statvfs(f_blocks=0, f_bfree=0), 0),  # as a tmpfs without a limit says
        (Statvfs(f_flag=os.ST_RDONLY), errno.EROFS),
    ],
)
def test_a_file_system_that_takes_nothing_cannot(
    blue: Path, monkeypatch: pytest.MonkeyPatch, said: Statvfs, code: int
) -> None:
    monkeypatch.setattr("ipam.store.posix.statvfs", lambda _: said)

    try:
        directory(blue).require_usable()
        found: int | None = 0
    except OSError as error:
        found = error.errno

    assert found == code


def test_whether_it_can_be_used_costs_the_same_however_full_it_is(blue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def calls() -> list[str]:
        with faults.at_call(monkeypatch, 1000, faults.CRASHING) as made:
            directory(blue).require_usable()
        return made.made

    add(blue)
    few = calls()
    for i in range(100):
        (blue / f"10.2.0.{i}").write_text(OTHER)

    assert calls() == few


def test_a_directory_that_cannot_be_made_is_an_error_and_no_endless_try() -> None:
    with pytest.raises(FileNotFoundError), Directory("/proc/podwire", "blue"):
        pass

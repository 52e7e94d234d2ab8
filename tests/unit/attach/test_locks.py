"""Locks: one at a time, between processes and between threads, whatever becomes of the holder."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from cni.attach.locks import Lock
from cni.spec.errors import TRY_AGAIN_LATER, CNIError
from tests import session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLACE = 0xFEDCBA9876543210
"""A hash of 64 bits, more than a file offset has."""

HOLD = """
import sys
from cni.attach.locks import Lock

with Lock(sys.argv[1], int(sys.argv[2]), "it"):
    print("mine", flush=True)
    sys.stdin.read()
"""

COUNT = """
import sys
from cni.attach.locks import Lock

for _ in range(100):
    with Lock(sys.argv[1], 7, "it"):
        with open(sys.argv[2]) as file:
            value = int(file.read())
        with open(sys.argv[2], "w") as file:
            file.write(str(value + 1))
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "it.lock")


@pytest.fixture
def holder(path: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, path, str(PLACE)]
    with subprocess.Popen(command, cwd=session.TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"mine\n"
        yield process
        process.stdin.close()


def at_once(path: str, place: int = PLACE) -> Lock:
    """The lock, by someone who doesn't wait."""
    return Lock(path, place, "attachment net/c1@eth0@bridge", patience_s=0)


def test_what_another_process_holds_cannot_be_had(path: str, holder: subprocess.Popen[bytes]) -> None:
    with pytest.raises(CNIError) as caught, at_once(path):
        pytest.fail("two have it")

    assert caught.value.code == TRY_AGAIN_LATER
    assert caught.value.msg == "attachment net/c1@eth0@bridge is locked by another call"
    assert path in caught.value.details


def test_who_is_patient_gets_it_when_the_holder_is_done(path: str, holder: subprocess.Popen[bytes]) -> None:
    assert holder.stdin is not None
    timer = threading.Timer(0.01, holder.stdin.close)
    timer.start()

    with Lock(path, PLACE, "it", patience_s=10):
        pass
    timer.join()


def test_patience_ends(path: str, holder: subprocess.Popen[bytes]) -> None:
    with pytest.raises(CNIError) as caught, Lock(path, PLACE, "it", patience_s=0.01):
        pytest.fail("two have it")

    assert caught.value.code == TRY_AGAIN_LATER


def test_a_killed_holder_frees_it(path: str, holder: subprocess.Popen[bytes]) -> None:
    holder.kill()
    holder.wait()

    with at_once(path):
        pass


def test_other_things_are_other_places_of_the_same_file(path: str, holder: subprocess.Popen[bytes]) -> None:
    with at_once(path, PLACE + 1), at_once(path, PLACE - 1), at_once(path, 0):
        pass


def test_threads_keep_each_other_out(path: str) -> None:
    refused: list[int] = []

    def try_it() -> None:
        try:
            with at_once(path):
                pass
        except CNIError as error:
            refused.append(error.code)

    with at_once(path):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()

    assert refused == [TRY_AGAIN_LATER]


def test_of_many_processes_one_at_a_time_has_it(path: str, tmp_path: Path) -> None:
    shared = tmp_path / "number"
    shared.write_text("0")
    command = [sys.executable, "-c", COUNT, path, str(shared)]

    processes = [subprocess.Popen(command, cwd=session.TOP) for _ in range(4)]

    assert [process.wait() for process in processes] == [0] * 4
    assert shared.read_text() == "400"


def test_a_lock_is_freed_by_what_goes_wrong_under_it(path: str) -> None:
    with pytest.raises(ZeroDivisionError), at_once(path):
        raise ZeroDivisionError

    with at_once(path):
        pass


def test_a_program_started_under_the_lock_does_not_hold_it(path: str) -> None:
    with at_once(path):
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)

    with child, at_once(path):
        assert child.stdin is not None
        child.stdin.close()


def test_the_file_stays_since_a_lock_on_a_removed_one_keeps_nobody_out(path: str, tmp_path: Path) -> None:
    with at_once(path):
        pass

    assert [file.name for file in tmp_path.iterdir()] == ["it.lock"]
    assert (tmp_path / "it.lock").stat().st_mode & 0o777 == 0o600


def test_a_lock_that_has_no_folder_is_an_error_of_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), at_once(str(tmp_path / "nowhere" / "it.lock")):
        pytest.fail("there is nothing to lock")


def test_one_that_is_passed_on_is_held_until_the_last_process_that_has_it_ends(path: str) -> None:
    with at_once(path) as lock:
        lock.pass_on()
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
            lock.__exit__()  # as if we were killed
            with pytest.raises(CNIError), at_once(path):
                pytest.fail("two have it")
            assert child.stdin is not None
            child.stdin.close()
        lock.__enter__()  # for the block to leave

"""Commands of the node's: what goes in comes out, and however they end is told."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from cni import lean
from cni.attach.locks import Lock
from cni.kernel import command
from cni.kernel.command import Ended
from cni.kernel.netlink import Refused
from cni.spec.errors import NOT_AVAILABLE, TRY_AGAIN_LATER, CNIError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG_S = 600
"""How long a command hangs here that nobody ends: longer than any test may take."""


@pytest.fixture(params=["heard of", "ignored"])
def children(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whoever starts us may ignore SIGCHLD, which exec passes on: then nobody is told of a child's end."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN if request.param == "ignored" else signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.fixture(params=["a descriptor", "none in this interpreter", "none to be had"])
def waiting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not everywhere there is a descriptor by which to wait for a process."""

    def refuse(pid: int) -> NoReturn:
        raise OSError(errno.EPERM, "a seccomp filter says no")

    if request.param == "none in this interpreter":
        monkeypatch.delattr(lean.posix, "pidfd_open")
    elif request.param == "none to be had":
        monkeypatch.setattr(lean.posix, "pidfd_open", refuse)


@pytest.mark.usefixtures("children")
def test_it_gets_its_input_whole_and_its_output_is_read() -> None:
    assert command.run(["wc", "-c"], b"x" * (1 << 20)) == b"1048576\n"
    assert command.run(["cat"], b"x" * (1 << 20)) == b"x" * (1 << 20)
    assert command.run(["sh", "-c", 'printf "%s" "$1"', "sh", "a b\n"]) == b"a b\n"


@pytest.mark.usefixtures("children", "waiting")
def test_its_end_is_told_with_what_it_said() -> None:
    end = command.ended(["sh", "-c", "echo out; echo '# a warning' >&2; echo no such thing >&2; echo more >&2; exit 7"])

    assert (end.status, end.output) == (7, b"out\n")
    assert end.why == "no such thing"


@pytest.mark.usefixtures("children")
def test_a_failure_is_an_error_that_can_be_replayed_by_hand() -> None:
    with pytest.raises(Refused) as caught:
        command.run(["sh", "-c", "echo no such thing >&2; exit 3"])

    assert str(caught.value) == "sh -c echo no such thing >&2; exit 3: no such thing (EINVAL)"


def test_a_failure_without_a_word_tells_the_status() -> None:
    assert Ended(3, b"", "").why == "exit status 3"
    assert Ended(-9, b"", "# only a warning\n\n").why == "killed by signal 9"
    assert command.ended(["sh", "-c", "kill -9 $$"]).status == -9


@pytest.mark.usefixtures("children")
def test_it_gets_nothing_of_ours_but_what_is_its() -> None:
    with socket.socket():
        listed = command.run(["sh", "-c", "ls -l /proc/$$/fd; env"])

    assert b"socket:" not in listed
    names = {line.partition(b"=")[0] for line in listed.splitlines() if b"=" in line}
    assert names <= {b"PATH", b"LC_ALL", b"PWD", b"SHLVL", b"_"}


def test_it_is_found_where_commands_are_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own-command"
    own.write_text("#!/bin/sh\necho here\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert command.run(["own-command"], places=["/nowhere", str(tmp_path)]) == b"here\n"
    with pytest.raises(CNIError) as caught:
        command.run(["own-command"], package="own-package")

    assert (caught.value.code, caught.value.details) == (NOT_AVAILABLE, "install own-package")
    assert caught.value.msg.startswith("own-command is not there (looked for in /usr/local/sbin:")


def test_one_that_cannot_be_executed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "own-command").write_text("no program")
    assert not (tmp_path / "own-command").stat().st_mode & stat.S_IXUSR

    with pytest.raises(Refused) as caught:
        command.run(["own-command", "-x"], places=[str(tmp_path)])

    assert str(caught.value) == "own-command -x: Permission denied (EACCES)"


def test_standard_streams_that_are_closed_are_no_trouble(tmp_path: Path) -> None:
    """A file in memory that got one of their numbers would be another's by the time it is used."""
    told = tmp_path / "told"
    pid = os.fork()
    if not pid:
        for number in (0, 1, 2):
            os.close(number)
        told.write_bytes(command.run(["cat"], b"whole"))
        os._exit(0)

    os.waitpid(pid, 0)
    assert told.read_bytes() == b"whole"


# --- one that hangs ---------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The process IDs of the commands that a test runs. None of them is left at its end."""
    spawn = lean.posix.posix_spawn
    found: list[int] = []

    def noted(*arguments: Any, **named: Any) -> int:
        found.append(spawn(*arguments, **named))
        return found[-1]

    monkeypatch.setattr(lean.posix, "posix_spawn", noted)
    yield found
    assert found
    for pid in found:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, 0)


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    """Held over a command, and passed on to it. So it is free again when the last process is gone that has it."""
    return Lock(str(tmp_path / "lock"), 0, "the test's lock", patience_s=10)


@pytest.mark.usefixtures("children", "waiting", "started")
def test_one_that_is_not_done_in_time_is_killed_with_all_that_it_has_started(lock: Lock) -> None:
    open_before = os.listdir("/proc/self/fd")

    with lock:
        lock.pass_on()
        with pytest.raises(CNIError) as caught:
            command.run(["sh", "-c", f"sleep {LONG_S} & sleep {LONG_S}"], deadline_s=0.1)

    assert caught.value.code == TRY_AGAIN_LATER
    assert caught.value.msg == f"sh -c sleep {LONG_S} & sleep {LONG_S}: not done in 0.1 s, so it was killed"
    assert caught.value.details.startswith("find out what sh waits for: ")
    with lock:
        pass
    assert os.listdir("/proc/self/fd") == open_before


@pytest.mark.usefixtures("started")
def test_what_it_said_before_it_was_killed_is_told() -> None:
    told = ""
    for deadline_s in (0.05, 0.5, 5):  # as long as it takes to say something
        with pytest.raises(CNIError) as caught:
            command.run(["sh", "-c", f"echo first >&2; echo who waits >&2; exec sleep {LONG_S}"], deadline_s=deadline_s)
        told = caught.value.msg
        if told.endswith("waits"):
            break

    assert told.endswith(" s, so it was killed; it last said: who waits")


@pytest.mark.usefixtures("children", "waiting", "started")
def test_one_whose_caller_is_interrupted_is_killed_as_well(lock: Lock) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    try:
        with lock:
            lock.pass_on()
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                command.run(["sleep", str(LONG_S)])
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    with lock:
        pass


def test_one_that_cannot_be_killed_is_not_waited_for(started: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a system call that doesn't return. It has the lock as long as it is at work."""
    kill = os.killpg
    monkeypatch.setattr(lean.posix, "killpg", lambda group, number: None)
    monkeypatch.setattr(command, "_DEATH_S", 0.05)
    try:
        with pytest.raises(CNIError) as caught:
            command.run(["sleep", str(LONG_S)], deadline_s=0.05)
    finally:
        kill(started[0], signal.SIGKILL)
        os.waitpid(started[0], 0)

    assert caught.value.msg == f"sleep {LONG_S}: not done in 0.05 s, so it was killed, and is still there"


@pytest.mark.usefixtures("children", "waiting", "started")
def test_what_one_leaves_behind_is_neither_waited_for_nor_killed() -> None:
    daemon = int(command.run(["sh", "-c", f"sleep {LONG_S} & echo $!"], deadline_s=60))

    os.kill(daemon, signal.SIGKILL)  # it's there

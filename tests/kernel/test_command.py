"""Commands of the node's: what goes in comes out, and however they end is told."""

from __future__ import annotations

import os
import signal
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from cni.kernel import command
from cni.kernel.command import Ended
from cni.kernel.netlink import Refused
from cni.spec.errors import NOT_AVAILABLE, CNIError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["heard of", "ignored"])
def children(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whoever starts us may ignore SIGCHLD, which exec passes on: then nobody is told of a child's end."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN if request.param == "ignored" else signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("children")
def test_it_gets_its_input_whole_and_its_output_is_read() -> None:
    assert command.run(["wc", "-c"], b"x" * (1 << 20)) == b"1048576\n"
    assert command.run(["cat"], b"x" * (1 << 20)) == b"x" * (1 << 20)
    assert command.run(["sh", "-c", 'printf "%s" "$1"', "sh", "a b\n"]) == b"a b\n"


@pytest.mark.usefixtures("children")
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

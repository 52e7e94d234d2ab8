"""The session and its rules, each broken on purpose by a test file of three lines."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import session

SESSION = (sys.executable, "-m", "tests.session")


def pytest_on(text: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest, with this project's settings and fixtures, on the text of one test file: about a second.

    In a session of its own, so that what the file leaves doesn't stay with us.
    """
    script = 'cd "$TMPDIR"; mkdir kernel; cat >kernel/test_it.py; exec "$0" -m pytest "$@" "$PWD"/kernel/test_it.py'
    settings = [
        "-q",
        f"--rootdir={session.TOP}",
        f"-c{session.TOP}/pyproject.toml",
        "-ptests.conftest",
        "-ocache_dir=/var/tmp/cache",
    ]
    return subprocess.run(
        [*SESSION, "--exec", "sh", "-c", script, sys.executable, *settings, *arguments],
        input=text, cwd=session.TOP, env=os.environ | {"COLUMNS": "500"} | env,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def summary(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout.rpartition("short test summary")[2]


# --- the session ------------------------------------------------------------------------------------


def test_pytest_outside_a_session_refuses_and_names_the_command() -> None:
    outside = {name: value for name, value in os.environ.items() if name != session.MARK}

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/unit/test_layers.py"],
        cwd=session.TOP, env=outside, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "make check" in done.stderr + done.stdout


def test_a_mark_that_leaked_out_of_a_session_does_not_help() -> None:
    here = os.stat("/proc/self/ns/net").st_ino

    assert session.refusal({session.MARK: str(here)})
    assert not session.refusal({session.MARK: str(here + 1)})


def test_a_session_has_no_state_and_a_loopback_that_is_up() -> None:
    probe = "echo $(ls -A /var/lib); echo $(ls -A /run); ip -brief link show lo"
    done = subprocess.run(
        [*SESSION, "--exec", "sh", "-c", probe], cwd=session.TOP, capture_output=True, text=True, check=True
    )

    lib, run, lo = done.stdout.splitlines()
    assert lib == ""
    assert set(run.split()) <= {"mount"}  # mount(8)'s own notes
    assert "LOWER_UP" in lo


def test_what_would_change_a_plugins_behaviour_does_not_come_into_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNI_COMMAND", "ADD")
    monkeypatch.setenv("PODWIRE_RUN_DIR", "/somewhere")

    names = session.environment()

    assert not [name for name in names if name.startswith(("CNI_", "PODWIRE_")) and name != session.MARK]


# --- leaks ------------------------------------------------------------------------------------------

LEAKS = {
    "ip link add culprit type bridge": "link culprit",
    "nft add table inet culprit": "nft table inet culprit",
    "ip netns add culprit": "mount /run/netns/culprit",
    "touch /var/lib/culprit": "file /var/lib/culprit",
    "sleep 987 >/dev/null 2>&1 &": "sleep 987",
}

CARELESS = f"""
import subprocess, pytest
from tests import leaks

leaks.PATIENCE_S = 0.1

@pytest.mark.parametrize("command", {list(LEAKS)})
def test_careless(command):
    subprocess.run(command, shell=True, check=True)

def test_innocent():
    pass
"""


def test_a_test_that_leaves_something_fails_and_names_it() -> None:
    done = pytest_on(CARELESS)

    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    for command, named in LEAKS.items():
        (line,) = (line for line in summary(done).splitlines() if command in line)
        assert "left behind: " in line
        assert named in line
    assert "test_innocent" not in summary(done)


CARELESS_FIXTURE = """
import subprocess, pytest
from tests import leaks

leaks.PATIENCE_S = 0.1

@pytest.fixture(scope="module")
def careless():
    subprocess.run("ip link add culprit type bridge", shell=True, check=True)

def test_innocent(careless):
    pass
"""


def test_a_fixture_of_a_module_that_leaves_something_is_noticed_at_the_end() -> None:
    done = pytest_on(CARELESS_FIXTURE)

    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "1 passed" in done.stdout
    assert "link culprit" in done.stdout


# --- skips ------------------------------------------------------------------------------------------

SKIPS = """
import pytest

@pytest.mark.needs("podwire-no-such-command")
def test_lacks():
    pass

@pytest.mark.skip(reason="too hot today")
def test_lazy():
    pass
"""


def test_in_ci_a_skip_is_a_failure_unless_it_names_what_the_machine_lacks() -> None:
    done = pytest_on(SKIPS, CI="1")

    assert "1 skipped, 1 error" in done.stdout
    assert "too hot today" in done.stdout
    assert "lacks: podwire-no-such-command" in done.stdout


def test_elsewhere_a_skip_is_a_skip() -> None:
    done = pytest_on(SKIPS, CI="")

    assert "2 skipped" in done.stdout
    assert done.returncode == pytest.ExitCode.OK


# --- twins ------------------------------------------------------------------------------------------

TWINS = """
from cni import lean

def test_it():
    import _json, posix  # whatever lean stands on, others may have them
    assert lean.posix.__name__ == "{}"
"""


@pytest.mark.parametrize(("arguments", "module"), [((), "posix"), (("--twins",), "os")])
def test_lean_stands_on_the_parts_or_on_their_twins(arguments: tuple[str, ...], module: str) -> None:
    done = pytest_on(TWINS.format(module), *arguments)

    assert done.returncode == pytest.ExitCode.OK, done.stdout

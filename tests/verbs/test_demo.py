"""`podwire demo` shows what it promises, and leaves nothing, however it ends.

That nothing is left on the machine is what the session's leak check looks at after each test; here it is
also looked at inside, where the demo itself reports it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 60
NOTHING_LEFT = re.compile(
    r"links on the node +none\n"
    r" +links in pod a +none\n"
    r" +links in pod b +none\n"
    r" +reserved addresses +none\n"
    r" +records +none\n"
    r" +results that the runtime keeps +none\n"
)


@pytest.fixture
def podwire(executables: Path) -> Path:
    return executables / "podwire"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)


@contextmanager
def paused(podwire: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A demo whose pods are attached, and which waits for Enter."""
    with subprocess.Popen(
        [podwire, "demo", "--pause", *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("Press Enter"):
                break
        yield demo


def test_both_pods_reach_each_other_by_both_families_and_nothing_is_left(podwire: Path) -> None:
    done = run(podwire, "demo")

    assert (done.returncode, done.stderr) == (0, "")
    for one, there in (("a", "3"), ("b", "2")):
        for subnet in ("10.88.0.", "fd00:88::"):
            assert re.search(rf"TCP from \S+ to {subnet}{there}: 'hello, this is pod {one}' +[\d.]+ ms", done.stdout)
    assert NOTHING_LEFT.search(done.stdout)


def test_it_shows_the_commands_that_show_what_was_made(podwire: Path) -> None:
    said = run(podwire, "demo").stdout

    for command in (
        "ip -br addr show dev demo0",
        "ip -br link show master demo0",
        "ip -n a -br addr show dev eth0",
        "ip -n b -br addr show dev eth0",
        "ip -n a route",
        "ls /run/podwire/attachments/demo",
    ):
        assert f"$ {command}\n" in said
    (bridge,) = re.findall(r"demo0 +UP +(10\.\S+) (fd\S+)", said)
    assert bridge == ("10.88.0.1/24", "fd00:88::1/64")
    # The drawing names what the kernel names.
    host_ends = set(re.findall(r"(pw[a-z2-7]{13})@if", said))
    assert len(host_ends) == 2
    (drawn,) = re.findall(r"│ +(pw\w+) +(pw\w+) +│", said)
    assert set(drawn) == host_ends


def test_it_tells_how_long_each_verb_took(podwire: Path) -> None:
    said = run(podwire, "demo").stdout

    for verb in ("ADD", "CHECK", "DEL"):
        assert re.search(rf"{verb}: .*\n +pod a +[\d.]+ ms\n +pod b +[\d.]+ ms\n", said)


def test_interrupted_in_the_middle_it_takes_the_pods_away_all_the_same(podwire: Path) -> None:
    with paused(podwire) as demo:
        demo.send_signal(signal.SIGINT)
        said, complaints = demo.communicate(timeout=TIMEOUT_S)

    assert (demo.returncode, complaints) == (130, "")
    assert "Interrupted." in said
    assert re.search(r"DEL: .*\n +pod a +[\d.]+ ms\n +pod b +[\d.]+ ms\n", said)


@pytest.mark.parametrize("during", ["ADD:", "DEL:"])
def test_interrupted_while_plugins_run_it_ends_soon(podwire: Path, during: str) -> None:
    with subprocess.Popen(
        [podwire, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith(during):
                break
        # As a terminal does it: the plugin that happens to run is interrupted too.
        os.killpg(demo.pid, signal.SIGINT)
        demo.communicate(timeout=TIMEOUT_S)

    assert demo.returncode != 0 or during == "DEL:"  # by then all may be done


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle_it_leaves_no_namespace(podwire: Path, how: signal.Signals) -> None:
    with paused(podwire) as demo:
        node = os.stat(f"/proc/{demo.pid}/ns/net").st_ino
        demo.send_signal(how)
        demo.communicate(timeout=TIMEOUT_S)

    assert node not in _living_namespaces()


def test_after_enter_it_goes_on(podwire: Path) -> None:
    with paused(podwire) as demo:
        said, _ = demo.communicate("\n", timeout=TIMEOUT_S)

    assert demo.returncode == 0
    assert NOTHING_LEFT.search(said)


@pytest.mark.needs("root", "setpriv")
def test_an_ordinary_user_sees_the_same(podwire: Path) -> None:
    # Where an ordinary user can get at it: pytest's directories are root's own.
    public = Path(os.environ["TMPDIR"], "public")
    public.mkdir(mode=0o755)
    try:
        shutil.copy2(podwire, public)
        done = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", public / "podwire", "demo")
    finally:
        shutil.rmtree(public)

    if "forbids network namespaces" in done.stderr:
        pytest.skip("lacks: user namespaces for ordinary users")
    assert (done.returncode, done.stderr) == (0, "")
    assert NOTHING_LEFT.search(done.stdout)


def test_where_namespaces_are_forbidden_it_says_so_in_one_sentence(podwire: Path) -> None:
    forbid = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'

    done = run("unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh", podwire, "demo")

    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"podwire demo: This machine forbids network namespaces to [^\n]*\.\n", done.stderr)


def test_without_an_executable_it_says_how_to_get_one(podwire: Path) -> None:
    done = run(podwire, "demo", "--executable", "/nowhere/podwire")

    assert done.returncode == 1
    assert "run `make bin`" in done.stderr


def _living_namespaces() -> set[int]:
    found: set[int] = set()
    for process in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(process.stat().st_ino)
        except OSError:
            continue  # it ended meanwhile
    return found

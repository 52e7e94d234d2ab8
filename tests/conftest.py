"""What every test can rely on: a session of its own, namespaces to spoil, plugins to call, and nothing left behind.

Inside `tests.session` only. The rules that this file enforces:

- tests of the folders in `CHECKED` leave nothing behind; the one that does fails, and the thing is named;
- in CI (environment variable CI) a skip is a failure unless its reason says what the machine lacks (`lacks: …`);
- with `--twins`, `cni.lean` uses the public modules instead of the interpreter's built-in parts.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests import calls, leaks, namespaces, session

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

CHECKED = ("kernel", "verbs", "faults", "node")
"""Folders of tests that touch a kernel, and so are looked after by `leaves_nothing`."""

LACKS = "lacks: "
"""How the reason of a permitted skip begins."""

REFERENCE_PLUGINS = Path("/usr/lib/cni")
"""Where Debian's containernetworking-plugins puts the reference plugins."""

TWINS = {
    "_ctypes": "ctypes",
    "_collections": "collections",
    "_json": "json",
    "_signal": "signal",
    "_socket": "socket",
    "_struct": "struct",
    "posix": "os",
}

# The same examples in every run: a test that fails once fails again. No database, so that none is left in the tree.
hypothesis.settings.register_profile("podwire", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("podwire")


# --- the session ------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--twins", action="store_true", help="block the built-in parts that cni.lean prefers to public modules"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "needs(what, ...): skips where the machine lacks one of: root, a command, the file at an absolute path",
    )
    if refusal := session.refusal(dict(os.environ)):
        pytest.exit(refusal, returncode=pytest.ExitCode.USAGE_ERROR)
    if config.getoption("--twins"):
        _use_twins()


def _use_twins() -> None:
    for public in TWINS.values():
        importlib.import_module(public)  # needs its part itself
    parts = {part: sys.modules.pop(part, None) for part in TWINS}
    sys.modules.update(dict.fromkeys(TWINS))  # type: ignore[arg-type]  # None means: importing it is an error
    try:
        lean = importlib.import_module("cni.lean")
    finally:
        for part, module in parts.items():
            del sys.modules[part]
            if module:
                sys.modules[part] = module
    assert lean.posix is os, "cni.lean was imported before its twins could be put in place"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--twins"):
        # An executable that is started chooses for itself; the twins are only in this process.
        started = [item for item in items if "executables" in _fixtures(item) and "in_process" not in _fixtures(item)]
        config.hook.pytest_deselected(items=started)
        items[:] = [item for item in items if item not in started]


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def pytest_report_header(config: pytest.Config) -> str:
    parts = "public twins" if config.getoption("--twins") else "built-in parts"
    return f"session: {'root' if session.has_root() else 'rootless'}, Linux {os.uname().release}, cni.lean on {parts}"


at_start = pytest.StashKey[leaks.Traces]()


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[at_start] = leaks.Traces.now()


@pytest.hookimpl(trylast=True)  # pytest's own comes first: after -x it still has to end the session's fixtures
def pytest_sessionfinish(session: pytest.Session) -> None:
    # What fixtures of modules or of the whole session left; tests are looked after one by one.
    left = leaks.left_since(session.config.stash[at_start])
    leaks.sweep(left)
    if left:
        print("\nleft behind by a fixture of a module or of the session:", *left, sep="\n  ")  # noqa: T201  # no test is to blame
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


# --- skips ------------------------------------------------------------------------------------------


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for what in marker.args:
            if not _present(what):
                pytest.skip(f"{LACKS}{what}")


def _present(what: str) -> bool:
    if what == "root":
        return session.has_root()
    return os.path.exists(what) if what.startswith("/") else shutil.which(what) is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("CI") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(LACKS):
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid}: skipped in CI, and not for something that the machine lacks: {reason}"


# --- nothing left behind ----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test that leaves a link, an nft table, a file under /run or /var/lib, a mount or a process behind."""
    if not set(CHECKED) & set(request.path.parts):
        yield
        return
    with leaks.orphans_adopted():
        before = leaks.Traces.now()
        yield
        left = leaks.left_since(before)
        leaks.sweep(left)
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)


# --- namespaces -------------------------------------------------------------------------------------


@pytest.fixture
def make_netns() -> Iterator[Callable[[], Path]]:
    """Makes an empty network namespace at each call and returns its path; they end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(namespaces.held())


@pytest.fixture
def netns(make_netns: Callable[[], Path]) -> Path:
    """Path of an empty network namespace: a pod's, as a runtime hands it over (`lo` is down)."""
    return make_netns()


@pytest.fixture
def node(make_netns: Callable[[], Path]) -> Path:
    """Path of a network namespace that plays the node, `lo` up: for `node=` of `plugin` and `in_process`.

    What a plugin leaves on such a node goes with it, so tests that mean to look for leaks look here themselves.
    """
    path = make_netns()
    namespaces.lo_up(path)
    return path


# --- plugins ----------------------------------------------------------------------------------------


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Returns a new container ID at each call: 64 hex digits as containerd's, the same in every run."""
    numbers = itertools.count()
    return lambda: hashlib.sha256(f"{request.node.nodeid} {next(numbers)}".encode()).hexdigest()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A state directory of the test's own, for PODWIRE_RUN_DIR; it doesn't exist yet."""
    return tmp_path / "run"


@pytest.fixture(scope="session")
def executables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CNI bin directory with the one file and its drop-in copies, as `make bin` builds it."""
    folder = tmp_path_factory.mktemp("bin")
    subprocess.run(
        [sys.executable, "-m", "install.executable", "--output", str(folder)],
        cwd=session.TOP, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return folder


@pytest.fixture
def plugin(executables: Path, run_dir: Path, unique: Callable[[], str]) -> calls.Exec:
    """Calls an executable as a runtime does: `plugin("bridge", "ADD", config, netns=netns).result`.

    The container ID is the same for all calls of a test that name no other. CNI_PATH is our executables,
    then the reference plugins of the machine.
    """
    return calls.Exec((executables, REFERENCE_PLUGINS), run_dir, unique())


@pytest.fixture
def in_process(run_dir: Path, unique: Callable[[], str]) -> calls.InProcess:
    """The same as `plugin`, by a call in this process: quick, and faults can be injected.

    Delegates are found among the reference plugins only; pass `path=` for others.
    """
    return calls.InProcess((REFERENCE_PLUGINS,), run_dir, unique())

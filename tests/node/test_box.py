"""A box leaves nothing: neither processes that went their own way, nor cgroups, even if nobody closes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import session
from tests.node.box import Box
from tests.node.containerd import until
from tests.node.node import NEEDS

pytestmark = NEEDS

DAEMON = 'mkdir "$1"; echo 0 > "$1/cgroup.procs"; exec setsid sleep 1000'

ABANDONED = """
import sys, time
from pathlib import Path
from tests.node.box import Box

box = Box("abandoned").__enter__()
box.start("sh", "-c", sys.argv[1], "sh", sys.argv[2] + box.cgroup, log=Path("/dev/null"))
print(box.cgroup, flush=True)
time.sleep(1000)  # until it is killed
"""

IN_CHROOT = """
import sys

sys.path.insert(0, sys.argv[1])
from tests.node.box import Box

with Box("in-chroot") as box:
    box.write("/run/podwire-test", "inside")
    assert box.outside("/run/podwire-test").read_text() == "inside"
"""


def test_a_box_ends_what_runs_in_it_and_takes_its_cgroups_away(tmp_path: Path) -> None:
    with Box("closed") as box:
        cgroup = _hierarchy() / box.cgroup
        box.start("sh", "-ec", DAEMON, "sh", str(cgroup), log=tmp_path / "log")
        until(lambda: _processes(cgroup), "the daemon is in its cgroup")

    assert not cgroup.exists()


def test_a_box_whose_owner_was_killed_does_the_same() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", ABANDONED, DAEMON, f"{_hierarchy()}/"],
        cwd=session.TOP,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    cgroup = _hierarchy() / owner.stdout.readline().strip()
    until(lambda: _processes(cgroup), "the daemon is in its cgroup")

    owner.kill()
    owner.communicate()

    until(lambda: not cgroup.exists(), "the cgroup is gone")


def test_what_is_written_in_a_box_stays_in_it() -> None:
    with Box("written") as box:
        box.write("/etc/cni/net.d/podwire-test", "inside")
        box.write("/run/podwire-test", "inside")

        assert box.run("cat", "/etc/cni/net.d/podwire-test") == "inside"
        assert box.outside("/run/podwire-test").read_text() == "inside"
        assert not Path("/etc/cni/net.d/podwire-test").exists()
        assert not Path("/run/podwire-test").exists()


def test_a_box_made_in_a_chroot_is_in_the_chroot(tmp_path: Path) -> None:
    """Its /run is mounted on the chroot's, and what is run in the box must not find the machine's instead."""
    in_chroot = [sys.executable, "-c", IN_CHROOT, str(session.TOP)]
    script = 'mount --rbind / "$0"; exec chroot "$0" "$@"'

    subprocess.run(["unshare", "--mount", "sh", "-ec", script, str(tmp_path), *in_chroot], check=True)

    assert not Path("/run/podwire-test").exists()


def _hierarchy() -> Path:
    """Where cgroups are made: any hierarchy of version 1, or the only one of version 2."""
    pids = Path("/sys/fs/cgroup/pids")
    return pids if pids.exists() else pids.parent


def _processes(cgroup: Path) -> str:
    procs = cgroup / "cgroup.procs"
    return procs.read_text() if procs.exists() else ""

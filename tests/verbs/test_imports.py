"""What a pod's ADD and DEL import: start-up is part of the data path, so each module is there for a reason.

Whoever adds one to the lists pays for it with every pod: a module of ours costs 0.05 to 0.1 ms, one of the
standard library that has Python in it up to 15 (see docs/bench.md).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import interpreters
from tests.verbs.networks import host_local

if TYPE_CHECKING:
    from collections.abc import Callable

TOP = Path(__file__).resolve().parents[2]

# What the interpreter has built in, or loads from one small shared object; each without any Python in it.
BUILT_IN = {"_collections", "_json", "_socket", "_struct", "errno", "fcntl", "select"}
FOR_SETNS_BEFORE_3_12 = {"_ctypes", "_struct"}

BOTH = {
    "cni", "cni.__main__", "cni.addresses", "cni.hostlocal", "cni.lean", "cni.plugin", "cni.plugins", "cni.wanted",
    "cni.attach", "cni.attach.engine", "cni.attach.locks", "cni.attach.node", "cni.attach.record", "cni.attach.sandbox",
    "cni.kernel", "cni.kernel.inet", "cni.kernel.link", "cni.kernel.netlink", "cni.kernel.netns", "cni.kernel.sysctl",
    "cni.spec", "cni.spec.errors", "cni.spec.netconf", "cni.spec.request", "cni.spec.result", "cni.spec.section",
    "cni.spec.versions",
    "ipam", "ipam.address", "ipam.allocator", "ipam.ranges", "ipam.store",
}  # fmt: skip
ADD_ALONE = {"cni.attach.making", "cni.attach.shared", "cni.features", "cni.features.bridge"}
DEL_ALONE = {"cni.attach.reaper"}

TELLING = """
import sys, posix
def leave(code):
    posix.write(2, "\\n".join(sorted(sys.modules)).encode())
    really(code)
really, posix._exit = posix._exit, leave
sys.path.insert(0, sys.argv[1])
from cni.__main__ import main
main(["bridge"])
"""


@pytest.fixture
def imported(run_dir: Path, tmp_path: Path, node: Path, netns: Path) -> Callable[[str], set[str]]:
    """The modules that a call of bridge with host-local has imported at its end, the interpreter's own left out."""
    python = str(interpreters.python(11))
    bare = subprocess.run(
        [python, "-IS", "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    config = {
        "cniVersion": "1.0.0",
        "name": "podnet",
        "type": "bridge",
        "isDefaultGateway": True,
        "ipam": host_local(tmp_path, "10.7.0.0/24", "fd07::/64"),
    }

    def call(command: str) -> set[str]:
        done = subprocess.run(
            ["nsenter", f"--net={node}", python, "-IS", "-c", TELLING, str(TOP)],
            input=json.dumps(config),
            env={
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": "a",
                "CNI_NETNS": str(netns),
                "CNI_IFNAME": "eth0",
                "CNI_PATH": str(tmp_path),
                "PODWIRE_RUN_DIR": str(run_dir),
                "PATH": os.environ["PATH"],
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        answer: Any = json.loads(done.stdout) if done.stdout else {}
        assert ("ips" in answer) is (command == "ADD")
        return set(done.stderr.split()) - set(bare.stdout.split()) - {"__future__"}  # the build leaves that one out

    return call


def test_an_add_imports_what_the_list_has_and_nothing_else(imported: Callable[[str], set[str]]) -> None:
    found = imported("ADD")

    assert found - BUILT_IN - FOR_SETNS_BEFORE_3_12 == BOTH | ADD_ALONE


def test_a_del_imports_what_the_list_has_and_nothing_else(imported: Callable[[str], set[str]]) -> None:
    imported("ADD")

    found = imported("DEL")

    assert found - BUILT_IN == BOTH | DEL_ALONE


def test_nothing_of_the_standard_library_that_has_python_in_it(imported: Callable[[str], set[str]]) -> None:
    found = imported("ADD") | imported("DEL")

    theirs = {name for name in found if name.partition(".")[0] not in ("cni", "ipam")}
    assert theirs <= BUILT_IN | FOR_SETNS_BEFORE_3_12

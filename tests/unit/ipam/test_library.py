"""`ipam` is usable by itself: its example runs, and importing it brings nothing of `cni` but `cni.lean`."""

from __future__ import annotations

import doctest
import shutil
import subprocess
import sys

import ipam


def test_the_example_in_its_documentation_runs() -> None:
    try:
        found = doctest.testmod(ipam)
    finally:
        shutil.rmtree("/run/example", ignore_errors=True)

    assert found.attempted > 4
    assert found.failed == 0


def test_it_brings_nothing_of_cni_but_lean() -> None:
    program = (
        "import sys, ipam.store, ipam.allocator; print(*sorted(m for m in sys.modules if m.split('.')[0] == 'cni'))"
    )

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert found.stdout.split() == ["cni", "cni.lean"]

"""Machines for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm import machine

if TYPE_CHECKING:
    from collections.abc import Callable

# For machines, which are told to run them file by file.
collect_ignore = ["guest"]


@pytest.fixture(scope="session")
def booted(executables: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., machine.Reports]:
    """`booted("ipv6.disable=1", "tests/kernel")`: what these tests say on the oldest kernel, with that option."""
    folder = tmp_path_factory.mktemp("vm")
    system = machine.kernel()
    machine.write_initramfs(folder / "initramfs", system, executables)

    def boot(options: str, *tests: str) -> machine.Reports:
        console = tmp_path_factory.mktemp("boot") / "console"
        return machine.boot(system, folder / "initramfs", console, options, tests)

    return boot

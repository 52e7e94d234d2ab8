"""The verbs by exec, and what `make test` has on kernel objects and bridge, on the oldest kernel supported.

Each machine is booted once, when the first of its tests asks. What they run is in `guest/`, what they are in `machine`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.session import TOP

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.vm.machine import Reports

GUEST = "tests/vm/guest/test_oldest.py"
GUEST_WITHOUT_IPV6 = "tests/vm/guest/test_without_ipv6.py"
# What asks the kernel most. Not the tests of the session itself: each of them starts a pytest.
AS_HERE = (
    *sorted(str(path.relative_to(TOP)) for path in TOP.glob("tests/kernel/test_*.py") if path.stem != "test_session"),
    "tests/faults/test_reaper.py",
    "tests/verbs/test_bridge_addresses.py",
    "tests/verbs/test_bridge_check.py",
    "tests/verbs/test_bridge_dad.py",
    "tests/verbs/test_bridge_del.py",
    "tests/verbs/test_bridge_links.py",
    "tests/verbs/test_bridge_neighbours.py",
    "tests/verbs/test_bridge_node.py",
    "tests/verbs/test_masquerade.py",
    "tests/verbs/test_ptp.py",
    "tests/verbs/test_spoofing.py",
)


def names_in(file: str) -> list[str]:
    return re.findall(r"^def (test_\w+)", Path(TOP, file).read_text(), re.MULTILINE)


@pytest.fixture(scope="session")
def oldest(booted: Callable[..., Reports]) -> Reports:
    return booted("", GUEST, *AS_HERE)


@pytest.fixture(scope="session")
def without_ipv6(booted: Callable[..., Reports]) -> Reports:
    return booted("ipv6.disable=1", GUEST_WITHOUT_IPV6)


@pytest.mark.parametrize("test", names_in(GUEST))
def test_on_the_oldest_kernel(oldest: Reports, test: str) -> None:
    oldest.judge(f"{GUEST}::{test}")


@pytest.mark.parametrize("file", AS_HERE)
def test_what_passes_here_passes_on_the_oldest_kernel(oldest: Reports, file: str) -> None:
    oldest.judge(file)


@pytest.mark.parametrize("test", names_in(GUEST_WITHOUT_IPV6))
def test_on_a_kernel_without_ipv6(without_ipv6: Reports, test: str) -> None:
    without_ipv6.judge(f"{GUEST_WITHOUT_IPV6}::{test}")

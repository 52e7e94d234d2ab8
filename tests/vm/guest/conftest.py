"""What is different in a machine: the executables were built outside, and a pod of theirs is made by exec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import leaks
from tests.verbs.networks import Network
from tests.vm.guest.pods import configured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.calls import Exec


@pytest.fixture(scope="session")
def executables() -> Path:
    """Where `machine.write_initramfs` put them."""
    return Path("/opt/cni/bin")


@pytest.fixture
def lan(plugin: Exec, node: Path, tmp_path: Path) -> Network:
    """A network of both families, whose gateway to everywhere is the node."""
    return configured(plugin, node, tmp_path / "networks", "10.1.0.0/24", "fd00:1::/64")


@pytest.fixture(autouse=True)
def adopted() -> Iterator[None]:
    """What a call leaves running becomes a child of the test."""
    with leaks.orphans_adopted():
        yield

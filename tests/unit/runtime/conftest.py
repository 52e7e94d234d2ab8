"""Fixtures for tests of the runtime's side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.runtime.recording import Plugins


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    """A CNI bin directory of recording plugins, and a runtime that uses it."""
    from tests.unit.runtime.recording import Plugins  # here, so that `--twins` comes before it

    folder = tmp_path / "plugins"
    folder.mkdir()
    return Plugins(folder)

"""Where the tests of the store have their network."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def blue(tmp_path: Path) -> Path:
    """The directory of the network `blue`; it doesn't exist yet."""
    return tmp_path / "blue"

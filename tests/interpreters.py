"""Interpreters of this machine for tests that need a certain version; where it is absent they skip, by name."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest


def python(minor: int) -> str:
    """Path of a Python 3.`minor`."""
    if not (path := _find(minor)):
        pytest.skip(f"lacks: Python 3.{minor}")
    return path


@functools.cache
def _find(minor: int) -> str | None:
    candidates = [Path(f"/usr/bin/python3.{minor}")]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True).stdout.strip()
        candidates += sorted(Path(root, "versions").glob(f"*/bin/python3.{minor}"))
    return next((str(path) for path in candidates if os.access(path, os.X_OK) and _runs(path)), None)


def _runs(path: Path) -> bool:
    # pyenv's shims are executable even where there is nothing behind them.
    return subprocess.run([path, "-IS", "-c", "pass"], capture_output=True, check=False).returncode == 0

"""What the wheel holds: `cni` and `ipam` are generic names, so exactly what we mean and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel of this checkout, built without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(build, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    with zipfile.ZipFile(path) as archive:
        yield archive


def _read(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_the_top_level_is_cni_ipam_and_install(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"cni", "ipam", "install"}
    assert len(tops) == 4


def test_every_module_of_the_three_is_in(wheel: zipfile.ZipFile) -> None:
    sources = {str(path.relative_to(TOP)) for top in ("cni", "ipam", "install") for path in (TOP / top).rglob("*.py")}

    assert sources <= set(wheel.namelist())


def test_a_node_needs_nothing_but_the_standard_library(wheel: zipfile.ZipFile) -> None:
    needs = HeaderParser().parsestr(_read(wheel, "METADATA")).get_all("Requires-Dist", [])

    assert needs, "the extras have gone"
    assert not [need for need in needs if "extra ==" not in need]


def test_the_extras_are_pinned_ranges(wheel: zipfile.ZipFile) -> None:
    metadata = HeaderParser().parsestr(_read(wheel, "METADATA"))

    assert set(metadata.get_all("Provides-Extra", [])) == {"agent", "dev", "test"}
    assert all("<" in need and ">=" in need for need in metadata.get_all("Requires-Dist", []))


def test_the_command_is_called_podwire(wheel: zipfile.ZipFile) -> None:
    assert "podwire = cni.cli:main" in _read(wheel, "entry_points.txt")


def test_the_licence_comes_along(wheel: zipfile.ZipFile) -> None:
    assert any(name.endswith("LICENSE") for name in wheel.namelist())

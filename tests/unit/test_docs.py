"""What README and ARCHITECTURE promise about the code is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cni import plugins
from cni.spec import errors

TOP = Path(__file__).resolve().parents[2]
README = (TOP / "README.md").read_text()
ARCHITECTURE = (TOP / "ARCHITECTURE.md").read_text()

# What only other programs say, and we read: a runtime hears of the first from libcni, of the second from an IPAM.
OF_OTHERS = {errors.UNKNOWN_CONTAINER, errors.LIMITED_CONNECTIVITY}


def test_the_error_table_has_every_code_that_we_use() -> None:
    ours = {value for name, value in vars(errors).items() if name[0].isupper() and type(value) is int}

    told = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}

    assert told == ours - OF_OTHERS


@pytest.mark.parametrize("name", plugins.NAMES)
def test_every_plugin_is_named(name: str) -> None:
    assert f"`{name}`" in README


def test_every_file_that_architecture_names_exists() -> None:
    named = set(re.findall(r"`((?:cni|ipam|install|tests)/[\w/.]+)", ARCHITECTURE))

    missing = {name for name in named if not (TOP / name.rstrip("/.")).exists()}

    assert named
    assert not missing


def test_the_figures_are_those_that_the_bench_wrote() -> None:
    written = (TOP / "docs/bench.md").read_text()

    told = re.findall(r"^\| (?:bridge|20 at once).* \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", README, re.MULTILINE)

    assert len(told) == 4
    for figures in told:
        assert f"| {' | '.join(figures)} |" in written


def test_readme_gives_the_two_commands() -> None:
    assert "make demo" in README
    assert "make test" in README

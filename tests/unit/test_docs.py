"""What README and ARCHITECTURE promise about the code is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cni import plugins
from cni.spec import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TOP = Path(__file__).resolve().parents[2]
README = (TOP / "README.md").read_text()
ARCHITECTURE = (TOP / "ARCHITECTURE.md").read_text()

FOLDERS = ("cni", "ipam", "install", "tests", "bench", "docs")
TOLD = re.compile(
    r"(?:`|\]\()"  # as code, or where a link leads
    rf"((?:[\w-]+/)+|(?:[\w-]+/)*[\w-]+\.(?:py|md)|(?:{'|'.join(FOLDERS)})/[\w/.-]+)"  # a folder or a file
    r"(?::([\w.]+))?"  # and what is in it
    r"(?=[`)(\s])"
)

# What only other plugins say, and we pass on.
OF_OTHERS = {errors.LIMITED_CONNECTIVITY}


def wrong(text: str) -> list[str]:
    """What `text` tells of and isn't there: a folder, a file, or in a file a function, a class or a method."""
    return [f"{path}:{name}" if name else path for path, name in TOLD.findall(text) if not exists(path, name)]


def exists(path: str, name: str) -> bool:
    """`path` may be short, as long as only one file ends in it."""
    found = [TOP / path] if (TOP / path).exists() else ending_in(path)
    return len(found) == 1 and (not name or name in names(found[0]))


def ending_in(path: str) -> list[Path]:
    if path.endswith("/"):
        return []
    return [
        file
        for folder in FOLDERS
        for file in (TOP / folder).rglob(path.rpartition("/")[2])
        if str(file).endswith(f"/{path}")
    ]


def names(file: Path) -> set[str]:
    """What a module defines, and its classes: `name`, `Class.name`."""
    return {*defined(ast.parse(file.read_text()).body)} if file.suffix == ".py" else set()


def defined(body: Iterable[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from [f"{node.name}.{name}" for name in defined(node.body)]
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from [target.id for target in targets if isinstance(target, ast.Name)]


def test_the_error_table_has_every_code_that_we_use() -> None:
    ours = {value for name, value in vars(errors).items() if name[0].isupper() and type(value) is int}

    told = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}

    assert told == ours - OF_OTHERS


@pytest.mark.parametrize("name", plugins.NAMES)
def test_every_plugin_is_named(name: str) -> None:
    assert f"`{name}`" in README


@pytest.mark.parametrize("text", [README, ARCHITECTURE], ids=["README", "ARCHITECTURE"])
def test_every_file_and_every_name_in_it_that_is_told_of_exists(text: str) -> None:
    assert TOLD.search(text)
    assert wrong(text) == []


def test_every_module_that_the_layers_tell_of_exists() -> None:
    rows = re.findall(r"^\| `((?:\w+/)+)` \| (.*?) \|", ARCHITECTURE, re.MULTILINE)
    told = [f"{folder}{name}.py" for folder, what in rows for name in re.findall(r"`([a-z]+)`", what)]

    assert told
    assert [path for path in told if not (TOP / path).is_file()] == []


@pytest.mark.parametrize(
    "told",
    [
        "nowhere/",
        "cni/nowhere.py",
        "unit/nowhere.py",
        "docs/nowhere.md",
        "tests/nowhere",
        "__init__.py",  # which of them?
        "tests/calls.py:nothing",
        "tests/calls.py:Outcome.nothing",
        "tests/calls.py:nothing.result",
        "tests/calls.py:result",
        "tests/calls.py:nothing()",
        "docs/bench.md:nothing",
    ],
)
def test_a_wrong_name_would_be_found(told: str) -> None:
    assert wrong(f"In `{told}` and [there]({told}).") == [told.removesuffix("()")] * 2


@pytest.mark.parametrize(
    "told",
    [
        "tests/",
        "tests/unit",
        "docs/bench.md",
        "tests/calls.py",
        "tests/calls.py:TIMEOUT_S",
        "tests/calls.py:Outcome.result",
        "unit/test_docs.py:wrong",
    ],
)
def test_a_right_name_is_none_of_them(told: str) -> None:
    assert wrong(f"In `{told}` and [there]({told}).") == []


def test_the_figures_are_those_that_the_bench_wrote() -> None:
    written = (TOP / "docs/bench.md").read_text()

    told = re.findall(r"^\| (?:bridge|20 at once).* \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", README, re.MULTILINE)

    assert len(told) == 4
    for figures in told:
        assert f"| {' | '.join(figures)} |" in written


def test_readme_gives_the_two_commands() -> None:
    assert "make demo" in README
    assert "make test" in README

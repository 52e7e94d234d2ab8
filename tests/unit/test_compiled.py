"""What the build leaves out of the executable's compiled code: only what no program of ours can tell from the rest."""

from __future__ import annotations

import dis
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from install import compiled, loader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType


def codes(code: CodeType) -> Iterator[CodeType]:
    """A module's code, and that of everything in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, type(code)):
            yield from codes(constant)


def words(source: str) -> set[str]:
    """Every name and text that is in what `source` is compiled to."""
    found: set[str] = set()
    for code in codes(compiled.compiled("<podwire>/m.py", source)):
        constants = {constant for constant in code.co_consts if isinstance(constant, str)}
        found |= {code.co_name, *code.co_names, *code.co_varnames, *constants}
    return found


def run(source: str) -> dict[str, Any]:
    """What a module holds after it was executed from its member."""
    namespace: dict[str, Any] = {"__name__": __name__, "__doc__": None}
    exec(compiled.compiled("<podwire>/m.py", source), namespace)
    del namespace["__builtins__"], namespace["__name__"]
    return namespace


# --- for the type checker ---------------------------------------------------------------------------


@pytest.mark.parametrize("declared", ["TYPE_CHECKING = False", "from typing import TYPE_CHECKING"])
def test_what_is_there_for_the_type_checker_is_not_in_a_member(declared: str) -> None:
    source = f"""
{declared}
if TYPE_CHECKING:
    from typing import Protocol

    class Feature(Protocol):
        def wanted(self) -> int: ...
else:
    kept = 1
if not TYPE_CHECKING:
    also = 2
else:
    from typing import Any
"""

    assert not words(source) & {"Protocol", "Feature", "wanted", "Any"}
    assert {"kept": 1, "also": 2}.items() <= run(source).items()


def test_the_flag_itself_stays_only_where_it_is_read() -> None:
    imports = "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import a\n"

    assert run(imports) == {"__doc__": None}
    assert run(imports + "told = [TYPE_CHECKING]")["told"] == [False]


def test_a_body_from_which_all_was_dropped_is_still_one() -> None:
    source = """
def function():
    "Documented."
    if TYPE_CHECKING:
        import a
class Class:
    "Documented."
try:
    "Why."
finally:
    if TYPE_CHECKING:
        import a
if len("x"):
    "Why."
else:
    other = 1
"""

    assert set(run(source)) == {"__doc__", "function", "Class"}
    assert run(source)["function"]() is None


def test_other_conditions_are_decided_when_it_runs() -> None:
    source = "if TYPE_CHECKING or True:\n    a = 1\nTYPE_CHECKED = 1\nif TYPE_CHECKED:\n    b = 1"

    assert run(f"TYPE_CHECKING = False\n{source}") == {
        "__doc__": None,
        "TYPE_CHECKING": False,
        "a": 1,
        "TYPE_CHECKED": 1,
        "b": 1,
    }


# --- texts ------------------------------------------------------------------------------------------


def test_a_docstring_stays_where_its_module_reads_it() -> None:
    reader = '"""Help."""\ndef usage():\n    return __doc__'

    assert run(reader)["usage"]() == "Help."
    assert run('"""Help."""\nx = 1') == {"__doc__": None, "x": 1}
    assert run("'a'; 'b'; x = 1") == {"__doc__": None, "x": 1}
    assert run("def usage():\n    return __doc__\n'not the first'")["usage"]() is None


def test_docstrings_of_functions_classes_and_variables_are_not_in_a_member() -> None:
    source = '''
X = 1
"""About X."""
def function():
    """About function."""
    return "kept"
class Class:
    """About Class."""
    def method(self):
        """About method."""
'''

    assert not [word for word in words(source) if word.startswith("About")]
    assert run(source)["function"]() == "kept"


# --- annotations ------------------------------------------------------------------------------------


def test_annotations_are_in_a_member_only_where_a_class_is_made_of_them() -> None:
    source = """
from dataclasses import dataclass
LIMIT: Module = 3
later: Module
class Plain:
    at: Body = 4
    declared: Body
    def __init__(self, x: Argument) -> Returned:
        self.x: Attribute = x
        y: Local
        if x:
            y = x
            self.y = y
@dataclass
class Record:
    number: Field
    text: Field = "t"
"""

    found = run(source)

    assert not words(source) & {"Module", "Body", "Argument", "Returned", "Attribute", "Local"}
    assert "__annotations__" not in found
    assert (found["LIMIT"], found["Plain"].at, found["Plain"](5).x, found["Plain"](5).y) == (3, 4, 5, 5)
    assert "later" not in found
    assert repr(found["Record"](1)) == "Record(number=1, text='t')"


# --- records ----------------------------------------------------------------------------------------

RECORD = """
from cni.lean import NamedTuple
class Record(NamedTuple):
    first: Field
    second: Field = 2
    third: Field = second + 1
    def total(self) -> Returned:
        return sum(self)
"""
"""The whole of what a record does is tried in `tests/unit/test_lean.py`, on one of a member too."""


def test_a_record_is_made_without_annotations_and_without_a_class_to_make_it() -> None:
    record = run(RECORD)["Record"]

    assert (record._fields, record._field_defaults) == (("first", "second", "third"), {"second": 2, "third": 3})
    assert (record(1), record(1).total(), repr(record(0, third=5))) == (
        (1, 2, 3),
        6,
        "Record(first=0, second=2, third=5)",
    )
    assert "__annotations__" not in vars(record)
    assert not words(RECORD) & {"Field", "Returned", "__annotations__"}


@pytest.mark.parametrize(
    "change",
    [
        ("from cni.lean import NamedTuple", "from typing import NamedTuple"),
        ("class Record(NamedTuple)", "Other = NamedTuple\nclass Record(Other)"),
        ("    def total", "    if third:\n        fourth: Field = 5\n    def total"),
    ],
)
def test_a_record_that_is_not_plainly_one_of_ours_is_made_by_its_base(change: tuple[str, str]) -> None:
    record = run(RECORD.replace(*change))["Record"]

    assert record._fields[:3] == ("first", "second", "third")
    assert tuple(vars(record)["__annotations__"]) == record._fields


# --- imports ----------------------------------------------------------------------------------------


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that counts as ours, and has been executed."""
    module = ModuleType("ours")
    module.__dict__.update(a=1, b=2)
    monkeypatch.setitem(sys.modules, "ours", module)
    return module


def test_what_a_module_takes_from_another_comes_from_the_loader(ours: ModuleType) -> None:
    code = compiled.compiled("<podwire>/m.py", "from ours import a, b as c\nfrom ours import b\n", {"ours"})
    with open(os.devnull, "rb") as nothing:
        namespace = {"__loader__": loader.Compiled({}, nothing.fileno())}

    exec(code, namespace)

    assert namespace.items() >= {"a": 1, "c": 2, "b": 2}.items()
    assert "IMPORT_NAME" not in {instruction.opname for instruction in dis.get_instructions(code)}


@pytest.mark.parametrize(
    "source",
    [
        "from other import a",
        "import ours",
        "def later():\n    from ours import a",
        "try:\n    from ours import a\nexcept ImportError:\n    pass",
    ],
)
def test_every_other_import_stays_one(source: str) -> None:
    names = [
        instruction.opname
        for code in codes(compiled.compiled("<podwire>/m.py", source, {"ours"}))
        for instruction in dis.get_instructions(code)
    ]

    assert "IMPORT_NAME" in names


# --- tracebacks -------------------------------------------------------------------------------------


def test_the_lines_of_a_traceback_stay() -> None:
    source = '"""Why."""\n\nif TYPE_CHECKING:\n    import a\n\n\ndef fails():\n    """Why."""\n    1 / 0\n'

    with pytest.raises(ZeroDivisionError) as caught:
        run(source)["fails"]()

    assert caught.traceback[-1].lineno == 8  # counted from 0

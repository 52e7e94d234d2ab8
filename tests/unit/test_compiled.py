"""What the build leaves out of the executable's compiled code: only what no program of ours can tell from the rest."""

from __future__ import annotations

import dis
import importlib
import marshal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from install import compiled, loader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import CodeType, ModuleType


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

OURS = {
    "ours": "a = 1\nb = 2\ncount = []",
    "ours.early": "from ours import a, count as counted\nfrom ours import b\ncounted.append(1)",
    "ours.late": "LATE = 3",
    "ours.broken": "import nothing_of_this_name",
    "ours.program": """
from ours import early
def later(x):
    if x:
        from ours.late import LATE
        from ours import late as again, a
        return LATE, again.LATE, a
def fails():
    from ours import broken
""",
}


@pytest.fixture(params=["1", None], ids=["plugin", "command"])
def program(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`ours.program`, made by the loader in the process of a plugin and of a command for people."""
    modules: dict[str, tuple[str, str, list[str]]] = {
        name: (f"<podwire>/{name}{'/__init__' if name == 'ours' else ''}.py", source, [])
        for name, source in OURS.items()
    }
    modules["ours.early"][2].append("ours")
    modules["ours.program"][2].extend(["ours", "ours.early"])
    index, parts = compiled.member(modules, [[name] for name in modules], "ours")
    (tmp_path / "parts").write_bytes(parts)
    environ = {b"CNI_COMMAND": b"ADD"} if request.param else {}
    monkeypatch.setattr("posix.environ", environ)
    with (tmp_path / "parts").open("rb") as file:
        finder = loader.Compiled(marshal.loads(index), file.fileno())
        monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
        finder.make(["ours.program"])
        yield sys.modules["ours.program"]
    for name in set(OURS) & set(sys.modules):
        del sys.modules[name]


def test_what_modules_take_from_each_other_they_get(program: ModuleType) -> None:
    early = sys.modules["ours.early"]

    assert (early.a, early.b, early.counted) == (1, 2, [1])
    assert program.early is sys.modules["ours"].early is early


def test_what_a_function_imports_is_made_when_it_is_called(program: ModuleType) -> None:
    before = "ours.late" in sys.modules

    assert not before
    assert program.later(1) == program.later(1) == (3, 3, 1)
    assert sys.modules["ours"].late is sys.modules["ours.late"]


def test_a_module_that_fails_is_not_there_and_can_be_tried_again(program: ModuleType) -> None:
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
            program.fails()

        assert "ours.broken" not in sys.modules


def test_modules_that_are_built_in_are_needed_where_they_are_not_imported_later() -> None:
    source = "try:\n    import errno, json\nexcept ImportError:\n    from time import x\ndef later():\n    import gc"

    assert compiled.builtins(compiled.compiled("<podwire>/m.py", source)) == ["errno", "time"]


@pytest.mark.parametrize("name", ["errno", "_struct", "select"])
def test_a_module_that_is_built_in_is_made_as_the_import_system_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name not in sys.builtin_module_names:
        pytest.skip(f"lacks: {name} in the interpreter")
    monkeypatch.delitem(sys.modules, name, raising=False)
    expected = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)

    loader.make_builtin(name)

    made = sys.modules[name]
    assert made is not expected
    assert vars(made).keys() == vars(expected).keys()
    assert (made.__spec__, made.__loader__, made.__package__) == (
        expected.__spec__,
        expected.__loader__,
        expected.__package__,
    )


def test_what_the_build_had_built_in_and_we_have_not_is_left_to_the_statement(program: ModuleType) -> None:
    finder: Any = program.__loader__

    finder.make(["nothing_of_this_name"])

    assert "nothing_of_this_name" not in sys.modules


def imports(source: str) -> list[str]:
    """What the import system is asked for by a module and its functions, `ours` being ours."""
    return [
        instruction.argval
        for code in codes(compiled.compiled("<podwire>/m.py", source, {"ours"}))
        for instruction in dis.get_instructions(code)
        if instruction.opname == "IMPORT_NAME"
    ]


def test_the_import_system_is_not_asked_for_what_is_ours() -> None:
    assert not imports("from ours import a\ndef later():\n    from ours import b as c, d")


@pytest.mark.parametrize(
    "source",
    [
        "from ours.other import a",
        "import ours",
        "from ours import *",
        "try:\n    from ours import a\nexcept ImportError:\n    pass",
        "def later():\n    try:\n        from ours import a\n    except ImportError:\n        pass",
    ],
)
def test_every_other_import_stays_one(source: str) -> None:
    assert imports(source)


# --- tracebacks -------------------------------------------------------------------------------------


def test_the_lines_of_a_traceback_stay() -> None:
    source = '"""Why."""\n\nif TYPE_CHECKING:\n    import a\n\n\ndef fails():\n    """Why."""\n    1 / 0\n'

    with pytest.raises(ZeroDivisionError) as caught:
        run(source)["fails"]()

    assert caught.traceback[-1].lineno == 8  # counted from 0

"""Who may import whom, and who may do what: read from the sources, so that it stays so.

A failure here is a question about the design, not about the code: either the import is wrong, or the table
in this file, and the drawing in ARCHITECTURE.md with it, should say something else.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).resolve().parents[2]

# Unit (a module, or a package with all that is in it) → the units that it may import besides itself.
# A module belongs to the longest name that fits. Imports for the type checker count.
POD = "cni.lean ipam.address cni.spec cni.kernel cni.key cni.wanted"
LAYERS = {
    "cni.lean": "",
    "cni.boot": "cni.lean",
    "ipam.address": "cni.lean",
    "cni.spec": "cni.lean ipam.address",
    "cni.kernel": "cni.lean ipam.address cni.spec",
    "cni.key": "cni.lean",
    "cni.wanted": "cni.lean ipam.address cni.spec cni.kernel cni.key",
    "cni.pods": POD,
    "cni.portconditions": POD,
    "cni.features": f"{POD} cni.pods cni.portconditions",
    "cni.podwire": f"{POD} cni.pods cni.features cni.allowlist",
    "cni.allowlist": "cni.lean cni.spec",
    "cni.plugins": f"{POD} cni.features cni.allowlist cni.podwire",
    "cni.attach": f"{POD} cni.boot",
    "ipam": "cni.lean ipam.address",
    "cni.invoke": "cni.lean cni.spec cni.key",
    "cni.hostlocal": "cni.lean ipam.address cni.spec cni.key ipam",
    "cni.delegate": "cni.lean cni.spec cni.key cni.invoke",
    "cni.noaddresses": "cni.spec cni.key",
    "cni.addresses": "cni.spec cni.key cni.wanted cni.hostlocal cni.delegate cni.noaddresses",
    "cni.failing": "cni.spec cni.kernel",
    "cni.skeleton": f"{POD} cni.features",
    "cni.plugin": f"{POD} cni.skeleton cni.boot cni.attach cni.plugins cni.addresses cni.hostlocal cni.failing",
    "cni.__main__": "cni.lean cni.plugin cni.cli",
    # For people: not on the path of a pod, and imported by nothing that is.
    "cni.runtime": "cni.lean ipam.address cni.spec cni.key cni.invoke",
    "cni.cli": f"{POD} cni.boot cni.attach cni.plugins cni.addresses cni.noaddresses cni.hostlocal cni.runtime ipam "
    "install",
    "install": f"{POD} cni.__main__",
    "cni": "",
}

FOR_PEOPLE = ("cni.runtime", "cni.cli", "install")

STARTERS = ("install.loader", "install.sources")
"""Part of the executable, though under install: they run before there is a `cni.lean`."""

BUILT_IN = {"__future__", "errno", "fcntl", "gc", "select", "sys", "time"}
"""Standard modules without any Python in them, which the path of a pod may name; the rest comes from `cni.lean`."""

SELDOM = {("cni.failing", "traceback"), ("cni.kernel.ruleset", "ctypes"), ("cni.allowlist", "re")}
"""Who may import what slow module where that is rare: to show a bug of ours; to load rules, once in a boot; to obey an
administrator's list."""

GENERIC = {"json", "logging", "select", "signal", "socket", "struct", "time", "types"}
"""Names of standard modules that a script started inside our directory would import instead of theirs."""


@dataclass(frozen=True, slots=True)
class Import:
    module: str
    line: int
    for_types: bool
    """Under `if TYPE_CHECKING`, so never executed."""


@dataclass(frozen=True, slots=True)
class Module:
    name: str
    path: Path
    tree: ast.Module

    @property
    def unit(self) -> str:
        return unit_of(self.name)

    @property
    def imports(self) -> list[Import]:
        return list(_imports(self.tree, for_types=False))

    def uses(self, *names: str) -> list[int]:
        """Lines that mention one of `names`: as a variable, an attribute ("attr" or "module.attr") or an import."""
        return [
            getattr(node, "lineno", 0)
            for node in ast.walk(self.tree)
            if (isinstance(node, ast.Name) and node.id in names)
            or (isinstance(node, ast.Attribute) and {node.attr, ast.unparse(node)} & set(names))
            or (isinstance(node, ast.alias) and node.name in names)
        ]


def _imports(node: ast.AST, *, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, for_types) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: imports are absolute"
            assert child.module is not None
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield Import(inner if _exists(inner) else child.module, child.lineno, for_types)
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for part in child.body:
                yield from _imports(ast.Module([part], []), for_types=True)
            for part in child.orelse:
                yield from _imports(ast.Module([part], []), for_types=for_types)
        else:
            yield from _imports(child, for_types=for_types)


def _exists(name: str) -> bool:
    path = TOP.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def unit_of(name: str) -> str:
    return max((unit for unit in LAYERS if name == unit or name.startswith(f"{unit}.")), key=len, default="")


def modules(*tops: str) -> list[Module]:
    found = []
    for path in sorted(path for top in tops for path in (TOP / top).rglob("*.py")):
        name = ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__")
        found.append(Module(name, path, ast.parse(path.read_text())))
    return found


OURS = modules("cni", "ipam", "install")
EVERYTHING = OURS + modules("bench", "tests")
POD_PATH = [module for module in OURS if not module.unit.startswith(FOR_PEOPLE)]


def test_there_is_something_to_read() -> None:
    assert {"cni.lean", "ipam.address"} < {module.name for module in POD_PATH}


@pytest.mark.parametrize("module", OURS, ids=lambda module: module.name)
def test_a_module_imports_only_from_the_layers_below(module: Module) -> None:
    assert module.unit, f"{module.name} has no place in LAYERS"
    may = {module.unit, "cni", *LAYERS[module.unit].split()}

    wrong = [
        f"line {it.line}: {it.module}"
        for it in module.imports
        if it.module.split(".")[0] in ("cni", "ipam", "install", "bench", "tests") and unit_of(it.module) not in may
    ]

    assert not wrong, f"{module.name} is part of {module.unit}, which may import {sorted(may)}"


def test_features_do_not_import_each_other() -> None:
    features = [module for module in OURS if module.unit == "cni.features"]

    wrong = [(m.name, it.module) for m in features for it in m.imports if it.module.startswith("cni.features.")]

    assert not wrong


@pytest.mark.parametrize("module", POD_PATH, ids=lambda module: module.name)
def test_the_path_of_a_pod_needs_no_module_that_is_slow_to_import(module: Module) -> None:
    if module.name == "cni.lean":
        return  # whose business it is
    wrong = [
        f"line {it.line}: {it.module}"
        for it in module.imports
        if not it.for_types
        and it.module.split(".")[0] not in {"cni", "ipam", *BUILT_IN}
        and (module.name, it.module) not in SELDOM
    ]

    assert not wrong, f"{module.name}: take it from cni.lean, or from under TYPE_CHECKING"


@pytest.mark.parametrize("module", OURS, ids=lambda module: module.name)
def test_only_lean_looks_behind_the_public_modules(module: Module) -> None:
    if module.name in ("cni.lean", *STARTERS):
        return
    wrong = [
        f"line {it.line}: {it.module}"
        for it in module.imports
        if it.module == "posix" or (it.module.startswith("_") and it.module != "__future__")
    ]

    assert not wrong, f"{module.name}: no tricks outside cni.lean"


def test_one_module_enters_namespaces() -> None:
    assert _users("setns", "unshare") == {"cni.lean", "cni.kernel.netns"}


def test_one_module_opens_netlink_sockets() -> None:
    assert _users("AF_NETLINK") == {"cni.kernel.netlink"}


def test_one_module_loads_rules() -> None:
    assert _users("ctypes") - {"cni.lean"} == {"cni.kernel.ruleset"}


def test_nothing_below_the_shell_prints_or_reads_the_environment() -> None:
    shell = {"cni.plugin", "cni.__main__"}

    below = {module.name for module in POD_PATH} - shell - {"cni.lean"}  # which defines `environment`

    assert not below & _users(
        "print",
        "environment",
        "os.environ",
        "posix.environ",
        "os.getenv",
        "sys.argv",
        "sys.stdin",
        "sys.stdout",
        "sys.stderr",
    )


def test_nothing_below_the_shell_exits_but_forked_children() -> None:
    shell = {"cni.plugin", "cni.__main__"}
    forks = {"cni.invoke", "cni.attach.reaper"}

    below = {module.name for module in POD_PATH} - shell - forks

    assert not _users("sys.exit", "exit", "_exit", "SystemExit") & below


def _users(*names: str) -> set[str]:
    return {module.name for module in OURS if module.uses(*names)}


def test_only_the_oracle_imports_pyroute2() -> None:
    users = {m.name for m in EVERYTHING for it in m.imports if it.module.split(".")[0] == "pyroute2"}

    assert {name for name in users if not name.startswith("bench.")} == {"tests.oracle"}


@pytest.mark.parametrize("module", EVERYTHING, ids=lambda module: module.name)
def test_a_module_says_why_it_exists(module: Module) -> None:
    assert not module.tree.body or ast.get_docstring(module.tree), f"{module.path}: no docstring"


def test_no_module_is_called_like_one_of_the_standard_library() -> None:
    assert not [module.name for module in EVERYTHING if module.name.rpartition(".")[2] in GENERIC]

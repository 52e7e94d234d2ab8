"""Our modules, compiled and marshalled by, and for, the interpreter that runs this.

A program rather than a module: the build starts it with each interpreter it finds. From stdin it reads, as
JSON, the arguments of `member`; to stdout it writes what the executable holds for this interpreter, with the
length of the index before it:

    magic number · index · part · seal · part · seal · …

The index is a marshalled dictionary {module name: (start, size, needs)}: in which part its code is, and which
modules have to be executed before it. Besides, it has the code of the loader, which is the first to be needed, and
the seal. A part is a marshalled dictionary {module name: code} of modules that are likely to be needed together.
The seal, another in every build, tells that a part is of this index: somebody may overwrite the file while it runs.
"""

from __future__ import annotations
import __future__

import ast
import dis
import hashlib
import importlib.util
import json
import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from types import CodeType
    from typing import Any


class Lean(ast.NodeTransformer):
    """Drops what costs time at each start and what no module of ours reads at run time.

    That is: what is there for the type checker alone (`if TYPE_CHECKING:`, annotations but for those that are the
    fields of a record or dataclass), strings that stand by themselves (docstrings, but for a module's that reads
    its own for a command's --help), and the import of `__future__`, a file of the standard library (0.15 ms).
    Line numbers stay: a traceback is worth the 4 % of unmarshalling that they cost.

    And it does at once what the interpreter would come to by detours: the fields of a record are those that stand
    in its class, and what a module takes from another of ours, it gets from our loader.
    """

    def __init__(self, ours: Container[str]) -> None:
        self._ours = ours
        self._has_records = False
        self._is_later = False
        self._is_tried = False

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if not isinstance(node, ast.Module) and getattr(node, "body", None) == []:
            node.body = [ast.Pass(lineno=node.lineno, col_offset=0)]  # type: ignore[attr-defined]  # all was dropped
        return node

    def visit_Module(self, node: ast.Module) -> ast.Module:
        imports = [one for one in node.body if isinstance(one, ast.ImportFrom) and one.module == "cni.lean"]
        self._has_records = "NamedTuple" in {alias.asname or alias.name for one in imports for alias in one.names}
        docstring = node.body[:1] if ast.get_docstring(node) is not None and "__doc__" in _read(node) else []
        self.generic_visit(node)
        node.body = docstring + _without_annotations(node.body)
        if "TYPE_CHECKING" not in _read(node):
            node.body = [one for one in node.body if ast.unparse(one) != "TYPE_CHECKING = False"]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        fields = self._fields(node)
        if fields is not None:
            node.bases = [_at(node, "tuple").value]
            node.body = [*_without_annotations(node.body), _at(node, f"NamedTuple.complete(locals(), {fields})")]
        # Those of a class that is made by somebody else's rules may be what it is made from.
        elif not node.bases and not node.keywords and not node.decorator_list:
            node.body = _without_annotations(node.body) or [_at(node, "pass")]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        outer, self._is_later = self._is_later, True
        self.generic_visit(node)
        self._is_later = outer
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_If(self, node: ast.If) -> ast.If | list[ast.stmt]:
        match ast.unparse(node.test):
            case "TYPE_CHECKING":
                node.body, node.orelse = node.orelse, []
            case "not TYPE_CHECKING":
                node.orelse = []
            case _:
                self.generic_visit(node)
                return node
        self.generic_visit(node)
        return node.body

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node

    def visit_Try(self, node: ast.Try) -> ast.Try:
        outer, self._is_tried = self._is_tried, True
        self.generic_visit(node)
        self._is_tried = outer
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt | None:
        """`from one.of.ours import a, b` becomes a question to the loader (`install.loader.Compiled.names` has why)."""
        module, names = node.module, [alias.name for alias in node.names]
        if module == "__future__":
            return None
        if module not in self._ours or names == ["*"] or self._is_tried:
            return node
        made = [one for one in (module, *(f"{module}.{name}" for name in names)) if one in self._ours]
        targets = "".join(f"{alias.asname or alias.name}, " for alias in node.names)
        question = f"later({tuple(made)}, " if self._is_later else "names("
        bound: ast.stmt = _at(node, f"({targets}) = __loader__.{question}{module!r}, {tuple(names)})")
        return bound

    def _fields(self, node: ast.ClassDef) -> tuple[str, ...] | None:
        """Those of a `cni.lean.NamedTuple`; None for any other class, and where they aren't plain to see."""
        if not self._has_records or [ast.unparse(base) for base in node.bases] != ["NamedTuple"] or node.keywords:
            return None
        simple = ast.AnnAssign | ast.Assign | ast.FunctionDef | ast.Expr | ast.Pass
        fields = [ast.unparse(one.target) for one in node.body if isinstance(one, ast.AnnAssign)]
        # The names of private ones would change, and typing has none that begin with an underscore.
        plain = all(field.isidentifier() and field[0] != "_" for field in fields)
        return tuple(fields) if plain and all(isinstance(one, simple) for one in node.body) else None


def _at(place: ast.stmt, text: str) -> Any:
    """The statement that `text` is, as if it stood at another's place."""
    statement = ast.parse(text).body[0]
    for one in ast.walk(statement):
        ast.copy_location(one, place)
    return statement


def _read(node: ast.AST) -> set[str]:
    """The variables that are read anywhere in it."""
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)}


def _without_annotations(body: list[ast.stmt]) -> list[ast.stmt]:
    """The interpreter keeps those of modules and classes, in a dictionary that it makes for them."""
    kept: list[ast.stmt] = []
    for one in body:
        if not isinstance(one, ast.AnnAssign):
            kept.append(one)
        elif one.value is not None:
            kept.append(ast.copy_location(ast.Assign([one.target], one.value), one))
    return kept


def compiled(file: str, source: str, ours: Container[str] = ()) -> CodeType:
    tree = Lean(ours).visit(ast.parse(source, file))
    flags = __future__.annotations.compiler_flag
    code: CodeType = compile(tree, file, "exec", flags=flags, dont_inherit=True, optimize=0)
    return code


def builtins(code: CodeType) -> list[str]:
    """The modules built in here that a module imports when it is, and not later by its functions."""
    imports = [one.argval for one in dis.get_instructions(code) if one.opname == "IMPORT_NAME"]
    return [name for name in imports if name in sys.builtin_module_names]


def member(modules: dict[str, tuple[str, str, list[str]]], parts: list[list[str]], loader: str) -> tuple[bytes, bytes]:
    """Index and parts; `modules` are {name: [file name, source text, needs]}."""
    seal = hashlib.sha256(json.dumps([sys.version, modules, parts]).encode()).digest()[:8]
    index: dict[str, object] = {"loader": compiled(*modules[loader][:2]), "seal": seal}
    content = b""
    for part in parts:
        codes = {name: compiled(*modules[name][:2], modules) for name in part}
        code = marshal.dumps(codes) + seal
        # Starts count from the end of the index: how long that gets, depends on them.
        index.update((name, (len(content), len(code), (*modules[name][2], *builtins(codes[name])))) for name in part)
        content += code
    return marshal.dumps(index), content


if __name__ == "__main__":
    index, parts = member(**json.load(sys.stdin.buffer))
    sys.stdout.buffer.write(len(index).to_bytes(4, "big") + importlib.util.MAGIC_NUMBER + index + parts)

"""Our modules, compiled and marshalled by, and for, the interpreter that runs this.

A program rather than a module: the build starts it with each interpreter it finds. From stdin it reads, as
JSON, the arguments of `member`; to stdout it writes what the executable holds for this interpreter, with the
length of the index before it:

    magic number · index · part · part · …

The index is a marshalled dictionary {module name: (start, size, needs)}: in which part its code is, and which
modules have to be executed before it. Besides, it has the code of the loader, which is the first to be needed.
A part is a marshalled dictionary {module name: code} of modules that are likely to be needed together.
"""

from __future__ import annotations
import __future__

import ast
import dis
import importlib.util
import json
import marshal
import sys
from collections import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from types import CodeType
    from typing import Any

    Node = tuple[str, bytes, tuple[int, ...]]
    """One object: its type, what is written of it, and the objects that it is made of (indexes of other nodes)."""

REFERRED = 0x80
"""Added to the type of an object that has a number, in the order in which they begin (FLAG_REF of marshal.c)."""


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


class Dense:
    """Marshalled data anew, with what is equal in it written once and referred to elsewhere.

    `marshal` refers to what is the same object. Two functions with the same arguments have equal tuples of names,
    not the same, and so on: one in ten of all objects, each of which takes a start memory and a quarter of a
    microsecond. And it numbers most objects for references that never come.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._numbered: list[int] = []
        """What the data refers to, as indexes of `_nodes`."""
        self._nodes: dict[Node, int] = {}
        self._root = self._read()
        self._used = Counter(part for _, _, parts in self._nodes for part in parts)
        self._written: dict[int, int] = {}
        """What may be referred to by number, with its number."""
        self.data = b"".join(self._writing(self._root, list(self._nodes)))

    def _take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def _read(self) -> int:
        """The index of the object that comes next. Raises ValueError for what doesn't occur in our code, as of 3.13."""
        byte = self._take(1)[0]
        kind, parts = chr(byte & ~REFERRED), []
        number = len(self._numbered)
        if byte & REFERRED:
            self._numbered.append(-1)
        match kind:
            case "r":
                return self._numbered[int.from_bytes(self._take(4), "little")]
            case "N" | "T" | "F" | ".":
                own = b""
            case "i":
                own = self._take(4)
            case "g":
                own = self._take(8)
            case "l":
                own = self._take(4)
                own += self._take(2 * abs(int.from_bytes(own, "little", signed=True)))
            case "s" | "u" | "t" | "a" | "A":
                own = self._take(4)
                own += self._take(int.from_bytes(own, "little"))
            case "z" | "Z":
                own = self._take(1)
                own += self._take(own[0])
            case ")" | "(" | ">":
                own = self._take(1 if kind == ")" else 4)
                parts = [self._read() for _ in range(int.from_bytes(own, "little"))]
            case "{":
                own = b""
                while self._data[self._at] != ord("0"):
                    parts += [self._read(), self._read()]
                self._take(1)
            case "c":
                own = self._take(20)
                parts = [self._read() for _ in range(8)]
                own += self._take(4)
                parts += [self._read(), self._read()]
            case _:
                raise ValueError(f"{kind!r} in marshalled data")
        index = self._nodes.setdefault((kind, own, tuple(parts)), len(self._nodes))
        if byte & REFERRED:
            self._numbered[number] = index
        return index

    def _writing(self, index: int, nodes: list[Node]) -> Iterator[bytes]:
        kind, own, parts = nodes[index]
        if index in self._written:
            yield b"r" + self._written[index].to_bytes(4, "little")
            return
        is_referred = self._used[index] > 1 and kind not in "NTF.{"
        if is_referred:
            self._written[index] = len(self._written)
        yield bytes([ord(kind) | (REFERRED if is_referred else 0)])
        yield own[:20] if kind == "c" else own
        for place, part in enumerate(parts):
            if kind == "c" and place == 8:
                yield own[20:]
            yield from self._writing(part, nodes)
        if kind == "{":
            yield b"0"


def marshalled(value: Any) -> bytes:
    data = marshal.dumps(value)
    try:
        dense = Dense(data).data
    except ValueError:
        return data  # of an interpreter that has other kinds of objects than those that we know
    return dense if marshal.loads(dense) == value else data


def builtins(code: CodeType) -> list[str]:
    """The modules built in here that a module imports when it is, and not later by its functions."""
    imports = [one.argval for one in dis.get_instructions(code) if one.opname == "IMPORT_NAME"]
    return [name for name in imports if name in sys.builtin_module_names]


def member(modules: dict[str, tuple[str, str, list[str]]], parts: list[list[str]], loader: str) -> tuple[bytes, bytes]:
    """Index and parts; `modules` are {name: [file name, source text, needs]}."""
    index: dict[str, object] = {"loader": compiled(*modules[loader][:2])}
    content = b""
    for part in parts:
        codes = {name: compiled(*modules[name][:2], modules) for name in part}
        code = marshalled(codes)
        # Starts count from the end of the index: how long that gets, depends on them.
        index.update((name, (len(content), len(code), (*modules[name][2], *builtins(codes[name])))) for name in part)
        content += code
    return marshalled(index), content


if __name__ == "__main__":
    index, parts = member(**json.load(sys.stdin.buffer))
    sys.stdout.buffer.write(len(index).to_bytes(4, "big") + importlib.util.MAGIC_NUMBER + index + parts)

"""Modules compiled and marshalled by, and for, the interpreter that runs this.

A program rather than a module: the build starts it with each interpreter it finds. From stdin it reads, as
JSON, an object of two: `always`, the modules that every call imports, in the order in which they may be
executed, and `others`, those that only some calls import; each {module name: [file name, source text]}. To
stdout it writes what the executable holds for this interpreter, the length of the first part before it:

1. The interpreter's magic number and one marshalled dictionary, {module name: code} of `always`, followed by
   {module name: (start, size)} of `others`. Being one object, strings that several modules use are in it once.
2. The codes of `others`, each marshalled by itself, so that it costs a call that doesn't import it nothing.
"""

from __future__ import annotations
import __future__

import ast
import importlib.util
import json
import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import TypeVar

    Body = TypeVar("Body", ast.ClassDef, ast.FunctionDef)
    Modules = dict[str, tuple[str, str]]


class Lean(ast.NodeTransformer):
    """Drops what costs time at each start and what no module of ours reads at run time.

    That is the docstrings of functions and classes, the annotations of functions (those of classes are the fields
    of NamedTuples), and the import of `__future__`, a file of the standard library (0.15 ms). Docstrings of modules
    stay, for a command's --help; line numbers too: a traceback is worth the 4 % that they cost.
    """

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return self._without_docstring(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        return self._without_docstring(node)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        return None if node.module == "__future__" else node

    def _without_docstring(self, node: Body) -> Body:
        if ast.get_docstring(node, clean=False) is not None:
            node.body[:1] = [] if len(node.body) > 1 else [ast.copy_location(ast.Pass(), node.body[0])]
        self.generic_visit(node)
        return node


def compiled(file: str, source: str) -> CodeType:
    tree = Lean().visit(ast.parse(source, file))
    flags = __future__.annotations.compiler_flag
    code: CodeType = compile(tree, file, "exec", flags=flags, dont_inherit=True, optimize=0)
    return code


def members(always: Modules, others: Modules, gap: int) -> tuple[bytes, bytes]:
    """Both parts. A start counts from the end of the first, behind which lies a `gap` before the second."""
    parts = {name: marshal.dumps(compiled(*module)) for name, module in others.items()}
    index: dict[str, CodeType | tuple[int, int]] = {name: compiled(*module) for name, module in always.items()}
    start = gap
    for name, part in parts.items():
        index[name] = (start, len(part))
        start += len(part)
    return importlib.util.MAGIC_NUMBER + marshal.dumps(index), b"".join(parts.values())


if __name__ == "__main__":
    first, second = members(**json.load(sys.stdin.buffer))
    sys.stdout.buffer.write(len(first).to_bytes(4, "big") + first + second)

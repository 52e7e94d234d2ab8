"""One member of the executable: modules compiled and marshalled by, and for, the interpreter that runs this.

A program rather than a module: the build starts it with each interpreter it finds, so it reads from stdin
{module name: [file name, source text]} as JSON, and writes the member to stdout.
"""

from __future__ import annotations

import importlib.util
import json
import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType


def compiled(modules: dict[str, tuple[str, str]]) -> dict[str, CodeType]:
    return {
        name: compile(source, file, "exec", dont_inherit=True, optimize=0)
        for name, (file, source) in sorted(modules.items())
    }


def together(modules: dict[str, tuple[str, str]]) -> bytes:
    """All of them as one object: strings that occur in several modules are stored and made once."""
    return importlib.util.MAGIC_NUMBER + marshal.dumps(compiled(modules))


def apart(modules: dict[str, tuple[str, str]]) -> bytes:
    """Each on its own, so that importing one doesn't pay for the others."""
    codes = {name: marshal.dumps(code) for name, code in compiled(modules).items()}
    return importlib.util.MAGIC_NUMBER + marshal.dumps(codes)


if __name__ == "__main__":
    how = {"together": together, "apart": apart}[sys.argv[1]]
    sys.stdout.buffer.write(how(json.load(sys.stdin.buffer)))

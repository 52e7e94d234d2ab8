"""Runs the executable's code from what its build compiled for this very interpreter.

The few lines of Python in the executable's header have read a dictionary of code, and execute this text right
there, in `__main__`; here the code becomes modules. Nothing is compiled, no directory is searched and
importlib's own Python isn't imported: an exec lives ten milliseconds, so each of these would show.

An interpreter for which nothing is compiled goes by `install.sources` instead.
"""

from __future__ import annotations

import gc
import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType
    from typing import NoReturn

    Code = CodeType | tuple[int, int]  # the second: where it lies, counted from the end of what was read, and its size


class Compiled:
    """The executable's modules, for one interpreter version."""

    def __init__(self, codes: dict[str, Code], executable: int) -> None:
        """`executable` is open, and positioned at the end of the member that `codes` was."""
        self._codes = codes
        # Kept open: the path may name a newer file by the time that a module is read.
        self._executable = executable
        self._end = posix.lseek(executable, 0, 1)

    def preload(self) -> None:
        """Makes modules of what every call imports, in the order given by the build.

        The import statements then find them made. That is worth 15 µs a module, which the import system
        spends on locks, specs and asking around, and the reason why these modules have no spec.
        """
        modules = sys.modules
        module_type = type(sys)
        for name, code in self._codes.items():
            if isinstance(code, tuple):
                break  # what only some calls import follows
            module = modules[name] = module_type(name)
            module.__loader__ = self  # type: ignore[assignment]  # see find_spec
            parent, _, child = name.rpartition(".")
            if code.co_filename.endswith("/__init__.py"):
                module.__path__ = []
                module.__package__ = name
            else:
                module.__package__ = parent
            exec(code, module.__dict__)
            if parent:
                setattr(modules[parent], child, module)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name not in self._codes:
            return None
        file = self.get_code(name).co_filename
        # A loader is whatever has these methods; to inherit importlib.abc.Loader one would have to import it.
        return ModuleSpec(name, self, origin=file, is_package=file.endswith("/__init__.py"))  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: str) -> CodeType:
        code = self._codes[name]
        if isinstance(code, tuple):
            start, size = code
            code = self._codes[name] = marshal.loads(posix.pread(self._executable, size, self._end + start))
        return code

    def get_source(self, name: str) -> str | None:
        """For tracebacks, which show the lines of a module that can say what they are."""
        import zipimport

        try:
            return zipimport.zipimporter(sys.argv[0]).get_source(name)
        except ImportError:  # the executable was replaced or removed since it was started
            return None


def run(codes: dict[str, Code], executable: int) -> NoReturn:
    """Becomes the program."""
    if b"CNI_COMMAND" not in posix.environ:
        gc.enable()  # the header switched it off; a command for people may live long
    compiled = Compiled(codes, executable)
    sys.meta_path.insert(0, compiled)
    compiled.preload()
    from cni.__main__ import main

    raise SystemExit(main(sys.argv))


if __name__ == "__main__":
    # What the header's text has left in this namespace.
    run(globals()["c"], globals()["f"])

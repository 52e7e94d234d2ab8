"""Runs the executable's code from what its build compiled for this very interpreter.

The few lines of Python in the executable's header have read an index of our modules, and execute this text
right there, in `__main__`; here the entries become modules. Nothing is compiled, no directory is searched and
importlib's own Python isn't imported: an exec lives ten milliseconds, so each of these would show.

An interpreter for which nothing is compiled goes by `install.sources` instead.
"""

from __future__ import annotations

import gc
import marshal
import posix
import sys
from _frozen_importlib import BuiltinImporter, ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader
from _imp import create_builtin, exec_builtin, extension_suffixes, is_builtin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import CodeType, ModuleType
    from typing import NoReturn

    Index = dict[str, tuple[int, int, Sequence[str]]]


class Compiled:
    """Imports our modules, from an index that `install.compiled` describes."""

    __module__ = "install.loader"  # also where this text runs as `__main__`: `podwire version` looks at it

    def __init__(self, index: Index, executable: int) -> None:
        """`executable` is open, and positioned at the end of `index`, where the parts begin."""
        self._index = index
        self._seal: bytes = index.pop("seal")  # type: ignore[assignment]  # as the loader, no module
        # Kept open: the path may name a newer file by the time that a part is read.
        self._executable = executable
        self._parts_start = posix.lseek(executable, 0, 1)
        self._parts: dict[int, dict[str, CodeType]] = {}
        # A command for people may have threads by the time that a function imports something.
        self._is_alone = b"CNI_COMMAND" in posix.environ

    def get_code(self, name: str) -> CodeType:
        start, size, _ = self._index[name]
        if start not in self._parts:
            part = posix.pread(self._executable, size, self._parts_start + start)
            if not part.endswith(self._seal):
                raise ImportError(f"{sys.argv[0]} was overwritten while it ran: replace it by renaming", name=name)
            self._parts[start] = marshal.loads(part)  # which takes no notice of what follows
        return self._parts[start][name]

    def make(self, names: Iterable[str]) -> None:
        """Executes modules, and before each those that it imports, so that its import statements find them made.

        That is worth 10 µs a module, which the import system spends on locks, specs and asking around; it is
        only for modules that nobody else imports at the same time, as during the start of a program.
        """
        made = sys.modules
        for name in names:
            if name in made:
                continue
            if name not in self._index:
                # The build's interpreter had it built in; where this one hasn't, the import statement will find it.
                if is_builtin(name):
                    make_builtin(name)
            else:
                module = made[name] = type(sys)(name)
                module.__loader__ = self  # type: ignore[assignment]  # see find_spec
                package, _, own_name = name.rpartition(".")
                try:
                    code = self.get_code(name)
                    if is_package(code):
                        module.__path__ = []
                        module.__package__ = name
                    else:
                        module.__package__ = package
                    self.make(self._index[name][2])
                    exec(code, module.__dict__)
                except BaseException:
                    del made[name]
                    raise
                if package:
                    setattr(made[package], own_name, module)

    # The next two are what the build makes of `from module import names`, where that is a module of ours.

    def names(self, module: str, names: Sequence[str]) -> Iterator[object]:
        """Of a module that is made by now, since the statement stands at the top of another.

        Up to 3.11 the interpreter looks for a `__path__` first, and words an AttributeError, which nobody reads, for
        each module that isn't a package: 2 µs, a hundred and twenty times in an ADD.
        """
        return map(sys.modules[module].__dict__.__getitem__, names)

    def later(self, modules: Sequence[str], module: str, names: Sequence[str]) -> Iterator[object]:
        """In a function: `modules`, which are `module` and those among `names`, may have to be made."""
        if self._is_alone:
            self.make(modules)
        else:
            __import__(module, fromlist=names)
        return self.names(module, names)

    # The names from here on are the import system's.

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name not in self._index:
            return None
        code = self.get_code(name)
        # A loader is whatever has these methods; to inherit importlib.abc.Loader one would have to import it.
        return ModuleSpec(
            name,
            self,  # type: ignore[arg-type]  # for the reason above
            origin=code.co_filename,
            is_package=is_package(code),
        )

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self.make(self._index[module.__name__][2])
        exec(self.get_code(module.__name__), module.__dict__)

    def get_source(self, name: str) -> str | None:
        """For tracebacks, which show the lines of a module whose loader knows them."""
        import zipimport

        file = self.get_code(name).co_filename.partition("/")[2]
        try:
            return zipimport.zipimporter(sys.argv[0]).get_data(file).decode()
        except (ImportError, OSError):  # the executable was replaced or removed since it was started
            return None


class Extensions:
    """Finds the standard library's extension modules in the one place where they are.

    The import system would read two directories first, which makes `_json` twice as dear (0.15 ms).
    """

    def __init__(self, folder: str) -> None:
        self._file = f"{folder}/%s{extension_suffixes()[0]}"

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        file = self._file % name
        try:
            posix.stat(file)
        except OSError:
            return None
        return ModuleSpec(name, ExtensionFileLoader(name, file), origin=file)


def make_builtin(name: str) -> None:
    """Makes a module that the interpreter has built in as its import system does, for half the time (20 µs less)."""
    spec = ModuleSpec(name, BuiltinImporter, origin="built-in")  # type: ignore[arg-type]  # a class, its own only instance
    module = sys.modules[name] = create_builtin(spec)
    module.__spec__ = spec
    module.__loader__ = BuiltinImporter
    module.__package__ = ""
    exec_builtin(module)


def is_package(code: CodeType) -> bool:
    return code.co_filename.endswith("/__init__.py")


def run(index: Index, executable: int) -> NoReturn:
    """Becomes the program."""
    del sys.argv[0]  # -c
    if b"CNI_COMMAND" in posix.environ:
        gc.disable()  # but not for people, whose command may live long
    compiled = Compiled(index, executable)
    sys.meta_path.insert(0, compiled)
    sys.meta_path.insert(-1, Extensions(sys.path[-1]))
    compiled.make(("cni.__main__",))
    raise SystemExit(sys.modules["cni.__main__"].main(sys.argv))


if __name__ == "__main__":
    # What the header's text has left in this namespace.
    run(globals()["c"], globals()["f"])

"""Runs the executable's code from the members that its build compiled for this very interpreter.

What the header starts has read one member, a dictionary of code objects, from the executable; here they
become modules. Nothing is compiled, no directory is searched, and importlib's own Python isn't imported:
an exec lives ten milliseconds, so each of these would show.

The interpreter for which there is no member goes by `install.sources` instead.
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

LOCAL_HEADER_BYTES = 30
"""What a zip archive puts before a member, besides the member's name (APPNOTE 4.3.7)."""


class Members:
    """Imports modules of ours from the two members of one interpreter version."""

    def __init__(self, pod: dict[str, CodeType], archive: int) -> None:
        """`archive` is the executable, open, and positioned at the end of the member that `pod` was."""
        self._codes: dict[str, CodeType | bytes] = {**pod}
        self._archive = archive
        self._complete = False

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        code = self._codes.get(name)
        if code is None:
            if self._complete or name.partition(".")[0] not in ("cni", "ipam", "install"):
                return None
            self._read_the_rest()
            return self.find_spec(name)
        if type(code) is bytes:
            code = self._codes[name] = marshal.loads(code)
        file: str = code.co_filename  # type: ignore[union-attr]
        # A loader is whatever has these methods; inheriting importlib.abc.Loader would cost the import of it.
        return ModuleSpec(name, self, origin=file, is_package=file.endswith("/__init__.py"))  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self._codes[module.__name__], module.__dict__)

    def get_source(self, name: str) -> str | None:
        """For tracebacks, which show the lines of a module that can say what they are."""
        import zipimport

        try:
            return zipimport.zipimporter(sys.argv[0]).get_source(name)
        except ImportError:  # replaced or removed since it was started
            return None

    def _read_the_rest(self) -> None:
        # It lies right behind the first member. Read from what is open: the path may name a newer file by now.
        self._complete = True
        header = posix.read(self._archive, LOCAL_HEADER_BYTES)
        size = int.from_bytes(header[22:26], "little")
        name_bytes = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        self._codes.update(marshal.loads(posix.read(self._archive, name_bytes + size)[name_bytes + 4 :]))


def run(pod: dict[str, CodeType], archive: int) -> NoReturn:
    """Becomes the program."""
    if b"CNI_COMMAND" not in posix.environ:
        gc.enable()  # the header's loader switched it off; a command for people may live long
    sys.meta_path.insert(0, Members(pod, archive))
    from cni.__main__ import main

    raise SystemExit(main(sys.argv))

"""What a virtual machine boots into: an archive of files that the kernel unpacks into memory.

Built anew for each session from what this machine has: busybox, iproute2, the distribution's Python with its
standard library, and whatever the caller adds. The format is the kernel's "newc" (cpio(5)); writing it takes no
root, device files included, since they are headers without a body.

    header (110 hexadecimal digits) │ name, NUL, padding to 4 bytes │ content, padding to 4 bytes
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO, Self

END = "TRAILER!!!"


class Archive:
    """An archive while it is written; complete at the end of its `with`. What is there already stays as it is."""

    def __init__(self, path: Path) -> None:
        self._out: BinaryIO = path.open("wb")
        self._there: set[Path] = {Path("/")}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._out:
            if kind is None:
                self._entry(END, 0)

    def folder(self, path: Path | str, mode: int = 0o755) -> None:
        if self._is_new(Path(path)):
            self._entry(path, stat.S_IFDIR | mode)

    def file(self, path: Path | str, content: bytes, mode: int = 0o644, *, mtime: int = 0) -> None:
        if self._is_new(Path(path)):
            self._entry(path, stat.S_IFREG | mode, content, mtime=mtime)

    def device(self, path: Path | str, major: int, minor: int) -> None:
        """A character device."""
        if self._is_new(Path(path)):
            self._entry(path, stat.S_IFCHR | 0o600, device=(major, minor))

    def copy(self, source: Path, path: Path | None = None) -> None:
        """The content of a file; of a link, that of what it points to."""
        found = source.stat()
        # The modification time decides whether Python believes a compiled module.
        self.file(path or source, source.read_bytes(), stat.S_IMODE(found.st_mode), mtime=int(found.st_mtime))

    def tree(self, top: Path, path: Path | None = None, *, leave_out: Callable[[Path], bool] = lambda _: False) -> None:
        """A folder with all that is in it, but for what is to be left out."""
        for file in _files(top, leave_out):
            self.copy(file, (path or top) / file.relative_to(top))

    def program(self, source: Path, path: Path | None = None) -> None:
        """An executable or a shared object, with the shared objects that it needs."""
        self.copy(source, path)
        for needed in needed_by(source):
            self.copy(needed)

    def _is_new(self, path: Path) -> bool:
        """Whether it isn't there yet; the folders above it are made."""
        if path in self._there:
            return False
        self.folder(path.parent)
        self._there.add(path)
        return True

    def _entry(
        self, path: Path | str, mode: int, content: bytes = b"", *, mtime: int = 0, device: tuple[int, int] = (0, 0)
    ) -> None:
        name = str(path).lstrip("/").encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (len(self._there), mode, 0, 0, links, mtime, len(content), 0, 0, *device, len(name), 0)
        self._out.write(_padded(b"070701" + b"".join([b"%08x" % field for field in fields]) + name) + _padded(content))


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _files(top: Path, leave_out: Callable[[Path], bool]) -> Iterator[Path]:
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if not leave_out(Path(folder, name)))
        yield from (path for name in sorted(files) if not leave_out(path := Path(folder, name)) and path.is_file())


def needed_by(program: Path) -> list[Path]:
    """The shared objects that the dynamic linker would load for a program; none for one that is linked statically."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False, env={"LC_ALL": "C"}).stdout
    return [Path(found) for found in re.findall(r"(/\S+) \(0x", listed)]


def modules(folder: Path, *names: str) -> list[Path]:
    """Kernel modules below `folder` and those that they depend on, each behind what it depends on.

    Read from the modules themselves: a kernel that was unpacked and not installed has no list of dependencies.
    """
    ordered: list[Path] = []

    def add(name: str) -> None:
        found = next(folder.rglob(f"{name}.ko"))
        if found not in ordered:
            depends = re.search(rb"\0depends=([^\0]*)\0", found.read_bytes())
            for needed in filter(None, depends[1].decode().split(",") if depends else ()):
                add(needed)
            ordered.append(found)

    for name in names:
        add(name)
    return ordered

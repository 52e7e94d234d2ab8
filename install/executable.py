"""Builds the executable: one file that runs wherever there is a Python, and starts fast on those known here.

The file is a shell header with a zip archive behind it. The archive holds our sources, and for each minor
version of Python that the build found two members of compiled code, named by its cache tag:

    cpython-311/always    what every call imports, as one object
    cpython-311/others    what only some calls import (features, the commands for people), module by module

The header finds an interpreter and starts it with a few lines of Python, which read the first member of that
interpreter (`install.loader` does the rest), or else go for the sources (`install.sources`).

Same sources and interpreters, same bytes: nothing in the file depends on when or where it was built.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    Modules = Mapping[str, tuple[str, str]]  # {module name: (file name, source text)}

PACKAGES = ("cni", "ipam", "install")
PROGRAM = "cni.__main__"
LOADER = "install.loader"

OLDEST, NEWEST = 11, 20
"""Minor versions of Python 3 that the header looks for in /usr/bin, whether or not they have a member."""

LOCAL_HEADER_BYTES = 30
"""What a zip archive puts before a member, besides the member's name (APPNOTE 4.3.7)."""

# Compiled at every start, 0.03 ms per 100 characters, so: short names, nothing that can be done later, and what is
# done rarely in a string. No single quote may occur in it. It has to be valid Python 3.6: an interpreter without
# a member, of whatever version, comes to install.sources, which looks at the version.
FIRST = '''\
import sys,gc,marshal,posix
a=sys.argv
del a[0]
gc.disable()
try:
 f=posix.open(a[0],0)
 p,n={@members@}[sys.implementation.cache_tag]
 posix.lseek(f,p,2)
 if posix.read(f,4)!=sys.modules["_frozen_importlib_external"].MAGIC_NUMBER:raise KeyError
 c=marshal.loads(posix.read(f,n))
except Exception:exec("""
gc.enable()
sys.path[:0]=a[:1]
try:
 from install.sources import run
except ImportError:
 m="%s is damaged: install it again"%a[0]
 if b"CNI_COMMAND" not in posix.environ:
  sys.exit(m)
 import json
 print(json.dumps({"cniVersion":"0.1.0","code":5,"msg":m,"details":""}))
 sys.exit(1)
run()
""")
exec(c.pop("loader"))'''

HEADER = r"""#!/bin/sh
# podwire: the network of pods, in one file. Behind this text lies a zip archive; `unzip -l` lists what is in it.
first='@first@'
tried= config=
for python in @pythons@; do
  [ -x "$python" ] && exec "$python" -IS -c "$first" "$0" "$@"
  tried="$tried $python"
done
what="podwire needs Python 3.11 or later, and found none:$tried"
cure="Install one (Debian 12 or later: apt-get install python3), or name it: podwire install --python PATH"
[ "${CNI_COMMAND+set}" ] || { echo "$what. $cure" >&2; exit 1; }
while IFS= read -r line || [ "$line" ]; do config="$config$line"; done
version=${config#*'"cniVersion"'*\"}; version=${version%%\"*}
case $version in ''|*[!0-9.]*) version=0.1.0;; esac
printf '{"cniVersion": "%s", "code": 107, "msg": "%s", "details": "%s"}\n' "$version" "$what" "$cure"
exit 1
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    path: str
    cache_tag: str
    minor: int


def interpreter(path: str) -> Interpreter | None:
    """What `path` is; None unless it really runs and will do."""
    ask = "import json,sys;print(json.dumps([sys.implementation.cache_tag,list(sys.version_info[:2])]))"
    try:
        answer = subprocess.run([path, "-IS", "-c", ask], capture_output=True, check=True, timeout=60).stdout
        tag, (major, minor) = json.loads(answer)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Interpreter(path, tag, minor) if tag and (major, minor) >= (3, OLDEST) else None


def interpreters() -> list[Interpreter]:
    """One of each minor version on this machine: the distribution's if there is one, else pyenv's newest."""
    paths = [f"/usr/bin/python3.{minor}" for minor in range(OLDEST, NEWEST + 1)]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, check=False, text=True).stdout.strip()
        found = Path(root, "versions").glob("*/bin/python3.*")
        paths += sorted((str(path) for path in found if path.suffix[1:].isdecimal()), reverse=True)
    return distinct(paths)


def distinct(paths: Iterable[str]) -> list[Interpreter]:
    """The first of each cache tag, oldest version first."""
    by_tag: dict[str, Interpreter] = {}
    for path in paths:
        if os.access(path, os.X_OK) and (found := interpreter(path)):
            by_tag.setdefault(found.cache_tag, found)
    return sorted(by_tag.values(), key=lambda known: (known.minor, known.cache_tag))


def sources(root: Path) -> dict[str, str]:
    """{file name in the archive: text} of all that is ours under `root`."""
    files = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    return {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in sorted(files)}


def module_name(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(program: str, modules: Modules) -> list[str]:
    """What importing `program` always imports of `modules`: it comes last, each after those that it imports itself."""
    order: dict[str, None] = {}

    def visit(name: str, seen: tuple[str, ...]) -> None:
        if name in order or name in seen or name not in modules:
            return
        visit(name.rpartition(".")[0], seen)
        for one in _imports(ast.parse(modules[name][1]).body):
            visit(one, (*seen, name))
        order[name] = None

    visit(program, ())
    return list(order)


def _imports(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """Modules that may be meant by the import statements executed with a module's body."""
    for statement in statements:
        match statement:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.If(test=ast.Name("TYPE_CHECKING"), orelse=rest):
                yield from _imports(rest)
            case ast.If(body=body, orelse=rest):
                yield from _imports([*body, *rest])
            case ast.Try(body, handlers, rest, final):
                yield from _imports([*body, *(one for handler in handlers for one in handler.body), *rest, *final])


def build(root: Path, known: Sequence[Interpreter]) -> bytes:
    """The executable made of what is under `root`, with members for the interpreters `known`."""
    texts = sources(root)
    members: dict[str, bytes] = {file: text.encode() for file, text in texts.items()}
    modules = {module_name(file): (f"<podwire>/{file}", text) for file, text in texts.items()}
    always = imported(PROGRAM, modules)
    first = {"loader": modules[LOADER], **{name: modules[name] for name in always}}
    others = {name: modules[name] for name in sorted(modules.keys() - {*always})}
    for one in known:
        names = (f"{one.cache_tag}/always", f"{one.cache_tag}/others")
        members.update(zip(names, _compiled(one, first, others, gap=LOCAL_HEADER_BYTES + len(names[1]))))
    return _assembled(members, None)


def pinned(executable: bytes, python: str | None) -> bytes:
    """`executable` with a header that starts the interpreter at `python` and no other; None: those of /usr/bin."""
    with zipfile.ZipFile(io.BytesIO(executable)) as archive:
        return _assembled({info.filename: archive.read(info) for info in archive.infolist()}, python)


def write(path: Path, content: bytes) -> None:
    """Puts an executable in place at once: whoever starts it gets the old one or the new one, whole."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(handle, 0o755)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _compiled(one: Interpreter, always: Modules, others: Modules, gap: int) -> tuple[bytes, bytes]:
    program = Path(__file__).with_name("compiled.py")
    wanted = json.dumps({"always": always, "others": others, "gap": gap}).encode()
    answer = subprocess.run([one.path, "-IS", str(program)], input=wanted, stdout=subprocess.PIPE, check=True).stdout
    end = 4 + int.from_bytes(answer[:4], "big")
    return answer[4:end], answer[end:]


def _assembled(members: Mapping[str, bytes], python: str | None) -> bytes:
    """Header and archive. The members of code come last and are found from the end, whatever the header's length."""
    bare = _archive(b"", members)
    places: dict[str, tuple[int, int]] = {}
    with zipfile.ZipFile(io.BytesIO(bare)) as archive:
        for info in archive.infolist():
            tag, _, what = info.filename.partition("/")
            if what == "always":
                start = info.header_offset + LOCAL_HEADER_BYTES + len(info.filename)
                places[tag] = (start - len(bare), info.file_size - 4)
    table = ",".join(f'"{tag}":({start},{size})' for tag, (start, size) in places.items())
    header = HEADER.replace("@first@", FIRST.replace("@members@", table)).replace("@pythons@", _pythons(places, python))
    return _archive(header.encode("utf-8", "surrogateescape"), members)


def _pythons(tags: Iterable[str], python: str | None) -> str:
    if python is not None:
        if not python.startswith("/") or any(sign in "'\"\\" or not sign.isprintable() for sign in python):
            raise ValueError(f"an interpreter's path must be absolute, without quotes and backslashes: {python!r}")
        return f"'{python}'"
    members = {int(tag.removeprefix("cpython-3")) for tag in tags if tag.removeprefix("cpython-3").isdecimal()}
    others = set(range(OLDEST, NEWEST + 1)) - members
    return " ".join(f"/usr/bin/python3.{minor}" for minor in sorted(members)[::-1] + sorted(others)[::-1])


def _archive(prefix: bytes, members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    out.write(prefix)
    with zipfile.ZipFile(out, "a") as archive:
        for name, content in members.items():
            archive.writestr(_info(name), content)
    return out.getvalue()


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3  # Unix, wherever it is built
    info.external_attr = 0o100644 << 16
    return info


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m install.executable", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--output", type=Path, required=True, help="directory that gets the executables")
    parser.add_argument("--names", default="podwire", help="names to give to copies of the one file, by commas")
    parser.add_argument("--python", action="append", help="interpreter to make members for (default: every one found)")
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).parents[1], help="where cni/, ipam/ and install/ are"
    )
    options = parser.parse_args(arguments)
    known = distinct(options.python) if options.python else interpreters()
    content = build(options.root, known)
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.names.split(","):
        write(options.output / name, content)
    print(
        f"{options.output}: {options.names}: {len(content) // 1024} KiB, members for "
        f"{', '.join(f'3.{one.minor} ({one.path})' for one in known) or 'no interpreter'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

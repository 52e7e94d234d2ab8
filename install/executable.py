"""Builds the executable: one file that runs wherever there is a Python, and starts fast on those known here.

The file is a shell header with a zip archive behind it. The archive holds our sources, and for each minor
version of Python that the build found one member named by its cache tag, as `compiled/cpython-311`: the same
modules compiled, in parts of which a call unmarshals those that it needs (`install.compiled` has the format).

The header finds an interpreter and starts it with a few lines of Python, which read the index of that
interpreter's member (`install.loader` does the rest), or else go for the sources (`install.sources`).

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
    from collections.abc import Iterable, Mapping, Sequence

PACKAGES = ("cni", "ipam", "install")
LOADER = "install.loader"
_EITHER = ("cni.__main__", "cni.plugin", "cni.addresses", "cni.attach.node", "cni.hostlocal")
_ADD = (*_EITHER, "cni.attach.adding", "cni.features.bridge", "cni.hostlocal.plan", "ipam.allocator")
_DEL = (*_EITHER, "cni.attach.removing", "cni.kernel.neighbour")
CALLS = {
    "ADD": _ADD,
    "DEL": _DEL,
    "ADD of podwire": (
        *(*_ADD, "cni.attach.abilities", "cni.attach.elements", "cni.podwire"),
        *("cni.features.spoofing", "cni.features.portmap", "cni.features.bandwidth"),
    ),
    "DEL of podwire": (*_DEL, "cni.attach.elements", "cni.attach.reading", "cni.kernel.conntrack"),
}
"""What the calls that a pod waits for import, besides what these modules import in turn: of `bridge`, and of `podwire`
for a pod with host ports and shaping."""
NAMES = ("podwire", "bridge", "ptp", "loopback", "host-local", "portmap", "bandwidth", "firewall", "tuning")
"""What a complete CNI bin directory has."""

COMPILED = "compiled/"
LOCAL_HEADER_BYTES = 30
"""What a zip archive puts before a member, besides the member's name (APPNOTE 4.3.7)."""

OLDEST, NEWEST = 11, 20
"""Minor versions of Python 3 that the header looks for in /usr/bin, whether or not they have a member."""

# Compiled at every start, 0.03 ms per 100 characters, so: short names, nothing that can be done later, and what is
# done rarely in a string. No single quote may occur in it. It has to be valid Python 3.6: an interpreter without
# a member, of whatever version, comes to install.sources, which looks at the version. Whatever keeps it from reading
# one, a file cut short or none of this version, leads there too: hence the widest `except`.
FIRST = '''\
import sys,marshal,posix
try:
 f=posix.open(sys.argv[1],0)
 m=sys.modules["_frozen_importlib_external"].MAGIC_NUMBER
 p,n=@members@[m]
 posix.lseek(f,p,2)
 c=marshal.loads(posix.read(f,n))if posix.read(f,4)==m else{}
except Exception:c={}
exec(c.pop("loader","""
a=sys.argv
del a[0]
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
"""))'''

HEADER = r"""#!/bin/sh
# podwire: the network of pods, in one file. Behind this text lies a zip archive: `unzip -l` lists it, sources and all.
first='@first@'
tried= config=
for python in @pythons@; do
  [ -x "$python" ] && exec "$python" -IS -c "$first" "$0" "$@"
  tried="$tried $python"
done
what="podwire needs Python 3.11 or later; there is none at$tried"
cure="Install one (Debian 12 or later: apt-get install python3), or name one in the line of this file: for python in"
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


@dataclass(frozen=True, slots=True)
class Module:
    file: str
    source: str
    needs: tuple[str, ...]
    """The modules that have to be executed before this one: its package, and what it imports, in this order."""


def sources(root: Path) -> dict[str, str]:
    """{file name in the archive: text} of all that is ours under `root`."""
    files = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    return {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in sorted(files)}


def modules_of(texts: Mapping[str, str]) -> dict[str, Module]:
    """The modules that `sources` are, by name."""
    files = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in texts}
    found: dict[str, Module] = {}
    for name, file in files.items():
        imports = Imports()
        imports.visit(ast.parse(texts[file], file))
        needs = dict.fromkeys((name.rpartition(".")[0], *imports.names))  # a set that keeps the order
        found[name] = Module(f"<podwire>/{file}", texts[file], tuple(one for one in needs if one in files))
    return found


class Imports(ast.NodeVisitor):
    """Names of what is imported when a module is, and not later by its functions, nor for the type checker."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def visit_Import(self, node: ast.Import) -> None:
        self.names += [alias.name for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        # `from a import b`: b may be a module too.
        self.names += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]

    def visit_If(self, node: ast.If) -> None:
        only_types = ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.orelse if only_types else [*node.body, *node.orelse]:
            self.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        pass


def parts_of(modules: Mapping[str, Module]) -> list[list[str]]:
    """Which modules are unmarshalled at once: those of one package that the same calls need.

    Each by itself is slower (what they share is made again and again), and all of them as one object too (they
    are read into fresh memory, which costs more than the reading). What none of these calls needs goes by itself: a
    command, another feature, the caller of delegates.
    """
    needed = {call: needs_of(modules, roots) for call, roots in CALLS.items()}
    parts: dict[object, list[str]] = {}
    for name, module in modules.items():
        package = name if module.file.endswith("/__init__.py") else name.rpartition(".")[0]
        calls = tuple([call for call, names in needed.items() if name in names])
        parts.setdefault((calls, package) if calls else name, []).append(name)
    return list(parts.values())


def needs_of(modules: Mapping[str, Module], roots: Iterable[str]) -> set[str]:
    """These modules, and all that has to be executed before them."""
    needed: set[str] = set()
    left = [root for root in roots if root in modules]
    while left:
        name = left.pop()
        if name not in needed:
            needed.add(name)
            left += modules[name].needs
    return needed


def build(root: Path, known: Sequence[Interpreter]) -> bytes:
    """The executable made of what is under `root`, with members for the interpreters `known`."""
    texts = sources(root)
    modules = modules_of(texts)
    members = {file: text.encode() for file, text in texts.items()}
    members.update((COMPILED + one.cache_tag, _compiled(one, modules)) for one in known)
    return _assembled(members, None)


def pinned(executable: bytes, python: str | None) -> bytes:
    """`executable` with a header that starts the interpreter at `python` and no other; None: those of /usr/bin."""
    with zipfile.ZipFile(io.BytesIO(executable)) as archive:
        return _assembled({name: archive.read(name) for name in archive.namelist()}, python)


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


def _compiled(one: Interpreter, modules: Mapping[str, Module]) -> bytes:
    job = {
        "modules": {name: (module.file, module.source, module.needs) for name, module in modules.items()},
        "parts": parts_of(modules),
        "loader": LOADER,
    }
    # The columns that tracebacks underline are a tenth of the code, and every call would read them.
    command = [one.path, "-IS", "-X", "no_debug_ranges", str(Path(__file__).with_name("compiled.py"))]
    return subprocess.run(command, input=json.dumps(job).encode(), stdout=subprocess.PIPE, check=True).stdout


def _assembled(members: Mapping[str, bytes], python: str | None) -> bytes:
    """Header and archive.

    Whoever edits the header by hand breaks nothing, since neither finds anything by counting from the beginning
    of the file. (`unzip` remarks on bytes before the archive, and goes on.)
    """
    packed = _archive(members)
    tags, places = [], []
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        for name, content in members.items():
            if name.startswith(COMPILED):
                tags.append(name.removeprefix(COMPILED))
                # By what an interpreter knows its own code: where that stands before the index, and the index's length.
                magic = "".join(f"\\x{byte:02x}" for byte in content[4:8])
                start = archive.getinfo(name).header_offset + LOCAL_HEADER_BYTES + len(name) + 4
                places.append(f'b"{magic}":({start - len(packed)},{int.from_bytes(content[:4], "big")})')
    first = FIRST.replace("@members@", f"{{{','.join(places)}}}")
    header = HEADER.replace("@first@", first).replace("@pythons@", _pythons(tags, python))
    return header.encode("utf-8", "surrogateescape") + packed


def _pythons(tags: Iterable[str], python: str | None) -> str:
    if python is not None:
        if not python.startswith("/") or any(sign in "'\"\\" or not sign.isprintable() for sign in python):
            raise ValueError(f"an interpreter's path must be absolute, without quotes and backslashes: {python!r}")
        return f"'{python}'"
    members = {int(tag.removeprefix("cpython-3")) for tag in tags if tag.removeprefix("cpython-3").isdecimal()}
    others = set(range(OLDEST, NEWEST + 1)) - members
    return " ".join(f"/usr/bin/python3.{minor}" for minor in sorted(members)[::-1] + sorted(others)[::-1])


def _archive(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, wherever it is built
            info.external_attr = 0o100644 << 16
            archive.writestr(info, content)
    return out.getvalue()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m install.executable", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--output", type=Path, required=True, help="directory that gets the executables")
    parser.add_argument("--names", default=",".join(NAMES), help="names for the copies of it (default: %(default)s)")
    parser.add_argument(
        "--python",
        action="append",
        help="interpreter to make a member for (default: those named in PYTHONS, else every one that is found)",
    )
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).parents[1], help="where cni/, ipam/ and install/ are"
    )
    options = parser.parse_args(arguments)
    named = options.python or os.environ.get("PYTHONS", "").split()
    known = distinct(named) if named else interpreters()
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

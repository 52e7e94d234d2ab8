"""Where the milliseconds of one of our calls go: shell header, interpreter, imports, work.

Nothing is traced, since a tracer's own time would be most of what it shows. Instead the executable is
stopped early, each time a little later, and the differences are the stages:

1. /bin/true: what starting and ending any process costs here;
2. the executable, its header pinned to /bin/true in place of a Python: adds the shell;
3. the interpreter alone, left by _exit: adds its start to 1;
4. the executable's own loader, importing the modules that an ADD or a DEL imports and then leaving: adds them to 3;
5. the real ADD and DEL, as far as they have answered: all that is left is work.

The stages take turns like the sides in `compare`. Runs inside a throw-away node, and prints JSON.
"""

from __future__ import annotations

import gc
import json
import re
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.launch import Call, time_ns
from bench.node import Node, Setup
from cni.cli import throwaway
from install.executable import pinned

if TYPE_CHECKING:
    from collections.abc import Sequence

# Put before the header's Python, which ends with `exec` of the loader (see install.executable): has the loader
# do its work and the modules imported, but runs nothing.
_ONLY_IMPORT = """\
import gc,posix,sys
def exec(code,*_):
 gc.disable()
 m={{"__name__":"install.loader"}}
 __builtins__.exec(code,m)
 k=m["Compiled"](c,f)
 sys.meta_path[:0]=[k]
 sys.meta_path.insert(-1,m["Extensions"](sys.path[-1]))
 for n in {names}:
  k.make((n,))
  if n not in sys.modules: __import__(n)
 posix._exit(0)
"""

# Put before it, too: tells on stderr what has been imported when the program leaves; its helper, a fork, doesn't.
_TELL = """\
import posix,sys
leave,me=posix._exit,posix.getpid()
def tell(code):
 if posix.getpid()==me: posix.write(2," ".join(sys.modules).encode())
 leave(code)
posix._exit=tell
"""


@dataclass(frozen=True, slots=True)
class Split:
    """Medians, in the order in which a call spends them."""

    process_ms: float
    header_ms: float
    interpreter_ms: float
    add_imports_ms: float
    delete_imports_ms: float
    add_work_ms: float
    delete_work_ms: float
    add_ms: float
    delete_ms: float
    add_modules: int
    """Imported, besides those that the interpreter brings along."""
    delete_modules: int


def measure(plugins: Path, subnets: Sequence[str], rounds: int) -> Split:
    """From outside, in a node of its own."""
    inside = [sys.executable, "-m", "bench.split", str(plugins), str(rounds), *subnets]
    done = subprocess.run(
        [*throwaway.command(), *inside], env=throwaway.environment(), stdout=subprocess.PIPE, check=True
    )
    return Split(**json.loads(done.stdout))


class Header:
    """What stands in the executable's header: which interpreter it starts, and with what."""

    def __init__(self, executable: Path) -> None:
        text = executable.read_bytes().partition(b"PK\x03\x04")[0].decode("utf-8", "surrogateescape")
        found = re.search(r"^first='(.*?)'$", text, re.MULTILINE | re.DOTALL)
        pythons = re.search(r"^for python in (.*); do$", text, re.MULTILINE)
        if not found or not pythons:
            raise ValueError(f"{executable} does not begin like an executable of ours")
        self.first = found[1]
        self.python = next(path for path in pythons[1].split() if Path(path).exists())

    def only_import(self, modules: Sequence[str]) -> str:
        """The same, but that it imports these modules and then leaves at once."""
        return _ONLY_IMPORT.format(names=list(modules)) + self.first


def imported(header: Header, executable: Path, node: Node) -> tuple[list[str], list[str]]:
    """Names of the modules that an ADD, and a DEL, imports and the interpreter alone does not, in that order."""

    def names(call: Call, program: str, *argv: str) -> tuple[list[str], bytes]:
        command = [header.python, "-IS", "-c", _TELL + program, *argv]
        done = subprocess.run(command, env=dict(call.environ), input=call.stdin, capture_output=True, check=True)
        return done.stderr.decode().split(), done.stdout

    add = node.add_call(0)
    brought_along, _ = names(add, "posix._exit(0)")
    of_add, result = names(add, header.first, str(executable))
    of_delete, _ = names(node.delete_call(add, result), header.first, str(executable))
    added, deleted = [[name for name in found if name not in brought_along] for found in (of_add, of_delete)]
    return added, deleted


def main(argv: Sequence[str]) -> int:
    plugins, rounds, *subnets = argv
    executable = Path(plugins, "bridge")
    throwaway.furnish()
    node = Node(Setup.bridge(Path(plugins), subnets), 1)
    node.warm_up(1)
    header = Header(executable)
    only_shell = Path("/run/bench-shell")
    only_shell.write_bytes(pinned(executable.read_bytes(), "/bin/true"))
    only_shell.chmod(0o755)
    added, deleted = imported(header, executable, node)
    add = node.add_call(0)
    python = (header.python, "-IS", "-c")
    stops = {
        "process": ("/bin/true",),
        "shell": (str(only_shell),),
        "interpreter": (*python, "import posix; posix._exit(0)"),
        "add's imports": (*python, header.only_import(added), str(executable)),
        "delete's imports": (*python, header.only_import(deleted), str(executable)),
    }
    taken: dict[str, list[int]] = {what: [] for what in (*stops, "add", "delete")}
    gc.collect()
    gc.disable()
    for _ in range(int(rounds)):
        for what, command in stops.items():
            taken[what].append(time_ns(Call(command, add.environ, add.stdin)))
        whole = node.round(1)
        taken["add"].append(whole.add.answered_ns)
        taken["delete"].append(whole.delete.answered_ns)
    at = {what: statistics.median(times) / 1e6 for what, times in taken.items()}
    header_ms = at["shell"] - at["process"]
    found = Split(
        process_ms=at["process"],
        header_ms=header_ms,
        interpreter_ms=at["interpreter"] - at["process"],
        add_imports_ms=at["add's imports"] - at["interpreter"],
        delete_imports_ms=at["delete's imports"] - at["interpreter"],
        add_work_ms=at["add"] - at["add's imports"] - header_ms,
        delete_work_ms=at["delete"] - at["delete's imports"] - header_ms,
        add_ms=at["add"],
        delete_ms=at["delete"],
        add_modules=len(added),
        delete_modules=len(deleted),
    )
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

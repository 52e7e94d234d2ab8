"""What a call imports: for a runtime that waits, each module counts. Nothing slow, nothing compiled, and no surprise.

A failure of the first test is a question: is the new module worth what it costs every pod? If so, add it here.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from install import executable
from tests import interpreters
from tests.verbs.networks import Network, host_local

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.calls import Exec

    MakeNetns = Callable[[], Path]

VERSIONS = (11, 12, 13)
"""Minor versions that the executable has a member for."""

COMMON = {
    # ours
    "cni", "cni.__main__", "cni.addresses", "cni.attach", "cni.attach.locks", "cni.attach.node", "cni.attach.objects",
    "cni.attach.record", "cni.boot", "cni.hostlocal", "cni.kernel", "cni.kernel.link", "cni.kernel.netlink",
    "cni.kernel.netns", "cni.lean", "cni.plugin", "cni.plugins", "cni.spec", "cni.spec.errors", "cni.spec.netconf",
    "cni.spec.request", "cni.spec.section", "cni.spec.versions", "cni.key", "cni.skeleton", "ipam", "ipam.address",
    "ipam.index",
    "ipam.releasing", "ipam.store",
    # the interpreter's own, in C
    "_collections", "_json", "_socket", "_struct", "errno", "fcntl", "gc", "select",
}  # fmt: skip
ADD = COMMON | {
    "cni.attach.adding", "cni.attach.call", "cni.attach.making", "cni.attach.sandbox", "cni.attach.shared",
    "cni.features", "cni.features.bridge", "cni.hostlocal.plan", "cni.kernel.inet", "cni.kernel.neighbour",
    "cni.kernel.ports", "cni.kernel.sysctl", "cni.pods", "cni.spec.fields", "cni.spec.result", "cni.wanted",
    "ipam.allocator", "ipam.ranges",
}  # fmt: skip
"""The modules of an ADD by bridge and host-local, besides those of an interpreter that does nothing."""
PODWIRE_ADD = ADD | {
    "cni.attach.abilities", "cni.attach.claims", "cni.attach.elements", "cni.features.bandwidth",
    "cni.features.masquerade", "cni.features.portmap", "cni.features.routed", "cni.features.spoofing",
    "cni.kernel.conntrack", "cni.kernel.nft", "cni.kernel.tc", "cni.podwire",
}  # fmt: skip
"""… and of one by podwire, with host ports and shaping."""
DEL = COMMON | {"cni.attach.reaper", "cni.attach.removing", "cni.kernel.neighbour"}

PODWIRE_DEL = DEL | {
    "cni.attach.claims", "cni.attach.elements", "cni.attach.reading", "cni.kernel.conntrack", "cni.kernel.nft",
    "cni.kernel.sysctl",
}  # fmt: skip

SETNS = {11: {"_ctypes"}, 12: set[str](), 13: set[str]()}
"""What it takes to enter a namespace: the interpreter can do it since 3.12."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A CNI bin directory whose executables tell what they import and compile."""

    folder: Path
    told: Path
    minor: int

    @property
    def modules(self) -> set[str]:
        """Imported by the last call, besides what the interpreter has by itself."""
        bare = [interpreters.python(self.minor), "-IS", "-c", "import sys, marshal, posix; print(*sys.modules)"]
        by_itself = subprocess.run(bare, capture_output=True, check=True, text=True).stdout.split()
        return self._told("imported") - set(by_itself)

    @property
    def compiled(self) -> set[str]:
        """Names of the files that the last call compiled."""
        return self._told("compiled")

    def _told(self, word: str) -> set[str]:
        lines = [line.partition(" ") for line in self.told.read_text().splitlines()]
        return {name for said, _, name in lines if said == word}


# Before the header's own text. When the program leaves, it writes down what there is; its helper, a fork, doesn't.
WATCH = """\
import sys, posix
_compiled = []
_leave, _pid = posix._exit, posix.getpid()
def _watch(event, arguments):
 if event == 'compile': _compiled.append(str(arguments[1]))
def _exit(code):
 if posix.getpid() == _pid:
  told = ['imported ' + name for name in sys.modules] + ['compiled ' + name for name in _compiled]
  file = posix.open('{told}', posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC, 384)
  posix.write(file, chr(10).join(told).encode())
 _leave(code)
posix._exit = _exit
sys.addaudithook(_watch)
"""


@pytest.fixture(params=VERSIONS, ids=lambda minor: f"3.{minor}")
def watched(request: pytest.FixtureRequest, executables: Path, tmp_path: Path) -> Watched:
    found = Watched(tmp_path / "bin", tmp_path / "told", request.param)
    found.folder.mkdir()
    spy = tmp_path / "spy"
    watch = WATCH.format(told=found.told)
    spy.write_text(
        f'#!/bin/sh\nfirst=$3; shift 3\nexec {interpreters.python(found.minor)} -IS -c "{watch}$first" "$@"\n'
    )
    spy.chmod(0o755)
    content = executable.pinned((executables / "podwire").read_bytes(), str(spy))
    for name in executable.NAMES:
        executable.write(found.folder / name, content)
    return found


@pytest.fixture
def watched_lan(watched: Watched, plugin: Exec, node: Path, tmp_path: Path) -> Network:
    plugin.path = (watched.folder,)
    config: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "name": "lan",
        "type": "bridge",
        "bridge": "br0",
        "isDefaultGateway": True,
        "ipam": host_local(tmp_path / "networks", "10.1.0.0/24", "fd00:1::/64"),
    }
    return Network(plugin, node, config, tmp_path / "networks")


def test_add_and_del_import_what_stands_here_and_nothing_else(
    watched: Watched, watched_lan: Network, netns: Path
) -> None:
    watched_lan.add(netns, "first", ifname="eth1")  # a network's first makes the index of its addresses

    result = watched_lan.add(netns)
    assert watched.modules == ADD | SETNS[watched.minor]
    assert watched.compiled == set()

    watched_lan.but(prevResult=result).delete(netns=netns)
    assert watched.modules == DEL
    assert watched.compiled == set()


def test_so_do_those_of_podwire(watched: Watched, watched_lan: Network, netns: Path, make_netns: MakeNetns) -> None:
    told = {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 10**8, "egressRate": 10**8},
    }
    pods = watched_lan.but(type="podwire", bridge=None, isDefaultGateway=None)
    pods.add(make_netns(), "first")  # a network's first makes the tables, and the index of its addresses

    result = pods.but(runtimeConfig=told).add(netns)
    assert watched.modules == PODWIRE_ADD | SETNS[watched.minor]
    assert watched.compiled == set()

    pods.but(prevResult=result).delete(netns=netns)
    assert watched.modules == PODWIRE_DEL
    assert watched.compiled == set()


def test_who_is_in_the_chain_once_pays_nothing_for_those_who_are_twice(
    watched: Watched, watched_lan: Network, netns: Path
) -> None:
    tuned = watched_lan.chained("tuning", watched_lan.add(netns), mtu=1400)
    modules = []
    for call in (tuned.add, lambda netns: tuned.delete(netns=netns)):
        call(netns)
        modules.append(watched.modules)

    assert [sorted(name for name in one if name == "cni.attach.places") for one in modules] == [[], []]


def test_the_build_knows_what_each_of_these_calls_imports() -> None:
    """So that what is unmarshalled is what is executed."""
    modules = executable.modules_of(executable.sources(Path(executable.__file__).parents[1]))

    calls = {"ADD": ADD, "DEL": DEL, "ADD of podwire": PODWIRE_ADD, "DEL of podwire": PODWIRE_DEL}
    assert set(calls) == set(executable.CALLS)
    for call, imported in calls.items():
        ours = {name for name in imported if name.startswith(("cni", "ipam"))}
        assert executable.needs_of(modules, executable.CALLS[call]) == ours


MAY = {
    "cni.attach.checking", "cni.attach.collecting", "cni.attach.inside", "cni.attach.places", "cni.attach.reading",
    "cni.attach.readiness", "cni.features.loopback", "cni.hostlocal.executable", "cni.hostlocal.refusals",
    "cni.hostlocal.upkeep", "cni.noaddresses", "cni.spec.parsing", "ipam.census", "ipam.errors", "ipam.recovery",
}  # fmt: skip
"""What other calls may import besides."""


def test_no_call_imports_anything_slow_or_compiles_anything(
    watched: Watched, watched_lan: Network, netns: Path
) -> None:
    loopback = Network(
        watched_lan.plugin,
        watched_lan.node,
        {"cniVersion": "1.1.0", "name": "lo", "type": "loopback"},
        watched_lan.data_dir,
    )
    ipam = Network(
        watched_lan.plugin, watched_lan.node, {**watched_lan.config, "type": "host-local"}, watched_lan.data_dir
    )
    result = watched_lan.add(netns)
    verbs: dict[str, Callable[[], object]] = {
        "ADD of loopback": lambda: loopback.add(netns),
        "ADD of host-local": lambda: ipam.add(netns, "b"),
        "CHECK": lambda: watched_lan.check(result, netns),
        "GC": lambda: watched_lan.collect(("a", "eth0")),
        "STATUS": lambda: watched_lan.call("STATUS"),
        "VERSION": lambda: watched_lan.call("VERSION"),
        "an error": lambda: watched_lan.but(mtu="x").call("ADD", "c", netns).error,
        "DEL": lambda: watched_lan.delete(netns=netns),
    }
    surprises = {}

    for name, call in verbs.items():
        watched.told.unlink()
        call()
        surprises[name] = (watched.modules - ADD - DEL - MAY - SETNS[watched.minor], watched.compiled)

    assert surprises == dict.fromkeys(verbs, (set(), set()))


def test_what_is_watched_for_would_be_seen(watched: Watched) -> None:
    # A named tuple of the standard library's compiles its constructor.
    text = "import posix, json, collections; collections.namedtuple('A', 'b'); posix._exit(0)"

    subprocess.run([watched.folder.parent / "spy", "-IS", "-c", text], env={}, check=True)

    assert {"json", "re"} <= watched.modules
    assert watched.compiled

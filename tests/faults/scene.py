"""The scene of a fault: a node with neighbours that nobody may touch, and a pod that is about to be attached.

What is foreign: a bridge with an address and a port, an interface in the pod, reservations of somebody else's. On a
node that `has_life`, a pod of the same network is attached already, with all that belongs to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests import namespaces
from tests.faults import traces
from tests.faults.injection import Circumstances, Injected, Launcher
from tests.faults.seam import CLONE_NEWNET, NONE, Fault
from tests.verbs.networks import Network, host_local

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.injection import Server

FOREIGN = """\
link add docker0 type bridge
link set docker0 up
address add 172.17.0.1/16 dev docker0
link add vforeign master docker0 up type veth peer vtheirs
neighbour add 172.17.0.2 lladdr 02:00:00:00:00:02 dev docker0 nud permanent
"""
FOREIGN_IN_POD = "link add eth1 up type veth peer eth2\naddress add 10.9.0.2/24 dev eth1\n"
FOREIGN_ADDRESSES = ("lan/10.1.0.77", "lan/fd00:1::77", "other/10.1.0.2")
THEIRS = ("reference", "eth0")
"""Who holds the reservations that are not ours."""
ALIVE = "alive"
"""The container that is attached on a node that has life."""

SHARED = ("br0: link", "br0: address", "br0: route", "br0: forwards")
"""What stays of a first attachment: the bridge with what the gateway needs, but no neighbour."""

KEPT = (
    *("attachments.lock", "boot", "boot.new", "shared.lock", "net:ipv4:ip_forward", "net:ipv6:conf:all:forwarding"),
    *("lock", "last_reserved_ip.0", "last_reserved_ip.1", "index"),
)
"""Files of a node, and of a network."""


class Scene:
    """A node, and on it the network `lan` of both families, whose gateway is the node; ends with a `with`."""

    def __init__(self, server: Server, folder: Path, pod: Path, *, has_life: bool, release: str = "") -> None:
        """State goes below `folder`; `pod` is a network namespace as `furnished_pod` makes it.

        A `release` is what `call`s are told is the kernel's.
        """
        self.run_dir = folder / "run"
        self.data_dir = folder / "networks"
        self.has_life = has_life
        self.release = release
        self.pod = pod
        self._server = server
        self._folder = folder

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.node = stack.enter_context(netns())
            _ip(self.node, "link set lo up\n" + FOREIGN)
            for address in FOREIGN_ADDRESSES:
                file = self.data_dir / address
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("\r\n".join(THEIRS))
            watched = [self.node, self.pod]
            if self.has_life:
                alive = stack.enter_context(netns())
                self.network().add(alive, ALIVE)
                _keep_neighbours(self.node)
                _keep_neighbours(alive)
                watched.append(alive)
            self._watches = [stack.enter_context(traces.Watch(path)) for path in watched]
            self._before = self._look()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def network(self, circumstances: Circumstances | None = None) -> Network:
        """As plugins see it that are called under these circumstances."""
        launcher = Launcher(self._server, (self._folder,), self.run_dir, "unnamed", circumstances or Circumstances())
        return Network(launcher, self.node, dual_stack(self.data_dir), self.data_dir)

    def call(self, fault: Fault, command: str, **keys: Any) -> Injected:
        """One verb for the container `a` in this scene's pod, under a fault; `keys` are added to the configuration."""
        network = self.network(Circumstances(fault, self.release)).but(**keys)
        outcome = network.call(command, "a", self.pod)
        assert isinstance(outcome, Injected)
        return outcome

    def collect(self, fault: Fault = NONE) -> Injected:
        """A GC that leaves all that lives here."""
        living = [THEIRS, *([(ALIVE, "eth0")] if self.has_life else [])]
        valid = [{"containerID": pod, "ifname": ifname} for pod, ifname in living]
        return self.call(fault, "GC", **{"cni.dev/valid-attachments": valid})

    def stage(self) -> str:
        """How far the record of `a` says that it has come; "" where there is none."""
        found = [json.loads(file.read_bytes()) for file in self.run_dir.glob("attachments/lan/a@*.json")]
        return str(found[0]["stage"]) if found else ""

    def changed(self) -> list[str]:
        """What is here and was not before, or the other way round; all that attachments share aside."""
        now = self._look()
        left = sorted(one for one in now - self._before if self.has_life or not one.startswith(SHARED))
        return [f"+ {one}" for one in left] + [f"- {one}" for one in sorted(self._before - now)]

    def noted(self) -> dict[str, str]:
        """How settings of the node were before us, as far as that is noted."""
        return {file.name: file.read_text() for file in (self.run_dir / "before").iterdir()}

    def _look(self) -> frozenset[str]:
        whose = ("node", "pod", ALIVE)
        kernel = [f"{one}, {name}" for name, watch in zip(whose, self._watches) for one in watch.look()]
        return frozenset(kernel) | traces.files(self.run_dir, self.data_dir, without=KEPT)


def dual_stack(data_dir: Path) -> dict[str, Any]:
    """The configuration of a network of both families, whose gateway to everywhere is the node."""
    return {
        "cniVersion": "1.1.0",
        "name": "lan",
        "type": "bridge",
        "bridge": "br0",
        "isDefaultGateway": True,
        "ipam": host_local(data_dir, "10.1.0.0/24", "fd00:1::/64"),
    }


@contextlib.contextmanager
def furnished_pod() -> Iterator[Path]:
    """Path of a pod's network namespace with something foreign in it."""
    with netns() as pod:
        _ip(pod, FOREIGN_IN_POD)
        yield pod


@contextlib.contextmanager
def netns() -> Iterator[Path]:
    """Path of a new network namespace, which lives as long as a descriptor of ours; ten times as quick as a process."""
    fds: list[int] = []

    def make() -> None:
        if not ctypes.CDLL(None).unshare(CLONE_NEWNET):
            fds.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert fds, "unshare(CLONE_NEWNET) failed"
    try:
        yield Path(f"/proc/{os.getpid()}/fd/{fds[0]}")
    finally:
        os.close(fds[0])


def _keep_neighbours(netns: Path) -> None:
    """They would age, and what a neighbour of ours has lost by itself is not to be blamed on anybody."""
    shown = namespaces.shell(netns, "ip neighbour show nud stale")
    _ip(netns, "".join(f"neighbour replace {one.replace('STALE', 'nud permanent')}\n" for one in shown.splitlines()))


def _ip(netns: Path, commands: str) -> None:
    subprocess.run(["nsenter", f"--net={netns}", "ip", "-batch", "-"], input=commands, text=True, check=True)

"""`podwire demo`: two pods on one node, wired as a container runtime would wire them, talk to each other.

Everything is real but the node, which is a throw-away network namespace (see `cni.cli.throwaway`): this very
executable is copied into a CNI bin directory, a conflist says what the network is to be, `cni.runtime` runs
the plugin as containerd does, and the kernel makes bridge, veths, addresses and routes.

The machine is not touched, and needs no cleaning up: all namespaces belong to this one process and go with
it, be it by Ctrl-C or kill -9. That the pods are taken away in good order all the same is part of the show.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from cni.cli import throwaway
from cni.cli.drawing import PodEnd, ascii_only, drawing
from cni.kernel.netns import Netns
from cni.runtime.cache import Cache
from cni.runtime.chain import Attachment, ChainFailed, Runtime
from cni.runtime.conflist import Network
from cni.spec.errors import CNIError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cni.spec.result import Result

T = TypeVar("T")

BRIDGE = "demo0"
NETWORK = "demo"
PODS = ("a", "b")
PORT = 8080
TIMEOUT_S = 5.0

# Inside the throw-away node, whose /run is a tmpfs of its own.
BIN = Path("/run/cni/bin")
CONFLIST = Path("/run/cni/net.d/10-demo.conflist")
RESERVATIONS = Path("/run/cni/networks")
CACHE = Path("/run/cni/cache")
RECORDS = Path("/run/podwire/attachments")


def main(argv: Sequence[str]) -> int:
    """Leaves for the node, or, once there, tells the story."""
    parser = argparse.ArgumentParser(prog="podwire demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--executable", type=Path, help="the podwire to show (default: this one, else bin/podwire)")
    parser.add_argument("--pause", action="store_true", help="wait for Enter before everything is taken away")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    executable = asked.executable or _this_executable()
    if executable is None or not executable.exists():
        print(
            "podwire demo: there is no executable to show: run `make bin`, or name one (--executable)", file=sys.stderr
        )
        return 1
    if asked.inside:
        return _show(executable, asked.pause)
    try:
        enter = throwaway.command()
    except throwaway.Unavailable as error:
        return _failed(str(error))
    return _go_inside(enter, executable.resolve(), asked.pause)


def _go_inside(enter: Sequence[str], executable: Path, pause: bool) -> NoReturn:
    """Becomes the node: there is nobody left outside who would have to look after it."""
    again = [str(executable), "demo", "--inside", f"--executable={executable}", *(["--pause"] if pause else [])]
    os.execvpe(enter[0], [*enter, *again], throwaway.environment())


def _this_executable() -> Path | None:
    """The one file that this runs from, or the checkout's, where it runs from the sources."""
    started_as = Path(sys.argv[0])
    if zipfile.is_zipfile(started_as):
        return started_as
    return Path(__file__).parents[2] / "bin/podwire"


# --- the show ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that has its network."""

    name: str
    result: Result

    def addresses(self) -> list[str]:
        return [str(ip.address) for ip in self.result.ips]


def _show(executable: Path, pause: bool) -> int:
    """Inside the node: the story from beginning to end. The exit code says whether all went well."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # ours is no TextIO of somebody else's
    content = executable.read_bytes()  # before /run is replaced: it may be there
    throwaway.furnish()
    code = 0
    _head(f"podwire demo: {len(PODS)} pods on a node that is one network namespace of this process ({os.getpid()})")
    runtime, network = _prepare(content)
    netns = {name: throwaway.make_netns(name) for name in PODS}
    containers = {name: Attachment(f"demo-{name}", str(netns[name])) for name in PODS}
    try:
        _head("ADD: the runtime gives each pod its network")
        pods = [Pod(name, _add(runtime, network, container)) for name, container in containers.items()]
        _head("What is there now")
        _draw(pods)
        _look(pods)
        _head("Do they reach each other?")
        _talk(pods, netns)
        _head("CHECK: is everything still as it was made?")
        for name, container in containers.items():
            _timed(f"pod {name}", partial(runtime.check, network, container))
        if pause:
            _pause()
    except KeyboardInterrupt:
        print("\nInterrupted.")
        code = 130
    except (CNIError, ChainFailed, OSError) as error:
        code = _failed(str(error))
    _head("DEL: the runtime takes it away")
    for name, container in containers.items():
        try:
            _timed(f"pod {name}", partial(runtime.delete, network, container))
        except (CNIError, ChainFailed) as error:
            code = _failed(str(error))
    return code or _what_is_left()


def _prepare(content: bytes) -> tuple[Runtime, Network]:
    """What an administrator does once: the executable in a CNI bin directory, and a configuration."""
    BIN.mkdir(parents=True)
    plugin = BIN / "bridge"
    plugin.write_bytes(content)
    plugin.chmod(0o755)
    subnets = ["10.88.0.0/24"]
    if Path("/proc/net/if_inet6").exists():
        subnets.append("fd00:88::/64")
    CONFLIST.parent.mkdir(parents=True)
    CONFLIST.write_text(_conflist(subnets))
    _step("the executable is copied to", str(plugin))
    _step("the network is described in", str(CONFLIST))
    _indented(CONFLIST.read_text())
    # PATH and nothing else: what a plugin does must not depend on who happens to run the demo.
    runtime = Runtime([str(BIN)], Cache(CACHE), {"PATH": throwaway.PATH})
    return runtime, Network.parse(CONFLIST.read_bytes(), str(CONFLIST))


def _conflist(subnets: Sequence[str]) -> str:
    """What a file in /etc/cni/net.d holds; a range for each address that a pod is to get."""
    ranges = ", ".join(f'[{{"subnet": "{subnet}"}}]' for subnet in subnets)
    return f"""\
{{
  "cniVersion": "1.0.0",
  "cniVersions": ["1.0.0", "1.1.0"],
  "name": "{NETWORK}",
  "plugins": [{{
    "type": "bridge",
    "bridge": "{BRIDGE}",
    "isDefaultGateway": true,
    "ipam": {{
      "type": "host-local",
      "ranges": [{ranges}],
      "dataDir": "{RESERVATIONS}"
    }}
  }}]
}}
"""


def _add(runtime: Runtime, network: Network, container: Attachment) -> Result:
    added = _timed(f"pod {container.container_id.removeprefix('demo-')}", partial(runtime.add, network, container))
    return added.result


def _draw(pods: Sequence[Pod]) -> None:
    gateways = [f"{ip.gateway}/{ip.address.length}" for ip in pods[0].result.ips if ip.gateway]
    lines = drawing(BRIDGE, gateways, [_end(pod) for pod in pods])
    try:
        "".join(lines).encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        lines = ascii_only(lines)
    _indented("\n".join(lines))


def _end(pod: Pod) -> PodEnd:
    # In the result of `bridge`: the bridge, the node's end of the veth, the pod's end.
    _, host, inside = pod.result.interfaces
    return PodEnd(pod.name, inside.name, tuple(pod.addresses()), host.name)


def _look(pods: Sequence[Pod]) -> None:
    """What the drawing shows, as the kernel tells it."""
    _command("the bridge, which has the pods' gateway addresses", "ip", "-br", "addr", "show", "dev", BRIDGE)
    _command("its ports, one veth end per pod", "ip", "-br", "link", "show", "master", BRIDGE)
    for pod in pods:
        _command(f"the other end, inside pod {pod.name}", "ip", "-n", pod.name, "-br", "addr", "show", "dev", "eth0")
    _command(f"the routes of pod {pods[0].name}", "ip", "-n", pods[0].name, "route")
    if len(pods[0].result.ips) > 1:
        _command("", "ip", "-n", pods[0].name, "-6", "route")
    _command("what podwire keeps about them", "ls", str(RECORDS / NETWORK))


def _talk(pods: Sequence[Pod], netns: dict[str, Path]) -> None:
    for client, server in (pods, pods[::-1]):
        for ip in server.result.ips:
            address = str(ip.address.address)
            started_ns = time.monotonic_ns()
            seen, heard = _exchange(str(netns[client.name]), str(netns[server.name]), address, client.name)
            took = _ms(time.monotonic_ns() - started_ns)
            _step(f"pod {client.name} to pod {server.name}", f"TCP from {seen} to {address}: {heard!r}", took)


def _exchange(client: str, server: str, address: str, name: str) -> tuple[str, str]:
    """One question and one answer by TCP between two namespaces: the client's address, and what the server heard.

    A socket belongs to the namespace that its maker was in when making it, for good. So one process can hold both ends,
    each in another pod, and stay on the node itself.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with Netns() as home, Netns(server) as there, Netns(client) as here:
        with there.inside(home):
            listener = socket.create_server((address, PORT), family=family)
        with listener:
            listener.settimeout(TIMEOUT_S)
            with here.inside(home):
                near = socket.create_connection((address, PORT), TIMEOUT_S)
            with near:
                far, peer = listener.accept()
                with far:
                    near.sendall(f"hello, this is pod {name}".encode())
                    near.shutdown(socket.SHUT_WR)
                    heard = far.makefile("rb").read()
                    far.sendall(heard)
                    if near.recv(len(heard), socket.MSG_WAITALL) != heard:
                        raise OSError(f"{address} answered something else than what it was sent")
    return str(peer[0]), heard.decode()


def _pause() -> None:
    rights = "" if os.geteuid() == 0 and _is_root_outside() else "--user --preserve-credentials "
    print("\nLook around, from another terminal:")
    print(f"    nsenter --target {os.getpid()} {rights}--net --mount -- ip addr")
    print("Press Enter to take everything away.")
    sys.stdin.readline()


def _is_root_outside() -> bool:
    return Path("/proc/self/uid_map").read_text().split()[1] == "0"


def _what_is_left() -> int:
    """0 when nothing is."""
    _head("What is left")
    _command("the bridge stays for the next pod: it is the node's, not a pod's", "ip", "-br", "link")
    throwaway.run("ip", "link", "del", BRIDGE)
    left = {
        "links on the node": _links("ip"),
        **{f"links in pod {name}": _links("ip", "-n", name) for name in PODS},
        "reserved addresses": _reserved(),
        "records": [path.name for path in (RECORDS / NETWORK).glob("*")],
        "results that the runtime keeps": [path.name for path in (CACHE / "results").glob("*")],
    }
    for what, found in left.items():
        _step(what, ", ".join(found) or "none")
    if any(left.values()):
        return _failed("something is left that should be gone")
    print("\nThe namespaces of node and pods end with this process. Your machine is as it was.")
    return 0


def _reserved() -> list[str]:
    """One file per address; beside them lie a lock and where the next search begins."""
    names = [path.name for path in (RESERVATIONS / NETWORK).iterdir()]
    return [name for name in names if name != "lock" and not name.startswith("last_reserved_ip.")]


def _links(*ip: str) -> list[str]:
    """All but lo, which every namespace has."""
    found = json.loads(throwaway.run(*ip, "-j", "link") or "[]")
    return [link["ifname"] for link in found if link["ifname"] != "lo"]


# --- how it is told ---------------------------------------------------------------------------------


def _head(text: str) -> None:
    print(f"\n{text}")


def _failed(why: str) -> int:
    print(f"podwire demo: {why}", file=sys.stderr)
    return 1


def _step(what: str, text: str, took: str = "") -> None:
    print(f"    {what:<31} {text:<66} {took}".rstrip())


def _timed(what: str, action: Callable[[], T]) -> T:
    started_ns = time.monotonic_ns()
    done = action()
    _step(what, "", _ms(time.monotonic_ns() - started_ns))
    return done


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.1f} ms"


def _command(what: str, *command: str) -> None:
    """Runs a command that people may run themselves, and shows both it and what it says."""
    if what:
        print(f"\n    {what}")
    print(f"    $ {' '.join(command)}")
    _indented(throwaway.run(*command))


def _indented(text: str) -> None:
    for line in text.rstrip().splitlines():
        print(f"      {line.rstrip()}")

"""One side of the comparison: a throw-away node with pods, whose plugins are called and timed.

Each side gets a node of its own, so that neither sees the other's bridge, leases or leftovers: a child
process in fresh namespaces (`cni.cli.throwaway`), told what to do line by line through its stdin. It ends
when that closes, and everything it made ends with it. `Remote` is the handle that the bench holds; the rest
runs inside.

The pods' namespaces are made once and used again. What a runtime spends on making one is not the plugin's,
and the kernel takes them apart in the background, which would end up in the next measurement.
"""

from __future__ import annotations

import gc
import json
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from bench import iperf, standing
from bench.launch import Call, Crowd, Failed
from cni.cli import throwaway

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

T = TypeVar("T")

Steps = Generator[Call, bytes, T]
"""Calls one after the other, each made with the answers to those before it."""

BRIDGE = "cni0"
CNI_VERSION = "1.0.0"  # the newest that Debian 12's plugins and containerd 1.6 and 1.7 know


@dataclass(frozen=True, slots=True)
class Sample:
    """Some calls of one verb, started together."""

    answered_ns: int
    """From before the first was started until all were answered."""
    settled_ns: int
    """… until no process was left."""
    cpu_ns: int
    peak_rss_kib: int


@dataclass(frozen=True, slots=True)
class Round:
    """ADD of some pods at once, then DEL of the same."""

    add: Sample
    delete: Sample


@dataclass(frozen=True, slots=True)
class Churn:
    """Pods that came and went, one after the other in each lane."""

    pods: int
    elapsed_ns: int
    """Until no process was left: an implementation that lets work pile up has to wait for it here."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Whose plugins one side calls, and for which network."""

    plugins: str
    """CNI_PATH."""
    conflist: Mapping[str, Any]
    rules_at_once: bool = False
    """Whether pods that stay get their rules by `bench.standing`."""

    @classmethod
    def bridge(cls, plugins: Path, subnets: Sequence[str]) -> Setup:
        """A bridge that is the pods' gateway, by one plugin."""
        plugin = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipam": host_local(subnets)}
        return cls(str(plugins), conflist(plugin))


def conflist(*members: Mapping[str, Any]) -> dict[str, Any]:
    return {"cniVersion": CNI_VERSION, "name": "bench", "plugins": list(members)}


def host_local(subnets: Sequence[str]) -> dict[str, Any]:
    everywhere = {4: "0.0.0.0/0", 6: "::/0"}
    return {
        "type": "host-local",
        "ranges": [[{"subnet": subnet}] for subnet in subnets],
        "routes": [{"dst": everywhere[6 if ":" in subnet else 4]} for subnet in subnets],
        "dataDir": "/run/bench/networks",
    }


def told(pod: int) -> dict[str, object]:
    """What a runtime tells plugins that ask for it, by capability: a port of the node's, and limits both ways."""
    return {
        "portMappings": [{"hostPort": _host_port(pod), "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {
            "ingressRate": 100_000_000,
            "ingressBurst": 10_000_000,
            "egressRate": 100_000_000,
            "egressBurst": 10_000_000,
        },
    }


def _host_port(pod: int) -> int:
    return 20_000 + pod


def _container_id(container: int) -> str:
    return f"{container:064x}"


class Added(NamedTuple):
    """What a runtime remembers of an ADD."""

    pod: int
    container: int
    result: Mapping[str, Any]

    @property
    def address(self) -> str:
        return str(self.result["ips"][0]["address"]).partition("/")[0]


class Node:
    """Inside: the pods, and the plugins' verbs for them."""

    def __init__(self, setup: Setup, pods: int) -> None:
        """`pods` come and go; see `populate` for those that stay."""
        self._setup = setup
        self._members: list[dict[str, Any]] = setup.conflist["plugins"]
        self._pods = [throwaway.make_netns(f"pod{n}") for n in range(pods)]
        self._count = 0
        self._residents = list[Added]()
        self._stay = set[str]()
        """Links that no pod takes along when it goes."""

    def populate(self, pods: int) -> None:
        """Adds pods that stay, in namespaces of their own: what comes and goes finds a node at work."""
        new = range(len(self._pods), len(self._pods) + pods)
        self._pods += [throwaway.make_netns(f"stays{n}") for n in new]
        at_once = pods > 1 and self._setup.rules_at_once
        added = self._populate_with_rules(new) if at_once else self._in_lanes(self._adding(n) for n in new)
        self._residents += sorted(added, key=lambda one: one.pod)
        self._stay = self._links()

    def _populate_with_rules(self, new: Sequence[int]) -> list[Added]:
        (model,) = self._in_lanes([self._adding(new[0])])
        without = [{**member, "ipMasq": False} for member in self._members if member["type"] != "portmap"]
        others = self._in_lanes(self._adding(n, without) for n in new[1:])
        standing.multiply(self._bearer(model), [self._bearer(other) for other in others])
        return [model, *others]

    def _bearer(self, added: Added) -> standing.Bearer:
        name, container_id = self._setup.conflist["name"], _container_id(added.container)
        return standing.Bearer(name, container_id, added.address, _host_port(added.pod))

    def _in_lanes(self, walks: Iterable[Steps[T]], lanes: int = 2) -> list[T]:
        """Not measured, and so a few at a time."""
        crowd, ends, left = Crowd(), list[T](), iter(walks)

        def lane() -> Steps[None]:
            for walk in left:
                ends.append((yield from walk))

        _walk(crowd, [lane() for _ in range(lanes)])
        crowd.settle()
        return ends

    def warm_up(self, pods: int) -> None:
        """A round that isn't looked at: what it leaves (a bridge) is what happens once in a node's life."""
        self._round(1, frugal=False)
        self._round(pods, frugal=False)
        self._stay = self._links()

    def round(self, pods: int, *, frugal: bool = False) -> Round:
        found = self._round(pods, frugal=frugal)
        self._require_clean()
        return found

    def _round(self, pods: int, *, frugal: bool) -> Round:
        add, added = self._together([self._adding(pod) for pod in range(pods)], frugal=frugal)
        delete, _ = self._together([self._deleting(one) for one in added], frugal=frugal)
        return Round(add, delete)

    def churn(self, seconds: float, lanes: int) -> Churn:
        crowd = Crowd()
        done = 0
        started_ns = time.monotonic_ns()
        deadline_ns = started_ns + round(seconds * 1e9)

        def lane(pod: int) -> Steps[None]:
            nonlocal done
            while time.monotonic_ns() < deadline_ns:
                added = yield from self._adding(pod)
                yield from self._deleting(added)
                done += 1

        _walk(crowd, [lane(pod) for pod in range(lanes)])
        crowd.settle()
        elapsed_ns = time.monotonic_ns() - started_ns
        self._require_clean()
        return Churn(done, elapsed_ns)

    def traffic(self, seconds: int, omit: int = 0) -> float:
        """Bits per second by one TCP connection between the first two pods that stay."""
        client, server = self._residents[:2]
        return iperf.tcp(self._pods[client.pod], self._pods[server.pod], server.address, seconds, omit)

    def _together(self, walks: Sequence[Steps[T]], *, frugal: bool) -> tuple[Sample, list[T]]:
        crowd = Crowd(frugal=frugal)
        started_ns = time.monotonic_ns()
        ends = _walk(crowd, walks)
        answered_ns = time.monotonic_ns() - started_ns
        cost = crowd.settle()
        settled_ns = time.monotonic_ns() - started_ns
        return Sample(answered_ns, settled_ns, cost.cpu_ns, cost.peak_rss_kib), ends

    def _adding(self, pod: int, members: Sequence[Mapping[str, Any]] = ()) -> Steps[Added]:
        """ADD of a new container that lives in that pod's namespace, as libcni does it: plugin by plugin."""
        self._count += 1
        container = self._count
        result: dict[str, Any] = {}
        for member in members or self._members:
            result = json.loads((yield self._call("ADD", member, Added(pod, container, result))))
        return Added(pod, container, result)

    def _deleting(self, added: Added) -> Steps[None]:
        for member in reversed(self._members):
            yield self._call("DEL", member, added)

    def add_call(self, pod: int) -> Call:
        """The first plugin's part of an ADD."""
        return next(self._adding(pod))

    def delete_call(self, added: Call, result: bytes) -> Call:
        """DEL of what one call has added."""
        stdin = json.dumps({**json.loads(added.stdin), "prevResult": json.loads(result)}).encode()
        return Call(added.argv, {**added.environ, "CNI_COMMAND": "DEL"}, stdin)

    def _call(self, command: str, member: Mapping[str, Any], about: Added) -> Call:
        environ = {
            "PATH": throwaway.PATH,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": _container_id(about.container),
            "CNI_NETNS": str(self._pods[about.pod]),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": self._setup.plugins,
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod{about.container}",
        }
        asked = member.get("capabilities", {})
        runtime = {key: value for key, value in told(about.pod).items() if asked.get(key)}
        config = {
            **member,
            **{key: self._setup.conflist[key] for key in ("cniVersion", "name")},
            **({"runtimeConfig": runtime} if runtime else {}),
            **({"prevResult": about.result} if about.result else {}),
        }
        return Call((f"{self._setup.plugins}/{member['type']}",), environ, json.dumps(config).encode())

    def _require_clean(self) -> None:
        """Settled must mean gone: of the pods that come and go nothing may be left on the node."""
        left = self._links() - self._stay
        if left:
            raise Failed(f"after DEL the node still has {', '.join(sorted(left))}")

    def _links(self) -> set[str]:
        return {name for _, name in socket.if_nameindex()}


def _walk(crowd: Crowd, walks: Sequence[Steps[T]]) -> list[T]:
    """Takes every walk to its end, a step of each at a time: what each returned."""
    running: dict[int, tuple[int, Steps[T]]] = {}
    ends: dict[int, T] = {}

    def step(number: int, walk: Steps[T], answer: bytes | None) -> None:
        try:
            call = next(walk) if answer is None else walk.send(answer)
        except StopIteration as end:
            ends[number] = end.value
        else:
            running[crowd.start(call)] = number, walk

    for number, walk in enumerate(walks):
        step(number, walk, None)
    while running:
        started, answer = crowd.next()
        step(*running.pop(started), answer)
    return [ends[number] for number in range(len(walks))]


class Remote:
    """Outside: the handle of a node. A context manager; leaving it takes the node away."""

    def __init__(self, setup: Setup, pods: int) -> None:
        what = json.dumps({"setup": asdict(setup), "pods": pods})
        self._child = subprocess.Popen(
            [*throwaway.command(), sys.executable, "-m", "bench.node", what],
            env=throwaway.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def round(self, pods: int, *, frugal: bool = False) -> Round:
        answer = self._ask("round", pods=pods, frugal=frugal)
        return Round(Sample(**answer["add"]), Sample(**answer["delete"]))

    def churn(self, seconds: float, lanes: int) -> Churn:
        return Churn(**self._ask("churn", seconds=seconds, lanes=lanes))

    def populate(self, pods: int) -> None:
        self._ask("populate", pods=pods)

    def traffic(self, seconds: int, omit: int = 0) -> float:
        """Bits per second, of a node with two pods that stay."""
        return float(self._ask("traffic", seconds=seconds, omit=omit)["bits_per_s"])

    def warm_up(self, pods: int) -> None:
        """A round of one pod and a round of these, to begin with."""
        self._ask("warm_up", pods=pods)

    def _ask(self, verb: str, **arguments: object) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        print(json.dumps([verb, arguments]), file=self._child.stdin, flush=True)
        line = self._child.stdout.readline()
        if not line:
            raise Failed(f"the node's process ended with {self._child.wait()}; what it said is on stderr")
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._child:  # closes stdin, waits
            pass


def main(argv: Sequence[str]) -> int:
    """The process inside: what for, as JSON, then one line per request on stdin, one per answer on stdout."""
    what = json.loads(argv[0])
    throwaway.furnish()
    node = Node(Setup(**what["setup"]), what["pods"])
    gc.disable()  # a collection in the middle of a measurement would be ours, not the plugin's
    for line in sys.stdin:
        verb, arguments = json.loads(line)
        gc.collect()
        try:
            match verb:
                case "round":
                    answer = asdict(node.round(**arguments))
                case "churn":
                    answer = asdict(node.churn(**arguments))
                case "populate":
                    node.populate(**arguments)
                    answer = {}
                case "traffic":
                    answer = {"bits_per_s": node.traffic(**arguments)}
                case "warm_up":
                    node.warm_up(**arguments)
                    answer = {}
                case _:
                    raise ValueError(f"no such request: {verb}")
        except Failed as error:
            answer = {"failed": str(error)}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

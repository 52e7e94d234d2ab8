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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bench.launch import Call, Crowd, Failed
from cni.cli import throwaway

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def network(subnets: Sequence[str]) -> dict[str, Any]:
    """The configuration that both sides get, as a runtime passes it."""
    everywhere = {4: "0.0.0.0/0", 6: "::/0"}
    return {
        "cniVersion": CNI_VERSION,
        "name": "bench",
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": subnet}] for subnet in subnets],
            "routes": [{"dst": everywhere[6 if ":" in subnet else 4]} for subnet in subnets],
            "dataDir": "/run/bench/networks",
        },
    }


class Node:
    """Inside: the pods, and the plugins' verbs for them."""

    def __init__(self, plugins: Path, pods: int, subnets: Sequence[str]) -> None:
        """`pods` come and go; see `populate` for those that stay."""
        self._argv = (str(plugins / "bridge"),)
        self._path = str(plugins)
        self._network = network(subnets)
        self._pods = [throwaway.make_netns(f"pod{n}") for n in range(pods)]
        self._count = 0
        self._stay = set[str]()

    def populate(self, pods: int) -> None:
        """Adds pods that stay, in namespaces of their own: what comes and goes finds a node at work."""
        for n in range(pods):
            self._pods.append(throwaway.make_netns(f"stays{n}"))
            self._together([self.add_call(len(self._pods) - 1)], frugal=False)
        self._stay = self._links()

    def round(self, pods: int, *, frugal: bool = False) -> Round:
        adds = [self.add_call(pod) for pod in range(pods)]
        add, results = self._together(adds, frugal=frugal)
        delete, _ = self._together([self.delete_call(*added) for added in zip(adds, results)], frugal=frugal)
        self._require_clean()
        return Round(add, delete)

    def churn(self, seconds: float, lanes: int) -> Churn:
        crowd = Crowd()
        done = 0
        started_ns = time.monotonic_ns()
        deadline_ns = started_ns + round(seconds * 1e9)
        # Each lane is a pod's namespace: an ADD in it is followed by its DEL, and that by the next ADD.
        adding: dict[int, tuple[int, Call]] = {}
        deleting: dict[int, int] = {}

        def begin(pod: int) -> None:
            call = self.add_call(pod)
            adding[crowd.start(call)] = pod, call

        for pod in range(lanes):
            begin(pod)
        while adding or deleting:
            number, answer = crowd.next()
            if number in adding:
                pod, call = adding.pop(number)
                deleting[crowd.start(self.delete_call(call, answer))] = pod
            else:
                pod = deleting.pop(number)
                done += 1
                if time.monotonic_ns() < deadline_ns:
                    begin(pod)
        crowd.settle()
        elapsed_ns = time.monotonic_ns() - started_ns
        self._require_clean()
        return Churn(done, elapsed_ns)

    def _together(self, calls: Sequence[Call], *, frugal: bool) -> tuple[Sample, list[bytes]]:
        crowd = Crowd(frugal=frugal)
        answers: dict[int, bytes] = {}
        started_ns = time.monotonic_ns()
        for call in calls:
            crowd.start(call)
        for _ in calls:
            number, answer = crowd.next()
            answers[number] = answer
        answered_ns = time.monotonic_ns() - started_ns
        cost = crowd.settle()
        settled_ns = time.monotonic_ns() - started_ns
        sample = Sample(answered_ns, settled_ns, cost.cpu_ns, cost.peak_rss_kib)
        return sample, [answers[number] for number in sorted(answers)]

    def add_call(self, pod: int) -> Call:
        """ADD of a new container that lives in that pod's namespace."""
        self._count += 1
        environ = {
            "PATH": throwaway.PATH,
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": f"{self._count:064x}",
            "CNI_NETNS": str(self._pods[pod]),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": self._path,
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod{self._count}",
        }
        return Call(self._argv, environ, json.dumps(self._network).encode())

    def delete_call(self, added: Call, result: bytes) -> Call:
        stdin = json.dumps({**self._network, "prevResult": json.loads(result)}).encode()
        return Call(added.argv, {**added.environ, "CNI_COMMAND": "DEL"}, stdin)

    def _require_clean(self) -> None:
        """Settled must mean gone: of all pods nothing may be left on the node. (The bridge stays, on either side.)"""
        left = self._links() - self._stay
        if left:
            raise Failed(f"after DEL the node still has {', '.join(sorted(left))}")

    def _links(self) -> set[str]:
        return {name for _, name in socket.if_nameindex()} - {"lo", BRIDGE}


class Remote:
    """Outside: the handle of a node. A context manager; leaving it takes the node away."""

    def __init__(self, plugins: Path, pods: int, subnets: Sequence[str]) -> None:
        where = [str(plugins), str(pods), *subnets]
        self._child = subprocess.Popen(
            [*throwaway.command(), sys.executable, "-m", "bench.node", *where],
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
    """The process inside: PLUGINS PODS SUBNET..., then one line per request on stdin, one per answer on stdout."""
    plugins, pods, *subnets = argv
    throwaway.furnish()
    node = Node(Path(plugins), int(pods), subnets)
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
                case _:
                    raise ValueError(f"no such request: {verb}")
        except Failed as error:
            answer = {"failed": str(error)}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A Kubernetes node as the tests see it: containerd, our plugins in its CNI directories, and pods by way of the CRI."""

from __future__ import annotations

import ipaddress
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.node import cri, images, recorder
from tests.node.box import Box
from tests.node.containerd import BIN_DIR, CONF_DIR, Containerd, until

__all__ = ["NEEDS", "NETWORK", "SUBNETS", "Inventory", "Node", "RunningPod", "conflist"]

NEEDS = pytest.mark.needs("root", "containerd", "ctr", "runc", "busybox")
NETWORK = "pods"
SUBNETS = ("10.244.7.0/24", "fd00:10:244:7::/64")
REAL_BIN_DIR = "/opt/cni/real"
CONFLIST = f"{CONF_DIR}/10-podwire.conflist"


def conflist(subnets: Sequence[str] = SUBNETS, bridge: str = "cni0", **changed: object) -> dict[str, Any]:
    """The node's network: a bridge that is the pods' gateway in both families. `changed` goes to the top level."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets]}
    plugin = {"type": "bridge", "bridge": bridge, "isDefaultGateway": True, "ipam": ipam}
    # containerd 1.6 reads the first key and ends at 1.0.0; who knows the second takes the highest.
    versions = {"cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"]}
    return {**versions, "name": NETWORK, "plugins": [plugin], **changed}


@dataclass(frozen=True, slots=True)
class Inventory:
    """What pods leave on a node while they live, and nothing of it afterwards. The bridge is the node's, and stays."""

    links: frozenset[str] = frozenset()
    neighbours: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    reservations: frozenset[str] = frozenset()
    records: frozenset[str] = frozenset()
    cached_results: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RunningPod:
    """A sandbox, by what the CRI says of it."""

    id: str
    asked: cri.Pod
    addresses: tuple[str, ...]

    @property
    def ipv4(self) -> str:
        return next(each for each in self.addresses if ipaddress.ip_address(each).version == 4)

    @property
    def ipv6(self) -> str:
        return next(each for each in self.addresses if ipaddress.ip_address(each).version == 6)


@dataclass
class Node:
    """One node. Its verbs are kubelet's; `box` and `containerd` are there for what only an administrator does."""

    box: Box
    containerd: Containerd
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def install(self, plugins: Path) -> None:
        """Puts every executable in `plugins` into the node's CNI directory, as an installer does."""
        for each in sorted(plugins.iterdir()):
            for folder in (REAL_BIN_DIR, BIN_DIR):
                self.box.write(f"{folder}/{each.name}", each.read_bytes(), 0o755)

    def configure(self, network: Mapping[str, Any] | None) -> None:
        """Makes `network` the node's, or takes its configuration away. A running containerd notices some time later."""
        if network is None:
            self.box.run("rm", "-f", CONFLIST)
            return
        # Appears whole, and by a rename within the folder: containerd 1.6 overlooks what is moved in from elsewhere.
        self.box.write(f"{CONFLIST}.new", json.dumps(network))
        self.box.run("mv", f"{CONFLIST}.new", CONFLIST)

    def reconfigure(self, network: Mapping[str, Any]) -> None:
        """`configure`, and returns when the running containerd has read it."""
        self.configure(network)
        wanted = json.dumps(network)
        until(lambda: wanted in self.containerd.cri.networks().values(), "containerd has read the new configuration")

    @contextmanager
    def recording(self, before: str = "") -> Iterator[Callable[[], list[recorder.Call]]]:
        """Writes down all calls of plugins; yields a function that returns those so far, in the order of their start.

        `before` is shell that runs in each call, ahead of the plugin; where it fails, so does the call.
        """
        names = self.box.run("ls", REAL_BIN_DIR).split()
        root = self.box.outside("/")
        recorder.forget(root)
        for name in names:
            self.box.write(f"{BIN_DIR}/{name}", recorder.wrapper(f"{REAL_BIN_DIR}/{name}", before), 0o755)
        try:
            yield lambda: recorder.calls(root)
        finally:
            for name in names:
                self.box.run("cp", "--remove-destination", f"{REAL_BIN_DIR}/{name}", f"{BIN_DIR}/{name}")

    def run_pod(self, **annotations: str) -> RunningPod:
        asked = cri.Pod(f"pod-{next(self._numbers)}", f"/{self.box.cgroup}", annotations)
        pod_id = self.containerd.cri.run_pod(asked)
        return RunningPod(pod_id, asked, self.containerd.cri.addresses(pod_id))

    def stop_pod(self, pod: RunningPod) -> None:
        self.containerd.cri.stop_pod(pod.id)

    def remove_pod(self, pod: RunningPod) -> None:
        self.containerd.cri.remove_pod(pod.id)

    def remove_all_pods(self) -> None:
        for pod in self.containerd.cri.pods():
            self.containerd.cri.stop_pod(pod.id)
            self.containerd.cri.remove_pod(pod.id)

    def start_container(self, pod: RunningPod, *command: str) -> str:
        return self.containerd.cri.start_container(pod.id, pod.asked, images.BUSYBOX, *command)

    def serve(self, pod: RunningPod, text: str) -> str:
        """Starts a web server on port 80 of both families in the pod, which answers with `text`; its container's ID."""
        script = f"echo {text} > /www/index.html; exec httpd -f -p [::]:80 -h /www"
        container = self.start_container(pod, "sh", "-c", script)
        until(lambda: self.containerd.cri.execute(container, *_fetch("127.0.0.1")).exit_code == 0, "httpd listens")
        return container

    def fetch(self, container: str, address: str) -> str:
        """What the web server at `address` says to a client in `container`."""
        return self.execute(container, *_fetch(address)).strip()

    def execute(self, container_id: str, *command: str) -> str:
        """What a command in a container wrote to stdout; the test fails when the command does."""
        done = self.containerd.cri.execute(container_id, *command)
        assert done.exit_code == 0, f"{' '.join(command)}: exit status {done.exit_code}: {done.stderr.decode()}"
        return done.stdout.decode()

    def inventory(self) -> Inventory:
        root, netns = self.box.outside("/"), self.box.netns
        return Inventory(
            links=frozenset(link.name for link in oracle.links(netns) if link.kind != "bridge"),
            # Link-local addresses are learned by the kernel from what pods say, and forgotten in its own time.
            neighbours=frozenset(
                each.address for each in oracle.neighbours(netns) if not each.address.startswith("fe80:")
            ),
            namespaces=_files(root, "run/netns/*"),
            reservations=_files(root, "var/lib/cni/networks/*/*.*.*.*", "var/lib/cni/networks/*/*:*"),
            records=_files(root, "run/podwire/attachments/*/*"),
            cached_results=_files(root, "var/lib/cni/results/*"),
        )


def _fetch(address: str) -> list[str]:
    host = f"[{address}]" if ":" in address else address
    # No -T: busybox 1.35 dies of it when it is linked statically. `execute` ends what takes too long.
    return ["wget", "-q", "-O", "-", f"http://{host}/"]


def _files(root: Path, *patterns: str) -> frozenset[str]:
    return frozenset(each.name for pattern in patterns for each in root.glob(pattern))

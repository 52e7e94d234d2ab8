"""Which part of a cluster's networks is which node's: for clusters without a controller that says so.

A node gets one network out of each of the cluster's, the next free one, and has it until it is released; asked for
again it is the same. All of it is in one JSON file, which is replaced as a whole and synced: unlike reservations
it outlives the machine. Who changes it holds a lock on the file beside it.

    >>> from ipam.nodecidr import NodeCIDRs, Plan
    >>> nodes = NodeCIDRs("/run/example.json")
    >>> plan = Plan.parse(["10.244.0.0/16", "fd00:10:244::/56"])
    >>> [str(network) for network in nodes.assign("worker-1", plan)]
    ['10.244.0.0/24', 'fd00:10:244::/64']
"""

from __future__ import annotations

from errno import ENOENT

from cni.lean import JSONError, NamedTuple, dumps, fcntl, loads, posix
from ipam.address import BITS, Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Final, Self

LENGTHS: Final = {4: 24, 6: 64}
"""Of a node's networks, unless it is said otherwise: what kube-controller-manager gives."""

_FORMAT: Final = 1
_NAME_CHARACTERS: Final = 253  # what a Kubernetes node may be called (RFC 1123)


class Full(Exception):
    """Every part of a cluster network is some node's."""


class Conflict(Exception):
    """What is asked for doesn't go with what is kept."""


class Unreadable(Exception):
    """The file isn't one of ours, or was damaged. It is left as it is: which node has what can't be guessed."""


class Plan(NamedTuple):
    """What is divided: cluster networks, and the length of a node's part of each."""

    clusters: tuple[Network, ...]
    lengths: tuple[int, ...]

    @classmethod
    def parse(cls, clusters: Sequence[str], lengths: Mapping[int, int] = LENGTHS) -> Self:
        """From CIDR text, and lengths by family. Raises ValueError."""
        networks = tuple([Network.parse(text) for text in clusters])
        if not networks:
            raise ValueError("no cluster network is given")
        for i, one in enumerate(networks):
            length = lengths[one.version]
            if not one.length <= length <= BITS[one.version]:
                raise ValueError(f"cluster network {one} has no room for a node's /{length}")
            for other in networks[:i]:
                if one.overlaps(other):
                    raise ValueError(f"cluster networks {other} and {one} overlap")
        return cls(networks, tuple([lengths[one.version] for one in networks]))

    def __str__(self) -> str:
        return ", ".join([f"{one} in /{length}" for one, length in zip(self.clusters, self.lengths)])


class Assignments(NamedTuple):
    """Everything that is kept."""

    plan: Plan | None
    """None before the first."""
    nodes: dict[str, tuple[Network, ...]]
    """One network of each cluster network, in order."""


class NodeCIDRs:
    """The assignments kept in one file. Raises OSError, and `Unreadable`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def assign(self, node: str, plan: Plan | None = None) -> tuple[Network, ...]:
        """The node's networks. `plan` is needed once; later it has to be the same, while any node has a part of it.

        Raises ValueError for what can't be a node's name or for no plan, Conflict for another one, Full.
        """
        _require_name(node)
        with _Locked(self._path):
            kept = self.read()
            chosen = plan or kept.plan
            if not chosen:
                raise ValueError("which networks are to be divided has not been said yet")
            if kept.nodes and kept.plan != chosen:
                raise Conflict(f"{self._path} divides {kept.plan}, not {chosen}; release its nodes first")
            if node not in kept.nodes:
                found = tuple([_free(chosen, i, kept.nodes) for i in range(len(chosen.clusters))])
                self._write(Assignments(chosen, {**kept.nodes, node: found}))
                return found
            return kept.nodes[node]

    def release(self, node: str) -> tuple[Network, ...]:
        """Takes the node's networks back and returns them; () for one that has none."""
        if not _exists(self._path):
            return ()
        with _Locked(self._path):
            kept = self.read()
            found = kept.nodes.pop(node, ())
            if found:
                self._write(kept)
            return found

    def read(self) -> Assignments:
        """All that is assigned now. Needs no lock: the file is always whole."""
        try:
            descriptor = posix.open(self._path, posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError as error:
            if error.errno == ENOENT:
                return Assignments(None, {})
            raise
        try:
            parts = []
            while part := posix.read(descriptor, 1 << 16):
                parts.append(part)
        finally:
            posix.close(descriptor)
        try:
            return _parsed(loads(b"".join(parts)))
        except (JSONError, KeyError, TypeError, ValueError) as error:
            raise Unreadable(f"{self._path} does not say which node has what: {error}") from None

    def _write(self, kept: Assignments) -> None:
        assert kept.plan
        value = {
            "format": _FORMAT,
            "clusters": [str(one) for one in kept.plan.clusters],
            "lengths": kept.plan.lengths,
            "nodes": {node: [str(one) for one in networks] for node, networks in sorted(kept.nodes.items())},
        }
        new = f"{self._path}.new"
        descriptor = posix.open(new, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o644)
        try:
            data = dumps(value).encode() + b"\n"
            while data:
                data = data[posix.write(descriptor, data) :]
            posix.fsync(descriptor)
        finally:
            posix.close(descriptor)
        posix.rename(new, self._path)
        folder = posix.open(self._path.rpartition("/")[0] or ("/" if self._path[:1] == "/" else "."), posix.O_RDONLY)
        try:
            posix.fsync(folder)
        finally:
            posix.close(folder)


class _Locked:
    """Keeps others from changing the file. The lock's own file is never replaced, so it stays."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}.lock"
        self._descriptor = -1

    def __enter__(self) -> None:
        self._descriptor = posix.open(self._path, posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        posix.close(self._descriptor)


def _parsed(value: Any) -> Assignments:
    if value["format"] != _FORMAT:
        raise ValueError(f"it is of format {value['format']!r}, and this understands {_FORMAT}")
    clusters = tuple([Network.parse(text) for text in value["clusters"]])
    lengths = value["lengths"]
    if len(lengths) != len(clusters) or not all(type(length) is int for length in lengths):
        raise ValueError("lengths and clusters don't go together")
    nodes = {node: tuple([Network.parse(text) for text in texts]) for node, texts in value["nodes"].items()}
    for networks in nodes.values():
        if len(networks) != len(clusters) or any(
            one.length != length or not cluster.holds(one.first)
            for one, length, cluster in zip(networks, lengths, clusters)
        ):
            raise ValueError(f"{', '.join(map(str, networks))} is no part of each cluster network")
    everything = [one for networks in nodes.values() for one in networks]
    if len(everything) != len(set(everything)):
        raise ValueError("two nodes have the same network")
    return Assignments(Plan(clusters, tuple(lengths)), nodes)


def _free(plan: Plan, index: int, nodes: Mapping[str, Sequence[Network]]) -> Network:
    """The lowest part of a cluster network that is nobody's."""
    cluster, length = plan.clusters[index], plan.lengths[index]
    taken = {networks[index].value for networks in nodes.values()}
    step = 1 << BITS[cluster.version] - length
    value = cluster.value
    while value in taken:
        value += step
    if value > cluster.last.value:
        raise Full(f"every /{length} of {cluster} is some node's")
    return Network(cluster.version, value, length)


def _require_name(node: str) -> None:
    if not node or len(node) > _NAME_CHARACTERS or not node.isprintable() or " " in node or "/" in node:
        raise ValueError(f"{node[:80]!r} is no name of a node")


def _exists(path: str) -> bool:
    try:
        posix.stat(path)
    except OSError as error:
        if error.errno == ENOENT:
            return False
        raise
    return True

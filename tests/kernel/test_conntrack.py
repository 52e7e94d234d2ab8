"""Connections that the kernel really remembers, and what is left of them: `conntrack -L` tells."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cni.kernel import conntrack, nft
from cni.kernel.conntrack import Flow
from cni.kernel.inet import is_local
from cni.kernel.netlink import Socket
from ipam.address import Address
from tests import namespaces

pytestmark = pytest.mark.needs("conntrack", "nft")

TCP, UDP = 6, 17
NODE = {4: "10.9.0.1", 6: "fd09::1"}
"""The node's own address; it also has 127.0.0.1 and ::1."""
OTHER = {4: "10.9.0.2", 6: "fd09::2"}
"""Another machine's."""
OLD, NEW = {4: "10.9.1.4", 6: "fd09:1::4"}, {4: "10.9.1.5", 6: "fd09:1::5"}
"""Pods: the one that the node's port 5300 leads to, and the one that it is to lead to."""
PORT = 5300

VERSIONS = pytest.mark.parametrize("version", [4, 6])
Seen = tuple[str, str, int, str]
"""Protocol, destination and its port, and where the replies come from."""


@pytest.fixture(params=["as it comes", "by lists"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is asked by the cheapest way, or by the one that is left for older kernels and full tables."""
    if request.param == "by lists":
        monkeypatch.setattr(conntrack, "_LINES_PER_LIST", 0)
        monkeypatch.setattr(conntrack, "_DELETIONS_PER_LIST", 0)


@pytest.fixture
def node(netns: Path) -> Path:
    """A node with a neighbour that hears everything and says nothing; it tracks, and its port leads to OLD."""
    pods = "; ".join(
        f"ip neighbour add {pod} lladdr 02:00:00:00:00:09 dev up0" for pod in (*OLD.values(), *NEW.values())
    )
    namespaces.shell(
        netns,
        f"""
        sysctl -q net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
        ip link set lo up
        ip link add up0 type veth peer name far0
        ip link set far0 up; ip link set up0 up
        ip address add {NODE[4]}/16 dev up0; ip address add {NODE[6]}/16 dev up0 nodad
        ip neighbour add {OTHER[4]} lladdr 02:00:00:00:00:09 dev up0
        ip neighbour add {OTHER[6]} lladdr 02:00:00:00:00:09 dev up0
        {pods}
        nft 'table inet t {{
            chain out {{
                type nat hook output priority -90
                meta nfproto ipv4 udp dport {PORT} fib daddr type local dnat ip to {OLD[4]}:53
                meta nfproto ipv6 udp dport {PORT} fib daddr type local dnat ip6 to [{OLD[6]}]:53
                meta nfproto ipv4 tcp dport {PORT} fib daddr type local dnat ip to {OLD[4]}:53
                meta nfproto ipv6 tcp dport {PORT} fib daddr type local dnat ip6 to [{OLD[6]}]:53
            }}
        }}'
        """,
    )
    return netns


@pytest.fixture
def nf(node: Path) -> Iterator[Socket]:
    with namespaces.inside(node, nft.connect) as found:
        yield found


@pytest.fixture
def routes(node: Path) -> Iterator[Socket]:
    with namespaces.inside(node, Socket) as found:
        yield found


def flows(node: Path) -> list[Seen]:
    found = []
    for family in ("ipv4", "ipv6"):
        for line in namespaces.shell(node, f"conntrack -L -f {family} 2>/dev/null").splitlines():
            words = line.replace("=", " ").split()
            sides = [words[i + 1] for i, word in enumerate(words) if word in ("src", "dst", "dport")]
            if words[0] in ("tcp", "udp"):
                found.append((words[0], sides[1], int(sides[2]), sides[3]))
    return sorted(found)


def send(node: Path, address: str, port: int, protocol: int = UDP) -> None:
    """A packet that nobody answers."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_DGRAM if protocol == UDP else socket.SOCK_STREAM
    with namespaces.inside(node, lambda: socket.socket(family, kind)) as sender:
        sender.setblocking(False)
        sender.connect_ex((address, port))
        if protocol == UDP:
            sender.send(b"?")


def flow(version: int, protocol: int = UDP, host: str = "", pod: dict[int, str] = NEW) -> Flow:
    return Flow(protocol, PORT, Address.parse(pod[version]), Address.parse(host) if host else None)


def forget(node: Path, work: Callable[[], None]) -> list[Seen]:
    """What is left. The count of connections is read where the engine's thread is: on the node."""
    namespaces.inside(node, work)
    return flows(node)


@VERSIONS
def test_strays_go_from_the_node_s_addresses_and_from_nowhere_else(
    version: int, node: Path, nf: Socket, routes: Socket
) -> None:
    send(node, NODE[version], PORT)
    send(node, OTHER[version], PORT)
    send(node, NODE[version], PORT + 1)
    send(node, NODE[10 - version], PORT)
    assert len(flows(node)) == 4

    left = forget(node, lambda: conntrack.forget_strays(nf, routes, [flow(version)]))

    assert left == sorted(
        [
            ("udp", OTHER[version], PORT, OTHER[version]),
            ("udp", NODE[version], PORT + 1, NODE[version]),
            ("udp", NODE[10 - version], PORT, OLD[10 - version]),
        ]
    )


@VERSIONS
def test_what_leads_to_the_pod_already_is_no_stray(version: int, node: Path, nf: Socket, routes: Socket) -> None:
    send(node, NODE[version], PORT)

    left = forget(node, lambda: conntrack.forget_strays(nf, routes, [flow(version, pod=OLD)]))

    assert left == [("udp", NODE[version], PORT, OLD[version])]


@VERSIONS
def test_strays_of_a_mapping_for_one_address_are_those_of_that_address(
    version: int, node: Path, nf: Socket, routes: Socket
) -> None:
    localhost = {4: "127.0.0.9", 6: "::1"}[version]
    send(node, NODE[version], PORT)
    send(node, localhost, PORT + 1)  # not translated, since no pod can answer localhost
    assert len(flows(node)) == 2

    left = forget(node, lambda: conntrack.forget_strays(nf, routes, [flow(version, host=localhost)]))
    assert len(left) == 2
    left = forget(node, lambda: conntrack.forget_strays(nf, routes, [flow(version, host=NODE[version])]))

    assert left == [("udp", localhost, PORT + 1, localhost)]


@VERSIONS
def test_tcp_is_never_a_stray(version: int, node: Path, nf: Socket, routes: Socket) -> None:
    send(node, NODE[version], PORT, TCP)

    left = forget(node, lambda: conntrack.forget_strays(nf, routes, [flow(version, TCP), flow(version)]))

    assert left == [("tcp", NODE[version], PORT, OLD[version])]


@VERSIONS
@pytest.mark.parametrize("many", [0, 100])
def test_what_a_pod_served_goes_with_it(many: int, version: int, node: Path, nf: Socket) -> None:
    """By filter, and where there is too much for filters by list."""
    for protocol in (UDP, TCP):
        send(node, NODE[version], PORT, protocol)
    send(node, OLD[version], 53)
    send(node, OTHER[version], PORT)
    send(node, NODE[10 - version], PORT)
    others = [flow(version, pod=OLD)._replace(port=10000 + n) for n in range(many)]

    left = forget(
        node, lambda: conntrack.forget_served(nf, [flow(version, UDP, pod=OLD), flow(version, TCP, pod=OLD), *others])
    )

    assert left == sorted(
        [
            ("udp", OLD[version], 53, OLD[version]),
            ("udp", OTHER[version], PORT, OTHER[version]),
            ("udp", NODE[10 - version], PORT, OLD[10 - version]),
        ]
    )


@VERSIONS
def test_an_address_s_connections_go_in_both_directions_and_no_other_s(version: int, node: Path, nf: Socket) -> None:
    """To the pod and from it; the other family's, other pods' and the node's own stay."""
    namespaces.shell(
        node, f"ip address add {NEW[version]} dev lo nodad" if version == 6 else f"ip address add {NEW[4]} dev lo"
    )
    send(node, NODE[version], PORT)
    send(node, OTHER[version], 53)
    send(node, NODE[10 - version], PORT)
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with namespaces.inside(node, lambda: socket.socket(family, socket.SOCK_DGRAM)) as sender:
        sender.bind((NEW[version], 0))
        sender.sendto(b"?", (OTHER[version], 123))
    assert len(flows(node)) == 4

    left = forget(node, lambda: conntrack.forget_address(nf, Address.parse(OLD[version])))
    assert ("udp", NODE[version], PORT, OLD[version]) not in left
    assert len(left) == 3
    left = forget(node, lambda: conntrack.forget_address(nf, Address.parse(NEW[version])))

    assert left == sorted(
        [("udp", OTHER[version], 53, OTHER[version]), ("udp", NODE[10 - version], PORT, OLD[10 - version])]
    )


def test_where_nothing_is_tracked_nothing_is_asked(netns: Path) -> None:
    """Not even that a socket may speak to the packet filter."""
    with namespaces.inside(netns, Socket) as routes:
        namespaces.inside(netns, lambda: conntrack.forget_strays(routes, routes, [flow(4)]))
        namespaces.inside(netns, lambda: conntrack.forget_address(routes, Address.parse(OLD[4])))


@pytest.mark.parametrize(
    ("address", "ours"),
    [(NODE[4], True), ("127.0.0.1", True), ("127.9.9.9", True), (OTHER[4], False), ("192.0.2.1", False),
     ("224.0.0.1", False), ("10.9.255.255", False),
     (NODE[6], True), ("::1", True), (OTHER[6], False), ("2001:db8::1", False), ("ff02::1", False)],
)  # fmt: skip
def test_local_is_what_the_node_takes_for_its_own(address: str, ours: bool, node: Path, routes: Socket) -> None:
    assert is_local(routes, Address.parse(address)) is ours

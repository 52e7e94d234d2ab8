"""portmap: ports of the node that lead to a pod, for whoever asks the node and for nobody else.

Judged by who answers and what it saw, behind our bridge and our ptp, with and without the kernel's habit of passing
bridged packets to the IP firewall.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests import namespaces, oracle
from tests.verbs.frames import Tap, datagram
from tests.verbs.lab import (
    FAR4,
    FAR6,
    NODE4,
    NODE6,
    OUTSIDE4,
    OUTSIDE6,
    SILENCE_S,
    UPLINK,
    Chain,
    Heard,
    Lab,
)  # fmt: skip
from tests.verbs.networks import host_local

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.calls import Caller, Exec, InProcess

SUBNETS = ("10.1.0.0/24", "fd00:1::/64")
GATEWAY = ("10.1.0.1", "fd00:1::1")
A, B, C, D = ((f"10.1.0.{n}", f"fd00:1::{n}") for n in (2, 3, 4, 5))
"""Addresses of the first pods, as host-local gives them."""
NODE, OUTSIDE, FAR = (NODE4, NODE6), (OUTSIDE4, OUTSIDE6), (FAR4, FAR6)
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
PROTOCOLS = ("tcp", "udp")


def mapping(host_port: int = 8080, container_port: int = 80, protocol: str = "tcp", **keys: Any) -> dict[str, Any]:
    return {"hostPort": host_port, "containerPort": container_port, "protocol": protocol, **keys}


BOTH = [mapping(protocol=protocol) for protocol in PROTOCOLS]


class Kind(NamedTuple):
    """What portmap is behind."""

    main: str
    bridge_nf: bool
    hairpin: bool = False
    """Of the bridge's ports: where br_netfilter translates frames, they go back by the port they came by."""


KINDS = {
    "bridge": Kind("bridge", False),
    "bridge with br_netfilter": Kind("bridge", True, hairpin=True),
    "ptp": Kind("ptp", True),
    "podwire": Kind("podwire", False),
    "podwire with br_netfilter": Kind("podwire", True),
}


def conflist(
    data_dir: Path, kind: Kind = KINDS["bridge"], name: str = "lan", subnets: tuple[str, ...] = SUBNETS, **keys: Any
) -> dict[str, Any]:
    """The main plugin, with a bridge for each network, and portmap with these keys; podwire is both."""
    ipam = host_local(data_dir, *subnets, routes=[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
    main: dict[str, Any] = {"type": kind.main, "ipam": ipam}
    if kind.main == "bridge":
        main |= {"bridge": "br0" if name == "lan" else name, "isGateway": True, "hairpinMode": kind.hairpin}
    mapping = {"capabilities": {"portMappings": True}, **keys}
    plugins = [{**main, **mapping}] if kind.main == "podwire" else [main, {"type": "portmap", **mapping}]
    return {"cniVersion": "1.0.0", "name": name, "plugins": plugins}


@pytest.fixture
def ours(in_process: InProcess) -> Caller:
    """Who calls our plugins; a test by exec takes another."""
    return in_process


@pytest.fixture
def chain(lab: Lab, data_dir: Path, in_process: InProcess) -> Callable[..., Chain]:
    """`chain(kind, snat=False)`: the main plugin and portmap, on the node of `lab`."""

    def of(kind: Kind = KINDS["bridge"], **keys: Any) -> Chain:
        lab.bridge_nf(kind.bridge_nf)
        return Chain(lab.node, conflist(data_dir, kind, **keys), in_process)

    return of


def serve(lab: Lab, netns: Path, addresses: tuple[str, ...], name: str, port: int = 80) -> None:
    for protocol in PROTOCOLS:
        for address in addresses:
            lab.serve(netns, protocol, address, port, name)


def track(lab: Lab) -> None:
    """Has the kernel remember the node's connections, as it does on every node where anybody has a firewall."""
    lab.nft("table inet firewall { chain in { type filter hook input priority 0; ct state new accept; }; }")


def who(heard: Heard | None) -> str:
    return heard.server if heard else ""


# --- from where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["in process", "by exec"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_host_port_is_reached_from_everywhere_where_the_node_is(
    kind: Kind,
    how: str,
    lab: Lab,
    chain: Callable[..., Chain],
    make_netns: Callable[[], Path],
    data_dir: Path,
    plugin: Exec,
) -> None:
    pods = chain(kind) if how == "in process" else Chain(lab.node, conflist(data_dir, kind), plugin)
    lab.bridge_nf(kind.bridge_nf)
    a, b = make_netns(), make_netns()
    pods.add(a, "a", portMappings=BOTH)
    pods.add(b, "b", portMappings=[])
    serve(lab, a, A, "a")

    heard = {
        (client, address): {who(lab.ask(netns, protocol, address, 8080)) for protocol in PROTOCOLS}
        for client, netns, addresses in (
            ("outside", lab.outside, NODE),
            ("node", lab.node, (*NODE, *GATEWAY, "127.0.0.1", "127.1.2.3")),
            ("another pod", b, (*NODE, *GATEWAY)),
            ("the pod itself", a, (*NODE, *GATEWAY)),
        )
        for address in addresses
    }

    assert heard == {key: {"a"} for key in heard}
    assert pods.check("a").code == pods.check("b").code == 0


@FAMILIES
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_pod_sees_who_asked_wherever_its_answer_finds_back_by_itself(
    kind: Kind, family: int, lab: Lab, chain: Callable[..., Chain], make_netns: Callable[[], Path]
) -> None:
    """Only localhost, neighbours on the bridge and the pod itself are the node to the pod."""
    pods = chain(kind)
    a, b = make_netns(), make_netns()
    pods.add(a, "a", portMappings=BOTH)
    pods.add(b, "b")
    serve(lab, a, A, "a")

    def seen(netns: Path, address: str = NODE[family]) -> set[str | None]:
        return {heard and heard.peer for heard in (lab.ask(netns, protocol, address, 8080) for protocol in PROTOCOLS)}

    assert seen(lab.outside) == {OUTSIDE[family]}
    assert seen(lab.node) == {NODE[family]}
    assert seen(a) == {GATEWAY[family]}
    assert seen(b) == {B[family] if kind.main == "ptp" else GATEWAY[family]}
    if family == 0:
        assert seen(lab.node, "127.0.0.1") == {GATEWAY[0]}


@FAMILIES
def test_masquerading_all_makes_everybody_the_node(
    family: int, lab: Lab, chain: Callable[..., Chain], netns: Path
) -> None:
    chain(masqAll=True).add(netns, portMappings=BOTH)
    serve(lab, netns, A, "a")

    for protocol in PROTOCOLS:
        heard = lab.ask(lab.outside, protocol, NODE[family], 8080)
        assert heard and heard.peer == GATEWAY[family]


def test_without_snat_the_pod_is_reached_from_outside_and_by_the_node_alone(
    lab: Lab, chain: Callable[..., Chain], make_netns: Callable[[], Path]
) -> None:
    pods = chain(snat=False)
    a, b = make_netns(), make_netns()
    pods.add(a, "a", portMappings=BOTH)
    pods.add(b, "b")
    serve(lab, a, A, "a")

    assert who(lab.ask(lab.outside, "tcp", NODE4, 8080)) == who(lab.ask(lab.node, "tcp", NODE4, 8080)) == "a"
    assert lab.ask(lab.node, "tcp", "127.0.0.1", 8080, timeout=SILENCE_S) is None
    assert lab.ask(a, "tcp", NODE4, 8080, timeout=SILENCE_S) is None
    assert lab.ask(b, "tcp", NODE4, 8080, timeout=SILENCE_S) is None
    assert namespaces.shell(lab.node, "cat /proc/sys/net/ipv4/conf/br0/route_localnet") == "0\n"


def test_on_ipv6_localhost_stays_the_node_s(lab: Lab, chain: Callable[..., Chain], netns: Path) -> None:
    chain().add(netns, portMappings=BOTH)
    serve(lab, netns, A, "a")

    assert lab.ask(lab.node, "tcp", "::1", 8080) is None  # at once: nobody listens
    lab.serve(lab.node, "tcp", "::1", 8080, "node")
    assert who(lab.ask(lab.node, "tcp", "::1", 8080)) == "node"


# --- whose packets ------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_is_addressed_elsewhere_is_not_captured(
    kind: Kind, family: int, lab: Lab, chain: Callable[..., Chain], make_netns: Callable[[], Path]
) -> None:
    """GHSA-jv3w-x3r3-g6rm: of packets on their way through the node, to a pod, to the world, to a service's address."""
    pods = chain(kind)
    a, b = make_netns(), make_netns()
    pods.add(a, "a", portMappings=BOTH)
    pods.add(b, "b")
    serve(lab, a, A, "a")
    serve(lab, b, B, "b", 8080)
    serve(lab, lab.outside, FAR, "far", 8080)
    lab.route_back(*SUBNETS)

    for protocol in PROTOCOLS:
        assert who(lab.ask(lab.outside, protocol, B[family], 8080)) == "b"  # from outside to another pod
        assert who(lab.ask(a, protocol, B[family], 8080)) == "b"  # from pod to pod
        assert who(lab.ask(lab.node, protocol, B[family], 8080)) == "b"
        assert who(lab.ask(b, protocol, FAR[family], 8080)) == "far"  # from a pod to the world
        assert who(lab.ask(lab.node, protocol, FAR[family], 8080)) == "far"
        # To an address that the node routes and doesn't have, as those of services are.
        service = ("192.0.2.77", "2001:db8::77")[family]
        assert lab.ask(b, protocol, service, 8080, timeout=SILENCE_S) is None
        assert who(lab.ask(lab.outside, protocol, NODE[family], 8080)) == "a"


@FAMILIES
def test_a_port_of_one_address_is_no_other_s(
    family: int, lab: Lab, chain: Callable[..., Chain], make_netns: Callable[[], Path]
) -> None:
    """Two pods have the same port at two addresses; at a third it is the node's."""
    pods = chain()
    a, b = make_netns(), make_netns()
    pods.add(a, "a", portMappings=[mapping(hostIP=NODE[family])])
    pods.add(b, "b", portMappings=[mapping(hostIP=GATEWAY[family])])
    serve(lab, a, A, "a")
    serve(lab, b, B, "b")
    lab.serve(lab.node, "tcp", ("127.0.0.1", "::1")[family], 8080, "node")

    assert who(lab.ask(lab.outside, "tcp", NODE[family], 8080)) == "a"
    assert who(lab.ask(lab.node, "tcp", GATEWAY[family], 8080)) == "b"
    assert who(lab.ask(a, "tcp", GATEWAY[family], 8080)) == "b"
    assert who(lab.ask(b, "tcp", GATEWAY[family], 8080)) == "b"
    assert who(lab.ask(lab.node, "tcp", ("127.0.0.1", "::1")[family], 8080)) == "node"
    assert lab.ask(lab.outside, "tcp", NODE[1 - family], 8080) is None


def test_a_port_of_localhost_is_localhost_s(lab: Lab, chain: Callable[..., Chain], netns: Path) -> None:
    chain().add(netns, portMappings=[mapping(hostIP="127.0.0.1")])
    serve(lab, netns, A, "a")

    assert who(lab.ask(lab.node, "tcp", "127.0.0.1", 8080)) == "a"
    assert lab.ask(lab.node, "tcp", "127.0.0.2", 8080) is None
    assert lab.ask(lab.outside, "tcp", NODE4, 8080) is None


def test_the_more_specific_of_one_pod_s_ports_wins(lab: Lab, chain: Callable[..., Chain], netns: Path) -> None:
    chain().add(netns, portMappings=[mapping(), mapping(8080, 81, hostIP=NODE4)])
    lab.serve(netns, "tcp", A[0], 80, "everywhere")
    lab.serve(netns, "tcp", A[0], 81, "here")

    assert who(lab.ask(lab.outside, "tcp", NODE4, 8080)) == "here"
    assert who(lab.ask(netns, "tcp", NODE4, 8080)) == "here"
    assert who(lab.ask(lab.node, "tcp", "127.0.0.1", 8080)) == "everywhere"


@pytest.mark.parametrize(
    "condition",
    [["ip", "saddr", "!=", NODE4], ["!", "-s", NODE4], ["iifname", UPLINK], ["-i", "up+"]],
    ids=" ".join,
)
def test_a_condition_says_whose_packets_are_meant(
    condition: list[str], lab: Lab, chain: Callable[..., Chain], netns: Path
) -> None:
    pods = chain(conditionsV4=condition)
    pods.add(netns, portMappings=BOTH)
    serve(lab, netns, A, "a")

    assert who(lab.ask(lab.outside, "tcp", NODE4, 8080)) == "a"
    assert lab.ask(lab.node, "tcp", NODE4, 8080) is None
    assert who(lab.ask(lab.node, "tcp", NODE6, 8080)) == "a"  # of the other family there is no condition
    assert pods.check().code == 0

    rules = lab.rules()
    pods.delete()
    assert lab.ask(lab.outside, "tcp", NODE4, 8080) is None
    pods.add(netns, portMappings=BOTH)
    assert lab.rules() == rules


def test_a_condition_that_nft_does_not_understand_is_told_and_leaves_nothing(
    lab: Lab, chain: Callable[..., Chain], netns: Path
) -> None:
    pods = chain(conditionsV4=["ip", "sadr", "10.0.0.0/8"])

    error = pods.attach(netns, portMappings=[mapping()]).error

    assert "sadr" in error["msg"]
    assert lab.elements() == {}


# --- with others --------------------------------------------------------------------------------------

KUBE_PROXY = """
table ip kube-proxy {{
    chain services {{ fib daddr type local tcp dport 8080 dnat to {service}; }}
    chain prerouting {{ type nat hook prerouting priority -100; jump services; }}
    chain output {{ type nat hook output priority -100; jump services; }}
    chain postrouting {{ type nat hook postrouting priority 100; }}
}}
"""


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_another_s_translation_wins_whichever_was_loaded_first(
    first: str, lab: Lab, chain: Callable[..., Chain], make_netns: Callable[[], Path]
) -> None:
    pods = chain()
    a, b = make_netns(), make_netns()
    proxy = KUBE_PROXY.format(service=f"{B[0]}:80")
    if first == "theirs":
        lab.nft(proxy)
    pods.add(a, "a", portMappings=BOTH)
    pods.add(b, "b")
    if first == "ours":
        lab.nft(proxy)
    serve(lab, a, A, "a")
    serve(lab, b, B, "b")

    assert who(lab.ask(lab.outside, "tcp", NODE4, 8080)) == "b"
    assert who(lab.ask(lab.node, "tcp", NODE4, 8080)) == "b"
    assert who(lab.ask(lab.outside, "udp", NODE4, 8080)) == "a"  # which the other says nothing of
    assert who(lab.ask(lab.outside, "tcp", NODE6, 8080)) == "a"


@pytest.mark.parametrize("neighbour", ["a pod", "an L2 neighbour"])
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "as it would be"])
def test_what_listens_on_the_node_s_loopback_is_not_reached_from_a_neighbour(
    closed: bool, neighbour: str, lab: Lab, chain: Callable[..., Chain], netns: Path
) -> None:
    """CVE-2020-8558, by frames to 127.0.0.1 and from it; and that they would arrive, but for our rule."""
    chain().add(netns, portMappings=BOTH)
    inside = lab.serve(lab.node, "udp", "127.0.0.1", 9000, "loopback")
    everywhere = lab.serve(lab.node, "udp", "0.0.0.0", 9001, "everywhere")
    where, link, port = (netns, "eth0", "br0") if neighbour == "a pod" else (lab.outside, "eth0", UPLINK)
    # The uplink would take localhost's addresses only if somebody opened it, too.
    namespaces.shell(lab.node, f"sysctl -q net.ipv4.conf.{port}.route_localnet=1 net.ipv4.conf.{port}.rp_filter=0")
    namespaces.shell(lab.node, f"sysctl -q net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{port}.accept_local=1")
    if not closed:
        lab.nft("flush chain inet podwire hostports_localnet")
    node, mac = oracle.link(lab.node, port).mac, oracle.link(where, link).mac
    source, target = (A[0], GATEWAY[0]) if neighbour == "a pod" else (OUTSIDE4, NODE4)

    with Tap(where, link) as tap:
        tap.send(datagram(node, mac, source, "127.0.0.1", 9000))
        tap.send(datagram(node, mac, "127.0.0.1", target, 9001))
    # What came after them has arrived, so they have, or never will.
    assert who(lab.ask(where, "udp", target, 9001)) == "everywhere"

    assert [heard.peer for heard in inside.heard] == ([] if closed else [source])
    assert [heard.peer for heard in everywhere.heard if heard.peer_port == 40000] == ([] if closed else ["127.0.0.1"])


def test_the_door_is_closed_before_it_is_opened(
    lab: Lab, chain: Callable[..., Chain], netns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first host port of a node: the rule is in force when the link begins to take localhost's addresses."""
    from cni.kernel.sysctl import Sysctl

    seen = []
    make = Sysctl.make

    def watched(self: Sysctl) -> None:
        if self.path.endswith("route_localnet"):
            seen.append(namespaces.shell(lab.node, "nft list chain inet podwire hostports_localnet").count("drop"))
        make(self)

    monkeypatch.setattr(Sysctl, "make", watched)

    chain().add(netns, portMappings=BOTH)

    assert seen == [2]
    assert namespaces.shell(lab.node, "cat /proc/sys/net/ipv4/conf/br0/route_localnet") == "1\n"


# --- connections --------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("host", ["all addresses", "one address"])
def test_who_sends_udp_from_one_port_reaches_the_pod_that_there_is(
    host: str, family: int, lab: Lab, chain: Callable[..., Chain], make_netns: Callable[[], Path]
) -> None:
    """Before there was any, from one to the next, and when the next takes over from one that only died."""
    asked = [mapping(protocol="udp", hostIP=NODE[family] if host == "one address" else "")]
    track(lab)
    pods = chain()
    client = lab.udp_client(lab.outside, OUTSIDE[family], 40000)
    assert client.ask(NODE[family], 8080, SILENCE_S) is None
    elsewhere = lab.udp_client(lab.node, NODE[family], 40001)
    lab.serve(lab.outside, "udp", FAR[family], 8080, "far")
    assert who(elsewhere.ask(FAR[family], 8080)) == "far"

    a = make_netns()
    pods.add(a, "a", portMappings=asked)
    lab.serve(a, "udp", A[family], 80, "a")
    assert who(client.ask(NODE[family], 8080)) == "a"

    pods.delete("a")
    assert [flow for flow in lab.flows() if flow.source_port == 40000] == []
    assert client.ask(NODE[family], 8080, SILENCE_S) is None
    b = make_netns()
    pods.add(b, "b", portMappings=asked)
    lab.serve(b, "udp", B[family], 80, "b")
    assert who(client.ask(NODE[family], 8080)) == "b"

    pods.delete("b")
    with namespaces.held() as c:
        pods.add(c, "c", portMappings=asked)
        server = lab.serve(c, "udp", C[family], 80, "c")
        assert who(client.ask(NODE[family], 8080)) == "c"
        lab.end(server)  # a socket would keep the namespace
    d = make_netns()
    pods.add(d, "d", portMappings=asked)
    lab.serve(d, "udp", D[family], 80, "d")
    assert who(client.ask(NODE[family], 8080)) == "d"

    # What goes to the same port of somebody else was never touched.
    assert [flow.source_port for flow in lab.flows() if flow.target == FAR[family]] == [40001]
    assert who(elsewhere.ask(FAR[family], 8080)) == "far"


def test_a_connection_of_the_node_s_own_outlives_a_pod_that_gets_its_port(
    lab: Lab, chain: Callable[..., Chain], netns: Path
) -> None:
    track(lab)
    lab.serve(lab.node, "tcp", NODE4, 8080, "node")
    client = lab.client(lab.outside, "tcp", OUTSIDE4)
    assert who(client.ask(NODE4, 8080)) == "node"

    chain().add(netns, portMappings=BOTH)
    serve(lab, netns, A, "a")

    assert who(client.ask(NODE4, 8080)) == "node"
    assert who(lab.ask(lab.outside, "tcp", NODE4, 8080)) == "a"


@pytest.mark.parametrize(
    "lost", [{}, {"netns": False}, {"told": False}, {"prev": False, "told": False, "netns": False}]
)
def test_after_del_nothing_is_left_whatever_the_runtime_has_lost(
    lost: dict[str, Any], lab: Lab, chain: Callable[..., Chain], make_netns: Callable[[], Path], run_dir: Path
) -> None:
    pods = chain()
    a = make_netns()
    pods.add(a, "a", portMappings=BOTH)
    serve(lab, a, A, "a")
    for protocol in PROTOCOLS:
        for family in (0, 1):
            assert lab.ask(lab.outside, protocol, NODE[family], 8080)
    assert len([flow for flow in lab.flows() if flow.target_port == 8080]) == 4

    pods.delete("a", **lost)

    assert lab.elements() == {}
    assert [flow for flow in lab.flows() if flow.target_port == 8080] == []
    assert list((run_dir / "claims").iterdir()) == []
    assert [file for file in run_dir.glob("attachments/*/*") if file.is_file()] == []


@pytest.mark.parametrize("lost", [{}, {"prev": False, "told": False, "netns": False}], ids=["all told", "nothing told"])
@pytest.mark.parametrize("kind", ["podwire", "podwire with br_netfilter"])
def test_after_del_nobody_remembers_a_connection_of_the_pod(
    kind: str, lost: dict[str, Any], lab: Lab, chain: Callable[..., Chain], make_netns: Callable[[], Path]
) -> None:
    """From the pod and to it; other pods' stay."""
    pods = chain(KINDS[kind])
    a, b = make_netns(), make_netns()
    pods.add(a, "a", portMappings=BOTH)
    pods.add(b, "b")
    serve(lab, a, A, "a")
    serve(lab, lab.outside, FAR, "far")
    for protocol in PROTOCOLS:
        for family in (0, 1):
            assert lab.ask(lab.outside, protocol, NODE[family], 8080)
            assert lab.ask(a, protocol, FAR[family], 80)
            assert lab.ask(b, protocol, FAR[family], 80)
            assert lab.ask(b, protocol, A[family], 80)

    pods.delete("a", **lost)

    left = {(flow.source, flow.reply_source) for flow in lab.flows()}
    assert left == {(B[0], FAR[0]), (B[1], FAR[1])}


# --- conflicts ----------------------------------------------------------------------------------------

EVERYWHERE: tuple[dict[str, Any], ...] = ({}, {"hostIP": "0.0.0.0"}, {"hostIP": NODE4})


@pytest.mark.parametrize("other", EVERYWHERE, ids=str)
@pytest.mark.parametrize("one", EVERYWHERE, ids=str)
def test_a_port_of_a_living_pod_is_refused_and_the_owner_named(
    one: dict[str, Any], other: dict[str, Any], lab: Lab, chain: Callable[..., Chain], make_netns: Callable[[], Path]
) -> None:
    pods = chain()
    a, b = make_netns(), make_netns()
    pods.add(a, "a", portMappings=[mapping(**one)])
    lab.serve(a, "tcp", A[0], 80, "a")

    error = pods.attach(b, "b", portMappings=[mapping(9090), mapping(**other)]).error

    assert error["code"] == 11
    assert "tcp:8080" in error["msg"]
    assert "lan/a@eth0@portmap" in error["msg"]
    assert who(lab.ask(lab.outside, "tcp", NODE4, 8080)) == "a"
    for outcome in pods.detach("b"):
        assert outcome.code == 0
    assert who(lab.ask(lab.outside, "tcp", NODE4, 8080)) == "a"

    pods.delete("a")
    pods.add(b, "b", portMappings=[mapping(9090), mapping(**other)])
    assert lab.ask(lab.outside, "tcp", NODE4, 9090) is None  # it is b's, where nobody listens


@pytest.mark.parametrize("other", EVERYWHERE, ids=str)
@pytest.mark.parametrize("one", EVERYWHERE, ids=str)
def test_a_port_of_a_dead_pod_is_taken_over_and_its_del_takes_nothing_away(
    one: dict[str, Any], other: dict[str, Any], lab: Lab, chain: Callable[..., Chain], make_netns: Callable[[], Path]
) -> None:
    pods = chain()
    with namespaces.held() as a:
        pods.add(a, "a", portMappings=[mapping(**one)])
    b = make_netns()

    pods.add(b, "b", portMappings=[mapping(**other)])
    lab.serve(b, "tcp", B[0], 80, "b")

    assert who(lab.ask(lab.outside, "tcp", NODE4, 8080)) == "b"
    assert who(lab.ask(b, "tcp", NODE4, 8080)) == "b"
    pods.delete("a", netns=False)
    assert who(lab.ask(lab.outside, "tcp", NODE4, 8080)) == "b"
    assert who(lab.ask(b, "tcp", NODE4, 8080)) == "b"
    pods.delete("b")
    assert lab.elements() == {}


@pytest.mark.parametrize("kind", ["podwire", "ptp", "bridge with br_netfilter"])
def test_who_gets_the_address_of_a_dead_pod_keeps_its_ports_whatever_the_old_one_s_were(
    kind: str, lab: Lab, data_dir: Path, in_process: InProcess, netns: Path
) -> None:
    lab.bridge_nf(KINDS[kind].bridge_nf)
    one_address = ("10.1.0.0/30",)
    pods = Chain(lab.node, conflist(data_dir, KINDS[kind], subnets=one_address), in_process)
    before = namespaces.veths(lab.node)
    with namespaces.held() as a:
        pods.add(a, "a", portMappings=[mapping(hostIP=NODE4)])
    namespaces.until_dismantled(lab.node, before)
    result = pods.add(netns, "b", portMappings=[mapping(hostIP=GATEWAY[0])])
    assert result["ips"][0]["address"].startswith(A[0])
    lab.serve(netns, "tcp", A[0], 80, "b")
    assert who(lab.ask(netns, "tcp", GATEWAY[0], 8080)) == "b"

    pods.delete("a", netns=False)

    assert who(lab.ask(netns, "tcp", GATEWAY[0], 8080)) == "b"
    assert pods.check("b").code == 0
    pods.delete("b")
    assert lab.elements() == {}


def test_ports_that_differ_are_no_conflict(
    lab: Lab, chain: Callable[..., Chain], make_netns: Callable[[], Path]
) -> None:
    pods = chain()
    a, b = make_netns(), make_netns()
    pods.add(a, "a", portMappings=[mapping(), mapping(hostIP=NODE4, host_port=9090)])
    pods.add(b, "b", portMappings=[mapping(protocol="udp"), mapping(8081), mapping(hostIP=GATEWAY[0], host_port=9090)])
    serve(lab, a, A, "a")
    serve(lab, b, B, "b")

    assert who(lab.ask(lab.outside, "tcp", NODE4, 8080)) == who(lab.ask(lab.outside, "tcp", NODE4, 9090)) == "a"
    assert who(lab.ask(lab.outside, "udp", NODE4, 8080)) == who(lab.ask(lab.outside, "tcp", NODE4, 8081)) == "b"
    assert who(lab.ask(lab.node, "tcp", GATEWAY[0], 9090)) == "b"


# --- the plugin ---------------------------------------------------------------------------------------


def test_the_result_is_the_one_before(lab: Lab, chain: Callable[..., Chain], netns: Path) -> None:
    pods = chain()
    before = dict(pods.conflist, plugins=pods.plugins[:1])
    bare = Chain(lab.node, before, pods._caller).add(netns)  # what the main plugin says

    outcome = pods._call("ADD", pods.plugins[1], netns, "a", "eth0", {"portMappings": BOTH}, bare)

    assert outcome.result == bare


def test_without_a_previous_result_there_is_no_pod(in_process: InProcess, netns: Path, lab: Lab) -> None:
    config = {"cniVersion": "1.0.0", "name": "lan", "type": "portmap"}

    error = in_process("portmap", "ADD", config, netns=netns, node=lab.node).error

    assert error["code"] == 7
    assert "chained" in error["msg"]


@pytest.mark.parametrize("mappings", [None, []], ids=["not told", "told of none"])
def test_without_mappings_nothing_is_made(
    mappings: list[dict[str, Any]] | None, lab: Lab, chain: Callable[..., Chain], netns: Path
) -> None:
    pods = chain()
    told: dict[str, Any] = {} if mappings is None else {"portMappings": mappings}

    pods.add(netns, **told)

    assert lab.ruleset() == []
    assert namespaces.shell(lab.node, "cat /proc/sys/net/ipv4/conf/br0/route_localnet") == "0\n"
    assert pods.check().code == 0
    pods.delete()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("nft flush map inet podwire hostports_any4", "hostports_any4"),
        ("nft flush map inet podwire hostports_any6", "hostports_any6"),
        ("nft flush set inet podwire hostports_snat4", "hostports_snat4"),
        ("nft delete table inet podwire", "hostports_any4"),
        ("sysctl -q net.ipv4.conf.br0.route_localnet=0", "route_localnet"),
    ],
)
def test_a_check_notices_what_is_missing(
    harm: str, told: str, lab: Lab, chain: Callable[..., Chain], netns: Path
) -> None:
    pods = chain()
    pods.add(netns, portMappings=BOTH)
    assert pods.check().code == 0

    namespaces.shell(lab.node, harm)

    error = pods.check().error
    assert error["code"] == 103
    assert told in error["msg"]


@pytest.mark.parametrize(("kind", "noted"), [("bridge", ["br0"]), ("ptp", [])])
def test_how_a_shared_link_was_is_noted_and_not_how_the_pod_s_own_was(
    kind: str, noted: list[str], lab: Lab, chain: Callable[..., Chain], netns: Path, run_dir: Path
) -> None:
    chain(KINDS[kind]).add(netns, portMappings=BOTH)

    names = [file.name for file in (run_dir / "before").iterdir() if file.name.endswith("route_localnet")]

    assert names == [f"net:ipv4:conf:{link}:route_localnet" for link in noted]


def test_rules_that_somebody_flushed_come_back_for_all_pods(
    lab: Lab, chain: Callable[..., Chain], make_netns: Callable[[], Path]
) -> None:
    pods, conditioned = chain(), chain(name="other", subnets=("10.2.0.0/24",), conditionsV4=["iifname", UPLINK])
    a, b, c = make_netns(), make_netns(), make_netns()
    pods.add(a, "a", portMappings=BOTH)
    conditioned.add(b, "b", portMappings=[mapping(9090)])
    lab.serve(a, "tcp", A[0], 80, "a")
    lab.serve(b, "tcp", "10.2.0.2", 80, "b")
    elements = lab.elements()

    namespaces.shell(lab.node, "nft flush ruleset")
    pods.add(c, "c", portMappings=[mapping(8081)])

    assert who(lab.ask(lab.outside, "tcp", NODE4, 8080)) == "a"
    assert who(lab.ask(lab.outside, "tcp", NODE4, 9090)) == "b"
    assert lab.ask(lab.node, "tcp", NODE4, 9090) is None
    pods.delete("c")
    assert lab.elements() == elements


def test_the_number_of_rules_does_not_depend_on_pods(
    lab: Lab, chain: Callable[..., Chain], crowd: namespaces.Crowd
) -> None:
    pods = chain()
    rules: list[int] = []
    for number in range(200):
        pods.add(
            crowd.make(f"pod{number}"),
            f"pod{number}",
            portMappings=[mapping(8000 + number), mapping(protocol="udp", host_port=8000 + number)],
        )
        rules.append(lab.rules() if number in (0, 199) else rules[0])

    assert rules[-1] == rules[0]
    assert lab.elements()["inet podwire hostports_any4"] == 400
    for number in range(200):
        pods.delete(f"pod{number}", netns=number % 2 == 0, told=number % 3 == 0)
    assert lab.elements() == {}
    assert lab.rules() == rules[0]


def test_sctp_is_mapped_where_the_kernel_may_have_no_sockets_of_it(
    lab: Lab, chain: Callable[..., Chain], netns: Path
) -> None:
    pods = chain()
    pods.add(netns, portMappings=[mapping(protocol="SCTP")])

    told = namespaces.shell(lab.node, "nft list map inet podwire hostports_any4")

    assert "sctp . 8080" in told
    assert f"{A[0]} . 80" in told
    assert pods.check().code == 0
    lab.serve(netns, "sctp", A[0], 80, "a")
    assert who(lab.ask(lab.outside, "sctp", NODE4, 8080)) == "a"


def test_nft_takes_the_rules_as_they_are(netns: Path) -> None:
    from cni.features import portmap

    namespaces.shell(netns, f"nft -c -f - <<'END'\n{portmap.RULES}\nEND")


# --- beside the reference -----------------------------------------------------------------------------

REFERENCE = pytest.mark.needs("/usr/lib/cni/bridge", "/usr/lib/cni/portmap", "iptables")


@REFERENCE
@pytest.mark.parametrize("bridge_nf", [False, True])
@pytest.mark.parametrize("whose", ["ours", "ours by exec", "our bridge", "their bridge", "theirs"])
def test_whoever_maps_the_port_the_same_pods_reach_it(
    whose: str, bridge_nf: bool, lab: Lab, make_netns: Callable[[], Path], data_dir: Path,
    in_process: InProcess, plugin: Exec, reference: Exec,
) -> None:  # fmt: skip
    lab.bridge_nf(bridge_nf)
    callers: dict[str, tuple[Caller, Caller]] = {
        "ours": (in_process, in_process),
        "ours by exec": (plugin, plugin),
        "our bridge": (in_process, reference),
        "their bridge": (reference, in_process),
        "theirs": (reference, reference),
    }
    main, mapper = callers[whose]
    pods = Chain(lab.node, conflist(data_dir, Kind("bridge", bridge_nf, hairpin=True)), main, portmap=mapper)
    a, b = make_netns(), make_netns()

    result = pods.add(a, "a", portMappings=BOTH)
    pods.add(b, "b", portMappings=[])

    assert [one["name"] for one in result["interfaces"]][::2] == ["br0", "eth0"]
    assert [ip["address"].partition("/")[0] for ip in result["ips"]] == list(A)
    serve(lab, a, A, "a")
    clients = [
        (lab.outside, NODE4, OUTSIDE4), (lab.outside, NODE6, OUTSIDE6), (lab.node, NODE4, NODE4),
        (b, NODE4, GATEWAY[0]), (lab.node, "127.0.0.1", GATEWAY[0]), (a, GATEWAY[0], GATEWAY[0]),
    ]  # fmt: skip
    for protocol in PROTOCOLS:
        for netns, address, seen in clients:
            heard = lab.ask(netns, protocol, address, 8080)
            assert heard and (heard.server, heard.peer) == ("a", seen), (protocol, address, heard)
    pods.delete("a")
    pods.delete("b")
    for protocol in PROTOCOLS:
        assert lab.ask(lab.outside, protocol, NODE4, 8080, timeout=SILENCE_S) is None


@REFERENCE
@pytest.mark.parametrize(
    "keys",
    [
        {"hostPort": 0, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": -1, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 80, "containerPort": 0, "protocol": "tcp"},
    ],
    ids=str,
)
def test_what_the_reference_refuses_so_do_we_in_its_words(
    keys: dict[str, Any], lab: Lab, netns: Path, data_dir: Path, in_process: InProcess, reference: Exec
) -> None:
    pods = Chain(lab.node, conflist(data_dir), in_process)
    before = pods.add(netns)

    errors = [
        caller("portmap", "ADD", {**pods.plugins[1], "cniVersion": "1.0.0", "name": "lan", "prevResult": before,
                                  "runtimeConfig": {"portMappings": [keys]}}, netns=netns, node=lab.node).error
        for caller in (in_process, reference)
    ]  # fmt: skip

    assert errors[0]["msg"] in errors[1]["msg"] or errors[1]["msg"] in errors[0]["msg"]

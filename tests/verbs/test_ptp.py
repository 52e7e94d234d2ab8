"""ptp: the pod at one end of a wire, the node at the other, and routes on both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cni.attach import making, removing
from tests import namespaces, oracle
from tests.verbs.frames import Tap, router_advertisement
from tests.verbs.networks import Network, addresses, host_local, interface

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.calls import Exec, InProcess, Outcome

DEFAULTS = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
SUBNETS = ("10.1.0.0/24", "fd00:1::/64")


@pytest.fixture
def wire(in_process: InProcess, node: Path, data_dir: Path) -> Network:
    """A network of both families with routes to everywhere."""
    ipam = host_local(data_dir, *SUBNETS, routes=DEFAULTS)
    return Network(in_process, node, {"cniVersion": "1.1.0", "name": "wire", "type": "ptp", "ipam": ipam}, data_dir)


def port(result: dict[str, Any]) -> str:
    return str(result["interfaces"][0]["name"])


def sysctl(netns: Path, path: str, value: str = "") -> str:
    write = f"echo {value} > /proc/sys/{path}; " if value else ""
    return namespaces.shell(netns, f"{write}cat /proc/sys/{path}").strip()


def routes(netns: Path) -> set[tuple[str, str, str, str, str]]:
    """Destination, link, gateway, source and scope."""
    return {(it.dst, it.link, it.gateway, it.src, it.scope) for it in oracle.routes(netns)}


# --- what there is ------------------------------------------------------------------------------------


def test_the_result_names_the_nodes_end_and_the_pods(wire: Network, netns: Path) -> None:
    result = wire.add(netns)

    (host,) = oracle.links(wire.node)
    pod = oracle.link(netns, "eth0")
    assert result == {
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": host.name, "mac": host.mac, "mtu": 1500},
            {"name": "eth0", "mac": pod.mac, "mtu": 1500, "sandbox": str(netns)},
        ],
        "ips": [
            {"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1},
            {"address": "fd00:1::2/64", "gateway": "fd00:1::1", "interface": 1},
        ],
        "routes": DEFAULTS,
    }
    assert host.master == ""
    assert host.alias == "wire/a@eth0@ptp"


def test_in_the_pod_nothing_is_on_the_link_but_the_gateway(wire: Network, netns: Path) -> None:
    wire.add(netns)

    assert [(it.interface, "tentative" in it.flags) for it in oracle.addresses(netns, "eth0")] == [
        ("10.1.0.2/24", False),
        ("fd00:1::2/64", False),
    ]
    assert routes(netns) == {
        ("10.1.0.1/32", "eth0", "", "10.1.0.2", "link"),
        ("10.1.0.0/24", "eth0", "10.1.0.1", "10.1.0.2", "global"),
        ("0.0.0.0/0", "eth0", "10.1.0.1", "", "global"),
        ("fd00:1::1/128", "eth0", "", "fd00:1::2", "global"),
        ("fd00:1::/64", "eth0", "fd00:1::1", "fd00:1::2", "global"),
        ("::/0", "eth0", "fd00:1::1", "", "global"),
    }


def test_the_node_bears_the_gateways_and_routes_to_the_pod(wire: Network, netns: Path) -> None:
    link = port(wire.add(netns))

    assert [it.interface for it in oracle.addresses(wire.node, link)] == ["10.1.0.1/32", "fd00:1::1/128"]
    assert {route for route in routes(wire.node) if route[0] not in ("fd00:1::1/128",)} == {
        ("10.1.0.2/32", link, "", "", "host"),
        ("fd00:1::2/128", link, "", "", "global"),
    }
    assert sysctl(wire.node, "net/ipv4/ip_forward") == sysctl(wire.node, "net/ipv6/conf/all/forwarding") == "1"


def test_all_pods_of_a_node_have_one_gateway(wire: Network, make_netns: Callable[[], Path]) -> None:
    results = [wire.add(make_netns(), name) for name in "ab"]

    assert [addresses(result) for result in results] == [["10.1.0.2", "fd00:1::2"], ["10.1.0.3", "fd00:1::3"]]
    for result in results:
        assert [it.interface for it in oracle.addresses(wire.node, port(result))] == ["10.1.0.1/32", "fd00:1::1/128"]


def test_the_runtimes_mac_and_the_networks_mtu_are_the_pods(wire: Network, netns: Path) -> None:
    result = wire.but(mtu=1400, runtimeConfig={"mac": "02:00:00:00:00:77"}).add(netns)

    assert oracle.link(netns, "eth0").mac == interface(result, "eth0")["mac"] == "02:00:00:00:00:77"
    assert [one["mtu"] for one in result["interfaces"]] == [1400, 1400]
    assert [oracle.link(wire.node, port(result)).mtu, oracle.link(netns, "eth0").mtu] == [1400, 1400]


def test_the_networks_dns_goes_before_ipams(wire: Network, netns: Path) -> None:
    dns = {"nameservers": ["10.1.0.53"], "search": ["lan.example"]}

    assert wire.but(dns=dns).add(netns)["dns"] == dns


@pytest.mark.parametrize(
    ("keys", "msg"),
    [
        ({"ipam": None}, "no plugin name provided"),
        ({"mtu": -1}, "ptp: mtu must be a whole number from 0 to 65535, got -1"),
        ({"ipMasqBackend": "ipvs"}, 'ptp: ipMasqBackend must be "iptables" or "nftables", got "ipvs"'),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    keys: dict[str, Any], msg: str, wire: Network, netns: Path
) -> None:
    error = wire.but(**keys).call("ADD", netns=netns).error

    assert (error["code"], error["msg"]) == (7, msg)
    assert oracle.links(wire.node) == oracle.links(netns) == []
    assert (wire.reserved, wire.records) == ({}, {})


# --- packets ------------------------------------------------------------------------------------------


def retransmitted(netns: Path) -> int:
    heads, counts = (
        line.split() for line in namespaces.shell(netns, "cat /proc/net/snmp").splitlines() if line.startswith("Tcp:")
    )
    return int(dict(zip(heads, counts))["RetransSegs"])


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_no_first_packet_is_lost(family: int, wire: Network, make_netns: Callable[[], Path]) -> None:
    pods: list[tuple[Path, str]] = []
    for number in range(12):
        netns = make_netns()

        result = wire.add(netns, str(number))

        address, gateway = addresses(result)[family], result["ips"][family]["gateway"]
        assert namespaces.tcp(netns, wire.node, gateway) == address
        assert namespaces.tcp(wire.node, netns, address) == gateway
        if pods:
            other, theirs = pods[-1]
            assert namespaces.tcp(netns, other, theirs) == address
        pods.append((netns, address))

    assert [retransmitted(netns) for netns in (wire.node, *[netns for netns, _ in pods])] == [0] * (1 + len(pods))


def test_the_first_packets_need_no_question(wire: Network, netns: Path) -> None:
    link = port(wire.add(netns))

    with Tap(wire.node, link) as of_node, Tap(netns, "eth0") as of_pod:
        for address, gateway in (("10.1.0.2", "10.1.0.1"), ("fd00:1::2", "fd00:1::1")):
            namespaces.tcp(wire.node, netns, address)
            namespaces.tcp(netns, wire.node, gateway)
        seen = [*of_node.seen(), *of_pod.seen()]

    assert seen
    assert [frame for frame in seen if frame.asks_for("10.1.0.1", "10.1.0.2", "fd00:1::1", "fd00:1::2")] == []


def test_no_pod_is_believed_to_be_a_router(wire: Network, netns: Path) -> None:
    # Without forwarding of IPv6, as on a node whose pods have IPv4 only, the kernel would believe it.
    result = wire.but(ipam={"ranges": [[{"subnet": "10.1.0.0/24"}]], "routes": []}).add(netns)
    link, mac = port(result), interface(result, "eth0")["mac"]

    def routes_after_one() -> list[str]:
        with Tap(netns, "eth0") as tap:
            tap.send(router_advertisement(mac, "fe80::bad"))
        namespaces.tcp(netns, wire.node, "10.1.0.1")  # behind which the frame has been dealt with
        return [route.gateway for route in oracle.routes(wire.node) if route.dst == "::/0"]

    assert sysctl(wire.node, f"net/ipv6/conf/{link}/forwarding") == "0"
    assert routes_after_one() == []
    sysctl(wire.node, f"net/ipv6/conf/{link}/accept_ra", "1")
    assert routes_after_one() == ["fe80::bad"]  # so it was a good one


def test_nothing_is_heard_from_a_pod_before_the_node_is_fenced(
    wire: Network, netns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    make_in_pod = making.make_in_pod

    def looked(sandbox: Any, wanted: Any, known: Any) -> Any:
        (host,) = oracle.links(wire.node)
        seen.append((sysctl(wire.node, f"net/ipv6/conf/{host.name}/accept_ra"), oracle.link(netns, "eth0").up))
        return make_in_pod(sandbox, wanted, known)

    monkeypatch.setattr(making, "make_in_pod", looked)

    wire.add(netns)

    assert seen == [("0", False)]


# --- a static address that moves from pod to pod ------------------------------------------------------


@pytest.fixture
def static(wire: Network) -> Network:
    """IPAM keeps no book of who has the addresses."""
    both = [
        {"address": "10.1.0.77/24", "gateway": "10.1.0.1"},
        {"address": "fd00:1::77/64", "gateway": "fd00:1::1"},
    ]
    return replace(wire, config={**wire.config, "cniVersion": "1.0.0", "ipam": {"type": "static", "addresses": both}})


def leads_to(wire: Network, pod: Path) -> bool:
    return [namespaces.tcp(wire.node, pod, address) for address in ("10.1.0.77", "fd00:1::77")] == [
        "10.1.0.1",
        "fd00:1::1",
    ]


@pytest.mark.needs("/usr/lib/cni/static")
@pytest.mark.parametrize("masked", [False, True], ids=["", "masqueraded"])
def test_an_address_leads_to_the_new_pod_though_the_old_ones_end_has_only_begun(
    masked: bool, static: Network, make_netns: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    static = static.but(ipMasq=masked)
    a, b = make_netns(), make_netns()
    static.add(a, "a")
    with monkeypatch.context() as patched:

        def stuck(*_: object) -> None:
            raise OSError(5, "here the power went")

        patched.setattr(removing, "delete_links", stuck)
        assert static.call("DEL", "a", a).code == 1
    assert len(oracle.links(static.node)) == 1

    result = static.add(b, "b")

    assert leads_to(static, b)
    static.delete("a", a)
    assert leads_to(static, b)
    assert static.check(result, b, "b").code == 0


@pytest.mark.needs("/usr/lib/cni/static")
def test_a_masqueraded_pod_that_lives_keeps_its_address(static: Network, make_netns: Callable[[], Path]) -> None:
    static = static.but(ipMasq=True)
    a, b = make_netns(), make_netns()
    static.add(a, "a")

    error = static.call("ADD", "b", b).error

    assert error["code"] == 11
    assert "wire/a@eth0@ptp" in error["msg"]
    assert leads_to(static, a)


@pytest.mark.needs("/usr/lib/cni/static")
def test_check_notices_that_an_address_leads_elsewhere(static: Network, make_netns: Callable[[], Path]) -> None:
    a, b = make_netns(), make_netns()
    first = static.add(a, "a")
    static.add(b, "b")

    error = static.check(first, a, "a").error

    assert f"ip route replace 10.1.0.77/32 dev {port(first)}" in error["msg"]


# --- CHECK --------------------------------------------------------------------------------------------


def test_check_is_content_with_what_was_made(wire: Network, netns: Path) -> None:
    assert wire.check(wire.add(netns), netns).result == {}


DAMAGE = {
    "the node's route": ("node", "ip route del 10.1.0.2", "ip route replace 10.1.0.2/32 dev {port}"),
    "the node's IPv6 route": ("node", "ip -6 route del fd00:1::2", "ip -6 route replace fd00:1::2/128 dev {port}"),
    "the node's address": ("node", "ip addr del 10.1.0.1/32 dev {port}", "ip address add 10.1.0.1/32"),
    "the node's IPv6 address": ("node", "ip addr del fd00:1::1/128 dev {port}", "ip -6 address add fd00:1::1/128"),
    "the fence": ("node", "echo 1 > /proc/sys/net/ipv6/conf/{port}/accept_ra", "net.ipv6.conf.{port}.accept_ra=0"),
    "forwarding": ("node", "echo 0 > /proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward=1"),
    "the node's end": ("node", "ip link set {port} down", "link {port} on the node is down"),
    "the pod's address": ("pod", "ip addr del 10.1.0.2/24 dev eth0", "address 10.1.0.2/24 on eth0"),
    "the gateway": ("pod", "ip route del 10.1.0.1", "ip route add 10.1.0.1/32 dev eth0"),
    "the subnet": ("pod", "ip route del 10.1.0.0/24", "ip route add 10.1.0.0/24 via 10.1.0.1"),
    "another source": (
        "pod",
        "ip addr add 10.1.0.99/32 dev eth0; ip route replace 10.1.0.0/24 via 10.1.0.1 src 10.1.0.99",
        "src 10.1.0.2",
    ),
    "the IPv6 gateway": ("pod", "ip -6 route del fd00:1::1", "ip -6 route add fd00:1::1/128 dev eth0"),
    "the default route": ("pod", "ip route del default", "ip route add default via 10.1.0.1 dev eth0"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_check_names_what_is_missing(case: str, wire: Network, netns: Path) -> None:
    where, damage, told = DAMAGE[case]
    result = wire.add(netns)
    link = port(result)
    namespaces.shell(wire.node if where == "node" else netns, damage.format(port=link))

    error = wire.check(result, netns).error

    assert error["code"] == 103
    assert told.format(port=link) in error["msg"]


# --- DEL and GC ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [False, True], ids=["", "its namespace is gone"])
def test_nothing_is_left_of_a_pod(gone: bool, wire: Network) -> None:
    wire = wire.but(ipMasq=True)
    sysctl(wire.node, "net/ipv4/ip_forward", "1")
    sysctl(wire.node, "net/ipv6/conf/all/forwarding", "1")
    before = oracle.everything(wire.node)
    with namespaces.held() as pod:
        wire.add(pod)
        if not gone:
            wire.delete(netns=pod)
            assert oracle.links(pod) == []
    wire.delete()
    wire.delete()

    assert oracle.everything(wire.node) == before
    assert (wire.reserved, wire.records) == ({}, {})


def test_a_failed_add_leaves_nothing(wire: Network, netns: Path) -> None:
    namespaces.shell(netns, "ip link add eth0 type bridge")

    error = wire.but(ipMasq=True).call("ADD", netns=netns).error

    assert error["code"] == 104
    assert oracle.links(wire.node) == []
    assert [link.kind for link in oracle.links(netns)] == ["bridge"]
    assert (wire.reserved, wire.records) == ({}, {})


def test_gc_takes_what_is_not_valid_any_more(wire: Network, make_netns: Callable[[], Path]) -> None:
    wire = wire.but(ipMasq=True)
    a, b = make_netns(), make_netns()
    kept = wire.add(a, "a")
    lost = wire.add(b, "b")

    assert wire.collect(("a", "eth0")).code == 0

    assert [link.name for link in oracle.links(wire.node)] == [port(kept)]
    assert not [route for route in routes(wire.node) if addresses(lost)[0] in route[0]]
    assert "10.1.0.3" not in namespaces.shell(wire.node, "nft list table inet podwire")
    assert set(wire.reserved.values()) == {"a eth0"}
    assert wire.check(kept, a, "a").code == 0


# --- beside the reference -----------------------------------------------------------------------------


@pytest.mark.needs("/usr/lib/cni/ptp", "/usr/lib/cni/host-local")
@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_pod_and_node_are_as_the_references(
    version: str, wire: Network, reference: Exec, make_netns: Callable[[], Path]
) -> None:
    wire = wire.but(cniVersion=version)
    theirs = replace(wire, plugin=reference)
    ours_a, theirs_a = make_netns(), make_netns()

    first = wire.add(ours_a)
    mine = seen(wire.node, ours_a, port(first))
    wire.delete(netns=ours_a)
    for claim in wire.data_dir.glob("wire/last_reserved_ip.*"):
        claim.unlink()  # so that the reference gives the same address
    second = theirs.add(theirs_a)

    assert seen(wire.node, theirs_a, port(second)) == mine
    theirs.delete(netns=theirs_a)


def seen(node: Path, pod: Path, link: str) -> set[tuple[str, ...]]:
    """Addresses and routes of both sides, with the node's end called `port`."""
    found: set[tuple[str, ...]] = set()
    for where, netns in (("node", node), ("pod", pod)):
        for it in oracle.routes(netns):
            found.add((where, it.dst, it.link.replace(link, "port"), it.gateway, it.src, it.scope, str(it.priority)))
        for name in (link, "eth0"):
            if name in [one.name for one in oracle.links(netns)]:
                found |= {(where, one.interface, one.scope) for one in oracle.addresses(netns, name)}
    return found


@pytest.mark.needs("/usr/lib/cni/ptp", "/usr/lib/cni/host-local")
def test_a_pod_of_the_references_is_detached_by_ours(wire: Network, reference: Exec) -> None:
    wire = wire.but(cniVersion="1.0.0")
    theirs = replace(wire, plugin=reference)
    with namespaces.held() as pod:
        result = theirs.add(pod)
        assert namespaces.tcp(wire.node, pod, addresses(result)[0])

        wire.but(prevResult=result).delete(netns=pod)

        assert oracle.links(pod) == oracle.links(wire.node) == []
    assert wire.reserved == {}


def test_the_executable_does_it_too(wire: Network, plugin: Exec, make_netns: Callable[[], Path]) -> None:
    a, b = make_netns(), make_netns()
    wire = replace(wire, plugin=plugin).but(ipMasq=True)

    first, second = wire.add(a, "a"), wire.add(b, "b")

    assert namespaces.tcp(a, b, addresses(second)[1]) == addresses(first)[1]
    assert outcome_of(wire.check(first, a, "a")) == outcome_of(wire.check(second, b, "b")) == (0, b"", "")
    wire.delete("a", a)
    wire.delete("b")
    assert oracle.links(wire.node) == []
    assert (wire.reserved, wire.records) == ({}, {})


def outcome_of(outcome: Outcome) -> tuple[int, bytes, str]:
    return outcome.code, outcome.stdout, outcome.stderr

"""podwire: one configuration, one call, one record, and a pod that has all of a Kubernetes node's network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces, oracle
from tests.verbs.lab import AT_ONCE_S, FAR4, FAR6, NODE4, NODE6, OUTSIDE4, SILENCE_S, Lab
from tests.verbs.networks import Network, addresses, host_local, interface, port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.calls import InProcess

BRIDGE = "podwire0"
PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}


@pytest.fixture
def pods(in_process: InProcess, node: Path, data_dir: Path) -> Network:
    """A network of both families with everything left to the defaults."""
    config = {
        "cniVersion": "1.1.0",
        "name": "pods",
        "type": "podwire",
        "ipam": host_local(data_dir, "10.244.0.0/24", "fd00:244::/64"),
    }
    return Network(in_process, node, config, data_dir)


@pytest.fixture(params=[False, True], ids=["bridge-nf off", "bridge-nf on"])
def filtered(lab: Lab, request: pytest.FixtureRequest) -> Lab:
    """The lab, with and without br_netfilter."""
    lab.bridge_nf(request.param)
    return lab


def test_an_ipam_with_a_subnet_is_enough(in_process: InProcess, node: Path, netns: Path, run_dir: Path) -> None:
    config = {
        "cniVersion": "1.0.0",
        "name": "pods",
        "type": "podwire",
        "ipam": {"type": "host-local", "subnet": "10.244.0.0/24"},
    }
    network = Network(in_process, node, config, run_dir / "addresses")

    result = network.add(netns)

    assert [one["name"] for one in result["interfaces"]][0::2] == [BRIDGE, "eth0"]
    assert addresses(result) == ["10.244.0.2"]
    assert network.reserved == {"10.244.0.2": "a eth0"}

    network.delete(netns=netns)

    assert network.reserved == {}
    assert [link.name for link in oracle.links(node)] == [BRIDGE]


def test_pods_reach_each_other_their_gateway_and_the_world(
    pods: Network, filtered: Lab, make_netns: Callable[[], Path]
) -> None:
    lab, a, b = filtered, make_netns(), make_netns()
    first, second = pods.add(a, "a"), pods.add(b, "b")

    for n, (far, node, everywhere) in enumerate(((FAR4, NODE4, "0.0.0.0"), (FAR6, NODE6, "::"))):
        lab.serve(b, "tcp", everywhere, 80, "b")
        lab.serve(lab.node, "tcp", everywhere, 81, "node")
        lab.serve(lab.outside, "tcp", far, 82, "outside")
        gateway = first["ips"][n]["gateway"]

        pod = lab.ask(a, "tcp", addresses(second)[n], 80, timeout=AT_ONCE_S)
        up = lab.ask(a, "tcp", gateway, 81, timeout=AT_ONCE_S)
        out = lab.ask(a, "tcp", far, 82, timeout=AT_ONCE_S)

        assert pod and (pod.server, pod.peer) == ("b", addresses(first)[n])
        assert up and (up.server, up.peer) == ("node", addresses(first)[n])
        assert out and (out.server, out.peer) == ("outside", node)


def test_between_pods_of_a_node_every_packet_passes_the_forward_hook(
    pods: Network, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    lab.bridge_nf(False)
    a, b = make_netns(), make_netns()
    pods.add(a, "a")
    second = pods.add(b, "b")
    lab.serve(b, "tcp", "0.0.0.0", 80, "b")
    lab.serve(b, "tcp", "::", 80, "b")
    lab.nft(
        "table inet test {\n chain forwarded {\n type filter hook forward priority 0;\n"
        f' iifname "{BRIDGE}" drop\n }}\n}}\n'
    )

    assert [lab.ask(a, "tcp", one, 80, timeout=SILENCE_S) for one in addresses(second)] == [None, None]

    lab.nft("delete table inet test")

    assert all(lab.ask(a, "tcp", one, 80) for one in addresses(second))


def test_a_pod_that_goes_by_a_neighbours_mac_does_not_reach_it(
    pods: Network, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    lab.bridge_nf(False)
    a, b = make_netns(), make_netns()
    pods.but(ipspoofchk=False, macspoofchk=False).add(a, "a")
    second = pods.add(b, "b")
    lab.serve(b, "tcp", "0.0.0.0", 80, "b")
    there, mac = addresses(second)[0], interface(second, "eth0")["mac"]
    namespaces.shell(a, f"ip route add {there}/32 dev eth0; ip neighbour add {there} lladdr {mac} dev eth0")

    assert lab.ask(a, "tcp", there, 80, timeout=SILENCE_S) is None

    namespaces.shell(a, f"ip neighbour del {there} dev eth0")  # so it asks for it, and everybody is asked

    assert lab.ask(a, "tcp", there, 80, timeout=SILENCE_S) is None


def test_no_redirect_tells_a_pod_of_a_shorter_way(pods: Network, lab: Lab, make_netns: Callable[[], Path]) -> None:
    a, b = make_netns(), make_netns()
    pods.add(a, "a")
    second = pods.add(b, "b")
    namespaces.shell(
        a,
        "nft 'table inet test { counter redirects { }; chain in { type filter hook input priority 0;"
        " icmp type redirect counter name redirects; icmpv6 type nd-redirect counter name redirects; }; }'",
    )
    for everywhere in ("0.0.0.0", "::"):
        lab.serve(b, "udp", everywhere, 80, "b")
    for address in addresses(second):
        lab.serve(b, "tcp", address, 81, "b")

        assert all(lab.ask(a, "tcp", address, 81) for _ in range(5))

    told = namespaces.shell(a, "nft list counter inet test redirects")

    assert "packets 0 bytes 0" in told


def test_what_the_masquerade_exempts_keeps_its_source(pods: Network, lab: Lab, netns: Path) -> None:
    result = pods.but(nonMasqueradeCIDRs=["192.0.2.0/24", "2001:db8::/32"]).add(netns)
    lab.route_back("10.244.0.0/24", "fd00:244::/64")
    for far in (FAR4, FAR6, OUTSIDE4):
        lab.serve(lab.outside, "tcp", far, 80, "outside")

    heard = [lab.ask(netns, "tcp", far, 80) for far in (FAR4, FAR6, OUTSIDE4)]

    assert [one and one.peer for one in heard] == [*addresses(result), NODE4]


def test_a_pod_whose_network_is_not_masqueraded_keeps_its_source(pods: Network, lab: Lab, netns: Path) -> None:
    result = pods.but(masquerade=False).add(netns)
    lab.route_back("10.244.0.0/24", "fd00:244::/64")
    lab.serve(lab.outside, "tcp", FAR4, 80, "outside")

    heard = lab.ask(netns, "tcp", FAR4, 80)

    assert heard and heard.peer == addresses(result)[0]


def service(protocol: str, address: str, port: int, endpoint: str) -> str:
    """A service with one endpoint, in the shape that kube-proxy's nftables mode gives it."""
    return f"""
table ip kube-proxy {{
	map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{
		{address} . {protocol} . {port} : goto service }} }}
	chain mark-for-masquerade {{ meta mark set mark or 0x4000; }}
	chain service {{ numgen random mod 1 vmap {{ 0 : goto endpoint }}; }}
	chain endpoint {{
		ip saddr {endpoint.partition(":")[0]} jump mark-for-masquerade
		meta l4proto {protocol} dnat to {endpoint}
	}}
	chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}
	chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
	chain nat-output {{ type nat hook output priority -100; jump services; }}
	chain nat-postrouting {{
		type nat hook postrouting priority srcnat
		meta mark & 0x4000 == 0 return
		meta mark set mark xor 0x4000
		masquerade fully-random
	}}
}}
"""


def test_a_service_leads_to_a_pod_of_the_same_node_and_to_the_client_itself(
    pods: Network, filtered: Lab, make_netns: Callable[[], Path]
) -> None:
    lab, a, b = filtered, make_netns(), make_netns()
    first, second = pods.add(a, "a"), pods.add(b, "b")
    lab.serve(b, "tcp", "0.0.0.0", 80, "b")
    lab.nft(service("tcp", "10.96.0.1", 443, f"{addresses(second)[0]}:80"))

    other = lab.ask(a, "tcp", "10.96.0.1", 443)
    itself = lab.ask(b, "tcp", "10.96.0.1", 443)

    assert other and (other.server, other.peer) == ("b", addresses(first)[0])
    assert itself and itself.server == "b"


def test_host_ports_lead_to_the_pod_from_everywhere(
    pods: Network, filtered: Lab, make_netns: Callable[[], Path]
) -> None:
    lab, a, b = filtered, make_netns(), make_netns()
    pods.but(runtimeConfig=PORTS).add(a, "a")
    pods.add(b, "b")
    lab.serve(a, "tcp", "0.0.0.0", 80, "a")
    lab.serve(a, "tcp", "::", 80, "a")

    askers = [
        *((netns, node) for netns in (lab.outside, lab.node, a, b) for node in (NODE4, NODE6)),
        (lab.node, "127.0.0.1"),
    ]
    heard = {f"{netns} {node}": lab.ask(netns, "tcp", node, 8080) for netns, node in askers}

    assert [one and one.server for one in heard.values()] == ["a"] * len(askers), heard


def test_everything_goes_in_one_call(pods: Network, lab: Lab, netns: Path) -> None:
    told: dict[str, Any] = {
        "runtimeConfig": {
            **PORTS,
            "bandwidth": {"ingressRate": 10_000_000, "egressRate": 10_000_000},
            "mac": "02:00:5e:00:53:01",
            "ips": ["10.244.0.77", "fd00:244::77"],
            "dns": {"servers": ["10.96.0.10"], "searches": ["default.svc.cluster.local"], "options": ["ndots:5"]},
        },
        "sysctl": {"net.core.somaxconn": "77"},
        "openForward": True,
        "ingressPolicy": "same-bridge",
    }
    network = pods.but(**told)

    result = network.add(netns)

    assert addresses(result) == ["10.244.0.77", "fd00:244::77"]
    assert result["interfaces"][2]["mac"] == "02:00:5e:00:53:01"
    assert result["dns"] == {
        "nameservers": ["10.96.0.10"], "search": ["default.svc.cluster.local"], "options": ["ndots:5"],
    }  # fmt: skip
    assert namespaces.shell(netns, "cat /proc/sys/net/core/somaxconn").strip() == "77"
    assert "tbf" in namespaces.shell(lab.node, f"tc qdisc show dev {port(result)}")
    assert list(network.records) == ["a@eth0@podwire.json"]
    assert network.check(result, netns).code == 0, network.check(result, netns)

    # Without anything but the container's ID.
    pods.delete()

    assert namespaces.shell(netns, "cat /proc/sys/net/core/somaxconn").strip() != "77"
    assert lab.elements() == {}
    assert (network.records, network.reserved, list(network.plugin.run_dir.glob("claims/*"))) == ({}, {}, [])
    assert {link.name for link in oracle.links(lab.node)} == {BRIDGE, "up0"}

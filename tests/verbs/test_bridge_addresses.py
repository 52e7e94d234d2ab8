"""bridge: addresses, gateways and routes, and that packets follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces, oracle
from tests.conftest import REFERENCE_PLUGINS
from tests.verbs.networks import Network, addresses, port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FAMILIES = {
    "IPv4": ["10.1.0.0/24"],
    "IPv6": ["fd00:1::/64"],
    "dual stack": ["10.1.0.0/24", "fd00:1::/64"],
    "IPv6 first": ["fd00:1::/64", "10.1.0.0/24"],
    "several of each": ["10.1.0.0/24", "fd00:1::/64", "10.2.0.0/24", "fd00:2::/64", "10.3.0.0/24"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_pods_and_their_node_reach_each_other(
    family: str, network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    lan = network(*FAMILIES[family], isGateway=True)
    a, b = make_netns(), make_netns()

    of_a, of_b = (addresses(lan.add(netns, pod)) for netns, pod in ((a, "a"), (b, "b")))

    assert len(of_a) == len(FAMILIES[family])
    for mine, theirs in zip(of_a, of_b):
        assert namespaces.tcp(a, b, theirs) == mine
        assert namespaces.tcp(b, a, mine) == theirs
        gateway = mine.removesuffix("2") + "1"
        assert namespaces.tcp(lan.node, a, mine) == gateway
        assert namespaces.tcp(a, lan.node, gateway) == mine


@pytest.mark.parametrize("where", [["all"], ["default"], ["all", "default"], ["all", "default", "lo"]], ids=str)
def test_ipv6_works_where_the_pods_namespace_has_it_switched_off(
    where: list[str], network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    lan = network("10.1.0.0/24", "fd00:1::/64", isGateway=True)
    a, b = make_netns(), make_netns()
    for scope in where:
        namespaces.shell(a, f"echo 1 > /proc/sys/net/ipv6/conf/{scope}/disable_ipv6")

    result = lan.add(a, "a")
    lan.add(b, "b")

    assert namespaces.tcp(a, b, "fd00:1::3") == "fd00:1::2"
    assert namespaces.tcp(lan.node, a, "fd00:1::2") == "fd00:1::1"
    namespaces.lo_up(a)
    assert namespaces.tcp(a, a, "fd00:1::2") == "fd00:1::2"  # which goes over lo
    assert lan.check(result, a, "a").code == 0


def test_an_ipv4_pod_leaves_ipv6_switched_off(network: Callable[..., Network], netns: Path) -> None:
    namespaces.shell(netns, "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")

    network("10.1.0.0/24", isDefaultGateway=True).add(netns)

    assert namespaces.shell(netns, "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6") == "1\n"


def test_an_address_is_usable_at_once_and_for_good(lan: Network, netns: Path) -> None:
    lan.add(netns)

    assert {one.interface: set(one.flags) for one in oracle.addresses(netns, "eth0")} == {
        "10.1.0.2/24": {"permanent"},
        "fd00:1::2/64": {"permanent", "nodad"},
    }


def test_an_ipv4_address_has_its_subnets_broadcast_address(lan: Network, netns: Path) -> None:
    lan.add(netns)

    assert "inet 10.1.0.2/24 brd 10.1.0.255 scope global eth0" in namespaces.shell(netns, "ip -4 address show eth0")


# --- without addresses ------------------------------------------------------------------------------


def test_without_ipam_a_pod_is_a_port_of_a_switch(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    lan = network()
    pods = {"a": make_netns(), "b": make_netns()}

    for pod, netns in pods.items():
        result = lan.add(netns, pod)
        assert not {"ips", "routes", "dns"} & set(result)
        assert oracle.addresses(netns, "eth0") == []
        assert lan.check(result, netns, pod).code == 0

    assert oracle.addresses(lan.node, "br0") == []
    for number, netns in enumerate(pods.values(), 1):
        namespaces.shell(netns, f"ip address add 192.168.7.{number}/24 dev eth0")
    assert namespaces.tcp(pods["a"], pods["b"], "192.168.7.2") == "192.168.7.1"


def test_an_interface_can_be_left_down(network: Callable[..., Network], netns: Path) -> None:
    lan = network(disableContainerInterface=True)

    result = lan.add(netns)

    assert not oracle.link(netns, "eth0").up
    assert oracle.link(lan.node, port(result)).up
    assert lan.check(result, netns).code == 0


# --- gateways ---------------------------------------------------------------------------------------


def forwarding(node: Path) -> tuple[str, str]:
    told = namespaces.shell(node, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding")
    v4, v6 = told.split()
    return v4, v6


def test_without_isgateway_the_node_is_no_host_of_the_network(network: Callable[..., Network], netns: Path) -> None:
    lan = network("10.1.0.0/24", "fd00:1::/64")

    result = lan.add(netns)

    assert oracle.addresses(lan.node, "br0") == []
    assert forwarding(lan.node) == ("0", "0")
    assert oracle.neighbours(lan.node) == oracle.neighbours(netns) == []
    assert [ip["gateway"] for ip in result["ips"]] == ["10.1.0.1", "fd00:1::1"]
    assert "routes" not in result


def test_a_gateway_has_the_addresses_and_forwards_both_families(network: Callable[..., Network], netns: Path) -> None:
    lan = network("10.1.0.0/24", "fd00:1::/64", isGateway=True)

    result = lan.add(netns)

    assert [one.interface for one in oracle.addresses(lan.node, "br0")] == ["10.1.0.1/24", "fd00:1::1/64"]
    assert forwarding(lan.node) == ("1", "1")
    assert "routes" not in result
    assert not [route for route in oracle.routes(netns) if route.gateway]


@pytest.mark.parametrize(("subnet", "forwards"), [("10.1.0.0/24", ("1", "0")), ("fd00:1::/64", ("0", "1"))])
def test_a_gateway_forwards_no_family_that_it_does_not_serve(
    subnet: str, forwards: tuple[str, str], network: Callable[..., Network], netns: Path
) -> None:
    lan = network(subnet, isGateway=True)

    lan.add(netns)

    assert forwarding(lan.node) == forwards


def test_pods_of_two_networks_reach_each_other_by_their_default_gateway(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    lan = network("10.1.0.0/24", "fd00:1::/64", isDefaultGateway=True)
    wan = network("10.2.0.0/24", "fd00:2::/64", isDefaultGateway=True, name="wan", bridge="br1")
    a, b = make_netns(), make_netns()

    result = lan.add(a, "a")
    wan.add(b, "b")

    assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "::/0", "gw": "fd00:1::1"}]
    assert namespaces.tcp(a, b, "10.2.0.2") == "10.1.0.2"
    assert namespaces.tcp(a, b, "fd00:2::2") == "fd00:1::2"


def test_a_pod_may_have_a_default_route_over_each_of_two_networks(network: Callable[..., Network], netns: Path) -> None:
    lan = network("10.1.0.0/24", "fd00:1::/64", isDefaultGateway=True)
    wan = network("10.2.0.0/24", "fd00:2::/64", isDefaultGateway=True, name="wan", bridge="br1")

    first = lan.add(netns)
    second = wan.add(netns, ifname="net1")

    assert [(it.dst, it.gateway) for it in oracle.routes(netns) if it.dst == "0.0.0.0/0"] == [("0.0.0.0/0", "10.1.0.1")]
    assert lan.check(first, netns).code == 0
    assert wan.check(second, netns, ifname="net1").code == 0


@pytest.mark.needs(f"{REFERENCE_PLUGINS}/static")
def test_a_gateway_that_ipam_does_not_name_is_the_first_address_of_the_subnet(
    network: Callable[..., Network], netns: Path
) -> None:
    told = [{"address": "10.1.2.77/22"}, {"address": "fd00:1::77/64"}]
    lan = network(cniVersion="1.0.0", isDefaultGateway=True, ipam={"type": "static", "addresses": told})

    result = lan.add(netns)

    assert [(ip["address"], ip["gateway"]) for ip in result["ips"]] == [
        ("10.1.2.77/22", "10.1.0.1"),
        ("fd00:1::77/64", "fd00:1::1"),
    ]
    assert [one.interface for one in oracle.addresses(lan.node, "br0")] == ["10.1.0.1/22", "fd00:1::1/64"]
    assert namespaces.tcp(lan.node, netns, "10.1.2.77") == "10.1.0.1"
    assert namespaces.tcp(lan.node, netns, "fd00:1::77") == "fd00:1::1"


def test_a_gateway_elsewhere_in_the_subnet_is_ipams_to_choose(network: Callable[..., Network], netns: Path) -> None:
    ranges = [[{"subnet": "10.1.0.0/24", "gateway": "10.1.0.254"}]]
    lan = network("10.1.0.0/24", isDefaultGateway=True).but(ipam={"ranges": ranges})

    lan.add(netns)

    assert [one.interface for one in oracle.addresses(lan.node, "br0")] == ["10.1.0.254/24"]
    assert namespaces.tcp(netns, lan.node, "10.1.0.254") == "10.1.0.1"


# --- routes -----------------------------------------------------------------------------------------


def routed(network: Callable[..., Network], *routes: dict[str, Any]) -> Network:
    return network("10.1.0.0/24", "fd00:1::/64", isGateway=True).but(ipam={"routes": routes})


def test_ipams_routes_go_by_their_own_gateway_or_else_by_the_subnets(
    network: Callable[..., Network], netns: Path
) -> None:
    told = [{"dst": "10.9.0.0/16"}, {"dst": "10.8.0.0/16", "gw": "10.1.0.7"}, {"dst": "fd09::/16"}]

    result = routed(network, *told).add(netns)

    assert result["routes"] == told
    found = {(it.dst, it.gateway, it.link, it.table) for it in oracle.routes(netns) if it.gateway}
    assert found == {
        ("10.9.0.0/16", "10.1.0.1", "eth0", 254),
        ("10.8.0.0/16", "10.1.0.7", "eth0", 254),
        ("fd09::/16", "fd00:1::1", "eth0", 254),
    }


@pytest.mark.parametrize(("dst", "gateway"), [("10.9.0.0/16", "10.1.0.1"), ("fd09::/16", "fd00:1::1")])
def test_a_routes_metrics_and_table_are_the_kernels(
    dst: str, gateway: str, network: Callable[..., Network], netns: Path
) -> None:
    told = {"dst": dst, "mtu": 1400, "advmss": 1300, "priority": 50, "table": 1000}
    lan = routed(network, told)

    result = lan.add(netns)

    assert result["routes"] == [told]
    [found] = [it for it in oracle.routes(netns, table=1000) if it.dst == dst]
    assert (found.gateway, found.mtu, found.advmss, found.priority) == (gateway, 1400, 1300, 50)
    assert lan.check(result, netns).code == 0


def test_a_route_of_link_scope_needs_no_gateway(network: Callable[..., Network], netns: Path) -> None:
    lan = routed(network, {"dst": "10.9.0.0/16", "scope": 253})

    result = lan.add(netns)

    [found] = [it for it in oracle.routes(netns) if it.dst == "10.9.0.0/16"]
    assert (found.gateway, found.scope) == ("", "link")
    assert lan.check(result, netns).code == 0


def test_a_route_that_is_told_twice_or_that_the_address_brought_along_is_no_error(
    network: Callable[..., Network], netns: Path
) -> None:
    told = [
        {"dst": "10.9.0.0/16"},
        {"dst": "10.9.0.0/16", "gw": "10.1.0.7"},
        {"dst": "10.1.0.0/24", "gw": "10.1.0.1"},
        {"dst": "fd00:1::/64"},
    ]
    lan = routed(network, *told)

    result = lan.add(netns)

    assert result["routes"] == told
    assert [it.gateway for it in oracle.routes(netns) if it.dst == "10.9.0.0/16"] == ["10.1.0.1"]
    assert [it.gateway for it in oracle.routes(netns) if it.dst == "10.1.0.0/24"] == [""]
    assert lan.check(result, netns).code == 0


def test_a_default_route_of_ipams_is_not_doubled(network: Callable[..., Network], netns: Path) -> None:
    lan = routed(network, {"dst": "0.0.0.0/0", "gw": "10.1.0.7"}).but(isDefaultGateway=True)

    result = lan.add(netns)

    assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.1.0.7"}, {"dst": "::/0", "gw": "fd00:1::1"}]
    assert [it.gateway for it in oracle.routes(netns) if it.dst == "0.0.0.0/0"] == ["10.1.0.7"]


@pytest.mark.parametrize(
    "told", [{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}, {"dst": "fd09::/16", "gw": "fd77::1"}], ids=str
)
def test_a_route_that_the_kernel_refuses_fails_the_attachment_and_leaves_nothing(
    told: dict[str, str], network: Callable[..., Network], netns: Path
) -> None:
    lan = routed(network, told)

    error = lan.call("ADD", netns=netns).error

    assert error["code"] == 100
    assert f"route add {told['dst']} via {told['gw']} dev eth0" in error["msg"]
    assert oracle.links(netns) == []
    assert [link.name for link in oracle.links(lan.node)] == ["br0"]
    assert oracle.neighbours(lan.node) == []
    assert (lan.reserved, lan.records) == ({}, {})


# --- the rest of the result -------------------------------------------------------------------------

DNS = {"nameservers": ["10.1.0.53"], "search": ["lan.example"]}


def test_dns_of_the_configuration_overrides_ipams(
    network: Callable[..., Network], make_netns: Callable[[], Path], tmp_path: Path
) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 192.0.2.53\noptions ndots:5\n")
    lan = network("10.1.0.0/24").but(ipam={"resolvConf": str(resolv_conf)})

    assert lan.add(make_netns(), "a")["dns"] == {"nameservers": ["192.0.2.53"], "options": ["ndots:5"]}
    assert lan.but(dns=DNS).add(make_netns(), "b")["dns"] == DNS
    assert lan.but(dns={"nameservers": []}).add(make_netns(), "c")["dns"]["nameservers"] == ["192.0.2.53"]


def test_a_previous_result_is_passed_on_with_ours_behind_it(network: Callable[..., Network], netns: Path) -> None:
    before: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "tap0", "mac": "02:00:00:00:00:77"}, {"name": "net0", "sandbox": "/run/netns/x"}],
        "ips": [{"address": "192.0.2.7/24", "interface": 1, "gateway": "192.0.2.1"}],
        "routes": [{"dst": "198.51.100.0/24", "gw": "192.0.2.1"}],
        "dns": DNS,
    }
    lan = network("10.1.0.0/24", isDefaultGateway=True, prevResult=before)

    result = lan.add(netns)

    assert result["interfaces"][:2] == before["interfaces"]
    assert [one["name"] for one in result["interfaces"]] == [
        "tap0",
        "net0",
        "br0",
        result["interfaces"][3]["name"],
        "eth0",
    ]
    assert result["ips"] == [
        before["ips"][0],
        {"address": "10.1.0.2/24", "interface": 4, "gateway": "10.1.0.1"},
    ]
    assert result["routes"] == [*before["routes"], {"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]
    assert result["dns"] == DNS
    assert lan.check(result, netns).code == 0

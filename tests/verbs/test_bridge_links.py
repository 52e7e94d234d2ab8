"""bridge: the links that it makes: their names, MACs and MTUs, and what kind of port a pod is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import namespaces, oracle
from tests.verbs.frames import BROADCAST, ETH_P_TEST, Frame, Tap
from tests.verbs.networks import Network, interface, port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAC = "02:00:00:00:00:aa"


# --- names ------------------------------------------------------------------------------------------


def test_a_ports_name_is_the_same_each_time_and_its_alias_says_whose_it_is(
    lan: Network, make_netns: Callable[[], Path]
) -> None:
    a, again = make_netns(), make_netns()

    first = port(lan.add(a))
    alias = oracle.link(lan.node, first).alias
    lan.delete(netns=a)
    second = port(lan.add(again))

    assert first == second
    assert (first[:2], len(first)) == ("pw", 15)
    assert alias == "lan/a@eth0@bridge"


def test_every_attachment_has_a_port_of_its_own(network: Callable[..., Network], netns: Path) -> None:
    lan, wan = network(), network(name="wan")

    names = {
        port(lan.add(netns)),
        port(lan.add(netns, ifname="net1")),
        port(wan.add(netns, ifname="net2")),
        port(wan.add(netns, "b", ifname="net3")),
    }

    assert len(names) == 4
    assert [link.name for link in oracle.links(netns)] == ["eth0", "net1", "net2", "net3"]


def test_one_of_a_pods_two_interfaces_goes_and_the_other_stays(lan: Network, netns: Path) -> None:
    first = lan.add(netns)
    lan.add(netns, ifname="net1")

    lan.delete(netns=netns, ifname="net1")

    assert [link.name for link in oracle.links(netns)] == ["eth0"]
    assert lan.check(first, netns).code == 0
    assert set(lan.reserved.values()) == {"a eth0"}


@pytest.mark.parametrize("name", ["all", "default"])
def test_a_name_that_stands_for_all_interfaces_is_refused_by_the_kernel(
    name: str, network: Callable[..., Network], netns: Path
) -> None:
    # In /proc/sys it would lead to settings of all the others.
    lan = network("10.1.0.0/24", isGateway=True)

    as_the_pods, as_the_bridges = (
        lan.call("ADD", netns=netns, ifname=name),
        lan.but(bridge=name).call("ADD", netns=netns),
    )

    assert as_the_pods.error["code"] == as_the_bridges.error["code"] == 100
    assert namespaces.shell(lan.node, f"cat /proc/sys/net/ipv6/conf/{name}/accept_ra") == "1\n"
    assert (lan.reserved, lan.records) == ({}, {})


def test_an_alias_is_cut_where_the_kernel_would_refuse_it(network: Callable[..., Network], netns: Path) -> None:
    lan = network(name="n" * 100)
    pod = "a" * 200

    result = lan.add(netns, pod)

    alias = oracle.link(lan.node, port(result)).alias
    assert alias == f"{'n' * 100}/{pod}@eth0@bridge"[:255]
    lan.delete(pod, netns)
    assert [link.name for link in oracle.links(lan.node)] == ["br0"]


@pytest.mark.parametrize("ifname", ["a", "fifteen-letters", "eth0.100", "größe", "-x", "*", "lo0"])
def test_an_interface_is_called_as_the_runtime_says(ifname: str, lan: Network, netns: Path) -> None:
    result = lan.add(netns, ifname=ifname)

    assert [link.name for link in oracle.links(netns)] == [ifname]
    assert lan.check(result, netns, ifname=ifname).code == 0
    lan.delete(netns=netns, ifname=ifname)
    assert oracle.links(netns) == []


# --- MACs -------------------------------------------------------------------------------------------


def test_macs_are_chosen_by_us_and_differ(lan: Network, make_netns: Callable[[], Path]) -> None:
    results = {pod: lan.add(make_netns(), pod) for pod in "ab"}

    macs = [one["mac"] for result in results.values() for one in result["interfaces"]]
    assert len(set(macs)) == 5  # the bridge's twice
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)  # unicast, locally administered
    for result in results.values():
        assert oracle.link(lan.node, "br0").mac == interface(result, "br0")["mac"]
        assert oracle.link(lan.node, port(result)).mac == interface(result, port(result))["mac"]


def test_a_mac_that_is_asked_for_is_the_pods(lan: Network, make_netns: Callable[[], Path]) -> None:
    by_runtime = {"runtimeConfig": {"mac": "02:00:00:00:00:AA"}}
    by_network = {"args": {"cni": {"mac": "02:00:00:00:00:bb"}}}
    by_environment = "MAC=02:00:00:00:00:cc"
    a, b, c = make_netns(), make_netns(), make_netns()

    results = [
        lan.but(**by_runtime, **by_network).add(a, "a", args=by_environment),
        lan.but(**by_network).add(b, "b", args=by_environment),
        lan.add(c, "c", args=by_environment),
    ]

    assert [oracle.link(netns, "eth0").mac[-2:] for netns in (a, b, c)] == ["aa", "bb", "cc"]
    assert [interface(result, "eth0")["mac"][-2:] for result in results] == ["aa", "bb", "cc"]
    assert namespaces.tcp(a, c, "10.1.0.4") == "10.1.0.2"


@pytest.mark.parametrize("mac", ["01:00:5e:00:00:01", "00:00:00:00:00:00", "02:00:00:00:00", "02-00-00-00-00-01"])
def test_a_mac_that_no_interface_can_have_is_refused(mac: str, lan: Network, netns: Path) -> None:
    outcomes = [
        lan.but(runtimeConfig={"mac": mac}).call("ADD", netns=netns),
        lan.but(args={"cni": {"mac": mac}}).call("ADD", netns=netns),
        lan.call("ADD", netns=netns, args=f"MAC={mac}"),
    ]

    assert [outcome.error["code"] for outcome in outcomes] == [7, 7, 4]
    assert all(mac in outcome.error["msg"] for outcome in outcomes)
    assert oracle.links(netns) == []


def test_a_pod_cannot_have_the_bridges_mac_and_cut_the_node_off(lan: Network, make_netns: Callable[[], Path]) -> None:
    a, b = make_netns(), make_netns()
    mac = interface(lan.add(a, "a"), "br0")["mac"]

    error = lan.but(runtimeConfig={"mac": mac}).call("ADD", "b", b).error

    assert error["code"] == 7
    assert mac in error["msg"]
    assert oracle.links(b) == []
    assert set(lan.reserved.values()) == {"a eth0"}
    assert namespaces.tcp(a, lan.node, "10.1.0.1") == "10.1.0.2"


# --- MTU --------------------------------------------------------------------------------------------


def mtus(network: Network, netns: Path, port_name: str) -> tuple[int, int, int]:
    """Of the bridge, the port and the pod's end."""
    return (
        oracle.link(network.node, "br0").mtu,
        oracle.link(network.node, port_name).mtu,
        oracle.link(netns, "eth0").mtu,
    )


@pytest.mark.parametrize(("configured", "mtu"), [(0, 1500), (1400, 1400), (9000, 9000), (65535, 65535)])
def test_a_new_bridge_and_both_ends_have_the_configured_mtu(
    configured: int, mtu: int, network: Callable[..., Network], netns: Path
) -> None:
    lan = network("10.1.0.0/24", isGateway=True, mtu=configured)

    result = lan.add(netns)

    assert mtus(lan, netns, port(result)) == (mtu, mtu, mtu)
    assert [one["mtu"] for one in result["interfaces"]] == [mtu, mtu, mtu]


def test_large_packets_pass_whole(network: Callable[..., Network], make_netns: Callable[[], Path]) -> None:
    lan = network("10.1.0.0/24", "fd00:1::/64", isGateway=True, mtu=9000)
    a, b = make_netns(), make_netns()
    lan.add(a, "a")
    lan.add(b, "b")

    assert namespaces.tcp(a, b, "10.1.0.3", size=1 << 20) == "10.1.0.2"
    assert namespaces.tcp(lan.node, b, "fd00:1::3", size=1 << 20) == "fd00:1::1"


def test_without_a_configured_mtu_the_bridges_is_inherited(network: Callable[..., Network], netns: Path) -> None:
    lan = network("10.1.0.0/24", isGateway=True)
    namespaces.shell(lan.node, "ip link add br0 mtu 1420 type bridge")

    result = lan.add(netns)

    assert mtus(lan, netns, port(result)) == (1420, 1420, 1420)
    assert [one["mtu"] for one in result["interfaces"]] == [1420, 1420, 1420]


def test_a_bridges_mtu_is_raised_to_the_configured(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    small, large = network("10.1.0.0/24", isGateway=True), network("10.1.0.0/24", isGateway=True, mtu=9000)
    a, b = make_netns(), make_netns()
    first = small.add(a, "a")

    result = large.add(b, "b")

    assert mtus(large, b, port(result)) == (9000, 9000, 9000)
    assert interface(result, "br0")["mtu"] == 9000
    assert mtus(small, a, port(first)) == (9000, 1500, 1500)


def test_a_bridges_mtu_is_not_lowered_to_the_configured(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    lan = network("10.1.0.0/24", isGateway=True, mtu=1400)
    namespaces.shell(lan.node, "ip link add br0 type bridge; ip link set br0 mtu 9000")
    netns = make_netns()

    result = lan.add(netns)

    assert mtus(lan, netns, port(result)) == (9000, 1400, 1400)
    assert [one["mtu"] for one in result["interfaces"]] == [9000, 1400, 1400]


@pytest.mark.parametrize("mtu", [1, 67])
def test_an_mtu_that_the_kernel_refuses_leaves_nothing(mtu: int, network: Callable[..., Network], netns: Path) -> None:
    lan = network("10.1.0.0/24", isGateway=True, mtu=mtu)

    error = lan.call("ADD", netns=netns).error

    assert error["code"] == 100
    assert f"mtu {mtu}" in error["msg"]
    assert oracle.links(netns) == []
    assert (lan.reserved, lan.records) == ({}, {})


def test_an_mtu_that_ipv6_cannot_live_with_is_refused(network: Callable[..., Network], netns: Path) -> None:
    lan = network("10.1.0.0/24", "fd00:1::/64", isGateway=True, mtu=1000)

    error = lan.call("ADD", netns=netns).error

    assert (error["code"], error["msg"]) == (7, "an MTU of 1000 is too small for IPv6, which needs 1280")
    assert oracle.links(lan.node) == []
    assert (lan.reserved, lan.records) == ({}, {})


# --- ports ------------------------------------------------------------------------------------------


def to_itself(mac: str, target: str) -> Frame:
    return Frame(target, mac, ETH_P_TEST, b"to itself".ljust(46, b"\0"))


@pytest.mark.parametrize("hairpin", [True, False])
def test_a_pod_reaches_itself_over_the_bridge_in_hairpin_mode_only(
    hairpin: bool, network: Callable[..., Network], netns: Path
) -> None:
    lan = network("10.1.0.0/24", isGateway=True, hairpinMode=hairpin)
    result = lan.add(netns)
    mac = interface(result, "eth0")["mac"]

    with Tap(netns, "eth0") as tap:
        tap.send(to_itself(mac, mac))
        tap.send(to_itself(mac, BROADCAST))
        back = tap.awaited(ETH_P_TEST, count=2) if hairpin else []
        namespaces.tcp(netns, lan.node, "10.1.0.1")  # behind which nothing comes back any more
        back += [frame for frame in tap.seen() if frame.ethertype == ETH_P_TEST]

    assert sorted(frame.target for frame in back) == (sorted([mac, BROADCAST]) if hairpin else [])
    assert oracle.link(lan.node, port(result)).hairpin is hairpin


def test_isolated_pods_reach_their_gateway_and_not_each_other(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    lan = network("10.1.0.0/24", "fd00:1::/64", isGateway=True, portIsolation=True)
    a, b = make_netns(), make_netns()
    results = [lan.add(a, "a"), lan.add(b, "b")]

    for gateway, pods in (("10.1.0.1", ("10.1.0.2", "10.1.0.3")), ("fd00:1::1", ("fd00:1::2", "fd00:1::3"))):
        assert namespaces.tcp(a, lan.node, gateway) == pods[0]
        assert namespaces.tcp(lan.node, b, pods[1]) == gateway
        with pytest.raises(OSError):  # no answer, or nobody to ask, as time has it
            namespaces.tcp(a, b, pods[1], timeout=0.2)
    assert [oracle.link(lan.node, port(result)).isolated for result in results] == [True, True]


def test_an_isolated_pod_and_one_that_is_not_reach_each_other(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    lan = network("10.1.0.0/24", isGateway=True)
    a, b = make_netns(), make_netns()
    lan.add(a, "a")
    lan.but(portIsolation=True).add(b, "b")

    assert namespaces.tcp(a, b, "10.1.0.3") == "10.1.0.2"
    assert namespaces.tcp(b, a, "10.1.0.2") == "10.1.0.3"


def test_a_frame_that_nobody_asked_for_is_seen_by_all_but_isolated_pods(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    lan = network(portIsolation=True)
    a, b, c = make_netns(), make_netns(), make_netns()
    mac = interface(lan.add(a, "a"), "eth0")["mac"]
    lan.add(b, "b")
    lan.but(portIsolation=None).add(c, "c")

    with Tap(a, "eth0") as of_a, Tap(b, "eth0") as of_b, Tap(c, "eth0") as of_c:
        of_a.send(to_itself(mac, BROADCAST))
        assert [frame.target for frame in of_c.awaited(ETH_P_TEST)] == [BROADCAST]
        assert [frame.target for frame in of_b.seen() if frame.ethertype == ETH_P_TEST] == []

"""bridge: the first packet between a pod and its node arrives, needs no question, and goes on arriving.

What the node and the pod know of each other is told to both beforehand, in a way that doesn't outlive its truth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import namespaces, oracle
from tests.conftest import REFERENCE_PLUGINS
from tests.verbs.frames import Tap
from tests.verbs.networks import Network, addresses, interface, port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NEW_MAC = "02:00:00:00:00:99"


def retransmitted(netns: Path) -> int:
    """TCP segments that had to be sent again in a namespace."""
    heads, counts = (
        line.split() for line in namespaces.shell(netns, "cat /proc/net/snmp").splitlines() if line.startswith("Tcp:")
    )
    return int(dict(zip(heads, counts))["RetransSegs"])


@pytest.mark.parametrize("new", [True, False], ids=["a new bridge each", "one bridge"])
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_no_first_packet_is_lost(
    family: int, new: bool, network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    lan = network("10.1.0.0/24", "fd00:1::/64", isGateway=True)
    pods = []
    for number in range(12):
        if new:
            lan = network(
                f"10.{number}.0.0/24", f"fd00:{number}::/64", isGateway=True, name=f"n{number}", bridge=f"br{number}"
            )
        pods.append(make_netns())

        result = lan.add(pods[-1], str(number))

        namespaces.tcp(lan.node, pods[-1], addresses(result)[family])
        namespaces.tcp(pods[-1], lan.node, result["ips"][family]["gateway"])

    assert [retransmitted(netns) for netns in (lan.node, *pods)] == [0] * (1 + len(pods))


def test_node_and_pod_know_each_other_beforehand_and_not_for_ever(lan: Network, netns: Path) -> None:
    result = lan.add(netns)

    bridge, pod = (interface(result, name)["mac"] for name in ("br0", "eth0"))
    assert {(it.address, it.mac, it.link, it.state) for it in oracle.neighbours(lan.node)} == {
        ("10.1.0.2", pod, "br0", "stale"),
        ("fd00:1::2", pod, "br0", "stale"),
    }
    assert {(it.address, it.mac, it.link, it.state) for it in oracle.neighbours(netns)} == {
        ("10.1.0.1", bridge, "eth0", "stale"),
        ("fd00:1::1", bridge, "eth0", "stale"),
    }


def test_the_bridge_knows_the_pods_port_and_does_not_take_its_mac_for_its_own(lan: Network, netns: Path) -> None:
    result = lan.add(netns)

    pod = interface(result, "eth0")["mac"]
    assert [it for it in oracle.fdb(lan.node, "br0") if it.mac == pod] == [
        oracle.FdbEntry(pod, port(result), "br0", "noarp")
    ]


def test_the_first_packets_need_no_question(lan: Network, netns: Path) -> None:
    lan.add(netns)

    with Tap(lan.node, "br0") as of_node, Tap(netns, "eth0") as of_pod:
        for address, gateway in (("10.1.0.2", "10.1.0.1"), ("fd00:1::2", "fd00:1::1")):
            namespaces.tcp(lan.node, netns, address)
            namespaces.tcp(netns, lan.node, gateway)
        seen = {"10.1.0.2": of_node.seen(), "10.1.0.1": of_pod.seen()}

    asked = [frame for frames in seen.values() for frame in frames if frame.asks_for("10.1.0.1", "10.1.0.2")]
    asked += [frame for frames in seen.values() for frame in frames if frame.asks_for("fd00:1::1", "fd00:1::2")]
    assert asked == []
    assert all(frames for frames in seen.values())  # the taps do see frames


def test_a_network_without_a_gateway_seeds_no_neighbours(network: Callable[..., Network], netns: Path) -> None:
    lan = network("10.1.0.0/24", "fd00:1::/64")

    lan.add(netns)

    assert oracle.neighbours(lan.node) == oracle.neighbours(netns) == []


def test_a_pod_whose_mac_was_changed_is_reached_as_soon_as_it_has_spoken(lan: Network, netns: Path) -> None:
    lan.add(netns)

    # With time between the steps the announcement may be lost: the kernel sends it before the port forwards again.
    namespaces.shell(netns, f"ip link set eth0 down; ip link set eth0 address {NEW_MAC}; ip link set eth0 up")

    for pod, gateway in (("10.1.0.2", "10.1.0.1"), ("fd00:1::2", "fd00:1::1")):
        namespaces.tcp(netns, lan.node, gateway, timeout=5)
        assert namespaces.tcp(lan.node, netns, pod, timeout=0.9) == gateway


@pytest.mark.parametrize(
    "theirs",
    [False, pytest.param(True, marks=pytest.mark.needs(f"{REFERENCE_PLUGINS}/tuning"))],
    ids=["ours", "theirs"],
)
def test_a_pod_whose_mac_a_chained_plugin_changes_is_reached_at_once(
    lan: Network, netns: Path, make_netns: Callable[[], Path], tmp_path: Path, theirs: bool
) -> None:
    lan = lan.but(cniVersion="1.0.0")
    other = make_netns()
    lan.add(other, "other")
    result = lan.add(netns)
    namespaces.tcp(lan.node, netns, "10.1.0.3")
    namespaces.tcp(other, netns, "10.1.0.3")

    tuned = lan.chained("tuning", result, theirs=theirs, mac=NEW_MAC, dataDir=str(tmp_path / "tuning")).add(netns)

    assert interface(tuned, "eth0")["mac"] == NEW_MAC == oracle.link(netns, "eth0").mac
    for client, ours in ((lan.node, ("10.1.0.1", "fd00:1::1")), (other, ("10.1.0.2", "fd00:1::2"))):
        assert namespaces.tcp(client, netns, "10.1.0.3", timeout=0.9) == ours[0]
        assert namespaces.tcp(client, netns, "fd00:1::3", timeout=0.9) == ours[1]


def test_an_address_that_passes_to_another_pod_is_reached_at_once(lan: Network, make_netns: Callable[[], Path]) -> None:
    a, b = make_netns(), make_netns()
    wanted = {"runtimeConfig": {"ips": ["10.1.0.7", "fd00:1::7"]}}
    first = lan.but(**wanted).add(a, "a")
    namespaces.tcp(lan.node, a, "10.1.0.7")

    lan.delete("a", a)
    second = lan.but(**wanted).add(b, "b")

    assert interface(first, "eth0")["mac"] != interface(second, "eth0")["mac"]
    assert namespaces.tcp(lan.node, b, "10.1.0.7", timeout=0.9) == "10.1.0.1"
    assert namespaces.tcp(lan.node, b, "fd00:1::7", timeout=0.9) == "fd00:1::1"


def test_a_late_del_does_not_take_the_neighbours_of_who_has_the_address_now(
    lan: Network, make_netns: Callable[[], Path]
) -> None:
    a, b = make_netns(), make_netns()
    wanted = {"runtimeConfig": {"ips": ["10.1.0.7", "fd00:1::7"]}}
    lan.but(**wanted).add(a, "a")
    for file in (lan.data_dir / "lan").glob("*7"):
        file.unlink()  # as an operator frees an address whose pod seems gone
    second = lan.but(**wanted).add(b, "b")

    lan.delete("a", a)

    mac = interface(second, "eth0")["mac"]
    assert {(it.address, it.mac) for it in oracle.neighbours(lan.node) if it.state == "stale"} == {
        ("10.1.0.7", mac),
        ("fd00:1::7", mac),
    }
    assert lan.reserved == {"10.1.0.7": "b eth0", "fd00:1::7": "b eth0"}


def test_neighbours_go_with_the_pod(lan: Network, netns: Path) -> None:
    lan.add(netns)

    lan.delete(netns=netns)

    assert [it for it in oracle.neighbours(lan.node) if it.mac] == []
    assert [it for it in oracle.fdb(lan.node, "br0") if it.state != "permanent"] == []

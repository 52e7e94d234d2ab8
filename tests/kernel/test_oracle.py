"""The oracle itself, against what `ip` made: a reader that sees nothing would prove everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests import namespaces, oracle

if TYPE_CHECKING:
    from pathlib import Path

MAC = "02:00:00:00:00:02"


def test_a_bridge_and_its_port_are_read_as_ip_made_them(netns: Path) -> None:
    namespaces.shell(netns, "ip link add br0 type bridge; ip link add veth0 type veth peer name veth1")
    namespaces.shell(netns, f"ip link set dev veth0 address {MAC} alias 'a b' master br0 up")
    namespaces.shell(netns, "bridge link set dev veth0 hairpin on isolated on learning off; ip link set br0 mtu 1400")

    assert [link.name for link in oracle.links(netns)] == ["br0", "veth0", "veth1"]
    port = oracle.link(netns, "veth0")
    assert (port.kind, port.mac, port.alias, port.master, port.up) == ("veth", MAC, "a b", "br0", True)
    assert (port.hairpin, port.isolated, port.learning) == (True, True, False)
    assert port.peer_index == oracle.link(netns, "veth1").index
    bridge = oracle.link(netns, "br0")
    assert (bridge.kind, bridge.mtu, bridge.up, bridge.master, bridge.hairpin) == ("bridge", 1400, False, "", None)


def test_addresses_routes_and_neighbours_are_read_as_ip_made_them(netns: Path) -> None:
    namespaces.shell(netns, "ip link add br0 type bridge; ip link set dev br0 up")
    namespaces.shell(netns, "ip addr add 10.0.0.1/24 dev br0; ip addr add fd00::1/64 dev br0 nodad noprefixroute")
    namespaces.shell(netns, "ip route add 10.9.0.0/16 via 10.0.0.2 mtu 1400 advmss 1000 metric 5")
    namespaces.shell(netns, "ip route add default dev br0 scope link table 77")
    namespaces.shell(netns, f"ip neigh add 10.0.0.2 lladdr {MAC} dev br0 nud reachable")

    assert oracle.addresses(netns, "br0") == [
        oracle.Address("10.0.0.1/24", "br0", frozenset({"permanent"}), "global"),
        oracle.Address("fd00::1/64", "br0", frozenset({"permanent", "nodad", "noprefixroute"}), "global"),
    ]
    near, far = oracle.routes(netns)
    assert (near.dst, near.link, near.gateway, near.scope, near.src) == ("10.0.0.0/24", "br0", "", "link", "10.0.0.1")
    assert (far.dst, far.gateway, far.mtu, far.advmss, far.priority) == ("10.9.0.0/16", "10.0.0.2", 1400, 1000, 5)
    assert [route.dst for route in oracle.routes(netns, table=77)] == ["0.0.0.0/0"]
    assert oracle.neighbours(netns) == [oracle.Neighbour("10.0.0.2", MAC, "br0", "reachable")]


def test_a_bridges_table_tells_static_from_its_own(netns: Path) -> None:
    namespaces.shell(netns, "ip link add br0 type bridge; ip link add veth0 type veth peer name veth1")
    namespaces.shell(netns, f"ip link set dev veth0 master br0; bridge fdb add {MAC} dev veth0 master static")

    entries = oracle.fdb(netns, "br0")

    assert oracle.FdbEntry(MAC, "veth0", "br0", "noarp") in entries
    assert oracle.FdbEntry(oracle.link(netns, "veth0").mac, "veth0", "br0", "permanent") in entries


def test_requests_are_encoded_as_the_kernel_wants_them() -> None:
    message = oracle.encode(
        "address", 20, 5, 7, {"family": 2, "prefixlen": 24, "index": 3}, [("IFA_LOCAL", "10.1.0.2")]
    )

    assert message.hex() == "200000001400050007000000000000000218000003000000080002000a010002"

"""bridge: CHECK passes after ADD, and names each thing of the attachment that isn't there any more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces, oracle
from tests.verbs.networks import VERSIONS, Network, interface, port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.calls import Outcome

NETWORKS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "L2": ([], {}),
    "an interface that stays down": ([], {"disableContainerInterface": True}),
    "no gateway": (["10.1.0.0/24", "fd00:1::/64"], {}),
    "a gateway": (["10.1.0.0/24"], {"isGateway": True}),
    "a default gateway": (["fd00:1::/64"], {"isDefaultGateway": True}),
    "several addresses": (["10.1.0.0/24", "fd00:1::/64", "10.2.0.0/24", "fd00:2::/64"], {"isDefaultGateway": True}),
    "all that a port can be": (["10.1.0.0/24"], {"hairpinMode": True, "portIsolation": True, "mtu": 9000}),
    "duplicates looked for": (["10.1.0.0/24", "fd00:1::/64"], {"isGateway": True, "enabledad": True}),
    "a MAC": (["10.1.0.0/24"], {"runtimeConfig": {"mac": "02:00:5E:00:53:AF"}}),
    "routes": (
        ["10.1.0.0/24", "fd00:1::/64"],
        {
            "isGateway": True,
            "ipam": {"routes": [{"dst": "10.9.0.0/16", "mtu": 1400, "table": 7}, {"dst": "fd09::/16"}]},
        },
    ),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_all_is_there_right_after_add(case: str, network: Callable[..., Network], netns: Path) -> None:
    subnets, keys = NETWORKS[case]
    lan = network(*subnets, **keys)
    result = lan.add(netns)

    outcome = lan.check(result, netns)

    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, b"", "")


@pytest.mark.parametrize("version", VERSIONS[4:])
def test_a_result_of_any_version_is_checked(version: str, lan: Network, netns: Path) -> None:
    lan = lan.but(cniVersion=version)
    result = lan.add(netns)

    assert lan.check(result, netns).code == 0
    namespaces.shell(netns, "ip address del 10.1.0.2/24 dev eth0")
    assert "address 10.1.0.2/24" in missing(lan.check(result, netns))


# --- one thing at a time ----------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "isDefaultGateway": True,
    "hairpinMode": True,
    "ipam": {"routes": [{"dst": "10.9.0.0/16", "mtu": 1400, "advmss": 1300, "priority": 5, "table": 1000}]},
}

# What is done to the attachment → where, how, and what CHECK says of it. {port} is the pod's link on the node.
SABOTAGE: dict[str, tuple[str, str, str]] = {
    "IPv4 address gone": ("pod", "ip address del 10.1.0.2/24 dev eth0", "address 10.1.0.2/24 on eth0"),
    "IPv6 address gone": ("pod", "ip address del fd00:1::2/64 dev eth0", "address fd00:1::2/64 on eth0"),
    "IPv4 address changed": (
        "pod",
        "ip address del 10.1.0.2/24 dev eth0; ip address add 10.1.0.3/24 dev eth0",
        "address 10.1.0.2/24 on eth0",
    ),
    "prefix changed": (
        "pod",
        "ip address del fd00:1::2/64 dev eth0; ip address add fd00:1::2/48 dev eth0 nodad",
        "address fd00:1::2/64 on eth0",
    ),
    "all addresses gone": ("pod", "ip address flush dev eth0", "address 10.1.0.2/24 on eth0; address fd00:1::2/64"),
    "IPv4 default route gone": ("pod", "ip route del default", "ip route add default via 10.1.0.1 dev eth0"),
    "IPv6 default route gone": ("pod", "ip -6 route del default", "ip -6 route add default via fd00:1::1 dev eth0"),
    "default route changed": (
        "pod",
        "ip route change default via 10.1.0.9 dev eth0",
        "ip route add default via 10.1.0.1 dev eth0",
    ),
    "IPAM's route gone": ("pod", "ip route flush table 1000", "ip route add 10.9.0.0/16 via 10.1.0.1 dev eth0"),
    "IPAM's route in another table": (
        "pod",
        "ip route flush table 1000; ip route add 10.9.0.0/16 via 10.1.0.1 mtu 1400 advmss 1300 metric 5",
        "table 1000",
    ),
    "IPAM's route's mtu changed": (
        "pod",
        "ip route change 10.9.0.0/16 via 10.1.0.1 mtu 1300 advmss 1300 metric 5 table 1000",
        "mtu 1400",
    ),
    "IPAM's route's advmss changed": (
        "pod",
        "ip route change 10.9.0.0/16 via 10.1.0.1 mtu 1400 advmss 1200 metric 5 table 1000",
        "advmss 1300",
    ),
    "pod's end down": ("pod", "ip link set eth0 down", "ip link set eth0 up"),
    "pod's end renamed": ("pod", "ip link set eth0 down; ip link set eth0 name eth9", "interface eth0 in the pod"),
    "pod's end gone": ("pod", "ip link del eth0", "interface eth0 in the pod"),
    "MAC changed": ("pod", "ip link set eth0 address 02:00:00:00:00:99", "it is 02:00:00:00:00:99"),
    "pod's IPv6 off": (
        "pod",
        "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6",
        "net.ipv6.conf.eth0.disable_ipv6=0",
    ),
    "ARP announcements off": (
        "pod",
        "echo 0 > /proc/sys/net/ipv4/conf/eth0/arp_notify",
        "net.ipv4.conf.eth0.arp_notify=1",
    ),
    "NDP announcements off": (
        "pod",
        "echo 0 > /proc/sys/net/ipv6/conf/eth0/ndisc_notify",
        "sysctl net.ipv6.conf.eth0.ndisc_notify=1 in the pod",
    ),
    "addresses not kept": (
        "pod",
        "echo 0 > /proc/sys/net/ipv6/conf/eth0/keep_addr_on_down",
        "sysctl net.ipv6.conf.eth0.keep_addr_on_down=1 in the pod",
    ),
    "port gone": ("node", "ip link del {port}", "link {port} on the node"),
    "port renamed": ("node", "ip link set {port} down; ip link set {port} name other up", "link {port} on the node"),
    "port down": ("node", "ip link set {port} down", "link {port} on the node is down"),
    "port left the bridge": ("node", "ip link set {port} nomaster", "link {port} is no port of br0"),
    "port moved to another bridge": (
        "node",
        "ip link add br9 type bridge; ip link set {port} master br9",
        "link {port} is no port of br0",
    ),
    "hairpin off": (
        "node",
        "bridge link set dev {port} hairpin off",
        "bridge link set dev {port} hairpin on isolated off flood on mcast_flood on bcast_flood on",
    ),
    "isolated on": (
        "node",
        "bridge link set dev {port} isolated on",
        "bridge link set dev {port} hairpin on isolated off flood on mcast_flood on bcast_flood on",
    ),
    "fdb entry gone": (
        "node",
        "bridge fdb del {mac} dev {port} master",
        "bridge fdb replace {mac} dev {port} master static",
    ),
    "bridge down": ("node", "ip link set br0 down", "bridge br0 is down"),
    "bridge gone": ("node", "ip link del br0", "bridge br0; "),
    "IPv4 gateway gone": ("node", "ip address del 10.1.0.1/24 dev br0", "gateway address 10.1.0.1/24 on br0"),
    "IPv6 gateway gone": ("node", "ip address del fd00:1::1/64 dev br0", "gateway address fd00:1::1/64 on br0"),
    "IPv4 forwarding off": ("node", "echo 0 > /proc/sys/net/ipv4/ip_forward", "sysctl net.ipv4.ip_forward=1"),
    "IPv6 forwarding off": (
        "node",
        "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
        "sysctl net.ipv6.conf.all.forwarding=1",
    ),
}


def missing(outcome: Outcome) -> str:
    """What a failed CHECK names."""
    error = outcome.error
    assert error["code"] == 103, error
    beginning = "eth0 of container a is not as it was attached: "
    assert error["msg"].startswith(beginning), error
    return str(error["msg"].removeprefix(beginning))


@pytest.mark.parametrize("case", SABOTAGE)
def test_what_is_missing_or_changed_is_named(case: str, network: Callable[..., Network], netns: Path) -> None:
    where, command, told = SABOTAGE[case]
    lan = network("10.1.0.0/24", "fd00:1::/64", **FULL)
    result = lan.add(netns)
    assert lan.check(result, netns).code == 0
    names = {"port": port(result), "mac": interface(result, "eth0")["mac"]}

    namespaces.shell(netns if where == "pod" else lan.node, command.format(**names))

    assert told.format(**names) in missing(lan.check(result, netns))


def test_a_bridge_that_is_not_promiscuous_any_more_is_named(lan: Network, netns: Path) -> None:
    lan = lan.but(promiscMode=True)
    result = lan.add(netns)
    assert lan.check(result, netns).code == 0
    namespaces.shell(lan.node, "ip link set br0 promisc off")

    assert "bridge br0 is not promiscuous" in missing(lan.check(result, netns))


@pytest.mark.parametrize("flag", ["hairpin", "isolated"])
def test_a_port_that_nothing_was_asked_of_is_to_stay_as_ports_begin(flag: str, lan: Network, netns: Path) -> None:
    result = lan.add(netns)

    namespaces.shell(lan.node, f"bridge link set dev {port(result)} {flag} on")

    told = f"bridge link set dev {port(result)} hairpin off isolated off flood on mcast_flood on bcast_flood on"
    assert missing(lan.check(result, netns)) == told


@pytest.mark.parametrize("setting", ["accept_dad", "enhanced_dad"])
def test_detection_of_duplicates_that_was_switched_off_is_named(
    setting: str, network: Callable[..., Network], netns: Path
) -> None:
    lan = network("10.1.0.0/24", "fd00:1::/64", enabledad=True)
    result = lan.add(netns)

    namespaces.shell(netns, f"echo 0 > /proc/sys/net/ipv6/conf/eth0/{setting}")

    assert missing(lan.check(result, netns)) == f"sysctl net.ipv6.conf.eth0.{setting}=1 in the pod"


def test_all_that_is_missing_is_named_and_each_thing_once(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    namespaces.shell(netns, "ip route del default; ip -6 route del default; ip address del fd00:1::2/64 dev eth0")
    namespaces.shell(lan.node, f"ip link set {port(result)} down; echo 0 > /proc/sys/net/ipv4/ip_forward")

    told = missing(lan.check(result, netns)).split("; ")

    assert len(told) == len(set(told))
    for fact in (
        "address fd00:1::2/64 on eth0",
        f"link {port(result)} on the node is down",
        "sysctl net.ipv4.ip_forward=1",
    ):
        assert fact in told
    assert any(fact.startswith("ip route add default via 10.1.0.1") for fact in told)
    assert any(fact.startswith("ip -6 route add default via fd00:1::1") for fact in told)


@pytest.mark.parametrize("what", ["the MTU of the pod's end", "a neighbour", "another address", "another route"])
def test_what_others_may_change_or_add_is_not_missed(what: str, lan: Network, netns: Path) -> None:
    result = lan.add(netns)

    namespaces.shell(
        lan.node if what == "a neighbour" else netns,
        {
            "the MTU of the pod's end": "ip link set eth0 mtu 1400",
            "a neighbour": "ip neighbour flush dev br0",
            "another address": "ip address add 10.1.0.77/24 dev eth0; ip address add fd00:1::77/64 dev eth0",
            "another route": "ip route add 10.8.0.0/16 via 10.1.0.9; ip route add default via 10.1.0.9 metric 5",
        }[what],
    )

    assert lan.check(result, netns).code == 0


def test_a_mac_is_held_against_the_last_word_of_the_chain(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    namespaces.shell(netns, "ip link set eth0 address 02:00:00:00:00:99")

    interface(result, "eth0")["mac"] = "02:00:00:00:00:99"

    assert lan.check(result, netns).code == 0


# --- the result -------------------------------------------------------------------------------------


def test_without_a_result_there_is_nothing_to_check_by(lan: Network, netns: Path) -> None:
    lan.add(netns)

    error = lan.call("CHECK", netns=netns).error

    assert (error["code"], error["msg"]) == (7, "Required prevResult missing")


def test_a_result_without_our_interface_is_not_ours(lan: Network, netns: Path) -> None:
    result = lan.add(netns)

    for interfaces in ([], [{"name": "eth1", "sandbox": str(netns)}], [{"name": "eth0"}]):
        told = {**result, "interfaces": interfaces, "ips": []}
        assert "prevResult names no interface eth0 in the pod" in missing(lan.check(told, netns))


def test_an_address_that_only_the_result_has_is_missed(lan: Network, netns: Path) -> None:
    result = lan.add(netns)

    result["ips"].append({"address": "10.1.0.77/24", "interface": 2})

    assert "address 10.1.0.77/24 on eth0" in missing(lan.check(result, netns))


def test_addresses_of_other_interfaces_in_the_result_are_none_of_our_business(lan: Network, netns: Path) -> None:
    result = lan.add(netns)

    result["interfaces"].append({"name": "net9", "sandbox": str(netns)})
    result["ips"] += [{"address": "192.0.2.1/24", "interface": 3}, {"address": "192.0.2.2/24"}]

    assert lan.check(result, netns).code == 0


# --- the namespace ----------------------------------------------------------------------------------


def test_another_namespace_is_not_the_pods(lan: Network, make_netns: Callable[[], Path]) -> None:
    netns, other = make_netns(), make_netns()
    result = lan.add(netns)

    assert "interface eth0 in the pod" in missing(lan.check(result, other))
    assert f"it was attached to another namespace, then at {netns}" in missing(lan.check(result, other))


def test_another_namespace_at_the_pods_path_is_not_the_pods_whatever_it_has(
    lan: Network, make_netns: Callable[[], Path], tmp_path: Path
) -> None:
    path, other = tmp_path / "pod", make_netns()
    path.symlink_to(make_netns())
    result = lan.add(path)
    path.unlink()
    path.symlink_to(other)
    mac = interface(result, "eth0")["mac"]
    namespaces.shell(other, f"ip link add eth0 address {mac} type veth; ip link set eth0 up; ip link set veth0 up")
    namespaces.shell(other, "ip address add 10.1.0.2/24 dev eth0; ip address add fd00:1::2/64 dev eth0 nodad")

    assert "it was attached to another namespace" in missing(lan.check(result, path))


# --- reservations -----------------------------------------------------------------------------------


def test_a_reservation_that_is_gone_or_anothers_is_named(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    claim = lan.data_dir / "lan" / "10.1.0.2"

    claim.unlink()
    gone = lan.check(result, netns).error
    claim.write_text("b\r\neth0")
    taken = lan.check(result, netns).error

    assert gone["code"] == taken["code"] == 103
    assert "10.1.0.2 is not reserved for container a eth0 but for nobody" in gone["msg"]
    assert "10.1.0.2 is not reserved for container a eth0 but for b eth0" in taken["msg"]


def test_without_any_reservation_the_store_is_named(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    for claim in (lan.data_dir / "lan").iterdir():
        claim.unlink()

    error = lan.check(result, netns).error

    assert error["code"] == 103
    assert error["msg"] == "host-local: Failed to find address added by container a"
    assert str(lan.data_dir / "lan") in error["details"]


# --- the record -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["begun", "planned", "leaving"])
def test_an_attachment_that_was_left_half_way_is_not_well(stage: str, lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    record = next(lan.plugin.run_dir.glob("attachments/lan/*.json"))
    record.write_text(json.dumps({**json.loads(record.read_text()), "stage": stage}))

    assert missing(lan.check(result, netns)) == f"the attachment was left {stage}"


def test_without_a_record_the_result_is_what_there_is_to_go_by(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    next(lan.plugin.run_dir.glob("attachments/lan/*.json")).unlink()
    assert lan.check(result, netns).code == 0

    namespaces.shell(netns, "ip -6 route del default; ip address del 10.1.0.2/24 dev eth0")

    told = missing(lan.check(result, netns)).split("; ")
    assert told == ["address 10.1.0.2/24 on eth0", "route 0.0.0.0/0 via 10.1.0.1", "route ::/0 via fd00:1::1"]


def test_checking_changes_nothing(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    namespaces.shell(netns, "ip route del default")
    namespaces.shell(lan.node, f"ip link set {port(result)} down; ip address flush dev br0")

    def all_there_is() -> list[Any]:
        links = [[(it.name, it.up, it.master) for it in oracle.links(where)] for where in (lan.node, netns)]
        return [links, oracle.routes(netns), oracle.addresses(lan.node, "br0"), lan.reserved, lan.records]

    before = all_there_is()
    assert lan.check(result, netns).code == 1
    assert all_there_is() == before

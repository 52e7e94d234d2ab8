"""loopback: the pod's `lo` is up after ADD and down after DEL, and nothing of it is anywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import namespaces, oracle
from tests.verbs.networks import VERSIONS, Network

if TYPE_CHECKING:
    from pathlib import Path

    from tests.calls import InProcess


@pytest.fixture
def loopback(in_process: InProcess, node: Path, tmp_path: Path) -> Network:
    """As containerd configures it for every container."""
    return Network(in_process, node, {"cniVersion": "1.1.0", "name": "cni-loopback", "type": "loopback"}, tmp_path)


def test_lo_is_up_and_works_in_both_families(loopback: Network, netns: Path) -> None:
    loopback.add(netns)

    assert oracle.link(netns, "lo").up
    assert namespaces.tcp(netns, netns, "127.0.0.1") == "127.0.0.1"
    assert namespaces.tcp(netns, netns, "::1") == "::1"


def test_the_result_shows_lo_with_the_addresses_that_the_kernel_gave_it(loopback: Network, netns: Path) -> None:
    result = loopback.add(netns)

    assert result == {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": str(netns)}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}, {"address": "::1/128", "interface": 0}],
    }


def test_where_ipv6_is_off_the_result_shows_ipv4_alone(loopback: Network, netns: Path) -> None:
    namespaces.shell(netns, "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")

    result = loopback.add(netns)

    assert [ip["address"] for ip in result["ips"]] == ["127.0.0.1/8"]


def test_whatever_the_runtime_calls_the_interface_it_is_lo(loopback: Network, netns: Path) -> None:
    result = loopback.add(netns, ifname="eth0")

    assert [one["name"] for one in result["interfaces"]] == ["lo"]
    assert loopback.check(result, netns, ifname="eth0").code == 0


def test_lo_is_down_after_del_and_del_may_come_again(loopback: Network, netns: Path) -> None:
    loopback.add(netns)

    loopback.delete(netns=netns)
    loopback.delete(netns=netns)

    assert not oracle.link(netns, "lo").up


@pytest.mark.parametrize("gone", ["", "/run/netns/nothing", "/proc/self/status"])
def test_del_needs_no_namespace(gone: str, loopback: Network) -> None:
    outcome = loopback.plugin("loopback", "DEL", loopback.config, netns=gone, node=loopback.node)

    assert (outcome.code, outcome.stdout) == (0, b"")


def test_adding_twice_is_as_once(loopback: Network, netns: Path) -> None:
    assert loopback.add(netns) == loopback.add(netns)


def test_a_previous_result_is_passed_on_with_lo_behind_it(loopback: Network, netns: Path) -> None:
    before = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "sandbox": str(netns)}],
        "ips": [{"address": "10.1.0.2/24", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
        "dns": {"nameservers": ["10.1.0.53"]},
    }

    result = loopback.but(prevResult=before).add(netns)

    assert [one["name"] for one in result["interfaces"]] == ["eth0", "lo"]
    assert [(ip["address"], ip["interface"]) for ip in result["ips"]] == [
        ("10.1.0.2/24", 0),
        ("127.0.0.1/8", 1),
        ("::1/128", 1),
    ]
    assert (result["routes"], result["dns"]) == (before["routes"], before["dns"])


@pytest.mark.parametrize("version", VERSIONS[4:])
def test_check_misses_a_lo_that_is_down(version: str, loopback: Network, netns: Path) -> None:
    loopback = loopback.but(cniVersion=version)
    result = loopback.add(netns)
    assert loopback.check(result, netns).code == 0

    namespaces.shell(netns, "ip link set lo down")

    error = loopback.check(result, netns).error
    assert error["code"] == 103
    assert "ip link set lo up" in error["msg"]


def test_gc_and_status_have_nothing_to_do(loopback: Network, netns: Path) -> None:
    loopback.add(netns)

    assert loopback.collect().code == loopback.call("STATUS").code == 0
    assert oracle.link(netns, "lo").up


def test_nothing_is_recorded_and_nothing_is_made_on_the_node(loopback: Network, netns: Path) -> None:
    loopback.add(netns)

    assert loopback.records == {}
    assert oracle.links(loopback.node) == []


def test_loopback_and_a_network_of_the_same_pod_do_not_meet(loopback: Network, lan: Network, netns: Path) -> None:
    # containerd attaches both at once, in the same interface's name.
    loopback.add(netns)
    result = lan.add(netns)
    loopback.delete(netns=netns)

    assert lan.check(result, netns).code == 0
    lan.delete(netns=netns)


def test_an_ipam_section_asks_for_nothing(loopback: Network, netns: Path) -> None:
    network = loopback.but(ipam={"type": "no-such-plugin", "ranges": 5})

    result = network.add(netns)

    assert network.check(result, netns).code == 0
    assert network.call("STATUS").code == 0
    assert network.call("DEL", netns=netns).code == 0

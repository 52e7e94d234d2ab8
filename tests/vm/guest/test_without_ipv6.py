"""A kernel that was started with ipv6.disable=1: IPv4 as ever, and a clear word about IPv6."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import namespaces
from tests.verbs.networks import Network, addresses
from tests.vm.guest.pods import configured, left, links

if TYPE_CHECKING:
    from tests.calls import Exec


@pytest.fixture
def ipv4(plugin: Exec, node: Path, tmp_path: Path) -> Network:
    return configured(plugin, node, tmp_path / "networks", "10.1.0.0/24")


def test_the_kernel_has_no_ipv6() -> None:
    assert not Path("/proc/sys/net/ipv6").exists()


def test_ipv4_works(ipv4: Network, netns: Path) -> None:
    result = ipv4.add(netns)

    namespaces.tcp(ipv4.node, netns, addresses(result)[0])
    assert ipv4.check(result, netns).result == {}
    ipv4.delete("a", netns)
    assert left(ipv4) == {}


@pytest.mark.parametrize(
    "keys",
    [
        {"ipMasq": True, "macspoofchk": True},
        {"type": "ptp", "bridge": None, "isDefaultGateway": None, "ipMasq": True},
    ],
    ids=["bridge", "ptp"],
)
def test_what_has_rules_for_both_families_works(keys: dict[str, object], ipv4: Network, netns: Path) -> None:
    network = ipv4.but(**keys)
    result = network.add(netns)

    namespaces.tcp(network.node, netns, addresses(result)[0])
    assert network.check(result, netns).result == {}
    assert "10.1.0.2" in namespaces.shell(network.node, "nft list table inet podwire")
    network.delete("a", netns)
    assert left(network) == {}
    assert "10.1.0.2" not in namespaces.shell(network.node, "nft list table inet podwire")


def test_check_of_a_pod_without_a_record_works(ipv4: Network, netns: Path) -> None:
    """As of one that the reference plugins attached: the routes of the result are looked for family by family."""
    result = ipv4.add(netns)
    for record in ipv4.plugin.run_dir.glob("attachments/*/*"):
        record.unlink()

    assert ipv4.check(result, netns).result == {}
    result["routes"].append({"dst": "fd00:9::/64", "gw": "fd00:1::1"})
    assert "fd00:9::/64" in ipv4.check(result, netns).error["msg"]
    ipv4.but(prevResult=result).delete("a", netns)


@pytest.mark.parametrize("is_gateway", [True, False])
@pytest.mark.parametrize("subnets", [["fd00:1::/64"], ["10.1.0.0/24", "fd00:1::/64"]])
def test_an_ipv6_address_is_refused_in_clear_words_and_nothing_is_left(
    ipv4: Network, netns: Path, subnets: list[str], is_gateway: bool
) -> None:
    ranges = [[{"subnet": subnet}] for subnet in subnets]
    network = ipv4.but(ipam={"ranges": ranges}, isDefaultGateway=is_gateway)

    error = network.call("ADD", "a", netns).error

    assert "IPv6" in error["msg"] + error["details"], error
    assert links(netns) == {}
    assert left(network) == {}
    network.delete("a", netns)


def test_status_and_gc_work(ipv4: Network, netns: Path) -> None:
    ipv4.add(netns)

    assert ipv4.call("STATUS").result == {}
    assert ipv4.collect().result == {}
    assert left(ipv4) == {}


def test_loopback_works(plugin: Exec, netns: Path) -> None:
    config = {"cniVersion": "1.1.0", "name": "lo", "type": "loopback"}

    result = plugin("loopback", "ADD", config, netns=netns, ifname="lo").result

    assert addresses(result) == ["127.0.0.1"]
    assert plugin("loopback", "CHECK", config | {"prevResult": result}, netns=netns, ifname="lo").result == {}
    assert plugin("loopback", "DEL", config, netns=netns, ifname="lo").result == {}

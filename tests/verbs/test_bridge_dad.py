"""bridge: IPv6 addresses whose duplicates are to be detected (`enabledad`), awaited without sleeping."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests import namespaces, oracle
from tests.verbs.networks import Network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_an_address_is_usable_when_it_has_been_looked_for(lan: Network, netns: Path) -> None:
    result = lan.but(enabledad=True).add(netns)

    assert {one.interface: set(one.flags) for one in oracle.addresses(netns, "eth0")} == {
        "10.1.0.2/24": {"permanent"},
        "fd00:1::2/64": {"permanent"},
    }
    for setting in ("accept_dad", "enhanced_dad"):
        assert namespaces.shell(netns, f"cat /proc/sys/net/ipv6/conf/eth0/{setting}") == "1\n"
    assert namespaces.tcp(netns, lan.node, "fd00:1::1") == "fd00:1::2"
    assert lan.check(result, netns).code == 0


def test_waiting_is_not_sleeping(network: Callable[..., Network], netns: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lan = network("fd00:1::/64", "fd00:2::/64", enabledad=True)
    asleep: list[float] = []

    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", asleep.append)
        lan.add(netns)

    assert asleep == []
    assert [set(one.flags) for one in oracle.addresses(netns, "eth0")] == [{"permanent"}, {"permanent"}]


def test_an_ipv4_pod_has_nothing_to_wait_for(network: Callable[..., Network], netns: Path) -> None:
    lan = network("10.1.0.0/24", enabledad=True)

    began = time.monotonic()
    result = lan.add(netns)

    assert time.monotonic() - began < 1.0  # the least that IPv6 takes
    assert lan.check(result, netns).code == 0


def test_an_address_that_another_host_of_the_network_has_is_refused_and_nothing_is_left(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    squatter, netns = make_netns(), make_netns()
    network(name="l2").add(squatter, "squatter")
    namespaces.shell(squatter, "ip address add fd00:1::2/64 dev eth0 nodad")
    lan = network("10.1.0.0/24", "fd00:1::/64", isGateway=True, enabledad=True)
    before = oracle.links(lan.node)

    error = lan.call("ADD", netns=netns).error

    assert error["code"] == 104
    assert error["msg"] == "address fd00:1::2/64 is in use by another host of the network"
    assert oracle.links(netns) == []
    assert [link.name for link in oracle.links(lan.node)] == [link.name for link in before]
    assert [it for it in oracle.neighbours(lan.node) if it.address.startswith(("10.", "fd00"))] == []
    assert lan.reserved == {}
    assert list(lan.records) == ["squatter@eth0@bridge.json"]
    assert [one.interface for one in oracle.addresses(squatter, "eth0")] == ["fd00:1::2/64"]


def test_without_it_a_duplicate_is_not_looked_for(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    squatter, netns = make_netns(), make_netns()
    network(name="l2").add(squatter, "squatter")
    namespaces.shell(squatter, "ip address add fd00:1::2/64 dev eth0 nodad")

    network("fd00:1::/64").add(netns)

    assert [set(one.flags) for one in oracle.addresses(netns, "eth0")] == [{"permanent", "nodad"}]


def test_a_failed_search_can_be_repeated_with_another_address(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    squatter, netns = make_netns(), make_netns()
    network(name="l2").add(squatter, "squatter")
    namespaces.shell(squatter, "ip address add fd00:1::2/64 dev eth0 nodad")
    lan = network("fd00:1::/64", enabledad=True)
    assert lan.call("ADD", netns=netns).code == 1

    result = lan.add(netns)

    assert [ip["address"] for ip in result["ips"]] == ["fd00:1::3/64"]
    assert lan.reserved == {"fd00:1::3": "a eth0"}

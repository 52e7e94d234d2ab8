"""Pods by way of the CRI, as kubelet runs them: their network comes with them and goes with them."""

from __future__ import annotations

import ipaddress
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import namespaces
from tests.node.containerd import until
from tests.node.cri import CallFailed, RuntimeCondition
from tests.node.node import NEEDS, SUBNETS, Inventory, Node, conflist

pytestmark = NEEDS

NOTHING = Inventory()


def test_the_node_is_ready_while_it_has_a_network(node: Node) -> None:
    assert node.containerd.cri.conditions()["NetworkReady"].status


def test_without_a_network_neither_the_node_nor_a_pod_gets_ready(node: Node) -> None:
    node.configure(None)
    try:
        condition = until(lambda: _unless_ready(node), "containerd has noticed that there is no network")
        with pytest.raises(CallFailed, match="cni plugin not initialized"):
            node.run_pod()
    finally:
        node.reconfigure(conflist())

    assert condition.reason == "NetworkPluginNotReady"
    assert node.containerd.cri.conditions()["NetworkReady"].status


def _unless_ready(node: Node) -> RuntimeCondition | None:
    condition = node.containerd.cri.conditions()["NetworkReady"]
    return None if condition.status else condition


def test_a_pod_has_an_address_of_each_family(node: Node) -> None:
    pod = node.run_pod()

    ipv4, ipv6 = (ipaddress.ip_network(subnet) for subnet in SUBNETS)
    assert len(pod.addresses) == 2
    assert ipaddress.ip_address(pod.addresses[0]) in ipv4
    assert ipaddress.ip_address(pod.addresses[1]) in ipv6


def test_what_the_cri_says_is_what_the_pod_has(node: Node) -> None:
    pod = node.run_pod()
    container = node.start_container(pod, "sleep", "1000")

    shown = node.execute(container, "ip", "address", "show", "dev", "eth0")

    assert set(re.findall(r"inet6? (\S+)/\d+ .*scope global", shown)) == set(pod.addresses)


def test_two_pods_reach_each_other(node: Node) -> None:
    left, right = node.run_pod(), node.run_pod()
    in_left, in_right = node.serve(left, "left"), node.serve(right, "right")

    assert [node.fetch(in_left, address) for address in right.addresses] == ["right"] * 2
    assert [node.fetch(in_right, address) for address in left.addresses] == ["left"] * 2


def test_a_pod_reaches_itself(node: Node) -> None:
    pod = node.run_pod()
    container = node.serve(pod, "me")

    for address in (*pod.addresses, "127.0.0.1", "::1"):
        assert node.fetch(container, address) == "me"


def test_the_node_reaches_its_pods(node: Node) -> None:
    """As kubelet's probes do, which come from the node and are answered by way of the gateway address."""
    pod = node.run_pod()
    node.serve(pod, "alive")

    for address in pod.addresses:
        url = f"http://[{address}]/" if ":" in address else f"http://{address}/"
        assert namespaces.shell(node.box.netns, f"busybox wget -q -O - {url}") == "alive\n"


def test_stop_takes_everything_and_may_be_repeated(node: Node) -> None:
    pod = node.run_pod()
    assert node.inventory() != NOTHING

    node.stop_pod(pod)

    assert node.inventory() == NOTHING
    node.stop_pod(pod)
    node.remove_pod(pod)
    node.remove_pod(pod)
    assert node.inventory() == NOTHING


def test_stopping_one_pod_leaves_the_other_alone(node: Node) -> None:
    survivor, leaver = node.run_pod(), node.run_pod()
    container = node.serve(survivor, "still here")
    node.stop_pod(leaver)
    client = node.start_container(node.run_pod(), "sleep", "1000")

    assert [node.fetch(client, address) for address in survivor.addresses] == ["still here"] * 2
    assert node.fetch(container, survivor.ipv4) == "still here"


def test_twenty_pods_at_once(node: Node) -> None:
    with ThreadPoolExecutor(20) as pool:
        pods = list(pool.map(lambda _: node.run_pod(), range(20)))
        everything = node.inventory()
        list(pool.map(node.stop_pod, pods))

    assert len({address for pod in pods for address in pod.addresses}) == 40
    assert len(everything.links) == len(everything.namespaces) == 20
    assert node.inventory() == NOTHING


def test_a_pod_that_gets_no_address_fails_with_our_words_and_leaves_nothing(node: Node) -> None:
    node.reconfigure(conflist(("10.244.9.0/30",), bridge="cni1", name="tiny"))
    try:
        only = node.run_pod()
        with_one = node.inventory()

        with pytest.raises(CallFailed, match=r"10\.244\.9\.[0-9]"):
            node.run_pod()

        assert node.inventory() == with_one
        node.stop_pod(only)
        assert node.run_pod().addresses == only.addresses
    finally:
        node.remove_all_pods()
        node.reconfigure(conflist())

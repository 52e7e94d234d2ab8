"""CHECK, STATUS and GC, which containerd 1.6 never calls: by `podwire net`, on the node and the network of its pods."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from cni.spec.errors import CHECK_FAILED, NOT_AVAILABLE
from tests.node.node import NEEDS, NETWORK, Node

pytestmark = NEEDS

NETNS = "/run/netns/by-hand"

Net = Callable[..., str]


@pytest.fixture
def net(node: Node, podwire: str) -> Iterator[Net]:
    """`net("add")` is `podwire net add` of a namespace that no runtime knows of to the network of the pods."""
    node.box.run("ip", "netns", "add", "by-hand")
    yield lambda verb, *options, check=True: node.box.run(podwire, "net", verb, *options, NETWORK, NETNS, check=check)
    node.box.run("ip", "netns", "delete", "by-hand")


def test_the_same_conflist_is_spoken_at_1_1_0_by_who_can(node: Node, net: Net) -> None:
    with node.recording() as calls:
        for verb in ("status", "add", "check", "gc", "del"):
            net(verb)

    assert [(call.command, call.plugin, call.cni_version) for call in calls()] == [
        (command, "bridge", "1.1.0") for command in ("STATUS", "ADD", "CHECK", "GC", "DEL")
    ]


def test_check_finds_what_somebody_took_from_a_pod(node: Node, net: Net) -> None:
    net("add")
    assert net("check") == ""
    node.box.run("ip", "-netns", "by-hand", "route", "delete", "default")

    error = json.loads(net("check", check=False))

    assert error["code"] == CHECK_FAILED
    assert "default" in error["msg"]
    net("del")


def test_gc_takes_what_is_not_valid_and_nothing_else(node: Node, net: Net) -> None:
    pod = node.run_pod()
    container = node.start_container(pod, "sleep", "1000")
    with_the_pod = node.inventory()
    net("add")
    assert node.inventory() != with_the_pod

    net("gc", f"--valid={pod.id}/eth0")

    assert node.inventory() == with_the_pod
    assert pod.ipv4 in node.execute(container, "ip", "address", "show", "dev", "eth0")


def test_status_says_that_no_pod_can_be_attached(node: Node, net: Net) -> None:
    """A node whose /run can't be written to: containerd 1.6, which doesn't ask, calls it ready."""
    node.box.run("mkdir", "-p", "/run/podwire")
    node.box.run("mount", "-t", "tmpfs", "-o", "ro", "broken", "/run/podwire")
    try:
        error = json.loads(net("status", check=False))
        assert node.containerd.cri.conditions()["NetworkReady"].status
    finally:
        node.box.run("umount", "/run/podwire")

    assert error["code"] == NOT_AVAILABLE
    assert "ready" in net("status")

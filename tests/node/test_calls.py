"""What containerd 1.6 says to a plugin, and what it never says."""

from __future__ import annotations

import pytest

from tests.node.cri import CallFailed
from tests.node.node import NEEDS, Inventory, Node, conflist

pytestmark = NEEDS

# `echo` and `cat` wait for each other at the two ends of a pipe with a name, and give up after a while.
MEET = """
[ -p /run/meeting ] || mkfifo /run/meeting 2> /dev/null || [ -p /run/meeting ]
case $CNI_COMMAND-${0##*/} in
    ADD-loopback) timeout 20 sh -c 'echo here > /run/meeting' ;;
    ADD-bridge) timeout 20 cat /run/meeting ;;
esac > /dev/null
"""


def test_containerd_calls_add_and_del_at_1_0_0_and_nothing_else(node: Node) -> None:
    """No STATUS, whatever kubelet asks; no CHECK, no GC. Of `cniVersions` it knows nothing; `lo` is its own network."""
    with node.recording() as calls:
        assert node.containerd.cri.conditions()["NetworkReady"].status
        pod = node.run_pod()
        node.start_container(pod, "sleep", "1000")
        assert node.containerd.cri.addresses(pod.id) == pod.addresses
        node.stop_pod(pod)
        node.remove_pod(pod)
        assert node.containerd.cri.conditions()["NetworkReady"].status

    assert {(call.command, call.plugin, call.ifname, call.cni_version) for call in calls()} == {
        ("ADD", "bridge", "eth0", "1.0.0"),
        ("ADD", "loopback", "lo", "0.3.1"),
        ("DEL", "bridge", "eth0", "1.0.0"),
        ("DEL", "loopback", "lo", "0.3.1"),
    }


def test_the_plugin_is_told_whose_pod_it_is(node: Node) -> None:
    with node.recording() as calls:
        pod = node.run_pod()

    add = next(call for call in calls() if call.plugin == "bridge")
    assert add.container_id == pod.id
    assert {f"K8S_POD_NAME={pod.asked.name}", f"K8S_POD_INFRA_CONTAINER_ID={pod.id}"} <= set(add.args.split(";"))


def test_lo_and_the_network_of_one_pod_are_attached_at_the_same_time(node: Node) -> None:
    """Against the specification, by which the operations of one container come one after the other."""
    with node.recording(before=MEET) as calls:
        node.run_pod()

    assert {call.ifname for call in calls()} == {"lo", "eth0"}


def test_a_second_stop_is_a_del_without_netns(node: Node) -> None:
    pod = node.run_pod()
    with node.recording() as calls:
        node.stop_pod(pod)
        node.stop_pod(pod)

    dels = [call for call in calls() if call.plugin == "bridge"]
    assert [(call.command, bool(call.netns)) for call in dels] == [("DEL", True), ("DEL", False)]


def test_a_network_of_1_1_0_alone_is_too_new_for_containerd(node: Node) -> None:
    """Hence the two keys in our conflist. The plugin is called and answers; containerd can't read it, and calls DEL."""
    node.reconfigure(conflist(cniVersion="1.1.0", cniVersions=["1.1.0"]))
    try:
        with node.recording() as calls, pytest.raises(CallFailed, match=r"1\.1\.0"):
            node.run_pod()

        assert [call.command for call in calls() if call.plugin == "bridge"] == ["ADD", "DEL"]
        assert node.inventory() == Inventory()
    finally:
        node.reconfigure(conflist())

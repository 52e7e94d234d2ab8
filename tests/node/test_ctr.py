"""`ctr run --cni`: one container with a network, without a kubelet and without pods."""

from __future__ import annotations

import ipaddress
import re

from tests.node import images
from tests.node.node import NEEDS, SUBNETS, Inventory, Node

pytestmark = NEEDS


def test_a_container_has_the_network_and_leaves_nothing_of_it(node: Node) -> None:
    shown = _run(node, "ip address show dev eth0")

    found = [ipaddress.ip_address(each) for each in re.findall(r"inet6? (\S+)/\d+ .*scope global", shown)]
    assert len(found) == 2
    assert all(address in ipaddress.ip_network(subnet) for address, subnet in zip(found, SUBNETS))
    assert node.inventory() == Inventory()


def test_a_container_reaches_a_pod(node: Node) -> None:
    pod = node.run_pod()
    node.serve(pod, "a pod")
    before = node.inventory()

    said = _run(node, f"wget -q -O - http://{pod.ipv4}/; wget -q -O - http://[{pod.ipv6}]/")

    assert said == "a pod\na pod\n"
    assert node.inventory() == before


def _run(node: Node, script: str) -> str:
    cgroup = f"--cgroup=/{node.box.cgroup}/from-ctr"
    return node.containerd.ctr("run", "--rm", "--cni", cgroup, images.BUSYBOX, "from-ctr", "sh", "-c", script)

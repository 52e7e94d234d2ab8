"""`ctr run --cni`: one container with a network, without a kubelet and without pods."""

from __future__ import annotations

import ipaddress
import re

from tests.node import images
from tests.node.node import NEEDS, SUBNETS, Inventory, Node

pytestmark = NEEDS


def test_a_container_has_the_network_and_leaves_nothing_of_it(node: Node) -> None:
    cgroup = f"--cgroup=/{node.box.cgroup}/from-ctr"

    shown = node.containerd.ctr("run", "--rm", "--cni", cgroup, images.BUSYBOX, "from-ctr", "ip", "address", "show")

    found = [ipaddress.ip_address(each) for each in re.findall(r"inet6? (\S+)/\d+ .*scope global", shown)]
    networks = [ipaddress.ip_network(subnet) for subnet in SUBNETS]
    assert [address in network for address, network in zip(found, networks, strict=True)] == [True, True]
    assert node.inventory() == Inventory()

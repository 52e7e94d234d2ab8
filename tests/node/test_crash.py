"""containerd dies of kill -9 and comes back: what its pods had goes as if nothing had been."""

from __future__ import annotations

from tests.node.node import NEEDS, Inventory, Node

pytestmark = NEEDS


def test_pods_outlive_containerd_and_are_taken_away_by_the_next(fresh_node: Node) -> None:
    node = fresh_node
    left, right = node.run_pod(), node.run_pod()
    client = node.serve(left, "left")
    node.serve(right, "right")

    node.containerd.kill()
    node.containerd.start()

    assert node.containerd.cri.addresses(left.id) == left.addresses
    assert [node.fetch(client, address) for address in right.addresses] == ["right"] * 2
    for pod in (left, right):
        node.stop_pod(pod)
        node.remove_pod(pod)
    assert node.inventory() == Inventory()

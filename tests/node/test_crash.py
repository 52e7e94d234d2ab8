"""containerd dies of kill -9 and comes back: what its pods had goes as if nothing had been."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.node.containerd import until
from tests.node.node import NEEDS, Inventory, Node

pytestmark = NEEDS

NOTHING = Inventory()

# An ADD begins, and goes on when somebody opens the other end of the pipe.
HOLD = """
if [ "$CNI_COMMAND-${0##*/}" = ADD-%s ]; then
    mkfifo /run/held
    cat /run/held
fi
"""


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
    assert node.inventory() == NOTHING


@pytest.mark.parametrize("held", ["bridge", "loopback"])
def test_a_pod_half_attached_when_containerd_died_is_taken_away_by_the_next(fresh_node: Node, held: str) -> None:
    """One plugin, the bridge or the other, outlives containerd and has nobody to answer to."""
    node = fresh_node
    with node.recording(before=HOLD % held) as calls, ThreadPoolExecutor(1) as kubelet:
        running = kubelet.submit(node.run_pod)
        until(lambda: {call.plugin for call in calls()} == {"bridge", "loopback"}, "both plugins were called")
        pids = {call.plugin: call.pid for call in calls()}
        until(lambda: _running(node, pids) == {held}, "the other plugin is done")
        node.containerd.kill()
        with pytest.raises(ConnectionError):
            running.result()
        node.box.run("sh", "-c", "echo go on > /run/held")
        until(lambda: not _running(node, pids), "the plugin that was held is done")

    node.containerd.start()
    (known,) = node.containerd.cri.pods()
    node.containerd.cri.stop_pod(known.id)
    node.containerd.cri.remove_pod(known.id)

    assert node.inventory() == NOTHING


def _running(node: Node, pids: Mapping[str, int]) -> set[str]:
    return {plugin for plugin, pid in pids.items() if node.box.runs(pid)}

"""`podwire net` on a node whose pods containerd attached: the two share one cache."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cni.runtime.cache import Cache
from tests import oracle
from tests.node.node import NEEDS, NETWORK, Node, RunningPod

if TYPE_CHECKING:
    from pathlib import Path

    from cni.runtime.cache import Cached

pytestmark = NEEDS


def cached(node: Node, pod: RunningPod) -> Cached:
    found = Cache(node.box.outside("/var/lib/cni")).attachments(NETWORK)
    return next(one for one in found if one.container_id == pod.id)


def test_what_containerd_kept_is_what_we_would_have_kept(node: Node, tmp_path: Path) -> None:
    pod = node.run_pod()

    kept = cached(node, pod)
    Cache(tmp_path).write(kept)

    name = f"results/{NETWORK}-{pod.id}-{kept.ifname}"
    theirs = node.box.outside("/var/lib/cni") / name
    assert json.loads((tmp_path / name).read_text()) == json.loads(theirs.read_text())


def test_a_pod_of_containerds_can_be_listed_checked_and_detached(node: Node, podwire: str) -> None:
    pod = node.run_pod()
    sandbox = cached(node, pod).result["interfaces"][-1]["sandbox"]  # type: ignore[index]  # as JSON it has no types
    arguments = (NETWORK, sandbox, "--container-id", pod.id)

    (listed,) = json.loads(node.box.run(podwire, "net", "list", "--json"))
    assert (listed["name"], listed["attachments"], listed["missing"]) == (NETWORK, 1, [])

    node.box.run(podwire, "net", "check", *arguments)
    node.box.run(podwire, "net", "del", *arguments)

    left = node.inventory()
    assert (left.links, left.reservations) == (frozenset(), frozenset())
    assert [name for name in left.cached_results if name.startswith(NETWORK)] == []  # its loopback is containerd's own
    node.stop_pod(pod)  # containerd detaches once more, and finds nothing
    node.remove_pod(pod)


def test_a_gc_leaves_the_pods_of_containerd_alone(node: Node, podwire: str) -> None:
    pod = node.run_pod()
    before = node.inventory()
    # In the version that containerd speaks: the plugins under test may be the reference's, which know no other.
    conflist = json.loads(node.box.run("cat", "/etc/cni/net.d/10-podwire.conflist"))
    node.box.write("/run/net.d/10.conflist", json.dumps({**conflist, "cniVersions": ["1.0.0"]}))

    said = node.box.run(podwire, "net", "gc", NETWORK, "--conf-dir", "/run/net.d")

    assert said == ""
    assert node.inventory() == before
    assert [link.name for link in oracle.links(node.box.netns) if link.kind == "veth"] == [*before.links]
    node.remove_pod(pod)

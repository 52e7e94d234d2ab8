"""Detaching what has no record: what others attached, and what lost it."""

from __future__ import annotations

from cni.attach import sandbox
from cni.attach.removing import Failures, delete_links
from cni.kernel import inet
from cni.kernel import link as links
from cni.spec.errors import CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cni.attach.call import Call
    from cni.attach.node import Node
    from cni.kernel.link import Link
    from cni.key import Key
    from cni.spec.result import Result


def remove(node: Node, call: Call) -> None:
    """Without a record: what bears our tag, or else what the previous result says was made for this attachment.

    So a pod that the reference plugins attached is detached by us. An interface of that name which neither
    knows of was never this network's, and stays. To a chained plugin the result tells of what others made, who are
    asked to take it away next.
    """
    keys = [call.key]
    if call.chained:
        from cni.attach import places

        if places.remove_last(node, call.key):
            return
        keys = places.every(node, call.key)
    failures = Failures()
    for key in keys:
        with failures:
            delete_links(node, key)
    with failures:
        _drop_tagged(node, keys)
    if call.features and call.prev:
        with failures:
            _drop_openings(node, call)
    if call.prev and not call.chained:
        with failures:
            _delete_in_pod(node, call, call.prev)
    failures.end()
    call.addresses.release(call.key, call.netns)
    for key in keys:
        node.records.remove(key)  # one that could not be read


def _drop_tagged(node: Node, keys: Sequence[Key]) -> None:
    """The elements of our tables that bear the attachment's tag."""
    if node.tables():
        from cni.attach import tables

        tables.drop_tagged(node, keys)


def _drop_openings(node: Node, call: Call) -> None:
    """What the features would have written into the rules of others, for the addresses that the result tells of."""
    from cni.attach import chained, openings
    from cni.attach.call import wanted_of

    try:
        wanted = wanted_of(call, chained.pod_told(call))
    except CNIError:
        return  # nor could anything have been made of it
    openings.drop(node, call.key, wanted.openings)


def _delete_in_pod(node: Node, call: Call, prev: Result) -> None:
    pod_side = sandbox.find(call.netns, node.home, call.own_netns_is_fine)
    if pod_side:
        with pod_side:
            found = links.find(pod_side.nl, call.key.ifname)
            if found and found.kind == "veth" and _is_told(pod_side, found, prev):
                pod_side.nl.do(links.drop(found.ifindex, found.name))


def _is_told(pod_side: sandbox.Sandbox, found: Link, prev: Result) -> bool:
    """Whether a link of the pod is the one that a result tells of: another may have come into its name since.

    By its MAC, or else by an address: a chained plugin that had changed the MAC has given it back by now.
    """
    for i, told in enumerate(prev.interfaces):
        if told.name == found.name and told.sandbox:
            ips = [ip.address for ip in prev.ips if ip.interface == i]
            if told.mac.lower() == found.mac or not (told.mac or ips):
                return True
            return any(there.address in ips for there in inet.addresses(pod_side.nl, found.ifindex))
    return False

"""Attachments that are nothing but a state of the pod: no record, no lock, nothing on the node."""

from __future__ import annotations

from cni.attach import making, sandbox
from cni.attach.call import pod_of, result_of, wanted_of
from cni.kernel import link as links
from cni.spec.result import DNS, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attach.call import Call
    from cni.attach.node import Node
    from cni.wanted import Wanted


def add(node: Node, call: Call) -> Result:
    """Raises CNIError, NetlinkError, OSError."""
    with sandbox.require(call.netns, node.home, call.own_netns_is_fine) as pod_side:
        wanted = _wanted(node, call)
        return result_of(call, wanted, making.make_in_pod(pod_side, wanted, {}), DNS())


def delete(node: Node, call: Call) -> None:
    """A namespace that is gone, and what isn't in it, is fine."""
    pod_side = sandbox.find(call.netns, node.home, call.own_netns_is_fine)
    if pod_side:
        with pod_side:
            for thing in reversed(_wanted(node, call).pod):
                found = links.find(pod_side.nl, thing.link)
                if found:
                    pod_side.nl.do(thing.drop(found.ifindex))


def check(node: Node, call: Call) -> None:
    """Raises CNIError 103 naming all that isn't as ADD made it."""
    from cni.attach import checking

    checking.required_prev(call)
    with sandbox.require(call.netns, node.home, call.own_netns_is_fine) as pod_side:
        missing = checking.missing_objects(pod_side.nl, _wanted(node, call).pod)
    checking.refuse(call, missing)


def _wanted(node: Node, call: Call) -> Wanted:
    if call.main is None:
        raise RuntimeError(f"{call.key.plugin} makes no link, so it can't be a state of the pod alone")
    return wanted_of(call, pod_of(node, call, call.main, Result()))

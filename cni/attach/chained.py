"""A pod that an earlier member of the chain attached: found, where a pod of our own is chosen.

What the previous result says of the pod's interface is believed as to addresses; which link of the node is its other
end, and what the node's IP layer sees its packets come by, the kernel knows better.
"""

from __future__ import annotations

from cni.kernel import link as links
from cni.spec.errors import CONFLICT, INVALID_CONFIG, CNIError
from cni.wanted import Pod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attach.call import Call
    from cni.attach.node import Node
    from cni.attach.sandbox import Sandbox
    from cni.kernel.link import Link
    from cni.spec.result import IPConfig, Result


def pod_of(node: Node, sandbox: Sandbox, call: Call) -> Pod:
    """Raises CNIError for a chain that leads nowhere."""
    key = call.key
    inside = links.find(sandbox.nl, key.ifname)
    if not inside:
        from cni.attach import places

        raise CNIError(
            CONFLICT,
            f"the pod has no interface {key.ifname}, which an earlier plugin of the chain was to make",
            f"{places.plugin(key)} works on what plugins before it in the chain attached",
        )
    port = _other_end(node, inside)
    bridge = links.find_index(node.nl, port.master) if port and port.master else None
    prev = call.prev
    return Pod(
        key=key,
        netns=call.netns,
        ifname=key.ifname,
        tag=key.tag,
        mac=inside.mac,
        host_mac=port.mac if port else "",
        ips=_addresses(key.ifname, prev) if prev else (),
        routes=(),
        seen={},
        port=port.name if port else "",
        iif=bridge.name if bridge else port.name if port else "",
        mtu=port.mtu if port else inside.mtu,
    )


def pod_told(call: Call) -> Pod:
    """What the previous result tells of a pod that may be gone: enough to say what was made for its addresses."""
    key = call.key
    prev = call.prev
    on_node = [one.name for one in prev.interfaces if not one.sandbox] if prev else []
    return Pod(
        key=key,
        netns=call.netns,
        ifname=key.ifname,
        tag=key.tag,
        mac="",
        host_mac="",
        ips=_addresses(key.ifname, prev) if prev else (),
        routes=(),
        seen={},
        port=on_node[-1] if on_node else "",
        iif=on_node[0] if on_node else "",
    )


def require_prev(call: Call) -> None:
    """Raises CNIError 7 for a chained plugin that no other comes before."""
    if not call.prev:
        raise CNIError(
            INVALID_CONFIG,
            f"{call.key.plugin} must be called as chained plugin: prevResult is missing",
            "name it behind the plugin that makes the interface, in the list of plugins of the network configuration",
        )


def _other_end(node: Node, inside: Link) -> Link | None:
    """The node's end of a veth, which has the pod's end for its peer too: indexes are of two namespaces."""
    if inside.kind != "veth" or not inside.peer:
        return None
    found = links.find_index(node.nl, inside.peer)
    return found if found and found.kind == "veth" and found.peer == inside.ifindex else None


def _addresses(ifname: str, prev: Result) -> tuple[IPConfig, ...]:
    """The pod's, of the interface that is called so; of all where the result doesn't say which they are on."""
    numbers = {i for i, one in enumerate(prev.interfaces) if one.name == ifname and one.sandbox}
    return tuple([ip for ip in prev.ips if ip.interface is None or ip.interface in numbers])

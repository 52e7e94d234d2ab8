"""Which attachments are gone for certain, though nobody has said DEL: what may be taken from them when it is scarce.

Asked when the addresses of a network have run out, and not before: it reads all the network's records.
"""

from __future__ import annotations

from cni.attach import record
from cni.kernel import link as links

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attach.node import Node


def of_network(node: Node, network: str) -> frozenset[tuple[str, str]]:
    """Container ID and interface name of each: its record is there, its namespace and its link on the node aren't.

    A namespace whose path is gone may live on in a process, but then so does the veth, both ends of it. What has no
    record isn't known to be gone: it may be another plugin's. So may the link that a chained plugin works on,
    whose record says nothing of it.
    """
    return frozenset(
        [
            (one.key.container_id, one.key.ifname)
            for one in node.records.of_network(network)
            if not one.config and not record.lives(one) and not links.find(node.nl, one.key.tag)
        ]
    )

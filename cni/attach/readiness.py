"""STATUS: whether an ADD could be served."""

from __future__ import annotations

from cni.kernel import link as links
from cni.spec.errors import NOT_AVAILABLE, PASSING, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attach.node import Node
    from cni.wanted import Addresses


def status(node: Node, addresses: Addresses, filters: bool) -> None:
    """Whether an ADD could be served, as far as lasting causes go. Raises CNIError 50, or what the IPAM says.

    Asked every few seconds, and a no makes the node NotReady: so it costs the same whatever there is on the node,
    and passing troubles are not told as lasting ones. `filters`: no pod can do without the packet filter.
    """
    try:
        node.prepare()
        node.require_room()
        links.find(node.nl, "lo")
        if filters:
            node.nf()  # refuses where the kernel has no packet filter
        if node.tables():
            from cni.attach import tables

            tables.repair(node)
    except OSError as error:
        if error.errno in PASSING:
            raise
        raise CNIError(NOT_AVAILABLE, f"the node can't attach pods: {error}", f"state is in {node.run_dir}") from error
    addresses.status()

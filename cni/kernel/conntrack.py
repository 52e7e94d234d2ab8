"""conntrack: what the kernel remembers of connections, and has to forget when their pod comes or goes.

(linux/netfilter/nfnetlink_conntrack.h)
"""

from __future__ import annotations

from cni.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipam.address import Address


class Flow(NamedTuple):
    """Connections to a port of the node that a pod serves."""

    protocol: int
    """IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP."""
    port: int
    """Of the node: the destination before translation."""
    address: Address
    """Of the pod: the destination after translation."""

"""The routed bridge: pods of one node are neighbours of their gateway alone, and reach each other through it.

What happens to a pod is what `bridge` does with `portIsolation`, but for its addresses: they bring no route to their
subnet; instead there is one to the gateway, and by the gateway to everywhere. So a packet from pod to pod goes up to
the node's IP layer and back down the same bridge, and passes the forward hook there: policy, services and host ports
see it without br_netfilter, which has frames of all switches of a node pass as packets, or of none.

The kernel would tell a pod of the shorter way that it then sees, by an ICMP redirect; the packet filter drops these
(see `masquerade`). What is given up is multicast and broadcast between pods. Throughput is the same (docs/bench.md).
"""

from __future__ import annotations

from cni.kernel.inet import LinkAddress, LinkRoute
from cni.kernel.ports import LinkUp
from cni.lean import NamedTuple
from ipam.address import BITS, Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.kernel.ports import Bridge
    from cni.wanted import Main, Pod, Wanted
    from ipam.address import Address


class RoutedFeature(NamedTuple):
    """A bridge whose ports are isolated, and whose pods know the way to their gateway only."""

    switch: Main
    """The bridge itself, whose ports are isolated, and which is the pods' gateway."""

    @property
    def needs(self) -> tuple[Bridge, ...]:
        return self.switch.needs

    @property
    def mac(self) -> str:
        return self.switch.mac

    @property
    def mtu(self) -> int:
        return self.switch.mtu

    def wanted(self, pod: Pod) -> Wanted:
        switched = self.switch.wanted(pod)
        gateways = dict.fromkeys([ip.gateway for ip in switched.ips if ip.gateway])
        ways = [LinkRoute(pod.ifname, _host(gateway)) for gateway in gateways]
        addresses = [one._replace(prefix_route=False) for one in switched.pod if isinstance(one, LinkAddress)]
        rest = [one for one in switched.pod if not isinstance(one, (LinkAddress, LinkUp))]
        return switched._replace(pod=(LinkUp(pod.ifname), *addresses, *ways, *rest))


def _host(address: Address) -> Network:
    """The network that is this address alone."""
    return Network(address.version, address.value, BITS[address.version])

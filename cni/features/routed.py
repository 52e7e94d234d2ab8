"""The routed bridge: pods of one node are neighbours of their gateway alone, and reach each other through it.

What happens to a pod is what `bridge` does, but for two things. Its addresses bring no route to their subnet; instead
there is one to the gateway, and by the gateway to everywhere. And its port takes frames for the gateway only, and gets
none that other ports send. So a packet from pod to pod goes up to the node's IP layer, back down the same bridge, and
passes the forward hook on its way: policy, services and host ports see it without br_netfilter, which has frames of all
switches of a node pass as packets, or of none.

Where br_netfilter is on all the same, it translates what the pod sends to a service before the bridge looks at it, and
the bridge, seeing a pod of its own behind the new address, passes the frame on by itself (the forward hook sees it
there). So the ports can't simply be isolated, which would end such frames; they are told apart by whom they were for
when they came, and may leave where they came in, for a service that leads back to its client.

The kernel would tell a pod of the shorter way that it then sees, by an ICMP redirect; the packet filter drops these
(see `masquerade`). What is given up is multicast and broadcast between pods. Throughput: docs/bench-kubernetes.md.
"""

from __future__ import annotations

from cni.kernel.inet import LinkAddress, LinkRoute
from cni.kernel.nft import Element, require_writable
from cni.kernel.ports import BridgePort, LinkUp
from cni.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from cni.kernel.ports import Bridge
    from cni.wanted import Main, Pod, Wanted

BRIDGE_RULES: Final = """\
table bridge podwire {
	set routed_ports { type ifname; }
	# A port, and its bridge's own MAC.
	set gateways { type ifname . ether_addr; }
	# A port, the pod's MAC, the gateway's, an address of the pod.
	set known4 { type ifname . ether_addr . ether_addr . ipv4_addr; }
	set known6 { type ifname . ether_addr . ether_addr . ipv6_addr; }

	# All that a pod has to say, but for neighbour discovery: one look, where the checks behind this take seven.
	chain known {
		iifname . ether saddr . ether daddr . ip saddr @known4 accept
		meta l4proto != icmpv6 iifname . ether saddr . ether daddr . ip6 saddr @known6 accept
	}
	chain routed {
		# What is for many reaches the node; that it goes no further the ports see to.
		ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 return
		iifname @routed_ports iifname . ether daddr != @gateways drop
	}
}
"""


class RoutedFeature(NamedTuple):
    """A bridge whose ports lead to the node alone, and whose pods know the way to their gateway only."""

    switch: Main
    """The bridge itself, which is the pods' gateway."""

    @property
    def needs(self) -> tuple[Bridge, ...]:
        return self.switch.needs

    @property
    def mac(self) -> str:
        return self.switch.mac

    @property
    def mtu(self) -> int:
        return self.switch.mtu

    @property
    def tables(self) -> tuple[str, ...]:
        return ("bridge",)

    def wanted(self, pod: Pod) -> Wanted:
        require_writable(pod.port)
        switched = self.switch.wanted(pod)
        gateways = dict.fromkeys([ip.gateway for ip in switched.ips if ip.gateway])
        ways = [LinkRoute(pod.ifname, gateway.alone().network) for gateway in gateways]
        addresses = [one._replace(prefix_route=False) for one in switched.pod if isinstance(one, LinkAddress)]
        rest = [one for one in switched.pod if not isinstance(one, (LinkAddress, LinkUp))]
        return switched._replace(
            pod=(LinkUp(pod.ifname), *addresses, *ways, *rest),
            node=(BridgePort(pod.port, hairpin=True, isolated=False, flooded=False), *switched.node),
            elements=tuple([Element(of, kind, text, pod.tag, family="bridge") for of, kind, text in self._known(pod)]),
        )

    @staticmethod
    def _known(pod: Pod) -> list[tuple[str, str, str]]:
        port, gateway = pod.port, pod.seen[pod.iif].mac
        known = [("routed_ports", "ifname", port), ("gateways", "ifname . ether_addr", f"{port} . {gateway}")]
        for address in dict.fromkeys([ip.address.address for ip in pod.ips]):
            kind = f"ifname . ether_addr . ether_addr . ipv{address.version}_addr"
            known.append((f"known{address.version}", kind, f"{port} . {pod.mac} . {gateway} . {address}"))
        return known

"""spoofing: a pod speaks for itself only, by the MAC and by the addresses that it was given.

What a frame says of its sender is looked up beside the port that it came in by, before the bridge learns anything of
it and before the node's IP layer sees it. An address stands in an IP header, and in what ARP and neighbour discovery
tell of who is where: believed, that draws the packets for another pod to this one.

The sets are keyed by the port, which is the attachment's own. Nothing here asks for connections, which the bridge
family doesn't know of everywhere. A pod whose MAC a later `tuning` changes is cut off where MACs are checked.

The reference's `macspoofchk` is the first half of it. `ipspoofchk` is ours: a pod of the reference's `bridge` may have
other addresses than its IPAM knows of.
"""

from __future__ import annotations

from cni.kernel.nft import Element, require_writable
from cni.lean import NamedTuple
from cni.wanted import Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self

    from cni.spec.netconf import NetConf
    from cni.wanted import Pod

BRIDGE_RULES: Final = """\
table bridge podwire {
	set mac_ports { type ifname; }
	set macs { type ifname . ether_addr; }
	set ip_ports { type ifname; }
	set ips4 { type ifname . ipv4_addr; }
	set ips6 { type ifname . ipv6_addr; }
	# The same as ips6, for a field that nft 1.0.6 has no name for, and so no other type.
	set targets6 { typeof iifname . @th,64,128; }

	chain spoofing {
		iifname @mac_ports iifname . ether saddr != @macs drop
		# What is neither IP nor ARP, or hides it behind a VLAN tag, has no sender that could be looked up.
		iifname @ip_ports ether type vmap { ip : goto senders4, arp : goto senders_arp, ip6 : goto senders6 }
		iifname @ip_ports drop
	}
	chain senders4 {
		iifname . ip saddr @ips4 accept
		drop
	}
	chain senders_arp {
		iifname . arp saddr ip @ips4 accept
		# Asks whether somebody has an address, without telling of one.
		arp saddr ip 0.0.0.0 accept
		drop
	}
	chain senders6 {
		# A pod is no router, and knows no better one.
		icmpv6 type { nd-router-advert, nd-redirect } drop
		# A neighbour's advertisement tells where its target is, which needn't be its sender. And who asks for a target
		# without having an address (duplicate address detection) keeps others from getting theirs.
		icmpv6 type nd-neighbor-advert jump targets
		ip6 saddr :: icmpv6 type nd-neighbor-solicit jump targets
		# Link-local addresses a pod makes for itself. Without an address it looks for routers, and joins groups.
		iifname . ip6 saddr @ips6 accept
		ip6 saddr fe80::/10 accept
		ip6 saddr :: meta l4proto icmpv6 accept
		drop
	}
	chain targets {
		iifname . @th,64,128 @targets6 return
		@th,64,10 0x3fa return
		drop
	}
}
"""


class SpoofingFeature(NamedTuple):
    """What of a pod's frames is checked."""

    mac: bool
    """That they come from the pod's MAC."""
    ip: bool
    """That they speak of the pod's addresses."""

    @classmethod
    def parse(cls, conf: NetConf) -> tuple[Self, ...]:
        """From the reference's key: one, or none. Raises CNIError 7."""
        return (cls(mac=True, ip=False),) if conf.keys.flag("macspoofchk") else ()

    @property
    def tables(self) -> tuple[str, ...]:
        return ("bridge",)

    def wanted(self, pod: Pod) -> Wanted:
        port = pod.port
        require_writable(port)
        found = []
        if self.mac:
            found += [("mac_ports", "ifname", port), ("macs", "ifname . ether_addr", f"{port} . {pod.mac}")]
        if self.ip:
            found.append(("ip_ports", "ifname", port))
            for address in dict.fromkeys([ip.address.address for ip in pod.ips]):
                version = address.version
                found.append((f"ips{version}", f"ifname . ipv{version}_addr", f"{port} . {address}"))
                if version == 6:
                    found.append(("targets6", "ifname . integer", f"{port} . 0x{address.value:032x}"))
        return Wanted(elements=tuple([Element(of, kind, text, pod.tag, family="bridge") for of, kind, text in found]))

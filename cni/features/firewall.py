"""firewall: whose packets a pod gets, and that its own are forwarded where others would drop them.

*Isolation* (`ingressPolicy`). A pod under a policy gets nothing from pods under a policy on other bridges; what comes
from outside, from the node and from bridges without a policy it gets. This is `same-bridge`. A pod that is `isolated`
gets nothing from its own bridge either. As in the reference, a bridge counts as under a policy from the first such
pod on, and what its other pods send as well: an address can be forged, the bridge that a packet comes by can't. And
what is published on the node is no way around it.

    routed      guarded4          bridge . pod       who gets nothing from other bridges …
                isolation_<hash>  chain of a bridge  … and what comes by this one, but for
                  homes4_<hash>   pod                … those who get all from their own
                  selves4_<hash>  pod . pod          … and a pod's packets to itself, by a port of the node
    switched    isolated_ports    port               nothing passes from these to other ports, or back, but …
                isolated_loops    port . port        … to itself, which a port of the node can lead to

A pod without a bridge has a link of its own instead of a chain (`guarded_links`). Switched packets pass the routed
rules too where br_netfilter is on, and come to the same end.

*Openings* (`backend`): see `forwarding`.
"""

from __future__ import annotations

from cni.kernel.forwarding import ADMIN_CHAIN, BACKENDS, ZONE, ForwardOpening
from cni.kernel.nft import TABLE, Claim, Element, Fragment, require_writable
from cni.key import digest
from cni.lean import NamedTuple
from cni.spec.errors import INVALID_CONFIG, CNIError
from cni.wanted import Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self

    from cni.spec.netconf import NetConf
    from cni.wanted import Pod
    from ipam.address import Address

OPEN: Final = "open"
SAME_BRIDGE: Final = "same-bridge"
ISOLATED: Final = "isolated"

RULES: Final = f"""
table inet {TABLE} {{
	set guarded4 {{ type ifname . ipv4_addr; }}
	set guarded6 {{ type ifname . ipv6_addr; }}
	set guarded_links {{ type ifname; }}
	set guarded_loops {{ type ifname . ifname; }}
	chain links {{
		iifname . oifname @guarded_loops accept
		oifname . ip daddr @guarded4 drop
		oifname . ip6 daddr @guarded6 drop
	}}
	chain isolation {{
		type filter hook forward priority filter; policy accept;
		iifname @guarded_links jump links
	}}
}}
"""

BRIDGE_RULES: Final = f"""
table bridge {TABLE} {{
	set isolated_ports {{ type ifname; }}
	set isolated_loops {{ type ifname . ifname; }}
	chain isolation {{
		type filter hook forward priority filter; policy accept;
		iifname . oifname @isolated_loops accept
		iifname @isolated_ports drop
		oifname @isolated_ports drop
	}}
}}
"""

_BRIDGE: Final = f"""
table inet {TABLE} {{
	set homes4_@ {{ type ipv4_addr; }}
	set homes6_@ {{ type ipv6_addr; }}
	set selves4_@ {{ type ipv4_addr . ipv4_addr; }}
	set selves6_@ {{ type ipv6_addr . ipv6_addr; }}
	chain isolation_@ {{
		type filter hook forward priority filter; policy accept;
		iifname != "%" accept
		oifname "%" ip daddr @homes4_@ accept
		oifname "%" ip6 daddr @homes6_@ accept
		oifname "%" ip saddr . ip daddr @selves4_@ accept
		oifname "%" ip6 saddr . ip6 daddr @selves6_@ accept
		oifname . ip daddr @guarded4 drop
		oifname . ip6 daddr @guarded6 drop
	}}
}}
"""
"""With a bridge's name for % and, where @ ends a name, the hash of it."""

_TYPES: Final = {4: "ipv4_addr", 6: "ipv6_addr"}
_LONGEST_CHAIN: Final = 28  # iptables(8)


class FirewallFeature(NamedTuple):
    """The configuration of `type: firewall`."""

    policy: str = OPEN
    backend: str = ""
    admin_chain: str = ADMIN_CHAIN
    zone: str = ZONE
    opens: bool = True
    """Whether the pod's packets are to pass where others would drop them."""

    @classmethod
    def parse(cls, conf: NetConf) -> Self:
        """Raises CNIError 7."""
        keys = conf.keys
        feature = cls(
            keys.text("ingressPolicy") or OPEN,
            keys.text("backend"),
            keys.text("iptablesAdminChainName") or ADMIN_CHAIN,
            keys.text("firewalldZone") or ZONE,
        )
        if feature.policy not in (OPEN, SAME_BRIDGE, ISOLATED):
            raise keys.error("ingressPolicy", f'"{OPEN}", "{SAME_BRIDGE}" or "{ISOLATED}"')
        if feature.backend not in BACKENDS:
            raise keys.error("backend", f"{', '.join([f'{one!a}' for one in BACKENDS if one])} or absent")
        if not _is_chain(feature.admin_chain):
            raise keys.error(
                "iptablesAdminChainName", f"a name of up to {_LONGEST_CHAIN} characters that iptables takes"
            )
        return feature

    @property
    def tables(self) -> tuple[str, ...]:
        # The second is for those of a bridge alone; what the pod has, nobody knows yet.
        return () if self.policy == OPEN else ("inet", "bridge") if self.policy == ISOLATED else ("inet",)

    def wanted(self, pod: Pod) -> Wanted:
        addresses = [ip.address.address for ip in pod.ips]
        openings = (
            tuple([ForwardOpening(one, self.backend, self.admin_chain, self.zone) for one in addresses])
            if self.opens
            else ()
        )
        if self.policy == OPEN:
            return Wanted(openings=openings)
        if not pod.iif:
            raise CNIError(
                INVALID_CONFIG,
                f"firewall: ingressPolicy is {self.policy}, and {pod.ifname} has no veth to the node",
                "name firewall behind bridge, ptp or podwire, or remove ingressPolicy",
            )
        require_writable(pod.iif)
        if pod.iif == pod.port:
            return Wanted(elements=_of_link(pod, addresses), openings=openings)
        bridge = digest(pod.iif)
        elements = [_guarded(pod, one) for one in addresses]
        for one in addresses:
            kind = _TYPES[one.version]
            claim = _claim(pod, one)
            elements.append(
                Element(f"selves{one.version}_{bridge}", f"{kind} . {kind}", f"{one} . {one}", pod.tag, claim)
            )
            if self.policy == SAME_BRIDGE:
                elements.append(Element(f"homes{one.version}_{bridge}", kind, f"{one}", pod.tag, claim))
        if self.policy == ISOLATED:
            loop = f"{pod.port} . {pod.port}"
            elements.append(Element("isolated_ports", "ifname", pod.port, pod.tag, family="bridge"))
            elements.append(Element("isolated_loops", "ifname . ifname", loop, pod.tag, family="bridge"))
        rules = _BRIDGE.replace("_@", f"_{bridge}").replace("%", pod.iif)  # a bridge's name may have an @
        fragments = (Fragment(bridge, rules),) if addresses else ()
        return Wanted(fragments=fragments, elements=tuple(elements), openings=openings)


def _of_link(pod: Pod, addresses: list[Address]) -> tuple[Element, ...]:
    """Of a pod that shares its link to the node with nobody."""
    return (
        Element("guarded_links", "ifname", pod.port, pod.tag),
        Element("guarded_loops", "ifname . ifname", f"{pod.port} . {pod.port}", pod.tag),
        *[_guarded(pod, one) for one in addresses],
    )


def _guarded(pod: Pod, address: Address) -> Element:
    return Element(
        f"guarded{address.version}",
        f"ifname . {_TYPES[address.version]}",
        f"{pod.iif} . {address}",
        pod.tag,
        _claim(pod, address),
    )


def _claim(pod: Pod, address: Address) -> Claim:
    # The sets know a pod by its address, which may be another's before this one is quite gone.
    return Claim(f"guarded:{pod.iif}:{address}")


def _is_chain(name: str) -> bool:
    """Whether iptables takes a name for a chain's, and its list of rules for one word."""
    plain = name.isascii() and name.isprintable() and not set(" \"'\\#") & set(name)
    return plain and len(name) <= _LONGEST_CHAIN and name[0] not in "-!"

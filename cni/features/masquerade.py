"""masquerade: what a pod sends beyond its network bears the node's address, since nobody there knows the way to pods.

A pod is an element of a set of its network's. The rules are one for each set of exempt networks, whatever number of
pods: what an element of the set sends to an address that is not exempt gets the address of the link that it leaves by.
Between pods of this node nothing is translated, whatever networks and bridges they are on.

Keys name the link by which a pod's packets come beside its address: another bridge may have the same subnet.
"""

from __future__ import annotations

from cni.kernel.nft import Claim, Element, Fragment, require_writable
from cni.key import digest
from cni.lean import NamedTuple
from cni.wanted import Wanted
from ipam.address import BITS, Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final, Self

    from cni.spec.netconf import NetConf
    from cni.spec.result import IPConfig
    from cni.wanted import Pod

RULES: Final = """\
table inet podwire {
	# Every pod that any rule knows, by the link that it is reached by.
	set pods4 { type ifname . ipv4_addr; }
	set pods6 { type ifname . ipv6_addr; }

	# A node that routes between pods of one bridge would tell each of a shorter way, and it would be true only where
	# they may talk past the node. The bridge's send_redirects doesn't prevent it: the kernel ORs it with that of "all",
	# and IPv6 has no such setting.
	chain redirects {
		type filter hook output priority filter; policy accept;
		icmp type redirect oifname . ip daddr @pods4 drop
		icmpv6 type nd-redirect oifname . ip6 daddr @pods6 drop
	}
}
"""

# Only the first packet of a connection comes here; conntrack has the others follow it. `iifname` is empty for what a
# bridge passes from port to port (with bridge-nf-call-iptables), so that never matches. Ports are chosen at random: of
# two connections that come at once and choose the same, one would lose its first packet.
_HEAD: Final = """\
table inet podwire {{
{sets}	chain masquerade_{name} {{
		type nat hook postrouting priority srcnat; policy accept;
{rules}	}}
}}
"""
_SET: Final = "\tset masquerade{v}_{name} {{ type ifname . ipv{v}_addr; }}\n"
_RULE: Final = (
    "\t\tiifname . {ip} saddr @masquerade{v}_{name} {ip} daddr != {{ {exempt} }} "
    "oifname . {ip} daddr != @pods{v} masquerade fully-random\n"
)
_MULTICAST: Final = {4: Network(4, 0xE0 << 24, 4), 6: Network(6, 0xFF << 120, 8)}

_BACKENDS: Final = ("", "iptables", "nftables")
"""Of `ipMasqBackend`: which of the two the reference uses. Ours is always nf_tables."""


class MasqueradeFeature(NamedTuple):
    """That a pod is masqueraded, but towards its own subnets, multicast, and `exempt`."""

    exempt: tuple[Network, ...] = ()
    masquerades: bool = True
    """False: the rules know the pod, and what it sends bears its own address."""

    @classmethod
    def parse(cls, conf: NetConf) -> tuple[Self, ...]:
        """From the reference's keys: one, or none. Raises CNIError 7."""
        keys = conf.keys
        if keys.text("ipMasqBackend") not in _BACKENDS:
            raise keys.error("ipMasqBackend", '"iptables" or "nftables"')
        return (cls(),) if keys.flag("ipMasq") else ()

    @property
    def tables(self) -> tuple[str, ...]:
        return ("inet",)

    def wanted(self, pod: Pod) -> Wanted:
        require_writable(pod.iif)
        addresses = dict.fromkeys([ip.address.address for ip in pod.ips])
        fragments = []
        sets = ["pods{}"]
        if self.masquerades and addresses:
            versions = sorted({address.version for address in addresses})
            subnets = [ip.address.network for ip in pod.ips if _holds_others(ip)]
            fragments.append(_fragment(versions, [*self.exempt, *subnets]))
            sets.append(f"masquerade{{}}_{fragments[0].name}")
        elements = []
        for address in addresses:
            version = address.version
            # One address is one pod's: on a bridge, and of those that the node routes to one by one.
            claim = Claim(f"address:{address}" if pod.iif == pod.port else f"address:{pod.iif}:{address}")
            for name in sets:
                key = f"{pod.iif} . {address}"
                elements.append(Element(name.format(version), f"ifname . ipv{version}_addr", key, pod.tag, claim))
        return Wanted(fragments=tuple(fragments), elements=tuple(elements))


def _fragment(versions: Sequence[int], exempt: Sequence[Network]) -> Fragment:
    """The rules for pods with addresses of these versions that are not masqueraded towards `exempt`."""
    networks = {v: _apart([_MULTICAST[v], *[one for one in exempt if one.version == v]]) for v in versions}
    told = {v: ", ".join([str(one) for one in networks[v]]) for v in versions}
    name = digest(" ".join(told.values()))
    sets = rules = ""
    for version in versions:
        sets += _SET.format(v=version, name=name)
        rules += _RULE.format(v=version, name=name, ip="ip6" if version == 6 else "ip", exempt=told[version])
    return Fragment(name, _HEAD.format(name=name, sets=sets, rules=rules))


def _holds_others(ip: IPConfig) -> bool:
    """Whether its subnet has room for more than the pod and its gateway.

    Where an IPAM gives each pod a subnet of its own, the rules must not grow with the pods; and nothing that the node
    would forward goes to such a one.
    """
    bits = BITS[ip.address.address.version] - ip.address.length
    return bits > (2 if ip.address.address.version == 4 else 1)


def _apart(networks: Iterable[Network]) -> list[Network]:
    """The same addresses in networks that don't overlap, in one order: nft takes no others into a set."""
    kept: list[Network] = []
    for network in sorted(networks, key=lambda one: (one.length, one.value)):
        if not [True for one in kept if one.holds(network.first)]:
            kept.append(network)
    return kept

"""portmap: ports of the node that lead to ports of a pod.

What happens to a packet for one of the node's addresses, wherever it comes from: after all other NAT has had its
say (kube-proxy, docker: at -100; what they translate isn't ours) its protocol and port, and the address where a
mapping is for one alone, are looked up in a map, and it goes to the pod. Nothing is looked up that is addressed to
anybody else: a packet on its way to a pod or to another machine passes, whatever its port.

    client ──▶ node:8080 ──▶ pod:80           source unchanged
    localhost:8080, node ──▶ pod:80           source: the node's address towards the pod
    pod ──▶ node:8080 ──▶ same pod, or one of the same bridge         likewise

The pod would answer the last three by itself, to an address that is its own, or to a neighbour that asked somebody
else; so these, and with `masqAll` all, are masqueraded. Which they are shows from the translation itself: the kernel
remembers the port that was asked for. No packet is marked.

For the sake of localhost (IPv4; Linux can't do it in IPv6) the pod's link takes and sends 127.0.0.0/8, and with
it anybody on that link could reach what listens on the node's loopback (CVE-2020-8558). So, before anything else
sees a packet, those addresses are dropped wherever they come in but by `lo`.

The number of rules is the same for any number of pods; a mapping is a few elements. Conditions, which are rules,
are loaded once for all pods that have the same.
"""

from __future__ import annotations

from cni.kernel.conntrack import Flow
from cni.kernel.nft import PROTOCOLS, Claim, Element, require_writable
from cni.kernel.sysctl import Sysctl
from cni.lean import NamedTuple
from cni.spec.errors import INVALID_CONFIG, CNIError, unsupported
from cni.wanted import Wanted
from ipam.address import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self

    from cni.kernel.nft import Fragment
    from cni.spec.netconf import NetConf
    from cni.spec.section import Section
    from cni.wanted import Pod

# Which of the translated packets are masqueraded is told by the link that they leave by and what they had asked for:
# those from localhost; those that br_netfilter translated while they were bridged (they came by no link that is told
# of, like the node's own); those that leave by the link they came by; and all that `masqAll` is for.
RULES: Final = """
table inet podwire {
	map hostports4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
	map hostports6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
	map hostports_any4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
	map hostports_any6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
	set hostports_snat4 { type ifname . ipv4_addr . inet_proto . inet_service; }
	set hostports_snat6 { type ifname . ipv6_addr . inet_proto . inet_service; }
	set hostports_masq4 { type ifname . ipv4_addr . inet_proto . inet_service; }
	set hostports_masq6 { type ifname . ipv6_addr . inet_proto . inet_service; }

	chain hostports_localnet {
		type filter hook prerouting priority -300; policy accept;
		iif != "lo" ip saddr 127.0.0.0/8 drop
		iif != "lo" ip daddr 127.0.0.0/8 drop
	}
	chain hostports {
		ip6 daddr ::1 return
		dnat ip to ip daddr . meta l4proto . th dport map @hostports4
		dnat ip to meta l4proto . th dport map @hostports_any4
		dnat ip6 to ip6 daddr . meta l4proto . th dport map @hostports6
		dnat ip6 to meta l4proto . th dport map @hostports_any6
	}
	chain hostports_prerouting {
		type nat hook prerouting priority -90; policy accept;
		fib daddr type local jump hostports
	}
	chain hostports_output {
		type nat hook output priority -90; policy accept;
		fib daddr type local jump hostports
	}
	chain hostports_back {
		meta l4proto { tcp, udp, sctp } \
			oifname . ip daddr . meta l4proto . ct original proto-dst @hostports_snat4 masquerade fully-random
		meta l4proto { tcp, udp, sctp } \
			oifname . ip6 daddr . meta l4proto . ct original proto-dst @hostports_snat6 masquerade fully-random
	}
	chain hostports_masquerade {
		ip saddr 127.0.0.0/8 jump hostports_back
		iif 0 fib saddr type != local jump hostports_back
		meta l4proto { tcp, udp, sctp } \
			iifname . ip daddr . meta l4proto . ct original proto-dst @hostports_snat4 masquerade fully-random
		meta l4proto { tcp, udp, sctp } \
			iifname . ip6 daddr . meta l4proto . ct original proto-dst @hostports_snat6 masquerade fully-random
		meta l4proto { tcp, udp, sctp } \
			oifname . ip daddr . meta l4proto . ct original proto-dst @hostports_masq4 masquerade fully-random
		meta l4proto { tcp, udp, sctp } \
			oifname . ip6 daddr . meta l4proto . ct original proto-dst @hostports_masq6 masquerade fully-random
	}
	chain hostports_postrouting {
		type nat hook postrouting priority 100; policy accept;
		ct status dnat jump hostports_masquerade
	}
}
"""

_PORT_MOST: Final = 65535
_PROTOCOLS: Final = ("tcp", "udp", "sctp")
_PORT: Final = "inet_proto . inet_service"
_MAPPED: Final = 0xFFFF  # ::ffff:0:0/96, IPv4 addresses in IPv6's clothes
_ANY: Final = {4: "0.0.0.0", 6: "::"}
_LOOPBACK_6: Final = Address(6, 1)


class Mapping(NamedTuple):
    """One port of the node that leads to one of the pod."""

    protocol: str
    host_port: int
    container_port: int
    host: Address | None
    """The address of the node that it is for; 0.0.0.0 or :: for all of a family, None for all that the pod has."""


class PortMapFeature(NamedTuple):
    """The configuration of `type: portmap`."""

    mappings: tuple[Mapping, ...]
    snat: bool
    """Whether the pod, its neighbours and the node's localhost can use the ports as well."""
    masquerade_all: bool
    conditions: tuple[tuple[int, str], ...] = ()
    """What else must hold of a packet, by version of IP, as nft has it; a version without any isn't here."""

    @classmethod
    def parse(cls, conf: NetConf) -> Self:
        """Raises CNIError 7 for what can't be, 2 for what the reference does and this doesn't."""
        keys = conf.keys
        if keys.text("backend") not in ("", "iptables", "nftables"):
            raise keys.error("backend", '"nftables", or "iptables", which is done the same way here')
        if keys.has("externalSetMarkChain"):
            if keys.has("markMasqBit"):
                raise CNIError(
                    INVALID_CONFIG,
                    "Cannot specify externalSetMarkChain and markMasqBit",
                    "remove both from the network configuration: no packets are marked here",
                )
            raise unsupported(
                keys.where,
                "externalSetMarkChain",
                keys.raw("externalSetMarkChain"),
                "what is to be masqueraded is told by the translation itself, so no chain marks packets",
            )
        keys.integer("markMasqBit", least=0, most=31)  # of no effect: no packets are marked
        conditions: tuple[tuple[int, str], ...] = ()
        if keys.has("conditionsV4") or keys.has("conditionsV6"):
            from cni import portconditions

            conditions = portconditions.parse(keys)
        return cls(
            mappings=_mappings(conf.runtime_config),
            snat=keys.flag("snat", True),
            masquerade_all=keys.flag("masqAll"),
            conditions=conditions,
        )

    @property
    def tables(self) -> tuple[str, ...]:
        return ("inet",) if self.mappings else ()

    def wanted(self, pod: Pod) -> Wanted:
        """Nothing, where no port is mapped. Raises CNIError for a mapping that this pod can't have."""
        if not self.mappings:
            return Wanted()
        if self.masquerade_all and not pod.iif:
            raise unsupported(
                "portmap", "masqAll", True, f"{pod.ifname} has no other end on the node, by which its packets would go"
            )
        if self._snats(pod) or self.masquerade_all:
            require_writable(pod.iif)
        addresses: dict[int, Address] = {}
        for ip in pod.ips:
            addresses.setdefault(ip.address.address.version, ip.address.address)
        suffixes: dict[int, str] = {}
        fragments: list[Fragment] = []
        if self.conditions:
            from cni import portconditions

            suffixes = {version: portconditions.suffix(version, text) for version, text in self.conditions}
            fragments = [portconditions.fragment(version, text) for version, text in self.conditions]
        # By set and text: ports of two of the node's addresses are one to whom the source doesn't depend on that.
        elements: dict[tuple[str, str], Element] = {}
        flows: list[Flow] = []
        localhost = False
        for mapping in self.mappings:
            host = mapping.host
            served = [address for version, address in addresses.items() if not host or version == host.version]
            if not served:
                raise _homeless(mapping, pod)
            for address in served:
                for element in self._elements(pod, mapping, address, suffixes.get(address.version, "")):
                    elements.setdefault((element.set, element.text), element)
                one = host if host and host.value else None
                flows.append(Flow(PROTOCOLS[mapping.protocol], mapping.host_port, address, one))
                localhost = localhost or (address.version == 4 and (not one or one.value >> 24 == 127))
        return Wanted(
            # `hostports_localnet` is in force by then: a table is made before settings are.
            settings=(Sysctl(f"net/ipv4/conf/{pod.iif}/route_localnet", "1"),)
            if self._snats(pod) and localhost
            else (),
            fragments=tuple(fragments),
            elements=tuple(elements.values()),
            flows=tuple(flows),
        )

    def _snats(self, pod: Pod) -> bool:
        """What has no link on the node isn't reached by one."""
        return self.snat and bool(pod.iif)

    def _elements(self, pod: Pod, mapping: Mapping, address: Address, suffix: str) -> list[Element]:
        protocol, host_port, container_port, host = mapping
        version = address.version
        kind = f"ipv{version}_addr"
        port = f"{protocol} . {host_port}"
        if host and host.value:
            claim = Claim(f"{protocol}:{host_port}", str(host))
            name, key_type, key = f"hostports{version}", f"{kind} . {_PORT}", f"{host} . {port}"
        else:
            claim = Claim(f"{protocol}:{host_port}", _ANY[version])
            name, key_type, key = f"hostports_any{version}", _PORT, port
        value = f"{address} . {container_port}"
        found = [Element(name + suffix, f"{key_type} : {kind} . inet_service", f"{key} : {value}", pod.tag, claim)]
        sets = ["snat"] if self._snats(pod) else []
        sets += ["masq"] if self.masquerade_all else []
        return found + [
            Element(
                f"hostports_{one}{version}",
                f"ifname . {kind} . {_PORT}",
                f"{pod.iif} . {address} . {port}",
                pod.tag,
                claim,
            )
            for one in sets
        ]


def _mappings(keys: Section) -> tuple[Mapping, ...]:
    """What the runtime asked for, `runtimeConfig.portMappings`. Raises CNIError 7, or 2 for localhost in IPv6."""
    found = []
    there: set[tuple[str, int, int, int]] = set()
    for one in keys.sections("portMappings"):
        protocol = one.text("protocol").lower() or "tcp"
        if protocol not in _PROTOCOLS:
            raise one.error("protocol", "tcp, udp or sctp")
        mapping = Mapping(
            protocol, _port(one, "hostPort", "host"), _port(one, "containerPort", "container"), _host(one)
        )
        host = mapping.host
        for version in (host.version,) if host else (4, 6):
            place = protocol, mapping.host_port, version, host.value if host else 0
            if place in there:
                raise CNIError(
                    INVALID_CONFIG,
                    f"{one.where}: hostPort {mapping.host_port}/{protocol} is mapped twice",
                    "a port of the node leads to one port of the pod",
                )
            there.add(place)
        found.append(mapping)
    return tuple(found)


def _port(keys: Section, key: str, whose: str) -> int:
    port = keys.integer(key)
    if not 0 < port <= _PORT_MOST:
        raise CNIError(
            INVALID_CONFIG,
            f"Invalid {whose} port number: {port}",
            f"{keys.where}: {key} must be from 1 to {_PORT_MOST}",
        )
    return port


def _host(keys: Section) -> Address | None:
    text = keys.text("hostIP")
    if not text:
        return None
    try:
        host = Address.parse(text)
    except ValueError:
        raise keys.error("hostIP", "an IP address, or absent") from None
    if host.version == 6 and host.value >> 32 == _MAPPED:
        host = Address(4, host.value & 0xFFFFFFFF)
    if host == _LOOPBACK_6:
        raise unsupported(
            keys.where, "hostIP", text, "Linux takes packets from ::1 to no other host (127.0.0.1 it does)"
        )
    return host


def _homeless(mapping: Mapping, pod: Pod) -> CNIError:
    family = f"IPv{mapping.host.version} " if mapping.host else ""
    there = ", ".join([str(ip.address.address) for ip in pod.ips]) or "none"
    return CNIError(
        INVALID_CONFIG,
        f"hostPort {mapping.host_port}/{mapping.protocol}{f' of {mapping.host}' if mapping.host else ''}: "
        f"the pod has no {family}address that it could lead to",
        f"its addresses on {pod.ifname} are: {there}",
    )

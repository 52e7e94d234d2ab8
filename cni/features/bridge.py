"""bridge: the pod is a port of a switch on its node, and the node, if asked, its gateway.

What happens to a pod: a veth is made whose one end, CNI_IFNAME, is in the pod and whose other end, named by
the attachment's tag, is a port of the bridge. The pod's end gets the addresses that IPAM reserved and its
routes. Where the node is the gateway, the bridge carries the gateway's addresses, forwarding is on, and each
side is told the other's MAC, so that the first packet needs no ARP and no neighbour discovery.

Pods of one bridge reach each other by switching; use `portIsolation` to have them not.
"""

from __future__ import annotations

from cni.kernel.inet import RT_SCOPE_LINK, RT_TABLE_MAIN, LinkAddress, LinkRoute
from cni.kernel.neighbour import FdbEntry, Neighbour
from cni.kernel.ports import Bridge, BridgePort, LinkUp, Veth
from cni.kernel.sysctl import Sysctl
from cni.lean import NamedTuple
from cni.spec.errors import INVALID_CONFIG, INVALID_ENVIRONMENT, CNIError, config_error, unsupported
from cni.spec.request import MAC_NEED, is_mac, require_ifname
from cni.spec.result import Interface, IPConfig, Route
from cni.wanted import Switch, Wanted
from ipam.address import Address, Network, default_route
from ipam.address import Interface as Prefixed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from cni.spec.netconf import NetConf
    from cni.wanted import Pod

_LARGEST_MTU = 65535
_LEAST_IPV6_MTU = 1280  # RFC 8200; below it Linux switches IPv6 off on the link
# Keys that the reference has and this does not do yet, with the values that ask for nothing.
_UNSUPPORTED = {
    "vlan": "bridge VLAN filtering is not implemented",
    "vlanTrunk": "bridge VLAN filtering is not implemented",
    "macspoofchk": "filtering of spoofed MACs is not implemented",
    "promiscMode": "use hairpinMode, which the bridge does not flood frames for",
    "forceAddress": "a stale gateway address is replaced without it once no attachment uses it",
    "ipMasq": "masquerading is not implemented; add a rule of your own for the subnet",
    "ipMasqBackend": "masquerading is not implemented",
}


class BridgeFeature(NamedTuple):
    """The configuration of `type: bridge`."""

    bridge: str
    mtu: int
    """0: the bridge's, where there is one, else the kernel's default."""
    is_gateway: bool
    is_default_gateway: bool
    hairpin: bool
    isolated: bool
    dad: bool
    interface_down: bool
    """L2 only, and the pod's end stays down."""
    mac: str

    @classmethod
    def parse(cls, conf: NetConf, args: Mapping[str, str]) -> Self:
        """Raises CNIError 7 for what can't be, 2 for what the reference does and this doesn't."""
        keys = conf.keys
        for key, why in _UNSUPPORTED.items():
            if keys.raw(key) not in (None, False, 0, "", []):
                raise unsupported(keys.where, key, keys.raw(key), why)
        name = keys.text("bridge") or "cni0"
        try:
            require_ifname(name)
        except CNIError as error:
            raise config_error(keys.where, "bridge", name, f"the name of an interface ({error.msg})") from None
        feature = cls(
            bridge=name,
            mtu=keys.integer("mtu", least=0, most=_LARGEST_MTU),
            is_gateway=keys.flag("isGateway") or keys.flag("isDefaultGateway"),
            is_default_gateway=keys.flag("isDefaultGateway"),
            hairpin=keys.flag("hairpinMode"),
            isolated=keys.flag("portIsolation"),
            dad=keys.flag("enabledad"),
            interface_down=keys.flag("disableContainerInterface"),
            mac=_mac(conf, args),
        )
        keys.flag("preserveDefaultVlan")  # of no effect without `vlan`, but it must be true or false
        if feature.interface_down and not conf.ipam.empty:
            raise CNIError(
                INVALID_CONFIG,
                "cannot use IPAM when DisableContainerInterface flag is set",
                "remove ipam or disableContainerInterface from the network configuration",
            )
        return feature

    @property
    def needs(self) -> tuple[Bridge, ...]:
        return (Bridge(self.bridge, "", self.mtu),)

    def wanted(self, pod: Pod) -> Wanted:
        seen = pod.seen[self.bridge]
        mtu = self.mtu or seen.mtu
        ips = tuple([self._with_gateway(ip) for ip in pod.ips])
        routes = pod.routes + self._default_routes(ips, pod.routes)
        versions = sorted({ip.address.address.version for ip in ips})
        if pod.mac == seen.mac:
            # The bridge would pass on to the pod what all others send to the node.
            raise CNIError(
                INVALID_CONFIG,
                f"MAC {pod.mac} is that of {self.bridge} itself, so a pod can't have it",
                "ask for another one, or for none",
            )
        if 6 in versions and mtu < _LEAST_IPV6_MTU:
            raise CNIError(
                INVALID_CONFIG,
                f"an MTU of {mtu} is too small for IPv6, which needs {_LEAST_IPV6_MTU}",
                f'set "mtu" in the network configuration, or raise that of {self.bridge}',
            )
        gateways = (
            tuple([Prefixed(ip.gateway, ip.address.length) for ip in ips if ip.gateway]) if self.is_gateway else ()
        )
        return Wanted(
            switches=(Switch(Bridge(self.bridge, seen.mac, mtu), tuple(dict.fromkeys(gateways))),),
            settings=tuple([_FORWARDING[version] for version in versions]) if self.is_gateway else (),
            veths=(Veth(pod.tag, pod.host_mac, pod.ifname, pod.mac, mtu, self.bridge),),
            tuning=_tuning(pod.ifname, versions, self.dad),
            pod=() if self.interface_down else self._in_pod(pod, ips, routes, seen.mac),
            node=self._on_node(pod, ips),
            interfaces=(
                Interface(self.bridge, seen.mac, mtu=max(mtu, seen.mtu)),
                Interface(pod.tag, pod.host_mac, mtu=mtu),
                Interface(pod.ifname, pod.mac, pod.netns, mtu=mtu),
            ),
            ips=tuple([ip._replace(interface=2) for ip in ips]),
            routes=routes,
        )

    def _with_gateway(self, ip: IPConfig) -> IPConfig:
        """As a gateway the node needs an address: IPAM's word, or else the first of the subnet. Raises CNIError."""
        if not self.is_gateway:
            return ip
        network = ip.address.network
        gateway = ip.gateway or Address(network.version, network.value + 1)
        if gateway == ip.address.address or not (ip.gateway or network.holds(gateway)):
            raise CNIError(
                INVALID_CONFIG,
                f"IPAM gave the pod {ip.address}{f' with gateway {ip.gateway}' if ip.gateway else ''}, "
                "which leaves no address for the node as its gateway",
                "have IPAM name another gateway, or set isGateway and isDefaultGateway to false",
            )
        return ip._replace(gateway=gateway)

    def _default_routes(self, ips: tuple[IPConfig, ...], routes: tuple[Route, ...]) -> tuple[Route, ...]:
        """One of each family that has a gateway, unless IPAM brought one."""
        if not self.is_default_gateway:
            return ()
        there = {route.dst for route in routes if _table(route) == RT_TABLE_MAIN}
        new: dict[Network, Route] = {}
        for ip in ips:
            default = default_route(ip.address.address.version)
            if ip.gateway and default not in there:
                new.setdefault(default, Route(default, ip.gateway))
        return tuple(new.values())

    def _in_pod(
        self, pod: Pod, ips: tuple[IPConfig, ...], routes: tuple[Route, ...], bridge_mac: str
    ) -> tuple[LinkUp | LinkAddress | LinkRoute | Neighbour, ...]:
        gateways: dict[int, Address] = {}
        for ip in ips:
            if ip.gateway:
                gateways.setdefault(ip.address.address.version, ip.gateway)
        link = pod.ifname
        return (
            LinkUp(link),
            *[LinkAddress(link, ip.address, self.dad) for ip in ips],
            *[Neighbour(link, ip.gateway, bridge_mac) for ip in ips if ip.gateway and self.is_gateway],
            *[
                LinkRoute.of(link, route if _is_on_link(route) else route._replace(gw=gateways.get(route.dst.version)))
                for route in _distinct(routes, ips)
            ],
        )

    def _on_node(self, pod: Pod, ips: tuple[IPConfig, ...]) -> tuple[BridgePort | FdbEntry | Neighbour, ...]:
        port = (BridgePort(pod.tag, self.hairpin, self.isolated),) if self.hairpin or self.isolated else ()
        if self.interface_down:
            return port
        # Only a node that has an address on the bridge ever looks for the pods there.
        seeds = [Neighbour(self.bridge, ip.address.address, pod.mac) for ip in ips] if self.is_gateway else []
        return (*port, FdbEntry(pod.tag, pod.mac), *seeds)


_FORWARDING = {
    4: Sysctl("net/ipv4/ip_forward", "1"),
    6: Sysctl("net/ipv6/conf/all/forwarding", "1"),
}


def _distinct(routes: tuple[Route, ...], ips: tuple[IPConfig, ...]) -> list[Route]:
    """Those that the kernel will keep: of one destination, table and metric there is one route, and the first stays.

    IPAM plugins repeat themselves, and an IPv4 address brings the route to its subnet along.
    """
    there = {(ip.address.network, RT_TABLE_MAIN, 0) for ip in ips if ip.address.address.version == 4}
    distinct = []
    for route in routes:
        place = route.dst, _table(route), route.priority
        if place not in there:
            there.add(place)
            distinct.append(route)
    return distinct


def _table(route: Route) -> int:
    return route.table or RT_TABLE_MAIN


def _is_on_link(route: Route) -> bool:
    """Whether a route is to go without the subnet's gateway: it has its own, or its scope says that it needs none."""
    return route.gw is not None or (route.scope is not None and route.scope >= RT_SCOPE_LINK)


def _tuning(link: str, versions: list[int], dad: bool) -> tuple[Sysctl, ...]:
    """What the pod's link must be like. Without addresses it is left as it comes: somebody else will see to it."""
    # Announce a changed MAC at once: the neighbours that we told of the first one would keep to it for half a minute.
    tuning = [Sysctl(f"net/ipv4/conf/{link}/arp_notify", "1")] if 4 in versions else []
    if 6 in versions:
        tuning += [
            # Images and runtimes switch IPv6 off in new namespaces by default; a pod that has an address wants it on.
            Sysctl("net/ipv6/conf/lo/disable_ipv6", "0"),
            Sysctl(f"net/ipv6/conf/{link}/disable_ipv6", "0"),
            # Otherwise a chained plugin that sets the link down for a moment loses the pod its addresses.
            Sysctl(f"net/ipv6/conf/{link}/keep_addr_on_down", "1"),
            Sysctl(f"net/ipv6/conf/{link}/ndisc_notify", "1"),
        ]
        if dad:
            tuning += [
                Sysctl(f"net/ipv6/conf/{link}/accept_dad", "1"),
                Sysctl(f"net/ipv6/conf/{link}/enhanced_dad", "1"),
            ]
    return tuple(tuning)


def _mac(conf: NetConf, args: Mapping[str, str]) -> str:
    """The MAC asked for: runtimeConfig before args.cni before CNI_ARGS. Raises CNIError 7, or 4 for CNI_ARGS."""
    for section in (conf.runtime_config, conf.args):
        mac = section.text("mac")
        if mac:
            if not is_mac(mac):
                raise section.error("mac", MAC_NEED)
            return mac.lower()
    mac = args.get("MAC", "")
    if mac and not is_mac(mac):
        raise CNIError(INVALID_ENVIRONMENT, f"CNI_ARGS: MAC must be {MAC_NEED}, got {mac}")
    return mac.lower()

"""bridge: the pod is a port of a switch on its node, and the node, if asked, its gateway.

What happens to a pod: a veth is made whose one end, CNI_IFNAME, is in the pod and whose other end, named by
the attachment's tag, is a port of the bridge. The pod's end gets the addresses that IPAM reserved and its
routes. Where the node is the gateway, the bridge carries the gateway's addresses, forwarding is on, and each
side is told the other's MAC, so that the first packet needs no ARP and no neighbour discovery.

Pods of one bridge reach each other by switching; use `portIsolation` to have them not.
"""

from __future__ import annotations

from cni import pods
from cni.kernel.inet import LinkAddress
from cni.kernel.neighbour import FdbEntry, Neighbour
from cni.kernel.ports import Bridge, BridgePort, LinkUp, Veth
from cni.lean import NamedTuple
from cni.spec.errors import INVALID_CONFIG, CNIError, unsupported
from cni.spec.result import Interface
from cni.wanted import Switch, Wanted
from ipam.address import Interface as Prefixed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from cni.kernel.inet import LinkRoute
    from cni.spec.netconf import NetConf
    from cni.spec.result import IPConfig, Route
    from cni.wanted import Pod

# What the reference does and this doesn't.
_UNSUPPORTED = ("vlan", "vlanTrunk")


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
    promisc: bool
    """The bridge passes every frame to the node too."""
    force_address: bool
    """Another gateway address goes from the bridge, whoever uses it."""

    @classmethod
    def parse(cls, conf: NetConf, args: Mapping[str, str]) -> Self:
        """Raises CNIError 7 for what can't be, 2 for what the reference does and this doesn't."""
        keys = conf.keys
        for key in _UNSUPPORTED:
            if keys.raw(key) not in (None, False, 0, "", []):  # which ask for nothing
                raise unsupported(keys.where, key, keys.raw(key), "bridge VLAN filtering is not implemented")
        feature = cls(
            bridge=pods.link_name(keys, "bridge") or "cni0",
            mtu=keys.integer("mtu", least=0, most=pods.LARGEST_MTU),
            is_gateway=keys.flag("isGateway") or keys.flag("isDefaultGateway"),
            is_default_gateway=keys.flag("isDefaultGateway"),
            hairpin=keys.flag("hairpinMode"),
            isolated=keys.flag("portIsolation"),
            dad=keys.flag("enabledad"),
            interface_down=keys.flag("disableContainerInterface"),
            mac=pods.mac_of(conf, args),
            promisc=keys.flag("promiscMode"),
            force_address=keys.flag("forceAddress"),
        )
        keys.flag("preserveDefaultVlan")  # of no effect without `vlan`, but it must be true or false
        if feature.interface_down and not conf.ipam.empty:
            raise CNIError(
                INVALID_CONFIG,
                "cannot use IPAM when DisableContainerInterface flag is set",
                "remove ipam or disableContainerInterface from the network configuration",
            )
        if feature.hairpin and feature.promisc:
            raise CNIError(
                INVALID_CONFIG,
                "cannot set hairpin mode and promiscuous mode at the same time",
                "remove promiscMode or hairpinMode from the network configuration",
            )
        return feature

    @property
    def needs(self) -> tuple[Bridge, ...]:
        return (Bridge(self.bridge, "", self.mtu, self.promisc),)

    def wanted(self, pod: Pod) -> Wanted:
        seen = pod.seen[self.bridge]
        mtu = self.mtu or seen.mtu
        ips, routes = pod.ips, pod.routes
        if self.is_gateway:
            otherwise = ", or set isGateway and isDefaultGateway to false"
            ips = tuple([pods.with_gateway(ip, otherwise) for ip in ips])
        if self.is_default_gateway:
            routes += pods.default_routes(ips, routes)
        versions = pods.versions_of(ips)
        if pod.mac == seen.mac:
            # The bridge would pass on to the pod what all others send to the node.
            raise CNIError(
                INVALID_CONFIG,
                f"MAC {pod.mac} is that of {self.bridge} itself, so a pod can't have it",
                "ask for another one, or for none",
            )
        pods.require_mtu(mtu, versions, f", or raise that of {self.bridge}")
        gateways = (
            tuple([Prefixed(ip.gateway, ip.address.length) for ip in ips if ip.gateway]) if self.is_gateway else ()
        )
        return Wanted(
            switches=(
                Switch(
                    Bridge(self.bridge, seen.mac, mtu, self.promisc),
                    tuple(dict.fromkeys(gateways)),
                    self.force_address,
                ),
            ),
            settings=tuple([pods.FORWARDING[version] for version in versions]) if self.is_gateway else (),
            veths=(Veth(pod.tag, pod.host_mac, pod.ifname, pod.mac, mtu, self.bridge),),
            tuning=pods.tuning(pod.ifname, versions, self.dad),
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

    def _in_pod(
        self, pod: Pod, ips: tuple[IPConfig, ...], routes: tuple[Route, ...], bridge_mac: str
    ) -> tuple[LinkUp | LinkAddress | LinkRoute | Neighbour, ...]:
        link = pod.ifname
        # An IPv4 address brings the route to its subnet along.
        subnets = {ip.address.network for ip in ips if ip.address.address.version == 4}
        return (
            LinkUp(link),
            *[LinkAddress(link, ip.address, self.dad) for ip in ips],
            *[Neighbour(link, ip.gateway, bridge_mac) for ip in ips if ip.gateway and self.is_gateway],
            *pods.routes_over(link, ips, routes, subnets),
        )

    def _on_node(self, pod: Pod, ips: tuple[IPConfig, ...]) -> tuple[BridgePort | FdbEntry | Neighbour, ...]:
        port = (BridgePort(pod.tag, self.hairpin, self.isolated),) if self.hairpin or self.isolated else ()
        if self.interface_down:
            return port
        # Only a node that has an address on the bridge ever looks for the pods there.
        seeds = [Neighbour(self.bridge, ip.address.address, pod.mac) for ip in ips] if self.is_gateway else []
        return (*port, FdbEntry(pod.tag, pod.mac), *seeds)

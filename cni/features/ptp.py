"""ptp: the pod and its node at the two ends of a wire, and the node routes.

What happens to a pod: a veth is made whose one end, CNI_IFNAME, is in the pod, and whose other end, named by the
attachment's tag, is a link of the node like any other. The node's end bears the gateway's address, by itself, so all of
these links bear the same; and one route leads to each of the pod's addresses. In the pod nobody is on the link but the
gateway: its whole subnet is behind that. So whatever pods say to each other passes the node's IP layer.

    pod                                              node
    10.1.0.2/24 on eth0                              10.1.0.1/32 on pw…
    10.1.0.1 dev eth0 scope link src 10.1.0.2        10.1.0.2 dev pw… scope host
    10.1.0.0/24 via 10.1.0.1 src 10.1.0.2

Each side is told the other's MAC, so that the first packet needs no ARP and no neighbour discovery. All of it hangs on
the veth, and goes with it.
"""

from __future__ import annotations

from cni import pods
from cni.kernel.inet import RT_SCOPE_HOST, RT_SCOPE_LINK, LinkAddress, LinkRoute
from cni.kernel.neighbour import Neighbour
from cni.kernel.ports import LinkUp, Veth
from cni.kernel.sysctl import Sysctl
from cni.lean import NamedTuple
from cni.spec.errors import INVALID_CONFIG, CNIError
from cni.spec.result import Interface
from cni.wanted import Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final, Self

    from cni.kernel.ports import Bridge
    from cni.spec.netconf import NetConf
    from cni.spec.result import IPConfig
    from cni.wanted import Pod
    from ipam.address import Address, Network

_USUAL_MTU: Final = 1500  # what the kernel gives a veth


class PtpFeature(NamedTuple):
    """The configuration of `type: ptp`."""

    mtu: int
    """0: the kernel's default."""
    mac: str
    needs: tuple[Bridge, ...] = ()

    @classmethod
    def parse(cls, conf: NetConf, args: Mapping[str, str]) -> Self:
        """Raises CNIError 7."""
        if conf.ipam.empty:
            raise CNIError(
                INVALID_CONFIG,
                "no plugin name provided",
                'ptp routes to addresses, so the network configuration needs an "ipam" with a "type"',
            )
        return cls(conf.keys.integer("mtu", least=0, most=pods.LARGEST_MTU), pods.mac_of(conf, args))

    def wanted(self, pod: Pod) -> Wanted:
        if not pod.ips:
            raise CNIError(
                INVALID_CONFIG, "IPAM plugin returned missing IP config", "ptp routes to addresses, so a pod needs one"
            )
        mtu = self.mtu or _USUAL_MTU
        ips = tuple([pods.with_gateway(ip, "") for ip in pod.ips])
        versions = pods.versions_of(ips)
        pods.require_mtu(mtu, versions, "")
        gateways = _gateways(ips)
        port = pod.port
        return Wanted(
            settings=tuple([pods.FORWARDING[version] for version in versions]),
            veths=(Veth(port, pod.host_mac, pod.ifname, pod.mac, self.mtu),),
            # A router advertisement from a pod would reconfigure the node (CVE-2020-10749), whether or not the pod was
            # given an IPv6 address.
            fences=(Sysctl(f"net/ipv6/conf/{port}/accept_ra", "0"),),
            tuning=pods.tuning(pod.ifname, versions, dad=False),
            pod=self._in_pod(pod, ips, gateways),
            node=(
                *[LinkAddress(port, gateway.alone()) for gateway in gateways],
                *[_route_to(port, ip.address.address) for ip in ips],
                *[Neighbour(port, ip.address.address, pod.mac) for ip in ips],
            ),
            interfaces=(
                Interface(port, pod.host_mac, mtu=mtu),
                Interface(pod.ifname, pod.mac, pod.netns, mtu=mtu),
            ),
            ips=tuple([ip._replace(interface=1) for ip in ips]),
            routes=pod.routes,
        )

    def _in_pod(
        self, pod: Pod, ips: tuple[IPConfig, ...], gateways: dict[Address, Address]
    ) -> tuple[LinkUp | LinkAddress | LinkRoute | Neighbour, ...]:
        link = pod.ifname
        # Where two addresses share a subnet, the first is the one that packets to it bear.
        subnets: dict[Network, LinkRoute] = {}
        for ip in ips:
            network = ip.address.network
            if network != ip.address.address.alone().network:
                subnets.setdefault(network, LinkRoute(link, network, ip.gateway, src=ip.address.address))
        return (
            LinkUp(link),
            *[LinkAddress(link, ip.address, prefix_route=False) for ip in ips],
            *[
                LinkRoute(link, gateway.alone().network, scope=RT_SCOPE_LINK, src=address)
                for gateway, address in gateways.items()
            ],
            *subnets.values(),
            *pods.routes_over(link, ips, pod.routes, {*subnets}),
            *[Neighbour(link, gateway, pod.host_mac) for gateway in gateways],
        )


def _gateways(ips: tuple[IPConfig, ...]) -> dict[Address, Address]:
    """Each gateway once, with the first of the addresses whose gateway it is."""
    gateways: dict[Address, Address] = {}
    for ip in ips:
        if ip.gateway:
            gateways.setdefault(ip.gateway, ip.address.address)
    return gateways


def _route_to(port: str, address: Address) -> LinkRoute:
    # The scope is the reference's. It says "on this very host", which is as near as a pod is; to the kernel it is the
    # same as "on the link". An earlier pod of the address may still be on its way out, and the address is ours now.
    return LinkRoute(port, address.alone().network, scope=RT_SCOPE_HOST, takes_over=True)

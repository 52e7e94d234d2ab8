"""What features have in common: how a MAC is asked for, which MTU will do, what the pod's side is like.

The rest of each is its own story, in `cni.features`.
"""

from __future__ import annotations

from cni.kernel.inet import RT_SCOPE_LINK, RT_TABLE_MAIN, LinkRoute
from cni.kernel.sysctl import Sysctl
from cni.spec.errors import INVALID_CONFIG, INVALID_ENVIRONMENT, CNIError, config_error
from cni.spec.request import MAC_NEED, is_mac, require_ifname
from cni.spec.result import Route
from ipam.address import Address, default_route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Final

    from cni.spec.netconf import NetConf
    from cni.spec.result import IPConfig
    from cni.spec.section import Section
    from ipam.address import Network

LARGEST_MTU: Final = 65535
_LEAST_IPV6_MTU: Final = 1280  # RFC 8200; below it Linux switches IPv6 off on the link

FORWARDING: Final = {
    4: Sysctl("net/ipv4/ip_forward", "1"),
    6: Sysctl("net/ipv6/conf/all/forwarding", "1"),
}
"""What a node that is a gateway needs, by version."""


def link_name(keys: Section, key: str) -> str:
    """The name of a link that a configuration has there, "" for none. Raises CNIError 7."""
    name = keys.text(key)
    if name:
        try:
            require_ifname(name)
        except CNIError as error:
            raise config_error(keys.where, key, name, f"the name of an interface ({error.msg})") from None
    return name


# --- addresses and routes -----------------------------------------------------------------------------


def versions_of(ips: Iterable[IPConfig]) -> list[int]:
    return sorted({ip.address.address.version for ip in ips})


def with_gateway(ip: IPConfig, otherwise: str) -> IPConfig:
    """With the node as a gateway, which needs an address: IPAM's word, or else the first of the subnet.

    Raises CNIError; `otherwise` ends the sentence that says what to do.
    """
    network = ip.address.network
    gateway = ip.gateway or Address(network.version, network.value + 1)
    if gateway == ip.address.address or not (ip.gateway or network.holds(gateway)):
        raise CNIError(
            INVALID_CONFIG,
            f"IPAM gave the pod {ip.address}{f' with gateway {ip.gateway}' if ip.gateway else ''}, "
            "which leaves no address for the node as its gateway",
            f"have IPAM name another gateway{otherwise}",
        )
    return ip._replace(gateway=gateway)


def default_routes(ips: tuple[IPConfig, ...], routes: tuple[Route, ...]) -> tuple[Route, ...]:
    """One of each family that has a gateway, unless IPAM brought one."""
    there = {route.dst for route in routes if _table(route) == RT_TABLE_MAIN}
    new: dict[Network, Route] = {}
    for ip in ips:
        default = default_route(ip.address.address.version)
        if ip.gateway and default not in there:
            new.setdefault(default, Route(default, ip.gateway))
    return tuple(new.values())


def routes_over(
    link: str, ips: tuple[IPConfig, ...], routes: tuple[Route, ...], there: set[Network]
) -> list[LinkRoute]:
    """IPAM's routes over the pod's link, by its family's first gateway where a route needs one and names none.

    Those that the kernel will keep: of one destination, table and metric there is one route, and the first stays. IPAM
    plugins repeat themselves; `there` are destinations that have their route already.
    """
    gateways: dict[int, Address] = {}
    for ip in ips:
        if ip.gateway:
            gateways.setdefault(ip.address.address.version, ip.gateway)
    places = {(network, RT_TABLE_MAIN, 0) for network in there}
    found = []
    for route in routes:
        place = route.dst, _table(route), route.priority
        if place not in places:
            places.add(place)
            by_itself = route.gw is not None or (route.scope is not None and route.scope >= RT_SCOPE_LINK)
            found.append(LinkRoute.of(link, route if by_itself else route._replace(gw=gateways.get(route.dst.version))))
    return found


def _table(route: Route) -> int:
    return route.table or RT_TABLE_MAIN


def require_mtu(mtu: int, versions: list[int], remedy: str) -> None:
    """Raises CNIError for what the kernel would accept and IPv6 not."""
    if 6 in versions and mtu < _LEAST_IPV6_MTU:
        raise CNIError(
            INVALID_CONFIG,
            f"an MTU of {mtu} is too small for IPv6, which needs {_LEAST_IPV6_MTU}",
            f'set "mtu" in the network configuration{remedy}',
        )


def tuning(link: str, versions: list[int], dad: bool) -> tuple[Sysctl, ...]:
    """What the pod's link must be like. Without addresses it is left as it comes: somebody else will see to it."""
    # Announce a changed MAC at once: the neighbours that we told of the first one would keep to it for half a minute.
    settings = [Sysctl(f"net/ipv4/conf/{link}/arp_notify", "1")] if 4 in versions else []
    if 6 in versions:
        settings += [
            # Images and runtimes switch IPv6 off in new namespaces by default; a pod that has an address wants it on.
            Sysctl("net/ipv6/conf/lo/disable_ipv6", "0"),
            Sysctl(f"net/ipv6/conf/{link}/disable_ipv6", "0"),
            # Otherwise a chained plugin that sets the link down for a moment loses the pod its addresses.
            Sysctl(f"net/ipv6/conf/{link}/keep_addr_on_down", "1"),
            Sysctl(f"net/ipv6/conf/{link}/ndisc_notify", "1"),
        ]
        if dad:
            settings += [
                Sysctl(f"net/ipv6/conf/{link}/accept_dad", "1"),
                Sysctl(f"net/ipv6/conf/{link}/enhanced_dad", "1"),
            ]
    return tuple(settings)


# --- the MAC ------------------------------------------------------------------------------------------


def mac_of(conf: NetConf, args: Mapping[str, str]) -> str:
    """The MAC asked for: runtimeConfig before args.cni before CNI_ARGS. Raises CNIError 7, or 4 for CNI_ARGS."""
    return mac_in(conf.runtime_config) or mac_in(conf.args) or mac_in_args(args)


def mac_in(section: Section) -> str:
    """The `mac` of a section, "" where there is none. Raises CNIError 7."""
    mac = section.text("mac")
    if mac and not is_mac(mac):
        raise section.error("mac", MAC_NEED)
    return mac.lower()


def mac_in_args(args: Mapping[str, str]) -> str:
    """The MAC of CNI_ARGS, "" where there is none. Raises CNIError 4."""
    mac = args.get("MAC", "")
    if mac and not is_mac(mac):
        raise CNIError(INVALID_ENVIRONMENT, f"CNI_ARGS: MAC must be {MAC_NEED}, got {mac}")
    return mac.lower()

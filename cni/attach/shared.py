"""What the attachments of a node share: bridges with their gateway addresses, and settings of the node.

They are *ensured*: made where they are missing, and never taken away with an attachment. The usual case, all
is there, costs a question each. How a setting was before us is noted once, for whoever takes us off the node.
"""

from __future__ import annotations

import errno

from cni.attach.locks import Lock
from cni.kernel import inet
from cni.kernel import link as links
from cni.kernel.inet import LinkAddress
from cni.kernel.link import Link
from cni.kernel.netlink import NetlinkError
from cni.kernel.ports import Bridge, LinkUp
from cni.kernel.sysctl import Sysctl, read
from cni.key import fnv1a
from cni.spec.errors import CONFLICT, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from cni.attach.node import Node
    from cni.wanted import Switch

_ETHERNET_MTU: Final = 1500
_IPV6_FORWARDING: Final = "net/ipv6/conf/all/forwarding"


def look(node: Node, bridge: Bridge) -> Link:
    """The bridge as it is or, where there is none, as it will be made. Raises CNIError where it can't be used."""
    found = bridge.find(node.nl)
    if found:
        _require_bridge(found)
        return found
    return Link(name=bridge.name, kind="bridge", mac=_own_mac(node, bridge.name), mtu=bridge.mtu or _ETHERNET_MTU)


def _own_mac(node: Node, name: str) -> str:
    """The MAC that a bridge of ours has.

    The same for all who ask during this boot, since fifty first pods may come at once; and another on every node,
    since bridges of several nodes may share a wire.
    """
    hashed = fnv1a(f"{node.boot}\n{name}".encode()).to_bytes(8, "big")
    return bytes([0x02, *hashed[:5]]).hex(":")


def ensure_switch(node: Node, switch: Switch, seen: Link) -> Link:
    """The bridge, up, with its gateway addresses; `seen` is what `look` found. Raises CNIError, OSError."""
    found = seen
    if not (found.ifindex and found.up):
        with _lock(node, switch):
            found = _make(node, switch.bridge)
    if found.mtu < switch.bridge.mtu:
        node.nl.do(links.set_mtu(found.ifindex, found.name, switch.bridge.mtu))
    if found.mac != _own_mac(node, found.name):
        # Somebody else's bridge may follow its ports, so that ours would change the MAC that pods are told. One whose
        # MAC was set, if only to what it is, keeps it.
        node.nl.do(links.set_mac(found.ifindex, found.name, found.mac))
    if switch.bridge.promisc and not found.promisc:
        node.nl.do(links.set_promisc(found.ifindex, found.name))
    for gateway in switch.gateways:
        address = LinkAddress(found.name, gateway)
        try:
            node.nl.do(address.make(found.ifindex))
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise
            if not address.is_longer_or_shorter(node.nl, found.ifindex):
                continue
        from cni.attach import stale

        with _lock(node, switch):
            stale.replace(node, switch, found, address)
    return found


def require_ipv6() -> None:
    """For who is going to need it. Raises CNIError where the kernel has none, whose refusals would not say why."""
    if read(_IPV6_FORWARDING) is None:
        raise CNIError(
            CONFLICT,
            "IPAM gave the pod an IPv6 address, and this kernel has no IPv6",
            "was it started with ipv6.disable=1? Start it with IPv6, or take the IPv6 ranges out of ipam",
        )


def ensure_setting(node: Node, setting: Sysctl, port: str) -> None:
    """Raises OSError where it can't be written, or isn't there. `port`: a link that goes with the attachment, so that
    how its settings were is of no interest to anybody."""
    value = read(setting.path)
    if value == setting.value:
        return
    if setting.path == _IPV6_FORWARDING:
        _keep_advertised_routes(node)
    if value is not None and not (port and f"/{port}/" in setting.path):
        node.keep_before(setting.path, value)
    setting.make()


def _keep_advertised_routes(node: Node) -> None:
    """A forwarding kernel ignores router advertisements, so an uplink that lives on them would lose its route."""
    for index in inet.advertised_links(node.nl):
        found = links.find_index(node.nl, index)
        path = f"net/ipv6/conf/{found.name}/accept_ra" if found else ""
        if path and read(path) == "1":
            node.keep_before(path, "1")
            Sysctl(path, "2").make()


def _lock(node: Node, switch: Switch) -> Lock:
    name = switch.bridge.name
    return Lock(f"{node.run_dir}/shared.lock", fnv1a(name.encode()), f"bridge {name}")


def _make(node: Node, bridge: Bridge) -> Link:
    node.nl.do(bridge.make())
    found = links.need(node.nl, bridge.name)
    _require_bridge(found)
    if not found.up:
        # A router advertisement from a pod would reconfigure the node (CVE-2020-10749), so this comes before `up`.
        # A kernel without IPv6 has no such setting and no such danger.
        accept_ra = Sysctl(f"net/ipv6/conf/{bridge.name}/accept_ra", "0")
        if read(accept_ra.path) not in (None, accept_ra.value):
            accept_ra.make()
        node.nl.do(LinkUp(bridge.name).make(found.ifindex))
    return found


def _require_bridge(found: Link) -> None:
    if found.kind != "bridge":
        raise CNIError(
            CONFLICT,
            f'"{found.name}" already exists but is not a bridge',
            f'it is {found.kind or "a physical or built-in link"}: name another in "bridge", or remove it',
        )

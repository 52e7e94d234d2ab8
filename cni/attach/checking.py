"""CHECK: what of an attachment is not as it was made.

Compared is with three things: the record, which lists every object that ADD made; the namespace that CNI_NETNS
names; and the previous result, which is the chain's last word. What later members of a chain may change (the MAC
and the MTU of the pod's end) is held against their word and not against ours. Neighbours were seeded as a courtesy
and may age, so nobody misses them.

Everything that is missing is named, not the first only: in the words of the request that would make it.
"""

from __future__ import annotations

from cni.attach import record, shared
from cni.kernel import inet
from cni.kernel import link as links
from cni.kernel.inet import LinkRoute
from cni.kernel.neighbour import Neighbour
from cni.kernel.ports import BridgePort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.attach.node import Node
    from cni.attach.record import Record
    from cni.attach.sandbox import Sandbox
    from cni.kernel.netlink import Socket
    from cni.kernel.ports import Veth
    from cni.spec.result import Result
    from cni.wanted import Key, LinkObject


def differences(node: Node, sandbox: Sandbox, key: Key, prev: Result, old: Record | None) -> list[str]:
    """What is missing or different; empty when all is well. Without a record, of a pod that others attached."""
    missing = _of_result(sandbox, key, prev)
    if old:
        missing += _of_record(node, sandbox, old)
    else:
        missing += _routes_of_result(sandbox, prev)
    return list(dict.fromkeys(missing))


def missing_objects(nl: Socket, things: Iterable[LinkObject]) -> list[str]:
    """Those that are not there, in the words of the request that would make them."""
    missing = []
    indexes: dict[str, int] = {}
    routes: dict[int, list[LinkRoute]] = {}
    for thing in things:
        if isinstance(thing, Neighbour):
            continue
        if thing.link not in indexes:
            found = links.find(nl, thing.link)
            indexes[thing.link] = found.ifindex if found else 0
        index = indexes[thing.link]
        if not index:
            missing.append(f"interface {thing.link}")
        elif isinstance(thing, LinkRoute):
            version = thing.dst.version
            if version not in routes:
                routes[version] = inet.routes(nl, version)
            there = any(thing.matches(found) for found in routes[version] if found.link == f"if{index}")
            # Content with a route whose place another link's has: networks of one pod may each bring a default.
            if not there and not any(thing.is_kept_out_by(found, index) for found in routes[version]):
                missing.append(thing.make(index).what)
        elif not thing.find(nl, index):
            missing.append(thing.make(index).what)
    return missing


def _of_result(sandbox: Sandbox, key: Key, prev: Result) -> list[str]:
    """What the previous result says of our interface and is not so."""
    told = [(i, one) for i, one in enumerate(prev.interfaces) if one.name == key.ifname and one.sandbox]
    if not told:
        return [f"prevResult names no interface {key.ifname} in the pod"]
    number, interface = told[0]
    found = links.find(sandbox.nl, interface.name)
    if not found:
        return [f"interface {interface.name} in the pod"]
    missing = []
    if interface.sandbox != sandbox.netns.path:
        missing.append(f"prevResult has {interface.name} in {interface.sandbox}, not in {sandbox.netns.path}")
    if interface.mac and interface.mac.lower() != found.mac:
        missing.append(f"MAC {interface.mac} of {interface.name}: it is {found.mac}")
    there = {address.address for address in inet.addresses(sandbox.nl, found.ifindex)}
    return missing + [
        f"address {ip.address} on {interface.name}"
        for ip in prev.ips
        if ip.interface == number and ip.address not in there
    ]


def _routes_of_result(sandbox: Sandbox, prev: Result) -> list[str]:
    """Routes of the result that nothing in the pod has: all there is to go by where no record lists them."""
    there = {version: inet.routes(sandbox.nl, version) for version in (4, 6)}
    return [
        f"route {route.dst}{f' via {route.gw}' if route.gw else ''}"
        for route in prev.routes
        if not any(one.dst == route.dst and route.gw in (None, one.gw) for one in there[route.dst.version])
    ]


def _of_record(node: Node, sandbox: Sandbox, old: Record) -> list[str]:
    if old.stage != record.COMPLETE:
        return [f"the attachment was left {old.stage}"]
    missing = []
    if not record.is_in(old, sandbox.netns, sandbox.nl.netns_cookie()):
        missing.append(f"it was attached to another namespace, then at {old.netns}")
    wanted = old.wanted
    for switch in wanted.switches:
        missing += shared.missing_of_switch(node, switch)
    missing += [f"sysctl {one}" for one in wanted.settings if not one.find()]
    treated = {thing.link for thing in wanted.node if isinstance(thing, BridgePort)}
    for veth in wanted.veths:
        missing += _of_port(node, veth, veth.name in treated)
    with sandbox.inside():
        missing += [f"sysctl {one} in the pod" for one in wanted.tuning if not one.find()]
    return missing + missing_objects(sandbox.nl, wanted.pod) + missing_objects(node.nl, wanted.node)


def _of_port(node: Node, veth: Veth, treated: bool) -> list[str]:
    """`treated`: how the bridge is to treat the port is one of the attachment's objects. If not, as a port begins."""
    port = veth.find(node.nl)
    if not port:
        return [f"link {veth.name} on the node"]
    missing = [] if port.up else [f"link {veth.name} on the node is down"]
    bridge = links.find(node.nl, veth.master) if veth.master else None
    if veth.master and not (bridge and port.master == bridge.ifindex):
        missing.append(f"link {veth.name} is no port of {veth.master}")
    elif not treated and (port.hairpin or port.isolated):
        missing.append(BridgePort(veth.name, hairpin=False, isolated=False).make(port.ifindex).what)
    return missing

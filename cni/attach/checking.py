"""CHECK: what of an attachment is not as it was made.

Compared is with three things: the record, which lists every object that ADD made; the namespace that CNI_NETNS
names; and the previous result, which is the chain's last word. What later members of a chain may change (the MAC
and the MTU of the pod's end) is held against their word and not against ours. Neighbours were seeded as a courtesy
and may age, so nobody misses them.

Everything that is missing is named, not the first only: in the words of the request that would make it.
"""

from __future__ import annotations

from cni.attach import reading, record, sandbox
from cni.kernel import inet
from cni.kernel import link as links
from cni.kernel.inet import LinkRoute
from cni.kernel.neighbour import Neighbour
from cni.kernel.ports import BridgePort
from cni.kernel.sysctl import Sysctl, read
from cni.spec.errors import CHECK_FAILED, INVALID_CONFIG, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.attach.call import Call
    from cni.attach.node import Node
    from cni.attach.record import Record
    from cni.attach.sandbox import Sandbox
    from cni.kernel.linksettings import LinkSettings
    from cni.kernel.netlink import Socket
    from cni.kernel.ports import Veth
    from cni.key import Key
    from cni.spec.result import Result
    from cni.wanted import LinkObject, Switch


def check(node: Node, call: Call) -> None:
    """Whether all that ADD made is there and the chain's result true. Raises CNIError 103 naming all that isn't."""
    prev = required_prev(call)
    with sandbox.require(call.netns, node.home, call.own_netns_is_fine) as pod_side:
        node.prepare()
        with node.lock(call.key):
            first = node.records.read(call.key)
            made: list[Record | None] = [first]
            if first and first.more:
                from cni.attach import places

                made = [*places.made_by(node, first, call.config)]
            missing = [what for old in made for what in differences(node, pod_side, call.key, prev, old)]
    refuse(call, missing)
    call.addresses.check(call.key, call.netns, prev)


def required_prev(call: Call) -> Result:
    if not call.prev:
        raise CNIError(INVALID_CONFIG, "Required prevResult missing", "CHECK needs the result of the ADD in prevResult")
    return call.prev


def refuse(call: Call, missing: list[str]) -> None:
    """Raises CNIError 103 unless nothing is missing."""
    if missing:
        raise CNIError(
            CHECK_FAILED,
            f"{call.key.ifname} of container {call.key.container_id} is not as it was attached: {'; '.join(missing)}",
            "DEL and ADD it again",
        )


def differences(node: Node, pod_side: Sandbox, key: Key, prev: Result, old: Record | None) -> list[str]:
    """What is missing or different; empty when all is well. Without a record, of a pod that others attached."""
    missing = _of_result(pod_side, key, prev)
    if old:
        missing += _of_record(node, pod_side, old)
    else:
        missing += _routes_of_result(pod_side, prev)
    return list(dict.fromkeys(missing))


def missing_objects(nl: Socket, things: Iterable[LinkObject | LinkSettings]) -> list[str]:
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


def _of_result(pod_side: Sandbox, key: Key, prev: Result) -> list[str]:
    """What the previous result says of our interface and is not so."""
    told = [(i, one) for i, one in enumerate(prev.interfaces) if one.name == key.ifname and one.sandbox]
    if not told:
        return [f"prevResult names no interface {key.ifname} in the pod"]
    number, interface = told[0]
    found = links.find(pod_side.nl, interface.name)
    if not found:
        return [f"interface {interface.name} in the pod"]
    missing = []
    if interface.sandbox != pod_side.netns.path:
        missing.append(f"prevResult has {interface.name} in {interface.sandbox}, not in {pod_side.netns.path}")
    if interface.mac and interface.mac.lower() != found.mac:
        missing.append(f"MAC {interface.mac} of {interface.name}: it is {found.mac}")
    there = {address.address for address in inet.addresses(pod_side.nl, found.ifindex)}
    return missing + [
        f"address {ip.address} on {interface.name}"
        for ip in prev.ips
        if ip.interface == number and ip.address not in there
    ]


def _routes_of_result(pod_side: Sandbox, prev: Result) -> list[str]:
    """Routes of the result that nothing in the pod has: all there is to go by where no record lists them."""
    there = {version: inet.routes(pod_side.nl, version) for version in (4, 6)}
    return [
        f"route {route.dst}{f' via {route.gw}' if route.gw else ''}"
        for route in prev.routes
        if not any(one.dst == route.dst and route.gw in (None, one.gw) for one in there[route.dst.version])
    ]


def _of_record(node: Node, pod_side: Sandbox, old: Record) -> list[str]:
    if old.stage != record.COMPLETE:
        return [f"the attachment was left {old.stage}"]
    missing = []
    if not record.is_in(old, pod_side.netns, pod_side.nl.netns_cookie()):
        missing.append(f"it was attached to another namespace, then at {old.netns}")
    wanted = reading.wanted_of(old.objects)
    if not wanted:
        return [*missing, "its record, which can't be understood"]
    for switch in wanted.switches:
        missing += _of_switch(node, switch)
    missing += [f"sysctl {one}" for one in wanted.settings if not one.find()]
    missing += [one.make().what for one in wanted.elements if not one.find(node.nf())]
    missing += [f"{one}" for one in wanted.openings if not one.find()]
    for ifb in wanted.ifbs:
        there = ifb.find(node.nl)
        if not (there and there.up):
            missing.append(f"link {ifb.name} on the node{' is down' if there else ''}")
    missing += [f"sysctl {one}" for one in wanted.fences if read(one.path) not in (None, one.value)]
    treated = {thing.link for thing in wanted.node if isinstance(thing, BridgePort)}
    for veth in wanted.veths:
        missing += _of_port(node, veth, veth.name in treated)
    with pod_side.inside():
        amended = [one for one in wanted.amends if isinstance(one, Sysctl)]
        missing += [f"sysctl {one} in the pod" for one in (*wanted.tuning, *amended) if not one.find()]
    # A later member of the chain may have given the link another MAC: the previous result has the last word on that.
    settings = [one._replace(mac="") for one in wanted.amends if not isinstance(one, Sysctl)]
    missing += missing_objects(pod_side.nl, settings)
    return missing + missing_objects(pod_side.nl, wanted.pod) + missing_objects(node.nl, wanted.node)


def _of_switch(node: Node, switch: Switch) -> list[str]:
    """What is missing of it; nothing, when all is as wanted."""
    name = switch.bridge.name
    found = switch.bridge.find(node.nl)
    if not found or found.kind != "bridge":
        return [f"bridge {name}"]
    missing = [] if found.up else [f"bridge {name} is down"]
    if switch.bridge.promisc and not found.promisc:
        missing.append(f"bridge {name} is not promiscuous")
    there = {address.address for address in inet.addresses(node.nl, found.ifindex)} if switch.gateways else set()
    return missing + [f"gateway address {gateway} on {name}" for gateway in switch.gateways if gateway not in there]


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

"""Objects that a record keeps, read: to compare what is there with them, to take them away, to know who lives by what.

A kind's class is imported when one of the kind is met: a DEL reads a few kinds, and a pod waits for it.
"""

from __future__ import annotations

from cni.attach.objects import BEFORE, GROUPS, UNREADABLE, neighbour, text
from ipam.address import Address, Network
from ipam.address import Interface as Prefixed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from cni.attach.objects import Objects
    from cni.kernel.conntrack import Flow
    from cni.kernel.linksettings import LinkSettings
    from cni.kernel.nft import Element, Fragment
    from cni.kernel.sysctl import Sysctl
    from cni.wanted import Opening, Switch, Wanted


def wanted_of(objects: Objects) -> Wanted | None:
    """The inverse of `objects.to_json`; None for what can't be read."""
    from cni.wanted import Wanted

    try:
        return Wanted(**{name: tuple([from_json(*thing) for thing in objects.get(name, ())]) for name in GROUPS})
    except UNREADABLE:
        return None


def switches_of(objects: Objects) -> tuple[Switch, ...] | None:
    """The bridges, with the gateways that the attachment lives by; None for what can't be read."""
    try:
        return tuple([_switch(*fields) for _, *fields in objects.get("switches", ())])
    except UNREADABLE:
        return None


def elements_of(objects: Objects) -> tuple[Element, ...]:
    """The elements of our tables; what can't be read is left out."""
    return _readable(objects, "elements")


def fragments_of(objects: Objects) -> tuple[Fragment, ...]:
    """The rules of a network's own; what can't be read is left out."""
    return _readable(objects, "fragments")


def openings_of(objects: Objects) -> tuple[Opening, ...]:
    """What lets the pod's packets through the rules of others; what can't be read is left out."""
    return _readable(objects, "openings")


def addresses_of(objects: Objects) -> tuple[Address, ...]:
    """Of the pod, that we gave it; what can't be read is left out."""
    found = []
    for kind, *fields in objects.get("pod", ()):
        if kind == "address":
            try:
                found.append(Prefixed.parse(fields[1]).address)
            except (*UNREADABLE, IndexError):
                pass
    return tuple(found)


def flows_of(objects: Objects) -> tuple[Flow, ...]:
    """The connections to forget; what can't be read is left out."""
    return _readable(objects, "flows")


def _readable(objects: Objects, group: str) -> tuple[Any, ...]:
    found = []
    for thing in objects.get(group, ()):
        try:
            found.append(from_json(*thing))
        except UNREADABLE:
            pass
    return tuple(found)


def before_of(objects: Objects) -> tuple[Sysctl | LinkSettings, ...]:
    """What the attachment changed of the pod, as it was; what can't be read is left out."""
    return _readable(objects, BEFORE)


def from_json(kind: str, *fields: Any) -> Any:
    """One object. Raises what UNREADABLE lists."""
    return _KINDS[kind](*fields)


# --- a function for each kind -------------------------------------------------------------------------
# A new version must be able to take away what an older one attached. So a field is only ever appended to a kind, with
# a default for records that lack it, and a kind is never renamed; what can't be done so is another format.


def _sysctl(path: Any, value: Any) -> object:
    from cni.kernel.sysctl import Sysctl

    return Sysctl(text(path), text(value))


def _veth(name: Any, mac: Any, peer: Any, peer_mac: Any, mtu: Any, master: Any = "") -> object:
    from cni.kernel.ports import Veth

    return Veth(text(name), text(mac), text(peer), text(peer_mac), _number(mtu), text(master))


def _up(link: Any) -> object:
    from cni.kernel.ports import LinkUp

    return LinkUp(text(link))


def _address(link: Any, address: Any, dad: Any = False, prefix_route: Any = True) -> object:
    from cni.kernel.inet import LinkAddress

    return LinkAddress(text(link), Prefixed.parse(address), _flag(dad), _flag(prefix_route))


def _route(
    link: Any,
    dst: Any,
    gw: Any = None,
    mtu: Any = 0,
    advmss: Any = 0,
    priority: Any = 0,
    table: Any = None,
    scope: Any = None,
    src: Any = None,
    takes_over: Any = False,
) -> object:
    from cni.kernel.inet import LinkRoute

    return LinkRoute(
        text(link),
        Network.parse(dst),
        None if gw is None else Address.parse(gw),
        _number(mtu),
        _number(advmss),
        _number(priority),
        None if table is None else _number(table),
        None if scope is None else _number(scope),
        None if src is None else Address.parse(src),
        _flag(takes_over),
    )


def _fdb(link: Any, mac: Any) -> object:
    from cni.kernel.neighbour import FdbEntry

    return FdbEntry(text(link), text(mac))


def _port(link: Any, hairpin: Any, isolated: Any, flooded: Any = True) -> object:
    from cni.kernel.ports import BridgePort

    return BridgePort(text(link), _flag(hairpin), _flag(isolated), _flag(flooded))


def _ifb(name: Any, mtu: Any, mac: Any) -> object:
    from cni.kernel.ports import Ifb

    return Ifb(text(name), _number(mtu), text(mac))


def _link(link: Any, mac: Any, mtu: Any, promisc: Any, allmulti: Any, txqlen: Any) -> object:
    from cni.kernel.linksettings import LinkSettings

    return LinkSettings(
        text(link),
        text(mac),
        _maybe(_number, mtu),
        _maybe(_flag, promisc),
        _maybe(_flag, allmulti),
        _maybe(_number, txqlen),
    )


def _mtu(link: Any, mtu: Any, before: Any) -> object:
    from cni.kernel.linksettings import PortMtu

    return PortMtu(text(link), _number(mtu), _number(before))


def _tbf(link: Any, rate: Any, burst: Any, latency_us: Any, owner: Any) -> object:
    from cni.kernel.tc import TokenBucket

    return TokenBucket(text(link), _number(rate), _number(burst), _number(latency_us), _number(owner))


def _ingress(link: Any) -> object:
    from cni.kernel.tc import IngressQdisc

    return IngressQdisc(text(link))


def _redirect(link: Any, to: Any, owner: Any) -> object:
    from cni.kernel.tc import Redirect

    return Redirect(text(link), text(to), _number(owner))


def _fragment(name: Any, content: Any) -> object:
    from cni.kernel.nft import Fragment

    return Fragment(text(name), text(content))


def _element(of: Any, kind: Any, content: Any, tag: Any, claim: Any, family: Any) -> object:
    from cni.kernel.nft import Claim, Element

    claimed = None if claim is None else Claim(*[text(part) for part in claim])
    return Element(text(of), text(kind), text(content), text(tag), claimed, text(family))


def _forward(address: Any, backend: Any, admin_chain: Any, zone: Any) -> object:
    from cni.kernel.forwarding import ForwardOpening

    return ForwardOpening(Address.parse(address), text(backend), text(admin_chain), text(zone))


def _flow(protocol: Any, port: Any, address: Any, host: Any) -> object:
    from cni.kernel.conntrack import Flow

    return Flow(_number(protocol), _number(port), Address.parse(address), _maybe(Address.parse, host))


def _switch(bridge: Any, gateways: Any, force: Any = False) -> Switch:
    from cni.kernel.ports import Bridge
    from cni.wanted import Switch

    name, mac, mtu, *promisc = bridge
    return Switch(
        Bridge(text(name), text(mac), _number(mtu), *[_flag(one) for one in promisc]),
        tuple([Prefixed.parse(one) for one in gateways]),
        _flag(force),
    )


_KINDS: Final[dict[str, Callable[..., object]]] = {
    "sysctl": _sysctl,
    "veth": _veth,
    "up": _up,
    "address": _address,
    "route": _route,
    "neighbour": neighbour,
    "fdb": _fdb,
    "port": _port,
    "switch": _switch,
    "ifb": _ifb,
    "link": _link,
    "mtu": _mtu,
    "tbf": _tbf,
    "ingress": _ingress,
    "redirect": _redirect,
    "fragment": _fragment,
    "element": _element,
    "forward": _forward,
    "flow": _flow,
}


def _maybe(read: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else read(value)


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no number")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError(f"{value!r} is neither true nor false")
    return value

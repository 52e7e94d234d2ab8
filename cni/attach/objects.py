"""Objects as a record keeps them: JSON lists, each a kind and then its fields in order.

What has a text form (an address) is kept as text. A kind's classes are imported when one is read, since most
who read a record need few of them: a DEL looks for neighbours, and for the rest knows that it goes with the veth.
"""

from __future__ import annotations

from ipam.address import Address, Network
from ipam.address import Interface as Prefixed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final

    from cni.kernel.neighbour import Neighbour
    from cni.wanted import Switch, Wanted

    Objects = Mapping[str, list[list[Any]]]
    """By group of `Wanted`; a group that wants nothing is left out."""

_GROUPS: Final = ("switches", "settings", "veths", "tuning", "pod", "node")


def to_json(wanted: Wanted) -> Objects:
    """What should exist, as JSON values. Of what the result says only addresses' gateways are kept, with switches."""
    groups = {name: [_to_json(thing) for thing in getattr(wanted, name)] for name in _GROUPS}
    return {name: things for name, things in groups.items() if things}


def wanted_of(objects: Objects) -> Wanted | None:
    """The inverse of `to_json`; None for what can't be read."""
    from cni.wanted import Wanted

    try:
        return Wanted(**{name: tuple([_from_json(*thing) for thing in objects.get(name, ())]) for name in _GROUPS})
    except _UNREADABLE:
        return None


def switches_of(objects: Objects) -> tuple[Switch, ...] | None:
    """The bridges, with the gateways that the attachment lives by; None for what can't be read."""
    try:
        return tuple([_switch(*fields) for _, *fields in objects.get("switches", ())])
    except _UNREADABLE:
        return None


def neighbours_of(objects: Objects) -> list[Neighbour]:
    """What hangs on a bridge and not on the attachment's own link. What can't be read is left out."""
    found = []
    for kind, *fields in objects.get("node", ()):
        if kind == "neighbour":
            try:
                found.append(_neighbour(*fields))
            except _UNREADABLE:
                pass  # written by nobody we know: it ages where it is, and all else must go
    return found


def _to_json(thing: tuple[Any, ...]) -> list[Any]:
    return [_NAMES[type(thing).__name__], *[_field_to_json(field) for field in thing]]


def _field_to_json(field: object) -> object:
    if isinstance(field, (Address, Prefixed, Network)):
        return str(field)
    if isinstance(field, tuple):
        return [_field_to_json(part) for part in field]
    return field


def _from_json(kind: str, *fields: Any) -> Any:
    return _KINDS[kind](*fields)


# --- a function for each kind -------------------------------------------------------------------------
# A new version must be able to take away what an older one attached. So a field is only ever appended to a kind, with
# a default for records that lack it, and a kind is never renamed; what can't be done so is another format.


def _sysctl(path: Any, value: Any) -> object:
    from cni.kernel.sysctl import Sysctl

    return Sysctl(_text(path), _text(value))


def _veth(name: Any, mac: Any, peer: Any, peer_mac: Any, mtu: Any, master: Any = "") -> object:
    from cni.kernel.ports import Veth

    return Veth(_text(name), _text(mac), _text(peer), _text(peer_mac), _number(mtu), _text(master))


def _up(link: Any) -> object:
    from cni.kernel.ports import LinkUp

    return LinkUp(_text(link))


def _address(link: Any, address: Any, dad: Any = False) -> object:
    from cni.kernel.inet import LinkAddress

    return LinkAddress(_text(link), Prefixed.parse(address), _flag(dad))


def _route(
    link: Any,
    dst: Any,
    gw: Any = None,
    mtu: Any = 0,
    advmss: Any = 0,
    priority: Any = 0,
    table: Any = None,
    scope: Any = None,
) -> object:
    from cni.kernel.inet import LinkRoute

    return LinkRoute(
        _text(link),
        Network.parse(dst),
        None if gw is None else Address.parse(gw),
        _number(mtu),
        _number(advmss),
        _number(priority),
        None if table is None else _number(table),
        None if scope is None else _number(scope),
    )


def _neighbour(link: Any, address: Any, mac: Any) -> Neighbour:
    from cni.kernel.neighbour import Neighbour

    return Neighbour(_text(link), Address.parse(address), _text(mac))


def _fdb(link: Any, mac: Any) -> object:
    from cni.kernel.neighbour import FdbEntry

    return FdbEntry(_text(link), _text(mac))


def _port(link: Any, hairpin: Any, isolated: Any) -> object:
    from cni.kernel.ports import BridgePort

    return BridgePort(_text(link), _flag(hairpin), _flag(isolated))


def _switch(bridge: Any, gateways: Any) -> Switch:
    from cni.kernel.ports import Bridge
    from cni.wanted import Switch

    name, mac, mtu = bridge
    return Switch(Bridge(_text(name), _text(mac), _number(mtu)), tuple([Prefixed.parse(one) for one in gateways]))


_KINDS: Final[dict[str, Callable[..., object]]] = {
    "sysctl": _sysctl,
    "veth": _veth,
    "up": _up,
    "address": _address,
    "route": _route,
    "neighbour": _neighbour,
    "fdb": _fdb,
    "port": _port,
    "switch": _switch,
}
_NAMES: Final = {
    "Sysctl": "sysctl",
    "Veth": "veth",
    "LinkUp": "up",
    "LinkAddress": "address",
    "LinkRoute": "route",
    "Neighbour": "neighbour",
    "FdbEntry": "fdb",
    "BridgePort": "port",
    "Switch": "switch",
}
_UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no number")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError(f"{value!r} is neither true nor false")
    return value

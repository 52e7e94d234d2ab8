"""Objects that a record keeps, read: to compare what is there with them, or to know who lives by what."""

from __future__ import annotations

from cni.attach.objects import GROUPS, UNREADABLE, neighbour, text
from cni.kernel.inet import LinkAddress, LinkRoute
from cni.kernel.neighbour import FdbEntry
from cni.kernel.ports import Bridge, BridgePort, LinkUp, Veth
from cni.kernel.sysctl import Sysctl
from cni.wanted import Switch, Wanted
from ipam.address import Address, Network
from ipam.address import Interface as Prefixed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from cni.attach.objects import Objects


def wanted_of(objects: Objects) -> Wanted | None:
    """The inverse of `objects.to_json`; None for what can't be read."""
    try:
        return Wanted(**{name: tuple([_from_json(*thing) for thing in objects.get(name, ())]) for name in GROUPS})
    except UNREADABLE:
        return None


def switches_of(objects: Objects) -> tuple[Switch, ...] | None:
    """The bridges, with the gateways that the attachment lives by; None for what can't be read."""
    try:
        return tuple([_switch(*fields) for _, *fields in objects.get("switches", ())])
    except UNREADABLE:
        return None


def _from_json(kind: str, *fields: Any) -> Any:
    return _KINDS[kind](*fields)


# --- a function for each kind -------------------------------------------------------------------------
# A new version must be able to take away what an older one attached. So a field is only ever appended to a kind, with
# a default for records that lack it, and a kind is never renamed; what can't be done so is another format.


def _sysctl(path: Any, value: Any) -> object:
    return Sysctl(text(path), text(value))


def _veth(name: Any, mac: Any, peer: Any, peer_mac: Any, mtu: Any, master: Any = "") -> object:
    return Veth(text(name), text(mac), text(peer), text(peer_mac), _number(mtu), text(master))


def _up(link: Any) -> object:
    return LinkUp(text(link))


def _address(link: Any, address: Any, dad: Any = False) -> object:
    return LinkAddress(text(link), Prefixed.parse(address), _flag(dad))


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
    return LinkRoute(
        text(link),
        Network.parse(dst),
        None if gw is None else Address.parse(gw),
        _number(mtu),
        _number(advmss),
        _number(priority),
        None if table is None else _number(table),
        None if scope is None else _number(scope),
    )


def _fdb(link: Any, mac: Any) -> object:
    return FdbEntry(text(link), text(mac))


def _port(link: Any, hairpin: Any, isolated: Any) -> object:
    return BridgePort(text(link), _flag(hairpin), _flag(isolated))


def _switch(bridge: Any, gateways: Any) -> Switch:
    name, mac, mtu = bridge
    return Switch(Bridge(text(name), text(mac), _number(mtu)), tuple([Prefixed.parse(one) for one in gateways]))


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
}


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no number")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError(f"{value!r} is neither true nor false")
    return value

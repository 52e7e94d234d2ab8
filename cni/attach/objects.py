"""Objects as a record keeps them: JSON lists, each a kind and then its fields in order.

What has a text form (an address) is kept as text. Here is what a pod waits for: an ADD writes them, and a DEL looks for
neighbours, since it knows that the rest goes with the veth. `reading` makes objects of all of them.
"""

from __future__ import annotations

from ipam.address import Address, Network
from ipam.address import Interface as Prefixed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

    from cni.kernel.neighbour import Neighbour
    from cni.wanted import Wanted

    Objects = Mapping[str, list[list[Any]]]
    """By group of `Wanted`; a group that wants nothing is left out."""

GROUPS: Final = ("switches", "settings", "veths", "tuning", "pod", "node")
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
UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError)
"""What reading something else than an object raises."""


def to_json(wanted: Wanted) -> Objects:
    """What should exist, as JSON values. Of what the result says only addresses' gateways are kept, with switches."""
    groups = {name: [_to_json(thing) for thing in getattr(wanted, name)] for name in GROUPS}
    return {name: things for name, things in groups.items() if things}


def neighbours_of(objects: Objects) -> list[Neighbour]:
    """What hangs on a bridge and not on the attachment's own link. What can't be read is left out."""
    found = []
    for kind, *fields in objects.get("node", ()):
        if kind == "neighbour":
            try:
                found.append(neighbour(*fields))
            except UNREADABLE:
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


def neighbour(link: Any, address: Any, mac: Any) -> Neighbour:
    """From its fields. Raises what UNREADABLE lists."""
    from cni.kernel.neighbour import Neighbour

    return Neighbour(text(link), Address.parse(address), text(mac))


def text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{value!r} is no text")
    return value

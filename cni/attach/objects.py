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
    from cni.wanted import LinkObject, Wanted

    Objects = Mapping[str, list[list[Any]]]
    """By group of `Wanted`; a group that wants nothing is left out."""

GROUPS: Final = (
    *("switches", "settings", "fragments", "elements", "openings", "veths", "ifbs"),
    *("fences", "tuning", "amends", "pod", "node", "flows"),
)
BEFORE: Final = "before"
"""A group that only a record has: what `amends` changes, as it was."""
_NAMES: Final = {
    "Sysctl": "sysctl",
    "Veth": "veth",
    "Ifb": "ifb",
    "LinkUp": "up",
    "LinkAddress": "address",
    "LinkRoute": "route",
    "LinkSettings": "link",
    "PortMtu": "mtu",
    "Neighbour": "neighbour",
    "FdbEntry": "fdb",
    "BridgePort": "port",
    "TokenBucket": "tbf",
    "IngressQdisc": "ingress",
    "Redirect": "redirect",
    "Switch": "switch",
    "Fragment": "fragment",
    "Element": "element",
    "ForwardOpening": "forward",
    "Flow": "flow",
}
UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError)
"""What reading something else than an object raises."""


def to_json(wanted: Wanted) -> Objects:
    """What should exist, as JSON values. Of what the result says only addresses' gateways are kept, with switches."""
    groups = {name: [_to_json(thing) for thing in getattr(wanted, name)] for name in GROUPS}
    return {name: things for name, things in groups.items() if things}


def hanging_of(objects: Objects) -> list[LinkObject]:
    """What hangs on links of the node that aren't the attachment's own, so doesn't go with those. What can't be read is
    left out."""
    own = [fields[0] for group in ("veths", "ifbs") for _, *fields in objects.get(group, ()) if fields]
    found: list[LinkObject] = []
    for kind, *fields in objects.get("node", ()):
        if fields and fields[0] not in own:
            try:
                found.append(neighbour(*fields) if kind == "neighbour" else _another(kind, fields))
            except UNREADABLE:
                pass  # written by nobody we know: it stays where it is, and all else must go
    return found


def _another(kind: str, fields: list[Any]) -> LinkObject:
    from cni.attach import reading

    found: LinkObject = reading.from_json(kind, *fields)
    return found


def _to_json(thing: tuple[Any, ...]) -> list[Any]:
    return [_NAMES[type(thing).__name__], *[_field_to_json(field) for field in thing]]


def before_to_json(things: tuple[Any, ...]) -> list[list[Any]]:
    """The group `BEFORE`."""
    return [_to_json(thing) for thing in things]


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

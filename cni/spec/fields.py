"""What results and configurations write alike: addresses, routes. Each raises CNIError 7."""

from __future__ import annotations

from cni.spec.errors import config_error
from cni.spec.result import Route
from ipam.address import Address
from ipam.address import Interface as Prefixed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from cni.spec.section import Section

U32: Final = (1 << 32) - 1


def route(keys: Section) -> Route:
    """Of a result, or one that an IPAM's configuration asks for."""
    return Route(
        # Host bits are dropped, not refused: the reference lets them pass, and for IPv6 so does the kernel.
        prefixed(keys, "dst").network,
        address(keys, "gw"),
        keys.integer("mtu", least=0, most=U32),
        keys.integer("advmss", least=0, most=U32),
        keys.integer("priority", least=0, most=U32),
        optional(keys, "table", U32),
        optional(keys, "scope", 255),
    )


def prefixed(keys: Section, key: str) -> Prefixed:
    """An address with its prefix length; must be there."""
    text = keys.text(key)
    try:
        return Prefixed.parse(text)
    except ValueError:
        raise keys.error(key, "an address with its prefix length, as in 10.1.0.5/16") from None


def address(keys: Section, key: str) -> Address | None:
    """None where it isn't said, or said to be ""."""
    text = keys.text(key)
    if not text:
        return None
    try:
        return Address.parse(text)
    except ValueError:
        raise config_error(keys.where, key, text, "an IP address") from None


def optional(keys: Section, key: str, most: int) -> int | None:
    """A number from 0 to `most`; None where it isn't said, since 0 means something."""
    return keys.integer(key, least=0, most=most) if keys.has(key) else None

"""A gateway address that an earlier subnet left on a bridge.

It would make the kernel answer for a network that has moved elsewhere. So it is replaced when no live attachment uses
it, or the configuration says that it doesn't matter (`forceAddress`); otherwise the error says who does.
"""

from __future__ import annotations

import errno

from cni.attach import reading
from cni.attach.record import lives
from cni.kernel import inet
from cni.kernel import link as links
from cni.kernel.inet import LinkAddress
from cni.kernel.netlink import NetlinkError
from cni.spec.errors import CONFLICT, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from cni.attach.node import Node
    from cni.kernel.link import Link
    from cni.wanted import Switch
    from ipam.address import Interface

_LINK_LOCAL_V6: Final = 0xFE80 << 112, 10


def replace(node: Node, switch: Switch, found: Link, added: LinkAddress) -> None:
    """`added` was not on the bridge until now: whatever of its family stands in its way goes, or else it goes again."""
    stale = [other.address for other in inet.addresses(node.nl, found.ifindex) if _in_the_way(other.address, switch)]
    stale = [other for other in stale if other.address.version == added.address.address.version]
    for other in () if switch.force else stale:
        user = _user_of(node, found, other)
        if user:
            node.nl.do(added.drop(found.ifindex))
            raise CNIError(
                CONFLICT,
                f'"{found.name}" already has an IP address different from {added.address}',
                f"{other} is in use by {user}; remove the pods of the earlier subnet, name another bridge, or set "
                "forceAddress to take it from them. "
                f"If nothing needs it: ip address del {other} dev {found.name}",
            )
    for other in stale:
        node.nl.do(LinkAddress(found.name, other).drop(found.ifindex))
    if stale:
        try:
            # With a first IPv4 address of a subnet the kernel removes the second ones, so ours may be gone.
            node.nl.do(added.make(found.ifindex))
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise


def _in_the_way(address: Interface, switch: Switch) -> bool:
    """One IPv4 gateway address per subnet that is wanted, and no other; in IPv6 those that overlap a wanted one."""
    if address in switch.gateways:
        return False
    if address.address.version == 4:
        return True
    prefix, length = _LINK_LOCAL_V6
    if address.address.value >> 128 - length == prefix >> 128 - length:
        return False
    return any(address.network.overlaps(gateway.network) for gateway in switch.gateways)


def _user_of(node: Node, bridge: Link, gateway: Interface) -> str:
    """Who may live by this gateway address: an attachment of ours, or a port that isn't ours. "" for nobody."""
    ours = set()
    for record in node.records.all():
        ours.add(record.key.tag)
        if not lives(record):
            continue  # its pod is gone, whether or not anybody has told us yet
        switches = reading.switches_of(record.objects)
        # What can't be understood may live by any.
        if switches is None or (bridge.name, gateway) in [
            (one.bridge.name, g) for one in switches for g in one.gateways
        ]:
            return f"attachment {record.key}"
    # Whose port has no record may be anybody's: unsure, we keep.
    foreign = [port.name for port in links.dump(node.nl, master=bridge.ifindex) if port.name not in ours]
    return f"whatever is behind {', '.join(foreign[:3])}" if foreign else ""

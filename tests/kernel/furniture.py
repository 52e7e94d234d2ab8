"""The links that most tests begin with, made by our own messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.kernel import link
from cni.kernel.link import Link
from cni.kernel.netns import Netns
from cni.kernel.ports import Bridge, LinkUp, Veth

if TYPE_CHECKING:
    from pathlib import Path

    from cni.kernel.netlink import Socket

BRIDGE = Bridge("br0", "02:00:00:00:00:01", 0)
VETH = Veth("port0", "02:00:00:00:00:02", "eth0", "02:00:00:00:00:03", 0, "br0")


def make_bridge(nl: Socket) -> Link:
    """`br0`, up: it has no carrier while it has no port."""
    nl.do(BRIDGE.make())
    nl.do(LinkUp("br0").make(link.need(nl, "br0").ifindex))
    return link.need(nl, "br0")


def make_port(nl: Socket, netns: Path, bridge: Link) -> Link:
    """`port0`, a port of `br0`; its other end, `eth0`, is in the same namespace, down."""
    with Netns(str(netns)) as there:
        nl.do(VETH.make(there.fd, bridge.ifindex))
    return link.need(nl, "port0")

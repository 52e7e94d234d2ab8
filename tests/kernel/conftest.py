"""A socket of ours in a namespace to spoil, and links to hang things on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cni.kernel import link
from cni.kernel.link import Bridge, Link, LinkUp, Veth
from cni.kernel.netlink import Socket
from cni.kernel.netns import Netns
from tests import namespaces

if TYPE_CHECKING:
    from collections.abc import Iterator

BRIDGE = Bridge("br0", "02:00:00:00:00:01", 0)
VETH = Veth("port0", "02:00:00:00:00:02", "eth0", "02:00:00:00:00:03", 0, "br0")


@pytest.fixture
def nl(netns: Path) -> Iterator[Socket]:
    """Our socket in `netns`."""
    with namespaces.inside(netns, Socket) as socket:
        yield socket


@pytest.fixture
def bridge(nl: Socket) -> Link:
    """`br0`, up: it has no carrier while it has no port."""
    nl.do(BRIDGE.make())
    made = link.need(nl, "br0")
    nl.do(LinkUp("br0").make(made.ifindex))
    return link.need(nl, "br0")


@pytest.fixture
def port(netns: Path, nl: Socket, bridge: Link) -> Link:
    """`port0`, a port of `br0`; its other end, `eth0`, is in the same namespace, down."""
    with Netns(str(netns)) as there:
        nl.do(VETH.make(there.fd, bridge.ifindex))
    return link.need(nl, "port0")

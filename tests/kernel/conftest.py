"""A socket of ours in a namespace to spoil, and links to hang things on.

Ours is imported when a fixture is asked for: this file is read before `--twins` can change what it stands on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import namespaces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cni.kernel.link import Link
    from cni.kernel.netlink import Socket


@pytest.fixture
def nl(netns: Path) -> Iterator[Socket]:
    """Our socket in `netns`."""
    from cni.kernel.netlink import Socket

    with namespaces.inside(netns, Socket) as socket:
        yield socket


@pytest.fixture
def bridge(nl: Socket) -> Link:
    """`br0`, up: it has no carrier while it has no port."""
    from tests.kernel import furniture

    return furniture.make_bridge(nl)


@pytest.fixture
def port(netns: Path, nl: Socket, bridge: Link) -> Link:
    """`port0`, a port of `br0`; its other end, `eth0`, is in the same namespace, down."""
    from tests.kernel import furniture

    return furniture.make_port(nl, netns, bridge)

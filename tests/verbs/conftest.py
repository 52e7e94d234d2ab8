"""Networks for the tests of plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import namespaces
from tests.verbs.networks import Network, Reused, host_local

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.calls import InProcess


@pytest.fixture
def network(in_process: InProcess, node: Path, data_dir: Path) -> Callable[..., Network]:
    """`network("10.1.0.0/24", isGateway=True)`: a bridge on the test's node, with addresses of these subnets by
    host-local, or without addresses (L2) where none is named. Calls go to the plugin in this process."""

    def configured(*subnets: str, **keys: object) -> Network:
        ipam = {"ipam": host_local(data_dir, *subnets)} if subnets else {}
        config = {"cniVersion": "1.1.0", "name": "lan", "type": "bridge", "bridge": "br0", **ipam}
        return Network(in_process, node, config, data_dir).but(**keys)

    return configured


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A `dataDir` for host-local; it doesn't exist yet."""
    return tmp_path / "networks"


@pytest.fixture
def lan(network: Callable[..., Network]) -> Network:
    """A network of both families whose gateway, also to everywhere else, is the node: the usual one."""
    return network("10.1.0.0/24", "fd00:1::/64", isDefaultGateway=True)


@pytest.fixture
def reused(lan: Network, make_netns: Callable[[], Path], tmp_path: Path) -> Reused:
    """The path of a pod of `lan` that died, where another pod's namespace is now."""
    path = tmp_path / "pod"
    with namespaces.held() as dead:
        path.symlink_to(dead)
        result = lan.add(path)
    path.unlink()
    path.symlink_to(make_netns())
    return Reused(path, result)

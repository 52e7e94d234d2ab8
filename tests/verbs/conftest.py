"""Networks for the tests of plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import calls, namespaces
from tests.conftest import REFERENCE_PLUGINS
from tests.verbs.lab import Lab
from tests.verbs.networks import Network, Reused, host_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.calls import Exec, InProcess


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


@pytest.fixture
def outside(make_netns: Callable[[], Path]) -> Path:
    """An empty network namespace that `lab` makes a host outside the node of."""
    return make_netns()


@pytest.fixture
def lab(node: Path, outside: Path) -> Iterator[Lab]:
    """The test's node, joined to an outside host. See `tests.verbs.lab`."""
    with Lab(node, outside) as joined:
        yield joined


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[namespaces.Crowd]:
    """Makes network namespaces by the hundred: `crowd.make("pod7")`; they end with the test, or by `crowd.end`."""
    with namespaces.Crowd(tmp_path / "crowd") as many:
        yield many


@pytest.fixture
def reference(run_dir: Path, unique: Callable[[], str]) -> Exec:
    """Calls the reference's plugins, as Debian has them, and none of ours behind them."""
    return calls.Exec((REFERENCE_PLUGINS,), run_dir, unique())

"""A node with containerd for the tests of one module, and for one that breaks it a node of its own."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.node import images
from tests.node.box import Box
from tests.node.containerd import Containerd
from tests.node.node import Node, conflist

_numbers = itertools.count()


@pytest.fixture(scope="session")
def plugins(request: pytest.FixtureRequest) -> Path:
    """The directory of the plugins under test: ours, or another that NODE_PLUGINS names to compare with.

    The reference's fail where a test asks for more than they promise: neighbours that go with the pod, host-local
    without an exec of its own, CNI 1.1.0. The rest they pass, so the tests are about containerd as it is.
    """
    return Path(os.environ.get("NODE_PLUGINS") or request.getfixturevalue("executables"))


@pytest.fixture(scope="session")
def image_archive() -> bytes:
    busybox = Path(shutil.which("busybox") or "")
    if b"/ld-linux" in busybox.read_bytes()[:4096]:
        pytest.skip("lacks: a statically linked busybox (Debian's package busybox-static)")
    return images.archive(busybox)


@pytest.fixture(scope="module")
def shared_node(plugins: Path, image_archive: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with _node(plugins, image_archive, tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture
def node(shared_node: Node) -> Iterator[Node]:
    """A node without pods. The test that leaves something of one behind fails."""
    before = shared_node.inventory()
    yield shared_node
    shared_node.remove_all_pods()
    assert shared_node.inventory() == before


@pytest.fixture(scope="module")
def podwire(shared_node: Node, executables: Path) -> str:
    """The command for people, installed on the node of `node`."""
    shared_node.box.write("/opt/podwire", (executables / "podwire").read_bytes(), 0o755)
    return "/opt/podwire"


@pytest.fixture
def fresh_node(plugins: Path, image_archive: bytes, tmp_path: Path) -> Iterator[Node]:
    """A node that nobody else uses before or after."""
    with _node(plugins, image_archive, tmp_path) as node:
        yield node


@contextmanager
def _node(plugins: Path, image_archive: bytes, logs: Path) -> Iterator[Node]:
    with Box(f"{os.getpid()}-{next(_numbers)}") as box:
        node = Node(box, Containerd(box, logs / "containerd.log"))
        node.install(plugins)
        node.configure(conflist())
        node.containerd.start()
        node.containerd.import_images(image_archive)
        yield node

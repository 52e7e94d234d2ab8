"""A socket of ours whose other end is the test's.

Ours is imported when a fixture is asked for: this file is read before `--twins` can change what it stands on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cni.kernel.netlink import Socket
    from tests.unit.kernel.played import Kernel


@pytest.fixture
def kernel() -> Kernel:
    from tests.unit.kernel.played import Kernel

    return Kernel()


@pytest.fixture
def nl(kernel: Kernel) -> Iterator[Socket]:
    from cni.kernel.netlink import Socket

    with Socket() as nl:
        nl._socket.close()
        nl._socket = kernel  # type: ignore[assignment]  # in the real one's place
        yield nl

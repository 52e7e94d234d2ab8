"""bridge where the kernel has no IPv6. Here only its settings are hidden; the real thing is in tests/vm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import namespaces, oracle
from tests.verbs.networks import Network, addresses

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    from cni.attach import shared
    from cni.kernel import sysctl

    monkeypatch.setattr(shared, "read", lambda path: None if path.startswith("net/ipv6/") else sysctl.read(path))


def test_ipv4_works(network: Callable[..., Network], netns: Path) -> None:
    lan = network("10.1.0.0/24", isDefaultGateway=True)

    result = lan.add(netns)

    namespaces.tcp(lan.node, netns, addresses(result)[0])
    assert lan.check(result, netns).code == 0


@pytest.mark.parametrize("is_gateway", [True, False], ids=["gateway", "no gateway"])
@pytest.mark.parametrize("subnets", [["fd00:1::/64"], ["10.1.0.0/24", "fd00:1::/64"]], ids=["IPv6", "dual stack"])
def test_an_ipv6_address_is_refused_before_anything_is_made(
    network: Callable[..., Network], netns: Path, subnets: list[str], is_gateway: bool
) -> None:
    lan = network(*subnets, isDefaultGateway=is_gateway)
    before = oracle.everything(lan.node), oracle.everything(netns)

    error = lan.call("ADD", "a", netns).error

    assert error["code"] == 104
    assert "no IPv6" in error["msg"]
    assert (oracle.everything(lan.node), oracle.everything(netns)) == before
    assert (lan.reserved, lan.records) == ({}, {})

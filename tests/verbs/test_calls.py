"""The two ways in which tests call a plugin, on the one verb that needs nothing: they must tell the same story."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import namespaces, oracle
from tests.calls import Exec, InProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VERSION = {"cniVersion": "1.0.0"}


def test_exec_and_a_call_in_process_give_the_same(plugin: Exec, in_process: InProcess) -> None:
    executed, called = plugin("bridge", "VERSION", VERSION), in_process("bridge", "VERSION", VERSION)

    assert executed.result == called.result
    assert executed.result["supportedVersions"]


@pytest.mark.parametrize("stdin", [b"", b"{", b"\xff" * 200_000], ids=["nothing", "half", "noise"])
def test_errors_are_the_same_too(plugin: Exec, in_process: InProcess, stdin: bytes) -> None:
    executed, called = plugin("bridge", "ADD", stdin), in_process("bridge", "ADD", stdin)

    assert executed.code == called.code
    assert executed.error == called.error


def bridge(data_dir: Path) -> dict[str, object]:
    ipam = {"type": "host-local", "dataDir": str(data_dir), "subnet": "10.1.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}
    return {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br0", "isGateway": True, "ipam": ipam}


def test_pods_on_a_node_of_their_own_reach_each_other(
    plugin: Exec,
    in_process: InProcess,
    node: Path,
    make_netns: Callable[[], Path],
    tmp_path: Path,
    unique: Callable[[], str],
) -> None:
    config, first, second = bridge(tmp_path), make_netns(), make_netns()

    plugin("bridge", "ADD", config, netns=first, node=node, container_id=unique())
    result = in_process("bridge", "ADD", config, netns=second, node=node, container_id=unique()).result

    address = result["ips"][0]["address"].partition("/")[0]
    assert namespaces.tcp(first, second, address) == "10.1.0.2"
    assert [link.name for link in oracle.links(first)] == ["eth0"]
    assert oracle.link(node, "br0").up

"""A network in a machine, and what there is of its pods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import namespaces
from tests.verbs.networks import Network, host_local

if TYPE_CHECKING:
    from tests.calls import Exec


def configured(plugin: Exec, node: Path, data_dir: Path, *subnets: str) -> Network:
    config = {
        "cniVersion": "1.1.0",
        "name": "lan",
        "type": "bridge",
        "bridge": "br0",
        "isDefaultGateway": True,
        "ipam": host_local(data_dir, *subnets),
    }
    return Network(plugin, node, config, data_dir)


def links(netns: Path) -> dict[str, dict[str, Any]]:
    """The links of a namespace, but for `lo`, by name."""
    found = json.loads(namespaces.shell(netns, "ip -json -details link show"))
    return {link["ifname"]: link for link in found if link["ifname"] != "lo"}


def left(network: Network) -> dict[str, object]:
    """What there is of a network's pods, anywhere on its node: nothing, once all are detached."""
    there = {
        "ports": sorted(set(links(network.node)) - {network.config.get("bridge")}),
        "addresses": network.reserved,
        "records": sorted(network.records),
        "neighbours": json.loads(
            namespaces.shell(network.node, "ip -json neigh show nud permanent nud reachable nud stale")
        ),
    }
    return {kind: found for kind, found in there.items() if found}

"""A network on a node, as the tests of plugins configure it, and calls for its pods.

Knows the protocol's side only: what a call did to the kernel is for the oracle to say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.calls import Exec

if TYPE_CHECKING:
    from pathlib import Path

    from tests.calls import Caller, Outcome

OURS = ("bridge", "ptp", "loopback", "host-local", "portmap", "bandwidth", "firewall", "tuning")
VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")


def host_local(data_dir: Path, *subnets: str, **keys: object) -> dict[str, Any]:
    """An `ipam` that gives one address of each subnet."""
    return {
        "type": "host-local",
        "dataDir": str(data_dir),
        "ranges": [[{"subnet": subnet}] for subnet in subnets],
        **keys,
    }


@dataclass(frozen=True, slots=True)
class Network:
    """A network as one plugin configures it, on one node. `pod` is what names a pod: its container ID."""

    plugin: Caller
    node: Path
    config: dict[str, Any]
    data_dir: Path
    """Of host-local, whether or not the network uses it."""

    def but(self, **keys: Any) -> Network:
        """The same network with some keys configured otherwise, `ipam` by its own keys; None takes a key away."""
        if keys.get("ipam"):
            keys["ipam"] = {**self.config.get("ipam", {}), **keys["ipam"]}
        changed = {**self.config, **keys}
        return replace(self, config={key: value for key, value in changed.items() if value is not None})

    def call(self, command: str, pod: str = "a", netns: Path | None = None, **how: Any) -> Outcome:
        return self.plugin(
            self.config["type"], command, self.config, container_id=pod, netns=netns, node=self.node, **how
        )

    def add(self, netns: Path, pod: str = "a", **how: Any) -> dict[str, Any]:
        """The result of an ADD that succeeds."""
        return self.call("ADD", pod, netns, **how).result

    def check(self, result: dict[str, Any], netns: Path, pod: str = "a", **how: Any) -> Outcome:
        return self.but(prevResult=result).call("CHECK", pod, netns, **how)

    def delete(self, pod: str = "a", netns: Path | None = None, **how: Any) -> None:
        """A DEL that succeeds, and says nothing."""
        outcome = self.call("DEL", pod, netns, **how)
        assert (outcome.code, outcome.stdout) == (0, b""), outcome

    def collect(self, *valid: tuple[str, str], **how: Any) -> Outcome:
        """A GC that leaves these (pod, interface name)."""
        attachments = [{"containerID": pod, "ifname": ifname} for pod, ifname in valid]
        return self.but(**{"cni.dev/valid-attachments": attachments}).call("GC", **how)

    def chained(self, kind: str, before: dict[str, Any], *, theirs: bool = False, **keys: Any) -> Network:
        """The plugin `kind` behind this network's, which left the result `before`; the reference's if we have none."""
        header = {key: self.config[key] for key in ("cniVersion", "name")}
        plugin = self.plugin
        if theirs or kind not in OURS:
            plugin = Exec(self.plugin.path, self.plugin.run_dir, self.plugin.container_id)
        return replace(self, plugin=plugin, config={**header, "type": kind, "prevResult": before, **keys})

    @property
    def reserved(self) -> dict[str, str]:
        """Who holds which address of host-local."""
        return reservations(self.data_dir, self.config["name"])

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """The attachment records of all networks of the node, by file name."""
        return {
            file.name: json.loads(file.read_text())
            for file in self.plugin.run_dir.glob("attachments/*/*")
            if file.is_file()
        }


class Reused(NamedTuple):
    """A path where a pod was attached, and then another namespace came."""

    path: Path
    result: dict[str, Any]
    """Of the ADD of the pod that was."""


def reservations(data_dir: Path, network: str) -> dict[str, str]:
    """Who holds which address in a directory of host-local's, as "pod ifname"; and whatever doesn't belong there."""
    folder = data_dir / network
    return {
        file.name: " ".join(file.read_text().split())
        for file in sorted(folder.iterdir() if folder.exists() else ())
        if file.name != "lock" and not file.name.startswith("last_reserved_ip.")
    }


def addresses(result: dict[str, Any]) -> list[str]:
    """The addresses in a result, without their prefix lengths."""
    return [ip["address"].partition("/")[0] for ip in result["ips"]]


def interface(result: dict[str, Any], name: str) -> dict[str, Any]:
    """The interface of that name in a result."""
    return next(one for one in result["interfaces"] if one["name"] == name)


def port(result: dict[str, Any]) -> str:
    """The name of the pod's link on the node: the bridge's result has bridge, port, pod."""
    return str(result["interfaces"][1]["name"])

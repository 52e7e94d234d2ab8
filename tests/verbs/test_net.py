"""`cni.runtime` drives real plugins over real namespaces: the reference's, in versions that these speak."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from cni.runtime import conflist, names
from cni.runtime.cache import Cache
from cni.runtime.chain import Attachment, ChainFailed, Runtime
from tests import namespaces, oracle
from tests.conftest import REFERENCE_PLUGINS

if TYPE_CHECKING:
    from pathlib import Path

    from cni.runtime.chain import Added
    from cni.runtime.conflist import Network

pytestmark = pytest.mark.needs(f"{REFERENCE_PLUGINS}/bridge")


class OnNode:
    """A runtime whose plugins run on a throw-away node."""

    def __init__(self, node: Path, folder: Path) -> None:
        self.node = node
        self.folder = folder
        self.cache = Cache(folder / "cache")
        self.runtime = Runtime([str(REFERENCE_PLUGINS)], self.cache, {"PATH": os.environ["PATH"]})

    def network(self, *plugins: dict[str, Any], version: str = "1.0.0", **keys: Any) -> Network:
        ipam = {"type": "host-local", "dataDir": str(self.folder / "ipam"), "ranges": [[{"subnet": "10.1.0.0/24"}]]}
        bridge = {"type": "bridge", "bridge": "br0", "isGateway": True, "ipam": ipam}
        file = self.folder / "net.d" / "10-podnet.conflist"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"name": "podnet", "cniVersion": version, **keys, "plugins": [bridge, *plugins]}))
        return conflist.find(file.parent, "podnet")

    def add(self, network: Network, pod: Attachment) -> Added:
        return namespaces.inside(self.node, partial(self.runtime.add, network, pod))

    def check(self, network: Network, pod: Attachment) -> bool:
        return namespaces.inside(self.node, partial(self.runtime.check, network, pod))

    def delete(self, network: Network, pod: Attachment) -> None:
        namespaces.inside(self.node, partial(self.runtime.delete, network, pod))

    @property
    def reserved(self) -> list[str]:
        return [file.name for file in (self.folder / "ipam" / "podnet").glob("10.*")]


@pytest.fixture
def on_node(node: Path, tmp_path: Path) -> OnNode:
    return OnNode(node, tmp_path)


def pod_in(netns: Path, **more: Any) -> Attachment:
    return Attachment(names.container_id(str(netns)), str(netns), **more)


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_a_pod_is_attached_reached_checked_and_detached(on_node: OnNode, netns: Path, version: str) -> None:
    tuning = {"type": "tuning", "capabilities": {"mac": True}, "dataDir": f"{on_node.folder}/tuning"}
    network = on_node.network(tuning, version=version)
    mac = "c2:11:22:33:44:55"
    pod = pod_in(netns, capability_args={"mac": mac, "bandwidth": {}})

    added = on_node.add(network, pod)

    (ip,) = added.result.ips
    assert json.loads(added.text)["cniVersion"] == version
    assert oracle.link(netns, "eth0").mac == mac
    assert namespaces.tcp(on_node.node, netns, str(ip.address.address)) == str(ip.gateway)
    if version != "0.3.1":
        assert on_node.check(network, Attachment(pod.container_id, pod.netns))

    on_node.delete(network, Attachment(pod.container_id, pod.netns))

    assert oracle.links(netns) == []
    assert on_node.reserved == []
    assert on_node.cache.attachments() == ()
    on_node.delete(network, pod)


def test_a_pod_can_be_detached_when_its_namespace_is_gone(on_node: OnNode) -> None:
    network = on_node.network()
    with namespaces.held() as netns:
        pod = pod_in(netns)
        on_node.add(network, pod)
        assert len(on_node.reserved) == 1

    on_node.delete(network, pod)

    assert on_node.reserved == []
    assert on_node.cache.attachments() == ()


def test_a_chain_that_breaks_in_the_middle_leaves_nothing(on_node: OnNode, netns: Path) -> None:
    network = on_node.network({"type": "tuning", "sysctl": {"net.ipv4.no_such_thing": "1"}}, {"type": "portmap"})

    with pytest.raises(ChainFailed, match="podnet: tuning: ADD"):
        on_node.add(network, pod_in(netns))

    assert oracle.links(netns) == []
    assert [link.name for link in oracle.links(on_node.node)] == ["br0"]
    assert on_node.reserved == []
    assert on_node.cache.attachments() == ()


def test_check_hears_of_what_is_missing(on_node: OnNode, netns: Path) -> None:
    network = on_node.network()
    pod = pod_in(netns)
    on_node.add(network, pod)
    namespaces.shell(netns, "ip addr flush dev eth0")

    with pytest.raises(ChainFailed, match="podnet: bridge: CHECK of"):
        on_node.check(network, pod)

    on_node.delete(network, pod)


def test_gc_detaches_the_pods_whose_namespaces_are_gone(on_node: OnNode, netns: Path) -> None:
    network = on_node.network()
    alive = pod_in(netns)
    on_node.add(network, alive)
    with namespaces.held() as other:
        dead = pod_in(other)
        on_node.add(network, dead)

    collected = namespaces.inside(on_node.node, partial(on_node.runtime.gc, network))

    assert collected is not None
    assert [one.container_id for one in collected.detached] == [dead.container_id]
    assert not collected.asked  # these plugins end at 1.0.0
    assert len(on_node.reserved) == 1
    assert on_node.check(network, alive)
    on_node.delete(network, alive)


def test_a_lone_loopback_of_old_works(on_node: OnNode, netns: Path) -> None:
    file = on_node.folder / "99-loopback.conf"
    file.write_text('{"cniVersion": "0.3.1", "name": "lo", "type": "loopback"}')
    network = conflist.find(on_node.folder, "lo")
    pod = pod_in(netns, ifname="lo")

    on_node.add(network, pod)
    assert namespaces.tcp(netns, netns, "127.0.0.1") == "127.0.0.1"
    on_node.delete(network, pod)

    assert on_node.cache.attachments() == ()


def test_what_the_reference_prints_is_what_the_next_plugin_gets(on_node: OnNode, netns: Path, tmp_path: Path) -> None:
    """As printed, in the configuration's version, and again to all of them on DEL."""
    recorder = tmp_path / "bin" / "recorder"
    recorder.parent.mkdir()
    recorder.write_text(f'#!/bin/sh\ntee {tmp_path}/seen-$CNI_COMMAND | grep -o \'"prevResult": .*\' >/dev/null\n'
                        f'[ $CNI_COMMAND != ADD ] || echo \'{{"cniVersion": "1.0.0", "ips": []}}\'\n')  # fmt: skip
    recorder.chmod(0o755)
    path = [str(REFERENCE_PLUGINS), str(recorder.parent)]
    on_node.runtime = Runtime(path, on_node.cache, {"PATH": os.environ["PATH"]})
    network = on_node.network({"type": "recorder"})
    pod = pod_in(netns)

    on_node.add(network, pod)
    seen = json.loads((tmp_path / "seen-ADD").read_text())["prevResult"]
    on_node.delete(network, pod)

    assert seen["cniVersion"] == "1.0.0"
    assert [one["name"] for one in seen["interfaces"]] == ["br0", seen["interfaces"][1]["name"], "eth0"]
    assert seen["interfaces"][2]["sandbox"] == str(netns)
    assert seen["ips"] == [{"interface": 2, "address": "10.1.0.2/24", "gateway": "10.1.0.1"}]
    assert json.loads((tmp_path / "seen-DEL").read_text())["prevResult"] == {"cniVersion": "1.0.0", "ips": []}


@pytest.mark.needs("iptables")
def test_host_ports_go_through_the_chain(on_node: OnNode, netns: Path) -> None:
    network = on_node.network({"type": "portmap", "capabilities": {"portMappings": True}, "snat": True})
    mapping = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
    pod = pod_in(netns, capability_args={"portMappings": [mapping]})

    on_node.add(network, pod)
    rules = namespaces.shell(on_node.node, "iptables-save -t nat")
    on_node.delete(network, Attachment(pod.container_id, pod.netns))

    assert "--dport 8080" in rules
    assert "--dport 8080" not in namespaces.shell(on_node.node, "iptables-save -t nat")

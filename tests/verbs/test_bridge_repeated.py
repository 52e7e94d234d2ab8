"""bridge: ADD where there was one before: of a pod that lives, of one that died, and where others came first."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces, oracle
from tests.verbs.networks import Network, Reused, interface, port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.calls import Exec


def everything(network: Network, *pods: Path) -> list[Any]:
    """All that attachments consist of, but for what passing packets change: on the node, in pods, store and records."""
    kernel = [
        (
            [(it.name, it.index, it.mac, it.mtu, it.up, it.alias, it.master) for it in oracle.links(netns)],
            [oracle.addresses(netns, link.name) for link in oracle.links(netns)],
            oracle.routes(netns),
            {(it.address, it.mac) for it in oracle.neighbours(netns) if not it.address.startswith("fe80:")},
        )
        for netns in (network.node, *pods)
    ]
    records = {file: file.read_bytes() for file in network.plugin.run_dir.glob("attachments/*/*")}
    return [kernel, network.reserved, records]


@contextmanager
def connection(client: Path, server: Path, address: str) -> Iterator[Callable[[], None]]:
    """An open TCP connection; calling what is yielded proves that both ends still talk."""
    with namespaces.listening(server, address, 7001) as listener:
        near = namespaces.inside(client, lambda: socket.create_connection((address, 7001), 2))
        with near, listener.accept()[0] as far:
            far.settimeout(2)

            def talk() -> None:
                for sender, receiver in ((near, far), (far, near)):
                    sender.sendall(b"still there")
                    assert receiver.recv(100) == b"still there"

            talk()
            yield talk
            talk()


# --- of a pod that lives ----------------------------------------------------------------------------


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as before": ({}, {}),
    "with another configuration": ({"mtu": 1300, "hairpinMode": True, "portIsolation": True, "enabledad": True}, {}),
    "with another subnet": ({"ipam": {"ranges": [[{"subnet": "10.7.0.0/24"}]]}}, {}),
    "without addresses": ({"ipam": None}, {}),
    "with an address that is asked for": ({"runtimeConfig": {"ips": ["10.1.0.77"]}}, {}),
    "on another bridge": ({"bridge": "br1"}, {}),
    "with another MAC": ({}, {"args": "MAC=02:00:00:00:00:01"}),
}
"""Asking for the same attachment once more: what is configured otherwise, and what the call says otherwise."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("elsewhere", [False, True], ids=["in its namespace", "in another"])
def test_a_live_attachment_is_not_made_again_and_nothing_of_it_is_touched(
    way: str, elsewhere: bool, lan: Network, make_netns: Callable[[], Path]
) -> None:
    netns, other = make_netns(), make_netns()
    keys, how = WAYS[way]
    result = lan.add(netns)
    with connection(lan.node, netns, "10.1.0.2"), connection(netns, lan.node, "fd00:1::1"):
        before = everything(lan, netns, other)

        error = lan.but(**keys).call("ADD", netns=other if elsewhere else netns, **how).error

        assert error["code"] == 102
        assert error["msg"] == "eth0 of container a is attached to network lan already"
        assert str(netns) in error["details"]
        assert everything(lan, netns, other) == before
    assert lan.check(result, netns).code == 0


def test_the_executable_does_not_make_a_live_attachment_again_either(plugin: Exec, lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    before = everything(lan, netns)

    error = plugin("bridge", "ADD", lan.config, container_id="a", netns=netns, node=lan.node).error

    assert error["code"] == 102
    assert everything(lan, netns) == before
    assert lan.check(result, netns).code == 0


def test_another_network_may_attach_the_same_pod(network: Callable[..., Network], netns: Path) -> None:
    lan, wan = network("10.1.0.0/24"), network("10.2.0.0/24", name="wan", bridge="br1")

    results = [lan.add(netns), wan.add(netns, ifname="net1")]

    assert lan.check(results[0], netns).code == 0
    assert wan.check(results[1], netns, ifname="net1").code == 0


# --- of a pod that died -----------------------------------------------------------------------------


def test_a_pod_that_comes_back_in_another_namespace_is_attached(lan: Network, make_netns: Callable[[], Path]) -> None:
    with namespaces.held() as dead:
        first = lan.add(dead)
    netns = make_netns()

    second = lan.add(netns)

    assert port(first) == port(second)
    assert namespaces.tcp(lan.node, netns, second["ips"][0]["address"].partition("/")[0]) == "10.1.0.1"
    assert set(lan.reserved.values()) == {"a eth0"}
    assert len(lan.reserved) == 2
    assert lan.check(second, netns).code == 0


def test_a_pod_that_comes_back_at_the_same_path_is_attached(lan: Network, reused: Reused) -> None:
    path = reused.path

    result = lan.add(path)

    assert lan.check(result, path).code == 0


def test_a_new_namespace_with_the_path_and_the_inode_number_of_a_dead_one_is_not_mistaken_for_it(
    lan: Network, reused: Reused
) -> None:
    path = reused.path
    # The kernel gives numbers out again when it sees fit; here the record says what it would say then.
    record = next(lan.plugin.run_dir.glob("attachments/lan/*.json"))
    told = json.loads(record.read_text())
    told["netns"][1:3] = path.stat().st_dev, path.stat().st_ino
    record.write_text(json.dumps(told))

    result = lan.add(path)

    assert lan.check(result, path).code == 0
    assert len(lan.reserved) == 2
    lan.delete(netns=path)


@pytest.mark.parametrize("stage", ["begun", "planned", "leaving"])
def test_what_an_interrupted_call_left_is_cleared_first(stage: str, lan: Network, netns: Path) -> None:
    lan.add(netns)
    record = next(lan.plugin.run_dir.glob("attachments/lan/*.json"))
    record.write_text(json.dumps({**json.loads(record.read_text()), "stage": stage}))

    result = lan.add(netns)

    assert lan.check(result, netns).code == 0
    assert [link.name for link in oracle.links(lan.node)] == ["br0", port(result)]
    assert len(lan.reserved) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"format": 1}', b"\xff", b'{"format": 2, "boot": "x"}'])
def test_a_record_that_cannot_be_read_counts_as_none(content: bytes, lan: Network, netns: Path) -> None:
    lan.add(netns)
    next(lan.plugin.run_dir.glob("attachments/lan/*.json")).write_bytes(content)

    result = lan.add(netns)

    assert lan.check(result, netns).code == 0
    assert [link.name for link in oracle.links(lan.node)] == ["br0", port(result)]


@pytest.mark.parametrize("same", [True, False], ids=["in this pod", "in another"])
def test_a_link_of_our_tag_that_lost_its_record_makes_way(
    same: bool, lan: Network, make_netns: Callable[[], Path]
) -> None:
    netns, other = make_netns(), make_netns()
    first = lan.add(netns if same else other)
    next(lan.plugin.run_dir.glob("attachments/lan/*.json")).unlink()

    second = lan.add(netns)

    assert port(first) == port(second)
    assert interface(first, "eth0")["mac"] != interface(second, "eth0")["mac"] == oracle.link(netns, "eth0").mac
    assert oracle.links(other) == []
    assert lan.check(second, netns).code == 0


# --- where others came first ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["veth", "bridge"])
def test_an_interface_of_somebody_else_keeps_its_name_and_all_it_has(kind: str, lan: Network, netns: Path) -> None:
    namespaces.shell(netns, f"ip link add eth0 type {kind}; ip link set eth0 up; ip address add 192.0.2.1/24 dev eth0")
    before = everything(lan, netns)

    error = lan.call("ADD", netns=netns).error

    assert error["code"] == 104
    assert error["msg"] == f"CNI_IFNAME: interface eth0 already exists in {netns}"
    assert everything(lan, netns)[0][1] == before[0][1]
    assert [link.name for link in oracle.links(lan.node)] == ["br0"]
    assert [it for it in oracle.neighbours(lan.node) if it.mac] == []
    assert (lan.reserved, lan.records) == ({}, {})


def test_an_interface_of_another_network_keeps_its_name(network: Callable[..., Network], netns: Path) -> None:
    lan, wan = network("10.1.0.0/24"), network("10.2.0.0/24", name="wan", bridge="br1")
    result = lan.add(netns)

    error = wan.call("ADD", netns=netns).error

    assert error["code"] == 104
    assert lan.check(result, netns).code == 0
    assert (wan.reserved, list(wan.records)) == ({}, ["a@eth0@bridge.json"])


def test_lo_is_somebody_elses(lan: Network, netns: Path) -> None:
    error = lan.call("ADD", netns=netns, ifname="lo").error

    assert error["code"] == 104
    assert not oracle.link(netns, "lo").up
    assert lan.reserved == {}

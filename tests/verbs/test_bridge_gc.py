"""bridge: GC removes what no valid attachment has, of its own network and plugin, and nothing of anybody else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests import namespaces, oracle
from tests.conftest import REFERENCE_PLUGINS
from tests.verbs.networks import Network, port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.calls import Outcome


@pytest.fixture
def pods(make_netns: Callable[[], Path]) -> dict[str, Path]:
    """Namespaces of three pods."""
    return {name: make_netns() for name in "abc"}


def attached(network: Network, pods: Mapping[str, Path]) -> dict[str, dict[str, object]]:
    return {pod: network.add(netns, pod) for pod, netns in pods.items()}


def with_interface(pods: Mapping[str, Path]) -> str:
    """The pods that have an eth0."""
    return "".join(pod for pod, netns in pods.items() if oracle.links(netns))


def assert_well(outcome: Outcome) -> None:
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, b"", "")


def test_what_is_not_valid_goes_with_all_that_it_has(lan: Network, pods: dict[str, Path]) -> None:
    results = attached(lan, pods)

    assert_well(lan.collect(("b", "eth0")))

    assert with_interface(pods) == "b"
    assert [link.name for link in oracle.links(lan.node)] == ["br0", port(results["b"])]
    assert lan.reserved == {"10.1.0.3": "b eth0", "fd00:1::3": "b eth0"}
    assert list(lan.records) == ["b@eth0@bridge.json"]
    assert {it.address for it in oracle.neighbours(lan.node) if it.mac} == {"10.1.0.3", "fd00:1::3"}
    assert lan.check(results["b"], pods["b"], "b").code == 0


def test_an_empty_list_makes_everything_stale(lan: Network, pods: dict[str, Path]) -> None:
    attached(lan, pods)

    assert_well(lan.collect())

    assert with_interface(pods) == ""
    assert [link.name for link in oracle.links(lan.node)] == ["br0"]
    assert (lan.reserved, lan.records) == ({}, {})


@pytest.mark.parametrize("said", [{}, {"cni.dev/valid-attachments": None}, {"cni.dev/attachments": None}], ids=str)
def test_where_nobody_says_what_is_valid_nothing_is_done(
    said: dict[str, object], lan: Network, pods: dict[str, Path]
) -> None:
    results = attached(lan, pods)
    asking = Network(lan.plugin, lan.node, {**lan.config, **said}, lan.data_dir)

    assert_well(asking.call("GC"))

    for pod, netns in pods.items():
        assert lan.check(results[pod], netns, pod).code == 0


def test_the_drafts_spelling_of_the_list_counts(lan: Network, pods: dict[str, Path]) -> None:
    attached(lan, pods)

    assert_well(lan.but(**{"cni.dev/attachments": [{"containerID": "a", "ifname": "eth0"}]}).call("GC"))

    assert with_interface(pods) == "a"


@pytest.mark.parametrize(
    "listed", [7, "a", [7], [None], [{}], [{"containerID": "a"}], [{"containerID": "", "ifname": "eth0"}]], ids=str
)
def test_a_list_that_cannot_be_read_is_an_error_and_nothing_is_done(
    listed: object, lan: Network, pods: dict[str, Path]
) -> None:
    attached(lan, pods)

    error = lan.but(**{"cni.dev/valid-attachments": listed}).call("GC").error

    assert error["code"] == 7
    assert with_interface(pods) == "abc"


def test_of_a_pods_two_interfaces_each_counts_by_itself(lan: Network, netns: Path) -> None:
    for ifname in ("eth0", "net1"):
        lan.add(netns, ifname=ifname)

    assert_well(lan.collect(("a", "net1")))

    assert [link.name for link in oracle.links(netns)] == ["net1"]
    assert set(lan.reserved.values()) == {"a net1"}


# --- what is left of the dead -----------------------------------------------------------------------


def test_a_pod_whose_namespace_is_gone_goes_too(lan: Network) -> None:
    with namespaces.held() as netns:
        lan.add(netns)

    assert_well(lan.collect())

    assert (lan.reserved, lan.records) == ({}, {})
    assert [it for it in oracle.neighbours(lan.node) if it.mac] == []


@pytest.mark.parametrize("stage", ["begun", "planned", "leaving"])
def test_what_an_interrupted_call_left_goes_too(stage: str, lan: Network, netns: Path) -> None:
    lan.add(netns)
    record = next(lan.plugin.run_dir.glob("attachments/lan/*.json"))
    record.write_text(json.dumps({**json.loads(record.read_text()), "stage": stage}))

    assert_well(lan.collect())

    assert oracle.links(netns) == []
    assert (lan.reserved, lan.records) == ({}, {})


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"format": 1, "boot": "an earlier one"}'])
def test_a_link_of_our_tag_goes_though_its_record_is_lost_or_unreadable(
    content: bytes | None, lan: Network, pods: dict[str, Path]
) -> None:
    attached(lan, pods)
    for pod in "ab":
        record = next(lan.plugin.run_dir.glob(f"attachments/lan/{pod}@*.json"))
        record.unlink()
        if content is not None:
            record.write_bytes(content)

    assert_well(lan.collect(("a", "eth0")))

    assert with_interface(pods) == "a"
    assert set(lan.reserved.values()) == {"a eth0"}
    left = [file.name[0] for file in lan.plugin.run_dir.glob("attachments/lan/*.json")]
    assert sorted(left) == ([] if content is None else ["a"])


# --- what is not ours -------------------------------------------------------------------------------


def test_other_networks_and_other_plugins_are_none_of_its_business(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    lan, wan = network("10.1.0.0/24"), network("10.2.0.0/24", name="wan")
    a, b = make_netns(), make_netns()
    lan.add(a, "a")
    result = wan.add(b, "b")
    loopback = Network(lan.plugin, lan.node, {"cniVersion": "1.1.0", "name": "lan", "type": "loopback"}, lan.data_dir)
    loopback.add(a, "a")

    assert_well(lan.collect())
    assert_well(loopback.collect())

    assert [link.name for link in oracle.links(a)] == []
    assert oracle.link(a, "lo").up
    assert wan.check(result, b, "b").code == 0


def test_links_of_somebody_else_are_left_alone(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    lan.delete(netns=netns)
    # One that only looks like ours, one with our tag and another's alias, one with our alias and another name.
    for name, alias in (
        ("pw0123456789abc", ""),
        (port(result), "lan/b@eth0@bridge"),
        ("veth77", "lan/a@eth0@bridge"),
        ("veth78", "lan/a@eth0"),
    ):
        namespaces.shell(
            lan.node, f"ip link add {name} type veth peer x{name[-5:]}; ip link set {name} alias '{alias}'"
        )
    before = [link.name for link in oracle.links(lan.node)]

    assert_well(lan.collect())

    assert [link.name for link in oracle.links(lan.node)] == before


def test_addresses_that_others_reserved_in_the_network_go_if_they_are_not_valid(lan: Network, netns: Path) -> None:
    # One network, one store: a reservation of an attachment that nobody knows is one that leaked.
    lan.add(netns)
    for address, owner in (("10.1.0.50", "dead\r\neth0"), ("10.1.0.51", "alive\r\neth0"), ("10.1.0.52", "alive")):
        (lan.data_dir / "lan" / address).write_text(owner)

    assert_well(lan.collect(("a", "eth0"), ("alive", "eth0")))

    assert lan.reserved == {
        "10.1.0.2": "a eth0",
        "10.1.0.51": "alive eth0",
        "10.1.0.52": "alive",
        "fd00:1::2": "a eth0",
    }


# --- failures ---------------------------------------------------------------------------------------


@pytest.mark.needs(f"{REFERENCE_PLUGINS}/static")
def test_one_that_cannot_be_removed_keeps_no_other_and_is_told_in_the_end(
    network: Callable[..., Network], pods: dict[str, Path], tmp_path: Path
) -> None:
    lan = network("10.1.0.0/24", cniVersion="1.0.0")
    static = network(cniVersion="1.0.0", ipam={"type": "static", "addresses": [{"address": "10.1.0.250/24"}]})
    lan.add(pods["a"], "a")
    static.add(pods["b"], "b")
    lan.add(pods["c"], "c")

    error = lan.but(cniVersion="1.1.0").collect(path=[tmp_path]).error

    assert error["code"] == 105
    assert 'failed to find plugin "static"' in error["msg"]
    assert with_interface(pods) == ""
    assert lan.reserved == {}
    assert list(lan.records) == ["b@eth0@bridge.json"]
    assert_well(lan.but(cniVersion="1.1.0").collect())
    assert lan.records == {}


def test_collecting_twice_is_as_once(lan: Network, pods: dict[str, Path]) -> None:
    attached(lan, pods)

    for _ in range(2):
        assert_well(lan.collect(("c", "eth0")))

    assert with_interface(pods) == "c"


def test_on_a_node_that_never_had_a_pod_there_is_nothing_to_collect(lan: Network) -> None:
    assert_well(lan.collect())

    assert not lan.data_dir.exists()

"""bridge: DEL takes everything of the attachment and nothing else, whatever it is told and whatever is gone already."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces, oracle
from tests.conftest import REFERENCE_PLUGINS
from tests.verbs.networks import Network, Reused, interface

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.calls import Exec


def assert_detached(network: Network, netns: Path | None = None) -> None:
    """Nothing but what pods share is left."""
    assert [link.name for link in oracle.links(network.node)] == ["br0"]
    assert [it for it in oracle.neighbours(network.node) if it.mac] == []
    assert [it for it in oracle.fdb(network.node, "br0") if it.state != "permanent"] == []
    assert (network.reserved, network.records) == ({}, {})
    if netns:
        assert oracle.links(netns) == []
        assert oracle.routes(netns) == []


def test_a_pod_is_detached(lan: Network, netns: Path) -> None:
    lan.add(netns)

    lan.delete(netns=netns)

    assert_detached(lan, netns)


def test_twice_is_as_once(lan: Network, netns: Path) -> None:
    result = lan.add(netns)

    for told in (result, None, result):
        lan.but(prevResult=told).delete(netns=netns)

    assert_detached(lan, netns)


def test_what_was_never_attached_is_detached_already(lan: Network, netns: Path) -> None:
    lan.delete(netns=netns)
    lan.delete("nobody")

    assert oracle.links(lan.node) == []
    assert lan.records == {}


# --- without what others would need -----------------------------------------------------------------


def test_the_namespace_need_not_be_named(lan: Network, netns: Path) -> None:
    lan.add(netns)

    lan.delete()

    assert_detached(lan, netns)


def test_the_namespace_may_be_gone(lan: Network) -> None:
    with namespaces.held() as netns:
        lan.add(netns)

    lan.delete(netns=netns)

    assert_detached(lan)


@pytest.mark.parametrize("what", ["a file", "a directory", "another namespace"])
def test_where_the_namespace_was_may_be_something_else(
    what: str, lan: Network, make_netns: Callable[[], Path], tmp_path: Path
) -> None:
    path, netns, other = tmp_path / "netns", make_netns(), make_netns()
    path.symlink_to(netns)
    lan.add(path)
    path.unlink()
    if what == "a file":
        path.touch()  # as stays behind when a namespace's mount is undone
    elif what == "a directory":
        path.mkdir()
    else:
        path.symlink_to(other)
        namespaces.shell(other, "ip link add eth0 type veth peer eth1")

    lan.delete(netns=path)

    assert_detached(lan, netns)
    assert len(oracle.links(other)) == (2 if what == "another namespace" else 0)


@pytest.mark.parametrize(
    "previous",
    [
        None,
        {},
        {"cniVersion": "1.1.0"},
        {"cniVersion": "1.1.0", "interfaces": []},
        {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/elsewhere"}]},
        {"cniVersion": "9.0.0", "ips": 7},
        [],
        "nothing",
    ],
    ids=str,
)
def test_what_the_runtime_remembers_need_not_be_right(previous: object, lan: Network, netns: Path) -> None:
    lan.add(netns)

    lan.but(prevResult=previous).delete(netns=netns)

    assert_detached(lan, netns)


CHANGED: dict[str, dict[str, Any]] = {
    "another bridge": {"bridge": "br7"},
    "a bridge that cannot be": {"bridge": "a/b"},
    "another subnet": {"ipam": {"ranges": [[{"subnet": "10.7.0.0/24"}]]}},
    "ranges that cannot be": {"ipam": {"ranges": [[{"subnet": "10.1.0.0/99"}]]}},
    "another place for reservations": {"ipam": {"dataDir": "/run/nowhere"}},
    "another IPAM": {"ipam": {"type": "nobody"}},
    "no IPAM": {"ipam": None},
    "an IPAM without a type": {"ipam": {"type": ""}},
    "an IPAM that is none": {"ipam": []},
    "no gateway": {"isDefaultGateway": None},
    "what is not implemented": {"ipMasq": True, "vlan": 7},
    "a MAC that cannot be": {"runtimeConfig": {"mac": "x"}},
    "an MTU that cannot be": {"mtu": -1},
    "an interface that stays down": {"disableContainerInterface": True},
    "another version": {"cniVersion": "0.3.1"},
}


@pytest.mark.parametrize("case", CHANGED)
def test_the_configuration_may_have_changed(case: str, lan: Network, netns: Path) -> None:
    lan.add(netns)

    lan.but(**CHANGED[case]).delete(netns=netns)

    assert_detached(lan, netns)


def test_cni_args_may_have_changed(lan: Network, netns: Path) -> None:
    lan.add(netns, args="IP=10.1.0.9")

    lan.delete(netns=netns, args="nonsense")

    assert_detached(lan, netns)


@pytest.mark.parametrize("gone", ["bridge", "port", "pod's end", "neighbours", "gateway address"])
def test_what_somebody_removed_already_is_not_missed(gone: str, lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    port = result["interfaces"][1]["name"]
    where, command = {
        "bridge": (lan.node, "ip link del br0"),
        "port": (lan.node, f"ip link del {port}"),
        "pod's end": (netns, "ip link del eth0"),
        "neighbours": (lan.node, "ip neighbour flush dev br0"),
        "gateway address": (lan.node, "ip address flush dev br0"),
    }[gone]
    namespaces.shell(where, command)

    lan.delete(netns=netns)

    assert oracle.links(netns) == []
    assert [link.name for link in oracle.links(lan.node)] == ([] if gone == "bridge" else ["br0"])
    assert (lan.reserved, lan.records) == ({}, {})


# --- without a record -------------------------------------------------------------------------------


def lose(network: Network) -> None:
    for file in network.plugin.run_dir.glob("attachments/*/*"):
        file.unlink()


@pytest.mark.parametrize("told", [True, False], ids=["with the result", "without the result"])
@pytest.mark.parametrize("named", [True, False], ids=["with the namespace", "without the namespace"])
def test_a_lost_record_is_not_needed_to_find_what_bears_our_tag(
    told: bool, named: bool, lan: Network, netns: Path
) -> None:
    result = lan.add(netns)
    lose(lan)

    lan.but(prevResult=result if told else None).delete(netns=netns if named else None)

    assert [link.name for link in oracle.links(lan.node)] == ["br0"]
    assert oracle.links(netns) == []
    assert lan.reserved == {}


def test_all_of_the_state_may_be_lost(lan: Network, netns: Path) -> None:
    lan.add(netns)
    shutil.rmtree(lan.plugin.run_dir)

    lan.delete(netns=netns)

    assert oracle.links(netns) == []
    assert lan.reserved == {}


def test_without_a_record_an_ipam_that_cannot_be_read_is_an_error_since_addresses_would_stay(
    lan: Network, netns: Path
) -> None:
    lan.add(netns)
    lose(lan)

    error = lan.but(ipam={"type": 7}).call("DEL", netns=netns).error

    assert error["code"] == 7
    assert oracle.links(netns) == []
    assert len(lan.reserved) == 2
    lan.delete(netns=netns)
    assert lan.reserved == {}


# --- what is not ours -------------------------------------------------------------------------------


def theirs(netns: Path, mac: str = "02:00:00:00:00:77") -> None:
    """An interface of somebody else, in the name that ours would have."""
    namespaces.shell(netns, f"ip link add eth0 address {mac} type veth peer far; ip address add 10.1.0.77/24 dev eth0")


def test_an_interface_that_no_record_and_no_result_knows_is_left_alone(lan: Network, netns: Path) -> None:
    theirs(netns)

    lan.delete(netns=netns)

    assert [link.name for link in oracle.links(netns)] == ["eth0", "far"]


def test_an_interface_that_came_into_the_name_since_is_left_alone(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    lan.delete(netns=netns)
    theirs(netns)

    lan.but(prevResult=result).delete(netns=netns)

    assert [link.name for link in oracle.links(netns)] == ["eth0", "far"]


def test_an_interface_in_a_namespace_that_took_the_path_is_left_alone(lan: Network, reused: Reused) -> None:
    path = reused.path
    theirs(path)

    for _ in range(2):  # with a record, and without
        lan.but(prevResult=reused.result).delete(netns=path)

    assert [link.name for link in oracle.links(path)] == ["eth0", "far"]
    assert (lan.reserved, lan.records) == ({}, {})


def test_an_interface_of_another_network_is_left_alone(network: Callable[..., Network], netns: Path) -> None:
    lan, wan = network("10.1.0.0/24"), network("10.2.0.0/24", name="wan")
    result = lan.add(netns)
    told = {**result, "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": str(netns)}], "ips": []}

    wan.but(prevResult=told).delete(netns=netns)

    assert lan.check(result, netns).code == 0


def test_an_interface_that_is_no_veth_is_left_alone(lan: Network, netns: Path) -> None:
    namespaces.shell(netns, "ip link add eth0 address 02:00:00:00:00:77 type bridge")
    told = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:77", "sandbox": str(netns)}]}

    lan.but(prevResult=told).delete(netns=netns)

    assert [link.name for link in oracle.links(netns)] == ["eth0"]


def test_other_pods_feel_nothing(lan: Network, make_netns: Callable[[], Path]) -> None:
    a, b, c = make_netns(), make_netns(), make_netns()
    results = {pod: lan.add(netns, pod) for pod, netns in (("a", a), ("b", b), ("c", c))}

    lan.delete("b", b)

    for pod, netns in (("a", a), ("c", c)):
        assert lan.check(results[pod], netns, pod).code == 0
    assert namespaces.tcp(a, c, "10.1.0.4") == "10.1.0.2"


# --- at once afterwards -----------------------------------------------------------------------------


def test_the_same_names_can_be_given_again_at_once(
    plugin: Exec, network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    # By exec: there the answer comes while the helper is still at work.
    lan = network("10.1.0.0/24", isGateway=True, ipam={"ranges": [[{"subnet": "10.1.0.0/30"}]]})
    lan = Network(plugin, lan.node, lan.config, lan.data_dir)
    macs = set()

    for _ in range(6):
        netns = make_netns()
        result = lan.add(netns)
        assert [ip["address"] for ip in result["ips"]] == ["10.1.0.2/30"]  # there is no other
        assert namespaces.tcp(lan.node, netns, "10.1.0.2") == "10.1.0.1"
        assert lan.check(result, netns).code == 0
        macs.add(interface(result, "eth0")["mac"])
        lan.delete(netns=netns)
        assert oracle.links(netns) == []
        assert [link.name for link in oracle.links(lan.node)] == ["br0"]

    assert len(macs) == 6


# --- failures ---------------------------------------------------------------------------------------


@pytest.mark.needs(f"{REFERENCE_PLUGINS}/static")
def test_an_ipam_plugin_that_is_missing_now_is_an_error_until_it_is_back(
    network: Callable[..., Network], netns: Path, tmp_path: Path
) -> None:
    lan = network(cniVersion="1.0.0", ipam={"type": "static", "addresses": [{"address": "10.1.0.5/24"}]})
    lan.add(netns)

    error = lan.call("DEL", netns=netns, path=[tmp_path]).error

    assert error["code"] == 105
    assert 'failed to find plugin "static"' in error["msg"]
    assert oracle.links(netns) == []
    assert len(lan.records) == 1
    lan.delete(netns=netns)
    assert_detached(lan, netns)


def test_reservations_that_cannot_be_released_are_an_error_until_they_can(lan: Network, netns: Path) -> None:
    lan.add(netns)
    folder = lan.data_dir / "lan"
    folder.rename(lan.data_dir / "aside")
    folder.symlink_to(folder)  # which leads nowhere

    error = lan.call("DEL", netns=netns).error

    assert error["code"] == 106
    assert str(lan.data_dir) in error["msg"] + error["details"]
    folder.unlink()
    (lan.data_dir / "aside").rename(folder)
    lan.delete(netns=netns)
    assert_detached(lan, netns)


def fake_ipam(folder: Path, on_del: str) -> Path:
    """A directory with an IPAM plugin that answers ADD with what is no result, and notes what it was called for."""
    folder.mkdir()
    script = folder / "fake"
    script.write_text(
        f"#!/bin/sh\necho $CNI_COMMAND $CNI_CONTAINERID >> {folder}/calls\n"
        f'case $CNI_COMMAND in ADD) echo "{{}}";; DEL) {on_del};; esac\n'
    )
    script.chmod(0o755)
    return folder


def test_an_ipam_plugin_that_fails_is_asked_to_take_back_what_it_may_have_given(
    network: Callable[..., Network], netns: Path, tmp_path: Path
) -> None:
    lan = network(ipam={"type": "fake"})
    folder = fake_ipam(tmp_path / "fake", "true")

    error = lan.call("ADD", netns=netns, path=[folder]).error

    assert (error["code"], error["msg"]) == (105, "IPAM plugin returned missing IP config")
    assert (folder / "calls").read_text().split("\n")[:2] == ["ADD a", "DEL a"]
    assert oracle.links(netns) == []
    assert lan.records == {}


def test_a_roll_back_that_fails_is_told_beside_the_first_error_and_can_be_gone_on_with(
    network: Callable[..., Network], netns: Path, tmp_path: Path
) -> None:
    lan = network(ipam={"type": "fake"})
    failing = fake_ipam(tmp_path / "fake", 'echo \'{"code": 150, "msg": "not today"}\'; exit 1')

    outcome = lan.call("ADD", netns=netns, path=[failing])

    assert outcome.error["msg"] == "IPAM plugin returned missing IP config"
    assert "what was made could not be taken away either (not today)" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert [record["stage"] for record in lan.records.values()] == ["leaving"]
    assert lan.call("DEL", netns=netns, path=[failing]).error["code"] == 150
    lan.delete(netns=netns, path=[fake_ipam(tmp_path / "better", "true")])
    assert lan.records == {}

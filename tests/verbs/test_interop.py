"""Ours and the reference's plugins, as Debian has them: behind each other in chains, as each other's IPAM, and taking
over each other's pods on a live node. They end at version 1.0.0 of the protocol."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces, oracle
from tests.conftest import REFERENCE_PLUGINS
from tests.verbs.networks import Network, addresses, host_local, interface, port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.calls import Exec

THEIRS = ("bridge", "ptp", "host-local", "static", "tuning", "bandwidth", "portmap")

pytestmark = pytest.mark.needs(*(f"{REFERENCE_PLUGINS}/{name}" for name in THEIRS))

NEW_MAC = "02:00:00:00:00:99"


# --- theirs behind ours -----------------------------------------------------------------------------


def add_chain(lan: Network, chain: dict[str, dict[str, Any]], netns: Path, pod: str = "a") -> dict[str, Any]:
    """The last word of a chain: the bridge, and the plugins behind it with what each is configured to do."""
    result = lan.add(netns, pod)
    for kind, keys in chain.items():
        result = lan.chained(kind, result, theirs=True, **keys).add(netns, pod)
    return result


def check_chain(lan: Network, chain: dict[str, dict[str, Any]], result: dict[str, Any], netns: Path) -> None:
    assert lan.check(result, netns).result == {}
    for kind, keys in chain.items():
        if kind == "portmap":
            continue  # as of 1.1.1 it misses IPv6 rules right after its own ADD, behind their bridge too
        assert lan.chained(kind, result, theirs=True, **keys).call("CHECK", netns=netns).result == {}


def delete_chain(lan: Network, chain: dict[str, dict[str, Any]], result: dict[str, Any], netns: Path | None) -> None:
    """As runtimes do: in reverse, every member with the chain's last word."""
    for kind, keys in reversed(chain.items()):
        lan.chained(kind, result, theirs=True, **keys).delete(netns=netns)
    lan.but(prevResult=result).delete(netns=netns)


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_a_chain_of_ours_and_theirs_lives_as_one_of_theirs_alone(
    version: str, lan: Network, netns: Path, tmp_path: Path
) -> None:
    lan = lan.but(cniVersion=version)
    mappings = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    rates = {"ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 40_000_000, "egressBurst": 8_000_000}
    chain: dict[str, dict[str, Any]] = {
        "tuning": {
            "mac": NEW_MAC,
            "mtu": 1400,
            "dataDir": str(tmp_path / "tuning"),
            "sysctl": {"net.core.somaxconn": "77"},
        },
        "bandwidth": {"runtimeConfig": {"bandwidth": rates}},
        "portmap": {"runtimeConfig": {"portMappings": mappings}, "snat": True},
    }

    result = add_chain(lan, chain, netns)

    assert [one["name"] for one in result["interfaces"]][:3] == ["br0", port(result), "eth0"]
    assert addresses(result) == ["10.1.0.2", "fd00:1::2"]
    assert (oracle.link(netns, "eth0").mac, oracle.link(netns, "eth0").mtu) == (NEW_MAC, 1400)
    ifb = result["interfaces"][3]["name"]
    assert "rate 80Mbit" in namespaces.shell(lan.node, f"tc qdisc show dev {port(result)}")
    assert "rate 40Mbit" in namespaces.shell(lan.node, f"tc qdisc show dev {ifb}")
    assert namespaces.tcp(lan.node, netns, "10.1.0.2", 80, via=("10.1.0.1", 8080))  # the hostPort
    assert namespaces.tcp(lan.node, netns, "fd00:1::2") == "fd00:1::1"
    assert namespaces.tcp(netns, lan.node, "10.1.0.1") == "10.1.0.2"
    check_chain(lan, chain, result, netns)

    delete_chain(lan, chain, result, netns)

    assert [link.name for link in oracle.links(lan.node)] == ["br0"]
    assert oracle.links(netns) == []
    assert (lan.reserved, lan.records) == ({}, {})
    with pytest.raises(ConnectionRefusedError):
        namespaces.inside(lan.node, lambda: socket.create_connection(("10.1.0.1", 8080), 1))


@pytest.mark.parametrize("kind", ["portmap", "bandwidth", "tuning"])
def test_each_of_theirs_passes_our_result_on(kind: str, lan: Network, netns: Path, tmp_path: Path) -> None:
    lan = lan.but(cniVersion="1.0.0")
    before = lan.add(netns)

    after = lan.chained(kind, before, theirs=True, dataDir=str(tmp_path / kind)).add(netns)

    for one in (*before["interfaces"], *after["interfaces"]):
        one.pop("mtu", None)  # which the version of the protocol that they were built for doesn't have
    assert {**after, "dns": {}} == {**before, "dns": {}}
    assert lan.check(after, netns).code == 0


def test_a_chain_can_be_deleted_when_the_namespace_is_gone(lan: Network, tmp_path: Path) -> None:
    lan = lan.but(cniVersion="1.0.0")
    chain: dict[str, dict[str, Any]] = {
        "tuning": {"mac": NEW_MAC, "dataDir": str(tmp_path / "tuning")},
        "bandwidth": {"ingressRate": 80_000_000, "ingressBurst": 8_000_000},
    }
    with namespaces.held() as netns:
        result = add_chain(lan, chain, netns)

    delete_chain(lan, chain, result, None)

    assert [link.name for link in oracle.links(lan.node)] == ["br0"]
    assert (lan.reserved, lan.records) == ({}, {})


def test_a_check_of_theirs_that_fails_and_one_of_ours_that_passes_are_two_things(
    lan: Network, netns: Path, tmp_path: Path
) -> None:
    lan = lan.but(cniVersion="1.0.0")
    keys = {"mtu": 1400, "dataDir": str(tmp_path / "tuning")}
    result = add_chain(lan, {"tuning": keys}, netns)
    namespaces.shell(netns, "ip link set eth0 mtu 1300")

    assert lan.chained("tuning", result, theirs=True, **keys).call("CHECK", netns=netns).code == 1
    assert lan.check(result, netns).code == 0


# --- theirs as our IPAM -----------------------------------------------------------------------------


@pytest.fixture
def renamed(tmp_path: Path) -> Path:
    """A directory with their host-local under a name of its own: under its usual one ours runs in process."""
    folder = tmp_path / "renamed"
    folder.mkdir()
    (folder / "their-host-local").symlink_to(REFERENCE_PLUGINS / "host-local")
    return folder


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1", "0.4.0", "1.0.0"])
def test_their_host_local_gives_our_pods_their_addresses(
    version: str, lan: Network, make_netns: Callable[[], Path], renamed: Path
) -> None:
    lan = lan.but(cniVersion=version, ipam={"type": "their-host-local"})
    a, b = make_netns(), make_netns()
    path = [renamed]

    results = [lan.add(a, "a", path=path), lan.add(b, "b", path=path)]

    assert set(lan.reserved) == {"10.1.0.2", "10.1.0.3", "fd00:1::2", "fd00:1::3"}
    assert namespaces.tcp(a, b, "10.1.0.3") == "10.1.0.2"
    assert namespaces.tcp(a, lan.node, "fd00:1::1") == "fd00:1::2"
    if version in ("0.4.0", "1.0.0"):
        assert lan.check(results[0], a, "a", path=path).result == {}
    lan.delete("a", a, path=path)
    lan.delete("b", path=path)
    assert (lan.reserved, lan.records) == ({}, {})


def test_an_error_of_their_ipam_is_ours_and_nothing_is_left(
    lan: Network, make_netns: Callable[[], Path], renamed: Path
) -> None:
    lan = lan.but(cniVersion="1.0.0", ipam={"type": "their-host-local", "ranges": [[{"subnet": "10.1.0.0/30"}]]})
    a, b = make_netns(), make_netns()
    lan.add(a, "a", path=[renamed])

    error = lan.call("ADD", "b", b, path=[renamed]).error

    assert error["code"] == 999
    assert "no IP addresses available in range set" in error["msg"]
    assert oracle.links(b) == []
    assert list(lan.reserved.values()) == ["a eth0"]
    assert list(lan.records) == ["a@eth0@bridge.json"]


def test_a_check_of_their_ipam_that_fails_fails_ours(lan: Network, netns: Path, renamed: Path) -> None:
    lan = lan.but(cniVersion="1.0.0", ipam={"type": "their-host-local"})
    result = lan.add(netns, path=[renamed])
    for claim in (lan.data_dir / "lan").iterdir():
        claim.unlink()

    error = lan.check(result, netns, path=[renamed]).error

    assert "Failed to find address added by container a" in error["msg"]


def test_their_static_gives_our_pods_their_addresses_routes_and_dns(
    network: Callable[..., Network], netns: Path
) -> None:
    ipam = {
        "type": "static",
        "addresses": [
            {"address": "10.1.0.77/24", "gateway": "10.1.0.254"},
            {"address": "10.2.0.77/24"},
            {"address": "fd00:1::77/64", "gateway": "fd00:1::fe"},
        ],
        "routes": [{"dst": "10.9.0.0/16"}, {"dst": "0.0.0.0/0", "gw": "10.1.0.254"}],
        "dns": {"nameservers": ["10.1.0.53"], "search": ["lan.example"]},
    }
    lan = network(cniVersion="1.0.0", isGateway=True, ipam=ipam)

    result = lan.add(netns)

    assert addresses(result) == ["10.1.0.77", "10.2.0.77", "fd00:1::77"]
    assert [ip["gateway"] for ip in result["ips"]] == ["10.1.0.254", "10.2.0.1", "fd00:1::fe"]
    assert result["dns"] == {"nameservers": ["10.1.0.53"], "search": ["lan.example"]}
    assert {(it.dst, it.gateway) for it in oracle.routes(netns) if it.gateway} == {
        ("10.9.0.0/16", "10.1.0.254"),
        ("0.0.0.0/0", "10.1.0.254"),
    }
    assert namespaces.tcp(netns, lan.node, "10.2.0.1") == "10.2.0.77"
    assert namespaces.tcp(netns, lan.node, "fd00:1::fe") == "fd00:1::77"
    assert lan.check(result, netns).result == {}
    lan.delete(netns=netns)


# --- ours as their IPAM -----------------------------------------------------------------------------


def by_theirs(plugin: Exec, kind: str, node: Path, tmp_path: Path, **keys: Any) -> Network:
    """A network of theirs whose host-local is ours: CNI_PATH has our executables first, and no other bridge."""
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "host-local").symlink_to(plugin.find("host-local"))
    plugin.path = (ours, REFERENCE_PLUGINS)
    data_dir = tmp_path / "networks"
    config = {"cniVersion": "1.0.0", "name": "lan", "type": kind, "ipam": host_local(data_dir, "10.1.0.0/24"), **keys}
    return Network(plugin, node, config, data_dir)


@pytest.mark.parametrize("kind", ["ptp", "bridge"])
@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"])
def test_our_host_local_gives_their_pods_their_addresses(
    kind: str, version: str, plugin: Exec, node: Path, netns: Path, tmp_path: Path
) -> None:
    keys = {"bridge": "br0", "isGateway": True} if kind == "bridge" else {}
    lan = by_theirs(plugin, kind, node, tmp_path, cniVersion=version, **keys)

    result = lan.add(netns)

    told = result["ip4"]["ip"] if version in ("0.1.0", "0.2.0") else result["ips"][0]["address"]
    assert told == "10.1.0.2/24"
    assert lan.reserved == {"10.1.0.2": "a eth0"}
    assert namespaces.tcp(node, netns, "10.1.0.2") == "10.1.0.1"
    if version in ("0.4.0", "1.0.0"):
        assert lan.check(result, netns).result == {}
    lan.but(prevResult=result if version > "0.3.1" else None).delete(netns=netns)
    assert lan.reserved == {}


def test_a_full_range_of_ours_is_their_error(
    plugin: Exec, node: Path, make_netns: Callable[[], Path], tmp_path: Path
) -> None:
    lan = by_theirs(plugin, "ptp", node, tmp_path)
    lan = lan.but(ipam={"ranges": [[{"subnet": "10.1.0.0/30"}]]})
    lan.add(make_netns(), "a")

    error = lan.call("ADD", "b", make_netns()).error

    assert "no IP addresses available in range set: 10.1.0.1-10.1.0.2" in error["msg"]


# --- pods that change hands -------------------------------------------------------------------------


@pytest.fixture
def theirs(lan: Network, plugin: Exec) -> Network:
    """The same network as `lan`, by their bridge and their host-local."""
    plugin.path = (REFERENCE_PLUGINS,)
    return Network(plugin, lan.node, {**lan.config, "cniVersion": "1.0.0"}, lan.data_dir)


@pytest.fixture
def ours(lan: Network) -> Network:
    return lan.but(cniVersion="1.0.0")


def test_a_pod_of_theirs_is_checked_by_ours(ours: Network, theirs: Network, netns: Path) -> None:
    result = theirs.add(netns)
    assert ours.check(result, netns).result == {}

    namespaces.shell(netns, "ip route del default")

    error = ours.check(result, netns).error
    assert error["code"] == 103
    assert "route 0.0.0.0/0 via 10.1.0.1" in error["msg"]


@pytest.mark.parametrize("named", [True, False], ids=["", "whose namespace is gone"])
def test_a_pod_of_theirs_is_detached_by_ours(named: bool, ours: Network, theirs: Network) -> None:
    with namespaces.held() as netns:
        result = theirs.add(netns)
        if named:
            ours.but(prevResult=result).delete(netns=netns)
            assert oracle.links(netns) == []
    ours.but(prevResult=result).delete(netns=netns)

    assert (ours.reserved, ours.records) == ({}, {})


def test_a_pod_of_theirs_whose_mac_was_tuned_is_detached_by_ours(
    ours: Network, theirs: Network, netns: Path, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"mac": NEW_MAC, "dataDir": str(tmp_path / "tuning")}
    result = theirs.chained("tuning", theirs.add(netns), **keys).add(netns)
    theirs.chained("tuning", result, **keys).delete(netns=netns)  # gives the first MAC back

    ours.but(prevResult=result).delete(netns=netns)

    assert oracle.links(netns) == []
    assert ours.reserved == {}


def test_new_pods_of_ours_live_on_their_bridge_among_their_pods(
    ours: Network, theirs: Network, make_netns: Callable[[], Path]
) -> None:
    a, b, c = make_netns(), make_netns(), make_netns()
    first = theirs.add(a, "a")
    mac = oracle.link(ours.node, "br0").mac

    second = ours.add(b, "b")
    third = theirs.add(c, "c")

    assert oracle.link(ours.node, "br0").mac == mac
    assert [addresses(result) for result in (first, second, third)] == [
        ["10.1.0.2", "fd00:1::2"],
        ["10.1.0.3", "fd00:1::3"],
        ["10.1.0.4", "fd00:1::4"],
    ]
    assert namespaces.tcp(a, b, "10.1.0.3") == "10.1.0.2"
    assert namespaces.tcp(b, c, "fd00:1::4") == "fd00:1::3"
    assert namespaces.tcp(b, ours.node, "10.1.0.1") == "10.1.0.3"
    assert ours.check(first, a, "a").code == ours.check(second, b, "b").code == 0


def test_a_pod_of_ours_is_detached_by_theirs_and_then_gone_for_ours(
    ours: Network, theirs: Network, make_netns: Callable[[], Path]
) -> None:
    netns = make_netns()
    result = ours.add(netns)

    theirs.but(prevResult=result).delete(netns=netns)

    assert oracle.links(netns) == []
    assert ours.reserved == {}
    ours.but(prevResult=result).delete(netns=netns)
    assert ours.records == {}
    again = ours.add(make_netns())
    assert port(again) == port(result)


def test_their_pods_are_kept_by_gc_when_valid_and_their_reservations_go_when_not(
    ours: Network, theirs: Network, make_netns: Callable[[], Path]
) -> None:
    a, b = make_netns(), make_netns()
    result = theirs.add(a, "a")
    theirs.add(b, "b")

    assert ours.but(cniVersion="1.1.0").collect(("a", "eth0")).result == {}

    assert ours.check(result, a, "a").code == 0
    assert set(ours.reserved.values()) == {"a eth0"}


def test_an_upgrade_replaces_a_pod_of_theirs_by_one_of_ours(
    ours: Network, theirs: Network, make_netns: Callable[[], Path]
) -> None:
    old, new = make_netns(), make_netns()
    before = theirs.add(old)
    ours.but(prevResult=before).delete(netns=old)

    after = ours.add(new)

    assert interface(after, "eth0")["sandbox"] == str(new)
    assert ours.check(after, new).code == 0
    assert namespaces.tcp(ours.node, new, addresses(after)[0]) == "10.1.0.1"

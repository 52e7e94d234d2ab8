"""tuning behind a bridge: what it changes of a pod, from whoever says so, and that all of it is put back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces, oracle
from tests.conftest import REFERENCE_PLUGINS
from tests.verbs.networks import Network, interface, port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.calls import Exec

NEW_MAC = "02:00:00:00:00:99"
SOMAXCONN = "/proc/sys/net/core/somaxconn"
ARP_FILTER = "/proc/sys/net/ipv4/conf/eth0/arp_filter"
EVERYTHING: dict[str, Any] = {
    "sysctl": {
        "net.core.somaxconn": "77",
        "net/ipv4/conf/IFNAME/arp_filter": "1",
        "net.ipv4.ip_local_port_range": "20000 30000",
        "net.ipv4.ip_local_reserved_ports": "20080",
    },
    "mac": NEW_MAC,
    "mtu": 1400,
    "promisc": True,
    "allmulti": True,
    "txQLen": 77,
}


def state(netns: Path) -> tuple[object, ...]:
    """All that tuning may change here."""
    link = oracle.link(netns, "eth0")
    paths = (
        f"{SOMAXCONN} {ARP_FILTER} /proc/sys/net/ipv4/ip_local_port_range /proc/sys/net/ipv4/ip_local_reserved_ports"
    )
    told = namespaces.shell(netns, f"cat {paths} /proc/sys/net/ipv4/conf/eth0/arp_notify")
    return told.split("\n"), link.mac, link.mtu, link.promisc, link.allmulti, link.txqlen


def all_done(netns: Path) -> None:
    told, *link = state(netns)
    assert told == ["77", "1", "20000\t30000", "20080", "1", ""]
    assert link == [NEW_MAC, 1400, True, True, 77]


# --- who says so ------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["configuration", "args.cni"])
def test_everything_is_set_reported_found_and_put_back(lan: Network, netns: Path, source: str) -> None:
    result = lan.add(netns)
    before = state(netns)
    keys = EVERYTHING if source == "configuration" else {"args": {"cni": EVERYTHING}}

    after = lan.chained("tuning", result, **keys).add(netns)

    all_done(netns)
    assert interface(after, "eth0") == {**interface(result, "eth0"), "mac": NEW_MAC, "mtu": 1400}
    for one in (result, after):
        one["interfaces"] = [each for each in one["interfaces"] if each["name"] != "eth0"]
    assert after == result
    tuned = lan.chained("tuning", lan_result := {**after, "interfaces": [*after["interfaces"], pods(netns)]}, **keys)
    assert tuned.call("CHECK", netns=netns).result == {}
    assert lan.check(lan_result, netns).result == {}

    tuned.delete(netns=netns)

    assert state(netns) == before
    assert list(tuned.records) == ["a@eth0@bridge.json"]


def pods(netns: Path) -> dict[str, Any]:
    return {"name": "eth0", "mac": oracle.link(netns, "eth0").mac, "sandbox": str(netns)}


MACS = {
    "args.cni": "02:00:00:00:00:11",
    "runtimeConfig": "02:00:00:00:00:12",
    "CNI_ARGS": "02:00:00:00:00:13",
    "configuration": "02:00:00:00:00:14",
}


@pytest.mark.parametrize("number", range(4), ids=list(MACS))
def test_the_mac_comes_from_whoever_has_the_most_to_say(lan: Network, netns: Path, number: int) -> None:
    result = lan.add(netns)
    first = oracle.link(netns, "eth0").mac
    told = dict([*MACS.items()][number:])
    keys: dict[str, Any] = {"mac": told["configuration"]}
    if "args.cni" in told:
        keys["args"] = {"cni": {"mac": told["args.cni"]}}
    if "runtimeConfig" in told:
        keys["runtimeConfig"] = {"mac": told["runtimeConfig"]}
    args = f"IgnoreUnknown=1;MAC={told['CNI_ARGS']}" if "CNI_ARGS" in told else ""
    tuned = lan.chained("tuning", result, **keys)

    after = tuned.add(netns, args=args)

    wanted = [*MACS.values()][number]
    assert (oracle.link(netns, "eth0").mac, interface(after, "eth0")["mac"]) == (wanted, wanted)
    assert tuned.but(prevResult=after).call("CHECK", netns=netns, args=args).result == {}
    tuned.but(prevResult=after).delete(netns=netns, args=args)
    assert oracle.link(netns, "eth0").mac == first


@pytest.mark.parametrize(
    ("keys", "command"),
    [
        ({"sysctl": {"net.core.somaxconn": "77"}}, f"echo 78 > {SOMAXCONN}"),
        ({"mac": NEW_MAC}, "ip link set eth0 address 02:00:00:00:00:98"),
        ({"mtu": 1400}, "ip link set eth0 mtu 1300"),
        ({"promisc": True}, "ip link set eth0 promisc off"),
        ({"allmulti": True}, "ip link set eth0 allmulticast off"),
        ({"allmulti": False}, "ip link set eth0 allmulticast on"),
        ({"txQLen": 77}, "ip link set eth0 txqueuelen 78"),
        ({"txQLen": 77}, "ip link del eth0"),
    ],
    ids=str,
)
def test_check_names_what_is_not_as_it_was_made(lan: Network, netns: Path, keys: dict[str, Any], command: str) -> None:
    tuned = lan.chained("tuning", lan.add(netns), **keys)
    tuned = tuned.but(prevResult=tuned.add(netns))
    assert tuned.call("CHECK", netns=netns).result == {}

    namespaces.shell(netns, command)

    error = tuned.call("CHECK", netns=netns).error
    assert error["code"] == 103
    assert "eth0" in error["msg"]
    tuned.delete(netns=netns)


def test_check_minds_only_what_was_asked_for(lan: Network, netns: Path) -> None:
    tuned = lan.chained("tuning", lan.add(netns), mtu=1400)
    tuned = tuned.but(prevResult=tuned.add(netns))

    namespaces.shell(netns, "ip link set eth0 promisc on txqueuelen 7 allmulticast on")
    namespaces.shell(netns, f"echo 78 > {SOMAXCONN}")

    assert tuned.call("CHECK", netns=netns).result == {}
    tuned.delete(netns=netns)
    link = oracle.link(netns, "eth0")
    assert (link.mtu, link.promisc, link.allmulti, link.txqlen) == (1500, True, True, 7)


# --- put back ---------------------------------------------------------------------------------------


def test_a_del_needs_neither_the_configuration_nor_the_namespace(lan: Network) -> None:
    with namespaces.held() as netns:
        result = lan.add(netns)
        before = state(netns)
        tuned = lan.chained("tuning", result, **EVERYTHING)
        tuned.add(netns)

        header = {key: tuned.config[key] for key in ("cniVersion", "name", "type")}
        Network(tuned.plugin, tuned.node, header, tuned.data_dir).delete()

        assert state(netns) == before
        tuned.add(netns)
    tuned.delete()
    tuned.delete()

    assert list(tuned.records) == ["a@eth0@bridge.json"]


def test_settings_are_put_back_where_the_link_is_gone(lan: Network, netns: Path) -> None:
    somaxconn = namespaces.shell(netns, f"cat {SOMAXCONN}")
    tuned = lan.chained("tuning", lan.add(netns), **EVERYTHING)
    tuned.add(netns)
    namespaces.shell(netns, "ip link del eth0")

    tuned.delete(netns=netns)

    assert namespaces.shell(netns, f"cat {SOMAXCONN}") == somaxconn
    assert list(tuned.records) == ["a@eth0@bridge.json"]


def test_another_pod_at_the_same_path_is_not_touched(
    lan: Network, make_netns: Callable[[], Path], tmp_path: Path
) -> None:
    path = tmp_path / "pod"
    with namespaces.held() as dead:
        path.symlink_to(dead)
        tuned = lan.chained("tuning", lan.add(path), sysctl={"net.core.somaxconn": "77"})
        tuned.add(path)
    path.unlink()
    other = make_netns()
    path.symlink_to(other)
    namespaces.shell(other, f"echo 78 > {SOMAXCONN}")

    tuned.delete(netns=path)

    assert namespaces.shell(other, f"cat {SOMAXCONN}") == "78\n"
    assert list(tuned.records) == ["a@eth0@bridge.json"]


@pytest.mark.parametrize(
    "last",
    [
        {"sysctl": {"net.core.somaxconn": "77", "net.ipv4.nothing": "1"}},
        {"sysctl": {"net.core.somaxconn": "77", "net.ipv4.ip_forward": "a lot"}},
        {"sysctl": {"net.core.somaxconn": "77"}, "mac": NEW_MAC, "mtu": 20},
    ],
    ids=["no such setting", "no such value", "refused by the link"],
)
def test_an_add_that_fails_puts_back_what_it_changed(lan: Network, netns: Path, last: dict[str, Any]) -> None:
    lan = lan.but(ipam=None, isDefaultGateway=None)  # an MTU of 20 is refused sooner where there is IPv6
    result = lan.add(netns)
    before = state(netns)
    tuned = lan.chained("tuning", result, **last)

    error = tuned.call("ADD", netns=netns).error

    assert error["code"] == 100
    assert state(netns) == before
    assert list(tuned.records) == ["a@eth0@bridge.json"]


def test_a_value_that_the_kernel_does_not_take_back_keeps_no_pod(lan: Network, netns: Path) -> None:
    """It may depend on what others have set since: here, the first of the ports that anybody may have."""
    somaxconn = namespaces.shell(netns, f"cat {SOMAXCONN}")
    ports = "/proc/sys/net/ipv4/ip_local_port_range"
    anybodys = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    namespaces.shell(netns, f"echo 500 > {anybodys}; echo 500 600 > {ports}")
    settings = {"net.core.somaxconn": "77", "net.ipv4.ip_local_port_range": "20000 30000"}
    tuned = lan.chained("tuning", lan.add(netns), sysctl=settings)
    tuned.add(netns)
    namespaces.shell(netns, f"echo 2000 > {anybodys}")

    tuned.delete(netns=netns)

    assert namespaces.shell(netns, f"cat {ports}") == "20000\t30000\n"
    assert namespaces.shell(netns, f"cat {SOMAXCONN}") == somaxconn
    assert list(tuned.records) == ["a@eth0@bridge.json"]


def test_gc_puts_back_what_no_attachment_asks_for_any_more(lan: Network, make_netns: Callable[[], Path]) -> None:
    pods = {"a": make_netns(), "b": make_netns()}
    before = {}
    for name, netns in pods.items():
        result = lan.add(netns, name)
        before[name] = state(netns)
        lan.chained("tuning", result, **EVERYTHING).add(netns, name)

    lan.chained("tuning", {}, prevResult=None).collect(("b", "eth0"))

    assert state(pods["a"]) == before["a"]
    all_done(pods["b"])


def test_podwire_does_it_with_the_settings_of_its_own_pods(lan: Network, netns: Path) -> None:
    settings = {"net.core.somaxconn": "77", "net.ipv4.conf.IFNAME.arp_filter": "1"}
    whole = lan.but(type="podwire", bridge=None, isDefaultGateway=None, sysctl=settings)
    somaxconn = namespaces.shell(netns, f"cat {SOMAXCONN}")

    result = whole.add(netns)

    assert namespaces.shell(netns, f"cat {SOMAXCONN} {ARP_FILTER}") == "77\n1\n"
    assert whole.check(result, netns).result == {}
    namespaces.shell(netns, f"echo 0 > {ARP_FILTER}")
    assert "arp_filter" in whole.check(result, netns).error["msg"]
    whole.delete(netns=netns)
    assert namespaces.shell(netns, f"cat {SOMAXCONN}") == somaxconn
    assert whole.records == {}


# --- packets ----------------------------------------------------------------------------------------


def test_the_node_and_other_pods_reach_a_pod_whose_mac_was_changed_at_once(
    lan: Network, make_netns: Callable[[], Path]
) -> None:
    a, b = make_netns(), make_netns()
    lan.add(a, "a")
    tuned = lan.chained("tuning", lan.add(b, "b"), mac=NEW_MAC)

    tuned.add(b, "b")

    assert namespaces.tcp(lan.node, b, "10.1.0.3", timeout=0.9) == "10.1.0.1"
    assert namespaces.tcp(lan.node, b, "fd00:1::3", timeout=0.9) == "fd00:1::1"
    assert namespaces.tcp(a, b, "10.1.0.3", timeout=0.9) == "10.1.0.2"
    assert namespaces.tcp(a, b, "fd00:1::3", timeout=0.9) == "fd00:1::2"
    assert namespaces.tcp(b, lan.node, "fd00:1::1", timeout=0.9) == "fd00:1::3"


def test_a_pod_that_gets_its_mac_back_is_reached_at_once(lan: Network, netns: Path) -> None:
    tuned = lan.chained("tuning", lan.add(netns), mac=NEW_MAC)
    tuned.add(netns)
    namespaces.tcp(lan.node, netns, "10.1.0.2")
    namespaces.tcp(lan.node, netns, "fd00:1::2")

    tuned.delete(netns=netns)

    assert namespaces.tcp(lan.node, netns, "10.1.0.2", timeout=0.9) == "10.1.0.1"
    assert namespaces.tcp(lan.node, netns, "fd00:1::2", timeout=0.9) == "fd00:1::1"


# --- the node's end ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("mtu", "ports"), [(1400, 1500), (9000, 9000)])
def test_the_port_of_a_bridge_is_raised_with_the_pods_end_and_never_lowered(
    lan: Network, make_netns: Callable[[], Path], mtu: int, ports: int
) -> None:
    a, b = make_netns(), make_netns()
    lan.add(b, "b")
    result = lan.add(a)
    tuned = lan.chained("tuning", result, mtu=mtu)

    after = tuned.add(a)

    assert (oracle.link(a, "eth0").mtu, oracle.link(lan.node, port(result)).mtu) == (mtu, ports)
    assert (interface(after, "eth0")["mtu"], interface(after, port(result))["mtu"]) == (mtu, ports)
    assert oracle.link(lan.node, "br0").mtu == 1500
    assert tuned.but(prevResult=after).call("CHECK", netns=a).result == {}
    tuned.delete(netns=a)
    assert (oracle.link(a, "eth0").mtu, oracle.link(lan.node, port(result)).mtu) == (1500, 1500)


@pytest.mark.needs(f"{REFERENCE_PLUGINS}/ptp")
@pytest.mark.parametrize("mtu", [1400, 9000])
def test_both_ends_of_a_routed_pod_get_the_mtu(plugin: Exec, lan: Network, netns: Path, mtu: int) -> None:
    ptp = Network(plugin, lan.node, {**lan.config, "type": "ptp", "cniVersion": "1.0.0"}, lan.data_dir)
    result = ptp.add(netns)
    ends = [one["name"] for one in result["interfaces"] if "sandbox" not in one]
    tuned = Network(lan.plugin, lan.node, ptp.config, lan.data_dir).chained("tuning", result, mtu=mtu)

    tuned.add(netns)

    assert [oracle.link(netns, "eth0").mtu, *[oracle.link(lan.node, one).mtu for one in ends]] == [mtu, mtu]
    assert namespaces.tcp(netns, lan.node, "10.1.0.1", size=100_000) == "10.1.0.2"
    assert namespaces.tcp(lan.node, netns, "10.1.0.2", size=100_000) == "10.1.0.1"
    tuned.delete(netns=netns)
    assert [oracle.link(netns, "eth0").mtu, *[oracle.link(lan.node, one).mtu for one in ends]] == [1500, 1500]
    ptp.delete(netns=netns)


# --- what is refused --------------------------------------------------------------------------------


def test_alone_it_is_refused(lan: Network, netns: Path) -> None:
    error = lan.chained("tuning", {}, prevResult=None, mtu=1400).call("ADD", netns=netns).error

    assert error["code"] == 7
    assert "tuning must be called as chained plugin" in error["msg"]


@pytest.mark.parametrize(
    "keys",
    [
        {"sysctl": {"kernel.hostname": "x"}},
        {"sysctl": {"net/../kernel/hostname": "x"}},
        {"sysctl": {"net.core.somaxconn": "77", "net/core/somaxconn": "78"}},
        {"sysctl": {"net.core.somaxconn": 77}},
        {"mac": "nonsense"},
        {"mtu": 1279},  # the pod has IPv6
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_anything_is_touched(lan: Network, netns: Path, keys: dict[str, Any]) -> None:
    result = lan.add(netns)
    before = state(netns)
    tuned = lan.chained("tuning", result, **{"sysctl": {"net.core.somaxconn": "99"}, **keys})

    assert tuned.call("ADD", netns=netns).error["code"] == 7

    assert state(netns) == before
    assert list(tuned.records) == ["a@eth0@bridge.json"]


def test_an_administrators_list_says_which_sysctls_there_may_be(
    lan: Network, netns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cni import allowlist

    monkeypatch.setattr(allowlist, "PATH", str(tmp_path / "allowlist.conf"))
    (tmp_path / "allowlist.conf").write_text("net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]+\nnet.core\n")
    result = lan.add(netns)
    before = state(netns)

    error = lan.chained("tuning", result, sysctl={"net.core.somaxconn": "77"}).call("ADD", netns=netns).error
    assert (error["code"], error["msg"]) == (7, "sysctl net.core.somaxconn is not allowed on this node")
    assert state(netns) == before

    tuned = lan.chained("tuning", result, sysctl={"net/ipv4/conf/IFNAME/arp_filter": "1"})
    tuned.add(netns)
    assert namespaces.shell(netns, f"cat {ARP_FILTER}") == "1\n"
    tuned.delete(netns=netns)
    assert state(netns) == before


# --- beside the reference ---------------------------------------------------------------------------


@pytest.mark.needs(f"{REFERENCE_PLUGINS}/tuning")
@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_the_result_and_the_pod_are_as_behind_the_reference(
    lan: Network, make_netns: Callable[[], Path], tmp_path: Path, version: str
) -> None:
    lan = lan.but(cniVersion=version, runtimeConfig={"mac": "02:00:00:00:00:55", "ips": ["10.1.0.7", "fd00:1::7"]})
    asked = {key: value for key, value in EVERYTHING.items() if key != "txQLen"}  # which 1.1.1 doesn't have
    found = []
    for theirs in (True, False):
        netns = make_netns()
        result = lan.add(netns)
        tuned = lan.chained("tuning", result, theirs=theirs, **asked, dataDir=str(tmp_path / "tuning"))
        after = tuned.add(netns)
        checked = tuned.but(prevResult=after)
        # As of 1.1.1 theirs compares the text, so that of two numbers it never finds what it set.
        one_number = {"net.core.somaxconn": "77"}
        assert version == "0.3.1" or checked.but(sysctl=one_number).call("CHECK", netns=netns).result == {}
        told = json.dumps({**after, "dns": {}}, sort_keys=True).replace(str(netns), "POD").replace(port(result), "PORT")
        # The reference sets no MTU in a result, and CNI 1.0.0 has none.
        told = told.replace(oracle.link(lan.node, port(result)).mac, "MAC").replace(', "mtu": 1400', "")
        found.append((told.replace(', "mtu": 1500', ""), state(netns)))
        checked.delete(netns=netns)
        lan.but(prevResult=after).delete(netns=netns)

    assert found[0] == found[1]


@pytest.mark.needs(f"{REFERENCE_PLUGINS}/bridge")
def test_behind_a_bridge_of_theirs_it_does_the_same(lan: Network, netns: Path, plugin: Exec) -> None:
    theirs = Network(
        type(plugin)((REFERENCE_PLUGINS,), plugin.run_dir, "a"),
        lan.node,
        {**lan.config, "cniVersion": "1.0.0"},
        lan.data_dir,
    )
    result = theirs.add(netns)
    before = state(netns)
    tuned = Network(lan.plugin, lan.node, theirs.config, lan.data_dir).chained("tuning", result, **EVERYTHING)

    after = tuned.add(netns)

    all_done(netns)
    assert namespaces.tcp(lan.node, netns, "10.1.0.2", timeout=0.9) == "10.1.0.1"
    assert interface(after, "eth0")["mac"] == NEW_MAC
    assert tuned.but(prevResult=after).call("CHECK", netns=netns).result == {}
    tuned.delete(netns=netns)
    assert state(netns) == before
    theirs.but(prevResult=after).delete(netns=netns)


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_the_executable_does_it_in_every_version(
    plugin: Exec, node: Path, lan: Network, netns: Path, version: str
) -> None:
    lan = Network(plugin, node, {**lan.config, "cniVersion": version}, lan.data_dir)
    result = lan.add(netns)
    before = state(netns)
    tuned = lan.chained("tuning", result, **EVERYTHING)

    after = tuned.add(netns)

    all_done(netns)
    assert after["cniVersion"] == version
    assert interface(after, "eth0")["mac"] == NEW_MAC
    if version not in ("0.3.0", "0.3.1"):
        assert tuned.but(prevResult=after).call("CHECK", netns=netns).result == {}
    tuned.but(prevResult=after).delete(netns=netns)
    assert state(netns) == before
    lan.but(prevResult=after).delete(netns=netns)

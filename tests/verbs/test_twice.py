"""A plugin that is in a chain twice: each member does its part, and whatever is said of them later, all of it goes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests import namespaces, oracle
from tests.conftest import REFERENCE_PLUGINS
from tests.verbs.lab import FAR4, NODE4, SILENCE_S, Chain, Lab, kubernetes
from tests.verbs.networks import Network, addresses, host_local, interface, port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.calls import Exec, InProcess

SOMAXCONN = "/proc/sys/net/core/somaxconn"
MACS = ("02:00:00:00:00:91", "02:00:00:00:00:92")
# Both change both, so that it matters what is put back first.
FIRST: dict[str, Any] = {"sysctl": {"net.core.somaxconn": "77"}, "mac": MACS[0], "txQLen": 71}
SECOND: dict[str, Any] = {"sysctl": {"net.core.somaxconn": "78"}, "mac": MACS[1], "promisc": True}
BRIDGE = "a@eth0@bridge.json"


def state(netns: Path) -> tuple[object, ...]:
    link = oracle.link(netns, "eth0")
    return namespaces.shell(netns, f"cat {SOMAXCONN}").strip(), link.mac, link.promisc, link.txqlen


class Twice(NamedTuple):
    """A pod behind a bridge and two `tuning`, with what it was like before each of them, and what it is like."""

    netns: Path
    first: Network
    second: Network
    states: tuple[object, object, object]

    def delete(self, order: str, netns: Path | None = None, **keys: Any) -> None:
        """A DEL for each letter: F by the first's configuration, S by the second's; with other keys, if need be."""
        for one in order:
            (self.first if one == "F" else self.second).but(**keys).delete(netns=netns)


def tuned_twice(lan: Network, netns: Path) -> Twice:
    result = lan.add(netns)
    states = [state(netns)]
    first = lan.chained("tuning", result, **FIRST)
    result = first.add(netns)
    states.append(state(netns))
    second = lan.chained("tuning", result, **SECOND)
    result = second.add(netns)
    before, between, after = *states, state(netns)
    assert interface(result, "eth0")["mac"] == MACS[1]
    return Twice(netns, first.but(prevResult=result), second.but(prevResult=result), (before, between, after))


@pytest.fixture
def twice(lan: Network, netns: Path) -> Twice:
    return tuned_twice(lan, netns)


# --- what each does, and what goes with a DEL -------------------------------------------------------


def test_a_sysctl_by_one_and_a_mac_by_the_other_are_set_checked_and_put_back(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    before = state(netns)
    first = lan.chained("tuning", result, sysctl={"net.core.somaxconn": "77"})
    second = lan.chained("tuning", first.add(netns), mac=MACS[0])

    after = second.add(netns)

    assert state(netns)[:2] == ("77", MACS[0])
    assert interface(after, "eth0") == {**interface(result, "eth0"), "mac": MACS[0]}
    for one in (first, second):
        assert one.check(after, netns).result == {}
    second.but(prevResult=after).delete(netns=netns)
    assert state(netns)[:2] == ("77", before[1])
    first.but(prevResult=after).delete(netns=netns)
    assert state(netns) == before
    assert list(lan.records) == [BRIDGE]


def test_each_del_takes_away_what_was_done_last(twice: Twice) -> None:
    before, between, after = twice.states
    assert after == ("78", MACS[1], True, 71)

    twice.delete("S", twice.netns)
    assert state(twice.netns) == between

    twice.delete("F", twice.netns)
    assert state(twice.netns) == before


@pytest.mark.parametrize("order", ["SF", "FS", "SSFF", "SFSF", "FFS", "SS"])
@pytest.mark.parametrize(
    "keys",
    [{}, {"mtu": 1300, "mac": None}, {**dict.fromkeys([*FIRST, *SECOND]), "prevResult": None}, {"mac": "nonsense"}],
    ids=["", "changed", "bare", "broken"],
)
def test_in_any_order_and_by_any_configuration_everything_is_as_it_was(
    twice: Twice, order: str, keys: dict[str, Any]
) -> None:
    twice.delete(order, twice.netns, **keys)

    assert state(twice.netns) == twice.states[0]
    assert list(twice.first.records) == [BRIDGE]


@pytest.mark.parametrize("told", [False, True], ids=["", "by its path"])
def test_dels_need_no_namespace(lan: Network, told: bool) -> None:
    with namespaces.held() as netns:
        twice = tuned_twice(lan, netns)

    twice.delete("SF", netns if told else None)

    assert list(lan.records) == [BRIDGE]


def test_where_the_records_are_lost_both_dels_succeed(twice: Twice) -> None:
    shutil.rmtree(twice.first.plugin.run_dir)

    twice.delete("SF", twice.netns)

    assert twice.first.records == {}


@pytest.mark.parametrize("content", [b"", b"{", None], ids=["empty", "torn", "gone"])
@pytest.mark.parametrize("lost", ["tuning", "tuning#2"])
def test_one_record_that_is_lost_keeps_the_other_from_nothing(twice: Twice, lost: str, content: bytes | None) -> None:
    file = twice.first.plugin.run_dir / f"attachments/lan/a@eth0@{lost}.json"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)

    twice.delete("SF", twice.netns)

    assert list(twice.first.records) == [BRIDGE]


# --- an ADD that is repeated ------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [{}, {"runtimeConfig": {"mac": MACS[0]}, "args": {"cni": {"mtu": 1300}}}], ids=str)
def test_the_same_member_again_is_refused_and_nothing_is_changed(twice: Twice, keys: dict[str, Any]) -> None:
    records = twice.first.records

    for one in (twice.first, twice.second):
        assert one.but(**keys).call("ADD", netns=twice.netns).error["code"] == 102

    assert state(twice.netns) == twice.states[2]
    assert {name: {**one, "more": True} for name, one in records.items()} == {
        name: {**one, "more": True} for name, one in twice.first.records.items()
    }


def test_how_a_configuration_is_written_makes_no_other_member_of_it(lan: Network, netns: Path) -> None:
    tuned = lan.chained("tuning", lan.add(netns), **FIRST)
    tuned.add(netns)

    again = lan.chained("tuning", tuned.config["prevResult"], MAC=MACS[0], TxQLen=71, sysctl=FIRST["sysctl"])

    assert again.call("ADD", netns=netns).error["code"] == 102


def test_another_member_for_another_pod_is_refused(lan: Network, netns: Path, make_netns: Callable[[], Path]) -> None:
    """One container's interface is in one namespace: something is wrong, and nobody can tell which is right."""
    tuned = lan.chained("tuning", lan.add(netns), **FIRST)
    tuned.add(netns)

    error = lan.chained("tuning", tuned.config["prevResult"], **SECOND).call("ADD", netns=make_netns()).error

    assert error["code"] == 102
    assert sorted(lan.records) == [BRIDGE, "a@eth0@tuning.json"]


def test_a_second_bridge_is_refused_however_it_is_configured(lan: Network, netns: Path) -> None:
    lan.add(netns)

    assert lan.but(mtu=1400).call("ADD", netns=netns).error["code"] == 102


def test_a_record_of_an_earlier_version_tells_no_members_apart(lan: Network, netns: Path) -> None:
    tuned = lan.chained("tuning", lan.add(netns), **FIRST)
    tuned.add(netns)
    (file,) = lan.plugin.run_dir.glob("attachments/lan/*tuning.json")
    text = file.read_text()
    file.write_text(text[: text.index(', "config"')] + "}")

    assert tuned.but(mac=MACS[1]).call("ADD", netns=netns).error["code"] == 102

    tuned.delete(netns=netns)
    assert list(lan.records) == [BRIDGE]


def test_there_may_be_nine_and_all_are_put_back(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    before = state(netns)
    members = [lan.chained("tuning", result, txQLen=number) for number in range(1, 11)]

    for one in members[:9]:
        one.add(netns)

    assert state(netns)[3] == 9
    error = members[9].call("ADD", netns=netns).error
    assert (error["code"], error["msg"]) == (7, "tuning is in the chain more than 9 times")
    lengths = []
    for one in reversed(members):
        one.delete(netns=netns)
        lengths.append(state(netns)[3])
    assert lengths == [8, 7, 6, 5, 4, 3, 2, 1, before[3], before[3]]
    assert list(lan.records) == [BRIDGE]


# --- what goes wrong --------------------------------------------------------------------------------


def test_a_second_member_that_fails_leaves_the_first_as_it_is(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    before = state(netns)
    first = lan.chained("tuning", result, **FIRST)
    first.add(netns)
    between = state(netns)
    second = lan.chained("tuning", result, sysctl={"net.core.somaxconn": "78", "net.ipv4.nothing": "1"})

    assert second.call("ADD", netns=netns).error["code"] == 100

    assert state(netns) == between
    assert sorted(lan.records) == [BRIDGE, "a@eth0@tuning.json"]
    lan.chained("tuning", result, **SECOND).add(netns)
    for one in (second, first):
        one.delete(netns=netns)
    assert state(netns) == before
    assert list(lan.records) == [BRIDGE]


def test_a_container_id_that_leaves_no_room_for_a_second_member_keeps_the_first_from_nothing(
    lan: Network, netns: Path
) -> None:
    pod = "c" * (255 - len("@eth0@tuning.json"))
    result = lan.add(netns, pod)
    before = state(netns)
    first = lan.chained("tuning", result, **FIRST)
    after = first.add(netns, pod)
    between = state(netns)
    second = lan.chained("tuning", after, **SECOND)

    assert second.call("ADD", pod, netns).error["msg"] == "CNI_CONTAINERID is too long: 238 characters"

    assert state(netns) == between
    assert first.check(after, netns, pod).code == 0
    for one in (second, first, first):
        one.delete(pod, netns)
        assert state(netns) == before
    assert [*lan.records] == [f"{pod}@eth0@bridge.json"]


def test_a_second_member_whose_first_lost_its_record_is_known_by_the_next(lan: Network, netns: Path) -> None:
    twice = tuned_twice(lan, netns)
    (lan.plugin.run_dir / "attachments/lan/a@eth0@tuning.json").write_bytes(b"{")
    third = lan.chained("tuning", twice.first.config["prevResult"], mac="02:00:00:00:00:93")
    twice.first.add(netns)

    assert twice.second.call("ADD", netns=netns).error["code"] == 102
    third.add(netns)

    names = [f"a@eth0@tuning{place}.json" for place in ("", "#2", "#3")]
    assert sorted(lan.records) == sorted([BRIDGE, *names])
    for one in (third, twice.second, twice.first):
        one.delete(netns=netns)
    assert list(lan.records) == [BRIDGE]


def test_a_second_member_of_an_earlier_life_is_in_nobodys_way(lan: Network, make_netns: Callable[[], Path]) -> None:
    with namespaces.held() as dead:
        tuned_twice(lan, dead)
    (lan.plugin.run_dir / "attachments/lan/a@eth0@tuning.json").unlink()
    netns = make_netns()
    result = lan.add(netns)
    before = state(netns)

    members = [lan.chained("tuning", result, **keys) for keys in (FIRST, SECOND)]
    for one in members:
        one.add(netns)

    for one in reversed(members):
        one.delete(netns=netns)
    assert state(netns) == before
    assert list(lan.records) == [BRIDGE]


def test_an_error_names_the_plugin_and_not_its_place(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    lan.chained("tuning", result, **FIRST).add(netns)
    namespaces.shell(netns, "ip link del eth0")

    error = lan.chained("tuning", result, **SECOND).call("ADD", netns=netns).error

    assert error["code"] == 104
    assert error["details"].startswith("tuning works on")


def test_an_add_of_a_new_life_clears_all_that_an_earlier_one_left(lan: Network, make_netns: Callable[[], Path]) -> None:
    """Also where there are fewer members now, so that fewer DELs will come."""
    with namespaces.held() as dead:
        tuned_twice(lan, dead)
    netns = make_netns()
    result = lan.add(netns)
    before = state(netns)

    tuned = lan.chained("tuning", result, **FIRST)
    tuned.add(netns)

    assert sorted(lan.records) == [BRIDGE, "a@eth0@tuning.json"]
    tuned.delete(netns=netns)
    assert state(netns) == before
    assert list(lan.records) == [BRIDGE]


# --- CHECK and GC -----------------------------------------------------------------------------------


def test_check_tells_of_the_member_that_is_asked(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    first = lan.chained("tuning", result, sysctl={"net.core.somaxconn": "77"})
    second = lan.chained("tuning", result, txQLen=77)
    for one in (first, second):
        one.add(netns)
    changed = second.but(txQLen=78)

    namespaces.shell(netns, f"echo 79 > {SOMAXCONN}")
    assert "somaxconn" in first.call("CHECK", netns=netns).error["msg"]
    assert second.call("CHECK", netns=netns).result == {}
    # Of a configuration that is nobody's it can't be told which it is about.
    assert "somaxconn" in changed.call("CHECK", netns=netns).error["msg"]

    namespaces.shell(netns, f"echo 77 > {SOMAXCONN}; ip link set eth0 txqueuelen 76")
    assert first.call("CHECK", netns=netns).result == {}
    assert "txqueuelen 77" in second.call("CHECK", netns=netns).error["msg"]
    assert "txqueuelen 77" in changed.call("CHECK", netns=netns).error["msg"]
    for one in (second, first):
        one.delete(netns=netns)


@pytest.mark.parametrize("dels", ["", "S"])
def test_gc_takes_what_is_left_the_last_first(twice: Twice, make_netns: Callable[[], Path], dels: str) -> None:
    other = make_netns()
    lan = twice.first.but(**twice.first.config)
    twice.delete(dels, twice.netns)

    assert lan.collect(("a", "eth0")).code == 0
    assert state(twice.netns) == (twice.states[1] if dels else twice.states[2])
    assert lan.collect(("b", "eth0")).code == 0

    assert state(twice.netns) == twice.states[0]
    assert list(lan.records) == [BRIDGE]
    assert oracle.links(other) == []


# --- other plugins ----------------------------------------------------------------------------------

INGRESS: dict[str, Any] = {"ingressRate": 20_000_000}
EGRESS: dict[str, Any] = {"egressRate": 10_000_000}


def shaping(node: Path) -> tuple[list[int], list[str]]:
    """The rates of queues, and the ifbs."""
    rates = [8 * one.rate_bytes_per_s for one in oracle.qdiscs(node) if one.kind == "tbf"]
    return sorted(rates), [link.name for link in oracle.links(node) if link.kind == "ifb"]


@pytest.mark.parametrize("members", [(INGRESS, EGRESS), (EGRESS, INGRESS)], ids=["", "reversed"])
@pytest.mark.parametrize("then", ["", "lost", "collected"])
def test_one_shapes_what_a_pod_receives_and_another_what_it_sends(
    lan: Network, netns: Path, members: tuple[dict[str, Any], ...], then: str
) -> None:
    result = lan.add(netns)
    first, second = (lan.chained("bandwidth", result, **keys) for keys in members)

    after = second.but(prevResult=first.add(netns)).add(netns)

    rates, ifbs = shaping(lan.node)
    assert (rates, len(ifbs)) == ([10_000_000, 20_000_000], 1)
    assert [one.check(after, netns).code for one in (first, second)] == [0, 0]
    if then == "lost":
        shutil.rmtree(lan.plugin.run_dir / "attachments")
    if then == "collected":
        first.collect()
    else:
        for one in (second, first):
            one.delete(netns=netns)
    left, ifbs = shaping(lan.node)
    # Without a record nothing says whose the port's queue is; it goes with the port.
    assert ifbs == []
    assert left == ([20_000_000] if then == "lost" else [])
    assert oracle.link(lan.node, port(result)).name == port(result)


@pytest.mark.needs("iptables-nft")
@pytest.mark.parametrize("then", ["", "lost"])
def test_one_firewall_opens_and_another_isolates(
    lab: Lab, make_netns: Callable[[], Path], data_dir: Path, in_process: InProcess, then: str
) -> None:
    namespaces.shell(lab.node, "iptables-nft -P FORWARD DROP")
    bridge = {"type": "bridge", "isDefaultGateway": True, "ipam": host_local(data_dir, "10.1.0.0/24", "fd00:1::/64")}
    firewalls = [{"type": "firewall", "backend": "iptables"}, {"type": "firewall", "ingressPolicy": "isolated"}]
    chain = Chain(lab.node, {"cniVersion": "1.1.0", "name": "pods", "plugins": [bridge, *firewalls]}, in_process)
    a, b = make_netns(), make_netns()
    (address, _) = addresses(chain.add(a, "a"))
    chain.add(b, "b")
    lab.route_back("10.1.0.0/24", "fd00:1::/64")
    lab.serve(lab.outside, "tcp", FAR4, 80, "outside")
    lab.serve(a, "tcp", "0.0.0.0", 80, "a")

    assert lab.ask(a, "tcp", FAR4, 80)
    assert lab.ask(lab.node, "tcp", address, 80)
    assert not lab.ask(b, "tcp", address, 80, timeout=SILENCE_S)
    assert chain.check("a").code == 0

    if then == "lost":
        shutil.rmtree(in_process.run_dir / "attachments")
    for pod in "ab":
        chain.delete(pod)
    assert lab.elements() == {}
    assert "10.1.0" not in str(lab.ruleset())
    assert sorted(in_process.run_dir.glob("claims/*")) == []
    assert sorted(in_process.run_dir.glob("attachments/*/*")) == []


@pytest.mark.parametrize("lost", [(), ("netns",), ("prev", "told")], ids=str)
def test_a_chain_of_everything_by_executables_leaves_nothing(
    lab: Lab, make_netns: Callable[[], Path], data_dir: Path, plugin: Exec, lost: tuple[str, ...]
) -> None:
    usual = kubernetes(data_dir, "10.1.0.0/24", "fd00:1::/64", version="1.1.0")
    more = [
        {"type": "portmap"},
        {"type": "bandwidth", **EGRESS},
        {"type": "tuning", "txQLen": 70},
        {"type": "tuning", "mtu": 1400},
    ]
    bridge, portmap, _, firewall, tuning = usual["plugins"]
    members = [bridge, portmap, {"type": "bandwidth", **INGRESS}, firewall, tuning, *more]
    chain = Chain(lab.node, {**usual, "plugins": members}, plugin)
    netns = make_netns()
    mappings = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]

    chain.add(netns, "a", portMappings=mappings, mac=MACS[0])

    assert chain.status().code == 0
    assert chain.check("a").code == 0, chain.check("a")
    link = oracle.link(netns, "eth0")
    assert (state(netns), link.mtu) == (("77", MACS[0], False, 70), 1400)
    assert shaping(lab.node)[0] == [10_000_000, 20_000_000]
    lab.serve(netns, "tcp", "0.0.0.0", 80, "a")
    assert lab.ask(lab.outside, "tcp", NODE4, 8080)
    chain.delete("a", "eth0", **dict.fromkeys(lost, False))
    assert sorted(plugin.run_dir.glob("attachments/*/*")) == []
    assert sorted(plugin.run_dir.glob("claims/*")) == []
    assert [link.name for link in oracle.links(lab.node)] == ["cni0", "up0"]
    assert lab.elements() == {}


@pytest.mark.needs(f"{REFERENCE_PLUGINS}/tuning")
def test_such_a_chain_is_as_by_the_reference(lan: Network, make_netns: Callable[[], Path], tmp_path: Path) -> None:
    lan = lan.but(cniVersion="1.0.0")
    found = []
    for theirs in (True, False):
        netns = make_netns()
        result = lan.add(netns)
        keys: tuple[dict[str, Any], ...] = ({"sysctl": {"net.core.somaxconn": "77"}}, {"mac": MACS[0]})
        members = [lan.chained("tuning", {}, theirs=theirs, dataDir=str(tmp_path / "tuning"), **one) for one in keys]
        for one in members:
            result = one.but(prevResult=result).add(netns)
        found.append((interface(result, "eth0")["mac"], len(result["interfaces"]), state(netns)))
        for one in reversed(members):
            one.but(prevResult=result).delete(netns=netns)
        lan.but(prevResult=result).delete(netns=netns)

    assert found[0] == found[1]

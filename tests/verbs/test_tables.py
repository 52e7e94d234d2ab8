"""Our tables: brought back with everything in them when they are gone or old, and cleared of what no attachment has."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from cni import skeleton
from cni.features import firewall, masquerade, portmap, routed, spoofing
from cni.kernel import nft, ruleset
from cni.kernel.netlink import NetlinkError, Refused
from cni.key import Key, fnv1a
from tests import namespaces
from tests.verbs.lab import FAR4, NODE4, Lab
from tests.verbs.networks import Network, host_local

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.calls import InProcess

PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
TABLES = ("inet", "bridge")

SKELETONS = {"podwire 1": 0x8FF11EBA95BAF9E6}
"""The hash of the text of each version: whoever changes a rule raises `cni.skeleton.version`, and adds a line here."""


@pytest.fixture
def pods(in_process: InProcess, node: Path, data_dir: Path) -> Network:
    config: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "name": "pods",
        "type": "podwire",
        "ipam": host_local(data_dir, "10.244.0.0/24", "fd00:244::/64"),
        "runtimeConfig": PORTS,
        "ingressPolicy": "same-bridge",
    }
    return Network(in_process, node, config, data_dir)


def works(lab: Lab, pod: Path) -> bool:
    """Whether the pod's rules are there: its host port, its masquerade."""
    server = lab.serve(pod, "tcp", "0.0.0.0", 80, "pod")
    outside = lab.serve(lab.outside, "tcp", FAR4, 443, "far")
    there = lab.ask(lab.outside, "tcp", NODE4, 8080)
    back = lab.ask(pod, "tcp", FAR4, 443)
    lab.end(server)
    lab.end(outside)
    return bool(there and back and back.peer == NODE4)


def test_each_skeleton_has_its_version() -> None:
    text = "".join(skeleton.text(family) for family in TABLES)

    assert SKELETONS.get(skeleton.version) == fnv1a(text.encode()), (
        f"rules have changed: raise cni.skeleton.version, and note {skeleton.version!r}: {fnv1a(text.encode()):#018x}"
    )


def test_every_feature_s_rules_are_in_it() -> None:
    for feature in (masquerade, portmap, routed, spoofing, firewall):
        for family, name in (("inet", "RULES"), ("bridge", "BRIDGE_RULES")):
            assert getattr(feature, name, "") in skeleton.text(family)


@pytest.mark.parametrize("flushed", ["flush ruleset", "delete table inet podwire", "delete table bridge podwire"])
def test_what_was_flushed_comes_back_with_status(flushed: str, pods: Network, lab: Lab, netns: Path) -> None:
    result = pods.add(netns)
    before = lab.elements()
    lab.nft(flushed)
    assert pods.check(result, netns).error["code"] == 103

    assert pods.call("STATUS").code == 0

    assert lab.elements() == before
    assert pods.check(result, netns).code == 0
    assert works(lab, netns)


@pytest.mark.parametrize("flushed", ["flush ruleset", "delete table inet podwire", "delete table bridge podwire"])
def test_what_was_flushed_comes_back_with_the_next_pod(
    flushed: str, pods: Network, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    a, b = make_netns(), make_netns()
    result = pods.add(a, "a")
    before = lab.elements()
    lab.nft(flushed)

    pods.but(runtimeConfig=None).add(b, "b")
    pods.delete("b", b)

    assert lab.elements() == before
    assert pods.check(result, a, "a").code == 0
    assert works(lab, a)


def test_a_table_of_another_version_is_made_anew_and_keeps_everybody_s_elements(
    pods: Network, lab: Lab, make_netns: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = make_netns(), make_netns()
    pods.add(a, "a")
    before = lab.elements()
    monkeypatch.setattr(skeleton, "version", "podwire next")

    pods.but(runtimeConfig=None).add(b, "b")

    with namespaces.inside(lab.node, nft.connect) as nl:
        assert [nft.rules_version(nl, family) for family in TABLES] == ["podwire next"] * 2
    pods.delete("b", b)
    assert lab.elements() == before
    assert works(lab, a)


@pytest.mark.parametrize("family", TABLES)
def test_a_table_that_lost_its_rules_alone_gets_them_back_with_status(
    family: str, pods: Network, lab: Lab, netns: Path
) -> None:
    """What `nft flush table` does: version, sets and elements stay."""
    pods.add(netns)
    before, rules = lab.elements(), lab.rules()
    lab.nft(f"flush table {family} podwire")
    assert lab.rules() < rules

    assert pods.call("STATUS").code == 0

    assert (lab.elements(), lab.rules()) == (before, rules)
    assert works(lab, netns)


@pytest.mark.parametrize("family", TABLES)
def test_and_with_the_next_pod(family: str, pods: Network, lab: Lab, make_netns: Callable[[], Path]) -> None:
    a, b = make_netns(), make_netns()
    pods.add(a, "a")
    before, rules = lab.elements(), lab.rules()
    lab.nft(f"flush table {family} podwire")

    pods.but(runtimeConfig=None).add(b, "b")
    assert lab.rules() == rules
    pods.delete("b", b)

    assert lab.elements() == before
    assert works(lab, a)


def test_a_pod_that_is_only_planned_keeps_no_other_from_its_tables(
    pods: Network, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    """Its own are not there yet: those of the first pods are made by whoever comes first."""
    a, b = make_netns(), make_netns()
    pods.add(a, "a")
    _left_planned(pods, "a")
    lab.nft("flush ruleset")
    for note in (pods.plugin.run_dir / "tables").iterdir():
        note.unlink()
    other = pods.but(name="other", type="bridge", runtimeConfig=None, ingressPolicy=None, macspoofchk=True)

    result = other.add(b, "b")

    assert other.check(result, b, "b").code == 0
    assert {one[1]["family"] for one in lab.ruleset() if one[0] == "table"} == {"bridge"}


def test_rules_that_nft_does_not_take_are_only_their_own_pod_s_trouble(
    pods: Network, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    a, b = make_netns(), make_netns()
    pods.add(a, "a")
    _left_planned(pods, "a", lambda rules: rules.replace("masquerade fully-random", "masquerade by chance"))
    lab.nft("flush ruleset")

    result = pods.but(runtimeConfig=None).add(b, "b")

    assert pods.check(result, b, "b").code == 0
    pods.delete("a", a)
    pods.but(runtimeConfig=None).delete("b", b)
    assert lab.elements() == {}


def _left_planned(pods: Network, pod: str, change: Callable[[str], str] = str) -> None:
    """As a call leaves it that died before it had made anything."""
    for file in pods.plugin.run_dir.glob(f"attachments/*/{pod}@*"):
        file.write_text(change(file.read_text().replace('"complete"', '"planned"')))


def test_what_no_set_can_hold_keeps_no_pod_from_going(pods: Network, lab: Lab, netns: Path) -> None:
    pods.add(netns)
    _left_planned(pods, "a", lambda told: told.replace("podwire0 . 10.244.0.2", 'pod\\"wire0 . 10.244.0.2', 1))

    pods.delete()

    assert pods.records == {}


def test_what_can_not_be_made_is_not_noted(
    pods: Network, lab: Lab, netns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skeleton, "text", lambda family: f"table {family} podwire {{ nonsense; }}\n")

    assert "nonsense" in pods.call("ADD", netns=netns).error["msg"]

    monkeypatch.undo()
    assert list((pods.plugin.run_dir / "tables").iterdir()) == []
    assert pods.call("STATUS").code == 0
    assert lab.ruleset() == []


def test_a_table_is_noted_before_it_is_made(
    pods: Network, lab: Lab, netns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = pods.plugin.run_dir / "tables"
    load = ruleset.load

    def loaded(text: str) -> None:
        assert sorted(one.name for one in noted.iterdir()) == sorted(TABLES)
        load(text)

    monkeypatch.setattr(ruleset, "load", loaded)

    pods.add(netns)


def test_a_node_without_pods_has_no_table_and_status_makes_none(pods: Network, lab: Lab) -> None:
    assert pods.call("STATUS").code == 0

    assert lab.ruleset() == []


def test_tables_of_others_are_left_alone(pods: Network, lab: Lab, netns: Path) -> None:
    lab.nft(
        "table inet others { chain c { type filter hook forward priority 0; counter; }; set s { type ipv4_addr; }; }"
    )
    others = [one for one in lab.ruleset() if one[1].get("table") == "others" and one[0] != "rule"]

    pods.add(netns)
    pods.delete(netns=netns)
    pods.collect()

    assert [one for one in lab.ruleset() if one[1].get("table") == "others" and one[0] != "rule"] == others


def test_gc_takes_away_what_no_record_has(pods: Network, lab: Lab, make_netns: Callable[[], Path]) -> None:
    a = make_netns()
    result = pods.add(a, "a")
    before = lab.elements()
    orphan = Key("pods", "lost", "eth0", "podwire").tag
    lab.nft(
        f'add element inet podwire hostports_any4 {{ tcp . 9090 comment "{orphan}" : 10.244.0.9 . 80 }}\n'
        f'add element inet podwire pods4 {{ "podwire0" . 10.244.0.9 comment "{orphan}" }}\n'
        f'add element bridge podwire mac_ports {{ "pwlost" comment "{orphan}" }}\n'
        "add set inet podwire masquerade4_0123456789abcdef { type ifname . ipv4_addr; }\n"
        "add chain inet podwire masquerade_0123456789abcdef { type nat hook postrouting priority 100; }\n"
        "add rule inet podwire masquerade_0123456789abcdef "
        "iifname . ip saddr @masquerade4_0123456789abcdef masquerade\n"
    )
    claims = pods.plugin.run_dir / "claims"
    (claims / "tcp:9090").write_text('{"0.0.0.0": "pods/lost@eth0@podwire"}')
    rules = lab.rules()

    assert pods.collect(("a", "eth0")).code == 0

    assert lab.elements() == before
    assert lab.rules() == rules - 1
    assert "0123456789abcdef" not in str(lab.ruleset())
    assert not (claims / "tcp:9090").exists()
    assert (claims / "tcp:8080").exists()
    assert pods.check(result, a, "a").code == 0


def test_gc_leaves_no_rules_of_a_network_that_has_no_pods(pods: Network, lab: Lab, netns: Path) -> None:
    pods.add(netns)
    constant = len([one for one in lab.ruleset() if one[0] in ("chain", "set", "map")])

    assert pods.collect().code == 0

    assert lab.elements() == {}
    assert 0 < len([one for one in lab.ruleset() if one[0] in ("chain", "set", "map")]) < constant
    assert works_again(pods, lab, netns)


def works_again(pods: Network, lab: Lab, netns: Path) -> bool:
    pods.add(netns)
    return works(lab, netns)


def test_a_del_that_finds_no_record_finds_the_elements_by_their_tag(pods: Network, lab: Lab, netns: Path) -> None:
    result = pods.add(netns)
    for record in pods.plugin.run_dir.glob("attachments/*/*"):
        record.unlink()

    pods.but(prevResult=result).delete(netns=netns)

    assert lab.elements() == {}
    assert list((pods.plugin.run_dir / "claims").iterdir()) == []


@pytest.mark.parametrize("type", ["podwire", "bridge", "ptp"])
def test_so_is_one_that_cannot_do_a_rule(
    type: str, pods: Network, netns: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"podwire": {}, "bridge": {"ipMasq": True}, "ptp": {"ipMasq": True}}[type]
    pods = pods.but(type=type, runtimeConfig=None, ingressPolicy=None, **keys)

    def refuse(_text: str) -> None:
        raise Refused(errno.EOPNOTSUPP, "nft -f -", "fib daddr type local: CONFIG_NFT_FIB_INET")

    monkeypatch.setattr(ruleset, "load", refuse)

    error = pods.call("ADD", netns=netns).error

    assert "CONFIG_NFT_FIB_INET" in error["msg"]
    assert (pods.records, list(data_dir.glob("**/*"))) == ({}, [])


def test_a_kernel_without_nf_tables_is_told_of_before_anything_is_made(
    pods: Network, lab: Lab, netns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise NetlinkError(errno.EOPNOTSUPP, "nft list tables", nft.NO_NF_TABLES)

    monkeypatch.setattr(nft, "connect", missing)

    error = pods.call("ADD", netns=netns).error
    status = pods.call("STATUS").error

    assert "CONFIG_NF_TABLES" in error["msg"]
    assert (status["code"], "CONFIG_NF_TABLES" in status["msg"]) == (50, True)
    assert (pods.records, pods.reserved) == ({}, {})
    assert "podwire0" not in namespaces.shell(lab.node, "ip link show")

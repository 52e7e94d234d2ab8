"""A pod's packets pass the forward chains of others: opened once, found, closed, whoever the others are."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cni.kernel import command
from cni.kernel.forwarding import ANY, FIREWALLD, IPTABLES, NFTABLES, ForwardOpening
from cni.kernel.netlink import Refused
from cni.spec.errors import CNIError
from ipam.address import Address
from tests import namespaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POD, OTHER = Address.parse("10.1.0.5"), Address.parse("10.1.0.6")
POD6 = Address.parse("fd00:1::5")
POLICIES = {
    "iptables-nft": "iptables-nft -P FORWARD DROP",
    "iptables-legacy": "iptables-legacy -P FORWARD DROP",
    **{
        what: f"nft add table {table}; nft add chain {table} {chain} "
        "'{ type filter hook forward priority 5; policy drop; }'"
        for what, table, chain in (
            ("a table", "inet own", "passing"),
            ("an IPv4 table", "ip own", "passing"),
            ("a table like iptables'", "ip filter", "forward"),
        )
    },
}
RULES = [
    "-A CNI-FORWARD -d 10.1.0.5/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A CNI-FORWARD -s 10.1.0.5/32 -j ACCEPT",
    "-A CNI-FORWARD -d 10.1.0.5/32 -m conntrack --ctstate DNAT -j ACCEPT",
]
CHAINS = [
    '-A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD',
    '-A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN',
]

pytestmark = pytest.mark.needs("iptables-nft", "iptables-legacy", "nft")


def make(netns: Path, opening: ForwardOpening) -> None:
    namespaces.inside(netns, opening.make)


def drop(netns: Path, opening: ForwardOpening) -> None:
    namespaces.inside(netns, opening.drop)


def found(netns: Path, opening: ForwardOpening) -> bool:
    return namespaces.inside(netns, opening.find)


def state(netns: Path) -> str:
    """All rules of all kinds, without counters."""
    text = namespaces.shell(netns, "nft list ruleset; iptables-legacy-save; ip6tables-legacy-save")
    return "\n".join(line for line in text.splitlines() if not line.startswith(("#", ":")))


def rules(netns: Path, variant: str = "iptables-nft") -> list[str]:
    """The rules of iptables' filter table, in order."""
    text = namespaces.shell(netns, f"{variant}-save -t filter 2>/dev/null")
    return [line for line in text.splitlines() if line.startswith("-A")]


# --- iptables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["iptables-nft", "iptables-legacy"])
def test_where_iptables_drops_the_pod_gets_the_references_rules(netns: Path, variant: str) -> None:
    namespaces.shell(netns, f"{variant} -P FORWARD DROP; {variant} -A FORWARD -s 203.0.113.0/24 -j ACCEPT")
    opening = ForwardOpening(POD)
    assert not found(netns, opening)

    make(netns, opening)

    assert rules(netns, variant) == [CHAINS[0], "-A FORWARD -s 203.0.113.0/24 -j ACCEPT", CHAINS[1], *RULES]
    assert found(netns, opening)


@pytest.mark.parametrize("variant", ["iptables-nft", "iptables-legacy"])
def test_what_is_there_is_not_made_twice(netns: Path, variant: str) -> None:
    namespaces.shell(netns, f"{variant} -P FORWARD DROP")
    for opening in (ForwardOpening(POD), ForwardOpening(POD), ForwardOpening(OTHER), ForwardOpening(POD)):
        make(netns, opening)

    others = [rule.replace("0.5", "0.6") for rule in RULES]
    assert rules(netns, variant) == [*CHAINS, *RULES, *others]


@pytest.mark.parametrize("missing", range(5))
@pytest.mark.parametrize("variant", ["iptables-nft", "iptables-legacy"])
def test_what_is_missing_is_added(netns: Path, variant: str, missing: int) -> None:
    namespaces.shell(netns, f"{variant} -P FORWARD DROP")
    opening = ForwardOpening(POD)
    make(netns, opening)
    whole = rules(netns, variant)
    namespaces.shell(netns, f"{variant} {whole[missing].replace('-A', '-D', 1)}")
    assert not found(netns, opening)

    make(netns, opening)

    assert sorted(rules(netns, variant)) == sorted(whole)
    assert rules(netns, variant)[:2] == CHAINS


@pytest.mark.parametrize("variant", ["iptables-nft", "iptables-legacy"])
def test_the_pods_rules_go_and_the_chains_stay(netns: Path, variant: str) -> None:
    namespaces.shell(netns, f"{variant} -P FORWARD DROP")
    opening = ForwardOpening(POD)
    make(netns, opening)
    make(netns, ForwardOpening(OTHER))

    drop(netns, opening)

    assert rules(netns, variant) == [*CHAINS, *[rule.replace("0.5", "0.6") for rule in RULES]]
    assert not found(netns, opening)
    drop(netns, opening)
    assert not found(netns, opening)


@pytest.mark.parametrize("left", range(3))
def test_what_others_left_of_the_pods_rules_goes(netns: Path, left: int) -> None:
    namespaces.shell(netns, "iptables -P FORWARD DROP")
    opening = ForwardOpening(POD)
    make(netns, opening)
    for number, rule in enumerate(RULES):
        if number != left:
            namespaces.shell(netns, f"iptables {rule.replace('-A', '-D', 1)}")

    drop(netns, opening)

    assert rules(netns) == CHAINS


def test_rules_go_when_nothing_drops_any_more(netns: Path) -> None:
    namespaces.shell(netns, "iptables -P FORWARD DROP")
    opening = ForwardOpening(POD)
    make(netns, opening)
    namespaces.shell(netns, "iptables -P FORWARD ACCEPT")

    drop(netns, opening)

    assert rules(netns) == CHAINS


def test_a_pod_of_ipv6_is_told_to_ip6tables_alone(netns: Path) -> None:
    namespaces.shell(netns, "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP")

    make(netns, ForwardOpening(POD6))

    assert rules(netns) == []
    assert rules(netns, "ip6tables-nft") == [
        *CHAINS,
        *[rule.replace("10.1.0.5/32", "fd00:1::5/128") for rule in RULES],
    ]
    drop(netns, ForwardOpening(POD6))
    assert rules(netns, "ip6tables-nft") == CHAINS


def test_a_node_that_uses_both_iptables_has_to_be_told_twice(netns: Path) -> None:
    namespaces.shell(netns, "iptables-nft -P FORWARD DROP; iptables-legacy -P FORWARD DROP")
    opening = ForwardOpening(POD)

    make(netns, opening)

    assert rules(netns, "iptables-nft") == rules(netns, "iptables-legacy") == [*CHAINS, *RULES]
    drop(netns, opening)
    assert rules(netns, "iptables-nft") == rules(netns, "iptables-legacy") == CHAINS


def test_who_asks_for_iptables_gets_it_where_nothing_drops(netns: Path) -> None:
    opening = ForwardOpening(POD, IPTABLES, admin_chain="SITE")
    assert not found(netns, opening)

    make(netns, opening)

    assert rules(netns) == [CHAINS[0], CHAINS[1].replace("CNI-ADMIN", "SITE"), *RULES]
    assert found(netns, opening)
    drop(netns, opening)
    assert rules(netns) == [CHAINS[0], CHAINS[1].replace("CNI-ADMIN", "SITE")]


@pytest.mark.parametrize(
    "others",
    [
        "true",
        "iptables -P FORWARD ACCEPT; ip6tables -A FORWARD -j ACCEPT",
        "iptables-legacy -P FORWARD ACCEPT",
        "nft add table inet own; nft add chain inet own passing '{ type filter hook forward priority 0; }'",
        "nft add table inet own; nft add chain inet own in '{ type filter hook input priority 0; policy drop; }'",
        "nft add table inet podwire; nft add chain inet podwire x '{type filter hook forward priority 0;policy drop;}'",
    ],
)
def test_where_nothing_drops_nothing_is_touched(netns: Path, others: str) -> None:
    namespaces.shell(netns, others)
    before = state(netns)

    for opening in (ForwardOpening(POD), ForwardOpening(POD6), ForwardOpening(POD, NFTABLES)):
        make(netns, opening)
        assert found(netns, opening)
        drop(netns, opening)

    assert state(netns) == before


# --- tables of others ---------------------------------------------------------------------------------


def table(netns: Path, what: str) -> list[str]:
    return [line.strip() for line in namespaces.shell(netns, f"nft list {what}").splitlines()]


def test_in_a_table_of_somebodys_the_pod_is_an_element(netns: Path) -> None:
    namespaces.shell(
        netns,
        "nft -f - <<X\ntable inet own {\nchain passing {\ntype filter hook forward priority 5; policy drop;\n"
        "ip saddr 203.0.113.0/24 accept\n}\n}\nX",
    )
    opening = ForwardOpening(POD)
    assert not found(netns, opening)

    make(netns, opening)

    assert table(netns, "chain inet own passing")[3:5] == ["jump podwire", "ip saddr 203.0.113.0/24 accept"]
    assert table(netns, "chain inet own podwire")[2:8] == [
        "ip saddr @podwire4 accept",
        "ip daddr @podwire4 ct state established,related accept",
        "ip daddr @podwire4 ct status dnat accept",
        "ip6 saddr @podwire6 accept",
        "ip6 daddr @podwire6 ct state established,related accept",
        "ip6 daddr @podwire6 ct status dnat accept",
    ]
    assert "elements = { 10.1.0.5 }" in table(netns, "set inet own podwire4")
    assert found(netns, opening)


@pytest.mark.parametrize("policy", [name for name in POLICIES if "table" in name and "iptables-" not in name])
def test_rules_of_a_table_are_made_once_for_all_pods_and_stay(netns: Path, policy: str) -> None:
    namespaces.shell(netns, POLICIES[policy])
    before = state(netns)
    make(netns, ForwardOpening(OTHER))
    drop(netns, ForwardOpening(OTHER))
    prepared = state(netns)
    assert prepared != before

    for opening in (ForwardOpening(POD), ForwardOpening(OTHER), ForwardOpening(POD)):
        make(netns, opening)
    assert found(netns, ForwardOpening(POD))
    drop(netns, ForwardOpening(POD))
    assert found(netns, ForwardOpening(OTHER))
    assert not found(netns, ForwardOpening(POD))
    drop(netns, ForwardOpening(OTHER))
    drop(netns, ForwardOpening(OTHER))

    assert state(netns) == prepared


def test_rules_that_were_flushed_are_missed_and_made_anew(netns: Path) -> None:
    namespaces.shell(netns, POLICIES["a table"])
    opening = ForwardOpening(POD)
    make(netns, opening)
    whole = state(netns)
    namespaces.shell(netns, "nft flush table inet own")  # sets stay, with their elements
    assert not found(netns, opening)

    make(netns, opening)

    assert found(netns, opening)
    assert state(netns) == whole


def test_an_ipv6_pod_passes_a_table_of_both_and_needs_none_of_ipv4(netns: Path) -> None:
    namespaces.shell(netns, POLICIES["a table"])
    namespaces.shell(netns, POLICIES["an IPv4 table"])

    make(netns, ForwardOpening(POD6))

    assert "elements = { fd00:1::5 }" in table(netns, "set inet own podwire6")
    assert "podwire" not in namespaces.shell(netns, "nft list table ip own")


def test_who_asks_for_nftables_has_iptables_left_alone(netns: Path) -> None:
    namespaces.shell(netns, POLICIES["iptables-nft"] + "\n" + POLICIES["a table"])

    make(netns, ForwardOpening(POD, NFTABLES))

    assert rules(netns) == []
    assert found(netns, ForwardOpening(POD, NFTABLES))
    assert not found(netns, ForwardOpening(POD))


def test_two_chains_that_drop_are_both_opened(netns: Path) -> None:
    namespaces.shell(netns, POLICIES["a table"])
    namespaces.shell(netns, "nft add chain inet own late '{ type filter hook forward priority 50; policy drop; }'")

    make(netns, ForwardOpening(POD))

    assert "jump podwire" in table(netns, "chain inet own passing")
    assert "jump podwire" in table(netns, "chain inet own late")


# --- firewalld ----------------------------------------------------------------------------------------


@pytest.fixture
def firewall_cmd(tmp_path: Path) -> Iterator[Path]:
    """A command of that name where commands are looked for, which notes what it is told and exits as the file says."""
    (tmp_path / "told").write_text("")
    (tmp_path / "exit").write_text("0")
    fake = tmp_path / "bin" / "firewall-cmd"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\nexit $(cat {tmp_path}/exit)\n')
    fake.chmod(0o755)
    place = "/usr/local/sbin"
    subprocess.run(["mount", "--bind", str(fake.parent), place], check=True)  # in the session's mount namespace
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", place], check=True)


def told(fake: Path) -> list[str]:
    return (fake / "told").read_text().splitlines()


def test_firewalld_is_asked_by_its_command(netns: Path, firewall_cmd: Path) -> None:
    opening = ForwardOpening(POD, FIREWALLD, zone="pods")

    make(netns, opening)
    assert found(netns, opening)
    drop(netns, opening)

    assert told(firewall_cmd) == [
        "--zone=pods --add-source=10.1.0.5/32",
        "--zone=pods --query-source=10.1.0.5/32",
        "--zone=pods --remove-source=10.1.0.5/32",
    ]


def test_firewalld_is_noticed_by_its_table(netns: Path, firewall_cmd: Path) -> None:
    opening = ForwardOpening(POD6)
    make(netns, opening)
    assert told(firewall_cmd) == []
    namespaces.shell(netns, "nft add table inet firewalld")

    make(netns, opening)
    drop(netns, opening)

    assert told(firewall_cmd) == [
        "--zone=trusted --add-source=fd00:1::5/128",
        "--zone=trusted --remove-source=fd00:1::5/128",
    ]


@pytest.mark.parametrize("code", ["11", "16"])
def test_what_firewalld_has_already_is_fine(netns: Path, firewall_cmd: Path, code: str) -> None:
    (firewall_cmd / "exit").write_text(code)

    make(netns, ForwardOpening(POD, FIREWALLD))


@pytest.mark.parametrize("code", ["12", "20", "252"])
def test_what_firewalld_has_no_more_is_fine(netns: Path, firewall_cmd: Path, code: str) -> None:
    (firewall_cmd / "exit").write_text(code)

    drop(netns, ForwardOpening(POD, FIREWALLD))


def test_a_source_that_is_missing_is_noticed(netns: Path, firewall_cmd: Path) -> None:
    (firewall_cmd / "exit").write_text("1")

    assert not found(netns, ForwardOpening(POD, FIREWALLD))


def test_a_firewalld_that_has_ended_is_an_error_only_where_it_was_asked_for(netns: Path, firewall_cmd: Path) -> None:
    (firewall_cmd / "exit").write_text("252")
    namespaces.shell(netns, "nft add table inet firewalld")

    make(netns, ForwardOpening(POD))
    assert found(netns, ForwardOpening(POD))
    with pytest.raises(Refused) as caught:
        make(netns, ForwardOpening(POD, FIREWALLD))

    assert str(caught.value).startswith("firewall-cmd --zone=trusted --add-source=10.1.0.5/32: exit status 252")
    assert not found(netns, ForwardOpening(POD, FIREWALLD))


def test_a_command_that_is_not_there_is_an_error_naming_its_package(netns: Path) -> None:
    if command.find("firewall-cmd"):
        pytest.skip("lacks: a machine without firewalld")

    with pytest.raises(CNIError) as caught:
        make(netns, ForwardOpening(POD, FIREWALLD))

    assert "firewall-cmd is not there" in caught.value.msg
    assert caught.value.details == "install firewalld"
    drop(netns, ForwardOpening(POD, FIREWALLD))


# --- all of them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [ANY, IPTABLES, NFTABLES])
def test_whoever_asks_leaves_what_others_have(netns: Path, make_netns: Callable[[], Path], backend: str) -> None:
    """What iptables' own commands can still read, and what differs but by what is ours."""
    for policy in POLICIES.values():
        namespaces.shell(netns, policy)
    make(netns, ForwardOpening(POD, backend))
    drop(netns, ForwardOpening(POD, backend))

    namespaces.shell(netns, "iptables-nft-save >/dev/null; iptables-legacy-save >/dev/null")
    assert "10.1.0.5" not in state(netns)


# --- off the node -----------------------------------------------------------------------------------


README = Path(__file__).resolve().parents[2] / "README.md"


def test_what_stays_goes_by_the_commands_that_readme_names(netns: Path) -> None:
    variants = ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy")
    told = README.read_text().partition("### Take it off a node")[2].partition("\n## ")[0]
    lines = [line.strip() for line in told.splitlines() if line.startswith("       ")]
    of_iptables = [line for line in lines if line.startswith("iptables ")]
    of_nft = [line for line in lines if "inet filter" in line]
    assert (len(of_iptables), len(of_nft)) == (3, 4)
    namespaces.shell(
        netns,
        "nft add table inet filter;"
        "nft add chain inet filter forward '{ type filter hook forward priority 0; policy drop; }';"
        "nft add rule inet filter forward ct state established accept;"
        + "; ".join(f"{variant} -P FORWARD DROP" for variant in variants),
    )
    before = state(netns)
    for opening in (ForwardOpening(POD), ForwardOpening(POD6)):
        make(netns, opening)
        drop(netns, opening)
    assert "jump podwire" in state(netns) and "CNI-ADMIN" in state(netns)

    for variant in variants:
        listed, *others = [line.replace("iptables ", f"{variant} ") for line in of_iptables]
        assert len(namespaces.shell(netns, listed).splitlines()) == 2  # the chain, and the jump out of it
        for line in others:
            namespaces.shell(netns, line)
    found = namespaces.shell(netns, of_nft[0])
    for line in of_nft[1:]:
        namespaces.shell(netns, line.replace("handle 12", f"handle {found.split()[-1]}"))

    assert state(netns) == before

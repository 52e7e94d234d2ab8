"""What `type: firewall` makes of its configuration, and of a pod."""

from __future__ import annotations

import json

import pytest

from cni.features import firewall
from cni.features.firewall import FirewallFeature
from cni.kernel.forwarding import ForwardOpening
from cni.kernel.nft import Claim
from cni.key import Key
from cni.spec.errors import INVALID_CONFIG, CNIError
from cni.spec.netconf import NetConf
from cni.spec.result import IPConfig
from cni.wanted import Pod, Wanted
from ipam.address import Address
from ipam.address import Interface as Prefixed

KEY = Key("lan", "a", "eth0", "firewall")
TAG = KEY.tag
POD4, POD6 = "10.1.0.5", "fd00:1::5"


def feature(**keys: object) -> FirewallFeature:
    config = {"cniVersion": "1.1.0", "name": "lan", "type": "firewall", **keys}
    return FirewallFeature.parse(NetConf.parse(json.dumps(config).encode()))


def refusal(**keys: object) -> CNIError:
    with pytest.raises(CNIError) as caught:
        feature(**keys)
    assert caught.value.code == INVALID_CONFIG
    return caught.value


def pod(*addresses: str, port: str = "veth0", iif: str = "br0") -> Pod:
    ips = tuple(IPConfig(Prefixed.parse(f"{one}/{64 if ':' in one else 24}")) for one in addresses)
    return Pod(KEY, "/run/netns/a", "eth0", TAG, "02:00:00:00:00:02", "", ips, (), {}, port=port, iif=iif)


def wanted(*addresses: str, port: str = "veth0", iif: str = "br0", **keys: object) -> Wanted:
    return feature(**keys).wanted(pod(*addresses, port=port, iif=iif))


def elements(found: Wanted) -> dict[str, list[str]]:
    """By set; the hash of br0 left out of the names."""
    sets: dict[str, list[str]] = {}
    for one in found.elements:
        sets.setdefault(one.set.partition("_" + found.fragments[0].name)[0] if found.fragments else one.set, []).append(
            one.text
        )
    return sets


# --- the configuration --------------------------------------------------------------------------------


def test_without_any_key_nothing_is_isolated_and_whoever_drops_is_told() -> None:
    assert wanted(POD4, POD6) == Wanted(
        openings=(ForwardOpening(Address.parse(POD4)), ForwardOpening(Address.parse(POD6)))
    )
    assert ForwardOpening(Address.parse(POD4)) == (Address.parse(POD4), "", "CNI-ADMIN", "trusted")


@pytest.mark.parametrize("backend", ["", "iptables", "firewalld", "nftables"])
@pytest.mark.parametrize("policy", ["", "open"])
def test_the_keys_of_an_opening(backend: str, policy: str) -> None:
    found = wanted(
        POD4, backend=backend, ingressPolicy=policy, iptablesAdminChainName="SITE-RULES", firewalldZone="pods"
    )

    assert found == Wanted(openings=(ForwardOpening(Address.parse(POD4), backend, "SITE-RULES", "pods"),))


def test_an_opening_belongs_to_its_address_whoever_wants_it() -> None:
    assert ForwardOpening(Address.parse(POD6)).resource == "forward:fd00:1::5"
    assert str(ForwardOpening(Address.parse(POD4), "iptables")).startswith("what lets 10.1.0.5 pass")


@pytest.mark.parametrize(
    ("key", "value", "need"),
    [
        ("backend", "ebtables", "'iptables', 'firewalld', 'nftables' or absent"),
        ("backend", 5, "a string"),
        ("ingressPolicy", "closed", '"open", "same-bridge" or "isolated"'),
        *[
            ("iptablesAdminChainName", name, "a name of up to 28 characters that iptables takes")
            for name in ("x" * 29, "-X", "!X", "A B", "A\n-P FORWARD", 'A"', "A'", "A\\", "ä", "#A")
        ],
    ],
)
def test_what_can_not_be_is_refused(key: str, value: object, need: str) -> None:
    error = refusal(**{key: value})

    assert error.msg == f"firewall: {key} must be {need}, got {json.dumps(value)}"


# --- isolation ------------------------------------------------------------------------------------------


def test_a_pod_of_a_bridge_is_guarded_and_at_home_on_it() -> None:
    found = wanted(POD4, POD6, ingressPolicy="same-bridge")

    assert elements(found) == {
        "guarded4": ["br0 . 10.1.0.5"],
        "guarded6": ["br0 . fd00:1::5"],
        "selves4": ["10.1.0.5 . 10.1.0.5"],
        "selves6": ["fd00:1::5 . fd00:1::5"],
        "homes4": ["10.1.0.5"],
        "homes6": ["fd00:1::5"],
    }
    assert {one.family for one in found.elements} == {"inet"}
    assert len(found.openings) == 2


def test_an_isolated_pod_is_at_home_nowhere_and_its_port_alone() -> None:
    found = wanted(POD4, ingressPolicy="isolated")

    assert elements(found) == {
        "guarded4": ["br0 . 10.1.0.5"],
        "selves4": ["10.1.0.5 . 10.1.0.5"],
        "isolated_ports": ["veth0"],
        "isolated_loops": ["veth0 . veth0"],
    }
    assert [one.set for one in found.elements if one.family == "bridge"] == ["isolated_ports", "isolated_loops"]


def test_a_pod_without_addresses_is_isolated_as_far_as_frames_go() -> None:
    found = wanted(ingressPolicy="isolated")

    assert elements(found) == {"isolated_ports": ["veth0"], "isolated_loops": ["veth0 . veth0"]}
    assert {one.family for one in found.elements} == {"bridge"}
    assert not found.fragments


@pytest.mark.parametrize("policy", ["same-bridge", "isolated"])
def test_a_pod_with_a_link_of_its_own_needs_no_rules_of_its_own(policy: str) -> None:
    found = wanted(POD4, iif="veth0", ingressPolicy=policy)

    assert not found.fragments
    assert elements(found) == {
        "guarded_links": ["veth0"],
        "guarded_loops": ["veth0 . veth0"],
        "guarded4": ["veth0 . 10.1.0.5"],
    }


def test_what_an_address_keys_is_claimed_and_everything_bears_the_tag() -> None:
    found = wanted(POD4, ingressPolicy="same-bridge")

    assert {one.tag for one in found.elements} == {TAG}
    assert {one.claim for one in found.elements} == {Claim("guarded:br0:10.1.0.5")}


@pytest.mark.parametrize("policy", ["open", "same-bridge", "isolated"])
def test_the_tables_that_are_made_sure_of_are_those_that_elements_go_to(policy: str) -> None:
    families = {one.family for one in wanted(POD4, POD6, ingressPolicy=policy).elements}

    assert set(feature(ingressPolicy=policy).tables) == families


def test_the_rules_of_a_bridge_are_the_same_for_all_its_pods_and_say_its_name() -> None:
    one, other = (wanted(address, ingressPolicy="same-bridge").fragments[0] for address in (POD4, POD6))

    assert one == other
    assert 'iifname != "br0" accept' in one.text
    assert "_" not in one.name
    assert wanted(POD4, iif="br1", ingressPolicy="same-bridge").fragments[0].name != one.name


def test_a_bridge_s_name_stands_in_its_rules_as_it_is() -> None:
    (rules,) = wanted(POD4, iif="br_@", ingressPolicy="same-bridge").fragments

    assert 'iifname != "br_@" accept' in rules.text
    assert 'oifname "br_@" ip daddr @homes4_' + rules.name in rules.text


@pytest.mark.parametrize("iif", ["", 'br"0', "br*", "br\\0"])
def test_isolation_needs_a_way_that_rules_can_name(iif: str) -> None:
    with pytest.raises(CNIError) as caught:
        wanted(POD4, iif=iif, ingressPolicy="same-bridge")

    assert caught.value.code == INVALID_CONFIG
    assert caught.value.details
    assert wanted(POD4, iif=iif).openings


def test_every_set_that_an_element_is_for_is_declared_of_its_type() -> None:
    for policy in ("same-bridge", "isolated"):
        for iif in ("br0", "veth0"):
            found = wanted(POD4, POD6, iif=iif, ingressPolicy=policy)
            rules = {"inet": firewall.RULES, "bridge": firewall.BRIDGE_RULES}
            rules["inet"] += "".join(fragment.text for fragment in found.fragments)
            for one in found.elements:
                assert f"set {one.set} {{ type {one.type}; }}" in rules[one.family]

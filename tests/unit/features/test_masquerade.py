"""Which of a pod's packets bear the node's address outside: pure, so read as sentences."""

from __future__ import annotations

import json

import pytest

from cni.features.masquerade import MasqueradeFeature
from cni.kernel.nft import Claim
from cni.spec.errors import CNIError
from cni.spec.netconf import NetConf
from ipam.address import Network
from tests.unit.features.pod import KEY, ip, pod


def parsed(**keys: object) -> tuple[MasqueradeFeature, ...]:
    conf = {"cniVersion": "1.1.0", "name": "lan", "type": "bridge", **keys}
    return MasqueradeFeature.parse(NetConf.parse(json.dumps(conf).encode()))


def exempt(*networks: str) -> MasqueradeFeature:
    return MasqueradeFeature(tuple(Network.parse(network) for network in networks))


def rule(text: str, version: int) -> str:
    """The rule of a version, and "" for none."""
    return next((line.strip() for line in text.splitlines() if f"oifname . ip{'6' * (version == 6)} daddr" in line), "")


# --- the configuration ------------------------------------------------------------------------------


def test_who_asks_is_masqueraded_whatever_the_reference_would_do_it_with() -> None:
    for backend in (None, "iptables", "nftables"):
        assert parsed(ipMasq=True, ipMasqBackend=backend) == (MasqueradeFeature(),)
        assert parsed(ipMasq=False, ipMasqBackend=backend) == parsed(ipMasqBackend=backend) == ()


@pytest.mark.parametrize(("key", "value"), [("ipMasqBackend", "ipvs"), ("ipMasqBackend", 1), ("ipMasq", "yes")])
def test_a_value_that_cannot_be_is_refused_by_key_and_value(key: str, value: object) -> None:
    with pytest.raises(CNIError) as caught:
        parsed(**{"ipMasq": True, key: value})

    assert caught.value.code == 7
    assert key in caught.value.msg
    assert json.dumps(value) in caught.value.msg


# --- a pod ------------------------------------------------------------------------------------------


def test_a_pod_is_two_elements_for_each_address() -> None:
    found = MasqueradeFeature().wanted(pod(ip("10.1.0.2/24"), ip("fd00::2/64"), iif="cni0"))

    name = found.fragments[0].name
    assert [(one.set, one.type, one.text) for one in found.elements] == [
        ("pods4", "ifname . ipv4_addr", "cni0 . 10.1.0.2"),
        (f"masquerade4_{name}", "ifname . ipv4_addr", "cni0 . 10.1.0.2"),
        ("pods6", "ifname . ipv6_addr", "cni0 . fd00::2"),
        (f"masquerade6_{name}", "ifname . ipv6_addr", "cni0 . fd00::2"),
    ]
    assert {(one.tag, one.family) for one in found.elements} == {(KEY.tag, "inet")}


def test_an_address_is_claimed_on_its_bridge_or_on_the_node_that_routes_to_it() -> None:
    on_bridge = MasqueradeFeature().wanted(pod(ip("10.1.0.2/24"), iif="cni0"))
    by_itself = MasqueradeFeature().wanted(pod(ip("10.1.0.2/24")))

    assert {one.claim for one in on_bridge.elements} == {Claim("address:cni0:10.1.0.2")}
    assert {one.claim for one in by_itself.elements} == {Claim("address:10.1.0.2")}
    assert [one.text for one in by_itself.elements] == [f"{KEY.tag} . 10.1.0.2"] * 2


def test_a_pod_without_addresses_needs_no_rules() -> None:
    found = exempt("10.0.0.0/8").wanted(pod(iif="cni0"))

    assert (found.fragments, found.elements) == ((), ())


@pytest.mark.parametrize("name", ['a"b', "a\\b", "cni*"])
def test_a_link_that_nft_cannot_write_is_refused(name: str) -> None:
    with pytest.raises(CNIError) as caught:
        MasqueradeFeature().wanted(pod(ip("10.1.0.2/24"), iif=name))

    assert caught.value.code == 7
    assert name in caught.value.msg


# --- rules ------------------------------------------------------------------------------------------


def test_the_pods_subnets_multicast_and_what_is_exempt_are_left_alone() -> None:
    found = exempt("192.168.0.0/16", "fd10::/16").wanted(pod(ip("10.1.0.2/24"), ip("10.2.0.2/24"), ip("fd00::2/64")))

    (fragment,) = found.fragments
    assert "ip daddr != { 224.0.0.0/4, 192.168.0.0/16, 10.1.0.0/24, 10.2.0.0/24 } " in rule(fragment.text, 4)
    assert "ip6 daddr != { ff00::/8, fd10::/16, fd00::/64 } " in rule(fragment.text, 6)


def test_a_family_that_the_pod_has_no_address_of_has_no_rule() -> None:
    (fragment,) = MasqueradeFeature().wanted(pod(ip("10.1.0.2/24"))).fragments

    assert rule(fragment.text, 4)
    assert not rule(fragment.text, 6)


def test_networks_that_overlap_are_told_once() -> None:
    (fragment,) = exempt("10.0.0.0/8", "10.1.0.0/16", "239.0.0.0/8").wanted(pod(ip("10.1.0.2/24"))).fragments

    assert "!= { 224.0.0.0/4, 10.0.0.0/8 } " in rule(fragment.text, 4)


def test_the_rules_depend_on_networks_and_never_on_pods() -> None:
    first, second = (exempt("10.9.0.0/16", "10.8.0.0/16").wanted(pod(ip(f"10.1.0.{n}/24"), iif="cni0")) for n in (2, 3))
    turned = exempt("10.8.0.0/16", "10.9.0.0/16").wanted(pod(ip("10.1.0.4/24"), iif="cni1"))
    other = exempt("10.9.0.0/16").wanted(pod(ip("10.1.0.5/24"), iif="cni0"))

    assert first.fragments == second.fragments == turned.fragments
    assert other.fragments[0].name != first.fragments[0].name


@pytest.mark.parametrize("address", ["10.1.0.{}/32", "10.1.{}.0/31", "10.1.{}.2/30", "fd00::{}/128", "fd00:{}::1/127"])
def test_a_subnet_that_has_room_for_one_pod_alone_adds_no_rule(address: str) -> None:
    fragments = {MasqueradeFeature().wanted(pod(ip(address.format(number)))).fragments for number in (2, 4, 6)}

    assert len(fragments) == 1


def test_each_name_in_a_fragment_ends_in_its_own() -> None:
    (fragment,) = MasqueradeFeature().wanted(pod(ip("10.1.0.2/24"), ip("fd00::2/64"))).fragments

    declared = [line.split()[1] for line in fragment.text.splitlines() if line.split()[0] in ("set", "chain")]
    assert [name.rpartition("_")[2] for name in declared] == [fragment.name] * 3

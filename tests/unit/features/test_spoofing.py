"""What is looked up of a pod's frames: pure, so read as sentences."""

from __future__ import annotations

import json

import pytest

from cni.features.spoofing import SpoofingFeature
from cni.spec.errors import CNIError
from cni.spec.netconf import NetConf
from tests.unit.features.pod import KEY, MAC, ip, pod


def parsed(**keys: object) -> tuple[SpoofingFeature, ...]:
    conf = {"cniVersion": "1.1.0", "name": "lan", "type": "bridge", **keys}
    return SpoofingFeature.parse(NetConf.parse(json.dumps(conf).encode()))


def test_the_references_key_asks_for_macs_alone() -> None:
    assert parsed(macspoofchk=True) == (SpoofingFeature(mac=True, ip=False),)
    assert parsed(macspoofchk=False) == parsed() == ()


def test_a_value_that_cannot_be_is_refused() -> None:
    with pytest.raises(CNIError) as caught:
        parsed(macspoofchk="yes")

    assert (caught.value.code, 'macspoofchk must be true or false, got "yes"' in caught.value.msg) == (7, True)


def test_a_pods_mac_is_known_by_its_port() -> None:
    found = SpoofingFeature(mac=True, ip=False).wanted(pod(ip("10.1.0.2/24"), iif="cni0"))

    assert [(one.set, one.text) for one in found.elements] == [
        ("mac_ports", KEY.tag),
        ("macs", f"{KEY.tag} . {MAC}"),
    ]
    assert {(one.tag, one.family, one.claim) for one in found.elements} == {(KEY.tag, "bridge", None)}


def test_a_pods_addresses_are_known_by_its_port() -> None:
    found = SpoofingFeature(mac=False, ip=True).wanted(
        pod(ip("10.1.0.2/24"), ip("10.1.0.2/16"), ip("fd00::2/64"), iif="cni0")
    )

    assert [(one.set, one.type, one.text) for one in found.elements] == [
        ("ip_ports", "ifname", KEY.tag),
        ("ips4", "ifname . ipv4_addr", f"{KEY.tag} . 10.1.0.2"),
        ("ips6", "ifname . ipv6_addr", f"{KEY.tag} . fd00::2"),
        ("targets6", "ifname . integer", f"{KEY.tag} . 0xfd000000000000000000000000000002"),
    ]


def test_a_pod_without_addresses_may_have_none() -> None:
    assert [one.set for one in SpoofingFeature(mac=False, ip=True).wanted(pod()).elements] == ["ip_ports"]

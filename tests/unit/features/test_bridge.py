"""What `type: bridge` makes of its configuration, and of a pod: pure, so read as sentences."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from cni.features.bridge import BridgeFeature
from cni.kernel.inet import LinkAddress, LinkRoute
from cni.kernel.link import Link
from cni.kernel.neighbour import FdbEntry, Neighbour
from cni.kernel.ports import Bridge, BridgePort, LinkUp, Veth
from cni.kernel.sysctl import Sysctl
from cni.key import Key
from cni.spec.errors import CNIError
from cni.spec.netconf import NetConf
from cni.spec.result import Interface, IPConfig, Route
from cni.wanted import Pod, Switch
from ipam.address import Address, Network
from ipam.address import Interface as Prefixed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.wanted import Wanted

Kind = TypeVar("Kind")

BRIDGE_MAC = "02:00:00:00:00:01"
MAC = "02:00:00:00:00:02"
HOST_MAC = "02:00:00:00:00:03"
KEY = Key("lan", "a", "eth0", "bridge")


def conf(**keys: object) -> NetConf:
    return NetConf.parse(json.dumps({"cniVersion": "1.1.0", "name": "lan", "type": "bridge", **keys}).encode())


def feature(args: Mapping[str, str] | None = None, /, **keys: object) -> BridgeFeature:
    return BridgeFeature.parse(conf(**keys), args or {})


def refusal(args: Mapping[str, str] | None = None, /, **keys: object) -> CNIError:
    with pytest.raises(CNIError) as caught:
        feature(args, **keys)
    return caught.value


def ip(address: str, gateway: str = "") -> IPConfig:
    return IPConfig(Prefixed.parse(address), Address.parse(gateway) if gateway else None)


def route(dst: str, gw: str = "", **how: Any) -> Route:
    return Route(Network.parse(dst), Address.parse(gw) if gw else None, **how)


def wanted(*ips: IPConfig, routes: tuple[Route, ...] = (), bridge_mtu: int = 1500, **keys: object) -> Wanted:
    """For a pod with these addresses, on a bridge br0."""
    seen = {"br0": Link("br0", "bridge", BRIDGE_MAC, bridge_mtu)}
    pod = Pod(KEY, "/run/netns/a", "eth0", KEY.tag, MAC, HOST_MAC, ips, routes, seen)
    return feature(bridge="br0", **keys).wanted(pod)


def of_kind(kind: type[Kind], found: Wanted) -> list[Kind]:
    return [thing for thing in (*found.pod, *found.node) if isinstance(thing, kind)]


# --- the configuration ------------------------------------------------------------------------------


def test_without_any_key_it_is_a_switch_called_cni0() -> None:
    assert feature() == BridgeFeature(
        bridge="cni0",
        mtu=0,
        is_gateway=False,
        is_default_gateway=False,
        hairpin=False,
        isolated=False,
        dad=False,
        interface_down=False,
        mac="",
        promisc=False,
        force_address=False,
    )


def test_every_key_is_read() -> None:
    keys = {
        "bridge": "br0",
        "mtu": 9000,
        "isDefaultGateway": True,
        "hairpinMode": True,
        "forceAddress": True,
        "portIsolation": True,
        "enabledad": True,
        "disableContainerInterface": True,
        "runtimeConfig": {"mac": MAC},
    }

    assert feature(**keys) == BridgeFeature("br0", 9000, True, True, True, True, True, True, MAC, False, True)


def test_a_default_gateway_is_a_gateway() -> None:
    assert feature(isDefaultGateway=True).is_gateway
    assert not feature(isGateway=True).is_default_gateway


UNSUPPORTED: dict[str, object] = {
    "vlan": 100,
    "vlanTrunk": [{"id": 101}],
}


@pytest.mark.parametrize("key", UNSUPPORTED)
def test_what_the_reference_does_and_this_does_not_is_refused_by_key_and_value(key: str) -> None:
    error = refusal(**{key: UNSUPPORTED[key]})

    assert error.code == 2
    assert f"{key} = {json.dumps(UNSUPPORTED[key])} " in error.msg


@pytest.mark.parametrize("key", UNSUPPORTED)
@pytest.mark.parametrize("nothing", [None, False, 0, "", []])
def test_what_asks_for_nothing_is_not_refused(key: str, nothing: object) -> None:
    assert feature(**{key: nothing}) == feature()


def test_keys_match_in_any_case() -> None:
    assert feature(ISGATEWAY=True).is_gateway
    assert refusal(VLAN=7).code == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bridge", "sixteen-letters-"),
        ("bridge", "a/b"),
        ("bridge", ".."),
        ("bridge", 7),
        ("mtu", -1),
        ("mtu", 65536),
        ("mtu", "1500"),
        ("mtu", 1500.5),
        ("mtu", True),
        ("isGateway", "yes"),
        ("isDefaultGateway", 1),
        ("hairpinMode", "true"),
        ("portIsolation", []),
        ("enabledad", {}),
        ("disableContainerInterface", 0),
        ("preserveDefaultVlan", "no"),
        ("promiscMode", "on"),
        ("forceAddress", 1),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_key_and_value(key: str, value: object) -> None:
    error = refusal(**{key: value})

    assert error.code == 7
    assert key in error.msg
    assert json.dumps(value) in error.msg


def test_an_interface_that_stays_down_has_no_use_for_addresses() -> None:
    error = refusal(disableContainerInterface=True, ipam={"type": "host-local"})

    assert (error.code, error.msg) == (7, "cannot use IPAM when DisableContainerInterface flag is set")


def test_a_bridge_that_is_promiscuous_needs_no_hairpin() -> None:
    error = refusal(promiscMode=True, hairpinMode=True)

    assert (error.code, error.msg) == (7, "cannot set hairpin mode and promiscuous mode at the same time")
    assert feature(promiscMode=True).needs == (Bridge("cni0", "", 0, promisc=True),)
    assert wanted(promiscMode=True).switches[0].bridge.promisc


def test_whether_another_gateway_address_has_to_go_is_the_switchs_to_know() -> None:
    assert wanted(forceAddress=True).switches[0].force
    assert not wanted().switches[0].force


@pytest.mark.parametrize("ipam", [None, {}])
def test_an_empty_ipam_is_none(ipam: object) -> None:
    assert feature(disableContainerInterface=True, ipam=ipam).interface_down


# --- the MAC ----------------------------------------------------------------------------------------


def test_the_runtimes_mac_goes_before_the_networks_and_that_before_the_environments() -> None:
    by_runtime = {"runtimeConfig": {"mac": "02:00:00:00:00:aa"}}
    by_network = {"args": {"cni": {"mac": "02:00:00:00:00:bb"}}}
    by_environment = {"MAC": "02:00:00:00:00:cc"}

    assert feature(by_environment, **by_runtime, **by_network).mac == "02:00:00:00:00:aa"
    assert feature(by_environment, **by_network).mac == "02:00:00:00:00:bb"
    assert feature(by_environment).mac == "02:00:00:00:00:cc"
    assert feature().mac == ""


def test_a_mac_is_written_in_small_letters() -> None:
    assert feature(runtimeConfig={"mac": "02:00:5E:00:53:AF"}).mac == "02:00:5e:00:53:af"


WRONG_MACS = {
    "short": "02:00:00:00:00",
    "long": "02:00:00:00:00:01:02",
    "no hex": "02:00:00:00:00:0g",
    "one digit": "2:00:00:00:00:01",
    "dashes": "02-00-00-00-00-01",
    "sign": "02:00:00:00:00:+1",
    "multicast": "01:00:5e:00:00:01",
    "broadcast": "ff:ff:ff:ff:ff:ff",
    "zero": "00:00:00:00:00:00",
}


@pytest.mark.parametrize("case", WRONG_MACS)
def test_a_mac_that_no_interface_can_have_is_refused_wherever_it_comes_from(case: str) -> None:
    mac = WRONG_MACS[case]
    runtime = refusal(runtimeConfig={"mac": mac})
    network = refusal(args={"cni": {"mac": mac}})
    environment = refusal({"MAC": mac})

    assert [error.code for error in (runtime, network, environment)] == [7, 7, 4]
    assert all(mac in error.msg for error in (runtime, network, environment))
    assert "runtimeConfig" in runtime.msg
    assert "CNI_ARGS" in environment.msg


def test_a_mac_of_another_type_is_refused() -> None:
    assert refusal(runtimeConfig={"mac": 7}).code == 7


# --- what a pod gets --------------------------------------------------------------------------------


def test_a_pod_without_addresses_is_a_port_and_up() -> None:
    found = wanted()

    assert found.switches == (Switch(Bridge("br0", BRIDGE_MAC, 1500), ()),)
    assert found.veths == (Veth(KEY.tag, HOST_MAC, "eth0", MAC, 1500, "br0"),)
    assert found.pod == (LinkUp("eth0"),)
    assert found.node == (FdbEntry(KEY.tag, MAC),)
    assert (found.settings, found.tuning, found.ips, found.routes) == ((), (), (), ())
    assert found.interfaces == (
        Interface("br0", BRIDGE_MAC, mtu=1500),
        Interface(KEY.tag, HOST_MAC, mtu=1500),
        Interface("eth0", MAC, "/run/netns/a", mtu=1500),
    )


def test_an_interface_that_stays_down_gets_nothing_but_its_port() -> None:
    found = wanted(disableContainerInterface=True)

    assert (found.pod, found.node, found.tuning) == ((), (), ())
    assert len(found.veths) == 1


def test_addresses_stand_on_the_pods_interface() -> None:
    found = wanted(ip("10.1.0.5/24", "10.1.0.1"), ip("fd00::5/64"))

    assert of_kind(LinkAddress, found) == [
        LinkAddress("eth0", Prefixed.parse("10.1.0.5/24")),
        LinkAddress("eth0", Prefixed.parse("fd00::5/64")),
    ]
    assert [one.interface for one in found.ips] == [2, 2]


def test_a_network_whose_gateway_is_not_the_node_leaves_the_node_alone() -> None:
    found = wanted(ip("10.1.0.5/24", "10.1.0.1"))

    assert found.switches[0].gateways == ()
    assert found.settings == ()
    assert of_kind(Neighbour, found) == []
    assert found.ips[0].gateway == Address.parse("10.1.0.1")
    assert found.routes == ()


def test_a_gateway_has_its_address_forwards_and_knows_the_pod_as_the_pod_knows_it() -> None:
    found = wanted(ip("10.1.0.5/24", "10.1.0.1"), ip("fd00::5/64", "fd00::1"), isGateway=True)

    assert [str(address) for address in found.switches[0].gateways] == ["10.1.0.1/24", "fd00::1/64"]
    assert found.settings == (Sysctl("net/ipv4/ip_forward", "1"), Sysctl("net/ipv6/conf/all/forwarding", "1"))
    assert of_kind(Neighbour, found) == [
        Neighbour("eth0", Address.parse("10.1.0.1"), BRIDGE_MAC),
        Neighbour("eth0", Address.parse("fd00::1"), BRIDGE_MAC),
        Neighbour("br0", Address.parse("10.1.0.5"), MAC),
        Neighbour("br0", Address.parse("fd00::5"), MAC),
    ]
    assert found.routes == ()


def test_a_gateway_that_ipam_does_not_name_is_the_first_of_the_subnet() -> None:
    found = wanted(ip("10.1.2.5/22"), ip("fd00::5/64"), isGateway=True)

    assert [str(one.gateway) for one in found.ips] == ["10.1.0.1", "fd00::1"]


@pytest.mark.parametrize(
    "told", [ip("10.1.0.1/24"), ip("10.1.0.7/24", "10.1.0.7"), ip("10.1.0.5/32"), ip("255.255.255.255/32")]
)
def test_a_pod_cannot_have_its_gateways_address(told: IPConfig) -> None:
    with pytest.raises(CNIError) as caught:
        wanted(told, isGateway=True)

    assert caught.value.code == 7
    assert str(told.address) in caught.value.msg
    assert wanted(told).ips[0].address == told.address


def test_a_gateway_outside_of_the_subnet_is_ipams_to_choose() -> None:
    found = wanted(ip("10.1.0.5/32", "169.254.1.1"), isGateway=True)

    assert [str(address) for address in found.switches[0].gateways] == ["169.254.1.1/32"]


def test_several_addresses_of_a_subnet_share_its_gateway() -> None:
    found = wanted(ip("10.1.0.5/24", "10.1.0.1"), ip("10.1.0.6/24", "10.1.0.1"), isDefaultGateway=True)

    assert [str(address) for address in found.switches[0].gateways] == ["10.1.0.1/24"]
    assert found.routes == (route("0.0.0.0/0", "10.1.0.1"),)


# --- routes -----------------------------------------------------------------------------------------


def in_pod(found: Wanted) -> list[LinkRoute]:
    return [thing for thing in found.pod if isinstance(thing, LinkRoute)]


def test_a_default_gateway_is_one_route_of_each_family() -> None:
    found = wanted(
        ip("10.1.0.5/24", "10.1.0.1"), ip("10.2.0.5/24", "10.2.0.1"), ip("fd00::5/64"), isDefaultGateway=True
    )

    assert found.routes == (route("0.0.0.0/0", "10.1.0.1"), route("::/0", "fd00::1"))
    assert in_pod(found) == [LinkRoute("eth0", *one) for one in found.routes]


def test_ipams_own_default_route_is_enough() -> None:
    ipams = route("0.0.0.0/0", "10.1.0.254")

    assert wanted(ip("10.1.0.5/24"), routes=(ipams,), isDefaultGateway=True).routes == (ipams,)


def test_a_default_route_of_another_table_is_not_enough() -> None:
    aside = route("0.0.0.0/0", table=100)

    found = wanted(ip("10.1.0.5/24"), routes=(aside,), isDefaultGateway=True)

    assert found.routes == (aside, route("0.0.0.0/0", "10.1.0.1"))


def test_a_route_without_a_gateway_goes_by_its_familys_first() -> None:
    ips = (ip("10.1.0.5/24", "10.1.0.1"), ip("10.2.0.5/24", "10.2.0.1"), ip("fd00::5/64", "fd00::1"))

    found = wanted(*ips, routes=(route("10.9.0.0/16"), route("fd09::/16"), route("10.8.0.0/16", "10.1.0.7")))

    assert in_pod(found) == [
        LinkRoute("eth0", Network.parse("10.9.0.0/16"), Address.parse("10.1.0.1")),
        LinkRoute("eth0", Network.parse("fd09::/16"), Address.parse("fd00::1")),
        LinkRoute("eth0", Network.parse("10.8.0.0/16"), Address.parse("10.1.0.7")),
    ]
    assert found.routes == (route("10.9.0.0/16"), route("fd09::/16"), route("10.8.0.0/16", "10.1.0.7"))


def test_a_route_whose_scope_is_the_link_goes_by_no_gateway() -> None:
    found = wanted(ip("10.1.0.5/24", "10.1.0.1"), routes=(route("10.9.0.0/16", scope=253),))

    assert in_pod(found) == [LinkRoute("eth0", Network.parse("10.9.0.0/16"), None, scope=253)]


def test_a_routes_metrics_and_place_are_kept() -> None:
    full = route("10.9.0.0/16", "10.1.0.7", mtu=1400, advmss=1300, priority=50, table=100, scope=0)

    assert in_pod(wanted(ip("10.1.0.5/24"), routes=(full,))) == [LinkRoute("eth0", *full)]


def test_of_routes_that_the_kernel_keeps_one_of_the_first_is_wanted() -> None:
    first = route("10.9.0.0/16", "10.1.0.7")
    others = (route("10.9.0.0/16", "10.1.0.8"), route("10.9.0.0/16", "10.1.0.9", table=254))
    beside = (route("10.9.0.0/16", "10.1.0.8", priority=5), route("10.9.0.0/16", "10.1.0.8", table=5))
    subnets = route("10.1.0.0/24", "10.1.0.1")

    found = wanted(ip("10.1.0.5/24"), routes=(first, *others, *beside, subnets))

    assert in_pod(found) == [LinkRoute("eth0", *one) for one in (first, *beside)]
    assert found.routes == (first, *others, *beside, subnets)


# --- links ------------------------------------------------------------------------------------------


def test_both_ends_and_a_new_bridge_get_the_configured_mtu() -> None:
    found = wanted(bridge_mtu=1500, mtu=9000)

    assert found.veths[0].mtu == 9000
    assert found.switches[0].bridge.mtu == 9000
    assert [one.mtu for one in found.interfaces] == [9000, 9000, 9000]


def test_without_an_mtu_the_bridges_is_inherited() -> None:
    found = wanted(bridge_mtu=9000)

    assert [one.mtu for one in found.interfaces] == [9000, 9000, 9000]
    assert found.veths[0].mtu == 9000


def test_a_bridge_of_a_larger_mtu_keeps_it() -> None:
    found = wanted(bridge_mtu=9000, mtu=1400)

    assert [one.mtu for one in found.interfaces] == [9000, 1400, 1400]


@pytest.mark.parametrize(("bridge_mtu", "configured"), [(1500, 1279), (1000, 0)])
def test_an_mtu_that_ipv6_cannot_live_with_is_refused_where_there_is_ipv6(bridge_mtu: int, configured: int) -> None:
    with pytest.raises(CNIError) as caught:
        wanted(ip("fd00::5/64"), bridge_mtu=bridge_mtu, mtu=configured)

    assert (caught.value.code, str(configured or bridge_mtu) in caught.value.msg) == (7, True)
    assert wanted(ip("10.1.0.5/24"), bridge_mtu=bridge_mtu, mtu=configured).veths[0].mtu == (configured or bridge_mtu)
    assert wanted(ip("fd00::5/64"), mtu=1280).veths[0].mtu == 1280


def test_a_pod_cannot_have_the_bridges_mac() -> None:
    seen = {"br0": Link(name="br0", kind="bridge", mac=MAC, mtu=1500)}

    with pytest.raises(CNIError) as caught:
        feature(bridge="br0").wanted(Pod(KEY, "/run/netns/a", "eth0", KEY.tag, MAC, HOST_MAC, (), (), seen))

    assert (caught.value.code, MAC in caught.value.msg) == (7, True)


def test_a_port_is_set_up_where_it_differs_from_how_a_port_begins() -> None:
    assert of_kind(BridgePort, wanted()) == []
    assert of_kind(BridgePort, wanted(hairpinMode=True)) == [BridgePort(KEY.tag, True, False)]
    assert of_kind(BridgePort, wanted(portIsolation=True)) == [BridgePort(KEY.tag, False, True)]


def test_an_ipv4_pod_touches_no_setting_of_ipv6() -> None:
    assert [str(one) for one in wanted(ip("10.1.0.5/24")).tuning] == ["net.ipv4.conf.eth0.arp_notify=1"]


def test_an_ipv6_pod_has_ipv6_on_and_announces_itself() -> None:
    assert [str(one) for one in wanted(ip("fd00::5/64")).tuning] == [
        "net.ipv6.conf.lo.disable_ipv6=0",
        "net.ipv6.conf.eth0.disable_ipv6=0",
        "net.ipv6.conf.eth0.keep_addr_on_down=1",
        "net.ipv6.conf.eth0.ndisc_notify=1",
    ]


def test_duplicates_are_looked_for_when_asked_only() -> None:
    found = wanted(ip("fd00::5/64"), enabledad=True)

    assert [address.dad for address in of_kind(LinkAddress, found)] == [True]
    assert {"net.ipv6.conf.eth0.accept_dad=1", "net.ipv6.conf.eth0.enhanced_dad=1"} < {str(it) for it in found.tuning}


def test_the_bridge_that_is_needed_is_named_as_it_would_be_made() -> None:
    assert feature(bridge="br0", mtu=1400).needs == (Bridge("br0", "", 1400),)

"""What `type: ptp` makes of its configuration, and of a pod: pure, so read as sentences."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cni.features.ptp import PtpFeature
from cni.kernel.inet import LinkAddress, LinkRoute
from cni.kernel.neighbour import Neighbour
from cni.kernel.ports import LinkUp, Veth
from cni.spec.errors import CNIError
from cni.spec.netconf import NetConf
from cni.spec.result import Interface
from ipam.address import Address, Network
from ipam.address import Interface as Prefixed
from tests.unit.features.pod import HOST_MAC, KEY, MAC, ip, pod, route

if TYPE_CHECKING:
    from cni.spec.result import IPConfig, Route
    from cni.wanted import Wanted

PORT = KEY.tag
IPAM = {"type": "host-local"}


def feature(**keys: object) -> PtpFeature:
    conf = {"cniVersion": "1.1.0", "name": "lan", "type": "ptp", "ipam": IPAM, **keys}
    return PtpFeature.parse(NetConf.parse(json.dumps(conf).encode()), {})


def refusal(**keys: object) -> CNIError:
    with pytest.raises(CNIError) as caught:
        feature(**keys)
    return caught.value


def wanted(*ips: IPConfig, routes: tuple[Route, ...] = (), **keys: object) -> Wanted:
    return feature(**keys).wanted(pod(*ips, routes=routes))


def address(text: str) -> Address:
    return Address.parse(text)


def over(link: str, dst: str, gw: str = "", *, scope: int | None = None, src: str = "", new: bool = False) -> LinkRoute:
    by, of = (address(text) if text else None for text in (gw, src))
    return LinkRoute(link, Network.parse(dst), by, scope=scope, src=of, takes_over=new)


# --- the configuration ------------------------------------------------------------------------------


def test_without_any_key_the_kernel_chooses() -> None:
    assert feature() == PtpFeature(mtu=0, mac="")
    assert feature().needs == ()


def test_every_key_is_read() -> None:
    assert feature(mtu=1400, runtimeConfig={"mac": MAC.upper()}) == PtpFeature(1400, MAC)


@pytest.mark.parametrize("ipam", [None, {}])
def test_what_routes_to_addresses_needs_addresses(ipam: object) -> None:
    error = refusal(ipam=ipam)

    assert (error.code, error.msg) == (7, "no plugin name provided")


@pytest.mark.parametrize("mtu", [-1, 65536, "1400", True])
def test_an_mtu_that_cannot_be_is_refused(mtu: object) -> None:
    assert (refusal(mtu=mtu).code, "mtu" in refusal(mtu=mtu).msg) == (7, True)


def test_an_mtu_that_ipv6_cannot_live_with_is_refused_where_there_is_ipv6() -> None:
    with pytest.raises(CNIError) as caught:
        wanted(ip("fd00::5/64"), mtu=1279)

    assert (caught.value.code, "1279" in caught.value.msg) == (7, True)
    assert wanted(ip("10.1.0.5/24"), mtu=1279).veths[0].mtu == 1279


# --- what a pod gets --------------------------------------------------------------------------------


def test_a_pod_hangs_on_a_veth_without_a_bridge() -> None:
    found = wanted(ip("10.1.0.5/24", "10.1.0.1"), mtu=1400)

    assert found.switches == ()
    assert found.veths == (Veth(PORT, HOST_MAC, "eth0", MAC, 1400),)
    assert found.interfaces == (
        Interface(PORT, HOST_MAC, mtu=1400),
        Interface("eth0", MAC, "/run/netns/a", mtu=1400),
    )
    assert [one.interface for one in found.ips] == [1]
    assert [one.mtu for one in wanted(ip("10.1.0.5/24")).interfaces] == [1500, 1500]


def test_in_the_pod_nothing_is_on_the_link_but_the_gateway() -> None:
    found = wanted(ip("10.1.0.5/24", "10.1.0.1"), ip("fd00::5/64", "fd00::1"))

    assert found.pod == (
        LinkUp("eth0"),
        LinkAddress("eth0", Prefixed.parse("10.1.0.5/24"), prefix_route=False),
        LinkAddress("eth0", Prefixed.parse("fd00::5/64"), prefix_route=False),
        over("eth0", "10.1.0.1/32", scope=253, src="10.1.0.5"),
        over("eth0", "fd00::1/128", scope=253, src="fd00::5"),
        over("eth0", "10.1.0.0/24", "10.1.0.1", src="10.1.0.5"),
        over("eth0", "fd00::/64", "fd00::1", src="fd00::5"),
        Neighbour("eth0", address("10.1.0.1"), HOST_MAC),
        Neighbour("eth0", address("fd00::1"), HOST_MAC),
    )


def test_the_node_bears_the_gateway_by_itself_and_routes_to_the_pod() -> None:
    found = wanted(ip("10.1.0.5/24", "10.1.0.1"), ip("fd00::5/64", "fd00::1"))

    assert found.node == (
        LinkAddress(PORT, Prefixed.parse("10.1.0.1/32")),
        LinkAddress(PORT, Prefixed.parse("fd00::1/128")),
        over(PORT, "10.1.0.5/32", scope=254, new=True),
        over(PORT, "fd00::5/128", scope=254, new=True),
        Neighbour(PORT, address("10.1.0.5"), MAC),
        Neighbour(PORT, address("fd00::5"), MAC),
    )
    assert [str(one) for one in found.settings] == ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]


def test_no_pod_can_advertise_itself_as_a_router_to_the_node() -> None:
    assert [str(one) for one in wanted(ip("10.1.0.5/24")).fences] == [f"net.ipv6.conf.{PORT}.accept_ra=0"]


def test_a_gateway_that_ipam_does_not_name_is_the_first_of_the_subnet() -> None:
    assert [str(one.gateway) for one in wanted(ip("10.1.2.5/22"), ip("fd00::5/64")).ips] == ["10.1.0.1", "fd00::1"]


@pytest.mark.parametrize("told", [ip("10.1.0.1/24"), ip("10.1.0.7/24", "10.1.0.7"), ip("10.1.0.5/32")])
def test_a_pod_cannot_have_its_gateways_address(told: IPConfig) -> None:
    with pytest.raises(CNIError) as caught:
        wanted(told)

    assert (caught.value.code, str(told.address) in caught.value.msg) == (7, True)


def test_a_gateway_outside_of_the_subnet_is_ipams_to_choose() -> None:
    found = wanted(ip("10.1.0.5/32", "169.254.1.1"))

    assert [thing for thing in found.pod if isinstance(thing, LinkRoute)] == [
        over("eth0", "169.254.1.1/32", scope=253, src="10.1.0.5")
    ]


def test_several_addresses_of_a_subnet_share_its_routes() -> None:
    found = wanted(ip("10.1.0.5/24", "10.1.0.1"), ip("10.1.0.6/24", "10.1.0.1"))

    assert [thing for thing in found.pod if isinstance(thing, LinkRoute)] == [
        over("eth0", "10.1.0.1/32", scope=253, src="10.1.0.5"),
        over("eth0", "10.1.0.0/24", "10.1.0.1", src="10.1.0.5"),
    ]
    assert [str(thing.dst) for thing in found.node if isinstance(thing, LinkRoute)] == ["10.1.0.5/32", "10.1.0.6/32"]


def test_ipams_routes_go_by_the_gateway_and_no_default_is_added() -> None:
    ips = (ip("10.1.0.5/24", "10.1.0.1"), ip("fd00::5/64", "fd00::1"))
    routes = (route("0.0.0.0/0"), route("10.1.0.0/24"), route("::/0"))

    found = wanted(*ips, routes=routes)

    assert [thing for thing in found.pod if isinstance(thing, LinkRoute)][4:] == [
        over("eth0", "0.0.0.0/0", "10.1.0.1"),
        over("eth0", "::/0", "fd00::1"),
    ]
    assert found.routes == routes
    assert wanted(*ips).routes == ()


def test_a_pod_that_ipam_gave_no_address_is_refused() -> None:
    with pytest.raises(CNIError) as caught:
        wanted()

    assert caught.value.msg == "IPAM plugin returned missing IP config"

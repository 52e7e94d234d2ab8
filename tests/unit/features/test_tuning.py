"""What `type: tuning` makes of its configuration, and of a pod."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cni.features.tuning import TuningFeature
from cni.kernel.linksettings import LinkSettings, PortMtu
from cni.kernel.sysctl import Sysctl
from cni.key import Key
from cni.spec.errors import CNIError
from cni.spec.netconf import NetConf
from cni.spec.result import Interface, IPConfig
from cni.wanted import Pod, Wanted
from ipam.address import Interface as Prefixed

if TYPE_CHECKING:
    from collections.abc import Mapping

MAC, OTHER_MAC, THIRD_MAC = "02:00:00:00:00:02", "02:00:00:00:00:03", "02:00:00:00:00:04"
NETNS = "/run/netns/a"


def feature(args: Mapping[str, str] | None = None, /, **keys: object) -> TuningFeature:
    conf = {"cniVersion": "1.1.0", "name": "lan", "type": "tuning", **keys}
    return TuningFeature.parse(NetConf.parse(json.dumps(conf).encode()), args or {})


def refusal(args: Mapping[str, str] | None = None, /, **keys: object) -> CNIError:
    with pytest.raises(CNIError) as caught:
        feature(args, **keys)
    return caught.value


def pod(*addresses: str, ifname: str = "eth0", iif: str = "cni0", mtu: int = 1500) -> Pod:
    """As an earlier member of the chain left it; a port of cni0 if nothing else is said."""
    ips = tuple(IPConfig(Prefixed.parse(address)) for address in addresses)
    key = Key("lan", "a", ifname, "tuning")
    return Pod(key, NETNS, ifname, key.tag, MAC, "", ips, (), {}, "port0", iif, mtu)


def wanted(*addresses: str, ifname: str = "eth0", **keys: object) -> Wanted:
    return feature(**keys).wanted(pod(*addresses, ifname=ifname))


# --- the configuration ------------------------------------------------------------------------------


def test_without_any_key_nothing_is_touched() -> None:
    assert feature() == TuningFeature()
    assert wanted("10.1.0.2/16", "fd00::2/64") == Wanted()


def test_what_inside_another_plugin_has_nothing_but_sysctls_is_made_of_them() -> None:
    settings = (Sysctl("net/ipv4/conf/IFNAME/arp_filter", "1"),)

    assert TuningFeature(settings).wanted(pod("10.1.0.2/16")) == Wanted(
        amends=(Sysctl("net/ipv4/conf/eth0/arp_filter", "1"),)
    )


def test_every_key_is_read() -> None:
    keys = {
        "sysctl": {"net.core.somaxconn": "500"},
        "mac": OTHER_MAC.upper().replace("03", "0A"),
        "mtu": 1400,
        "promisc": True,
        "allmulti": False,
        "txQLen": 0,
        "dataDir": "/run/cni/tuning",
    }

    assert feature(**keys) == TuningFeature(
        (Sysctl("net/core/somaxconn", "500"),), "02:00:00:00:00:0a", 1400, True, False, 0
    )


def test_args_override_the_configuration_key_by_key() -> None:
    keys = {
        "sysctl": {"net.core.somaxconn": "500", "net.ipv4.ip_forward": "1"},
        "mac": MAC,
        "mtu": 1400,
        "promisc": True,
        "allmulti": True,
        "txQLen": 500,
    }
    told = {
        "sysctl": {"net/core/somaxconn": "600", "net.ipv4.conf.IFNAME.arp_filter": "1"},
        "mac": "",
        "mtu": 0,
        "promisc": False,
        "allmulti": False,
        "txQLen": 0,
    }

    assert feature(**keys, args={"cni": told}) == TuningFeature(
        (
            Sysctl("net/core/somaxconn", "600"),
            Sysctl("net/ipv4/ip_forward", "1"),
            Sysctl("net/ipv4/conf/IFNAME/arp_filter", "1"),
        ),
        allmulti=False,
        txqlen=0,
    )


def test_args_may_bring_sysctls_where_the_configuration_has_none() -> None:
    """The reference crashes there."""
    assert feature(args={"cni": {"sysctl": {"net.core.somaxconn": "500"}}}).sysctls == (
        Sysctl("net/core/somaxconn", "500"),
    )


def test_the_mac_is_that_of_args_then_the_runtimes_then_of_cni_args_then_the_configurations() -> None:
    by_args = {"cni": {"mac": "02:00:00:00:00:11"}}
    by_runtime = {"mac": "02:00:00:00:00:12"}
    by_env = {"MAC": "02:00:00:00:00:13"}
    by_conf = "02:00:00:00:00:14"

    assert feature(by_env, args=by_args, runtimeConfig=by_runtime, mac=by_conf).mac == "02:00:00:00:00:11"
    assert feature(by_env, runtimeConfig=by_runtime, mac=by_conf).mac == "02:00:00:00:00:12"
    assert feature(by_env, mac=by_conf).mac == "02:00:00:00:00:13"
    assert feature(mac=by_conf).mac == "02:00:00:00:00:14"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sysctl", []),
        ("sysctl", {"net.core.somaxconn": 500}),
        ("sysctl", {"net.core.somaxconn": True}),
        ("mac", "02:00:00:00:00"),
        ("mac", "03:00:00:00:00:01"),
        ("mac", 7),
        ("mtu", -1),
        ("mtu", 65536),
        ("mtu", "1400"),
        ("promisc", 1),
        ("allmulti", "yes"),
        ("txQLen", -1),
        ("txQLen", 1 << 32),
        ("dataDir", 7),
    ],
)
def test_what_cannot_be_is_refused_by_key_and_value(key: str, value: object) -> None:
    error = refusal(**{key: value})

    assert error.code == 7
    assert error.msg.startswith("tuning")
    assert (key if key != "sysctl" or value == [] else "net.core.somaxconn") in error.msg


@pytest.mark.parametrize("key", ["sysctl", "mac", "mtu", "promisc", "allmulti", "txQLen"])
def test_what_cannot_be_in_args_is_refused_too(key: str) -> None:
    assert refusal(args={"cni": {key: [1]}}).code == 7


def test_a_mac_that_cannot_be_is_an_error_of_whoever_said_it() -> None:
    assert refusal(runtimeConfig={"mac": "nonsense"}).msg.startswith("tuning.runtimeConfig: mac must be")
    assert refusal(args={"cni": {"mac": "nonsense"}}).msg.startswith("tuning.args.cni: mac must be")
    error = refusal({"MAC": "nonsense"})
    assert (error.code, error.msg[:22]) == (4, "CNI_ARGS: MAC must be ")


# --- sysctls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.conf.IFNAME.arp_filter", "net/ipv4/conf/eth0.1/arp_filter"),
        ("net/ipv4/conf/IFNAME/arp_filter", "net/ipv4/conf/eth0.1/arp_filter"),
        ("net/ipv4/conf/eth0.2/arp_filter", "net/ipv4/conf/eth0.2/arp_filter"),
        ("net.ipv4.conf.eth0/2.arp_filter", "net/ipv4/conf/eth0.2/arp_filter"),
        ("net.core.somaxconn", "net/core/somaxconn"),
    ],
)
def test_a_name_is_read_as_sysctl_reads_it_and_ifname_is_the_pods_interface(name: str, path: str) -> None:
    found = wanted(ifname="eth0.1", sysctl={name: "1"})

    assert found == Wanted(amends=(Sysctl(path, "1"),))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "net",
        "net.",
        "kernel.hostname",
        "vm/swappiness",
        "/net/core/somaxconn",
        "/proc/sys/net/core/somaxconn",
        "network.core",
        "net..core",
        "net/../kernel/hostname",
        "net/core/..",
        "net/./core/somaxconn",
        "net.//.kernel.hostname",  # dots and slashes change places: net/../kernel/hostname
        "net.core.somaxconn\0",
        "net.ipv4.conf.\udce4.arp_filter",
    ],
)
def test_what_is_not_below_net_is_refused(name: str) -> None:
    error = refusal(sysctl={name: "1"})

    assert error.code == 7
    assert "is not the name of a network sysctl" in error.msg
    assert error.msg.isascii()


def test_a_sysctl_that_is_given_twice_is_refused_however_it_is_spelt() -> None:
    error = refusal(sysctl={"net.core.somaxconn": "1", "net/core/somaxconn": "1"})
    assert (error.code, error.msg) == (7, "sysctl net.core.somaxconn is given twice")

    with pytest.raises(CNIError, match=r"sysctl net\.ipv4\.conf\.eth0\.arp_filter is given twice"):
        wanted(sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1", "net.ipv4.conf.eth0.arp_filter": "0"})


def test_they_keep_their_order_and_come_before_the_link() -> None:
    names = ["net.ipv4.tcp_ecn", "net.core.somaxconn", "net.ipv4.conf.all.arp_filter"]

    found = wanted(sysctl=dict.fromkeys(names, "1"), txQLen=7)

    assert found.amends == (*[Sysctl(name.replace(".", "/"), "1") for name in names], LinkSettings("eth0", txqlen=7))


def test_to_the_allowlist_they_go_as_they_were_meant() -> None:
    keys = {"net/ipv4/conf/IFNAME/arp_filter": "1", "net/ipv4/conf/eth0.1/arp_filter": "1", "net.core.somaxconn": "1"}

    assert feature(sysctl=keys).names == (
        "net.ipv4.conf.IFNAME.arp_filter",
        "net.ipv4.conf.eth0/1.arp_filter",
        "net.core.somaxconn",
    )


# --- the link ---------------------------------------------------------------------------------------


def test_a_mac_is_set_and_reported_and_the_neighbours_are_told() -> None:
    assert wanted("10.1.0.2/16", mac=OTHER_MAC) == Wanted(
        amends=(Sysctl("net/ipv4/conf/eth0/arp_notify", "1"), LinkSettings("eth0", OTHER_MAC)),
        amended=(Interface("eth0", OTHER_MAC, NETNS),),
    )
    assert wanted("10.1.0.2/16", "fd00::2/64", mac=OTHER_MAC).amends[:-1] == (
        Sysctl("net/ipv4/conf/eth0/arp_notify", "1"),
        Sysctl("net/ipv6/conf/eth0/ndisc_notify", "1"),
    )


def test_who_asks_for_silence_gets_it() -> None:
    found = wanted("10.1.0.2/16", mac=OTHER_MAC, sysctl={"net.ipv4.conf.IFNAME.arp_notify": "0"})

    assert found.amends == (Sysctl("net/ipv4/conf/eth0/arp_notify", "0"), LinkSettings("eth0", OTHER_MAC))


def test_what_neighbours_do_not_see_is_not_reported() -> None:
    found = wanted("10.1.0.2/16", promisc=True, allmulti=False, txQLen=0)

    assert found == Wanted(amends=(LinkSettings("eth0", promisc=True, allmulti=False, txqlen=0),))


def test_promisc_that_is_not_asked_for_is_left_as_it_is() -> None:
    assert wanted(promisc=False, txQLen=7).amends == (LinkSettings("eth0", txqlen=7),)


@pytest.mark.parametrize(
    ("iif", "mtu", "both"),
    [
        ("port0", 1400, True),
        ("port0", 9000, True),
        ("port0", 1500, False),  # as it is
        ("cni0", 9000, True),
        ("cni0", 1400, False),  # the bridge has the least of its ports'
    ],
)
def test_the_nodes_end_gets_the_mtu_where_no_other_pod_would_feel_it(iif: str, mtu: int, both: bool) -> None:
    found = feature(mtu=mtu).wanted(pod("10.1.0.2/16", iif=iif))

    assert found == Wanted(
        amends=(LinkSettings("eth0", mtu=mtu),),
        node=(PortMtu("port0", mtu, 1500),) if both else (),
        amended=(Interface("eth0", sandbox=NETNS, mtu=mtu), *([Interface("port0", mtu=mtu)] if both else [])),
    )


def test_an_mtu_that_would_end_ipv6_is_refused() -> None:
    with pytest.raises(CNIError, match="an MTU of 1279 is too small for IPv6, which needs 1280") as caught:
        wanted("fd00::2/64", mtu=1279)

    assert caught.value.code == 7
    assert wanted("10.1.0.2/16", mtu=1279).amends == (LinkSettings("eth0", mtu=1279),)

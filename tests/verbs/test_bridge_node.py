"""bridge: what pods share on their node: the bridge, its gateway addresses, and the node's own settings."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from cni.attach import making
from cni.kernel.ports import LinkUp
from tests import namespaces, oracle
from tests.verbs.frames import ETH_P_IP, Tap, router_advertisement
from tests.verbs.networks import Network, interface, port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cni.kernel.netlink import Request

IPV4_FORWARDING = "net/ipv4/ip_forward"
IPV6_FORWARDING = "net/ipv6/conf/all/forwarding"


def sysctl(netns: Path, path: str, value: str = "") -> str:
    """A setting in a namespace, after it was set if a value is given."""
    write = f"echo {value} > /proc/sys/{path}; " if value else ""
    return namespaces.shell(netns, f"{write}cat /proc/sys/{path}").strip()


def gateways(network: Network) -> list[str]:
    return [one.interface for one in oracle.addresses(network.node, "br0")]


# --- the bridge -------------------------------------------------------------------------------------


def test_the_bridges_mac_stays_whatever_ports_come_and_go(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    lan = network()
    macs = set()
    # Chosen beforehand so that each is lower than the one before: a bridge that follows its ports takes the lowest.
    for number in (9, 5, 1):
        pod = f"p{number}"
        asked = lan.but(runtimeConfig={"mac": f"00:00:00:00:00:0{number}"})
        macs.add(interface(asked.add(make_netns(), pod), "br0")["mac"])
        macs.add(oracle.link(lan.node, "br0").mac)
    for number in (1, 5, 9):
        lan.delete(f"p{number}")
        macs.add(oracle.link(lan.node, "br0").mac)
    namespaces.shell(lan.node, "ip link add low address 00:00:00:00:00:02 type veth; ip link set low master br0")
    macs.add(oracle.link(lan.node, "br0").mac)

    assert len(macs) == 1


def test_a_bridge_that_is_there_is_used_as_it_is(network: Callable[..., Network], netns: Path) -> None:
    lan = network("10.1.0.0/24", isGateway=True)
    namespaces.shell(lan.node, "ip link add br0 address 02:00:00:00:00:77 type bridge; ip link set br0 up")
    index = oracle.link(lan.node, "br0").index

    result = lan.add(netns)

    assert oracle.link(lan.node, "br0").index == index
    assert interface(result, "br0")["mac"] == "02:00:00:00:00:77" == oracle.link(lan.node, "br0").mac
    assert [it.mac for it in oracle.neighbours(netns)] == ["02:00:00:00:00:77"]
    assert namespaces.tcp(netns, lan.node, "10.1.0.1") == "10.1.0.2"


def test_a_bridge_that_would_follow_its_ports_keeps_the_mac_that_pods_are_told(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    lan = network("10.1.0.0/24", isGateway=True)
    namespaces.shell(lan.node, "ip link add br0 type bridge; ip link set br0 up")
    mac = oracle.link(lan.node, "br0").mac

    results = {netns: lan.add(netns, pod) for pod, netns in zip("abc", iter(make_netns, None))}

    assert {interface(result, "br0")["mac"] for result in results.values()} == {mac}
    assert oracle.link(lan.node, "br0").mac == mac
    for netns in results:
        namespaces.tcp(netns, lan.node, "10.1.0.1")


def test_a_bridge_that_is_down_is_brought_up(network: Callable[..., Network], netns: Path) -> None:
    lan = network("10.1.0.0/24", isGateway=True)
    namespaces.shell(lan.node, "ip link add br0 type bridge")

    lan.add(netns)

    assert oracle.link(lan.node, "br0").up
    assert sysctl(lan.node, "net/ipv6/conf/br0/accept_ra") == "0"
    assert namespaces.tcp(netns, lan.node, "10.1.0.1") == "10.1.0.2"


def test_a_bridge_that_was_deleted_by_hand_comes_back_as_it_was(lan: Network, make_netns: Callable[[], Path]) -> None:
    a, b = make_netns(), make_netns()
    first = lan.add(a, "a")
    namespaces.shell(lan.node, "ip link del br0")

    second = lan.add(b, "b")

    assert interface(first, "br0") == interface(second, "br0")
    assert gateways(lan) == ["10.1.0.1/24", "fd00:1::1/64"]
    assert namespaces.tcp(b, lan.node, "10.1.0.1") == "10.1.0.3"
    assert namespaces.tcp(b, lan.node, "fd00:1::1") == "fd00:1::3"


@pytest.mark.parametrize("kind", ["veth", "macvlan link lo0"])
def test_a_link_of_that_name_that_is_no_bridge_is_refused_and_left_alone(kind: str, lan: Network, netns: Path) -> None:
    namespaces.shell(lan.node, "ip link add lo0 type veth")
    how = f"ip link add link lo0 br0 type {kind.split()[0]}" if "link" in kind else f"ip link add br0 type {kind}"
    namespaces.shell(lan.node, f"{how}; ip link set br0 up")
    before = [repr(link) for link in oracle.links(lan.node)]

    error = lan.call("ADD", netns=netns).error

    assert (error["code"], error["msg"]) == (104, '"br0" already exists but is not a bridge')
    assert kind.split()[0] in error["details"]
    assert [link.name for link in oracle.links(lan.node)] == ["br0", "lo0", *(["veth0", "veth1"][: len(before) - 2])]
    assert gateways(lan) == []
    assert oracle.links(netns) == []
    assert (lan.reserved, lan.records) == ({}, {})


def test_lo_is_no_bridge(network: Callable[..., Network], netns: Path) -> None:
    error = network(bridge="lo").call("ADD", netns=netns).error

    assert (error["code"], error["msg"]) == (104, '"lo" already exists but is not a bridge')


def test_a_promiscuous_bridge_shows_the_node_every_frame(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    lan = network("10.1.0.0/24")
    a, b = make_netns(), make_netns()
    lan.add(a, "a")
    lan.add(b, "b")

    def seen_by_the_node() -> bool:
        with Tap(lan.node, "br0") as tap:
            namespaces.tcp(a, b, "10.1.0.3")
            return bool([frame for frame in tap.seen() if frame.ethertype == ETH_P_IP])

    assert not seen_by_the_node()
    lan.but(promiscMode=True).add(make_netns(), "c")
    assert seen_by_the_node()

    # It is the bridge's, so it stays with that.
    lan.but(promiscMode=True).delete("c")
    assert "PROMISC" in namespaces.shell(lan.node, "ip link show br0")


# --- router advertisements --------------------------------------------------------------------------


def test_a_bridge_hears_no_router_advertisements_from_before_it_is_up(
    lan: Network, netns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    make = LinkUp.make

    def up(self: LinkUp, index: int) -> Request:
        if self.link == "br0":
            seen.append((oracle.link(lan.node, "br0").up, sysctl(lan.node, "net/ipv6/conf/br0/accept_ra")))
        return make(self, index)

    monkeypatch.setattr(LinkUp, "make", up)

    lan.add(netns)

    assert seen == [(False, "0")]
    assert oracle.link(lan.node, "br0").up


def test_a_pod_that_pretends_to_be_a_router_is_not_believed(lan: Network, netns: Path) -> None:
    mac = interface(lan.add(netns), "eth0")["mac"]
    pretence = router_advertisement(mac, "fe80::bad")

    def routes_after_one() -> list[str]:
        with Tap(netns, "eth0") as tap:
            tap.send(pretence)
        namespaces.tcp(netns, lan.node, "fd00:1::1")  # behind which the frame has been dealt with
        return [route.gateway for route in oracle.routes(lan.node) if route.dst == "::/0"]

    assert routes_after_one() == []
    sysctl(lan.node, "net/ipv6/conf/br0/accept_ra", "2")
    assert routes_after_one() == ["fe80::bad"]  # so it was a good one


# --- forwarding -------------------------------------------------------------------------------------


def before(network: Network) -> dict[str, str]:
    """What has been kept of how the node's settings were before us."""
    folder = network.plugin.run_dir / "before"
    return {file.name: file.read_text() for file in folder.iterdir()} if folder.exists() else {}


def test_how_forwarding_was_before_us_is_kept_once(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    v4, v6 = network("10.1.0.0/24", isGateway=True), network("fd00:1::/64", isGateway=True, name="six", bridge="br6")

    v4.add(make_netns(), "a")
    assert before(v4) == {"net:ipv4:ip_forward": "0"}

    v6.add(make_netns(), "b")
    v4.add(make_netns(), "c")
    v4.delete("a")
    assert before(v4) == {"net:ipv4:ip_forward": "0", "net:ipv6:conf:all:forwarding": "0"}
    assert (sysctl(v4.node, IPV4_FORWARDING), sysctl(v4.node, IPV6_FORWARDING)) == ("1", "1")

    sysctl(v4.node, IPV4_FORWARDING, "0")  # somebody switches it off
    v4.add(make_netns(), "d")
    assert sysctl(v4.node, IPV4_FORWARDING) == "1"
    assert before(v4)["net:ipv4:ip_forward"] == "0"


def test_what_was_on_already_is_not_kept(lan: Network, netns: Path) -> None:
    sysctl(lan.node, IPV4_FORWARDING, "1")
    sysctl(lan.node, IPV6_FORWARDING, "1")

    lan.add(netns)

    assert before(lan) == {}


def uplink(node: Path, name: str, accept_ra: str, protocol: str) -> None:
    """A link of the node with an IPv6 default route, as a router advertisement or a person made it."""
    namespaces.shell(
        node,
        f"ip link add {name} type veth peer {name}-far; ip link set {name} up; ip link set {name}-far up;"
        f"echo {accept_ra} > /proc/sys/net/ipv6/conf/{name}/accept_ra;"
        f"ip -6 route append default via fe80::1 dev {name} proto {protocol}",
    )


@pytest.mark.parametrize(
    ("accept_ra", "protocol", "then"), [("1", "ra", "2"), ("1", "static", "1"), ("0", "ra", "0"), ("2", "ra", "2")]
)
def test_an_uplink_that_lives_on_router_advertisements_goes_on_hearing_them(
    accept_ra: str, protocol: str, then: str, lan: Network, netns: Path
) -> None:
    uplink(lan.node, "up0", accept_ra, protocol)
    namespaces.shell(lan.node, "ip link add other type veth; ip link set other up")

    lan.add(netns)

    assert sysctl(lan.node, IPV6_FORWARDING) == "1"
    assert sysctl(lan.node, "net/ipv6/conf/up0/accept_ra") == then
    assert sysctl(lan.node, "net/ipv6/conf/other/accept_ra") == "1"
    assert before(lan).get("net:ipv6:conf:up0:accept_ra") == ("1" if then != accept_ra else None)
    assert [route.link for route in oracle.routes(lan.node) if route.dst == "::/0"] == ["up0"]


def test_an_ipv4_network_changes_nothing_of_ipv6(network: Callable[..., Network], netns: Path) -> None:
    lan = network("10.1.0.0/24", isDefaultGateway=True)
    uplink(lan.node, "up0", "1", "ra")

    lan.add(netns)

    assert sysctl(lan.node, IPV6_FORWARDING) == "0"
    assert sysctl(lan.node, "net/ipv6/conf/up0/accept_ra") == "1"


# --- stale gateway addresses ------------------------------------------------------------------------


def moved(network: Callable[..., Network], *subnets: str) -> Network:
    """The network after its subnets were changed in the configuration."""
    return network(*subnets, isDefaultGateway=True)


def test_an_earlier_subnets_gateway_goes_when_its_pods_are_gone(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    first = network("10.1.0.0/24", "fd00:1::/64", isDefaultGateway=True)
    first.add(make_netns(), "a")
    first.delete("a")
    b = make_netns()

    second = moved(network, "10.2.0.0/24", "fd00:2::/64")
    result = second.add(b, "b")

    # Two IPv6 subnets don't stand in each other's way.
    assert gateways(second) == ["10.2.0.1/24", "fd00:2::1/64", "fd00:1::1/64"]
    assert namespaces.tcp(b, second.node, "10.2.0.1") == "10.2.0.2"
    assert second.check(result, b, "b").code == 0


def test_a_subnet_that_became_larger_replaces_its_gateway_of_both_families(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    first = network("10.1.0.0/24", "fd00:1::/64", isDefaultGateway=True)
    first.add(make_netns(), "a")
    first.delete("a")
    b = make_netns()

    second = moved(network, "10.1.0.0/16", "fd00:1::/48")
    result = second.add(b, "b")

    assert gateways(second) == ["10.1.0.1/16", "fd00:1::1/48"]
    assert second.check(result, b, "b").code == 0


def test_an_earlier_subnets_gateway_goes_though_nobody_said_that_its_pod_is_gone(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    first = network("10.1.0.0/24", isDefaultGateway=True)
    with namespaces.held() as dead:
        first.add(dead, "a")

    second = moved(network, "10.2.0.0/24")
    second.add(make_netns(), "b")

    assert gateways(second) == ["10.2.0.1/24"]


@pytest.mark.parametrize(
    ("subnets", "told", "there"),
    [
        (["10.2.0.0/24"], "10.2.0.1/24", "10.1.0.1/24"),
        (["fd00:1::/48"], "fd00:1::1/48", "fd00:1::1/64"),
    ],
)
def test_a_live_pods_gateway_stays_and_who_wants_another_is_told_what_to_do(
    subnets: list[str], told: str, there: str, network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    first = network("10.1.0.0/24", "fd00:1::/64", isDefaultGateway=True)
    a, b = make_netns(), make_netns()
    result = first.add(a, "a")

    second = moved(network, *subnets)
    error = second.call("ADD", "b", b).error

    assert error["code"] == 104
    assert error["msg"] == f'"br0" already has an IP address different from {told}'
    assert f"{there} is in use by attachment lan/a@eth0@bridge" in error["details"]
    assert f"ip address del {there} dev br0" in error["details"]
    assert gateways(first) == ["10.1.0.1/24", "fd00:1::1/64"]
    assert first.check(result, a, "a").code == 0
    assert oracle.links(b) == []
    assert set(second.reserved.values()) == {"a eth0"}


def test_with_force_address_a_live_pods_gateway_goes_too(
    network: Callable[..., Network], make_netns: Callable[[], Path]
) -> None:
    a, b = make_netns(), make_netns()
    first = network("10.1.0.0/24", "fd00:1::/64", isDefaultGateway=True)
    before = first.add(a, "a")

    second = moved(network, "10.1.0.0/16", "fd00:1::/48").but(forceAddress=True)
    result = second.add(b, "b")

    assert gateways(second) == ["10.1.0.1/16", "fd00:1::1/48"]
    assert second.check(result, b, "b").code == 0
    assert namespaces.tcp(b, second.node, "10.1.0.1") == "10.1.0.3"
    assert "gateway address 10.1.0.1/24 on br0" in first.check(before, a, "a").error["msg"]


def test_a_gateway_stays_while_a_port_of_somebody_else_may_live_by_it(
    network: Callable[..., Network], netns: Path
) -> None:
    lan = network("10.2.0.0/24", isDefaultGateway=True)
    namespaces.shell(
        lan.node,
        "ip link add br0 type bridge; ip link set br0 up; ip address add 10.1.0.1/24 dev br0;"
        "ip link add theirs type veth; ip link set theirs master br0",
    )

    error = lan.call("ADD", netns=netns).error

    assert error["code"] == 104
    assert "10.1.0.1/24 is in use by whatever is behind theirs" in error["details"]
    assert gateways(lan) == ["10.1.0.1/24"]

    namespaces.shell(lan.node, "ip link del theirs")
    lan.add(netns)
    assert gateways(lan) == ["10.2.0.1/24"]


def test_a_gateway_of_a_network_whose_attachment_is_under_way_stays(
    network: Callable[..., Network], make_netns: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = network("10.1.0.0/24", isDefaultGateway=True)
    second = network("10.2.0.0/24", isDefaultGateway=True, name="other")
    a, b = make_netns(), make_netns()
    errors = []

    with interrupted(monkeypatch, lambda: errors.append(second.call("ADD", "b", b).error)):
        result = first.add(a, "a")

    assert [error["code"] for error in errors] == [104]
    assert "in use by attachment lan/a@eth0@bridge" in errors[0]["details"]
    assert gateways(first) == ["10.1.0.1/24"]
    assert first.check(result, a, "a").code == 0


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> Iterator[None]:
    """Does something else in the middle of the next ADD: the bridge is there, the pod's link is not."""
    make = making.make

    def later(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(making, "make", make)
        work()
        return make(*arguments, **named)

    with monkeypatch.context():
        monkeypatch.setattr(making, "make", later)
        yield


def test_link_local_addresses_of_the_bridge_are_nobodys_gateway(network: Callable[..., Network], netns: Path) -> None:
    lan = network("fd00:1::/64", isDefaultGateway=True)
    namespaces.shell(lan.node, "ip link add br0 type bridge; ip link set br0 up; ip address add fe80::7/64 dev br0")

    lan.add(netns)

    assert "fe80::7/64" in namespaces.shell(lan.node, "ip -6 address show br0")


def test_a_gateway_address_deleted_by_hand_comes_back_with_the_next_pod(
    lan: Network, make_netns: Callable[[], Path]
) -> None:
    a, b = make_netns(), make_netns()
    lan.add(a, "a")
    namespaces.shell(lan.node, "ip address flush dev br0 scope global")

    result = lan.add(b, "b")

    assert gateways(lan) == ["10.1.0.1/24", "fd00:1::1/64"]
    assert namespaces.tcp(lan.node, b, "10.1.0.3") == "10.1.0.1"
    assert namespaces.tcp(a, lan.node, "10.1.0.1") == "10.1.0.2"
    assert lan.check(result, b, "b").code == 0


def test_the_bridge_and_the_nodes_settings_stay_when_the_last_pod_leaves(lan: Network, netns: Path) -> None:
    result = lan.add(netns)

    lan.delete(netns=netns)

    assert [link.name for link in oracle.links(lan.node)] == ["br0"]
    assert gateways(lan) == ["10.1.0.1/24", "fd00:1::1/64"]
    assert (sysctl(lan.node, IPV4_FORWARDING), sysctl(lan.node, IPV6_FORWARDING)) == ("1", "1")
    assert port(result) not in [link.name for link in oracle.links(lan.node)]

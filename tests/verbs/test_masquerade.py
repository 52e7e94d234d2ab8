"""ipMasq: outside a pod bears the node's address, and nowhere else.

Judged by what a server sees, with and without the kernel's habit of passing bridged packets to the IP firewall.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests import namespaces, oracle
from tests.verbs.lab import FAR4, FAR6, NODE4, NODE6, OUTSIDE4, OUTSIDE6, SILENCE_S, Lab
from tests.verbs.networks import Network, addresses

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.calls import Exec

SUBNETS = ("10.1.0.0/24", "fd00:1::/64")
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
KINDS = ("bridge", "ptp")

NODE, OUTSIDE, FAR, ANY = (NODE4, NODE6), (OUTSIDE4, OUTSIDE6), (FAR4, FAR6), ("0.0.0.0", "::")


class Masked(NamedTuple):
    """How a network is masqueraded: by which plugin, and whether bridged packets pass the IP firewall."""

    kind: str
    bridge_nf: bool


@pytest.fixture(
    params=[Masked("bridge", False), Masked("bridge", True), Masked("ptp", True)],
    ids=["bridge", "bridge with br_netfilter", "ptp"],
)
def masked(request: pytest.FixtureRequest, network: Callable[..., Network], lab: Lab) -> Network:
    """A network of both families whose pods are masqueraded, on the node of `lab`."""
    how: Masked = request.param
    lab.bridge_nf(how.bridge_nf)
    return of_kind(network(*SUBNETS, ipMasq=True), how.kind)


def of_kind(lan: Network, kind: str) -> Network:
    """The same network by another plugin, with routes to everywhere."""
    defaults = {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
    if kind == "ptp":
        return lan.but(type="ptp", bridge=None, isDefaultGateway=None, ipam=defaults)
    return lan.but(isDefaultGateway=True)


# --- what is seen of a pod ----------------------------------------------------------------------------


@FAMILIES
def test_outside_a_pod_bears_the_nodes_address(family: int, masked: Network, lab: Lab, netns: Path) -> None:
    masked.add(netns)
    for protocol in ("tcp", "udp"):
        lab.serve(lab.outside, protocol, OUTSIDE[family], 80)

    seen = [lab.ask(netns, protocol, OUTSIDE[family], 80) for protocol in ("tcp", "udp")]

    assert [heard and heard.peer for heard in seen] == [NODE[family]] * 2


@FAMILIES
def test_without_ip_masq_the_outside_has_no_answer(family: int, masked: Network, lab: Lab, netns: Path) -> None:
    masked.but(ipMasq=False).add(netns)
    server = lab.serve(lab.outside, "udp", OUTSIDE[family], 80)
    assert lab.ask(lab.node, "udp", OUTSIDE[family], 80)  # the node knows its neighbour now

    assert lab.ask(netns, "udp", OUTSIDE[family], 80, timeout=SILENCE_S) is None

    # It arrived, and there is no way back.
    assert [heard.peer for heard in server.heard] == [NODE[family], ("10.1.0.2", "fd00:1::2")[family]]


@FAMILIES
def test_pods_of_one_network_see_each_other(
    family: int, masked: Network, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    a, b = make_netns(), make_netns()
    first, second = masked.add(a, "a"), masked.add(b, "b")
    lab.serve(b, "tcp", ANY[family], 80)

    heard = lab.ask(a, "tcp", addresses(second)[family], 80)

    assert heard is not None
    assert heard.peer == addresses(first)[family]


@FAMILIES
@pytest.mark.parametrize("kind", KINDS)
def test_pods_of_two_networks_of_one_node_see_each_other(
    family: int, kind: str, masked: Network, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    """Neither subnet is exempt in the other's rules: the node knows its pods."""
    a, b = make_netns(), make_netns()
    ranges = [[{"subnet": "10.2.0.0/24"}], [{"subnet": "fd00:2::/64"}]]
    other = of_kind(masked.but(name="other", type="bridge", bridge="br1", ipam={"ranges": ranges}), kind)
    first, second = masked.add(a, "a"), other.add(b, "b")
    lab.serve(b, "tcp", ANY[family], 80)

    heard = lab.ask(a, "tcp", addresses(second)[family], 80)

    assert heard is not None
    assert heard.peer == addresses(first)[family]


@FAMILIES
def test_the_node_sees_its_pods_under_their_own_addresses(family: int, masked: Network, lab: Lab, netns: Path) -> None:
    result = masked.add(netns)
    lab.serve(lab.node, "tcp", NODE[family], 80)

    heard = lab.ask(netns, "tcp", NODE[family], 80)

    assert heard is not None
    assert heard.peer == addresses(result)[family]


def test_a_services_translation_to_a_pod_of_the_node_keeps_the_clients_address(
    masked: Network, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    a, b = make_netns(), make_netns()
    first, second = masked.add(a, "a"), masked.add(b, "b")
    lab.serve(b, "tcp", "0.0.0.0", 80)
    lab.nft(f"""table ip service {{
        chain pre {{
            type nat hook prerouting priority dstnat
            ip daddr 10.96.0.1 tcp dport 80 dnat to {addresses(second)[0]}
        }}
    }}""")
    if masked.config["type"] == "bridge":
        # On a switch the answer would go past the node, and untranslated.
        lab.bridge_nf(True)

    heard = lab.ask(a, "tcp", "10.96.0.1", 80)

    assert heard is not None
    assert heard.peer == addresses(first)[0]


@FAMILIES
def test_exempt_networks_see_the_pods_own_address(
    family: int, lab: Lab, masked: Network, netns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key of the reference's says so; what `podwire` has for it is put here by hand."""
    from cni.features.masquerade import MasqueradeFeature
    from ipam.address import Network as Block

    exempt = tuple(Block.parse(text) for text in ("192.0.2.0/24", "2001:db8::/32"))
    monkeypatch.setattr(MasqueradeFeature, "parse", lambda _conf: (MasqueradeFeature(exempt),))
    result = masked.add(netns)
    lab.route_back(*SUBNETS)
    for address in (FAR[family], OUTSIDE[family]):
        lab.serve(lab.outside, "udp", address, 80)

    seen = [lab.ask(netns, "udp", address, 80) for address in (FAR[family], OUTSIDE[family])]

    assert [heard and heard.peer for heard in seen] == [addresses(result)[family], NODE[family]]


def test_multicast_that_the_node_forwards_keeps_its_sender(lab: Lab, masked: Network, netns: Path) -> None:
    """Read from the rules: the kernels at hand forward no multicast (CONFIG_IP_MROUTE)."""
    masked.add(netns)

    rules = namespaces.shell(lab.node, "nft list table inet podwire")

    assert "ip daddr != { 10.1.0.0/24, 224.0.0.0/4 }" in rules
    assert "ip6 daddr != { fd00:1::/64, ff00::/8 }" in rules


# --- how long ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [False, True], ids=["", "its namespace is gone"])
def test_nothing_is_left_of_a_pod(gone: bool, masked: Network, lab: Lab, make_netns: Callable[[], Path]) -> None:
    masked.add(make_netns(), "other")
    before = lab.elements(), lab.rules()
    there = apart_from_time(oracle.everything(lab.node))
    with namespaces.held() as pod:
        masked.add(pod)
        if not gone:
            masked.delete(netns=pod)
    masked.delete()

    assert (lab.elements(), lab.rules()) == before
    assert apart_from_time(oracle.everything(lab.node)) ^ there == set()


def apart_from_time(things: frozenset[object]) -> set[object]:
    """Neighbours age, and are met: by the link-local address that each link asks for routers with."""
    neighbours = {one for one in things if isinstance(one, oracle.Neighbour)}
    met = {replace(one, state="") for one in neighbours if not one.address.startswith("fe80:")}
    return {*(things - neighbours), *met}


def test_rules_do_not_grow_with_pods(masked: Network, lab: Lab, make_netns: Callable[[], Path]) -> None:
    masked.add(make_netns(), "first")
    rules = lab.rules()

    for number in range(5):
        masked.add(make_netns(), str(number))

    assert lab.rules() == rules
    assert lab.elements()["inet podwire pods4"] == lab.elements()["inet podwire pods6"] == 6


def test_check_notices_that_a_pod_is_not_masqueraded_any_more(masked: Network, lab: Lab, netns: Path) -> None:
    result = masked.add(netns)
    assert masked.check(result, netns).code == 0
    (name,) = [one.split()[-1] for one in lab.elements() if "masquerade4_" in one]
    lab.nft(f"flush set inet podwire {name}")

    error = masked.check(result, netns).error

    assert error["code"] == 103
    assert name in error["msg"]
    assert "10.1.0.2" in error["msg"]


def test_a_table_that_somebody_flushed_comes_back_with_the_next_pod(
    masked: Network, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    a, b = make_netns(), make_netns()
    masked.add(a, "a")
    lab.serve(lab.outside, "tcp", OUTSIDE4, 80)
    lab.nft("flush ruleset")

    masked.add(b, "b")

    seen = [lab.ask(pod, "tcp", OUTSIDE4, 80) for pod in (a, b)]
    assert [heard and heard.peer for heard in seen] == [NODE4] * 2


# --- a static address that moves from pod to pod ------------------------------------------------------

STATIC: dict[str, Any] = {"type": "static", "addresses": [{"address": "10.1.0.77/24", "gateway": "10.1.0.1"}]}
STATIC_TO_EVERYWHERE = {**STATIC, "routes": [{"dst": "0.0.0.0/0"}]}


@pytest.fixture
def static(network: Callable[..., Network], lab: Lab) -> Network:
    """A network whose only address is always given: IPAM keeps no book of who has it."""
    lan = network(ipMasq=True, isDefaultGateway=True, cniVersion="1.0.0")
    lab.serve(lab.outside, "udp", OUTSIDE4, 80)
    return replace(lan, config={**lan.config, "ipam": STATIC})


def masqueraded(lab: Lab, netns: Path) -> bool:
    heard = lab.ask(netns, "udp", OUTSIDE4, 80)
    return heard is not None and heard.peer == NODE4


@pytest.mark.needs("/usr/lib/cni/static")
def test_while_the_old_pod_lives_the_new_one_is_told_who_has_the_address(
    static: Network, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    a, b = make_netns(), make_netns()
    static.add(a, "a")
    before = lab.elements()

    error = static.call("ADD", "b", b).error

    assert error["code"] == 11
    assert "lan/a@eth0@bridge" in error["msg"] + error["details"]
    assert (lab.elements(), oracle.links(b)) == (before, [])
    assert masqueraded(lab, a)


@pytest.mark.needs("/usr/lib/cni/static")
def test_a_deleted_pods_address_keeps_its_rules_with_the_new_pod(
    static: Network, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    a, b = make_netns(), make_netns()
    static.add(a, "a")
    static.delete("a", a)

    static.add(b, "b")

    assert masqueraded(lab, b)
    static.delete("a", a)  # again, and late
    assert masqueraded(lab, b)
    static.delete("b", b)
    assert lab.elements() == {}


@pytest.mark.needs("/usr/lib/cni/static")
def test_a_pod_whose_namespace_is_gone_gives_its_address_up_and_a_late_end_takes_nothing(
    static: Network, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    with namespaces.held() as a:
        result = static.add(a, "a")
    b = make_netns()

    after = static.add(b, "b")

    assert masqueraded(lab, b)
    static.but(prevResult=result).delete("a")
    assert masqueraded(lab, b)
    assert static.check(after, b, "b").code == 0
    static.collect(("b", "eth0"))
    assert masqueraded(lab, b)
    static.delete("b", b)
    assert lab.elements() == {}


@pytest.mark.needs("/usr/lib/cni/static")
@pytest.mark.parametrize("keys", [{}, {"ipMasq": None, "macspoofchk": True}], ids=["ipMasq", "macspoofchk"])
def test_a_late_end_leaves_the_new_pod_its_connections(
    keys: dict[str, Any], static: Network, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    pods = static.but(**keys)
    lab.nft("table inet others { chain in { type filter hook input priority 0; ct state new accept; }; }")
    lab.serve(lab.node, "udp", NODE4, 80)
    with namespaces.held() as a:
        pods.add(a, "a")
    b = make_netns()
    pods.add(b, "b")
    assert lab.ask(b, "udp", NODE4, 80)

    pods.delete("a")

    assert [flow.source for flow in lab.flows() if flow.target == NODE4] == ["10.1.0.77"]


@pytest.mark.needs("/usr/lib/cni/static")
def test_an_end_that_has_begun_gives_the_address_up(
    static: Network, lab: Lab, make_netns: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cni.attach import removing

    a, b = make_netns(), make_netns()
    static.add(a, "a")
    with monkeypatch.context() as patched:

        def stuck(*_: object) -> None:
            raise OSError(5, "here the power went")

        patched.setattr(removing, "delete_links", stuck)
        assert static.call("DEL", "a", a).code == 1

    static.add(b, "b")

    assert masqueraded(lab, b)
    static.delete("a", a)
    assert masqueraded(lab, b)
    static.delete("b", b)
    assert lab.elements() == {}


@pytest.mark.needs("/usr/lib/cni/static")
@pytest.mark.parametrize("kind", KINDS)
def test_an_end_and_a_beginning_at_the_same_time_leave_the_rules_to_the_new_pod(
    kind: str, static: Network, plugin: Exec, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    lan = replace(static, plugin=plugin, config={**of_kind(static, kind).config, "ipam": STATIC_TO_EVERYWHERE})
    lan.add(make_netns(), "0")

    for number in range(1, 9):
        pod = make_netns()
        with ThreadPoolExecutor() as both:
            ending = both.submit(lan.call, "DEL", str(number - 1))
            beginning = both.submit(lan.call, "ADD", str(number), pod)
        assert ending.result().code == 0
        if beginning.result().code:
            # It came first, and was told to try again.
            assert beginning.result().error["code"] == 11
            lan.add(pod, str(number))
        assert masqueraded(lab, pod)

    lan.delete("8")
    assert lab.elements() == {}


# --- beside the reference ---------------------------------------------------------------------------


@pytest.mark.needs(*(f"/usr/lib/cni/{name}" for name in (*KINDS, "host-local")))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_the_result_is_the_references(
    kind: str,
    version: str,
    network: Callable[..., Network],
    lab: Lab,
    make_netns: Callable[[], Path],
    reference: Exec,
) -> None:
    ours = of_kind(network(*SUBNETS, ipMasq=True, cniVersion=version), kind)
    a, b = make_netns(), make_netns()
    lab.serve(lab.outside, "tcp", OUTSIDE4, 80)

    mine = ours.add(a)
    seen = lab.ask(a, "tcp", OUTSIDE4, 80)
    ours.delete(netns=a)
    by_reference = replace(ours, plugin=reference)
    theirs = by_reference.add(b)
    seen_of_theirs = lab.ask(b, "tcp", OUTSIDE4, 80)
    by_reference.delete(netns=b)

    assert seen is not None
    assert seen_of_theirs is not None
    assert seen.peer == seen_of_theirs.peer == NODE4
    assert unnamed(mine) == unnamed(theirs)


def unnamed(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what is chosen anew each time, and without what the reference's version doesn't tell."""
    interfaces = [
        {key: value for key, value in one.items() if key not in ("mac", "mtu", "sandbox")} | {"in": "sandbox" in one}
        for one in result["interfaces"]
    ]
    for one in interfaces:
        one["name"] = one["name"] if one["name"] in ("eth0", "br0") else "port"
    ips = [{**ip, "address": ip["address"].partition("/")[2]} for ip in result["ips"]]
    return {**result, "interfaces": interfaces, "ips": ips, "dns": result.get("dns", {})}

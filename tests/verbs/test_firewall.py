"""`firewall` behind a bridge: who gets packets from whom, and whose packets pass where others would drop them."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests import namespaces
from tests.conftest import REFERENCE_PLUGINS
from tests.verbs.lab import NODE4, NODE6, OUTSIDE4, OUTSIDE6, PATIENCE_S, SILENCE_S, Attached, Chain, Lab, kubernetes
from tests.verbs.networks import OURS, host_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.calls import Exec, InProcess

PORT = 7000


def conflist(data_dir: Path, number: int, *more: dict[str, Any], version: str = "1.0.0", **keys: Any) -> dict[str, Any]:
    """A network of its own bridge and subnets, 10.<number>.0.0/24 and fd00:<number>::/64, and `firewall`."""
    bridge = {
        "type": "bridge",
        "bridge": f"br{number}",
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipam": host_local(data_dir, f"10.{number}.0.0/24", f"fd00:{number}::/64"),
    }
    return {
        "cniVersion": version,
        "name": f"net{number}",
        "plugins": [bridge, *more, {"type": "firewall", **keys}],
    }


class Pod(NamedTuple):
    netns: Path
    v4: str
    v6: str
    result: dict[str, Any]


@pytest.fixture
def attach(make_netns: Callable[[], Path]) -> Callable[..., Pod]:
    """`attach(chain, "a")`: a pod of the chain."""

    def attached(chain: Chain, pod: str, **told: Any) -> Pod:
        netns = make_netns()
        result = chain.add(netns, pod, **told)
        v4, v6 = (ip["address"].partition("/")[0] for ip in result["ips"])
        return Pod(netns, v4, v6, result)

    return attached


class Asked(NamedTuple):
    who: str
    netns: Path
    whom: str
    address: str
    expected: bool


def differing(lab: Lab, questions: Iterable[Asked]) -> list[str]:
    """Those whose answers aren't as expected; asked at once, since each that isn't answered takes its time."""

    def ask(one: Asked) -> str:
        timeout = PATIENCE_S if one.expected else SILENCE_S
        heard = lab.ask(one.netns, "tcp", one.address, PORT, timeout=timeout)
        return "" if bool(heard) == one.expected else f"{one.who} → {one.whom} ({one.address}): {heard}"

    with ThreadPoolExecutor(16) as threads:
        return [line for line in threads.map(ask, questions) if line]


# --- isolation ------------------------------------------------------------------------------------------

POLICIES = [
    ("open", "open"),
    ("same-bridge", "open"),
    ("same-bridge", "same-bridge"),
    ("isolated", "open"),
    ("isolated", "same-bridge"),
    ("isolated", "isolated"),
]


@pytest.mark.parametrize("bridge_nf", [False, True], ids=["", "bridge-nf"])
@pytest.mark.parametrize("policies", POLICIES, ids="+".join)
def test_who_reaches_whom(
    lab: Lab,
    in_process: InProcess,
    data_dir: Path,
    attach: Callable[..., Pod],
    policies: tuple[str, str],
    bridge_nf: bool,
) -> None:
    lab.bridge_nf(bridge_nf)
    pods: dict[tuple[int, str], Pod] = {}
    for number, policy in enumerate(policies, 1):
        chain = Chain(lab.node, conflist(data_dir, number, ingressPolicy=policy), in_process)
        for name in ("a", "b"):
            pods[number, name] = attach(chain, f"{name}{number}")
        lab.route_back(f"10.{number}.0.0/24", f"fd00:{number}::/64")
    for netns, names in ((lab.outside, (OUTSIDE4, OUTSIDE6)), (lab.node, (NODE4, NODE6))):
        for address in names:
            lab.serve(netns, "tcp", address, PORT)
    for pod in pods.values():
        lab.serve(pod.netns, "tcp", pod.v4, PORT)
        lab.serve(pod.netns, "tcp", pod.v6, PORT)

    questions = []
    for (number, name), pod in pods.items():
        for (other, its), to in pods.items():
            if to is not pod:
                expected = "open" in policies if number != other else policies[number - 1] != "isolated"
                questions += [
                    Asked(f"{name}{number}", pod.netns, f"{its}{other}", one, expected) for one in (to.v4, to.v6)
                ]
        for netns, who in ((lab.outside, "outside"), (lab.node, "node")):
            questions += [Asked(who, netns, f"{name}{number}", one, True) for one in (pod.v4, pod.v6)]
        questions += [
            Asked(f"{name}{number}", pod.netns, "world", one, True) for one in (NODE4, NODE6, OUTSIDE4, OUTSIDE6)
        ]

    assert differing(lab, questions) == []


@pytest.mark.parametrize("policy", ["same-bridge", "isolated"])
def test_an_address_that_is_not_its_own_leads_nowhere_either(
    lab: Lab, in_process: InProcess, data_dir: Path, attach: Callable[..., Pod], policy: str
) -> None:
    """What a bridge sends is what its pods send, whatever they call themselves."""
    forger, other = (
        attach(Chain(lab.node, conflist(data_dir, number, ingressPolicy=policy), in_process), "a") for number in (1, 2)
    )
    namespaces.shell(forger.netns, "ip address add 10.1.0.200/24 dev eth0; ip address add 10.9.9.9/32 dev eth0")
    server = lab.serve(other.netns, "udp", other.v4, PORT)

    for source in ("10.1.0.200", "10.9.9.9"):
        assert lab.ask(forger.netns, "udp", other.v4, PORT, source=source, timeout=SILENCE_S) is None

    assert server.heard == []


@pytest.mark.parametrize("bridge_nf", [False, True], ids=["", "bridge-nf"])
@pytest.mark.parametrize("policy", ["open", "same-bridge", "isolated"])
def test_isolated_pods_do_not_reach_each_other_by_way_of_the_node_either(
    lab: Lab, in_process: InProcess, data_dir: Path, attach: Callable[..., Pod], policy: str, bridge_nf: bool
) -> None:
    lab.bridge_nf(bridge_nf)
    chain = Chain(lab.node, conflist(data_dir, 1, ingressPolicy=policy), in_process)
    pods = attach(chain, "a"), attach(chain, "b")
    for one, other in (pods, pods[::-1]):
        namespaces.shell(one.netns, f"ip route add {other.v4} via 10.1.0.1; ip -6 route add {other.v6} via fd00:1::1")
        lab.serve(one.netns, "tcp", one.v4, PORT)
        lab.serve(one.netns, "tcp", one.v6, PORT)

    expected = policy != "isolated"
    questions = [
        Asked("one", one.netns, "other", address, expected)
        for one, other in (pods, pods[::-1])
        for address in (other.v4, other.v6)
    ]
    assert differing(lab, questions) == []


def test_a_pod_without_a_bridge_is_guarded_too(
    lab: Lab, in_process: InProcess, data_dir: Path, attach: Callable[..., Pod]
) -> None:
    """As in the reference, for which a veth of `ptp` is a bridge like another."""
    everywhere = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    ptp = {
        "cniVersion": "1.0.0",
        "name": "points",
        "plugins": [
            {"type": "ptp", "ipam": host_local(data_dir, "10.7.0.0/24", "fd00:7::/64", routes=everywhere)},
            {"type": "firewall", "ingressPolicy": "same-bridge"},
        ],
    }
    point, other = (attach(Chain(lab.node, ptp, in_process), pod) for pod in ("p", "q"))
    guarded = attach(Chain(lab.node, conflist(data_dir, 1, ingressPolicy="same-bridge"), in_process), "a")
    free = attach(Chain(lab.node, conflist(data_dir, 2), in_process), "b")
    pods = {"point": point, "other": other, "guarded": guarded, "free": free}
    for pod in pods.values():
        lab.serve(pod.netns, "tcp", pod.v4, PORT)
        lab.serve(pod.netns, "tcp", pod.v6, PORT)

    questions = [
        Asked(who, pod.netns, whom, address, "free" in (who, whom))
        for who, pod in pods.items()
        for whom, to in pods.items()
        if who != whom
        for address in (to.v4, to.v6)
    ]
    assert differing(lab, questions) == []


@pytest.mark.parametrize("policy", ["open", "same-bridge", "isolated"])
def test_podwire_has_the_same_policies(
    lab: Lab, in_process: InProcess, data_dir: Path, attach: Callable[..., Pod], policy: str
) -> None:
    ranges = [[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd00:7::/64"}]]
    podwire = {"type": "podwire", "ipam": {"type": "host-local", "ranges": ranges}, "ingressPolicy": policy}
    chain = Chain(lab.node, {"cniVersion": "1.0.0", "name": "pods", "plugins": [podwire]}, in_process)
    pods = {"pod": attach(chain, "p"), "mate": attach(chain, "q")}
    pods["other"] = attach(Chain(lab.node, conflist(data_dir, 1, ingressPolicy="same-bridge"), in_process), "a")
    lab.route_back("10.7.0.0/24", "fd00:7::/64")
    for pod in pods.values():
        lab.serve(pod.netns, "tcp", pod.v4, PORT)
        lab.serve(pod.netns, "tcp", pod.v6, PORT)

    questions = []
    for address in pods["pod"][1:3]:
        questions += [
            Asked("mate", pods["mate"].netns, "pod", address, policy != "isolated"),
            Asked("other", pods["other"].netns, "pod", address, policy == "open"),
            Asked("node", lab.node, "pod", address, True),
            Asked("outside", lab.outside, "pod", address, True),
        ]
    questions += [Asked("pod", pods["pod"].netns, "other", one, policy == "open") for one in pods["other"][1:3]]
    assert differing(lab, questions) == []


def test_rules_do_not_grow_with_pods_and_a_del_leaves_no_element(
    lab: Lab, in_process: InProcess, data_dir: Path, make_netns: Callable[[], Path]
) -> None:
    chain = Chain(lab.node, conflist(data_dir, 1, ingressPolicy="isolated"), in_process)
    chain.add(make_netns(), "a")
    rules, elements = lab.rules(), lab.elements()
    for pod in ("b", "c", "d"):
        chain.add(make_netns(), pod)
    assert lab.rules() == rules
    assert {count for name, count in lab.elements().items() if "isol" in name or "guarded" in name} == {4}

    chain.delete("b", netns=False)
    chain.delete("c", prev=False)
    chain.delete("d", netns=False, prev=False)

    assert (lab.rules(), lab.elements()) == (rules, elements)
    chain.delete("a")
    assert lab.elements() == {}


def test_isolation_is_back_after_somebody_flushed_everything(
    lab: Lab, in_process: InProcess, data_dir: Path, attach: Callable[..., Pod]
) -> None:
    chains = [Chain(lab.node, conflist(data_dir, n, ingressPolicy="isolated"), in_process) for n in (1, 2)]
    one, mate, other = attach(chains[0], "a"), attach(chains[0], "b"), attach(chains[1], "c")
    for pod in (mate, other):
        lab.serve(pod.netns, "tcp", pod.v4, PORT)
    lab.nft("flush ruleset")
    assert lab.ask(one.netns, "tcp", other.v4, PORT)
    assert lab.ask(one.netns, "tcp", mate.v4, PORT)

    attach(chains[1], "d")

    assert lab.ask(one.netns, "tcp", other.v4, PORT, timeout=SILENCE_S) is None
    assert lab.ask(one.netns, "tcp", mate.v4, PORT, timeout=SILENCE_S) is None


# --- openings -------------------------------------------------------------------------------------------

DROPPING = {
    "iptables-nft": "for each in iptables-nft ip6tables-nft; do $each -P FORWARD DROP; done",
    "iptables-legacy": "for each in iptables-legacy ip6tables-legacy; do $each -P FORWARD DROP; done",
    "a table": "nft add table inet own; nft add chain inet own passing "
    "'{ type filter hook forward priority 10; policy drop; }'",
}
MAPPINGS = [
    {"hostPort": 8080, "containerPort": PORT, "protocol": "tcp"},
    {"hostPort": 8080, "containerPort": PORT, "protocol": "udp"},
]


def addresses_left(lab: Lab, *pods: Pod) -> list[str]:
    """Of these pods, in rules and sets of any packet filter of the node."""
    text = namespaces.shell(lab.node, "nft list ruleset 2>&1; iptables-legacy-save; ip6tables-legacy-save")
    words = set(re.split(r"[\s/,]+", text))
    return [address for pod in pods for address in (pod.v4, pod.v6) if address in words]


def usual(data_dir: Path, **keys: Any) -> dict[str, Any]:
    """The usual conflist of a Kubernetes node but for shaping, with `keys` for the firewall."""
    whole = kubernetes(data_dir, "10.1.0.0/24", "fd00:1::/64")
    plugins = [plugin for plugin in whole["plugins"] if plugin["type"] != "bandwidth"]
    return {**whole, "plugins": [{**one, **keys} if one["type"] == "firewall" else one for one in plugins]}


@pytest.fixture
def others(reference: Exec) -> dict[str, Exec]:
    """Members of the usual conflist that are the reference's, as long as there is none of ours."""
    return {name: reference for name in ("portmap",) if name not in OURS}


@pytest.mark.needs("iptables-nft", "iptables-legacy")
@pytest.mark.parametrize("bridge_nf", [False, True], ids=["", "bridge-nf"])
@pytest.mark.parametrize("dropping", DROPPING)
def test_the_usual_chain_has_connectivity_where_others_drop(
    lab: Lab,
    in_process: InProcess,
    others: dict[str, Exec],
    data_dir: Path,
    attach: Callable[..., Pod],
    dropping: str,
    bridge_nf: bool,
) -> None:
    lab.bridge_nf(bridge_nf)
    namespaces.shell(lab.node, DROPPING[dropping])
    chain = Chain(lab.node, usual(data_dir), in_process, **others)
    pod, mate = attach(chain, "a", portMappings=MAPPINGS), attach(chain, "b")
    for one in (pod, mate):
        for protocol in ("tcp", "udp"):
            lab.serve(one.netns, protocol, one.v4, PORT, "pod")
            lab.serve(one.netns, protocol, one.v6, PORT, "pod")
    for protocol in ("tcp", "udp"):
        lab.serve(lab.outside, protocol, OUTSIDE4, PORT, "outside")
        lab.serve(lab.outside, protocol, OUTSIDE6, PORT, "outside")
    lab.route_back("10.1.0.0/24")

    for protocol in ("tcp", "udp"):
        for address in (OUTSIDE4, OUTSIDE6, mate.v4, mate.v6):
            assert lab.ask(pod.netns, protocol, address, PORT), (protocol, address)
        for address in (NODE4, NODE6):
            assert lab.ask(lab.outside, protocol, address, 8080), (protocol, address)
        assert lab.ask(lab.node, protocol, pod.v4, PORT)
        # Not published: that others may talk to it is left to whoever made the policy.
        assert lab.ask(lab.outside, protocol, mate.v4, PORT, timeout=SILENCE_S) is None
    assert chain.check(but=tuple(others)).code == 0

    # The namespace of one is gone, and of the other what the runtime knew.
    chain.delete("a", netns=False)
    chain.delete("b", prev=False)

    assert addresses_left(lab, pod, mate) == []


@pytest.mark.needs("iptables-nft", "iptables-legacy")
def test_all_who_drop_are_told_by_the_executable_too(
    lab: Lab, plugin: Exec, data_dir: Path, attach: Callable[..., Pod]
) -> None:
    for policy in DROPPING.values():
        namespaces.shell(lab.node, policy)
    chain = Chain(lab.node, conflist(data_dir, 1, ingressPolicy="isolated"), plugin)
    pod = attach(chain, "a")
    lab.route_back("10.1.0.0/24", "fd00:1::/64")
    for address in (OUTSIDE4, OUTSIDE6):
        lab.serve(lab.outside, "tcp", address, PORT)
        assert lab.ask(pod.netns, "tcp", address, PORT)
    assert chain.check().code == 0

    chain.delete()

    assert addresses_left(lab, pod) == []
    assert lab.elements() == {}


@pytest.mark.needs("iptables-nft", "iptables-legacy")
@pytest.mark.parametrize("opens", [True, False], ids=["", "not asked to"])
@pytest.mark.parametrize("dropping", DROPPING)
def test_podwire_has_connectivity_where_others_drop_if_it_is_asked_to(
    lab: Lab, in_process: InProcess, attach: Callable[..., Pod], dropping: str, opens: bool
) -> None:
    namespaces.shell(lab.node, DROPPING[dropping])
    ranges = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]
    podwire: dict[str, Any] = {"type": "podwire", "ipam": {"type": "host-local", "ranges": ranges}}
    podwire |= {"capabilities": {"portMappings": True}, "openForward": opens}
    chain = Chain(lab.node, {"cniVersion": "1.1.0", "name": "pods", "plugins": [podwire]}, in_process)
    pod, mate = attach(chain, "a", portMappings=MAPPINGS), attach(chain, "b")
    for address in (pod.v4, pod.v6, mate.v4, mate.v6):
        lab.serve((pod if address in pod else mate).netns, "tcp", address, PORT)
    for address in (OUTSIDE4, OUTSIDE6):
        lab.serve(lab.outside, "tcp", address, PORT)

    questions = [Asked("pod", pod.netns, "world", one, opens) for one in (OUTSIDE4, OUTSIDE6, mate.v4, mate.v6)]
    assert differing(lab, questions) == []
    timeout = PATIENCE_S if opens else SILENCE_S
    for address in (NODE4, NODE6):
        assert bool(lab.ask(lab.outside, "tcp", address, 8080, timeout=timeout)) == opens
    assert chain.check("a").code == 0

    chain.delete("a", netns=False)
    chain.delete("b", prev=False)

    assert addresses_left(lab, pod, mate) == []


@pytest.mark.needs("iptables-nft")
def test_what_podwire_opened_is_closed_though_its_record_is_lost(
    lab: Lab, in_process: InProcess, run_dir: Path, attach: Callable[..., Pod]
) -> None:
    namespaces.shell(lab.node, DROPPING["iptables-nft"])
    ranges = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]
    podwire = {"type": "podwire", "ipam": {"type": "host-local", "ranges": ranges}, "openForward": True}
    chain = Chain(lab.node, {"cniVersion": "1.1.0", "name": "pods", "plugins": [podwire]}, in_process)
    pod = attach(chain, "a")
    assert addresses_left(lab, pod)
    for record in run_dir.glob("attachments/pods/*"):
        record.unlink()

    chain.delete("a")

    assert addresses_left(lab, pod) == []


@pytest.mark.parametrize("bridge_nf", [False, True], ids=["", "bridge-nf"])
@pytest.mark.parametrize("policy", ["same-bridge", "isolated"])
def test_what_is_published_is_reached_from_outside_and_by_the_pod_itself_and_is_no_way_around_a_policy(
    lab: Lab,
    in_process: InProcess,
    others: dict[str, Exec],
    data_dir: Path,
    attach: Callable[..., Pod],
    policy: str,
    bridge_nf: bool,
) -> None:
    lab.bridge_nf(bridge_nf)
    chain = Chain(lab.node, usual(data_dir, ingressPolicy=policy), in_process, **others)
    pod, mate = attach(chain, "a", portMappings=MAPPINGS), attach(chain, "b")
    other = attach(Chain(lab.node, conflist(data_dir, 2, ingressPolicy=policy), in_process), "c")
    free = attach(Chain(lab.node, conflist(data_dir, 3), in_process), "d")
    lab.serve(pod.netns, "tcp", pod.v4, PORT)
    lab.serve(pod.netns, "tcp", pod.v6, PORT)

    def answers(netns: Path | None, expected: bool) -> bool:
        timeout = PATIENCE_S if expected else SILENCE_S
        heard = [bool(lab.ask(netns, "tcp", address, 8080, timeout=timeout)) for address in (NODE4, NODE6)]
        return heard == [expected, expected]

    for netns in (lab.outside, lab.node, pod.netns, free.netns):
        assert answers(netns, True), netns
    assert answers(mate.netns, policy == "same-bridge")
    assert answers(other.netns, False)


@pytest.mark.needs("iptables")
@pytest.mark.needs(*(f"{REFERENCE_PLUGINS}/{name}" for name in ("bridge", "portmap", "firewall", "tuning")))
def test_of_the_reference_what_is_published_is_not_reached_where_forward_drops(
    lab: Lab, reference: Exec, data_dir: Path, attach: Callable[..., Pod]
) -> None:
    """Why ours has one rule more."""
    namespaces.shell(lab.node, DROPPING["iptables-nft"])
    pod = attach(Chain(lab.node, usual(data_dir), reference), "a", portMappings=MAPPINGS)
    lab.serve(pod.netns, "tcp", pod.v4, PORT)
    lab.serve(lab.outside, "tcp", OUTSIDE4, PORT)

    assert lab.ask(pod.netns, "tcp", OUTSIDE4, PORT)
    assert lab.ask(lab.outside, "tcp", NODE4, 8080, timeout=SILENCE_S) is None


# --- who wants an address opened ------------------------------------------------------------------------


def static(number: int, **keys: Any) -> dict[str, Any]:
    """A network of br1 whose pods all get one address."""
    addresses = [{"address": f"10.1.0.{5}/24"}, {"address": "fd00:1::5/64"}]
    bridge = {"type": "bridge", "bridge": "br1", "ipam": {"type": "static", "addresses": addresses}}
    return {"cniVersion": "1.0.0", "name": f"net{number}", "plugins": [bridge, {"type": "firewall", **keys}]}


def opened(lab: Lab) -> list[str]:
    """The rules of pods, of IPv4."""
    text = namespaces.shell(lab.node, "iptables -S CNI-FORWARD")
    return [line for line in text.splitlines() if line.endswith("-j ACCEPT")]


RULES = [
    "-A CNI-FORWARD -d 10.1.0.5/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A CNI-FORWARD -s 10.1.0.5/32 -j ACCEPT",
    "-A CNI-FORWARD -d 10.1.0.5/32 -m conntrack --ctstate DNAT -j ACCEPT",
]
needs_static = pytest.mark.needs(f"{REFERENCE_PLUGINS}/static", "iptables-nft")


@needs_static
@pytest.mark.parametrize("policy", ["open", "same-bridge", "isolated"])
def test_the_late_end_of_a_pod_leaves_what_the_new_owner_of_its_address_has(
    lab: Lab, in_process: InProcess, make_netns: Callable[[], Path], policy: str
) -> None:
    namespaces.shell(lab.node, "iptables -P FORWARD DROP")
    chain = Chain(lab.node, static(1, ingressPolicy=policy), in_process)
    with namespaces.held() as dead:
        chain.add(dead, "a")
    before = lab.elements()
    chain.add(make_netns(), "b")
    # What is keyed by the address has passed to the new pod; the port of the old one is its own to the end.
    assert {name: count for name, count in lab.elements().items() if name.startswith("inet")} == {
        name: count for name, count in before.items() if name.startswith("inet")
    }

    chain.delete("a")

    assert opened(lab) == RULES
    assert lab.elements() == before
    assert chain.check("b").code == 0
    chain.delete("b")
    assert (opened(lab), lab.elements()) == ([], {})


@needs_static
def test_an_address_that_two_live_with_stays_open_for_the_second(
    lab: Lab, in_process: InProcess, make_netns: Callable[[], Path]
) -> None:
    """Networks that have nothing to do with each other may hand out the same."""
    namespaces.shell(lab.node, "iptables -P FORWARD DROP")
    chains = [Chain(lab.node, static(number), in_process) for number in (1, 2)]
    for chain in chains:
        chain.add(make_netns(), "a")
    assert opened(lab) == RULES

    chains[0].delete("a")
    assert opened(lab) == RULES
    assert chains[1].check("a").code == 0
    chains[1].delete("a")
    assert opened(lab) == []


@needs_static
def test_an_add_that_fails_takes_nothing_from_a_living_pod_with_its_address(
    lab: Lab, in_process: InProcess, make_netns: Callable[[], Path]
) -> None:
    namespaces.shell(lab.node, "iptables -P FORWARD DROP")
    chain = Chain(lab.node, static(1, ingressPolicy="same-bridge"), in_process)
    chain.add(make_netns(), "a")
    before = lab.elements()

    refused = chain.attach(make_netns(), "b").error
    chain.detach("b")

    assert refused["code"] == 11
    assert "guarded:br1:10.1.0.5 is in use by net1/a@eth0@firewall" in refused["msg"]
    assert (opened(lab), lab.elements()) == (RULES, before)
    assert chain.check("a").code == 0


@pytest.mark.needs("iptables-nft")
def test_gc_takes_away_what_nobody_has_any_more(
    lab: Lab, in_process: InProcess, data_dir: Path, make_netns: Callable[[], Path]
) -> None:
    namespaces.shell(lab.node, "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP")
    chain = Chain(lab.node, conflist(data_dir, 1, ingressPolicy="isolated", version="1.1.0"), in_process)
    chain.add(make_netns(), "a")
    kept = opened(lab), lab.elements()
    with namespaces.held() as dead:
        chain.add(dead, "b")
    assert (len(opened(lab)), {*lab.elements().values()}) == (6, {2})

    assert [outcome.code for outcome in chain.collect(("a", "eth0"))] == [0, 0]
    assert (opened(lab), lab.elements()) == kept
    assert chain.check("a").code == 0
    assert [outcome.code for outcome in chain.collect()] == [0, 0]
    assert (opened(lab), lab.elements()) == ([], {})


@pytest.mark.needs("iptables-nft")
def test_check_misses_what_is_missing(
    lab: Lab, in_process: InProcess, data_dir: Path, attach: Callable[..., Pod]
) -> None:
    namespaces.shell(lab.node, "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP")
    chain = Chain(lab.node, conflist(data_dir, 1, ingressPolicy="isolated"), in_process)
    pod = attach(chain, "a")
    chain.add(pod.netns, "second", "eth1")
    assert chain.check().code == 0

    port = pod.result["interfaces"][1]["name"]
    for table, key in (("inet podwire guarded4", f"br1 . {pod.v4}"), ("bridge podwire isolated_ports", port)):
        quoted = key.replace("br1", '\\"br1\\"').replace(port, f'\\"{port}\\"')
        lab.nft(f"delete element {table} {{ {quoted} }}".replace("\\", ""))
        error = chain.check().error
        assert error["code"] == 103
        assert table in error["msg"]
        lab.nft(f'add element {table} {{ {quoted} comment "{error_tag(error)}" }}'.replace("\\", ""))
        assert chain.check().code == 0
    for variant, address in (("iptables", f"{pod.v4}/32"), ("ip6tables", f"{pod.v6}/128")):
        namespaces.shell(lab.node, f"{variant} -D CNI-FORWARD -s {address} -j ACCEPT")
        error = chain.check().error
        assert error["code"] == 103
        assert f"what lets {address.partition('/')[0]} pass where the forward chains of others drop" in error["msg"]
        namespaces.shell(lab.node, f"{variant} -A CNI-FORWARD -s {address} -j ACCEPT")
        assert chain.check().code == 0
    namespaces.shell(lab.node, "iptables -F FORWARD")
    assert chain.check().error["code"] == 103
    namespaces.shell(lab.node, "iptables -P FORWARD ACCEPT")
    assert chain.check().code == 0


def error_tag(error: dict[str, Any]) -> str:
    """The comment of the element that a CHECK misses."""
    return str(error["msg"].partition('comment "')[2].partition('"')[0])


# --- beside the reference's -----------------------------------------------------------------------------

needs_reference = pytest.mark.needs(f"{REFERENCE_PLUGINS}/firewall", f"{REFERENCE_PLUGINS}/static", "iptables-nft")


@needs_reference
@pytest.mark.parametrize("prev", [True, False], ids=["", "without prevResult"])
def test_what_the_reference_opened_ours_closes(
    lab: Lab, in_process: InProcess, reference: Exec, make_netns: Callable[[], Path], prev: bool
) -> None:
    theirs = Chain(lab.node, static(1), in_process, firewall=reference)
    ours = Chain(lab.node, theirs.conflist, in_process)
    theirs.add(make_netns(), "a")
    assert opened(lab) == RULES[:2]
    ours.attached = theirs.attached

    ours.delete("a", prev=prev)

    # Without it nothing tells which rules they were; so it is with the reference's own.
    assert opened(lab) == ([] if prev else RULES[:2])


@needs_reference
def test_what_ours_opened_the_reference_closes_but_for_what_it_knows_nothing_of(
    lab: Lab, in_process: InProcess, reference: Exec, make_netns: Callable[[], Path]
) -> None:
    conflist = static(1, backend="iptables")
    ours, theirs = Chain(lab.node, conflist, in_process), Chain(lab.node, conflist, in_process, firewall=reference)
    ours.add(make_netns(), "a")
    assert opened(lab) == RULES
    theirs.attached = ours.attached

    theirs.delete("a")

    assert opened(lab) == RULES[2:]
    # The next pod of that address takes it along.
    ours.add(make_netns(), "b")
    assert sorted(opened(lab)) == sorted(RULES)
    ours.delete("b")
    ours.attached["a"] = Attached(Path("/nowhere"), {}, {})
    ours.delete("a", netns=False)
    assert opened(lab) == []


@needs_reference
@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_the_result_and_the_chains_are_the_references(
    lab: Lab, in_process: InProcess, reference: Exec, make_netns: Callable[[], Path], version: str
) -> None:
    found = []
    for firewall in (reference, in_process):
        conflist = {**static(1, backend="iptables", iptablesAdminChainName="SITE"), "cniVersion": version}
        chain = Chain(lab.node, conflist, in_process, firewall=firewall)
        netns = make_netns()
        result = chain.add(netns, "a")
        rules = namespaces.shell(lab.node, "iptables -S; ip6tables -S").splitlines()
        told = {
            **result,
            "dns": result.get("dns", {}),
            "interfaces": [one["sandbox"] for one in result["interfaces"][2:]],
        }
        assert told["interfaces"] == [str(netns)]
        found.append(([line for line in rules if "DNAT" not in line], {**told, "interfaces": []}))
        chain.delete("a")

    assert found[0] == found[1]


def test_it_speaks_the_versions_that_the_references_speaks_and_later_ones(plugin: Exec, lab: Lab) -> None:
    config = {"cniVersion": "1.1.0", "name": "net1", "type": "firewall"}
    told = plugin("firewall", "VERSION", config).result
    assert told == {"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]}

    error = plugin("firewall", "ADD", {**config, "cniVersion": "0.3.1"}, netns=lab.outside, node=lab.node).error

    assert error == {
        "cniVersion": "0.3.1",
        "code": 1,
        "msg": "incompatible CNI versions",
        "details": 'config is "0.3.1", plugin supports ["0.4.0" "1.0.0" "1.1.0"]',
    }
    missing = plugin("firewall", "ADD", config, netns=lab.outside, node=lab.node).error
    assert missing["code"] == 7
    assert "prevResult" in missing["msg"]
    assert plugin("firewall", "DEL", config, netns=lab.outside, node=lab.node).result == {}

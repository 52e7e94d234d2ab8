"""A node of Kubernetes: the reference's usual chain run by our executables, many pods, and what is left of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces, oracle
from tests.conftest import REFERENCE_PLUGINS
from tests.verbs.lab import AT_ONCE_S, FAR4, FAR6, NODE4, NODE6, Chain, Lab, kubernetes
from tests.verbs.networks import addresses, host_local

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.calls import Caller, Exec, InProcess

KINDS = ("bridge", "portmap", "bandwidth", "firewall", "tuning")
needs_reference = pytest.mark.needs(*(f"{REFERENCE_PLUGINS}/{name}" for name in KINDS), "iptables")

TOLD: dict[str, Any] = {
    "portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8053, "containerPort": 53, "protocol": "udp"},
    ],
    "bandwidth": {
        "ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 40_000_000, "egressBurst": 8_000_000,
    },
    "mac": "02:00:00:00:00:99",
}  # fmt: skip
SUBNETS = ("10.1.0.0/24", "fd00:1::/64")


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what is nobody's choice: names and MACs of links, but for the MAC that was asked for.

    And without what the reference says where there is nothing to say, an empty `dns`.
    """
    links = [
        {
            "sandbox": bool(one.get("sandbox")),
            "named": one["name"] in ("cni0", "eth0") and one["name"],
            "mac": one["mac"] == TOLD["mac"],
        }
        for one in result["interfaces"]
    ]
    routes = sorted(json.dumps(route, sort_keys=True) for route in result.get("routes", ()))
    rest = {key: value for key, value in result.items() if key not in ("interfaces", "routes") and value}
    return {**rest, "interfaces": links, "routes": routes}


def reaches(lab: Lab, a: Path, b: Path, result: dict[str, Any]) -> dict[str, str]:
    """Who answers to whom, and as whom it is seen: pod `a` with its host ports, pod `b` beside it."""
    for everywhere in ("0.0.0.0", "::"):
        lab.serve(a, "tcp", everywhere, 80, "a")
    outside = [lab.serve(lab.outside, "tcp", far, 443, "far") for far in (FAR4, FAR6)]
    askers = {
        "pod to pod": (b, addresses(result)[0], 80),
        "outside to host port": (lab.outside, NODE4, 8080),
        "outside to host port, IPv6": (lab.outside, NODE6, 8080),
        "node to host port": (lab.node, NODE4, 8080),
        "localhost to host port": (lab.node, "127.0.0.1", 8080),
        "pod to host port": (b, NODE4, 8080),
        "pod to its own host port": (a, NODE4, 8080),
        "pod to outside": (b, FAR4, 443),
        "pod to outside, IPv6": (b, FAR6, 443),
    }
    heard = {name: lab.ask(netns, "tcp", address, port) for name, (netns, address, port) in askers.items()}
    for server in outside:
        lab.end(server)
    return {name: f"{one.server}, asked by {one.peer}" if one else "nobody" for name, one in heard.items()}


def seen(lab: Lab, chain: Chain, make_netns: Callable[[], Path]) -> tuple[dict[str, Any], dict[str, str]]:
    """The result of a pod with everything, and who reaches whom."""
    a, b = make_netns(), make_netns()
    result = chain.add(a, "a", **TOLD)
    chain.add(b, "b")
    found = comparable(result), reaches(lab, a, b, result)
    for outcome in (*chain.detach("a"), *chain.detach("b")):
        assert outcome.code == 0, outcome
    return found


@needs_reference
@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_the_reference_s_usual_chain_is_the_same_by_our_executables(
    version: str, lab: Lab, make_netns: Callable[[], Path], data_dir: Path, plugin: Exec, reference: Exec
) -> None:
    lab.bridge_nf(True)

    theirs, ours = (
        seen(lab, Chain(lab.node, kubernetes(data_dir / whose, *SUBNETS, version=version), caller), make_netns)
        for whose, caller in (("theirs", reference), ("ours", plugin))
    )

    assert ours[0] == theirs[0]
    assert "nobody" not in ours[1].values()
    # Who asks a host port of the pod's is not the same in all cases: ours keeps the sender where it can.
    assert {name: told.partition(",")[0] for name, told in ours[1].items()} == {
        name: told.partition(",")[0] for name, told in theirs[1].items()
    }


@pytest.mark.parametrize("bridge_nf", [False, True])
def test_the_usual_chain_at_the_newest_version(
    bridge_nf: bool, lab: Lab, make_netns: Callable[[], Path], data_dir: Path, in_process: InProcess
) -> None:
    """For which the reference's of Debian are too old."""
    lab.bridge_nf(bridge_nf)
    chain = Chain(lab.node, kubernetes(data_dir, *SUBNETS, version="1.1.0"), in_process)
    a, b = make_netns(), make_netns()

    result = chain.add(a, "a", **TOLD)
    chain.add(b, "b")

    assert chain.status().code == 0
    assert chain.check("a").code == 0, chain.check("a")
    assert "nobody" not in reaches(lab, a, b, result).values()
    assert [one.code for one in chain.collect(("a", "eth0"))] == [0] * len(chain.plugins)
    assert [link.name for link in oracle.links(b)] == []
    assert chain.check("a").code == 0
    chain.delete("a")
    assert [link.name for link in oracle.links(lab.node)] == ["cni0", "up0"]


@needs_reference
@pytest.mark.parametrize("ours", [KINDS[:1], KINDS[1:3], KINDS[3:], ("portmap",), ("bandwidth", "tuning")])
def test_chains_may_be_mixed(
    ours: tuple[str, ...],
    lab: Lab,
    make_netns: Callable[[], Path],
    data_dir: Path,
    in_process: InProcess,
    reference: Exec,
) -> None:
    conflist = kubernetes(data_dir, *SUBNETS, version="1.0.0")
    others: dict[str, Caller] = dict.fromkeys(ours, in_process)
    lab.bridge_nf(True)

    _, who = seen(lab, Chain(lab.node, conflist, reference, **others), make_netns)

    assert "nobody" not in who.values()
    assert [link.name for link in oracle.links(lab.node)] == ["cni0", "up0"]


# --- many pods ----------------------------------------------------------------------------------------


def pods_conflist(data_dir: Path, kind: str) -> dict[str, Any]:
    """One `podwire`, or the same by a chain."""
    ipam = host_local(data_dir, "10.244.0.0/16", "fd00:244::/64")
    if kind == "podwire":
        told = {"portMappings": True, "bandwidth": True}
        plugins: list[dict[str, Any]] = [{"type": "podwire", "ipam": ipam, "capabilities": told}]
    else:
        plugins = [
            {"type": "bridge", "isDefaultGateway": True, "ipMasq": True, "macspoofchk": True, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
            {"type": "firewall", "ingressPolicy": "same-bridge"},
        ]  # fmt: skip
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}


def state(lab: Lab, run_dir: Path) -> dict[str, object]:
    """What must be as it was: elements, claims, records, queues, links, connections."""
    return {
        "elements": lab.elements(),
        "claims": sorted(path.name for path in run_dir.glob("claims/*")),
        "records": sorted(path.name for path in run_dir.glob("attachments/*/*")),
        "links": sorted(link.name for link in oracle.links(lab.node)),
        "queues": [line for line in namespaces.shell(lab.node, "tc qdisc show").splitlines() if "tbf" in line],
        "neighbours": sorted(it.address for it in oracle.neighbours(lab.node) if "244" in it.address),
        "flows": [flow for flow in lab.flows() if "10.244." in str(flow)],
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "count"), [("podwire", 200), ("chain", 40)])
def test_rules_do_not_grow_with_pods_and_nothing_is_left_of_them(
    kind: str, count: int, lab: Lab, crowd: namespaces.Crowd, data_dir: Path, in_process: InProcess
) -> None:
    chain = Chain(lab.node, pods_conflist(data_dir, kind), in_process)
    rates = {"ingressRate": 100_000_000, "egressRate": 100_000_000}

    def attach(n: int) -> Path:
        netns = crowd.make(f"pod{n}")
        mapping = {"hostPort": 20_000 + n, "containerPort": 80, "protocol": "tcp" if n % 2 else "udp"}
        chain.add(netns, f"pod{n}", portMappings=[mapping], bandwidth=rates)
        return netns

    attach(count)
    chain.delete(f"pod{count}")
    before = state(lab, in_process.run_dir)
    netns = {0: attach(0)}
    rules = lab.rules()
    for n in range(1, count):
        netns[n] = attach(n)

    assert lab.rules() == rules
    assert sum(lab.elements().values()) > 3 * count
    for n in range(0, count, max(count // 10, 1)):
        protocol = "tcp" if n % 2 else "udp"
        lab.serve(netns[n], protocol, "0.0.0.0", 80, f"pod{n}")
        heard = lab.ask(lab.outside, protocol, NODE4, 20_000 + n)
        assert heard and heard.server == f"pod{n}"

    for n in range(count):
        if n % 2:
            crowd.end(netns[n])
        chain.delete(f"pod{n}", netns=not n % 2, told=bool(n % 4 < 2))

    assert state(lab, in_process.run_dir) == before


# --- the first instruction ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_the_first_packet_of_each_of_two_hundred_pods_arrives(
    family: int, lab: Lab, crowd: namespaces.Crowd, data_dir: Path, in_process: InProcess
) -> None:
    """A connection whose first packet is lost takes a second longer."""
    chain = Chain(lab.node, pods_conflist(data_dir, "podwire"), in_process)
    everywhere, far = (("0.0.0.0", FAR4), ("::", FAR6))[family]
    first = crowd.make("first")
    there = addresses(chain.add(first, "first"))[family]
    lab.serve(first, "tcp", everywhere, 80, "pod")
    lab.serve(lab.node, "tcp", everywhere, 81, "gateway")
    lab.serve(lab.outside, "tcp", far, 82, "outside")
    late = []

    for n in range(200):
        netns = crowd.make(f"pod{n}")
        result = chain.add(netns, f"pod{n}")
        gateway = result["ips"][family]["gateway"]
        # In turns, so that each of them is the very first.
        targets = [(there, 80), (gateway, 81), (far, 82)]
        for address, port in targets[n % 3 :] + targets[: n % 3]:
            if not lab.ask(netns, "tcp", address, port, timeout=AT_ONCE_S):
                late.append((n, address))

    assert late == []

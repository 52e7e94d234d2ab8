"""The laboratory itself: what its answers mean, by the reference's plugins, which are known to do what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces, oracle
from tests.conftest import REFERENCE_PLUGINS
from tests.verbs.frames import Tap, arp_reply, datagram, neighbour_advertisement, syn
from tests.verbs.lab import (
    AT_ONCE_S,
    FAR4,
    FAR6,
    NODE4,
    NODE6,
    OUTSIDE4,
    OUTSIDE6,
    PATIENCE_S,
    SILENCE_S,
    UPLINK,
    Chain,
    Heard,
    Lab,
    kubernetes,
)  # fmt: skip
from tests.verbs.networks import addresses, host_local

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.calls import Exec, InProcess

needs_reference = pytest.mark.needs(
    *(f"{REFERENCE_PLUGINS}/{name}" for name in ("bridge", "portmap", "bandwidth", "firewall", "tuning")), "iptables"
)

MAPPINGS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]


def conflist(data_dir: Path, **keys: Any) -> dict[str, Any]:
    """The usual: a bridge with masquerade, and host ports."""
    bridge = {
        "type": "bridge",
        "bridge": "br0",
        "isDefaultGateway": True,
        "ipMasq": True,
        "ipam": host_local(data_dir, "10.1.0.0/24", "fd00:1::/64"),
        **keys,
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "lan", "plugins": [bridge, portmap]}


# --- node and outside ---------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("near", "far", "beyond", "everywhere"),
    [(NODE4, OUTSIDE4, FAR4, "0.0.0.0"), (NODE6, OUTSIDE6, FAR6, "::")],
    ids=["ipv4", "ipv6"],
)
def test_an_answer_tells_who_was_asked_and_by_whom(
    protocol: str, near: str, far: str, beyond: str, everywhere: str, lab: Lab
) -> None:
    there = lab.serve(lab.outside, protocol, beyond, 53, "resolver")
    lab.serve(lab.node, protocol, everywhere, 80, "node")

    asked = lab.ask(lab.node, protocol, beyond, 53, timeout=AT_ONCE_S)
    back = lab.ask(lab.outside, protocol, near, 80, source=far)

    assert asked and asked[:2] == ("resolver", near) and asked[3:] == (beyond, 53)
    assert back and back[:2] == ("node", far)
    assert there.heard == [asked]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_no_answer_is_none(protocol: str, lab: Lab) -> None:
    server = lab.serve(lab.outside, protocol, OUTSIDE4, 80)
    assert lab.ask(lab.node, protocol, OUTSIDE4, 81) is None  # refused
    assert lab.ask(lab.outside, protocol, "203.0.113.1", 80) is None  # no way there

    lab.nft(
        "table ip dropping { chain out { type filter hook output priority 0; tcp dport 80 drop; udp dport 80 drop; }; }"
    )
    assert lab.ask(lab.node, protocol, OUTSIDE4, 80, timeout=SILENCE_S) is None

    lab.nft("delete table ip dropping")
    assert lab.ask(lab.node, protocol, OUTSIDE4, 80)
    lab.end(server)
    assert lab.ask(lab.node, protocol, OUTSIDE4, 80) is None
    assert len(server.heard) == 1


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_client_keeps_its_flow(protocol: str, lab: Lab) -> None:
    lab.serve(lab.outside, protocol, OUTSIDE4, 53, "resolver")
    client = lab.client(lab.node, protocol, NODE4, 5353)

    assert [client.ask(OUTSIDE4, 53) for _ in range(3)] == [Heard("resolver", NODE4, 5353, OUTSIDE4, 53)] * 3


def test_sctp_is_asked_for_where_the_kernel_has_it(lab: Lab) -> None:
    lab.serve(lab.outside, "sctp", OUTSIDE4, 80, "server")

    assert lab.ask(lab.node, "sctp", OUTSIDE4, 80)


@pytest.mark.needs("conntrack")
def test_flows_are_what_conntrack_knows(lab: Lab) -> None:
    lab.nft(
        "table ip nat { chain pre { type nat hook prerouting priority -100; udp dport 53 dnat to 10.99.0.1:5353; };"
        " chain post { type nat hook postrouting priority 100; }; }"
    )
    lab.serve(lab.node, "udp", NODE4, 5353, "resolver")
    client = lab.udp_client(lab.outside, OUTSIDE4, 40000)
    assert lab.flows() == []

    assert client.ask(NODE4, 53) == Heard("resolver", OUTSIDE4, 40000, NODE4, 5353)

    assert lab.flows() == [("udp", OUTSIDE4, NODE4, 40000, 53, NODE4, OUTSIDE4, 5353, 40000)]


def test_rules_and_elements_are_counted_in_all_tables(lab: Lab) -> None:
    lab.nft("""
        table inet a {
            set s { type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2 }; }
            set none { type ipv4_addr; }
            map m { type inet_service : ipv4_addr; elements = { 80 : 10.0.0.1 }; }
            chain c { ip saddr @s accept; ip daddr @s accept; }
        }
        table bridge b { chain c { accept; }; }
    """)

    assert lab.rules() == 3
    assert lab.elements() == {"inet a s": 2, "inet a m": 1}


@pytest.mark.parametrize("on", [True, False])
def test_bridged_packets_pass_the_ip_firewall_where_that_is_asked_for(
    on: bool, lab: Lab, network: Callable[..., Any], make_netns: Callable[[], Path]
) -> None:
    lab.bridge_nf(on)
    lan = network("10.1.0.0/24", isGateway=True)
    a, b = make_netns(), make_netns()
    lan.add(a, "a")
    lan.add(b, "b")
    lab.serve(b, "udp", "10.1.0.3", 53, "b")

    lab.nft("table ip filter { chain forward { type filter hook forward priority 0; udp dport 53 drop; }; }")
    heard = lab.ask(a, "udp", "10.1.0.3", 53, timeout=SILENCE_S if on else PATIENCE_S)

    assert (heard and heard.peer) == (None if on else "10.1.0.2")


# --- frames -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("near", "far"), [(NODE4, "10.99.0.77"), (NODE6, "fd99::77")], ids=["ipv4", "ipv6"])
def test_what_is_sent_raw_is_understood(near: str, far: str, lab: Lab) -> None:
    server = lab.serve(lab.node, "udp", near, 53, "resolver")
    lab.serve(lab.node, "tcp", near, 80, "web")
    node, attacker = oracle.link(lab.node, UPLINK).mac, oracle.link(lab.outside, "eth0").mac
    answers = datagram(attacker, node, near, far, 40000).protocol, syn(attacker, node, near, far, 40000).protocol

    with Tap(lab.outside, "eth0") as tap:
        tap.send(datagram(node, attacker, far, near, 53))
        assert tap.first(lambda frame: frame.asks_for(far))
        tap.send(neighbour_advertisement(attacker, far) if ":" in far else arp_reply(attacker, far))

        said = tap.first(lambda frame: frame.protocol == answers[0])
        tap.send(syn(node, attacker, far, near, 80))
        greeting = tap.first(lambda frame: frame.protocol == answers[1])

    assert server.heard == [Heard("resolver", far, 40000, near, 53)]
    assert said and b"resolver" in said.payload
    assert greeting and greeting.payload[(40 if ":" in far else 20) + 13] == 0x12  # SYN and ACK


# --- chains -------------------------------------------------------------------------------------------


@needs_reference
@pytest.mark.parametrize("whose", ["theirs", "mixed", "mixed, by exec"])
@pytest.mark.parametrize("bridge_nf", [False, True])
def test_the_usual_chain_works_in_the_laboratory(
    whose: str,
    bridge_nf: bool,
    lab: Lab,
    make_netns: Callable[[], Path],
    data_dir: Path,
    in_process: InProcess,
    plugin: Exec,
    reference: Exec,
) -> None:
    lab.bridge_nf(bridge_nf)
    if whose == "theirs":
        chain = Chain(lab.node, conflist(data_dir), reference)
    else:
        # Without masquerade, so that it shows whose bridge it is.
        ours = plugin if "exec" in whose else in_process
        chain = Chain(lab.node, conflist(data_dir, ipMasq=False), ours, portmap=reference)
    a, b = make_netns(), make_netns()
    before = lab.rules()

    result = chain.add(a, "a", portMappings=MAPPINGS)
    chain.add(b, "b")

    assert addresses(result) == ["10.1.0.2", "fd00:1::2"]
    lab.serve(a, "tcp", "0.0.0.0", 80, "a")
    lab.serve(a, "tcp", "::", 80, "a")
    lab.serve(lab.outside, "tcp", FAR4, 443, "far")
    for who, address in ((lab.outside, NODE4), (lab.outside, NODE6), (lab.node, "127.0.0.1"), (b, "10.1.0.1")):
        heard = lab.ask(who, "tcp", address, 8080)
        assert heard and heard.server == "a", (who, address)
    beyond = lab.ask(b, "tcp", FAR4, 443, timeout=PATIENCE_S if whose == "theirs" else SILENCE_S)
    assert (beyond and beyond.peer) == (NODE4 if whose == "theirs" else None)
    lab.route_back("10.1.0.0/24")
    beyond = lab.ask(b, "tcp", FAR4, 443)
    assert (beyond and beyond.peer) == (NODE4 if whose == "theirs" else "10.1.0.3")
    assert chain.check("a", but=["portmap"]).code == 0

    chain.delete("a")
    chain.delete("b", netns=False, told=False)

    assert lab.ask(lab.outside, "tcp", NODE4, 8080) is None
    assert lab.rules() >= before


@needs_reference
@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_the_usual_chain_of_a_kubernetes_node_is_the_reference_s(
    version: str, lab: Lab, make_netns: Callable[[], Path], data_dir: Path, reference: Exec
) -> None:
    chain = Chain(lab.node, kubernetes(data_dir, "10.1.0.0/24", version=version), reference)
    a, b = make_netns(), make_netns()
    rates = {"ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 40_000_000, "egressBurst": 8_000_000}
    mac = "02:00:00:00:00:99"

    result = chain.add(a, "a", portMappings=MAPPINGS, bandwidth=rates, mac=mac)
    chain.add(b, "b")

    ifb = result["interfaces"][3]["name"]
    assert "rate 40Mbit" in namespaces.shell(lab.node, f"tc qdisc show dev {ifb}")
    assert oracle.link(a, "eth0").mac == mac
    lab.serve(a, "tcp", "0.0.0.0", 80, "a")
    for who, address in ((lab.outside, NODE4), (b, "10.1.0.1"), (a, "10.1.0.1")):
        assert lab.ask(who, "tcp", address, 8080), (who, address)
    chain.delete("a")
    chain.delete("b")
    assert [link.name for link in oracle.links(lab.node)] == ["cni0", UPLINK]


@needs_reference
def test_a_chain_stops_at_the_first_plugin_that_fails(
    lab: Lab, netns: Path, data_dir: Path, in_process: InProcess, reference: Exec
) -> None:
    chain = Chain(lab.node, conflist(data_dir, ipMasq=False), in_process, portmap=reference)

    outcome = chain.attach(netns, portMappings=[{"hostPort": 0, "containerPort": 80, "protocol": "tcp"}])

    assert "Invalid host port" in outcome.error["msg"]
    assert chain.attached["a"].result == {}
    assert [one.code for one in chain.detach(told=False)] == [0, 0]


# --- crowds -------------------------------------------------------------------------------------------


def test_a_crowd_of_pods_lives_in_open_files(lab: Lab, crowd: namespaces.Crowd, network: Callable[..., Any]) -> None:
    lan = network("10.1.0.0/24", isGateway=True)
    pods = [crowd.make(f"pod{n}") for n in range(50)]

    for n, pod in enumerate(pods):
        lan.add(pod, f"pod{n}")
    lab.serve(pods[-1], "tcp", "10.1.0.51", 80, "last")

    heard = lab.ask(pods[0], "tcp", "10.1.0.51", 80)
    assert heard and heard[:2] == ("last", "10.1.0.2")
    crowd.end(pods[0])
    assert not pods[0].exists()
    lan.delete("pod0", pods[0])
    lan.delete("pod1", pods[1])

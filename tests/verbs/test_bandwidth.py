"""bandwidth behind a bridge: what really passes, what is found missing, and that nothing is left."""

from __future__ import annotations

import json
import select
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from cni.kernel.ports import Ifb
from cni.kernel.tc import IngressQdisc, Redirect, TokenBucket
from tests import namespaces, oracle
from tests.conftest import REFERENCE_PLUGINS
from tests.verbs.lab import Chain, kubernetes
from tests.verbs.networks import Network, host_local, port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.calls import Exec, InProcess

BOTH: dict[str, Any] = {"ingressRate": 20_000_000, "egressRate": 10_000_000}
RUNTIMES_NONE = (1 << 32) - 1
"""The burst that containerd fills in where a pod's annotations name a rate alone."""

POD, NODE = "10.1.0.2", "10.1.0.1"
INCOMING = 0xFFFFFFF2  # linux/pkt_sched.h: where filters of what is received hang

UDP_SEGMENT = 103  # linux/udp.h


def test_neither_port_nor_ifb_has_an_address(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    shaped = lan.chained("bandwidth", result, **BOTH).add(netns)
    ifb = shaped["interfaces"][3]["name"]

    told = json.loads(namespaces.shell(lan.node, "ip -json address"))

    links = {one["ifname"]: (one["flags"], one["addr_info"]) for one in told}
    for name in (port(result), ifb):
        flags, found = links[name]
        assert "UP" in flags
        assert found == []


# --- what passes ------------------------------------------------------------------------------------


class Passed(NamedTuple):
    """What of a stream arrived."""

    payload_bytes: int
    seconds: float
    curve: tuple[tuple[float, int], ...]
    """When how much of it was there."""


def stream(sender: Path, receiver: Path, address: str, protocol: str, seconds: float) -> Passed:
    """As much as fits, from one namespace to another, for this time. `protocol`: tcp, udp, or udp in trains (GSO)."""
    trains = protocol == "udp in trains"
    if protocol == "tcp":
        with namespaces.listening(receiver, address, 7000) as listener:
            tx = namespaces.inside(sender, lambda: socket.create_connection((address, 7000), 5))
            rx, _ = listener.accept()
    else:
        rx = namespaces.inside(receiver, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        rx.bind((address, 7000))
        tx = namespaces.inside(sender, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        tx.connect((address, 7000))
        if trains:
            tx.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1400)
    data = bytes(1 << 18) if protocol == "tcp" else bytes(1400 * (40 if trains else 1))
    arrived, curve = 0, []
    with tx, rx:
        tx.setblocking(False)
        rx.setblocking(False)
        begun = time.monotonic()
        end = begun + seconds
        while (now := time.monotonic()) < end:
            readable, writable, _ = select.select([rx], [tx], [], end - now)
            if readable:
                try:
                    for _ in range(64):
                        arrived += len(rx.recv(1 << 20))
                except BlockingIOError:
                    pass
                curve.append((time.monotonic() - begun, arrived))
            if writable:
                try:
                    tx.send(data)
                except BlockingIOError:
                    pass
        took = time.monotonic() - begun
        # What is under way is not waited for.
        tx.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return Passed(arrived, took, tuple(curve))


def sent_bytes(node: Path, link: str) -> int:
    """What a link's root qdisc has let pass, with all headers."""
    found = json.loads(namespaces.shell(node, f"tc -s -j qdisc show dev {link}"))
    return int(next(one["bytes"] for one in found if one.get("root")))


class Share(NamedTuple):
    """How much of the rate a stream made use of."""

    wire: float
    """With headers."""
    payload: float
    """Once the burst was spent."""


class Shaped(NamedTuple):
    """A pod whose traffic is shaped."""

    node: Path
    pod: Path
    port: str
    ifb: str
    burst_bits: int

    pod_address: str = POD
    node_address: str = NODE

    def passes(self, direction: str, protocol: str, rate: int, seconds: float) -> Share:
        """Never, from the first byte to the last, is it more than a tenth above the rate, once the burst is spent."""
        there = direction == "to the pod"
        sender, receiver = (self.node, self.pod) if there else (self.pod, self.node)
        link = self.port if there else self.ifb
        begun, before = time.monotonic(), sent_bytes(self.node, link)
        passed = stream(sender, receiver, self.pod_address if there else self.node_address, protocol, seconds)
        wire = sent_bytes(self.node, link) - before
        assert 8 * wire <= self.burst_bits + 1.1 * rate * (time.monotonic() - begun)
        for after, arrived in passed.curve:
            assert 8 * arrived <= self.burst_bits + 1.1 * rate * after, f"{arrived} bytes in {after} s"
        # Whether the bucket was full to begin with depends on what was before; after that much it is empty.
        spent, arrived = next((one for one in passed.curve if 8 * one[1] >= self.burst_bits), (0.0, 0))
        payload = (passed.payload_bytes - arrived) / (passed.seconds - spent)
        framed = 1442 / 1400 if protocol != "tcp" else 1514 / 1448
        return Share(8 * passed.payload_bytes * framed / passed.seconds / rate, 8 * payload / rate)


def burst_bits(rate: int) -> int:
    """The default."""
    return max(3 * 8 * 1518, rate // 100)


@pytest.fixture
def shaped(lan: Network, make_netns: Callable[[], Path]) -> Callable[..., Shaped]:
    """A pod behind a bridge, shaped both ways as a runtime has it that knows of a rate alone."""

    def made(rate: int) -> Shaped:
        pod = make_netns()
        result = lan.add(pod)
        told = {"ingressRate": rate, "ingressBurst": RUNTIMES_NONE, "egressRate": rate, "egressBurst": RUNTIMES_NONE}
        after = lan.chained("bandwidth", result, runtimeConfig={"bandwidth": told}).add(pod)
        return Shaped(lan.node, pod, port(after), after["interfaces"][3]["name"], burst_bits(rate))

    return made


DIRECTIONS = ("to the pod", "from the pod")
PROTOCOLS = ("tcp", "udp", "udp in trains")


@pytest.mark.parametrize("mbit", [1, 10, 100, 1000])
def test_no_more_than_the_rate_passes_and_no_less(shaped: Callable[..., Shaped], mbit: int) -> None:
    rate = mbit * 1_000_000
    it = shaped(rate)
    for direction in DIRECTIONS:
        for protocol in PROTOCOLS:
            # A machine that has no time for us lets less pass than could; more, never.
            least = 0.9 if mbit <= 100 else 0
            found: list[float] = []
            while not found or (found[-1] < least and len(found) < 5):
                found.append(it.passes(direction, protocol, rate, 0.3).wire)
            assert found[-1] >= least, (direction, protocol, found)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["tcp", "udp in trains"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("mbit", [2, 5, 20, 50, 200, 500])
def test_what_arrives_is_what_was_asked_for(
    shaped: Callable[..., Shaped], mbit: int, direction: str, protocol: str, record_property: Callable[..., None]
) -> None:
    """Payload, as who measures sees it: of TCP 95.6 % of the bytes on the wire."""
    rate = mbit * 1_000_000
    it = shaped(rate)
    least = 0.9 if mbit <= 100 else 0
    found: list[float] = []
    while not found or (found[-1] < least and len(found) < 3):
        found.append(it.passes(direction, protocol, rate, 2).payload)
    record_property("share of the rate", found)
    print(f"{mbit} Mbit/s {direction} {protocol}: {found}")  # noqa: T201  # to be reported, above 100 Mbit/s
    assert found[-1] >= least, found


def test_pods_of_one_bridge_are_shaped_too(lan: Network, make_netns: Callable[[], Path]) -> None:
    a, b = make_netns(), make_netns()
    rate = 10_000_000
    after = lan.chained("bandwidth", lan.add(a, "a"), egressRate=rate).add(a, "a")
    lan.add(b, "b")
    it = Shaped(lan.node, a, port(after), after["interfaces"][3]["name"], burst_bits(rate))
    before = sent_bytes(it.node, it.ifb)

    passed = stream(a, b, "10.1.0.3", "tcp", 0.3)

    assert 0 < 8 * passed.payload_bytes <= it.burst_bits + 1.1 * rate * passed.seconds
    assert sent_bytes(it.node, it.ifb) - before >= passed.payload_bytes


def test_ipv6_is_shaped_too(lan: Network, netns: Path) -> None:
    after = lan.chained("bandwidth", lan.add(netns), **BOTH).add(netns)
    links = port(after), after["interfaces"][3]["name"]
    before = [sent_bytes(lan.node, link) for link in links]

    assert namespaces.tcp(netns, lan.node, "fd00:1::1", size=100_000) == "fd00:1::2"

    assert [sent_bytes(lan.node, link) - was > 100_000 for link, was in zip(links, before, strict=True)] == [True, True]


@pytest.mark.parametrize("gone", [False, True], ids=["", "and the namespace goes first"])
def test_podwire_shapes_in_the_same_call(in_process: InProcess, node: Path, data_dir: Path, gone: bool) -> None:
    rate = 10_000_000
    config = {"cniVersion": "1.1.0", "name": "pods", "type": "podwire", "ipam": host_local(data_dir, "10.1.0.0/24")}
    pods = Network(in_process, node, config, data_dir)
    limits = {"ingressRate": rate, "egressRate": rate}
    with namespaces.held() as pod:
        result = pods.but(runtimeConfig={"bandwidth": limits}).add(pod)
        ifb = result["interfaces"][3]["name"]
        it = Shaped(node, pod, port(result), ifb, burst_bits(rate), POD, result["ips"][0]["gateway"])
        for direction in DIRECTIONS:
            assert any(it.passes(direction, "tcp", rate, 0.3).wire >= 0.9 for _ in range(5))
        assert pods.check(result, pod).result == {}
        if not gone:
            pods.delete(netns=pod)
    if gone:
        pods.delete()

    assert [link.kind for link in oracle.links(node)] == ["bridge"]
    assert oracle.qdiscs(node) == []
    assert pods.records == {}


# --- what there is ----------------------------------------------------------------------------------


def state(node: Path) -> object:
    """Queues, filters and links of a node."""
    links = oracle.links(node)
    filters = [oracle.filters(node, link.name, INCOMING) for link in links if link.kind == "veth"]
    return oracle.qdiscs(node), filters, [(link.name, link.index, link.kind, link.mtu) for link in links]


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_each_version_is_spoken_by_the_executable(
    plugin: Exec, node: Path, lan: Network, netns: Path, version: str
) -> None:
    lan = Network(plugin, node, {**lan.config, "cniVersion": version}, lan.data_dir)
    result = lan.add(netns)
    before = state(node)
    shaping = lan.chained("bandwidth", result, **BOTH)

    after = shaping.add(netns)

    ifb = oracle.link(node, after["interfaces"][3]["name"])
    told = {"name": ifb.name, "mac": ifb.mac, **({"mtu": 1500} if version in ("1.0.0", "1.1.0") else {})}
    assert after == {**result, "interfaces": [*result["interfaces"], told]}
    assert (ifb.kind, ifb.up, ifb.mtu, ifb.alias) == ("ifb", True, 1500, "lan/a@eth0@bandwidth")
    assert {(one.link, one.kind, 8 * one.rate_bytes_per_s) for one in oracle.qdiscs(node)} == {
        (port(result), "tbf", 20_000_000),
        (port(result), "clsact", 0),
        (ifb.name, "tbf", 10_000_000),
    }
    assert namespaces.tcp(netns, node, NODE) == POD
    if version not in ("0.3.0", "0.3.1"):
        assert shaping.but(prevResult=after).call("CHECK", netns=netns).result == {}
        assert lan.check(after, netns).result == {}
    shaping.but(prevResult=after).delete(netns=netns)
    assert state(node) == before
    assert namespaces.tcp(netns, node, NODE) == POD
    lan.but(prevResult=after).delete(netns=netns)


def test_earlier_versions_are_not_spoken(lan: Network, netns: Path) -> None:
    error = lan.chained("bandwidth", lan.add(netns)).but(cniVersion="0.2.0").call("ADD", netns=netns).error

    assert error["code"] == 1


@pytest.mark.parametrize(
    ("keys", "kinds"),
    [
        ({}, []),
        ({"ingressRate": 1_000_000}, ["tbf"]),
        ({"egressRate": 1_000_000}, ["clsact", "tbf"]),
    ],
)
def test_there_is_no_more_than_was_asked_for(lan: Network, netns: Path, keys: dict[str, Any], kinds: list[str]) -> None:
    result = lan.add(netns)
    before = state(lan.node)
    shaping = lan.chained("bandwidth", result, **keys)

    after = shaping.add(netns)

    assert sorted(one.kind for one in oracle.qdiscs(lan.node)) == kinds
    assert len(after["interfaces"]) == 3 + ("egressRate" in keys)
    assert shaping.but(prevResult=after).call("CHECK", netns=netns).result == {}
    shaping.but(prevResult=after).delete(netns=netns)
    assert state(lan.node) == before


def test_the_latency_is_as_configured(lan: Network, netns: Path) -> None:
    result = lan.add(netns)

    lan.chained("bandwidth", result, ingressRate=80_000_000, ingressBurst=8_000_000, latencyMs=100).add(netns)

    (seen,) = oracle.qdiscs(lan.node)
    assert (seen.rate_bytes_per_s, seen.limit_bytes) == (10_000_000, 1_000_000 + 1_000_000)


def test_two_attachments_of_a_container_do_not_meet(lan: Network, netns: Path) -> None:
    before = oracle.qdiscs(lan.node)
    results = {ifname: lan.add(netns, ifname=ifname) for ifname in ("eth0", "net1")}
    shaping = {ifname: lan.chained("bandwidth", result, **BOTH) for ifname, result in results.items()}

    after = {ifname: one.add(netns, ifname=ifname) for ifname, one in shaping.items()}

    ifbs = {ifname: result["interfaces"][3]["name"] for ifname, result in after.items()}
    assert len(set(ifbs.values())) == 2
    assert len([one for one in oracle.qdiscs(lan.node) if one.kind == "tbf"]) == 4
    shaping["eth0"].but(prevResult=after["eth0"]).delete(netns=netns)
    assert {one.link for one in oracle.qdiscs(lan.node)} == {ifbs["net1"], port(results["net1"])}
    checked = shaping["net1"].but(prevResult=after["net1"])
    assert checked.call("CHECK", netns=netns, ifname="net1").result == {}
    checked.delete(netns=netns, ifname="net1")
    assert oracle.qdiscs(lan.node) == before


# --- what is missing --------------------------------------------------------------------------------

BROKEN = {
    "the bucket to the pod": ("tc qdisc del dev {port} root", "tc qdisc add dev {port} root handle {handle} tbf"),
    "the bucket from the pod": ("tc qdisc del dev {ifb} root", "tc qdisc add dev {ifb} root handle {handle} tbf"),
    "the rate": (
        "tc qdisc change dev {port} root handle {handle} tbf rate 30mbit burst 25000 limit 87500",
        "tc qdisc add dev {port} root handle {handle} tbf rate 20000000bit burst 25000b limit 87500b",
    ),
    "the burst": (
        "tc qdisc change dev {port} root handle {handle} tbf rate 20mbit burst 50000 limit 87500",
        "tc qdisc add dev {port} root handle {handle} tbf",
    ),
    "the limit": (
        "tc qdisc change dev {port} root handle {handle} tbf rate 20mbit burst 25000 limit 97500",
        "tc qdisc add dev {port} root handle {handle} tbf",
    ),
    "the hook": ("tc qdisc del dev {port} clsact", "tc qdisc add dev {port} clsact"),
    "the filter": ("tc filter del dev {port} ingress", "tc filter add dev {port} ingress pref {pref} protocol all u32"),
    "where the filter leads": (
        "tc filter del dev {port} ingress; tc filter add dev {port} ingress pref {pref} protocol all u32 "
        "match u32 0 0 action mirred egress redirect dev br0",
        "tc filter add dev {port} ingress pref {pref} protocol all u32",
    ),
    "the ifb": ("ip link del {ifb}", "link {ifb} on the node"),
    "that the ifb is up": ("ip link set {ifb} down", "link {ifb} on the node is down"),
    "the ifb, which is another now": (
        "ip link del {ifb}; ip link add {ifb} up type ifb;"
        "tc qdisc add dev {ifb} root handle {handle} tbf rate 10mbit burst 12500 limit 43750",
        "tc filter add dev {port} ingress",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_check_notices_what_is_missing_and_del_takes_the_rest(lan: Network, netns: Path, what: str) -> None:
    result = lan.add(netns)
    before = state(lan.node)
    shaping = lan.chained("bandwidth", result, **BOTH)
    after = shaping.add(netns)
    (shown,) = json.loads(namespaces.shell(lan.node, f"tc -j qdisc show dev {port(result)} root"))
    (filter,) = oracle.filters(lan.node, port(result), INCOMING)
    names = {
        "port": port(result),
        "ifb": after["interfaces"][3]["name"],
        "handle": shown["handle"],
        "pref": filter.preference,
    }
    shaping = shaping.but(prevResult=after)
    assert shaping.call("CHECK", netns=netns).result == {}
    command, missed = (text.format(**names) for text in BROKEN[what])

    namespaces.shell(lan.node, command)

    error = shaping.call("CHECK", netns=netns).error
    assert error["code"] == 103
    assert missed in error["msg"]
    shaping.delete(netns=netns)
    # A bucket of other numbers and a filter that leads elsewhere are somebody's, and go with the port.
    if "tc qdisc change" not in command and "br0" not in command:
        assert state(lan.node) == before


# --- what is left -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["nothing", "netns", "prev", "told"])
def test_a_chain_leaves_nothing_whatever_the_runtime_has_lost(
    in_process: InProcess, node: Path, data_dir: Path, lost: str
) -> None:
    conflist = kubernetes(data_dir, "10.1.0.0/24", version="1.1.0")
    conflist["plugins"] = [one for one in conflist["plugins"] if one["type"] in ("bridge", "bandwidth")]
    chain = Chain(node, conflist, in_process)
    with namespaces.held() as netns:
        result = chain.add(netns, bandwidth={**BOTH, "egressBurst": RUNTIMES_NONE})
        assert chain.check().result == {}
        assert oracle.link(node, result["interfaces"][3]["name"]).kind == "ifb"
        if lost != "netns":
            chain.delete(prev=lost != "prev", told=lost != "told")
    if lost == "netns":
        chain.delete(netns=False, told=False)

    assert [link.name for link in oracle.links(node)] == ["cni0"]
    assert oracle.qdiscs(node) == []
    assert not list(in_process.run_dir.glob("attachments/*/*"))


def test_del_may_be_repeated(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    before = state(lan.node)
    shaping = lan.chained("bandwidth", result, **BOTH)
    shaping.delete(netns=netns)
    after = shaping.add(netns)

    for _ in range(2):
        shaping.but(prevResult=after).delete(netns=netns)

        assert state(lan.node) == before


def test_an_ifb_goes_though_its_record_and_its_namespace_went_first(lan: Network) -> None:
    with namespaces.held() as netns:
        after = lan.chained("bandwidth", lan.add(netns), **BOTH).add(netns)
        forget(lan, "bandwidth")
    ifb = after["interfaces"][3]["name"]
    assert ifbs(lan.node) == [ifb]

    lan.chained("bandwidth", after).delete()

    assert ifbs(lan.node) == []


def test_gc_takes_an_ifb_that_nobody_needs_and_leaves_the_others(lan: Network, make_netns: Callable[[], Path]) -> None:
    netns = make_netns()
    kept = lan.chained("bandwidth", lan.add(netns, "kept"), **BOTH).add(netns, "kept")["interfaces"][3]["name"]
    for pod in ("recorded", "forgotten"):
        with namespaces.held() as gone:
            lan.chained("bandwidth", lan.add(gone, pod), **BOTH).add(gone, pod)
    forget(lan, "bandwidth", "forgotten")
    assert len(ifbs(lan.node)) == 3

    assert lan.chained("bandwidth", {}, prevResult=None).collect(("kept", "eth0")).result == {}

    assert ifbs(lan.node) == [kept]
    assert [name for name in lan.records if name.endswith("bandwidth.json")] == ["kept@eth0@bandwidth.json"]


@pytest.mark.parametrize("record", ["there", "lost"])
def test_an_add_clears_up_after_an_earlier_life(lan: Network, make_netns: Callable[[], Path], record: str) -> None:
    with namespaces.held() as first:
        lan.chained("bandwidth", lan.add(first), **BOTH).add(first)
        if record == "lost":
            forget(lan, "bandwidth")
    before = ifbs(lan.node)
    assert len(before) == 1
    second = make_netns()

    result = lan.add(second)
    shaping = lan.chained("bandwidth", result, ingressRate=1_000_000, egressRate=1_000_000)
    after = shaping.add(second)

    assert ifbs(lan.node) == before
    assert shaping.but(prevResult=after).call("CHECK", netns=second).result == {}
    assert {8 * one.rate_bytes_per_s for one in oracle.qdiscs(lan.node) if one.kind == "tbf"} == {1_000_000}
    assert namespaces.tcp(second, lan.node, NODE) == interface_address(after)


def test_an_attachment_that_lives_is_left_alone(lan: Network, netns: Path) -> None:
    shaping = lan.chained("bandwidth", lan.add(netns), **BOTH)
    shaping.add(netns)
    before = state(lan.node)

    error = shaping.call("ADD", netns=netns).error

    assert error["code"] == 102
    assert state(lan.node) == before


def ifbs(node: Path) -> list[str]:
    return [link.name for link in oracle.links(node) if link.kind == "ifb"]


def forget(lan: Network, plugin: str, pod: str = "a") -> None:
    """A record is lost."""
    (lan.plugin.run_dir / "attachments" / "lan" / f"{pod}@eth0@{plugin}.json").unlink()


def interface_address(result: dict[str, Any]) -> str:
    return str(result["ips"][0]["address"]).partition("/")[0]


# --- others on the same link ------------------------------------------------------------------------


def test_the_queue_of_somebody_else_is_an_error_and_stays(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    namespaces.shell(lan.node, f"tc qdisc add dev {port(result)} root handle 1: tbf rate 1mbit burst 20000 limit 30000")
    before = state(lan.node)

    error = lan.chained("bandwidth", result, **BOTH).call("ADD", netns=netns).error

    assert error["code"] == 100
    assert f"tc qdisc add dev {port(result)} root" in error["msg"]
    assert state(lan.node) == before
    assert list(lan.records) == ["a@eth0@bridge.json"]


def test_to_shape_in_two_members_of_a_chain_is_an_error(in_process: InProcess, node: Path, data_dir: Path) -> None:
    config = {"cniVersion": "1.1.0", "name": "pods", "type": "podwire", "ipam": host_local(data_dir, "10.1.0.0/24")}
    pods = Network(in_process, node, config, data_dir).but(bandwidth=BOTH)
    with namespaces.held() as pod:
        result = pods.add(pod)

        error = pods.chained("bandwidth", result, **BOTH).call("ADD", netns=pod).error

        assert error["code"] == 100
        assert f"tc qdisc add dev {port(result)} root" in error["msg"]
        assert pods.check(result, pod).result == {}
        pods.delete(netns=pod)
    assert oracle.qdiscs(node) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_filters_of_others_are_kept_with_their_hook(lan: Network, netns: Path, when: str) -> None:
    """A policy agent's, for instance: its programs hang on the same clsact qdisc."""
    result = lan.add(netns)
    link = port(result)
    theirs = f"tc filter add dev {link} {{}} pref 7 protocol ip u32 match u32 0 0 flowid 1:1"
    shaping = lan.chained("bandwidth", result, **BOTH)
    if when == "before":
        namespaces.shell(lan.node, f"tc qdisc add dev {link} clsact; {theirs.format('ingress')}")
    after = shaping.add(netns)
    if when == "after":
        namespaces.shell(lan.node, theirs.format("egress"))
    shaping = shaping.but(prevResult=after)
    assert shaping.call("CHECK", netns=netns).result == {}
    before = sent_bytes(lan.node, after["interfaces"][3]["name"])
    assert namespaces.tcp(netns, lan.node, NODE, size=10_000) == POD
    assert when == "before" or sent_bytes(lan.node, after["interfaces"][3]["name"]) > before + 10_000

    shaping.delete(netns=netns)

    assert [one.kind for one in oracle.qdiscs(lan.node)] == ["clsact"]
    assert "pref 7" in namespaces.shell(
        lan.node, f"tc filter show dev {link} ingress; tc filter show dev {link} egress"
    )
    assert [one.preference for one in oracle.filters(lan.node, link, INCOMING)] == ([7] if when == "before" else [])


# --- what is refused --------------------------------------------------------------------------------


def test_alone_it_is_refused(lan: Network, netns: Path) -> None:
    error = lan.chained("bandwidth", {}, prevResult=None, **BOTH).call("ADD", netns=netns).error

    assert error["code"] == 7
    assert "bandwidth must be called as chained plugin" in error["msg"]


def test_what_is_no_veth_can_not_be_shaped(lan: Network, netns: Path) -> None:
    namespaces.shell(netns, "ip link add eth0 type bridge")
    result = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": str(netns)}]}

    error = lan.chained("bandwidth", result, **BOTH).call("ADD", netns=netns).error

    assert error["code"] == 7
    assert "eth0 is not one end of a veth" in error["msg"]
    assert lan.records == {}
    assert lan.chained("bandwidth", result).add(netns) == result


@pytest.mark.parametrize(
    "asked", [TokenBucket, Ifb, IngressQdisc, pytest.param(Redirect, marks=pytest.mark.needs("root"))]
)
def test_what_the_kernel_lacks_is_told_of_before_anything_is_made(
    in_process: InProcess, node: Path, data_dir: Path, netns: Path, asked: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a kernel without it: it says the same of what has never been."""
    config = {"cniVersion": "1.1.0", "name": "pods", "type": "podwire", "ipam": host_local(data_dir, "10.244.0.0/24")}
    pods = Network(in_process, node, config | {"runtimeConfig": {"bandwidth": BOTH}}, data_dir)
    question = asked.ask()  # type: ignore[attr-defined]  # each of them has it
    unknown = question._replace(body=question.body.replace(b"b", b"?").replace(b"l", b"?").replace(b"m", b"?"))
    monkeypatch.setattr(asked, "ask", lambda: unknown)
    before = namespaces.shell(node, "ip link; nft list ruleset; tc qdisc")

    error = pods.call("ADD", netns=netns).error

    assert question.option in error["msg"]
    assert (pods.records, pods.reserved) == ({}, {})
    assert namespaces.shell(node, "ip link; nft list ruleset; tc qdisc") == before

    monkeypatch.undo()
    pods.add(netns)
    monkeypatch.setattr(asked, "ask", lambda: unknown)  # what is known isn't asked again
    pods.delete(netns=netns)
    pods.add(netns)


def test_a_burst_without_a_rate_is_refused_before_anything_is_touched(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    before = state(lan.node)

    error = (
        lan.chained("bandwidth", result, ingressRate=1_000_000, egressBurst=1_000_000).call("ADD", netns=netns).error
    )

    assert error["code"] == 7
    assert "egressBurst is set, so egressRate must be too" in error["msg"]
    assert state(lan.node) == before
    assert list(lan.records) == ["a@eth0@bridge.json"]


# --- beside the reference ---------------------------------------------------------------------------

ASKED = {"ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 40_000_000, "egressBurst": 4_000_000}


@pytest.mark.needs(f"{REFERENCE_PLUGINS}/bandwidth")
@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0"])
@pytest.mark.parametrize(
    "keys",
    [
        {},
        ASKED,
        {key: value for key, value in ASKED.items() if key.startswith("ingress")},
        {key: value for key, value in ASKED.items() if key.startswith("egress")},
        {"runtimeConfig": {"bandwidth": ASKED}},
        {"ingressRate": 8_000_000, "ingressBurst": 800_000, "runtimeConfig": {"bandwidth": ASKED}},
        {"ingressRate": 0, "runtimeConfig": {"bandwidth": ASKED}},
    ],
    ids=["nothing", "both", "to the pod", "from the pod", "by the runtime", "by both", "off"],
)
def test_result_and_queues_are_as_the_references(lan: Network, netns: Path, keys: dict[str, Any], version: str) -> None:
    lan = lan.but(cniVersion=version)
    result = lan.add(netns)
    found = []
    for theirs in (True, False):
        shaping = lan.chained("bandwidth", result, theirs=theirs, **keys)
        after = shaping.add(netns)
        if version not in ("0.3.0", "0.3.1") and (keys or not theirs):  # as of 1.1.1 theirs panics at nothing asked for
            assert shaping.but(prevResult=after).call("CHECK", netns=netns).result == {}
        names = {link.name: link.kind for link in oracle.links(lan.node)}
        queues = sorted(
            (names[one.link], one.kind, one.rate_bytes_per_s, one.limit_bytes, one.buffer_ticks)
            for one in oracle.qdiscs(lan.node)
            if one.kind == "tbf"
        )
        for one in after["interfaces"]:
            one.pop("mtu", None)  # which they don't know of
        for one in after["interfaces"][3:]:
            assert one.pop("mac") == oracle.link(lan.node, one["name"]).mac
            one["name"] = names[one["name"]]
        after["dns"] = after.get("dns", {})
        found.append((after, queues))
        shaping.but(prevResult=after).delete(netns=netns)
        # As of 1.1.1 they leave the port's queues, which go with it.
        namespaces.shell(lan.node, "".join(f"tc qdisc del dev {port(result)} {at} || :;" for at in ("root", "ingress")))

    assert found[0] == found[1]

"""macspoofchk, and what `podwire` has beside it: a pod can't pretend to be another.

Frames are sent raw from inside a pod, and looked for at another pod and at the node. Each is sent unchecked too, so
that what doesn't arrive is what would have arrived.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest

from cni.features.spoofing import SpoofingFeature
from tests import namespaces, oracle
from tests.verbs import frames
from tests.verbs.frames import (
    BROADCAST,
    ETH_P_TEST,
    NEIGHBOUR_ADVERTISEMENT,
    NEIGHBOUR_SOLICITATION,
    REDIRECT,
    ROUTER_SOLICITATION,
    Frame,
    Tap,
)
from tests.verbs.networks import Network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.verbs.lab import Lab

MAC, OTHER_MAC = "02:00:00:00:00:02", "02:00:00:00:00:99"
OWN4, OWN6 = "10.1.0.2", "fd00:1::2"
THEIRS4, THEIRS6 = "10.1.0.3", "fd00:1::3"
GATEWAY4, GATEWAY6 = "10.1.0.1", "fd00:1::1"
LINK_LOCAL, NOBODY6 = "fe80::2", "::"

END = frames.experiment(MAC, OWN4, b"the end")
"""What nothing keeps out."""


class Pair(NamedTuple):
    """A pod that sends, by MAC, and another that listens, on one bridge."""

    network: Network
    sender: Path
    listener: Path

    def arrives(self, frame: Frame) -> tuple[bool, bool]:
        """Whether the other pod sees a frame, and whether the node does."""
        with (
            Tap(self.sender, "eth0") as out,
            Tap(self.listener, "eth0") as at_pod,
            Tap(self.network.node, "br0") as at_node,
        ):
            out.send(frame)
            out.send(END)
            looked_for = frames.untagged(frame)
            return looked_for in at_pod.until(END), looked_for in at_node.until(END)


@pytest.fixture
def paired(network: Callable[..., Network], make_netns: Callable[[], Path]) -> Callable[..., Pair]:
    """`paired(macspoofchk=True)`: two pods of a network that is configured so."""

    def attached(**keys: object) -> Pair:
        lan = network("10.1.0.0/24", "fd00:1::/64", isDefaultGateway=True, **keys)
        sender, listener = make_netns(), make_netns()
        lan.but(runtimeConfig={"mac": MAC}).add(sender, "a")
        lan.add(listener, "b")
        return Pair(lan, sender, listener)

    return attached


# --- MACs -------------------------------------------------------------------------------------------


def by(mac: str) -> list[Frame]:
    return [
        frames.experiment(mac, OWN4),
        frames.arp(mac, OWN4, GATEWAY4),
        frames.icmpv6(mac, LINK_LOCAL, ROUTER_SOLICITATION, bytes(4)),
        Frame(BROADCAST, mac, ETH_P_TEST, b"hello"),
        frames.tagged(frames.experiment(mac, OWN4)),
    ]


def test_a_frame_with_another_mac_goes_nowhere(paired: Callable[..., Pair]) -> None:
    pair = paired(macspoofchk=True)

    assert [pair.arrives(frame) for frame in by(MAC)] == [(True, True)] * 5
    assert [pair.arrives(frame) for frame in by(OTHER_MAC)] == [(False, False)] * 5


def test_without_the_check_it_would_arrive(paired: Callable[..., Pair]) -> None:
    pair = paired()

    assert [pair.arrives(frame) for frame in by(OTHER_MAC)] == [(True, True)] * 5


def test_the_bridge_learns_nothing_from_a_frame_that_is_dropped(paired: Callable[..., Pair]) -> None:
    pair = paired(macspoofchk=True)
    before = {entry.mac for entry in oracle.fdb(pair.network.node, "br0")}

    pair.arrives(by(OTHER_MAC)[0])

    assert {entry.mac for entry in oracle.fdb(pair.network.node, "br0")} == before


def test_pods_are_told_apart_by_their_ports(paired: Callable[..., Pair], make_netns: Callable[[], Path]) -> None:
    """One that is checked among those that are not; and a MAC that another has the right to."""
    pair = paired()
    checked = make_netns()
    pair.network.but(macspoofchk=True, runtimeConfig={"mac": OTHER_MAC}).add(checked, "c")
    frame = frames.experiment(MAC, OWN4)

    assert pair.arrives(frame) == (True, True)
    with Tap(checked, "eth0") as out, Tap(pair.listener, "eth0") as at_pod:
        out.send(frame)
        out.send(frames.experiment(OTHER_MAC, OWN4, b"the end"))
        assert frame not in at_pod.until(frames.experiment(OTHER_MAC, OWN4, b"the end"))


@pytest.mark.parametrize("keys", [{}, {"hairpinMode": True}, {"promiscMode": True}, {"ipMasq": True}], ids=str)
def test_an_honest_pod_notices_nothing(keys: dict[str, object], paired: Callable[..., Pair]) -> None:
    lan, sender, listener = paired(macspoofchk=True, **keys)

    for own, theirs, gateway in ((OWN4, THEIRS4, GATEWAY4), (OWN6, THEIRS6, GATEWAY6)):
        assert namespaces.tcp(sender, listener, theirs) == own
        assert namespaces.tcp(listener, sender, own) == theirs
        assert namespaces.tcp(sender, lan.node, gateway) == own


def test_check_notices_that_a_pod_is_not_checked_any_more(
    network: Callable[..., Network], lab: Lab, netns: Path
) -> None:
    lan = network("10.1.0.0/24", macspoofchk=True)
    result = lan.add(netns)
    assert lan.check(result, netns).code == 0
    lab.nft("flush set bridge podwire mac_ports")

    error = lan.check(result, netns).error

    assert (error["code"], "bridge podwire mac_ports" in error["msg"]) == (103, True)


@pytest.mark.parametrize("gone", [False, True], ids=["", "its namespace is gone"])
def test_nothing_is_left_of_a_pod(gone: bool, network: Callable[..., Network], lab: Lab) -> None:
    lan = network("10.1.0.0/24", macspoofchk=True)
    with namespaces.held() as pod:
        lan.add(pod)
        assert lab.elements() == {"bridge podwire mac_ports": 1, "bridge podwire macs": 1}
        if not gone:
            lan.delete(netns=pod)
    lan.delete()

    assert lab.elements() == {}


# --- addresses --------------------------------------------------------------------------------------


def neighbour(kind: int, target: str, source: str) -> Frame:
    """A question for a neighbour, or the answer of one (RFC 4861, 4.3 and 4.4)."""
    override = 0x20000000 if kind == NEIGHBOUR_ADVERTISEMENT else 0
    body = struct.pack("!I", override) + socket.inet_pton(socket.AF_INET6, target)
    return frames.icmpv6(MAC, source, kind, body)


HONEST = {
    "IPv4": frames.experiment(MAC, OWN4),
    "ARP's question": frames.arp(MAC, OWN4, GATEWAY4),
    "ARP's answer": frames.arp(MAC, OWN4, GATEWAY4, answer=True),
    "ARP without an address": frames.arp(MAC, "0.0.0.0", "10.1.0.77"),
    "IPv6": frames.experiment(MAC, OWN6),
    "a link-local address": frames.experiment(MAC, LINK_LOCAL),
    "a neighbour's question": neighbour(NEIGHBOUR_SOLICITATION, GATEWAY6, OWN6),
    "a neighbour's answer": neighbour(NEIGHBOUR_ADVERTISEMENT, OWN6, OWN6),
    "a link-local neighbour's answer": neighbour(NEIGHBOUR_ADVERTISEMENT, LINK_LOCAL, LINK_LOCAL),
    "an answer from a link-local address": neighbour(NEIGHBOUR_ADVERTISEMENT, OWN6, LINK_LOCAL),
    "detection of duplicates": neighbour(NEIGHBOUR_SOLICITATION, OWN6, NOBODY6),
    "link-local detection of duplicates": neighbour(NEIGHBOUR_SOLICITATION, LINK_LOCAL, NOBODY6),
    "the question for a router": frames.icmpv6(MAC, NOBODY6, ROUTER_SOLICITATION, bytes(4)),
}
SPOOFED = {
    "another's IPv4": frames.experiment(MAC, THEIRS4),
    "the gateway's IPv4": frames.experiment(MAC, GATEWAY4),
    "no IPv4": frames.experiment(MAC, "0.0.0.0"),
    "ARP's question of another": frames.arp(MAC, THEIRS4, GATEWAY4),
    "ARP's answer of the gateway": frames.arp(MAC, GATEWAY4, THEIRS4, answer=True),
    "ARP's answer of the gateway, as on IEEE 802": frames.arp(MAC, GATEWAY4, THEIRS4, answer=True, hardware=6),
    "another's IPv6": frames.experiment(MAC, THEIRS6),
    "no IPv6": frames.experiment(MAC, NOBODY6),
    "a neighbour's question of another": neighbour(NEIGHBOUR_SOLICITATION, GATEWAY6, THEIRS6),
    "the answer of another": neighbour(NEIGHBOUR_ADVERTISEMENT, THEIRS6, THEIRS6),
    "the answer for another": neighbour(NEIGHBOUR_ADVERTISEMENT, THEIRS6, OWN6),
    "the answer for the gateway from a link-local address": neighbour(NEIGHBOUR_ADVERTISEMENT, GATEWAY6, LINK_LOCAL),
    "the answer behind an extension header": frames.extended(neighbour(NEIGHBOUR_ADVERTISEMENT, GATEWAY6, OWN6)),
    "detection of another as a duplicate": neighbour(NEIGHBOUR_SOLICITATION, THEIRS6, NOBODY6),
    "a router's advertisement": frames.router_advertisement(MAC, LINK_LOCAL),
    "a router's advertisement behind a tag": frames.tagged(frames.router_advertisement(MAC, LINK_LOCAL)),
    "a better router": frames.icmpv6(MAC, LINK_LOCAL, REDIRECT, bytes(36)),
    "another's IPv4 behind a tag": frames.tagged(frames.experiment(MAC, THEIRS4)),
    "another's IPv4 behind two tags": frames.tagged(frames.tagged(frames.experiment(MAC, THEIRS4))),
    "the answer for another behind a tag": frames.tagged(neighbour(NEIGHBOUR_ADVERTISEMENT, THEIRS6, OWN6)),
    "what is no IP": Frame(BROADCAST, MAC, ETH_P_TEST, b"hello"),
}


@pytest.fixture
def checked(paired: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch) -> Pair:
    """Two pods whose addresses are checked. No key of the reference's says so; what `podwire` has for it is put here by
    hand."""
    monkeypatch.setattr(SpoofingFeature, "parse", lambda _conf: (SpoofingFeature(mac=False, ip=True),))
    return paired(macspoofchk=True)


def test_what_a_pod_says_of_itself_arrives(checked: Pair) -> None:
    arrived = {name: checked.arrives(frame) for name, frame in HONEST.items()}

    assert arrived == dict.fromkeys(HONEST, (True, True))


def test_what_a_pod_says_of_others_goes_nowhere(checked: Pair) -> None:
    arrived = {name: checked.arrives(frame) for name, frame in SPOOFED.items()}

    assert arrived == dict.fromkeys(SPOOFED, (False, False))


def test_unchecked_all_of_it_would_arrive(paired: Callable[..., Pair]) -> None:
    pair = paired()

    arrived = {name: pair.arrives(frame) for name, frame in SPOOFED.items()}

    assert arrived == dict.fromkeys(SPOOFED, (True, True))


def test_a_neighbour_that_is_lied_to_keeps_to_what_it_knows(checked: Pair) -> None:
    lan, listener = checked.network, checked.listener
    known = {it.address: it.mac for it in oracle.neighbours(listener)}

    for lie in (
        frames.arp(MAC, GATEWAY4, THEIRS4, answer=True),
        neighbour(NEIGHBOUR_ADVERTISEMENT, GATEWAY6, OWN6),
    ):
        checked.arrives(lie)

    assert {it.address: it.mac for it in oracle.neighbours(listener)} == known
    assert known[GATEWAY4] == known[GATEWAY6] == oracle.link(lan.node, "br0").mac


def test_an_honest_pod_whose_addresses_are_checked_notices_nothing(checked: Pair) -> None:
    lan, sender, listener = checked

    for own, theirs, gateway in ((OWN4, THEIRS4, GATEWAY4), (OWN6, THEIRS6, GATEWAY6)):
        assert namespaces.tcp(sender, listener, theirs) == own
        assert namespaces.tcp(sender, lan.node, gateway) == own
        assert namespaces.tcp(lan.node, sender, own) == gateway


def test_the_sets_can_be_read_and_written_by_nft(checked: Pair, lab: Lab) -> None:
    """What an administrator saves and loads again stays what it was."""
    saved = namespaces.shell(lab.node, "nft list table bridge podwire")

    lab.nft(f"delete table bridge podwire\n{saved}")

    assert namespaces.shell(lab.node, "nft list table bridge podwire") == saved
    assert checked.arrives(SPOOFED["the answer for another"]) == (False, False)
    assert checked.arrives(HONEST["a neighbour's answer"]) == (True, True)


def test_a_table_that_somebody_flushed_comes_back_with_the_next_pod(
    checked: Pair, lab: Lab, make_netns: Callable[[], Path]
) -> None:
    lab.nft("flush ruleset")
    lie = SPOOFED["the answer for another"]
    assert checked.arrives(lie) == (True, True)

    checked.network.add(make_netns(), "c")

    assert checked.arrives(lie) == (False, False)
    assert checked.arrives(HONEST["a neighbour's answer"]) == (True, True)

"""Frames on a link: sent raw, and watched as they pass."""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from tests import namespaces

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ETH_P_ALL, ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x3, 0x800, 0x806, 0x86DD  # linux/if_ether.h
ETH_P_8021Q = 0x8100
ETH_P_TEST = 0x88B5  # IEEE 802: local experimental
PACKET_OUTGOING = 4  # linux/if_packet.h
ICMPV6 = 58
IPPROTO_EXPERIMENT = 253  # RFC 3692
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT = 133, 134  # RFC 4861
NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT, REDIRECT = 135, 136, 137
BROADCAST = "ff:ff:ff:ff:ff:ff"


class Frame(NamedTuple):
    target: str
    source: str
    ethertype: int
    payload: bytes

    @property
    def protocol(self) -> int:
        """What the IP packet carries; -1 where there is none."""
        return {ETH_P_IP: self.payload[9], ETH_P_IPV6: self.payload[6]}.get(self.ethertype, -1)

    def asks_for(self, *addresses: str) -> bool:
        """Whether it asks who has one of the addresses: by ARP, or by what IPv6 has instead."""
        if self.ethertype == ETH_P_ARP:
            return socket.inet_ntop(socket.AF_INET, self.payload[24:28]) in addresses
        if self.ethertype == ETH_P_IPV6 and self.payload[6] == ICMPV6 and self.payload[40] == NEIGHBOUR_SOLICITATION:
            return socket.inet_ntop(socket.AF_INET6, self.payload[48:64]) in addresses
        return False


class Tap:
    """Sends frames over one link and sees those that arrive from now on."""

    def __init__(self, netns: Path | None, link: str) -> None:
        def opened() -> socket.socket:
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            tap.bind((link, ETH_P_ALL))
            return tap

        self._socket = namespaces.inside(netns, opened)
        self._socket.setblocking(False)
        self._seen: list[Frame] = []

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, frame: Frame) -> None:
        self._socket.send(_mac(frame.target) + _mac(frame.source) + struct.pack("!H", frame.ethertype) + frame.payload)

    def seen(self) -> list[Frame]:
        """What arrived since the last look."""
        found, self._seen = self._seen, []
        while True:
            try:
                data, (_link, _protocol, kind, *_rest) = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return found
            if kind != PACKET_OUTGOING:
                (ethertype,) = struct.unpack("!H", data[12:14])
                found.append(Frame(data[:6].hex(":"), data[6:12].hex(":"), ethertype, data[14:]))

    def awaited(self, ethertype: int, count: int = 1, timeout: float = 2.0) -> list[Frame]:
        """The next `count` frames of a type; fewer where no more come in time."""
        found = [frame for frame in self.seen() if frame.ethertype == ethertype]
        while len(found) < count and select.select([self._socket], [], [], timeout)[0]:
            found += [frame for frame in self.seen() if frame.ethertype == ethertype]
        return found

    def until(self, last: Frame, timeout: float = 2.0) -> list[Frame]:
        """What arrives before `last`, which must come."""
        found: list[Frame] = []
        while last not in found:
            assert select.select([self._socket], [], [], timeout)[0], f"{last} didn't come"
            found += self.seen()
        return found[: found.index(last)]

    def first(self, wanted: Callable[[Frame], bool], timeout: float = 2.0) -> Frame | None:
        """The next frame like that; what came before it is forgotten. None where it doesn't come in time."""
        deadline = time.monotonic() + timeout
        while True:
            frames = self.seen()
            for number, frame in enumerate(frames):
                if wanted(frame):
                    self._seen = frames[number + 1 :]
                    return frame
            if not select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None


def router_advertisement(mac: str, router: str, lifetime_s: int = 1800) -> Frame:
    """To all nodes: "I am a default router", with the address of the link-local `router`."""
    body = struct.pack("!BBHII", 64, 0, lifetime_s, 0, 0) + struct.pack("!BB6s", 1, 1, _mac(mac))
    return icmpv6(mac, router, ROUTER_ADVERTISEMENT, body)


def neighbour_advertisement(mac: str, address: str) -> Frame:
    """To all nodes: "I have `address`, override what you know"; anyone can say it."""
    body = struct.pack("!I", 1 << 29) + _inet(address) + struct.pack("!BB6s", 2, 1, _mac(mac))
    return icmpv6(mac, address, NEIGHBOUR_ADVERTISEMENT, body)


def arp_reply(mac: str, address: str) -> Frame:
    """To all: "`address` is at `mac`", without having been asked."""
    said = _mac(mac) + _inet(address)
    return Frame(BROADCAST, mac, ETH_P_ARP, struct.pack("!HHBBH", 1, ETH_P_IP, 6, 4, 2) + said + said)


def datagram(target_mac: str, mac: str, source: str, target: str, port: int, *, source_port: int = 40000) -> Frame:
    """A question to a UDP server, in an IPv4 or IPv6 packet that may claim whatever it likes."""
    data = b"?\n"
    head = struct.pack("!HHHH", source_port, port, 8 + len(data), 0)
    return _packet(target_mac, mac, source, target, socket.IPPROTO_UDP, head + data, 6)


def syn(target_mac: str, mac: str, source: str, target: str, port: int, *, source_port: int = 40000) -> Frame:
    """The first packet of a TCP connection: who listens there answers with a packet, if only to refuse."""
    segment = struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 5 << 4, 0x02, 0xFFFF, 0, 0)
    return _packet(target_mac, mac, source, target, socket.IPPROTO_TCP, segment, 16)


def icmpv6(mac: str, source: str, kind: int, body: bytes) -> Frame:
    """A message to all nodes of the link; `body` is what comes behind the checksum."""
    return _packet("33:33:00:00:00:01", mac, source, "ff02::1", ICMPV6, struct.pack("!BBH", kind, 0, 0) + body, 2)


def extended(frame: Frame) -> Frame:
    """The same with an IPv6 extension header before what the packet carries, which says nothing (RFC 8200, 4.3)."""
    head, body = frame.payload[:40], bytes([frame.protocol, 0, 1, 4, 0, 0, 0, 0]) + frame.payload[40:]
    return frame._replace(payload=head[:4] + struct.pack("!HB", len(body), 0) + head[7:] + body)


def experiment(mac: str, source: str, data: bytes = b"hello") -> Frame:
    """To everybody, by a protocol that nobody speaks."""
    everybody = "ff02::1" if ":" in source else "255.255.255.255"
    return _packet(BROADCAST, mac, source, everybody, IPPROTO_EXPERIMENT, bytes(2) + data, 0)


def arp(mac: str, sender: str, target: str, *, answer: bool = False, hardware: int = 1) -> Frame:
    """To everybody: who has `target`; or, as an answer, that `sender` is at `mac`."""
    body = struct.pack("!HHBBH", hardware, ETH_P_IP, 6, 4, 2 if answer else 1)
    return Frame(BROADCAST, mac, ETH_P_ARP, body + _mac(mac) + _inet(sender) + bytes(6) + _inet(target))


def tagged(frame: Frame, vlan: int = 0) -> Frame:
    """The same behind a VLAN tag; of number 0, which says of the priority only, it counts as untagged to Linux."""
    return frame._replace(ethertype=ETH_P_8021Q, payload=struct.pack("!HH", vlan, frame.ethertype) + frame.payload)


def untagged(frame: Frame) -> Frame:
    """As a tap shows it: the kernel takes a tag off first."""
    if frame.ethertype != ETH_P_8021Q:
        return frame
    (ethertype,) = struct.unpack("!H", frame.payload[2:4])
    return frame._replace(ethertype=ethertype, payload=frame.payload[4:])


def _packet(target_mac: str, mac: str, source: str, target: str, protocol: int, body: bytes, checksum_at: int) -> Frame:
    addresses = _inet(source) + _inet(target)
    pseudo = addresses + struct.pack("!II", len(body), protocol)
    body = body[:checksum_at] + struct.pack("!H", _checksum(pseudo + body)) + body[checksum_at + 2 :]
    if ":" in source:
        # Neighbour discovery believes only what no router can have passed on: a hop limit of 255.
        return Frame(
            target_mac, mac, ETH_P_IPV6, struct.pack("!IHBB", 6 << 28, len(body), protocol, 255) + addresses + body
        )
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + addresses
    return Frame(target_mac, mac, ETH_P_IP, head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + body)


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _inet(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))

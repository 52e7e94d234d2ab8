"""Frames on a link: sent raw, and watched as they pass."""

from __future__ import annotations

import select
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from tests import namespaces

if TYPE_CHECKING:
    from pathlib import Path

ETH_P_ALL, ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x3, 0x800, 0x806, 0x86DD  # linux/if_ether.h
ETH_P_TEST = 0x88B5  # IEEE 802: local experimental
PACKET_OUTGOING = 4  # linux/if_packet.h
ICMPV6 = 58
ROUTER_ADVERTISEMENT, NEIGHBOUR_SOLICITATION = 134, 135  # RFC 4861
BROADCAST = "ff:ff:ff:ff:ff:ff"


class Frame(NamedTuple):
    target: str
    source: str
    ethertype: int
    payload: bytes

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

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, frame: Frame) -> None:
        self._socket.send(_mac(frame.target) + _mac(frame.source) + struct.pack("!H", frame.ethertype) + frame.payload)

    def seen(self) -> list[Frame]:
        """What arrived since the last look."""
        found: list[Frame] = []
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
        found: list[Frame] = []
        while len(found) < count and select.select([self._socket], [], [], timeout)[0]:
            found += [frame for frame in self.seen() if frame.ethertype == ethertype]
        return found


def router_advertisement(mac: str, router: str, lifetime_s: int = 1800) -> Frame:
    """To all nodes: "I am a default router", with the address of the link-local `router`."""
    source, everyone = (socket.inet_pton(socket.AF_INET6, text) for text in (router, "ff02::1"))
    link_layer = struct.pack("!BB6s", 1, 1, _mac(mac))
    body = struct.pack("!BBHBBHII", ROUTER_ADVERTISEMENT, 0, 0, 64, 0, lifetime_s, 0, 0) + link_layer
    pseudo = source + everyone + struct.pack("!II", len(body), ICMPV6) + body
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), ICMPV6, 255)
    return Frame("33:33:00:00:00:01", mac, ETH_P_IPV6, header + source + everyone + body)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))

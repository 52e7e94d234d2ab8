"""The tables that tests of elements begin with, and what nft says of them: the second opinion on our codec."""

from __future__ import annotations

import json
import re
import shlex
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from tests import namespaces

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

VERSION = "podwire test 1"

INET = f"""
table inet podwire {{
    chain intact {{
        comment "{VERSION}"
        return
    }}
    set ports {{ type ifname; }}
    set services {{ type inet_service; }}
    set protocols {{ type inet_proto; }}
    set pods4 {{ type ifname . ipv4_addr; }}
    set pods6 {{ type ifname . ipv6_addr; }}
    map hostports_any4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map hostports6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
    map names {{ type ipv4_addr : ifname; }}
    chain chain_1 {{ }}
    chain chain_2 {{ }}
}}
"""
BRIDGE = """
table bridge podwire {
    chain intact { return; }
    set macs { type ifname . ether_addr; }
    map owners { type ether_addr : ifname; }
}
"""


def load(netns: Path, text: str = INET + BRIDGE) -> None:
    namespaces.shell(netns, f"echo {shlex.quote(text)} | nft -f -")


PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp", 136: "udplite", 1: "icmp"}


def ruleset(netns: Path) -> list[dict[str, Any]]:
    """All that nft lists; protocols as numbers, since it finds their names in /etc/protocols or not at all."""
    listed: list[dict[str, Any]] = json.loads(namespaces.shell(netns, "nft -j -p list ruleset"))["nftables"]
    return listed


class Listed(NamedTuple):
    """An element as nft lists it, in the words of an `Element`."""

    family: str
    set: str
    text: str
    comment: str


def elements(netns: Path) -> set[Listed]:
    found = set()
    for listed in ruleset(netns):
        where = listed.get("set") or listed.get("map") or {}
        key_type, value_type = where.get("type", ""), where.get("map", "")
        for element in where.get("elem", ()):
            key, value = element if isinstance(element, list) else (element, None)
            commented = key.get("elem", {"val": key}) if isinstance(key, dict) else {"val": key}
            text = _text(key_type if isinstance(key_type, str) else " . ".join(key_type), commented["val"])
            if value is not None:
                text += f" : {_text(value_type, value)}"
            found.add(Listed(where["family"], where["name"], text, commented.get("comment", "")))
    return found


def _text(type: str, value: Any) -> str:
    parts = value["concat"] if isinstance(value, dict) else [value]
    return " . ".join(
        PROTOCOLS.get(part, str(part)) if each == "inet_proto" else str(part)
        for each, part in zip(type.split(" . "), parts)
    )


def sent_by_nft(netns: Path, lines: Sequence[str]) -> list[bytes]:
    """The bodies of the messages about elements that nft sends for these lines."""
    told = namespaces.shell(netns, f"echo {shlex.quote(chr(10).join(lines))} | nft --debug=mnl -f - 2>&1")
    bodies: list[bytes] = []
    wanted = False
    for line in re.sub(r"\x1b\[[0-9;]*m", "", told).splitlines():
        # The type of a message, its fixed part, the header of an attribute, and bytes of a value.
        if header := re.match(r"\| (\d{5}) \| [A-Z-]{4} \|", line):
            kind = int(header[1])
            wanted = kind in (0xA0C, 0xA0E)
            if wanted:
                bodies.append(b"")
        elif attribute := re.match(r"\|(\d{5})\|([N-])-\|(\d{5})\|", line):
            if wanted:
                bodies[-1] += struct.pack("=HH", int(attribute[1]), int(attribute[3]) | (attribute[2] == "N") << 15)
        elif (octets := re.match(r"\| ((?:[0-9a-f]{2} ){4}) *\|", line)) and wanted:
            bodies[-1] += bytes.fromhex(octets[1])
    # The number of the set (NFTA_SET_ELEM_LIST_SET_ID) is for sets that are made in the same transaction.
    return [re.sub(rb"\x08\0\x04\0....", b"", body, count=1, flags=re.DOTALL) for body in bodies]

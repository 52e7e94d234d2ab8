"""nf_tables read back: what our table has, and what is in its sets.

For those who ask about all pods at once (GC, whoever makes tables, a DEL without a record): it costs what there is on
the node, so the usual ADD or DEL of a pod has no use for it.

A set's declaration tells its key's type as a number: six bits a field, the last field lowest. The numbers
are nft's, which the kernel keeps for it and doesn't understand.

(linux/netfilter/nf_tables.h; the numbers are those of enum datatypes in nft's include/datatype.h)
"""

from __future__ import annotations

from cni.kernel.netlink import Request, as_text, attributes, fixed, text
from cni.kernel.nft import (
    MISSING,
    NFT_MSG_GETCHAIN,
    NFT_MSG_GETSETELEM,
    NFTA_CHAIN_NAME,
    NFTA_CHAIN_TABLE,
    NFTA_DATA_VALUE,
    NFTA_SET_ELEM_DATA,
    NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE,
    NFTA_SET_ELEM_USERDATA,
    PROTOCOLS,
    TABLE,
    Element,
    comment_in,
    nfgenmsg,
)
from cni.lean import NamedTuple, struct
from ipam.address import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from cni.kernel.netlink import Socket

# linux/netfilter/nf_tables.h
NFT_MSG_GETSET: Final = 0xA0A
NFTA_SET_TABLE: Final = 1
NFTA_SET_NAME: Final = 2
NFTA_SET_FLAGS: Final = 3
NFTA_SET_KEY_TYPE: Final = 4
NFTA_SET_DATA_TYPE: Final = 6
NFT_SET_ANONYMOUS: Final = 0x1
NFT_SET_INTERVAL: Final = 0x4
NFT_SET_MAP: Final = 0x8
NFT_SET_OBJECT: Final = 0x40

# By nft's number: the word, and how many bytes such a field has.
_TYPES: Final = {
    4: ("integer", 16),  # of a raw payload expression, in our sets always of an IPv6 address's size
    7: ("ipv4_addr", 4),
    8: ("ipv6_addr", 16),
    9: ("ether_addr", 6),
    12: ("inet_proto", 1),
    13: ("inet_service", 2),
    41: ("ifname", 16),
}
_BYTES: Final = dict(_TYPES.values())
_PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}
_ATTRIBUTE = struct.Struct("=HH")


class Declared(NamedTuple):
    """A chain, set or map of our table."""

    family: str
    kind: str
    """"chain", "set" or "map", as nft wants to hear it who deletes one."""
    name: str
    type: str
    """Of a set or map, as an `Element` has it; "" where none of ours can be in it: intervals, types unknown to us."""


def declared(nl: Socket, family: str) -> list[Declared]:
    """What our table has a name for: none where it isn't there. Chains first, whose rules name the others.

    Raises NetlinkError.
    """
    found = [
        Declared(family, "chain", as_text(one[NFTA_CHAIN_NAME]), "")
        for one in _listed(nl, NFT_MSG_GETCHAIN, family, f"chains {family}", b"")
        if as_text(one[NFTA_CHAIN_TABLE]) == TABLE
    ]
    for one in _listed(nl, NFT_MSG_GETSET, family, f"sets table {family} {TABLE}", text(NFTA_SET_TABLE, TABLE)):
        flags = _number(one, NFTA_SET_FLAGS)
        if flags & NFT_SET_ANONYMOUS:
            continue
        type = "" if flags & (NFT_SET_INTERVAL | NFT_SET_OBJECT) else _type(_number(one, NFTA_SET_KEY_TYPE))
        if type and flags & NFT_SET_MAP:
            value_type = _type(_number(one, NFTA_SET_DATA_TYPE))
            type = f"{type} : {value_type}" if value_type else ""
        kind = "map" if flags & (NFT_SET_MAP | NFT_SET_OBJECT) else "set"
        found.append(Declared(family, kind, as_text(one[NFTA_SET_NAME]), type))
    return found


def elements(nl: Socket, family: str) -> list[Element]:
    """All that are in the sets and maps of our table, in no order. Raises NetlinkError.

    The kernel tells a large set in parts and counts how far it got: one that comes or goes meanwhile makes it miss
    another. Who needs all of them keeps others from changing the sets.
    """
    return [element for one in declared(nl, family) if one.type for element in _elements_of(nl, one)]


def _elements_of(nl: Socket, of: Declared) -> list[Element]:
    """Those of one set, which has a type; none where it isn't there."""
    body = text(NFTA_SET_ELEM_LIST_TABLE, TABLE) + text(NFTA_SET_ELEM_LIST_SET, of.name)
    what = f"{of.kind} {of.family} {TABLE} {of.name}"
    key_type, maps, value_type = of.type.partition(" : ")
    found = {}
    for part in _listed(nl, NFT_MSG_GETSETELEM, of.family, what, body):
        for one in _list(part.get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")):
            told = decoded(key_type, attributes(one.get(NFTA_SET_ELEM_KEY, b"")).get(NFTA_DATA_VALUE, b""))
            if maps:
                value = attributes(one.get(NFTA_SET_ELEM_DATA, b"")).get(NFTA_DATA_VALUE, b"")
                told += f" : {decoded(value_type, value)}"
            tag = comment_in(one.get(NFTA_SET_ELEM_USERDATA, b""))
            found[told] = Element(of.name, of.type, told, tag, family=of.family)
    return list(found.values())


def decoded(type: str, packed: bytes) -> str:
    """A key, or a value, as nft has it: the inverse of `nft.encoded`. Raises ValueError."""
    types = type.split(" . ")
    texts = []
    start = 0
    for each in types:
        size = _BYTES[each]
        texts.append(_field(each, packed[start : start + size]))
        start += size if len(types) == 1 else size + (-size % 4)
    if start != len(packed):
        raise ValueError(f"{len(packed)} bytes are no {type}")
    return " . ".join(texts)


def _field(type: str, packed: bytes) -> str:
    if type == "ifname":
        return as_text(packed)
    if type == "ether_addr":
        return packed.hex(":")
    if type == "integer":
        return f"0x{packed.hex()}"
    if type == "ipv4_addr" or type == "ipv6_addr":
        return str(Address.from_packed(packed))
    number = int.from_bytes(packed, "big")
    return _PROTOCOL_NAMES.get(number, str(number)) if type == "inet_proto" else str(number)


def _type(number: int) -> str:
    """nft's words for a type, "" where there is one among them that we don't know."""
    words = []
    while number:
        word, _bytes = _TYPES.get(number & 0x3F, ("", 0))
        words.append(word)
        number >>= 6
    return " . ".join(reversed(words)) if all(words) else ""


def _number(attributes: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(attributes.get(kind, b""), "big")


def _listed(nl: Socket, message: int, family: str, what: str, body: bytes) -> list[dict[int, bytes]]:
    request = Request(message, 0, nfgenmsg(family) + body, f"nft list {what}", fine=MISSING)
    return [attributes(one.body, 4) for one in nl.dump(request)]


def _list(data: bytes) -> Iterator[dict[int, bytes]]:
    """The elements of a list: attributes that all are of one kind. Raises ValueError when one does not fit."""
    start = 0
    while start + 4 <= len(data):
        length, _kind = fixed(_ATTRIBUTE, data, start)
        if length < 4 or start + length > len(data):
            raise ValueError(f"netlink list element of {length} bytes at {start} does not fit into {len(data)}")
        yield attributes(data[start + 4 : start + length])
        start += length + (-length % 4)

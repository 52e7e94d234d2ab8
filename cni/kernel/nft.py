"""nf_tables: the elements of our table's sets, by our own codec.

Our rules never change with the pods: they look a packet up in sets and maps, and a pod is elements of those. So an
ADD and a DEL are one transaction each, of a few messages; whatever text has to become rules is `ruleset`'s
business, and what lists sets is `nftlist`'s.

    batch begin │ new element │ new element │ delete element │ batch end      all of them, or none
                  table, set, [ key, value, comment ]

A key is the fields' bytes in network order, one behind the other. Where there are several, each is padded to four
bytes: nft calls it a concatenation, the kernel compares bytes and knows nothing of fields.

(linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h; the comment's form is libnftnl's, in libnftnl/udata.h)
"""

from __future__ import annotations

import errno

from cni.kernel.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLMSG_ERROR,
    NetlinkError,
    Request,
    Socket,
    as_text,
    attribute,
    attributes,
    frame,
    messages,
    nested,
    refusal,
    text,
)
from cni.lean import NamedTuple, socket
from cni.spec.errors import INVALID_CONFIG, CNIError
from ipam.address import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

TABLE: Final = "podwire"
INTACT: Final = "intact"
"""A chain of our tables that no packet comes to: its comment is the version of the rules, and its one rule goes with
them (`nft flush table` leaves chains, sets and elements)."""
FAMILIES: Final = {"ip": 2, "ip6": 10, "inet": 1, "bridge": 7}
"""nft's words for what the kernel calls NFPROTO_*."""

# linux/netfilter/nfnetlink.h
NFNL_MSG_BATCH_BEGIN: Final = 16
NFNL_MSG_BATCH_END: Final = 17
NFNL_SUBSYS_NFTABLES: Final = 10
# linux/netfilter/nf_tables.h; the subsystem stands above the message in the type of a netlink message
NFT_MSG_GETTABLE: Final = 0xA01
NFT_MSG_GETCHAIN: Final = 0xA04
NFT_MSG_NEWSETELEM: Final = 0xA0C
NFT_MSG_GETSETELEM: Final = 0xA0D
NFT_MSG_DELSETELEM: Final = 0xA0E
NFTA_TABLE_NAME: Final = 1
NFTA_CHAIN_TABLE: Final = 1
NFTA_CHAIN_NAME: Final = 3
NFTA_CHAIN_USE: Final = 6
NFTA_CHAIN_USERDATA: Final = 12
NFTA_LIST_ELEM: Final = 1
NFTA_SET_ELEM_LIST_TABLE: Final = 1
NFTA_SET_ELEM_LIST_SET: Final = 2
NFTA_SET_ELEM_LIST_ELEMENTS: Final = 3
NFTA_SET_ELEM_KEY: Final = 1
NFTA_SET_ELEM_DATA: Final = 2
NFTA_SET_ELEM_USERDATA: Final = 6
NFTA_DATA_VALUE: Final = 1

IFNAME_BYTES: Final = 16  # linux/if.h: IFNAMSIZ
PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132, "udplite": 136, "icmp": 1}
_COMMENT: Final = 0  # of a chain, and of an element: the kind of what libnftnl writes into their user data
_COMMENT_BYTES: Final = 128

NO_NF_TABLES: Final = "this kernel has no nf_tables (CONFIG_NF_TABLES)"


class Claim(NamedTuple):
    """What an attachment has to itself on the node, where an element's key doesn't name the attachment."""

    resource: str
    """As in "tcp:8080" or "address:cni0:10.244.0.5"."""
    scope: str = ""
    """Two claims of one resource conflict where their scopes are equal, or one is all addresses: 0.0.0.0, ::."""


class Element(NamedTuple):
    """One element of a set or a map of our table, in nft's own words.

    Its messages raise ValueError where `text` is not of `type`.
    """

    set: str
    type: str
    """Of the set, as its declaration has it: "ifname . ipv4_addr", or "inet_service : ipv4_addr" for a map."""
    text: str
    """Key and, behind " : ", value."""
    tag: str
    """Whose it is: the element's comment."""
    claim: Claim | None = None
    family: str = "inet"
    """Of the table: "inet" or "bridge"."""

    def make(self) -> Request:
        """Into the set, which has none of this key: EEXIST, so that nobody takes over another's element unawares."""
        return self._request(NFT_MSG_NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, "create", NONE)

    def drop(self) -> Request:
        """Of whatever value and comment. A set that is gone, with its table, has no elements either: both are fine."""
        return self._request(NFT_MSG_DELSETELEM, 0, "delete", MISSING)

    def find(self, nl: Socket) -> bool:
        """Whether the set has an element of this key, with this value and this comment."""
        message = nl.get(self._request(NFT_MSG_GETSETELEM, 0, "get", MISSING))
        if not message:
            return False
        listed = attributes(attributes(message.body, 4).get(NFTA_SET_ELEM_LIST_ELEMENTS, b""))
        found = attributes(listed.get(NFTA_LIST_ELEM, b""))
        if comment_in(found.get(NFTA_SET_ELEM_USERDATA, b"")) != self.tag:
            return False
        _, _, value_type = self.type.partition(" : ")
        if not value_type:
            return True
        there = attributes(found.get(NFTA_SET_ELEM_DATA, b"")).get(NFTA_DATA_VALUE)
        return there == encoded(value_type, self.text.partition(" : ")[2])

    def line(self, verb: str = "add") -> str:
        """What nft does this with: "add", "create", "delete" or "get" it. The first takes one that is there already for
        this one, and leaves it the comment that it has. The line may be one of many in a text for `ruleset`."""
        key_type, _, value_type = self.type.partition(" : ")
        key, _, value = self.text.partition(" : ")
        told = _quoted(key_type, key)
        if verb == "add" or verb == "create":
            told += f' comment "{self.tag}"' + (f" : {_quoted(value_type, value)}" if value else "")
        return f"{verb} element {self.family} {TABLE} {self.set} {{ {told} }}"

    def _request(self, message: int, flags: int, verb: str, fine: frozenset[int]) -> Request:
        key_type, maps, value_type = self.type.partition(" : ")
        key, colon, value = self.text.partition(" : ")
        if maps != colon:
            raise ValueError(f"{self.text!r} is no element of {self.type}")
        parts = nested(NFTA_SET_ELEM_KEY, attribute(NFTA_DATA_VALUE, encoded(key_type, key)))
        if message == NFT_MSG_NEWSETELEM:
            if maps:
                parts += nested(NFTA_SET_ELEM_DATA, attribute(NFTA_DATA_VALUE, encoded(value_type, value)))
            parts += attribute(NFTA_SET_ELEM_USERDATA, _comment(self.tag))
        body = (
            nfgenmsg(self.family)
            + text(NFTA_SET_ELEM_LIST_TABLE, TABLE)
            + text(NFTA_SET_ELEM_LIST_SET, self.set)
            + nested(NFTA_SET_ELEM_LIST_ELEMENTS, nested(NFTA_LIST_ELEM, parts))
        )
        # Between a shell's quotes: nft takes some names of interfaces between its own only.
        what = "nft '" + self.line(verb).replace("'", "'\\''") + "'"
        return Request(message, flags, body, what, fine)


class Fragment(NamedTuple):
    """Sets and chains that a network's configuration asks for, as nft text: constant rules, whatever pods there are."""

    name: str
    """Ends the name of each set and chain in it."""
    text: str


NONE: Final[frozenset[int]] = frozenset()
MISSING: Final = frozenset({errno.ENOENT})


def require_writable(link: str) -> None:
    """Raises CNIError 7 for a link's name that would mean something else in nft's language: it knows no escapes."""
    for character in '"\\*':
        if character in link:
            raise CNIError(
                INVALID_CONFIG,
                f"the interface's name {link} has a {character}, which nftables can't write",
                "rules are asked for that have to name it: rename it, or configure none of them",
            )


# --- encoding ---------------------------------------------------------------------------------------


def encoded(type: str, text: str) -> bytes:
    """The bytes of a key, or of a value. Raises ValueError for a text that is not of the type."""
    types, texts = type.split(" . "), text.split(" . ")
    if len(types) != len(texts):
        raise ValueError(f"{text!r} is no {type}")
    if len(types) == 1:
        return _field(type, text)
    whole = b""
    for each, part in zip(types, texts):
        field = _field(each, part)
        whole += field + b"\0" * (-len(field) % 4)
    return whole


def _field(type: str, text: str) -> bytes:
    if type == "ifname":
        name = text.encode("utf-8", "surrogateescape")
        # nft has no way to tell of a quote, so such a name would spoil each text that it is in.
        if 0 < len(name) < IFNAME_BYTES and b"\0" not in name and b'"' not in name:
            return name + b"\0" * (IFNAME_BYTES - len(name))
    elif type == "ipv4_addr" or type == "ipv6_addr":
        address = Address.parse(text)
        if type == f"ipv{address.version}_addr":
            return address.packed
    elif type == "inet_service":
        if (number := _number(text)) < 1 << 16:
            return number.to_bytes(2, "big")
    elif type == "inet_proto":
        if (number := PROTOCOLS.get(text) or _number(text)) < 1 << 8:
            return number.to_bytes(1, "big")
    elif type == "ether_addr" and text[2::3] == ":::::":
        octets = bytes.fromhex(text.replace(":", ""))
        if octets.hex(":") == text.lower():
            return octets
    elif type == "integer" and text.startswith("0x") and len(text) == 34:
        # Of a raw payload expression (`@th,64,128`), which is how nft 1.0.6 writes an address in a field that it has
        # no name for: so of an IPv6 address's size.
        return bytes.fromhex(text[2:])
    raise ValueError(f"{text!r} is no {type}")


def _number(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5:
        return int(text)
    raise ValueError(f"{text!r} is no number that could be meant")


def _quoted(type: str, text: str) -> str:
    """As nft takes it whatever an interface is called."""
    if "ifname" not in type:
        return text
    parts = text.split(" . ")
    for i, each in enumerate(type.split(" . ")):
        if each == "ifname":
            part = parts[i]
            parts[i] = f'"{part[:-1]}\\*"' if part[-1:] == "*" else f'"{part}"'  # without, it means: any that begins so
    return " . ".join(parts)


def _comment(comment: str) -> bytes:
    value = comment.encode() + b"\0"
    if len(value) > _COMMENT_BYTES:
        raise ValueError(f"{comment!r} is longer than nft's comments are")
    return bytes((_COMMENT, len(value))) + value


def comment_in(userdata: bytes) -> str:
    """The comment of a chain or an element, "" where it has none."""
    while len(userdata) >= 2:
        kind, length = userdata[:2]
        if kind == _COMMENT:
            return as_text(userdata[2 : 2 + length])
        userdata = userdata[2 + length :]
    return ""


def nfgenmsg(family: str) -> bytes:
    """The fixed part of each message: family, version 0, and a number that only batches use."""
    return bytes((FAMILIES[family], 0, 0, 0))


# --- asking -----------------------------------------------------------------------------------------


def connect() -> Socket:
    """A socket to nf_tables, of the calling thread's network namespace. Raises NetlinkError where there is none."""
    try:
        return Socket(NETLINK_NETFILTER)
    except OSError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
        raise NetlinkError(errno.EOPNOTSUPP, "nft list tables", NO_NF_TABLES) from error


def rules_version(nl: Socket, family: str = "inet") -> str | None:
    """The version of the rules in our table; None where there is no such table, or none of its rules.

    What any table holds of rules the kernel tells only by listing them; of one chain it tells their number. Raises
    NetlinkError.
    """
    request = Request(
        NFT_MSG_GETCHAIN,
        0,
        nfgenmsg(family) + text(NFTA_CHAIN_TABLE, TABLE) + text(NFTA_CHAIN_NAME, INTACT),
        f"nft list chain {family} {TABLE} {INTACT}",
        fine=MISSING,
    )
    try:
        message = nl.get(request)
    except NetlinkError as error:
        # How netfilter's netlink says that it has no such part; we know that the message is right.
        if error.errno != errno.EINVAL:
            raise
        raise NetlinkError(errno.EOPNOTSUPP, request.what, NO_NF_TABLES) from error
    found = attributes(message.body, 4) if message else {}
    return comment_in(found.get(NFTA_CHAIN_USERDATA, b"")) if any(found.get(NFTA_CHAIN_USE, b"")) else None


_BATCH = bytes((0, 0, 0, NFNL_SUBSYS_NFTABLES))
_BEGIN = Request(NFNL_MSG_BATCH_BEGIN, 0, _BATCH, "")
_END = Request(NFNL_MSG_BATCH_END, 0, _BATCH, "")


def transact(nl: Socket, requests: Sequence[Request]) -> tuple[Request, ...]:
    """Has the kernel carry out all of the requests or, raising NetlinkError for the first that it refuses, none.

    Those that it refuses with what is `fine` are left out, and the others tried anew until all of them pass: so
    elements that are gone already keep nobody from deleting the rest. Returns those left out. A try that fails takes
    the kernel 10 ms and more, where one that passes takes 0.02: it waits until nobody can see what it takes back.
    """
    left = list(requests)
    out: list[Request] = []
    while left:
        refused = _batch(nl, left)
        if not refused:
            break
        # In the order of the requests: so the kernel worked through them. It does so to the end.
        for number, (code, hint) in refused.items():
            if code not in left[number].fine:
                raise NetlinkError(code, left[number].what, hint)
        out += [left[number] for number in refused]
        left = [request for number, request in enumerate(left) if number not in refused]
    return tuple(out)


def _batch(nl: Socket, requests: list[Request]) -> dict[int, tuple[int, str]]:
    """Which requests of a transaction were refused, and why; none, if all were carried out. Raises NetlinkError."""
    begin = nl.reserve(len(requests) + 2)
    last = begin + len(requests)
    # A refusal is always reported, and before the acknowledgement of the last, so one is enough. The marks get none:
    # kernels differ in whether they give it.
    framed = [frame(r, n, NLM_F_ACK if n == last else 0) for n, r in enumerate(requests, begin + 1)]
    what = requests[0].what
    nl.send_framed(b"".join([frame(_BEGIN, begin, 0), *framed, frame(_END, last + 1, 0)]), what)
    refused: dict[int, tuple[int, str]] = {}
    flags = 0
    while True:
        try:
            datagram = nl.receive(what, flags)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                if refused:
                    return refused
                raise NetlinkError(errno.ENOBUFS, what, "the kernel's answers got lost") from error
            if error.errno != errno.ENOBUFS:
                raise
            # More refusals than the socket holds, which is some hundred: those that it holds will do for now.
            flags = socket.MSG_DONTWAIT
            continue
        for message in messages(datagram):
            number = message.sequence - begin - 1
            if message.type != NLMSG_ERROR or not -1 <= number < len(requests):
                continue  # the late answer to a request that timed out
            code, hint = refusal(message)
            if number < 0 and code:
                # The batch as such: no nf_tables, no right to use it, no memory for what it would have told.
                raise NetlinkError(code, what, NO_NF_TABLES if code == errno.EOPNOTSUPP else hint)
            if code:
                refused[number] = code, hint
            if message.sequence == last:
                return refused

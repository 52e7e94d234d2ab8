"""nf_tables of others: which of their chains drop what is forwarded, and the pods that are let pass there all the same.

What drops is a base chain at the forward hook whose policy is drop: then what our tables accept is lost there, for
every such chain has to accept. Into its table go a set of addresses for each version of IP and a chain of constant
rules, to which theirs jumps first. A pod is an element of the set, as in our own tables. Set and chain stay when the
last pod has gone: an empty set matches nothing, and to find the jump we would have to list rules that aren't ours.

    FORWARD ─▶ podwire │ saddr @podwire4                        accept   whatever the pod sends
                       │ daddr @podwire4 ct state established…  accept   answers
                       │ daddr @podwire4 ct status dnat         accept   what is published on the node

Nobody lists rules. Whether they are there tells the kernel's count of what uses the chain. And only such tables are
looked into as somebody may have written by hand: those of iptables have too many chains, and a way of their own in,
`iptables`.

(linux/netfilter/nf_tables.h)
"""

from __future__ import annotations

import errno

from cni.kernel import nft
from cni.kernel.netlink import NLM_F_CREATE, Request, as_text, attribute, attributes, nested, text
from cni.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from cni.kernel.forwarding import ForwardOpening
    from cni.kernel.netlink import Message, Socket
    from ipam.address import Address

# linux/netfilter/nf_tables.h
NFTA_CHAIN_HOOK: Final = 4
NFTA_CHAIN_POLICY: Final = 5
NFTA_CHAIN_USE: Final = 6
NFTA_HOOK_HOOKNUM: Final = 1
# linux/netfilter.h
NF_DROP: Final = 0
NF_INET_FORWARD: Final = 2

IP: Final = {4: "ip", 6: "ip6"}
_CHAIN: Final = "podwire"
_NOT_LOOKED_INTO: Final = frozenset({nft.TABLE, "nat", "mangle", "raw", "security", "kube-proxy", "firewalld"})
"""Tables that don't drop by policy, and may have a chain for each of ten thousand services."""
_IPTABLES: Final = "filter"
_NOTHING: Final = frozenset({errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP, errno.EAFNOSUPPORT})
"""How a kernel without nf_tables, or without that family of it, says that it isn't there."""


class Chain(NamedTuple):
    """A chain as the kernel describes it."""

    table: str
    name: str
    uses: int
    """Rules in it, and jumps to it."""
    drops: bool
    """Whether it is at the forward hook, and drops what no rule of its accepts."""

    @classmethod
    def parse(cls, message: Message) -> Chain:
        """From an NFT_MSG_NEWCHAIN. Raises ValueError for what is none."""
        found = attributes(message.body, 4)
        hook = attributes(found.get(NFTA_CHAIN_HOOK, b""))
        at_forward = int.from_bytes(hook.get(NFTA_HOOK_HOOKNUM, b"\xff"), "big") == NF_INET_FORWARD
        policy = int.from_bytes(found.get(NFTA_CHAIN_POLICY, b"\xff"), "big")
        return cls(
            as_text(found.get(nft.NFTA_CHAIN_TABLE, b"")),
            as_text(found.get(nft.NFTA_CHAIN_NAME, b"")),
            int.from_bytes(found.get(NFTA_CHAIN_USE, b""), "big"),
            at_forward and policy == NF_DROP,
        )


def chain(nl: Socket, family: str, table: str, name: str) -> Chain | None:
    """Raises NetlinkError."""
    body = nft.nfgenmsg(family) + text(nft.NFTA_CHAIN_TABLE, table) + text(nft.NFTA_CHAIN_NAME, name)
    request = Request(nft.NFT_MSG_GETCHAIN, 0, body, f"nft list chain {family} {table} {name}", fine=_NOTHING)
    message = nl.get(request)
    return Chain.parse(message) if message else None


def table_is_there(nl: Socket, family: str, table: str) -> bool:
    body = nft.nfgenmsg(family) + text(nft.NFTA_TABLE_NAME, table)
    return bool(nl.get(Request(nft.NFT_MSG_GETTABLE, 0, body, f"nft list table {family} {table}", fine=_NOTHING)))


def let_pass(nl: Socket, opening: ForwardOpening, *, asked: bool) -> None:
    """There already is fine."""
    address = opening.address
    for family, table, dropping in _dropping(nl, address.version):
        if not _is_prepared(nl, family, table, dropping):
            from cni.kernel import ruleset

            ruleset.load(_prepared(family, table, dropping))
        nft.transact(nl, [_element(nft.NFT_MSG_NEWSETELEM, family, table, address)])


def let_pass_no_more(nl: Socket, opening: ForwardOpening) -> None:
    """Gone already is fine."""
    address = opening.address
    deleting = [
        _element(nft.NFT_MSG_DELSETELEM, family, table, address)
        for family in _families(address.version)
        for table in _tables(nl, family)
    ]
    nft.transact(nl, deleting)


def lets_pass(nl: Socket, opening: ForwardOpening, *, asked: bool) -> bool:
    address = opening.address
    return all(
        _is_prepared(nl, family, table, dropping)
        and nl.get(_element(nft.NFT_MSG_GETSETELEM, family, table, address)) is not None
        for family, table, dropping in _dropping(nl, address.version)
    )


def _families(version: int) -> tuple[str, str]:
    return IP[version], "inet"


def _dropping(nl: Socket, version: int) -> list[tuple[str, str, list[str]]]:
    """Family, table and names of the chains that drop packets of this version of IP."""
    found: dict[tuple[str, str], list[str]] = {}
    for family in _families(version):
        tables = _tables(nl, family)
        if tables:
            for one in _chains(nl, family):
                if one.drops and one.table in tables:
                    found.setdefault((family, one.table), []).append(one.name)
    return [(family, table, names) for (family, table), names in found.items()]


def _tables(nl: Socket, family: str) -> list[str]:
    """Those that somebody may have written by hand."""
    messages = nl.dump(Request(nft.NFT_MSG_GETTABLE, 0, nft.nfgenmsg(family), f"nft list tables {family}", _NOTHING))
    names = [as_text(attributes(message.body, 4).get(nft.NFTA_TABLE_NAME, b"")) for message in messages]
    return [
        name
        for name in names
        if name not in _NOT_LOOKED_INTO
        and not (name == _IPTABLES and family != "inet" and chain(nl, family, name, "FORWARD"))
    ]


def _chains(nl: Socket, family: str) -> list[Chain]:
    messages = nl.dump(Request(nft.NFT_MSG_GETCHAIN, 0, nft.nfgenmsg(family), f"nft list chains {family}", _NOTHING))
    return [Chain.parse(message) for message in messages]


def _is_prepared(nl: Socket, family: str, table: str, dropping: Sequence[str]) -> bool:
    """Whether our chain has its rules and is jumped to. Whoever flushes a table leaves chains and sets without them."""
    found = chain(nl, family, table, _CHAIN)
    return bool(found and found.uses >= len(_rules(family)) + len(dropping))


def _prepared(family: str, table: str, dropping: Sequence[str]) -> str:
    where = f"{family} {table}"
    sets = [f"add set {where} {_set(version)} {{ type ipv{version}_addr; }}" for version in _versions(family)]
    jumps = [f"insert rule {where} {name} jump {_CHAIN}" for name in dropping]
    rules = [f"add rule {where} {_CHAIN} {rule}" for rule in _rules(family)]
    return "\n".join([*sets, f"add chain {where} {_CHAIN}", f"flush chain {where} {_CHAIN}", *rules, *jumps, ""])


def _rules(family: str) -> list[str]:
    rules = []
    for version in _versions(family):
        rules += [
            f"{IP[version]} saddr @{_set(version)} accept",
            f"{IP[version]} daddr @{_set(version)} ct state established,related accept",
            f"{IP[version]} daddr @{_set(version)} ct status dnat accept",
        ]
    return rules


def _versions(family: str) -> list[int]:
    return [version for version in (4, 6) if family in _families(version)]


def _set(version: int) -> str:
    return f"podwire{version}"


def _element(message: int, family: str, table: str, address: Address) -> Request:
    key = nested(nft.NFTA_SET_ELEM_KEY, attribute(nft.NFTA_DATA_VALUE, address.packed))
    body = (
        nft.nfgenmsg(family)
        + text(nft.NFTA_SET_ELEM_LIST_TABLE, table)
        + text(nft.NFTA_SET_ELEM_LIST_SET, _set(address.version))
        + nested(nft.NFTA_SET_ELEM_LIST_ELEMENTS, nested(nft.NFTA_LIST_ELEM, key))
    )
    new = message == nft.NFT_MSG_NEWSETELEM
    verb = {nft.NFT_MSG_NEWSETELEM: "add", nft.NFT_MSG_DELSETELEM: "delete"}.get(message, "get")
    what = f"nft {verb} element {family} {table} {_set(address.version)} '{{ {address} }}'"
    return Request(message, NLM_F_CREATE if new else 0, body, what, fine=frozenset() if new else nft.MISSING)

"""An attachment's elements in our tables: all of them in one transaction, and the claims that go with them.

The usual case costs a question (whether the tables are there, and of our version) and a transaction; where something is
missing `tables` makes it. Nobody lists a table or a set on the path of a pod.
"""

from __future__ import annotations

import errno

from cni.attach import claims
from cni.kernel import nft
from cni.kernel.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cni.attach.node import Node
    from cni.kernel.nft import Claim, Element
    from cni.key import Key
    from cni.wanted import Wanted


def require_tables(node: Node, families: Iterable[str]) -> None:
    """Makes sure of our tables. Raises NetlinkError where there is no packet filter, Refused for what it can't do."""
    if not are_current(node, families):
        from cni.attach import tables

        with node.rules_lock(shared=False):
            tables.complete(node, families, ())


def make(node: Node, key: Key, wanted: Wanted) -> None:
    """In tables that are there, as a rule. Raises CNIError 11 for what a living attachment has, NetlinkError, and
    Refused where tables can't be made."""
    if not wanted.elements:
        return
    with node.rules_lock(shared=True):
        if _put(node, key, wanted.elements):
            return
    from cni.attach import tables

    with node.rules_lock(shared=False):
        tables.complete(node, _families(wanted.elements), wanted.fragments)
        if not _put(node, key, wanted.elements):
            # Somebody else took the tables away again, in this moment.
            raise NetlinkError(errno.ENOENT, wanted.elements[0].make().what)


def drop(node: Node, key: Key, elements: Sequence[Element]) -> bool:
    """Those that are still the attachment's, and its claims. Gone already is fine.

    Whether the pod's addresses are nobody else's, as far as claims can tell: what another has claimed by now, it may
    have together with an address, and who claims nothing knows nothing of others.
    """
    claimed = _claims(elements)
    with node.rules_lock(shared=True), node.claims_lock():
        mine = claims.mine(node, key, claimed)
        _delete(node, [one for one in elements if not one.claim or one.claim in mine])
        claims.release(node, key, claimed)
    return 0 < len(mine) == len(claimed)


def are_current(node: Node, families: Iterable[str]) -> bool:
    """Whether our tables of these families are there with their rules, as this version makes them."""
    skeleton = node.skeleton
    return skeleton is not None and all(nft.rules_version(node.nf(), one) == skeleton.version for one in families)


def _delete(node: Node, elements: Iterable[Element]) -> None:
    """Gone already is fine, and so is what never can have been there."""
    requests = []
    for one in elements:
        try:
            requests.append(one.drop())
        except ValueError:
            pass  # not of its set's type: to stumble over it would keep the rest, and the pod, for ever
    nft.transact(node.nf(), requests)


def _families(elements: Iterable[Element]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([one.family for one in elements]))


def _claims(elements: Iterable[Element]) -> tuple[Claim, ...]:
    return tuple(dict.fromkeys([one.claim for one in elements if one.claim]))


def _put(node: Node, key: Key, elements: Sequence[Element]) -> bool:
    """False where a set, or a table, is missing."""
    claimed = _claims(elements)
    if not claimed:
        return _add(node, elements)
    with node.claims_lock():
        claims.take(node, key, claimed, lambda lost: _clear(node, lost))
        return _add(node, elements)


def _clear(node: Node, lost: Iterable[tuple[str, Claim]]) -> None:
    from cni.attach import tables

    _delete(node, tables.left_by(node, lost))


def _add(node: Node, elements: Sequence[Element]) -> bool:
    requests = [one.make() for one in elements]
    for again in (True, False):
        try:
            nft.transact(node.nf(), requests)
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return False
            if error.errno != errno.EEXIST or not again:
                raise
            _delete(node, elements)
        else:
            break
    return True

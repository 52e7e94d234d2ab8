"""Claims: who has what there is only one of on the node, as a port or an address, and whose name tells no owner.

A file per resource, `<run>/claims/<resource>`, says which attachment has which scope of it. Who asks for one that a
living attachment has is refused, and told its name; what a dead one had passes to who asks. So two attachments
may overlap, the old one being deleted while the new one is made: an element goes only with the claim to it.

Whoever calls these functions holds the claims' lock (`Node.claims_lock`), and makes or drops what is claimed under it.
"""

from __future__ import annotations

import errno

from cni.attach import record
from cni.attach.record import read_file, replace_file, unlink
from cni.kernel.nft import Claim
from cni.key import Key
from cni.lean import JSONError, dumps, loads
from cni.spec.errors import TRY_AGAIN_LATER, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final

    from cni.attach.node import Node

_NEW: Final = ".new"
"""Where a file is written before it takes its place."""
_ALL: Final = {"0.0.0.0": ".", "::": ":"}
"""The scopes that stand for all addresses of a family, by what an address of that family has in it."""


def take(
    node: Node,
    key: Key,
    claims: Iterable[Claim],
    clear: Callable[[frozenset[tuple[str, Claim]]], None] | None = None,
) -> frozenset[tuple[str, Claim]]:
    """Notes that they are this attachment's. Returns what dead ones had of them, with whose it was: that may be there
    yet and, where the scopes differ, is something else than what is now to be made.

    Of which `clear` is told before, so that there is no moment at which it is there and nobody's to take away.

    Raises CNIError 11 for one that a living attachment has: then none is taken.
    """
    taken = set()
    new: dict[str, dict[str, str]] = {}
    for claim in claims:
        if claim.resource not in new:
            new[claim.resource] = _read(node, claim.resource)
        owners = new[claim.resource]
        for scope, owner in list(owners.items()):
            if owner != str(key) and _conflict(scope, claim.scope):
                _require_dead(node, claim, owner)
                del owners[scope]
                taken.add((owner, Claim(claim.resource, scope)))
        owners[claim.scope] = str(key)
    lost = frozenset(taken)
    if lost and clear:
        clear(lost)
    for resource, owners in new.items():
        _write(node, resource, owners)
    return lost


def mine(node: Node, key: Key, claims: Iterable[Claim]) -> frozenset[Claim]:
    """Those of them that are still this attachment's."""
    read = {resource: _read(node, resource) for resource in {claim.resource for claim in claims}}
    return frozenset([claim for claim in claims if read[claim.resource].get(claim.scope) == str(key)])


def release(node: Node, key: Key, claims: Iterable[Claim]) -> None:
    """Gives back those that are still this attachment's."""
    for claim in claims:
        owners = _read(node, claim.resource)
        if owners.get(claim.scope) == str(key):
            del owners[claim.scope]
            try:
                _write(node, claim.resource, owners)
            except OSError as error:
                # No room to say so: whoever asks for it next finds its owner gone, and so does GC.
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise


def _read(node: Node, resource: str) -> dict[str, str]:
    """Owners by scope; a file that can't be read says nothing."""
    data = read_file(_path(node, resource))
    try:
        owners = loads(data) if data else {}
    except JSONError:
        return {}
    good = isinstance(owners, dict) and {type(owner) for owner in owners.values()} <= {str}
    return owners if good else {}


def _write(node: Node, resource: str, owners: dict[str, str]) -> None:
    """At once; a resource that nobody has needs no file."""
    path = _path(node, resource)
    if not owners:
        unlink(path)
        return
    replace_file(path, dumps(owners).encode(), _path(node, _NEW))


def _path(node: Node, resource: str) -> str:
    return f"{node.run_dir}/claims/{resource}"


def _conflict(one: str, other: str) -> bool:
    """Whether two scopes of one resource have something in common."""
    if one == other:
        return True
    return any(sign in other_scope for scope, other_scope in ((one, other), (other, one)) if (sign := _ALL.get(scope)))


def _require_dead(node: Node, claim: Claim, owner: str) -> None:
    key = Key.parse(owner)
    if key and _lives(node, key):
        what = f"{claim.resource} of {claim.scope}" if claim.scope else claim.resource
        raise CNIError(
            TRY_AGAIN_LATER,
            f"{what} is in use by {owner}",
            "one attachment of the node can have it: DEL that one first, or ask for another",
        )


def _lives(node: Node, key: Key) -> bool:
    """Whether an attachment has what it claims: it is complete and its namespace is there, or it is just being made."""
    old = node.records.read(key)
    if not old or old.stage == record.LEAVING:
        return False
    if old.stage == record.COMPLETE:
        return record.lives(old)
    return node.is_locked(key)


def is_shared(node: Node, key: Key, resource: str) -> bool:
    """Whether another attachment, of which there is a record, has claimed a scope of it."""
    others = [Key.parse(owner) for owner in _read(node, resource).values() if owner != str(key)]
    return any(other and node.records.read(other) for other in others)


def owners(node: Node) -> set[str]:
    """Everyone who has claimed something."""
    return {owner for resource in _resources(node) for owner in _read(node, resource).values()}


def disown(node: Node, gone: set[str]) -> None:
    """Removes the claims of these."""
    for resource in _resources(node):
        there = _read(node, resource)
        kept = {scope: owner for scope, owner in there.items() if owner not in gone}
        if kept != there or not kept:
            _write(node, resource, kept)


def _resources(node: Node) -> list[str]:
    return [name for name in record.listdir(f"{node.run_dir}/claims") if name != _NEW]

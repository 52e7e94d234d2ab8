"""What lets an attachment's packets through the rules of others: made once, and gone when nobody wants it any more.

What is opened, an address, may be another attachment's as well: of another plugin of the same chain, or of a pod that
got the address while this one was still being deleted. So each notes that it wants it, by a claim that keeps nobody
out, and the last one takes it away. Made and dropped is under the claims' lock, so that no two do so at once; and the
commands of others that do it hold the lock too.
"""

from __future__ import annotations

from cni.attach import claims
from cni.attach.removing import Failures
from cni.kernel.nft import Claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cni.attach.node import Node
    from cni.key import Key
    from cni.wanted import Opening


def make(node: Node, key: Key, openings: Sequence[Opening]) -> None:
    """Raises Refused, NetlinkError, CNIError."""
    if not openings:
        return
    with node.claims_lock() as lock:
        lock.pass_on()
        claims.take(node, key, _claims(key, openings))
        for opening in openings:
            opening.make()


def drop(node: Node, key: Key, openings: Sequence[Opening]) -> None:
    """Those that no other attachment wants. One that can't be dropped keeps no other, and is raised at the end."""
    if not openings:
        return
    failures = Failures()
    with node.claims_lock() as lock:
        lock.pass_on()
        for opening in openings:
            with failures:
                if not claims.is_shared(node, key, opening.resource):
                    opening.drop()
                claims.release(node, key, _claims(key, [opening]))
    failures.end()


def _claims(key: Key, openings: Sequence[Opening]) -> list[Claim]:
    return [Claim(opening.resource, key.tag) for opening in openings]

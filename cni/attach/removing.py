"""DEL, and what a failed ADD and GC do like it: takes an attachment away, by its record.

lock ▸ record leaving ▸ links ▸ what hangs on the bridge ▸ addresses ▸ record gone
"""

from __future__ import annotations

from cni.attach import objects, reaper, record
from cni.kernel import link as links
from cni.kernel.netns import is_netns
from cni.spec.errors import CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.attach.call import Call
    from cni.attach.node import Node
    from cni.attach.record import Record
    from cni.kernel.neighbour import Neighbour
    from cni.key import Key


def delete(node: Node, key: Key, netns: str, own_netns_is_fine: bool, call: Callable[[], Call]) -> None:
    """Detaches the pod. What is gone already, in whatever order, is fine; twice is as once.

    `call` tells the rest, which is needed where no record does.
    """
    if netns and not own_netns_is_fine and is_netns(netns, node.home.device, node.home.inode):
        from cni.attach import sandbox

        raise sandbox.own(netns)
    node.prepare()
    with node.lock(key):
        old = node.records.read(key)
        if old:
            remove(node, old)
        else:
            from cni.attach import unrecorded

            unrecorded.remove(node, call())


def remove(node: Node, old: Record) -> None:
    """Takes away all that the record lists, then the record. For DEL, GC and a failed ADD alike.

    One thing that can't be removed keeps no other: it goes on, and raises the first failure at the end. Only the
    addresses wait, since they pass to another pod as soon as they are free, and nothing of ours may use them then.
    The record stays until all of it is gone.
    """
    if old.stage != record.LEAVING:
        try:
            node.records.write(old.leaving())
        except OSError:
            # No room to say so, which is no reason to leave all else where it is: what counts is the record's end.
            pass
    failures = Failures()
    # Before the reaper forks: each page that is written to afterwards has to be copied first (3 µs).
    addresses = node.reopen(old.delegation)
    seeds = objects.neighbours_of(old.objects)
    with failures:
        delete_port(node, old.key)
    for seed in seeds:  # all else went with the port
        with failures:
            _drop_neighbour(node, seed)
    failures.end()
    addresses.release(old.key, old.netns)
    node.records.remove(old.key)


class Failures:
    """Lets several steps fail, each a `with`, and raises the first failure at the end."""

    def __init__(self) -> None:
        self._first: BaseException | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        if not isinstance(error, (CNIError, OSError)):
            return False
        self._first = self._first or error
        return True

    def end(self) -> None:
        if self._first:
            raise self._first


def delete_port(node: Node, key: Key) -> None:
    """The veth, by its node's end, and with it what hangs on it: the pod's addresses and routes, the port, its fdb."""
    found = links.find(node.nl, key.tag)
    if found:
        reaper.delete(node, found)


def _drop_neighbour(node: Node, seed: Neighbour) -> None:
    """It hangs on the bridge, so it has to go by itself, unless the address is another pod's by now."""
    bridge = links.find(node.nl, seed.link)
    if bridge and seed.find(node.nl, bridge.ifindex):
        node.nl.do(seed.drop(bridge.ifindex))

"""DEL, and what a failed ADD and GC do like it: takes an attachment away, by its record.

lock ▸ record leaving ▸ links ▸ what hangs on others' links ▸ elements, openings, connections ▸ addresses ▸ record gone
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
    from cni.attach.objects import Objects
    from cni.attach.record import Record
    from cni.key import Key
    from cni.wanted import LinkObject


def delete(node: Node, key: Key, netns: str, own_netns_is_fine: bool, call: Callable[[], Call]) -> None:
    """Detaches the pod. What is gone already, in whatever order, is fine; twice is as once. Of several members of a
    chain by one plugin each call takes the last away (see `places`).

    `call` tells the rest, which is needed where no record does.
    """
    if netns and not own_netns_is_fine and is_netns(netns, node.home.device, node.home.inode):
        from cni.attach import sandbox

        raise sandbox.own(netns)
    node.prepare()
    with node.lock(key):
        old = node.records.read(key)
        if old and old.more:
            from cni.attach import places

            if places.remove_last(node, key):
                return
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
    hanging = objects.hanging_of(old.objects)
    if "elements" in old.objects:
        with failures:
            node.nf()  # opened now, for the helper that is forked below to hold (see `reaper.linger`)
    with failures:
        delete_links(node, old.key, with_ifb="ifbs" in old.objects)
    for thing in reversed(hanging):  # all else went with the port
        with failures:
            _drop(node, thing)
    _drop_rules(node, old, failures)
    if objects.BEFORE in old.objects:
        from cni.attach import amending

        with failures:
            amending.put_back(node, old)
    failures.end()
    addresses.release(old.key, old.netns)
    node.records.remove(old.key)
    reaper.linger(node)


def _drop_rules(node: Node, old: Record, failures: Failures) -> None:
    """What the packet filter knows of the pod, in our tables, in those of others and in its memory of connections."""
    if "elements" in old.objects:
        from cni.attach import elements, reading

        with failures:
            # After the rules are gone, not before: a packet in between would pin the old pod.
            if elements.drop(node, old.key, reading.elements_of(old.objects)):
                _forget(node, old.objects)
    if "openings" in old.objects:
        from cni.attach import openings, reading

        with failures:
            openings.drop(node, old.key, reading.openings_of(old.objects))


def _forget(node: Node, things: Objects) -> None:
    """The connections of its addresses, or of its ports where the addresses are another plugin's: who has them next has
    nothing to do with these."""
    from cni.attach import reading
    from cni.kernel import conntrack

    addresses = reading.addresses_of(things)
    for address in addresses:
        conntrack.forget_address(node.nf(), address)
    if "flows" in things and not addresses:
        conntrack.forget_served(node.nf(), reading.flows_of(things))


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


def delete_links(node: Node, key: Key, *, with_ifb: bool = True) -> None:
    """The veth, by its node's end, and with it what hangs on it: the pod's addresses and routes, the port, its fdb. And
    the ifb."""
    names = (key.tag, key.ifb_tag) if with_ifb else (key.tag,)
    reaper.delete(node, [found for found in [links.find(node.nl, name) for name in names] if found])


def _drop(node: Node, thing: LinkObject) -> None:
    """It hangs on a bridge, or on another's port, so it has to go by itself, unless it is another pod's by now or
    something else has come to hang on it."""
    link = links.find(node.nl, thing.link)
    if link and thing.find(node.nl, link.ifindex):
        needed = getattr(thing, "needed", None)
        if not (needed and needed(node.nl, link.ifindex)):
            node.nl.do(thing.drop(link.ifindex))

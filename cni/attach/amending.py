"""Changing what others made in a pod, and putting it back: how it was is in the record before it is changed."""

from __future__ import annotations

from cni.attach import objects, reading, sandbox
from cni.kernel import link as links
from cni.kernel.sysctl import Sysctl, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.attach.node import Node
    from cni.attach.record import Record
    from cni.attach.sandbox import Sandbox
    from cni.kernel.linksettings import LinkSettings
    from cni.wanted import Wanted


def now(pod_side: Sandbox, wanted: Wanted) -> list[list[Any]]:
    """What `wanted.amends` is going to change, as it is: the record's group `objects.BEFORE`.

    What isn't there, and what is as wanted already, is left out.
    """
    found: list[Sysctl | LinkSettings] = []
    with pod_side.inside():
        for thing in wanted.amends:
            if isinstance(thing, Sysctl):
                value = read(thing.path)
                if value not in (None, thing.value):
                    found.append(Sysctl(thing.path, value or ""))
    for thing in wanted.amends:
        if not isinstance(thing, Sysctl):
            link = links.find(pod_side.nl, thing.link)
            if link:
                found.append(thing.now(pod_side.nl, link.ifindex))
    return objects.before_to_json(tuple(found))


def make(pod_side: Sandbox, wanted: Wanted) -> None:
    """Raises Refused."""
    with pod_side.inside():
        for thing in wanted.amends:
            if isinstance(thing, Sysctl):
                thing.make()
    for thing in wanted.amends:
        if not isinstance(thing, Sysctl):
            pod_side.nl.do(thing.make(links.need(pod_side.nl, thing.link).ifindex))


def put_back(node: Node, old: Record) -> None:
    """As it was before the attachment, the last change first. A namespace that is gone took it all along."""
    before = reading.before_of(old.objects)
    pod_side = sandbox.find(old.netns, node.home, own_is_fine=True) if before else None
    if not pod_side:
        return
    with pod_side:
        if (old.device, old.inode) != (pod_side.netns.device, pod_side.netns.inode):
            return
        for thing in reversed(before):
            if not isinstance(thing, Sysctl):
                link = links.find(pod_side.nl, thing.link)
                if link:
                    pod_side.nl.do(thing.make(link.ifindex))
        with pod_side.inside():
            for thing in reversed(before):
                # A setting of a link that is gone is gone too.
                if isinstance(thing, Sysctl) and read(thing.path) is not None:
                    thing.make()

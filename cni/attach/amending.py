"""Changing what others made in a pod, and putting it back: how it was is in the record before it is changed."""

from __future__ import annotations

from cni.attach import objects, reading, record, sandbox
from cni.kernel import link as links
from cni.kernel.sysctl import Sysctl, read
from cni.spec.errors import PASSING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cni.attach.node import Node
    from cni.attach.record import Record
    from cni.attach.sandbox import Sandbox
    from cni.kernel.linksettings import LinkSettings
    from cni.kernel.netlink import Request
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
    """As it was before the attachment, the last change first. A namespace that is gone took it all along.

    What the kernel won't have any more stays as it is: asking again would keep the pod from leaving, for ever.
    """
    before = reading.before_of(old.objects)
    pod_side = sandbox.find(old.netns, node.home, own_is_fine=True) if before else None
    if not pod_side:
        return
    with pod_side:
        if not record.is_in(old, pod_side.netns, pod_side.nl.netns_cookie()):
            return
        for thing in reversed(before):
            if not isinstance(thing, Sysctl):
                link = links.find(pod_side.nl, thing.link)
                if link:
                    _try(pod_side.nl.do, thing.make(link.ifindex))
        with pod_side.inside():
            for thing in reversed(before):
                # A setting of a link that is gone is gone too.
                if isinstance(thing, Sysctl) and read(thing.path) is not None:
                    _try(thing.make)


def _try(make: Callable[..., None], *requests: Request) -> None:
    try:
        make(*requests)
    except OSError as error:
        if error.errno in PASSING:
            raise

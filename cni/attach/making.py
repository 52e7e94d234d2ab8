"""Making what an attachment wants, group by group: links, what on the node points at them, and the pod.

Nothing is undone here: who calls this has written down what may come to exist, and removes it by that.
"""

from __future__ import annotations

import errno

from cni.kernel import inet
from cni.kernel import link as links
from cni.kernel.inet import FoundAddress, LinkAddress
from cni.kernel.neighbour import FdbEntry, Neighbour
from cni.kernel.netlink import NetlinkError, Socket, messages
from cni.lean import select, socket, time
from cni.spec.errors import CONFLICT, TRY_AGAIN_LATER, CNIError
from cni.spec.result import IPConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, Final

    from cni.attach.node import Node
    from cni.attach.sandbox import Sandbox
    from cni.kernel.link import Link
    from cni.kernel.netlink import Request
    from cni.kernel.ports import Ifb, Veth
    from cni.key import Key
    from cni.wanted import Wanted
    from ipam.address import Interface

_ADDRESS_PATIENCE_S: Final = 10.0


def make(node: Node, sandbox: Sandbox, key: Key, wanted: Wanted, switches: Mapping[str, Link]) -> tuple[IPConfig, ...]:
    """Makes all of it; `switches` are the bridges, ensured. Returns the addresses of the links to be reported.

    Raises CNIError, NetlinkError, OSError.
    """
    indexes = {name: found.ifindex for name, found in switches.items()}
    inside = {}
    for veth in wanted.veths:
        port = _make_veth(node, sandbox, veth, indexes.get(veth.master, 0))
        indexes[veth.name] = port.ifindex
        inside[veth.peer] = port.peer
    for ifb in wanted.ifbs:
        indexes[ifb.name] = _make_ifb(node, ifb)
    if wanted.fences:
        from cni.kernel.sysctl import read

        for fence in wanted.fences:
            if read(fence.path) is not None:
                fence.make()
    for thing in wanted.node:
        if thing.link not in indexes:
            indexes[thing.link] = links.need(node.nl, thing.link).ifindex
    own = [veth.name for veth in wanted.veths] + [ifb.name for ifb in wanted.ifbs]
    aliases = [links.set_alias(indexes[name], name, str(key)) for name in own]
    # What arrives at a bridge's port is the bridge's, and an ifb has nobody behind it: an address of their own would
    # never be reached. But the kernel would see to one, with routes and groups, in lists as long as there are pods.
    quiet = [veth.name for veth in wanted.veths if veth.master] + [ifb.name for ifb in wanted.ifbs]
    named = aliases + [links.set_no_link_local(indexes[name], name) for name in quiet]
    named += [links.set_up(indexes[ifb.name], ifb.name) for ifb in wanted.ifbs]
    # How its port is treated is settled before the pod can send; where it is found, once it is there. All of it hangs
    # on our own port, or is a hint that may be wrong; so each goes in one datagram.
    hints = [thing for thing in wanted.node if isinstance(thing, (FdbEntry, Neighbour))]
    treated = [thing for thing in wanted.node if not isinstance(thing, (FdbEntry, Neighbour))]
    watched = _ipv6_addresses(treated)
    news = Socket(groups=inet.RTMGRP_IPV6_IFADDR) if watched else None
    try:
        node.nl.do(*named, *[_making(thing, indexes) for thing in treated])
        reported = make_in_pod(sandbox, wanted, inside)
        if news:
            _wait_until_usable(node.nl, news, watched, indexes)
    finally:
        if news:
            news.close()
    node.nl.do(*[thing.make(indexes[thing.link]) for thing in hints])
    if wanted.amends:
        from cni.attach import amending

        amending.make(sandbox, wanted)
    for veth in wanted.veths:
        _settle(node, indexes[veth.name], indexes.get(veth.master, 0))
    return reported


def _making(thing: Any, indexes: Mapping[str, int]) -> Request:
    to = getattr(thing, "to", "")  # of one that points at a second link
    made: Request = thing.make(indexes[thing.link], indexes[to]) if to else thing.make(indexes[thing.link])
    return made


def _make_ifb(node: Node, ifb: Ifb) -> int:
    """Returns its index."""
    try:
        node.nl.do(ifb.make())
    except NetlinkError as error:
        left = ifb.find(node.nl) if error.errno == errno.EEXIST else None
        if not left:
            raise
        # It bears our tag and no record knows it: an earlier life of this attachment.
        node.nl.do(ifb.drop(left.ifindex))
        node.nl.do(ifb.make())
    return links.need(node.nl, ifb.name).ifindex


def _settle(node: Node, port: int, bridge: int) -> None:
    """Has the kernel see to it now that a new port, and a bridge that had none, forward.

    It does so when its link watch gets around to them, and drops what comes before: a first packet, for which the
    pod then waits a second. To be asked about a link makes it look at once (since Linux 6.8; others look when they
    look, within milliseconds).
    """
    links.find_index(node.nl, port)
    if bridge:
        links.find_index(node.nl, bridge)


def _make_veth(node: Node, sandbox: Sandbox, veth: Veth, master: int) -> Link:
    """Makes the pair, and asks for the indexes of both ends with one question, of the node's end."""
    request = veth.make(sandbox.netns.fd, master)
    try:
        node.nl.do(request)
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise
        left = veth.find(node.nl)
        if left:
            # It bears our tag and no record knows it: an earlier life of this attachment, perhaps in this very pod.
            node.nl.do(veth.drop(left.ifindex))
        if links.find(sandbox.nl, veth.peer):
            raise CNIError(
                CONFLICT,
                f"CNI_IFNAME: interface {veth.peer} already exists in {sandbox.netns.path}",
                "it is not of this attachment's making, and was left alone; use another CNI_IFNAME",
            ) from error
        node.nl.do(request)
    return links.need(node.nl, veth.name)


def make_in_pod(sandbox: Sandbox, wanted: Wanted, known: Mapping[str, int]) -> tuple[IPConfig, ...]:
    """What is done in the pod: sysctls from inside, the rest through the socket, in one datagram.

    `known` are the indexes of the pod's links, as far as they have come up.

    Together, because whatever fails there, all of it goes with the veth.
    """
    watched = _ipv6_addresses(wanted.pod)
    news = None
    try:
        if wanted.tuning or watched:
            with sandbox.inside():
                for sysctl in wanted.tuning:
                    sysctl.make()
                if watched:
                    news = Socket(groups=inet.RTMGRP_IPV6_IFADDR)
        indexes = {thing.link: known.get(thing.link, 0) for thing in wanted.pod}
        for name, index in indexes.items():
            indexes[name] = index or links.need(sandbox.nl, name).ifindex
        sandbox.nl.do(*[thing.make(indexes[thing.link]) for thing in wanted.pod])
        if news:
            _wait_until_usable(sandbox.nl, news, watched, indexes)
    finally:
        if news:
            news.close()
    reported = []
    for i, interface in enumerate(wanted.interfaces):
        if interface.name in wanted.reported:
            found = inet.addresses(sandbox.nl, indexes[interface.name])
            reported += [IPConfig(address.address, None, i) for address in found]
    return tuple(reported)


def _ipv6_addresses(things: Iterable[object]) -> list[LinkAddress]:
    return [thing for thing in things if isinstance(thing, LinkAddress) and thing.address.address.version == 6]


def _wait_until_usable(nl: Socket, news: Socket, wanted: list[LinkAddress], indexes: Mapping[str, int]) -> None:
    """Until the kernel has announced the addresses, which are IPv6 ones. Woken by its news, never asleep.

    It acknowledges an IPv6 address before it takes packets for it: a worker of its own does the rest, at once or, where
    duplicates are to be looked for, after having waited for objections. A packet that comes before is lost, and TCP
    then waits a second.
    """
    pending = {(indexes[thing.link], thing.address) for thing in wanted}
    poll = select.poll()
    poll.register(news.fileno(), select.POLLIN)
    end = time.monotonic() + _ADDRESS_PATIENCE_S
    while pending:
        if not poll.poll(max(0, int((end - time.monotonic()) * 1000))):
            told = ", ".join(sorted([str(address) for _, address in pending]))
            raise CNIError(
                TRY_AGAIN_LATER,
                f"{told} could not be used within {_ADDRESS_PATIENCE_S:.0f} s",
                "duplicate address detection, if asked for, needs a bridge that forwards",
            )
        for found in _announced(nl, news, pending):
            if found.flags & inet.IFA_F_DADFAILED:
                raise CNIError(
                    CONFLICT,
                    f"address {found.address} is in use by another host of the network",
                    "duplicate address detection was answered; is the same subnet handed out elsewhere?",
                )
            if not found.flags & inet.IFA_F_TENTATIVE:
                pending.discard((found.ifindex, found.address))


def _announced(nl: Socket, news: Socket, pending: set[tuple[int, Interface]]) -> list[FoundAddress]:
    """The pending addresses that the news tell of; all there are, should some of the news be lost."""
    try:
        told = messages(news.receive(flags=socket.MSG_DONTWAIT))
        found = [FoundAddress.parse(message) for message in told if message.type == inet.RTM_NEWADDR]
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return []
        if error.errno != errno.ENOBUFS:
            raise
        found = [one for index in {index for index, _ in pending} for one in inet.addresses(nl, index)]
    return [one for one in found if (one.ifindex, one.address) in pending]

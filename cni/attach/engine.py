"""ADD, DEL, CHECK, GC and STATUS of an attachment, over objects and without knowing any feature.

ADD makes what the features want; whatever fails on the way, what was made until then is taken away by `remove`,
which is what DEL and GC run, from the same record. So there is one undo, and a process that dies anywhere leaves a
record from which the next DEL, GC or ADD of the same attachment goes on.

    ADD   lock ▸ record begun ▸ addresses ▸ record planned ▸ shared ▸ veth ▸ in the pod ▸ on the node ▸ complete
    DEL   lock ▸ record leaving ▸ links ▸ what hangs on the bridge ▸ addresses ▸ record gone

Nothing here reads the environment, prints, or depends on being called once in a process. Raises CNIError for
what it decides itself, and NetlinkError or OSError for what the kernel refuses.
"""

from __future__ import annotations

import errno

from cni.attach import reaper, record, shared
from cni.attach.record import Record
from cni.kernel import inet
from cni.kernel import link as links
from cni.kernel.inet import LinkAddress, Neighbour
from cni.kernel.link import Link
from cni.kernel.netlink import NetlinkError, Socket
from cni.kernel.netns import LostThreadError, Netns, is_netns
from cni.lean import NamedTuple, posix, select, time
from cni.spec.errors import (
    ALREADY_ATTACHED,
    CHECK_FAILED,
    CONFLICT,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    INVALID_NETNS,
    NOT_AVAILABLE,
    TRY_AGAIN_LATER,
    CNIError,
)
from cni.spec.result import DNS, IPConfig, Result
from cni.wanted import Key, Pod, Seen, Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final

    from cni.attach.node import Node
    from cni.wanted import Addresses, Feature

_DAD_PATIENCE_S: Final = 10.0


class Call(NamedTuple):
    """One call for one attachment, parsed."""

    key: Key
    netns: str
    """Path; "" where a DEL has none."""
    own_netns_is_fine: bool
    """CNI_NETNS_OVERRIDE."""
    cni_version: str
    features: tuple[Feature, ...]
    addresses: Addresses
    prev: Result | None
    dns: DNS
    """Overrides what IPAM says, unless empty."""
    recorded: bool
    """Whether anything may exist outside the pod, which DEL then has to know of."""


class _Made(NamedTuple):
    """What making an attachment brought to light."""

    port_index: int
    reported: tuple[IPConfig, ...]


# --- ADD --------------------------------------------------------------------------------------------


def add(node: Node, call: Call) -> Result:
    """Attaches the pod. An attachment that lives already is an error, and nothing of it is touched."""
    with _open_netns(node, call) as netns, _socket_in(netns, node) as pod_nl:
        if not call.recorded:
            wanted = _wanted(call, _pod(node, call, Result()))
            made = _make_in_pod(node, netns, pod_nl, wanted)
            return _result(call, wanted, made, DNS())
        node.prepare()
        with node.lock(call.key):
            cookie = pod_nl.netns_cookie()
            _clear_remains(node, call.key, cookie)
            now = Record.begun(call.key, netns, cookie, call.addresses.delegation)
            node.records.write(now)
            try:
                leased = call.addresses.acquire(call.key, call.netns)
                pod = _pod(node, call, leased)
                wanted = _wanted(call, pod)
                _require_expressible(call, wanted)
                now = node.records.write(now.planned(wanted))
                for switch in wanted.switches:
                    found = shared.ensure_switch(node, switch)
                    if found.mac != switch.bridge.mac:
                        # Somebody else made it a moment ago. Who seeds its MAC must know the true one.
                        pod = pod._replace(seen={**pod.seen, found.name: Seen(found.mac, found.mtu)})
                wanted = _wanted(call, pod)
                made = _make(node, netns, pod_nl, call.key, wanted)
                result = _result(call, wanted, made, leased.dns)
                node.records.write(now.planned(wanted).complete(made.port_index))
            except LostThreadError:
                raise  # this thread may do nothing more, and the record is there for the next call
            except BaseException as error:
                _roll_back(node, now, error)
                raise
            return result


def _open_netns(node: Node, call: Call) -> Netns:
    """Before any side effect: the namespace exists, and is not the node's own (code 8, as the reference has it)."""
    try:
        netns = Netns(call.netns)
    except OSError as error:
        raise CNIError(
            INVALID_ENVIRONMENT,
            f'CNI_NETNS: failed to open netns "{call.netns}": {error.strerror}',
            "it must be the path of a network namespace that exists",
        ) from error
    if netns.same(node.home) and not call.own_netns_is_fine:
        netns.__exit__()
        raise CNIError(
            INVALID_NETNS,
            "plugin's netns and netns from CNI_NETNS should not be the same",
            f"{call.netns} is the node's network namespace; a pod on the host network needs no plugin",
        )
    return netns


def _socket_in(netns: Netns, node: Node) -> Socket:
    with netns.inside(node.home):
        return Socket()


def _clear_remains(node: Node, key: Key, cookie: int) -> None:
    """An attachment of this key that lives is an error; one that began, died or was leaving is removed first."""
    old = node.records.read(key)
    if not old:
        return
    if old.stage == record.COMPLETE and _lives(old) and cookie_matches(old, cookie):
        raise CNIError(
            ALREADY_ATTACHED,
            f"{key.ifname} of container {key.container_id} is attached to network {key.network} already",
            f"since its namespace {old.netns} exists, nothing was changed; DEL it first",
        )
    remove(node, old)


def cookie_matches(old: Record, cookie: int) -> bool:
    """Whether the recorded namespace can be the one with this cookie. Unknown cookies (Linux < 5.14) match."""
    return not (old.cookie and cookie) or old.cookie == cookie


def _lives(old: Record) -> bool:
    return is_netns(old.netns, old.device, old.inode)


def _pod(node: Node, call: Call, leased: Result) -> Pod:
    bridges = [bridge for feature in call.features for bridge in feature.needs]
    mac = next((feature.mac for feature in call.features if feature.mac), "")
    return Pod(
        key=call.key,
        netns=call.netns,
        ifname=call.key.ifname,
        tag=call.key.tag,
        mac=mac or _new_mac(),
        host_mac=_new_mac(),
        ips=leased.ips,
        routes=leased.routes,
        seen={bridge.name: shared.look(node, bridge) for bridge in bridges},
    )


def _new_mac() -> str:
    """A random one, unicast and locally administered (IEEE 802: the two lowest bits of the first byte)."""
    octets = posix.urandom(6)
    return bytes([octets[0] & 0xFC | 0x02, *octets[1:]]).hex(":")


def _wanted(call: Call, pod: Pod) -> Wanted:
    wanted = Wanted()
    for feature in call.features:
        wanted = wanted.and_also(feature.wanted(pod))
    return wanted


def _require_expressible(call: Call, wanted: Wanted) -> None:
    """Raises CNIError for a result that the configuration's version can't hold, while there is nothing to undo."""
    _result(call, wanted, _Made(0, ()), DNS())


def _result(call: Call, wanted: Wanted, made: _Made, dns: DNS) -> Result:
    ours = Wanted(interfaces=wanted.interfaces, ips=wanted.ips + made.reported, routes=wanted.routes)
    if call.prev:
        # In a chain the result is what there was before, and us.
        before = Wanted(interfaces=call.prev.interfaces, ips=call.prev.ips, routes=call.prev.routes)
        ours = before.and_also(ours)
        dns = call.prev.dns if dns.empty else dns
    result = Result(ours.interfaces, ours.ips, ours.routes, dns if call.dns.empty else call.dns)
    if wanted.reported and not made.reported:
        return result
    result.to_object(call.cni_version)
    return result


def _roll_back(node: Node, begun: Record, error: BaseException) -> None:
    """Takes away what was made. Should that fail too, the record stays and the first error tells of the second."""
    try:
        remove(node, begun)
    except (CNIError, OSError) as second:
        error.add_note(f"what was made could not be taken away either ({second}); a DEL will try again")


# --- making -----------------------------------------------------------------------------------------


def _make(node: Node, netns: Netns, pod_nl: Socket, key: Key, wanted: Wanted) -> _Made:
    for setting in wanted.settings:
        shared.ensure_setting(node, setting)
    indexes: dict[str, int] = {}
    for switch in wanted.switches:
        indexes[switch.bridge.name] = links.need(node.nl, switch.bridge.name).index
    port_index = 0
    for veth in wanted.veths:
        port_index = _make_veth(node, netns, pod_nl, key, veth, indexes.get(veth.master, 0))
        indexes[veth.name] = port_index
    made = _make_in_pod(node, netns, pod_nl, wanted)
    alias = [links.set_alias(port_index, key.tag, str(key))] if port_index else []
    # On the node all of it hangs on our own port, or is a hint that may be wrong; so it goes in one datagram.
    node.nl.do(*alias, *[thing.make(indexes[thing.link]) for thing in wanted.node])
    return made._replace(port_index=port_index)


def _make_veth(node: Node, netns: Netns, pod_nl: Socket, key: Key, veth: links.Veth, master: int) -> int:
    try:
        node.nl.do(veth.make(netns.fd, master))
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise
        if links.find(pod_nl, veth.peer):
            raise CNIError(
                CONFLICT,
                f"CNI_IFNAME: interface {veth.peer} already exists in {netns.path}",
                "it is not of this attachment's making, and was left alone; use another CNI_IFNAME",
            ) from error
        left = veth.find(node.nl)
        if not left:
            raise
        # It bears our tag and there is no record of it: an earlier life of this attachment.
        node.nl.do(veth.drop(left.index))
        node.nl.do(veth.make(netns.fd, master))
    return links.need(node.nl, veth.name).index


def _make_in_pod(node: Node, netns: Netns, pod_nl: Socket, wanted: Wanted) -> _Made:
    """What is done in the pod: sysctls from inside, the rest through the socket, in one datagram.

    Together, because whatever fails there, all of it goes with the veth.
    """
    dad = [thing for thing in wanted.pod if isinstance(thing, LinkAddress) and thing.dad]
    monitor = None
    if wanted.tuning or dad:
        with netns.inside(node.home):
            for sysctl in wanted.tuning:
                sysctl.make()
            if dad:
                monitor = Socket(groups=inet.RTMGRP_IPV6_IFADDR)
    names = dict.fromkeys([thing.link for thing in wanted.pod])
    indexes = {name: links.need(pod_nl, name).index for name in names}
    try:
        pod_nl.do(*[thing.make(indexes[thing.link]) for thing in wanted.pod])
        if monitor:
            _wait_for_dad(pod_nl, monitor, dad, indexes)
    finally:
        if monitor:
            monitor.close()
    reported = []
    for i, interface in enumerate(wanted.interfaces):
        if interface.name in wanted.reported:
            reported += [IPConfig(found.address, None, i) for found in inet.addresses(pod_nl, indexes[interface.name])]
    return _Made(0, tuple(reported))


def _wait_for_dad(nl: Socket, monitor: Socket, wanted: list[LinkAddress], indexes: dict[str, int]) -> None:
    """Until the kernel has found no duplicate of the IPv6 addresses. Woken by its news, never asleep."""
    pending = [thing for thing in wanted if thing.address.address.version == 6]
    poll = select.poll()
    poll.register(monitor.fileno(), select.POLLIN)
    end = time.monotonic() + _DAD_PATIENCE_S
    while pending:
        for thing in list(pending):
            found = [a for a in inet.addresses(nl, indexes[thing.link]) if a.address == thing.address]
            if not found or found[0].flags & inet.IFA_F_DADFAILED:
                raise CNIError(
                    CONFLICT,
                    f"address {thing.address} is in use by another host of the network",
                    "duplicate address detection was answered; is the same subnet handed out elsewhere?",
                )
            if not found[0].flags & inet.IFA_F_TENTATIVE:
                pending.remove(thing)
        if pending and not poll.poll(max(0, int((end - time.monotonic()) * 1000))):
            told = ", ".join(str(thing.address) for thing in pending)
            raise CNIError(TRY_AGAIN_LATER, f"duplicate address detection of {told} did not end", "the link has no carrier?")
        _drain(monitor)


def _drain(monitor: Socket) -> None:
    from cni.lean import socket

    while True:
        try:
            monitor.receive(flags=socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return
            if error.errno != errno.ENOBUFS:
                raise


# --- DEL --------------------------------------------------------------------------------------------


def delete(node: Node, call: Call) -> None:
    """Detaches the pod. What is gone already, in whatever order, is fine; twice is as once."""
    if not call.recorded:
        _undo_in_pod(node, call)
        return
    node.prepare()
    with node.lock(call.key):
        old = node.records.read(call.key)
        if old:
            remove(node, old)
        else:
            _remove_unrecorded(node, call)


def remove(node: Node, old: Record) -> None:
    """Takes away all that the record lists, then the record. For DEL, GC and a failed ADD alike.

    Goes on after an error, so that one thing that can't be removed keeps no other; then raises the first. The
    record stays until all of it is gone.
    """
    if old.stage != record.LEAVING:
        old = node.records.write(old.leaving())
    failures: list[Exception] = []
    _attempt(failures, lambda: _delete_port(node, old.key))
    for thing in old.wanted.node:
        if isinstance(thing, Neighbour):
            _attempt(failures, lambda thing=thing: _drop_neighbour(node, thing))
    if not failures:
        # An address may pass to another pod as soon as it is free, so nothing of ours may still use it.
        _attempt(failures, lambda: node.reopen(old.delegation).release(old.key, old.netns))
    if failures:
        raise failures[0]
    node.records.remove(old.key)


def _attempt(failures: list[Exception], step: Callable[[], None]) -> None:
    try:
        step()
    except (CNIError, OSError) as error:
        failures.append(error)


def _delete_port(node: Node, key: Key) -> None:
    """The veth, by its node's end, and with it what hangs on it: the pod's addresses and routes, the port, its fdb."""
    found = links.find(node.nl, key.tag)
    if found:
        reaper.delete(node, found)


def _drop_neighbour(node: Node, seed: Neighbour) -> None:
    """It hangs on the bridge, so it has to go by itself, unless the address is another pod's by now."""
    bridge = links.find(node.nl, seed.link)
    if bridge and seed.find(node.nl, bridge.index):
        node.nl.do(seed.drop(bridge.index))


def _remove_unrecorded(node: Node, call: Call) -> None:
    """Without a record: what bears our tag, or else what the previous result says was made for this attachment.

    So a pod that the reference plugins attached is detached by us. An interface of that name which neither
    knows of was never this network's, and stays.
    """
    failures: list[Exception] = []
    _attempt(failures, lambda: _delete_port(node, call.key))
    prev = call.prev
    if prev and any(i.name == call.key.ifname and i.sandbox for i in prev.interfaces):
        _attempt(failures, lambda: _delete_in_pod(node, call))
    if not failures:
        _attempt(failures, lambda: call.addresses.release(call.key, call.netns))
    if failures:
        raise failures[0]
    node.records.remove(call.key)  # one that could not be read


def _delete_in_pod(node: Node, call: Call) -> None:
    with _maybe_netns(node, call) as netns:
        if netns:
            with _socket_in(netns, node) as pod_nl:
                found = links.find(pod_nl, call.key.ifname)
                if found and found.kind == "veth":
                    pod_nl.do(links.drop(found.index, found.name))


def _undo_in_pod(node: Node, call: Call) -> None:
    with _maybe_netns(node, call) as netns:
        if not netns:
            return
        with _socket_in(netns, node) as pod_nl:
            for thing in reversed(_wanted(call, _pod(node, call, Result())).pod):
                found = links.find(pod_nl, thing.link)
                if found:
                    pod_nl.do(thing.drop(found.index))


class _maybe_netns:
    """The call's namespace for a `with`, or None where it is gone. The node's own is refused, as for ADD."""

    def __init__(self, node: Node, call: Call) -> None:
        self._netns: Netns | None = None
        if call.netns:
            try:
                self._netns = Netns(call.netns)
            except OSError as error:
                # ENOENT, or a file that is left of one: either way there is no namespace any more.
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.EACCES, errno.ESRCH):
                    raise
        if self._netns and self._netns.same(node.home) and not call.own_netns_is_fine:
            self._netns.__exit__()
            _open_netns(node, call)

    def __enter__(self) -> Netns | None:
        return self._netns

    def __exit__(self, *_: object) -> None:
        if self._netns:
            self._netns.__exit__()


# --- CHECK ------------------------------------------------------------------------------------------


def check(node: Node, call: Call) -> None:
    """Everything that ADD made is there, and the chain's result still true. Raises CNIError 103 naming what is not.

    What later members of the chain may change is compared with their word, the previous result, and not with ours:
    the MAC and the MTU of the pod's end. Seeded neighbours may age, so they are not missed.
    """
    prev = call.prev
    if not prev:
        raise CNIError(INVALID_CONFIG, "Required prevResult missing", "CHECK needs the result of the ADD in prevResult")
    with _open_netns(node, call) as netns, _socket_in(netns, node) as pod_nl:
        if not call.recorded:
            missing = _missing(pod_nl, _wanted(call, _pod(node, call, Result())).pod)
        else:
            with node.lock(call.key):
                missing = _check_recorded(node, call, netns, pod_nl, prev)
    if missing:
        raise CNIError(
            CHECK_FAILED,
            f"{call.key.ifname} of container {call.key.container_id} is not as it was attached: {'; '.join(missing)}",
            "DEL and ADD it again",
        )
    call.addresses.check(call.key, call.netns, prev)


def _check_recorded(node: Node, call: Call, netns: Netns, pod_nl: Socket, prev: Result) -> list[str]:
    missing = _check_result(pod_nl, call, prev)
    old = node.records.read(call.key)
    if not old or old.stage != record.COMPLETE:
        # Of a pod that another plugin attached there is nothing to compare but its result.
        return missing if not old else [*missing, f"the attachment was left {old.stage}"]
    if (old.device, old.inode) != (netns.device, netns.inode) or not cookie_matches(old, pod_nl.netns_cookie()):
        missing.append(f"it was attached to another namespace, {old.netns}")
    wanted = old.wanted
    for switch in wanted.switches:
        missing += shared.find_switch(node, switch)
    missing += [f"sysctl {s.path.replace('/', '.')}={s.value}" for s in wanted.settings if not s.find()]
    with netns.inside(node.home):
        missing += [f"sysctl {s.path.replace('/', '.')}={s.value} in the pod" for s in wanted.tuning if not s.find()]
    for veth in wanted.veths:
        missing += _check_port(node, veth)
    missing += _missing(pod_nl, [thing for thing in wanted.pod if not isinstance(thing, Neighbour)])
    missing += _missing(node.nl, [thing for thing in wanted.node if not isinstance(thing, Neighbour)])
    return list(dict.fromkeys(missing))


def _check_result(pod_nl: Socket, call: Call, prev: Result) -> list[str]:
    """What the previous result says of our interface and is not so."""
    told = [(i, one) for i, one in enumerate(prev.interfaces) if one.name == call.key.ifname and one.sandbox]
    if not told:
        return [f"prevResult names no interface {call.key.ifname} in the pod"]
    number, interface = told[0]
    found = links.find(pod_nl, interface.name)
    if not found:
        return [f"interface {interface.name} in the pod"]
    missing = []
    if interface.sandbox != call.netns:
        missing.append(f"prevResult has the interface in {interface.sandbox}")
    if interface.mac and interface.mac.lower() != found.mac:
        missing.append(f"MAC {interface.mac} of {interface.name}: it is {found.mac}")
    there = {address.address for address in inet.addresses(pod_nl, found.index)}
    missing += [f"address {ip.address}" for ip in prev.ips if ip.interface == number and ip.address not in there]
    return missing


def _check_port(node: Node, veth: links.Veth) -> list[str]:
    port = veth.find(node.nl)
    if not port:
        return [f"link {veth.name} on the node"]
    missing = [] if port.up else [f"link {veth.name} on the node is down"]
    bridge = links.find(node.nl, veth.master) if veth.master else None
    if veth.master and not (bridge and port.master == bridge.index):
        missing.append(f"{veth.name} is no port of {veth.master}")
    return missing


def _missing(nl: Socket, things: Iterable[object]) -> list[str]:
    """The objects that are not there, in the words of the request that would make them."""
    missing = []
    indexes: dict[str, int] = {}
    for thing in things:
        if thing.link not in indexes:
            found = links.find(nl, thing.link)
            indexes[thing.link] = found.index if found else 0
        index = indexes[thing.link]
        if not index:
            missing.append(f"interface {thing.link}")
        elif not thing.find(nl, index):
            missing.append(thing.make(index).what)
    return missing


# --- GC and STATUS ----------------------------------------------------------------------------------


def gc(node: Node, network: str, plugin: str, addresses: Addresses, valid: frozenset[tuple[str, str]] | None) -> None:
    """Removes the attachments of this network and plugin that are not in `valid`: (container ID, interface name).

    None means that nobody said which are valid, so nothing is done. Goes on after an error, and raises the first.
    """
    if valid is None:
        return
    node.prepare()
    failures: list[Exception] = []
    stale = {r.key for r in node.records.of_network(network) if r.key.plugin == plugin}
    # Links that bear our tag and have lost their record.
    for found in links.dump(node.nl, "veth"):
        key = Key.parse(found.alias)
        if key and key.tag == found.name and (key.network, key.plugin) == (network, plugin):
            stale.add(key)
    for key in stale:
        if (key.container_id, key.ifname) not in valid:
            _attempt(failures, lambda key=key: _collect(node, key))
    _attempt(failures, lambda: addresses.gc(network, valid))
    if failures:
        raise failures[0]


def _collect(node: Node, key: Key) -> None:
    with node.lock(key):
        old = node.records.read(key)
        if old:
            remove(node, old)
        else:
            _delete_port(node, key)


def status(node: Node, addresses: Addresses) -> None:
    """Whether an ADD could be served, as far as lasting causes go. Raises CNIError 50, or what the IPAM says.

    Asked every few seconds, and a no makes the node NotReady: so it costs the same whatever there is on the node,
    and passing troubles are not its business.
    """
    try:
        node.prepare()
        posix.close(posix.open(f"{node.run_dir}/attachments.lock", posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC, 0o600))
        links.find(node.nl, "lo")
    except OSError as error:
        raise CNIError(NOT_AVAILABLE, f"the node can't attach pods: {error}", f"state is kept in {node.run_dir}") from error
    addresses.status()

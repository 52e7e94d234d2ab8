"""ADD, DEL, CHECK, GC and STATUS of an attachment, over objects and without knowing any feature.

ADD makes what the features want; whatever fails on the way, what was made until then is taken away by `remove`,
which is what DEL and GC run, from the same record. So there is one undo, and a process that dies anywhere leaves a
record from which the next DEL, GC or ADD of the same attachment goes on.

    ADD   lock ▸ record begun ▸ addresses ▸ record planned ▸ shared ▸ veth ▸ in the pod ▸ on the node ▸ complete
    DEL   lock ▸ record leaving ▸ links ▸ what hangs on the bridge ▸ addresses ▸ record gone

What only one verb needs is imported by that verb: each is a process of ten milliseconds.
Nothing here reads the environment, prints, or depends on being called once in a process. Raises CNIError for
what it decides itself, and NetlinkError or OSError for what the kernel or the file system refuses.
"""

from __future__ import annotations

from cni.attach import record, sandbox
from cni.attach.record import Record
from cni.kernel import inet
from cni.kernel import link as links
from cni.kernel.neighbour import Neighbour
from cni.kernel.netns import LostThreadError
from cni.lean import NamedTuple, posix
from cni.spec.errors import ALREADY_ATTACHED, CHECK_FAILED, INVALID_CONFIG, NOT_AVAILABLE, PASSING, CNIError
from cni.spec.result import DNS, Result
from cni.wanted import Key, Pod, Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attach.node import Node
    from cni.kernel.link import Link
    from cni.spec.result import IPConfig
    from cni.wanted import Addresses, Feature


class Call(NamedTuple):
    """One call for one attachment, parsed."""

    key: Key
    netns: str
    """CNI_NETNS; "" where a DEL has none."""
    own_netns_is_fine: bool
    """CNI_NETNS_OVERRIDE."""
    cni_version: str
    features: tuple[Feature, ...]
    """Not needed by a DEL of what has a record."""
    addresses: Addresses
    prev: Result | None
    dns: DNS
    """Overrides what IPAM says, unless empty."""
    recorded: bool
    """Whether anything may exist outside the pod, which DEL then has to know of."""


# --- ADD --------------------------------------------------------------------------------------------


def add(node: Node, call: Call) -> Result:
    """Attaches the pod. An attachment that lives already is an error, and nothing of it is touched."""
    from cni.attach import making, shared

    with sandbox.require(call.netns, node.home, call.own_netns_is_fine) as pod_side:
        if not call.recorded:
            wanted = _wanted(call, _pod(node, call, Result()))
            return _result(call, wanted, making.make_in_pod(pod_side, wanted, {}), DNS())
        node.prepare(adding=True)
        with node.lock(call.key):
            cookie = pod_side.nl.netns_cookie()
            _clear_remains(node, call.key, pod_side, cookie)
            now = node.records.write(Record.begun(call.key, pod_side.netns, cookie, call.addresses.delegation))
            try:
                leased = call.addresses.acquire(call.key, call.netns)
                pod = _pod(node, call, leased)
                wanted = _wanted(call, pod)
                # What can't be told or made is refused while there is nothing but the lease to undo.
                _result(call, wanted, (), leased.dns)
                if any(ip.address.address.version == 6 for ip in leased.ips):
                    shared.require_ipv6()
                now = node.records.write(now.planned(wanted))
                switches = {
                    switch.bridge.name: shared.ensure_switch(node, switch, pod.seen[switch.bridge.name])
                    for switch in wanted.switches
                }
                if any(found.mac != pod.seen[name].mac for name, found in switches.items()):
                    # Somebody else made the bridge a moment ago, and who seeds its MAC must know the true one.
                    wanted = _wanted(call, pod._replace(seen=switches))
                reported = making.make(node, pod_side, call.key, wanted, switches)
                result = _result(call, wanted, reported, leased.dns)
                node.records.write(now.complete(wanted))
            except LostThreadError:
                raise  # this thread may do nothing more, and the record is there for the next call
            except BaseException as error:
                _roll_back(node, now, error)
                raise
            return result


def _clear_remains(node: Node, key: Key, pod_side: sandbox.Sandbox, cookie: int) -> None:
    """An attachment of this key that lives is an error; one that began, died or was leaving is removed first."""
    old = node.records.read(key)
    if not old:
        return
    # At the same path may be another namespace by now, even with the inode number of the one that was.
    gone = old.netns == pod_side.netns.path and not record.is_in(old, pod_side.netns, cookie)
    if old.stage == record.COMPLETE and record.lives(old) and not gone:
        raise CNIError(
            ALREADY_ATTACHED,
            f"{key.ifname} of container {key.container_id} is attached to network {key.network} already",
            f"its namespace {old.netns} exists, so nothing was changed; DEL it first",
        )
    remove(node, old)


def _pod(node: Node, call: Call, leased: Result) -> Pod:
    """Chooses all that is left to choose: the MACs."""
    from cni.attach import shared

    bridges = [bridge for feature in call.features for bridge in feature.needs]
    return Pod(
        key=call.key,
        netns=call.netns,
        ifname=call.key.ifname,
        tag=call.key.tag,
        mac=next((feature.mac for feature in call.features if feature.mac), "") or _new_mac(),
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


def _result(call: Call, wanted: Wanted, reported: tuple[IPConfig, ...], dns: DNS) -> Result:
    """The result of the ADD; in a chain, what there was before and us. CNIError if the version can't hold it."""
    ours = Wanted(interfaces=wanted.interfaces, ips=wanted.ips + reported, routes=wanted.routes)
    if call.prev:
        before = Wanted(interfaces=call.prev.interfaces, ips=call.prev.ips, routes=call.prev.routes)
        ours = before.and_also(ours)
        dns = call.prev.dns if dns.empty else dns
    result = Result(ours.interfaces, ours.ips, ours.routes, dns if call.dns.empty else call.dns)
    result.to_object(call.cni_version)
    return result


def _roll_back(node: Node, begun: Record, error: BaseException) -> None:
    """Takes away what was made. Should that fail too, the record stays, and the first error tells of the second."""
    try:
        remove(node, begun)
    except (CNIError, OSError) as second:
        error.add_note(f"what was made could not be taken away either ({second}); a DEL will try again")


# --- DEL --------------------------------------------------------------------------------------------


def delete(node: Node, call: Call) -> None:
    """Detaches the pod. What is gone already, in whatever order, is fine; twice is as once."""
    sandbox.refuse_own(call.netns, node.home, call.own_netns_is_fine)
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
    failures = _Failures()
    with failures:
        _delete_port(node, old.key)
    for thing in old.wanted.node:
        if isinstance(thing, Neighbour):  # all else went with the port
            with failures:
                _drop_neighbour(node, thing)
    failures.end()
    node.reopen(old.delegation).release(old.key, old.netns)
    node.records.remove(old.key)


class _Failures:
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


def _delete_port(node: Node, key: Key) -> None:
    """The veth, by its node's end, and with it what hangs on it: the pod's addresses and routes, the port, its fdb."""
    from cni.attach import reaper

    found = links.find(node.nl, key.tag)
    if found:
        reaper.delete(node, found)


def _drop_neighbour(node: Node, seed: Neighbour) -> None:
    """It hangs on the bridge, so it has to go by itself, unless the address is another pod's by now."""
    bridge = links.find(node.nl, seed.link)
    if bridge and seed.find(node.nl, bridge.ifindex):
        node.nl.do(seed.drop(bridge.ifindex))


def _remove_unrecorded(node: Node, call: Call) -> None:
    """Without a record: what bears our tag, or else what the previous result says was made for this attachment.

    So a pod that the reference plugins attached is detached by us. An interface of that name which neither
    knows of was never this network's, and stays.
    """
    failures = _Failures()
    with failures:
        _delete_port(node, call.key)
    if call.prev:
        with failures:
            _delete_in_pod(node, call, call.prev)
    failures.end()
    call.addresses.release(call.key, call.netns)
    node.records.remove(call.key)  # one that could not be read


def _delete_in_pod(node: Node, call: Call, prev: Result) -> None:
    pod_side = sandbox.find(call.netns, node.home, call.own_netns_is_fine)
    if pod_side:
        with pod_side:
            found = links.find(pod_side.nl, call.key.ifname)
            if found and found.kind == "veth" and _is_told(pod_side, found, prev):
                pod_side.nl.do(links.drop(found.ifindex, found.name))


def _is_told(pod_side: sandbox.Sandbox, found: Link, prev: Result) -> bool:
    """Whether a link of the pod is the one that a result tells of: another may have come into its name since.

    By its MAC, or else by an address: a chained plugin that had changed the MAC has given it back by now.
    """
    for i, told in enumerate(prev.interfaces):
        if told.name == found.name and told.sandbox:
            ips = [ip.address for ip in prev.ips if ip.interface == i]
            if told.mac.lower() == found.mac or not (told.mac or ips):
                return True
            return any(there.address in ips for there in inet.addresses(pod_side.nl, found.ifindex))
    return False


def _undo_in_pod(node: Node, call: Call) -> None:
    pod_side = sandbox.find(call.netns, node.home, call.own_netns_is_fine)
    if pod_side:
        with pod_side:
            for thing in reversed(_wanted(call, _pod(node, call, Result())).pod):
                found = links.find(pod_side.nl, thing.link)
                if found:
                    pod_side.nl.do(thing.drop(found.ifindex))


# --- CHECK, GC, STATUS ------------------------------------------------------------------------------


def check(node: Node, call: Call) -> None:
    """Whether all that ADD made is there and the chain's result true. Raises CNIError 103 naming all that isn't."""
    from cni.attach import checking

    prev = call.prev
    if not prev:
        raise CNIError(INVALID_CONFIG, "Required prevResult missing", "CHECK needs the result of the ADD in prevResult")
    with sandbox.require(call.netns, node.home, call.own_netns_is_fine) as pod_side:
        if call.recorded:
            node.prepare()
            with node.lock(call.key):
                old = node.records.read(call.key)
                missing = checking.differences(node, pod_side, call.key, prev, old)
        else:
            missing = checking.missing_objects(pod_side.nl, _wanted(call, _pod(node, call, Result())).pod)
    if missing:
        raise CNIError(
            CHECK_FAILED,
            f"{call.key.ifname} of container {call.key.container_id} is not as it was attached: {'; '.join(missing)}",
            "DEL and ADD it again",
        )
    call.addresses.check(call.key, call.netns, prev)


def gc(node: Node, network: str, plugin: str, addresses: Addresses, valid: frozenset[tuple[str, str]] | None) -> None:
    """Removes the attachments of this network and plugin that are not in `valid`: (container ID, interface name).

    None means that nobody said which are valid, so nothing is done. Goes on after an error, and raises the first.
    """
    if valid is None:
        return
    node.prepare()
    failures = _Failures()
    stale = {key for key in node.records.keys(network) if key.plugin == plugin}
    with failures:
        # And links that bear our tag and have lost their record. A list of links that keeps changing is no reason to
        # leave the rest.
        for found in links.dump(node.nl, "veth"):
            key = Key.parse(found.alias)
            if key and key.tag == found.name and (key.network, key.plugin) == (network, plugin):
                stale.add(key)
    for key in sorted(stale):
        if (key.container_id, key.ifname) not in valid:
            with failures:
                _collect(node, key)
    for tag in node.records.half_written(network):
        with failures, node.lock_of(tag):
            node.records.discard(network, tag)
    with failures:
        addresses.gc(network, valid)
    failures.end()


def _collect(node: Node, key: Key) -> None:
    with node.lock(key):
        old = node.records.read(key)
        if old:
            remove(node, old)
        else:
            _delete_port(node, key)
            node.records.remove(key)  # one that could not be read


def status(node: Node, addresses: Addresses) -> None:
    """Whether an ADD could be served, as far as lasting causes go. Raises CNIError 50, or what the IPAM says.

    Asked every few seconds, and a no makes the node NotReady: so it costs the same whatever there is on the node,
    and passing troubles are not told as lasting ones.
    """
    try:
        node.prepare()
        node.require_room()
        links.find(node.nl, "lo")
    except OSError as error:
        if error.errno in PASSING:
            raise
        raise CNIError(NOT_AVAILABLE, f"the node can't attach pods: {error}", f"state is in {node.run_dir}") from error
    addresses.status()

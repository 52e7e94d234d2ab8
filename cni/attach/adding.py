"""ADD: makes what the features want, over objects and without knowing any feature.

    lock ▸ kernel asked ▸ record begun ▸ addresses ▸ record planned ▸ elements ▸ bridge, settings ▸ links ▸ in the pod
    ▸ on the node ▸ record complete

Whatever fails on the way, what was made until then is taken away by `removing.remove`, which is what DEL and GC run,
from the same record. So there is one undo, and a process that dies anywhere leaves a record from which the next DEL,
GC or ADD of the same attachment goes on.

Nothing here reads the environment, prints, or depends on being called once in a process. Raises CNIError for what it
decides itself, and NetlinkError or OSError for what the kernel or the file system refuses.
"""

from __future__ import annotations

from cni.attach import making, objects, record, sandbox, shared
from cni.attach.call import pod_of, result_of, wanted_of
from cni.attach.record import Record
from cni.kernel.netns import LostThreadError
from cni.spec.errors import CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attach.call import Call
    from cni.attach.node import Node
    from cni.attach.objects import Objects
    from cni.key import Key
    from cni.spec.result import Result
    from cni.wanted import Pod, Wanted


def add(node: Node, call: Call) -> Result:
    """Attaches the pod. An attachment that lives already is an error, and nothing of it is touched; unless another
    member of the chain made it, which is by the same plugin."""
    with sandbox.require(call.netns, node.home, call.own_netns_is_fine) as pod_side:
        node.prepare(adding=True)
        with node.lock(call.key):
            cookie = pod_side.nl.netns_cookie()
            living = _clear_remains(node, call.key, pod_side, cookie)
            if living:
                from cni.attach import places

                # Under the lock of the first place, which keeps all other calls for any of them out.
                key = places.require_next(node, living, pod_side.netns, cookie, call.config)
                return add(node, call._replace(key=key))
            _require_kernel(node, call)
            begun = Record.begun(call.key, pod_side.netns, cookie, call.addresses.delegation, call.config)
            now = node.records.write(begun)
            try:
                leased = call.addresses.acquire(call.key, call.netns)
                pod = _pod_of(node, pod_side, call, leased)
                wanted = wanted_of(call, pod)
                # What can't be told or made is refused while there is nothing but the lease to undo.
                result_of(call, wanted, (), leased.dns)
                if any(ip.address.address.version == 6 for ip in leased.ips):
                    shared.require_ipv6()
                before = _before(pod_side, wanted)
                now = node.records.write(now.planned({**objects.to_json(wanted), **before}))
                _filter(node, call.key, wanted)
                switches = {
                    switch.bridge.name: shared.ensure_switch(node, switch, pod.seen[switch.bridge.name])
                    for switch in wanted.switches
                }
                if any(found.mac != pod.seen[name].mac for name, found in switches.items()):
                    # Somebody else made the bridge a moment ago, and who seeds its MAC must know the true one.
                    others = wanted_of(call, pod._replace(seen=switches))
                    now = node.records.write(now.planned({**objects.to_json(others), **before}))
                    _filter_anew(node, call.key, wanted, others)
                    wanted = others
                for setting in wanted.settings:
                    shared.ensure_setting(node, setting, pod.port)
                reported = making.make(node, pod_side, call.key, wanted, switches)
                result = result_of(call, wanted, reported, leased.dns)
                node.records.write(now.complete())
            except LostThreadError:
                raise  # this thread may do nothing more, and the record is there for the next call
            except BaseException as error:
                _roll_back(node, now, error)
                raise
            return result


def _require_kernel(node: Node, call: Call) -> None:
    """What the kernel can't do is refused before anything is done, as far as the configuration tells."""
    features = (call.main, *call.features)
    questions = [question for feature in features for question in getattr(feature, "questions", ())]
    if questions:
        from cni.attach import abilities

        abilities.require(node, questions)
    families = [family for feature in features for family in getattr(feature, "tables", ())]
    if families:
        from cni.attach import elements

        elements.require_tables(node, dict.fromkeys(families))


def _pod_of(node: Node, pod_side: sandbox.Sandbox, call: Call, leased: Result) -> Pod:
    if call.main:
        return pod_of(node, call, call.main, leased)
    from cni.attach import chained

    return chained.pod_of(node, pod_side, call)


def _before(pod_side: sandbox.Sandbox, wanted: Wanted) -> Objects:
    """How the pod is now where that is going to change: for the record."""
    if not wanted.amends:
        return {}
    from cni.attach import amending

    return {objects.BEFORE: amending.now(pod_side, wanted)}


def _filter(node: Node, key: Key, wanted: Wanted) -> None:
    """What rules know of the pod, before a packet of its can come and before a setting opens what they close; and the
    end of what the kernel remembers of whoever was in its place."""
    if wanted.elements:
        from cni.attach import elements

        elements.make(node, key, wanted)
    if wanted.openings:
        from cni.attach import openings

        openings.make(node, key, wanted.openings)
    if wanted.flows:
        from cni.kernel import conntrack

        conntrack.forget_strays(node.nf(), node.nl, wanted.flows)


def _filter_anew(node: Node, key: Key, before: Wanted, wanted: Wanted) -> None:
    """Elements may tell of the bridge, which turned out to be another's."""
    if before.elements != wanted.elements:
        from cni.attach import elements

        elements.drop(node, key, before.elements)
        elements.make(node, key, wanted)


def _clear_remains(node: Node, key: Key, pod_side: sandbox.Sandbox, cookie: int) -> Record | None:
    """An attachment of this key, if it lives; one that began, died or was leaving is removed."""
    old = node.records.read(key)
    if not old:
        return None
    # At the same path may be another namespace by now, even with the inode number of the one that was.
    gone = old.netns == pod_side.netns.path and not record.is_in(old, pod_side.netns, cookie)
    if old.stage == record.COMPLETE and record.lives(old) and not gone:
        return old
    if old.more:
        from cni.attach import places

        places.remove_later(node, key)
    from cni.attach import removing

    removing.remove(node, old)
    return None


def _roll_back(node: Node, begun: Record, error: BaseException) -> None:
    """Takes away what was made. Should that fail too, the record stays, and the first error tells of the second."""
    try:
        from cni.attach import removing

        removing.remove(node, begun)
    except (CNIError, OSError, ImportError) as second:  # the last, where our file was overwritten while we ran
        error.add_note(f"what was made could not be taken away either ({second}); a DEL will try again")

"""GC: what is attached and in no runtime's list goes, as DEL would take it away."""

from __future__ import annotations

from cni.attach import places
from cni.attach.removing import Failures, delete_links, remove
from cni.kernel import link as links
from cni.key import Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attach.node import Node
    from cni.wanted import Addresses


def gc(node: Node, network: str, plugin: str, addresses: Addresses, valid: frozenset[tuple[str, str]] | None) -> None:
    """Removes the attachments of this network and plugin that are not in `valid`: (container ID, interface name).

    None means that nobody said which are valid, so nothing is done. Goes on after an error, and raises the first.
    """
    if valid is None:
        return
    node.prepare()
    failures = Failures()
    stale = {key for key in node.records.keys(network) if places.plugin(key) == plugin}
    with failures:
        # And links that bear our tag and have lost their record. A list of links that keeps changing is no reason to
        # leave the rest.
        for found in [*links.dump(node.nl, "veth"), *links.dump(node.nl, "ifb")]:
            key = Key.parse(found.alias)
            if key and found.name in (key.tag, key.ifb_tag) and (key.network, places.plugin(key)) == (network, plugin):
                stale.add(key)
    for key in sorted(stale, reverse=True):  # of several places the last first
        if (key.container_id, key.ifname) not in valid:
            with failures:
                _collect(node, key)
    for tag in node.records.half_written(network):
        with failures, node.lock_of(tag):
            node.records.discard(network, tag)
    if node.tables():
        from cni.attach import tables

        with failures:
            tables.collect(node)
    with failures:
        addresses.gc(network, valid)
    failures.end()


def _collect(node: Node, key: Key) -> None:
    with node.lock(key):
        old = node.records.read(key)
        if old:
            remove(node, old)
        else:
            delete_links(node, key)
            node.records.remove(key)  # one that could not be read

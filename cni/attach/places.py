"""Several members of a chain by one plugin: `tuning` for sysctls, say, and `tuning` once more for the MAC.

What tells attachments apart is the plugin's name, and these have the same. So each has a *place*: the first has the
key that it would have alone, the second one whose plugin is `tuning#2`, and so on. With the key, tag, record, claims
and ifb are its own. A member is known by its own part of the configuration, which the record holds: the same again is
an ADD that was repeated, and refused.

DEL goes by no configuration, so it doesn't ask which member calls it: the last one made goes. Runtimes call in reverse,
so that is whose turn it is; and where one doesn't, or has changed the configuration, or tries again what failed half
way, then after as many calls as there were members all are gone, and what each had found was put back in the right
order. What a runtime that calls less often leaves, GC takes.

Who alone is by its plugin pays nothing for this: that there may be others is in the first one's record (`more`), before
there are. Whoever works on a later place holds the lock of the first as well, taken before; but GC takes each by
itself.
"""

from __future__ import annotations

from cni.attach import record, removing
from cni.lean import JSONError, loads
from cni.spec.errors import ALREADY_ATTACHED, INVALID_CONFIG, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from cni.attach.node import Node
    from cni.attach.record import Record
    from cni.kernel.netns import Netns
    from cni.key import Key

MOST: Final = 9
"""Places of one plugin. There is a last one, so that what lost its record can be looked for at all of them; it has one
digit, so that keys sort by place."""
_MARK: Final = "#"
_INJECTED: Final = frozenset(
    ("cniversion", "name", "prevresult", "runtimeconfig", "args", "cni.dev/valid-attachments", "cni.dev/attachments")
)
"""Keys, in lower case, that a runtime puts into the configuration of each member."""


def plugin(key: Key) -> str:
    """The name of the plugin, whichever its place."""
    return key.plugin.partition(_MARK)[0]


def every(node: Node, key: Key) -> list[Key]:
    """The keys of all places that there can be, of which `key` is the first."""
    later = _later(key)
    try:
        node.records.path(later[0])
    except CNIError:
        return [key]  # its container ID is so long that a later place, which has a longer name, can have no record
    return [key, *later]


def _later(key: Key) -> list[Key]:
    return [key._replace(plugin=f"{key.plugin}{_MARK}{place}") for place in range(2, MOST + 1)]


def own(config: str) -> dict[str, Any] | None:
    """What a configuration says of the member itself; None where that isn't known."""
    try:
        keys = loads(config)
    except JSONError:
        return None
    if not isinstance(keys, dict):
        return None
    return {key.lower(): value for key, value in keys.items() if key.lower() not in _INJECTED}


def require_next(node: Node, first: Record, netns: Netns, cookie: int, config: str) -> Key:
    """The place of another member of the chain of this pod, whose first by this plugin lives. That there may be one is
    noted.

    Raises CNIError 102 for what isn't another: a member that was added already, or another pod.
    """
    key = first.key
    # Whatever the first one's record says of later ones: it may have been lost since, and written anew.
    made = [one for one in _records(node, first) if one.stage == record.COMPLETE and record.is_in(one, netns, cookie)]
    # Of whom nothing is known, that may be the one.
    again = [one for one in made if own(one.config) in (None, own(config))]
    if again or not record.is_in(first, netns, cookie):
        raise CNIError(
            ALREADY_ATTACHED,
            f"{key.ifname} of container {key.container_id} is attached to network {key.network} already",
            f"its namespace {first.netns} exists, so nothing was changed; DEL it first",
        )
    # Behind the last that is there, so that what each found is put back in the right order.
    free = [one for one in _later(key) if one > made[-1].key]
    if not free:
        raise CNIError(
            INVALID_CONFIG,
            f"{key.plugin} is in the chain more than {MOST} times",
            "make one member of two in the list of plugins of the network configuration",
        )
    node.records.path(free[0])  # refuses what is too long before anything is noted
    if not first.more:
        node.records.write(first._replace(more=True))
    return free[0]


def made_by(node: Node, first: Record, config: str) -> list[Record]:
    """The record of the member with this configuration; of all, where that can't be told."""
    records = _records(node, first)
    return [one for one in records if own(one.config) == own(config)] or records


def remove_last(node: Node, key: Key) -> bool:
    """Takes away what was made last at a later place. False: there is none."""
    for place in reversed(every(node, key)[1:]):
        if node.records.read(place):
            with node.lock(place):
                old = node.records.read(place)  # GC holds no other lock
                if old:
                    removing.remove(node, old)
                    return True
    return False


def remove_later(node: Node, key: Key) -> None:
    """Takes away all that was made at later places."""
    while remove_last(node, key):
        pass


def _records(node: Node, first: Record) -> list[Record]:
    """Of all places, `first` and then the later ones."""
    found = [node.records.read(place) for place in every(node, first.key)[1:]]
    return [first, *[one for one in found if one]]

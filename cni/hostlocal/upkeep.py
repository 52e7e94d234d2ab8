"""CHECK, STATUS and GC of host-local."""

from __future__ import annotations

from cni.hostlocal import never_used, owner_of
from cni.hostlocal.plan import Plan, parse_sets
from cni.hostlocal.refusals import told, unusable
from cni.spec.errors import CHECK_FAILED, NOT_AVAILABLE, CNIError
from ipam import census, releasing
from ipam.store import Busy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from cni.key import Key
    from cni.spec.netconf import NetConf
    from cni.spec.result import Result
    from ipam.address import Address
    from ipam.ranges import RangeSet
    from ipam.store import Directory


def check(directory: Directory, key: Key, config: Callable[[], NetConf], prev: Result | None) -> None:
    """Every address of our ranges that the result names is reserved for the attachment, one of each set."""
    try:
        held = _held(directory, key)
        if not held:
            raise CNIError(
                CHECK_FAILED,
                f"host-local: Failed to find address added by container {key.container_id}",
                f"no file in {directory.path} names {key.container_id} {key.ifname}; delete and recreate the pod",
            )
        if prev is None:
            return
        named = [ip.address.address for ip in prev.ips]
        for index, ranges in enumerate(parse_sets(config())):
            ours = [one for one in named if ranges.range_of(one)]
            if not ours:
                raise _mismatch(f"prevResult has no address of range set {index} ({ranges})", held)
            for one in ours:
                if one not in held:
                    holder = directory.owner_of(one)
                    whose = "nobody" if holder is None else " ".join(holder.split()) or "an unknown owner"
                    raise _mismatch(
                        f"{one} is not reserved for container {key.container_id} {key.ifname} but for {whose}", held
                    )
    except (Busy, OSError) as error:
        raise told(error, directory) from error


def require_usable(directory: Directory, conf: NetConf) -> tuple[RangeSet, ...]:
    """The range sets of a configuration by which an ADD could reserve in `directory`. Raises CNIError."""
    sets = parse_sets(conf)
    # STATUS isn't told what the runtime will say at ADD, so ranges that come from there can't be missed here.
    if not sets and "ipRanges" not in conf.capabilities:
        Plan.parse(conf, "")
    try:
        directory.require_usable(len(sets))
    except OSError as error:
        raise unusable(error, directory, NOT_AVAILABLE) from error
    return sets


def require_room(directory: Directory, sets: Sequence[RangeSet], departed: Callable[[], Container[str]]) -> None:
    """Raises CNIError 50 where a set has no address left, after what belongs to nobody any more was taken back."""
    try:
        with directory as reservations:
            full = census.full(reservations, sets, departed)
    except Busy:
        return  # somebody is being served
    except OSError as error:
        if never_used(error):
            return
        raise unusable(error, directory, NOT_AVAILABLE) from error
    if full:
        raise CNIError(
            NOT_AVAILABLE,
            f"no IP addresses available in range set: {', '.join([str(one.ranges) for one in full])}",
            "; ".join(map(str, full)),
        )


def gc(directory: Directory, valid: frozenset[tuple[str, str]]) -> None:
    """Gives back what belongs to no attachment in `valid`, whoever reserved it."""
    containers = frozenset([container_id for container_id, _ in valid])

    def living(owner: str) -> bool:
        parts = tuple(owner.split())
        return parts in valid if len(parts) != 1 else parts[0] in containers

    try:
        with directory as reservations:
            reservations.look()
            releasing.collect(reservations, living)
            reservations.sweep()
            reservations.sweep_stamps()
    except (Busy, OSError) as error:
        if not never_used(error):
            raise told(error, directory) from error


def _held(directory: Directory, key: Key) -> list[Address]:
    try:
        with directory as reservations:
            # Long ago the reference wrote the container alone.
            return reservations.held_by(owner_of(key.container_id, key.ifname)) or reservations.held_by(
                key.container_id
            )
    except OSError as error:
        if never_used(error):
            return []
        raise


def _mismatch(what: str, held: Sequence[Address]) -> CNIError:
    return CNIError(CHECK_FAILED, f"host-local: {what}", f"reserved for it: {', '.join(map(str, held))}")

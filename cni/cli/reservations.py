"""What people want to know of a network's reservations on this node, and what they do about them.

The directory says who holds what; our stamps say which pod that is and since which boot, our records whether it is
attached. Whose state can't be known is held: nothing here takes an address that might be in use without being told.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cni import boot
from cni.attach import departed, record
from cni.attach.node import Node
from cni.noaddresses import NoAddresses
from ipam import recovery
from ipam.store import Directory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from ipam.address import Address

ATTACHED: Final = "attached"
GONE: Final = "gone"
EARLIER: Final = "earlier boot"
TORN: Final = "torn"
OURS: Final = "reserved"
OTHERS: Final = "by another"

MEANINGS: Final = {
    ATTACHED: "podwire attached the pod, and its namespace exists",
    GONE: "podwire attached the pod, and its namespace and its link are gone",
    EARLIER: "podwire reserved it before the node was restarted; the next ADD takes it back",
    TORN: "its file names no owner: whoever wrote it died over it",
    OURS: "podwire reserved it in this boot for another plugin, or can't tell more",
    OTHERS: "another host-local wrote it",
}


@dataclass(frozen=True, slots=True)
class Reservation:
    """One address that is held."""

    address: Address
    owner: str
    """As the file says it."""
    state: str
    pod: str
    """`namespace/name`, where the runtime said so."""

    @property
    def container_id(self) -> str:
        return self.owner.split()[0] if self.owner else ""

    @property
    def ifname(self) -> str:
        return " ".join(self.owner.split()[1:])


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node's state is."""

    data_dir: str
    run_dir: str

    def directory(self, network: str, now: str = "") -> Directory:
        return Directory(self.data_dir, network, create=False, boot=now)


def reservations(place: Place, network: str) -> list[Reservation]:
    """Everything that is held, in order. Raises OSError; a network that was never used has none."""
    attached, gone = _attachments(place, network)
    now = surest_boot(place)
    directory = place.directory(network)
    found = []
    for address, owner in sorted(directory.claims()):
        stamp = recovery.stamp_of(directory, address, owner)
        parts = tuple(owner.split())
        if parts in attached:
            state = ATTACHED
        elif parts in gone:
            state = GONE
        elif not owner:
            state = TORN
        elif not stamp:
            state = OTHERS
        else:
            state = EARLIER if stamp.is_earlier(now) else OURS
        found.append(Reservation(address, owner, state, stamp.about if stamp else ""))
    return found


def release(place: Place, network: str, chosen: Collection[Address]) -> None:
    """Takes these addresses back, whoever holds them. Raises OSError, Busy."""
    with place.directory(network) as store:
        for address, owner in [*store.claims()]:
            if address in chosen:
                store.free(address, owner)


def repair(place: Place, network: str, take: Collection[str]) -> tuple[list[Reservation], int]:
    """Takes back what is in one of these states, removes what died writers left, and makes a new index.

    Returns what was taken back, and how many stamps of what others had released were removed. Raises OSError, Busy.
    """
    with place.directory(network) as store:
        # Under the lock: whoever is on the way to an address has it, or comes after us.
        taken = [one for one in reservations(place, network) if one.state in take]
        for one in taken:
            store.free(one.address, one.owner)
        store.sweep()
        swept = store.sweep_stamps()
        store.look()
    return taken, swept


def strangers(place: Place, network: str) -> list[str]:
    """Names in the directory that are neither an address's nor the lock's nor a counter's."""
    folder = Path(place.data_dir, network)
    if not folder.is_dir():
        return []
    known = {str(address) for address, _ in place.directory(network).claims()}
    return sorted(_strangers(folder, known))


def _strangers(folder: Path, known: set[str]) -> Iterator[str]:
    for path in folder.iterdir():
        if path.name not in known and path.name != "lock" and not path.name.startswith("last_reserved_ip."):
            yield path.name


def surest_boot(place: Place) -> str:
    """What can be said of this boot for certain.

    Process 1 may be another for us than for the node: a person can be in a container. Only what the plugins wrote
    tells, and they may not have run since the last restart. So unless both agree the boot ID alone counts, which is
    the same everywhere: nothing of the boot ID's own time is called earlier then.
    """
    own = boot.stamp()
    try:
        told = Path(place.run_dir, "boot").read_text()
    except OSError:
        told = ""
    return own if told == own else f"{own.partition(' ')[0]} 0"


def _attachments(place: Place, network: str) -> tuple[set[tuple[str, ...]], set[tuple[str, ...]]]:
    """The attachments of which we have a record: those whose namespace exists, and those that are gone."""
    with Node(place.run_dir, lambda _: NoAddresses()) as node:
        gone: set[tuple[str, ...]] = {*departed.of_network(node, network)}
        attached: set[tuple[str, ...]] = {
            (one.key.container_id, one.key.ifname)
            for one in node.records.of_network(network)
            if record.lives(one) or not (one.config or (one.key.container_id, one.key.ifname) in gone)
        }
    return attached, gone

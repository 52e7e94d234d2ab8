"""The record of an attachment: what we made for it, written down before it is made.

A pod can lose its network in any order: its namespace first, its configuration, the runtime's memory of the
result. What DEL needs is here, as *objects*, so that taking away needs no code that knows why they were made.
A record goes through four stages, each written whole (a temporary file, then rename):

    begun      the attachment is spoken for; addresses may be reserved
    planned    … and these objects may exist
    complete   … and do
    leaving    DEL has begun, and whoever finds this goes on with it

Records are one boot long, as pods are: they live under /run, need no fsync, and count only while they bear the
stamp of the boot that is (`Boot`). What bears another, or can't be read, counts as absent.
"""

from __future__ import annotations

import errno

from cni.kernel.inet import LinkAddress, LinkRoute
from cni.kernel.neighbour import FdbEntry, Neighbour
from cni.kernel.netns import is_netns
from cni.kernel.ports import Bridge, BridgePort, LinkUp, Veth
from cni.kernel.sysctl import Sysctl
from cni.lean import JSONError, NamedTuple, dumps, loads, posix
from cni.spec.errors import INVALID_ENVIRONMENT, CNIError
from cni.wanted import Delegation, Key, Switch, Wanted, is_tag
from ipam.address import Address, Network
from ipam.address import Interface as Prefixed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final

    from cni.kernel.netns import Netns

BEGUN: Final = "begun"
PLANNED: Final = "planned"
COMPLETE: Final = "complete"
LEAVING: Final = "leaving"

# A new version must be able to take away what an older one attached. So a field is only ever appended to an object,
# with a default for records that lack it, and a kind is never renamed; what can't be done so is another format.
_FORMAT: Final = 1
_NAME_MAX: Final = 255  # linux/limits.h


class Record(NamedTuple):
    """One attachment, as far as it has come."""

    key: Key
    stage: str
    netns: str
    """CNI_NETNS of the ADD."""
    device: int
    inode: int
    cookie: int
    """Of the namespace (`Socket.netns_cookie`): an inode number is given out again, this is not."""
    delegation: Delegation
    wanted: Wanted
    """The objects. Of what the result says only addresses' gateways are kept, with the switches."""

    @classmethod
    def begun(cls, key: Key, netns: Netns, cookie: int, delegation: Delegation) -> Record:
        return cls(key, BEGUN, netns.path, netns.device, netns.inode, cookie, delegation, Wanted())

    def planned(self, wanted: Wanted) -> Record:
        return self._replace(stage=PLANNED, wanted=wanted)

    def complete(self, wanted: Wanted) -> Record:
        return self._replace(stage=COMPLETE, wanted=wanted)

    def leaving(self) -> Record:
        return self._replace(stage=LEAVING)


def is_in(old: Record, netns: Netns, cookie: int) -> bool:
    """Whether this namespace, with this cookie, is the one that was attached. Unknown cookies (Linux < 5.14) agree."""
    same_inode = (old.device, old.inode) == (netns.device, netns.inode)
    return same_inode and not (old.cookie and cookie and old.cookie != cookie)


def lives(old: Record) -> bool:
    """Whether the attachment's namespace still exists, as far as its path can tell."""
    return is_netns(old.netns, old.device, old.inode)


# --- objects as JSON --------------------------------------------------------------------------------
# An object is a list: its kind, then its fields in order. What has a text form (an address) is kept as text.


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no number")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _maybe_number(value: Any) -> int | None:
    return None if value is None else _number(value)


def _maybe_address(value: Any) -> Address | None:
    return None if value is None else Address.parse(value)


def _bridge(fields: Any) -> Bridge:
    return Bridge(*_parsed((_text, _text, _number), fields))


def _gateways(texts: Any) -> tuple[Prefixed, ...]:
    return tuple([Prefixed.parse(text) for text in texts])


def _parsed(parsers: tuple[Callable[[Any], Any], ...], fields: Any) -> list[Any]:
    return [parse(field) for parse, field in zip(parsers, fields, strict=True)]


_KINDS: Final[dict[str, tuple[Callable[..., Any], tuple[Callable[[Any], Any], ...]]]] = {
    "sysctl": (Sysctl, (_text, _text)),
    "veth": (Veth, (_text, _text, _text, _text, _number, _text)),
    "up": (LinkUp, (_text,)),
    "address": (LinkAddress, (_text, Prefixed.parse, _flag)),
    "route": (
        LinkRoute,
        (_text, Network.parse, _maybe_address, _number, _number, _number, _maybe_number, _maybe_number),
    ),
    "neighbour": (Neighbour, (_text, Address.parse, _text)),
    "fdb": (FdbEntry, (_text, _text)),
    "port": (BridgePort, (_text, _flag, _flag)),
    "switch": (Switch, (_bridge, _gateways)),
}
_NAMES: Final = {kind: name for name, (kind, _) in _KINDS.items()}
_GROUPS: Final = ("switches", "settings", "veths", "tuning", "pod", "node")


def _object_to_json(thing: tuple[Any, ...]) -> list[object]:
    return [_NAMES[type(thing)], *[_field_to_json(field) for field in thing]]


def _field_to_json(field: object) -> object:
    if isinstance(field, (Address, Prefixed, Network)):
        return str(field)
    if isinstance(field, tuple):
        return [_field_to_json(part) for part in field]
    return field


def _object_from_json(value: list[Any]) -> Any:
    """Without the last fields, those that have defaults, where a version wrote it that did not have them yet."""
    kind, parsers = _KINDS[value[0]]
    return kind(*_parsed(parsers[: len(value) - 1], value[1:]))


def objects_to_json(wanted: Wanted) -> str:
    groups = {name: [_object_to_json(thing) for thing in getattr(wanted, name)] for name in _GROUPS}
    return dumps({name: things for name, things in groups.items() if things})


def to_json(record: Record, boot: str, objects: str | None = None) -> str:
    """`objects` is what `objects_to_json` made of the record's, for who has it already."""
    head = dumps(
        {
            "format": _FORMAT,
            "boot": boot,
            "stage": record.stage,
            "key": record.key,
            "netns": [record.netns, record.device, record.inode, record.cookie],
            "delegation": record.delegation,
        }
    )
    return f'{head[:-1]}, "objects": {objects_to_json(record.wanted) if objects is None else objects}}}'


def from_json(data: bytes, boot: str) -> Record | None:
    """The record, or None for what bears the stamp of another boot or can't be read."""
    try:
        value = loads(data)
        if value["format"] != _FORMAT or value["boot"] != boot:
            return None
        groups = {
            name: tuple([_object_from_json(thing) for thing in value["objects"].get(name, ())]) for name in _GROUPS
        }
        netns, device, inode, cookie = _parsed((_text, _number, _number, _number), value["netns"])
        return Record(
            Key(*_parsed((_text,) * 4, value["key"])),
            _text(value["stage"]),
            netns,
            device,
            inode,
            cookie,
            Delegation(*_parsed((_text,) * 3, value["delegation"])),
            Wanted(**groups),
        )
    except (JSONError, KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None


# --- the store --------------------------------------------------------------------------------------


class Records:
    """The records of a node, a file each: `<run>/attachments/<network>/<containerID>@<ifname>@<plugin>.json`.

    Who changes one holds its key's lock. Raises OSError, and CNIError 4 for a key whose file name is too long.
    """

    def __init__(self, run_dir: str, boot: str) -> None:
        self._root = f"{run_dir}/attachments"
        self._boot = boot
        self._objects: tuple[Wanted, str] = (Wanted(), "{}")
        """The objects that were written last, and their JSON: what is planned is complete a moment later."""

    def path(self, key: Key) -> str:
        name = f"{key.container_id}@{key.ifname}@{key.plugin}.json"
        if len(name.encode()) > _NAME_MAX:
            raise CNIError(
                INVALID_ENVIRONMENT,
                f"CNI_CONTAINERID is too long: {len(key.container_id)} characters",
                f"with CNI_IFNAME and the plugin's name it must fit a file name of {_NAME_MAX} bytes",
            )
        return f"{self._root}/{key.network}/{name}"

    def read(self, key: Key) -> Record | None:
        return self._read(self.path(key))

    def write(self, record: Record) -> Record:
        """Puts the record in the place of the one before, at once."""
        if record.wanted is not self._objects[0]:
            self._objects = record.wanted, objects_to_json(record.wanted)
        content = to_json(record, self._boot, self._objects[1]).encode()
        path = self.path(record.key)
        new = self._half_written(record.key.network, record.key.tag)
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC
        try:
            fd = posix.open(new, flags, 0o600)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            make_dirs(f"{self._root}/{record.key.network}")
            fd = posix.open(new, flags, 0o600)
        try:
            try:
                write_all(fd, content, new)
            finally:
                posix.close(fd)
            posix.rename(new, path)
        except BaseException:
            unlink(new)
            raise
        return record

    def remove(self, key: Key) -> None:
        """With what a writer that died left half done; none there is fine."""
        unlink(self.path(key))
        self.discard(key.network, key.tag)

    def half_written(self, network: str) -> list[str]:
        """The tags of records that are being written, or whose writers have died at it."""
        names = listdir(f"{self._root}/{network}")
        return [name[1:] for name in names if name.startswith(".") and is_tag(name[1:])]

    def discard(self, network: str, tag: str) -> None:
        """Removes a record that was left half written."""
        unlink(self._half_written(network, tag))

    def _half_written(self, network: str, tag: str) -> str:
        return f"{self._root}/{network}/.{tag}"

    def keys(self, network: str) -> list[Key]:
        """Of all records of one network, those that can't be read included: the name of a file says it too."""
        names = [name for name in listdir(f"{self._root}/{network}") if name.endswith(".json")]
        keys = [Key.parse(f"{network}/{name.removesuffix('.json')}") for name in names if not name.startswith(".")]
        return [key for key in keys if key]

    def of_network(self, network: str) -> Iterator[Record]:
        """The readable records of one network."""
        folder = f"{self._root}/{network}"
        for name in listdir(folder):
            if name.endswith(".json") and not name.startswith("."):
                record = self._read(f"{folder}/{name}")
                if record:
                    yield record

    def all(self) -> Iterator[Record]:
        """Every readable record of the node: for rare questions only."""
        for network in listdir(self._root):
            yield from self.of_network(network)

    def _read(self, path: str) -> Record | None:
        data = read_file(path)
        return None if data is None else from_json(data, self._boot)


def read_file(path: str) -> bytes | None:
    """The whole file, or None where there is none. Raises OSError."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise
    try:
        parts = []
        while part := posix.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        posix.close(fd)


def write_all(fd: int, data: bytes, path: str) -> None:
    """All of it: a disk that fills up can take a part, and says so only at the next write. Errors name `path`."""
    try:
        while data:
            data = data[posix.write(fd, data) :]
    except OSError as error:
        error.filename = path
        raise


def unlink(path: str) -> None:
    """Removes a file; none there is fine."""
    try:
        posix.unlink(path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def listdir(path: str) -> list[str]:
    """The names in a folder; none where there is no folder."""
    try:
        return posix.listdir(path)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return []
        raise


def make_dirs(path: str) -> None:
    """The folder and those above it, for root only; those there are fine."""
    try:
        posix.mkdir(path, 0o700)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return
        parent = path.rpartition("/")[0]
        if error.errno != errno.ENOENT or not parent:
            raise
        make_dirs(parent)
        make_dirs(path)

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

from cni.attach.objects import GROUPS
from cni.kernel.netns import is_netns
from cni.key import Delegation, Key, is_tag
from cni.lean import JSONError, NamedTuple, dumps, loads, posix
from cni.spec.errors import INVALID_ENVIRONMENT, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from cni.attach.objects import Objects
    from cni.kernel.netns import Netns

BEGUN: Final = "begun"
PLANNED: Final = "planned"
COMPLETE: Final = "complete"
LEAVING: Final = "leaving"

_FORMAT: Final = 1
_NAME_MAX: Final = 255  # linux/limits.h
_LISTED_AT_ONCE: Final = 100
"""As many names as fit into one answer of the kernel's (32 KiB), however long they are."""


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
    objects: Objects
    """What may exist, as `objects` has it: read by who needs it."""
    config: str = ""
    """The configuration of the ADD, verbatim, of a plugin that may be in a chain more than once (`places`)."""
    more: bool = False
    """Whether later members of the chain may be by the same plugin."""

    @classmethod
    def begun(cls, key: Key, netns: Netns, cookie: int, delegation: Delegation, config: str = "") -> Record:
        return cls(key, BEGUN, netns.path, netns.device, netns.inode, cookie, delegation, {}, config)

    def planned(self, objects: Objects) -> Record:
        return self._replace(stage=PLANNED, objects=objects)

    def complete(self) -> Record:
        return self._replace(stage=COMPLETE)

    def leaving(self) -> Record:
        return self._replace(stage=LEAVING)


def is_in(old: Record, netns: Netns, cookie: int) -> bool:
    """Whether this namespace, with this cookie, is the one that was attached. Unknown cookies (Linux < 5.14) agree."""
    same_inode = (old.device, old.inode) == (netns.device, netns.inode)
    return same_inode and not (old.cookie and cookie and old.cookie != cookie)


def lives(old: Record) -> bool:
    """Whether the attachment's namespace still exists, as far as its path can tell."""
    return is_netns(old.netns, old.device, old.inode)


# --- as JSON ----------------------------------------------------------------------------------------


def to_json(record: Record, boot: str) -> str:
    return dumps(
        {
            "format": _FORMAT,
            "boot": boot,
            "stage": record.stage,
            "key": record.key,
            "netns": [record.netns, record.device, record.inode, record.cookie],
            "delegation": record.delegation,
            "objects": record.objects,
            "config": record.config,
            "more": record.more,
        }
    )


def from_json(data: bytes, boot: str) -> Record | None:
    """The record, or None for what bears the stamp of another boot or can't be read."""
    try:
        value = loads(data)
        if value["format"] != _FORMAT or value["boot"] != boot:
            return None
        netns, device, inode, cookie = value["netns"]
        objects = value["objects"]
        more = value.get("more", False)
        found = Record(
            Key(*value["key"]),
            value["stage"],
            netns,
            device,
            inode,
            cookie,
            Delegation(*value["delegation"]),
            objects,
            value.get("config", ""),
            more,
        )
        texts = (*found.key, *found.delegation, found.stage, netns, found.config)
        numbers = (device, inode, cookie)
        groups = [objects[name] for name in GROUPS if name in objects]  # a later version may have others
        things = [thing for group in groups for thing in group]
    except (JSONError, KeyError, TypeError, ValueError, AttributeError):
        return None
    # What an object's fields mean is `objects`' business; here, that it can be asked.
    known = (
        {type(text) for text in texts} == {str}
        and {type(number) for number in numbers} == {int}
        and type(more) is bool
        and "\0" not in netns
        and {type(group) for group in groups} <= {list}
        and not [thing for thing in things if not (type(thing) is list and thing and type(thing[0]) is str)]
    )
    return found if known else None


# --- the store --------------------------------------------------------------------------------------


class Records:
    """The records of a node, a file each: `<run>/attachments/<network>/<containerID>@<ifname>@<plugin>.json`.

    Who changes one holds its key's lock. Raises OSError, and CNIError 4 for a key whose file name is too long.
    """

    def __init__(self, run_dir: str, boot: str) -> None:
        self._root = f"{run_dir}/attachments"
        self._boot = boot

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
        replace_file(
            self.path(record.key),
            to_json(record, self._boot).encode(),
            self._half_written(record.key.network, record.key.tag),
        )
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
        keys = [Key.parse(f"{network}/{name.removesuffix('.json')}") for name in self._names(network)]
        return [key for key in keys if key]

    def every_key(self) -> list[Key]:
        """Of all records of the node, those that can't be read included."""
        return [key for network in listdir(self._root) for key in self.keys(network)]

    def of_network(self, network: str) -> Iterator[Record]:
        """The readable records of one network."""
        for name in self._names(network):
            record = self._read(f"{self._root}/{network}/{name}")
            if record:
                yield record

    def _names(self, network: str) -> list[str]:
        """The files of one network's records."""
        folder = f"{self._root}/{network}"
        names = listdir(folder)
        if len(names) > _LISTED_AT_ONCE:
            # The kernel tells a long list in parts, and misses what is written anew between two of them.
            names += listdir(folder)
        return list(dict.fromkeys([name for name in names if name.endswith(".json") and not name.startswith(".")]))

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


def replace_file(path: str, content: bytes, new: str) -> None:
    """Puts a file in its place at once: whoever reads sees the one before, or this one whole. Makes its folder.

    `new` is where it is written first, in the same folder; no two may write there at once.
    """
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC
    try:
        fd = posix.open(new, flags, 0o600)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        make_dirs(new.rpartition("/")[0])
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
    parent = path.rpartition("/")[0]
    for again in (False, True):
        try:
            posix.mkdir(path, 0o700)
        except OSError as error:
            if error.errno == errno.EEXIST:
                return
            # Where it makes no difference that the parent is there (/proc), asking a third time wouldn't either.
            if again or error.errno != errno.ENOENT or not parent:
                raise
            make_dirs(parent)
        else:
            return

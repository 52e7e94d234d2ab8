"""When the hints don't hold: all claims are read once, and an index is made that fits them.

That is so for the first call on a node, after somebody else changed the directory, after a crash, and once per boot,
when what was claimed in an earlier one is taken back. Costs as much as there are claims, and isn't on the path of a
pod otherwise.
"""

from __future__ import annotations

from errno import ENOENT, ENOTDIR

from cni.lean import NamedTuple, posix, struct
from ipam import index
from ipam.index import Index
from ipam.store import make_directories

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final, Self

    from ipam.address import Address
    from ipam.store import Directory

    Claim = tuple[Address, str]

_FEWEST_BUCKETS: Final = 16
_SLOTS_PER_CLAIM: Final = 4
"""Room to grow: more claims than that, and the index is made anew, larger."""
_CROWD: Final = 64
"""Claims that make a page worth having before anybody asks for it."""
_STAMP_BYTES: Final = 1 << 16


class Stamp(NamedTuple):
    """What we noted beside a claim of ours."""

    boot: str
    claim_ns: int
    """The mtime of the claim's file."""
    about: str
    """What people call the owner, "" if we weren't told."""
    owner: str

    @classmethod
    def read(cls, path: bytes) -> Self | None:
        """None for one that isn't there or says nothing. Raises OSError for one that can't be read."""
        try:
            descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR):
                return None
            raise
        try:
            text = posix.read(descriptor, _STAMP_BYTES).decode("utf-8", "surrogateescape")
        finally:
            posix.close(descriptor)
        boot, claim_ns, about, owner = [*text.split("\n", 3), "", "", ""][:4]
        return cls(boot, int(claim_ns), about, owner) if owner and claim_ns.isdecimal() else None

    def is_earlier(self, boot: str) -> bool:
        """Whether its boot is over. Boots of one boot ID (a container's) follow each other by when process 1 began."""
        (then_id, _, then), (now_id, _, now) = self.boot.partition(" "), boot.partition(" ")
        if then_id != now_id:
            return True
        return then.isdecimal() and now.isdecimal() and int(then) < int(now)


def stamp_of(directory: Directory, address: Address, owner: str) -> Stamp | None:
    """The stamp of this claim; None for a claim that isn't ours, or whose stamp was lost. Raises OSError."""
    name = str(address).encode()
    stamp = Stamp.read(directory.stamp_file(name))
    if not stamp or stamp.owner != owner:
        return None
    found = posix.stat(directory.claim_file(name))
    # Somebody else may have given the same address to the same owner since: then the file is another.
    return stamp if found.st_mtime_ns == stamp.claim_ns else None


def recovered(directory: Directory, boot: str, boot_before: str) -> Index | Unwritten:
    """An index that fits the claims, after those of earlier boots were taken back if that wasn't done in this one.

    Where there can't be a file of it, which must keep nobody from an address, one for this call alone. Raises OSError
    when a claim or its stamp can't be read: half of this done would be worse, as an owner could be given what it
    still holds of an earlier boot, and lose it at the next call.
    """
    claims = [*directory.claims()]
    if boot and boot != boot_before:
        claims = [*_of_this_boot(directory, boot, claims)]
        boot_before = boot
    try:
        directory.sweep_stamps()
        found = written(directory.ours, boot_before, claims)
    except OSError:
        found = None
    return found or Unwritten(claims, boot_before)


def _of_this_boot(directory: Directory, boot: str, claims: Iterable[Claim]) -> Iterator[Claim]:
    """Takes back what we stamped in an earlier boot, and passes on the rest."""
    for address, owner in claims:
        stamp = stamp_of(directory, address, owner)
        if stamp and stamp.is_earlier(boot):
            directory.free(address, owner)
        else:
            yield address, owner


def written(folder: bytes, boot: str, claims: list[Claim]) -> Index | None:
    buckets = _FEWEST_BUCKETS
    while buckets * index.SLOTS < _SLOTS_PER_CLAIM * len(claims):
        buckets *= 2
    slots: dict[int, bytearray] = {}
    pages: dict[int, list[int]] = {}
    for address, owner in claims:
        if owner:  # nobody asks for what is nobody's
            slot = index.slot_of(owner.encode("utf-8", "surrogateescape"), address)
            slots.setdefault(index.bucket_of(index.mark_of(slot), buckets), bytearray()).extend(slot)
        pages.setdefault(index.page_key(*address), []).append(address.value & (1 << index.PAGE_BITS) - 1)
    if any(len(bucket) > index.BLOCK_BYTES for bucket in slots.values()):
        return None  # thousands of addresses of one owner
    crowded = [(key, taken) for key, taken in pages.items() if len(taken) >= _CROWD][: index.PAGES]
    blocks = {1 + number: bytes(bucket) for number, bucket in slots.items()}
    for number, (_, taken) in enumerate(crowded):
        bits = bytearray(index.BLOCK_BYTES)
        for at in taken:
            bits[at >> 3] |= 1 << (at & 7)
        blocks[1 + buckets + number] = bytes(bits)
    header = struct.pack(index.HEADER, index.MAGIC, 0, buckets, len(crowded), boot.encode()[:64])
    keys = struct.pack(f"={len(crowded)}Q", *[key for key, _ in crowded])
    blocks[0] = (header.ljust(index.PAGE_KEYS, b"\0") + keys).ljust(index.BLOCK_BYTES, b"\0")
    _put(folder, blocks)
    return Index.open(folder)


def _put(folder: bytes, blocks: dict[int, bytes]) -> None:
    """The file, in the place of the one before, at once. What no block is written to is a hole of zeros."""
    new = b"%b/%b.new" % (folder, index.FILE)
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC
    make_directories(folder, 0o700)
    descriptor = posix.open(new, flags, 0o600)
    try:
        for number in sorted(blocks):
            at, rest = number * index.BLOCK_BYTES, blocks[number]
            while rest:
                written = posix.pwrite(descriptor, rest, at)
                at, rest = at + written, rest[written:]
    except BaseException:
        posix.unlink(new)
        raise
    finally:
        posix.close(descriptor)
    posix.rename(new, b"%b/%b" % (folder, index.FILE))


class Unwritten:
    """What an index would say, in memory."""

    def __init__(self, claims: Iterable[Claim], boot: str) -> None:
        self.boot = boot
        self._owned: dict[bytes, list[Address]] = {}
        for address, owner in claims:
            self.add(owner.encode("utf-8", "surrogateescape"), address)

    def of(self, owner: bytes) -> list[Address]:
        return self._owned.get(owner, [])

    def candidates(self, version: int, first: int, last: int) -> Iterator[int]:
        taken = {address for some in self._owned.values() for address in some}
        value = first
        while value <= last:
            if (version, value) not in taken:
                yield value
            value += 1

    def add(self, owner: bytes, address: Address) -> None:
        self._owned.setdefault(owner, []).append(address)

    def drop(self, owner: bytes, address: Address) -> None:
        self._owned[owner] = [one for one in self.of(owner) if one != address]

    def taken(self, address: Address) -> None:
        """Its owner is all that is known here."""

    def seal(self, tag: int) -> bool:
        return False

    def close(self) -> None:
        pass

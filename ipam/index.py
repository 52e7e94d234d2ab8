"""Where to look among many claims: a file of hints, so that no change has to read them all.

Two questions are answered: which addresses an owner may hold, and which addresses seem to be taken. The answers
may be wrong, and nothing depends on their being right: a claim's own file says who holds it, and link() says
whether it is free. What the index leaves out would be missed, so it is believed only while the directory of claims
is as our last change left it. That is told by the directory's mtime, which every change of ours moves on by a
nanosecond and notes here (`tag`): whatever anybody else creates or removes puts the kernel's own time in its place.
The two are only compared for equality, so it doesn't matter how the clock moves; and since a time that the kernel
wrote is never noted, neither does it that those of two changes within one tick of its clock are the same. Nor is it
believed in another boot than it was made in: what of it reached a disk before a power cut is anybody's guess.

    header   magic · tag · number of buckets · of pages · boot · one key per page
    buckets  4 KiB each, chosen by the owner's hash: slots of (hash, address); a slot may lie, never be missing
    pages    4 KiB each, one bit per address, set when it is taken: only where addresses are given one by one

Every write is either of one slot, one bit or one tag, so none can be torn by a crash between two bytes that belong
together. A write that fails makes the index `spoilt`: it isn't tagged again, so the next change makes a new one
(`ipam.recovery`). Numbers are in the machine's order: no index outlives the machine.
"""

from __future__ import annotations

from cni.lean import posix, struct
from ipam.address import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final, Self

FILE: Final = b"index"
BLOCK_BYTES: Final = 4096
HEADER: Final = "=8sQII64s"
MAGIC: Final = b"podwire2"
SLOT: Final = "=Q16s"  # the hash, its lowest byte replaced by the address's version, which is 0 in an empty slot
SLOT_BYTES: Final = 24
SLOTS: Final = BLOCK_BYTES // SLOT_BYTES
PAGE_BITS: Final = 15  # 32,768 addresses: a bit each in 4 KiB
PAGE_KEYS: Final = 96
"""Offset of the pages' keys in the header, 8 bytes each."""
PAGES: Final = (BLOCK_BYTES - PAGE_KEYS) // 8
"""As many as there is room for keys: 16 million addresses."""
_PRIME: Final = (1 << 64) - 59
_SPREAD: Final = 0x9E3779B97F4A7C15  # 2 ** 64 divided by the golden ratio: neighbours end up far from each other
_TAG_AT: Final = 8
_PAGE_COUNT_AT: Final = 20
_VERSION_AT: Final = 0 if struct.pack("=H", 1)[0] else 7
"""Where the lowest byte of a slot's hash is."""


class Index:
    """An open index. Who has one holds the lock of the reservations."""

    def __init__(self, descriptor: int) -> None:
        """Takes the descriptor over. Raises ValueError for what is no index, OSError."""
        self._descriptor = descriptor
        self.spoilt = False
        self._read: tuple[bytearray, int] = bytearray(), 0
        """The bucket that was read last, which is likely to be asked for again, and where it is in the file."""
        self._pages: dict[int, tuple[bytearray, int]] = {}
        header = posix.pread(descriptor, BLOCK_BYTES, 0)
        if len(header) != BLOCK_BYTES or header[:8] != MAGIC:
            raise ValueError("no index")
        _, self.tag, self._buckets, count, boot = struct.unpack_from(HEADER, header)
        self.boot: str = boot.rstrip(b"\0").decode("latin-1")
        """When claims of earlier boots were looked for last; "" for never."""
        self._keys = [*struct.unpack_from(f"={min(count, PAGES)}Q", header, PAGE_KEYS)]

    @classmethod
    def open(cls, folder: bytes) -> Self | None:
        """The index in a directory; None where there is none that could be used."""
        try:
            descriptor = posix.open(b"%b/%b" % (folder, FILE), posix.O_RDWR | posix.O_CLOEXEC)
        except OSError:
            return None
        try:
            return cls(descriptor)
        except (OSError, ValueError):
            posix.close(descriptor)
            return None

    def close(self) -> None:
        try:
            posix.close(self._descriptor)
        except OSError:
            pass  # it is closed all the same

    def seal(self, tag: int) -> bool:
        """Says that the directory has this mtime when all is as it should be; False if that can't be said."""
        self._write(struct.pack("=Q", tag), _TAG_AT)
        return not self.spoilt

    # --- who holds what -------------------------------------------------------------------------------

    def of(self, owner: bytes) -> list[Address]:
        """What the owner may hold. Raises OSError: not to know is not to hold nothing."""
        mark = _hash(owner)
        bucket, _ = self._bucket(mark)
        found = []
        for version in (4, 6):
            wanted = struct.pack("=Q", mark | version)
            at = bucket.find(wanted)
            while at >= 0:
                if not at % SLOT_BYTES:
                    packed = bytes(bucket[at + 8 : at + SLOT_BYTES])
                    found.append(Address.from_packed(packed[12:] if version == 4 else packed))
                at = bucket.find(wanted, at + 1)
        return found

    def add(self, owner: bytes, address: Address) -> None:
        """To be said before the claim is made: what died in between is a slot that lies."""
        try:
            bucket, start = self._bucket(_hash(owner))
        except OSError:
            self.spoilt = True
            return
        slot = slot_of(owner, address)
        if _slot_at(bucket, slot) >= 0:
            return
        number = bucket[_VERSION_AT : SLOTS * SLOT_BYTES : SLOT_BYTES].find(0)
        if number < 0:
            self.spoilt = True  # full: the next index will be larger
            return
        self._put(bucket, start, number * SLOT_BYTES, slot)

    def drop(self, owner: bytes, address: Address) -> None:
        """To be said after the claim is gone."""
        self._mark(address, taken=False)
        try:
            bucket, start = self._bucket(_hash(owner))
        except OSError:
            self.spoilt = True
            return
        at = _slot_at(bucket, slot_of(owner, address))
        if at >= 0:
            self._put(bucket, start, at, bytes(SLOT_BYTES))

    def _put(self, bucket: bytearray, start: int, at: int, slot: bytes) -> None:
        bucket[at : at + SLOT_BYTES] = slot
        self._write(slot, start + at)

    def _bucket(self, mark: int) -> tuple[bytearray, int]:
        """The bucket of a hash, and where it is in the file."""
        start = BLOCK_BYTES * (1 + bucket_of(mark, self._buckets))
        if self._read[1] != start:
            data = posix.pread(self._descriptor, BLOCK_BYTES, start)
            self._read = bytearray(data.ljust(BLOCK_BYTES, b"\0")), start
        return self._read

    # --- what is taken --------------------------------------------------------------------------------

    def candidates(self, version: int, first: int, last: int) -> Iterator[int]:
        """Of the values from `first` to `last` those that don't seem to be taken, in order."""
        while first <= last:
            end = min(last, first | (1 << PAGE_BITS) - 1)
            page = self._page(version, first, make=True)
            if page:
                yield from _clear(page[0], first, end)
            else:
                yield from range(first, end + 1)
            first = end + 1

    def taken(self, address: Address) -> None:
        """Whoever has it."""
        self._mark(address, taken=True)

    def _mark(self, address: Address, taken: bool) -> None:
        version, value = address
        page = self._page(version, value, make=False)
        if page:
            bits, start = page
            at = value >> 3 & BLOCK_BYTES - 1
            bit = 1 << (value & 7)
            if bool(bits[at] & bit) is not taken:
                bits[at] ^= bit
                self._write(bits[at : at + 1], start + at)

    def _page(self, version: int, value: int, make: bool) -> tuple[bytearray, int] | None:
        """The page that an address is on, and where it is in the file."""
        key = page_key(version, value)
        page = self._pages.get(key)
        if page or self.spoilt:
            return page
        if key in self._keys:
            number = self._keys.index(key)
        elif make and len(self._keys) < PAGES:
            number = len(self._keys)
            self._keys.append(key)
            self._write(struct.pack("=Q", key), PAGE_KEYS + 8 * number)
            self._write(struct.pack("=I", number + 1), _PAGE_COUNT_AT)
        else:
            return None
        start = BLOCK_BYTES * (1 + self._buckets + number)
        try:
            bits = posix.pread(self._descriptor, BLOCK_BYTES, start)
        except OSError:
            self.spoilt = True
            return None
        page = bytearray(bits.ljust(BLOCK_BYTES, b"\0")), start
        self._pages[key] = page
        return page

    def _write(self, data: bytes | bytearray, at: int) -> None:
        if not self.spoilt:
            try:
                self.spoilt = posix.pwrite(self._descriptor, data, at) != len(data)
            except OSError:
                self.spoilt = True


def slot_of(owner: bytes, address: Address) -> bytes:
    return struct.pack(SLOT, _hash(owner) | address.version, address.packed.rjust(16, b"\0"))


def mark_of(slot: bytes) -> int:
    """The hash in a slot."""
    mark: int = struct.unpack_from("=Q", slot)[0]
    return mark


def bucket_of(mark: int, buckets: int) -> int:
    return mark * buckets >> 64


def page_key(version: int, value: int) -> int:
    """The same for all addresses of a page. Two pages may share one, as hashes do."""
    return ((value >> PAGE_BITS) * 2 + (version == 6)) % _PRIME


def _hash(owner: bytes) -> int:
    # No hash function is built in, and one written in Python takes longer than the whole index.
    return int.from_bytes(owner, "big") % _PRIME * _SPREAD & 0xFFFFFFFFFFFFFF00


def _slot_at(bucket: bytearray, slot: bytes) -> int:
    at = bucket.find(slot)
    while at % SLOT_BYTES and at >= 0:
        at = bucket.find(slot, at + 1)
    return at


def _clear(bits: bytearray, first: int, last: int) -> Iterator[int]:
    """The values whose bits are 0. Reads the bits as they are when it comes to them."""
    base = first >> PAGE_BITS << PAGE_BITS
    value = first
    while value <= last:
        at = value - base >> 3
        if bits[at] == 0xFF:
            value = base + (BLOCK_BYTES - len(bits[at:].lstrip(b"\xff")) << 3)
            continue
        if not bits[at] >> (value & 7) & 1:
            yield value
        value += 1

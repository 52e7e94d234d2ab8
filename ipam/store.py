"""Which owner holds which address, kept in a directory.

    <data_dir>/<network>/<address>             the owner, as text
    <data_dir>/<network>/last_reserved_ip.<n>  the address given last from range set n; a hint
    <data_dir>/<network>/lock                  flocked over every change
    <data_dir>/.podwire/<network>/             nobody else's business:
        stamps/<address>  who claimed it for whom in which boot; only so can a claim outlive its time
        index             hints, so that no change has to read all claims (`ipam.index`)
        claim.*           claims being written

The first three are the format of the reference's host-local, which may take over from us, or we from it, or
both work at once. It reads every file of its directory, hence the fourth: on the same file system, under a
name that no network has. Look into it all with `grep -r . <data_dir>` when something looks wrong.

Claims appear whole: written to a temporary file, then linked to their name, which fails if the address is
held. So a crash at any instant leaves an address owned or free. Nothing is synced to the disk: no owner
survives the machine. An empty claim can only be the reference's, which creates first and writes then.

A stamp is written before its claim, and counts only for the claim that it was written for: one that names the
same owner and is of the same time. So it may be left behind, torn or lost, and at worst an address isn't
reclaimed that could be. What somebody else wrote bears no stamp, and is never reclaimed by age. Before the stamp
comes the hint, by which the owner's next call finds what a crash left.

The lock is waited for, but not for ever: `Busy`. Everything else that fails is an OSError. This module neither
picks addresses (`ipam.allocator`) nor knows what an owner is.
"""

from __future__ import annotations

from errno import EACCES, EAGAIN, EEXIST, EISDIR, ELOOP, ENOENT, ENOSPC, ENOTDIR, ENXIO, EROFS

from cni.lean import fcntl, posix, time
from ipam.address import Address
from ipam.index import Index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final, Self

    from ipam.recovery import Unwritten

PATIENCE_S: Final = 20.0
"""Long enough for a queue of reference plugins that each read ten thousand files, shorter than a kubelet waits."""

_FIRST_PAUSE_S: Final = 0.0002
_LONGEST_PAUSE_S: Final = 0.01
_OURS: Final = b".podwire"
_NAME_STARTS: Final = b"0123456789abcdef:"
_CHUNK_BYTES: Final = 4096
_READ: Final = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK  # opening a fifo that somebody left there won't hang


class Busy(Exception):
    """Somebody else has held the lock for as long as we were willing to wait."""


class Directory:
    """The reservations of one network; `ipam.allocator.Store` while it is entered, which takes the lock.

    `held_by`, `owner_of` and `claims` work without the lock too; what they say may then be over.
    With `create` false nothing is made that isn't there, and entering raises ENOENT if no ADD was ever here.

    `boot` is what stamps are to say, `<boot ID> <start of process 1>`; with "" nothing is stamped, and nothing of
    earlier boots reclaimed. `about` is what people call the owner that claims are made for; stamps keep it.
    """

    def __init__(
        self,
        data_dir: str,
        network: str,
        create: bool = True,
        patience_s: float = PATIENCE_S,
        boot: str = "",
        about: str = "",
    ) -> None:
        # Bytes: under a foreign locale the interpreter would spell other names than the reference does.
        root = data_dir.encode("utf-8", "surrogateescape")
        name = network.encode("utf-8", "surrogateescape")
        self._path = b"%b/%b" % (root, name)
        self._ours = b"%b/%b/%b" % (root, _OURS, name)
        self._create = create
        self._patience_s = patience_s
        self._boot = boot
        self._about = about
        self._lock = -1
        self._staged = b""
        self._staged_owner = ""
        self._staged_ns = 0
        self._cursors: dict[int, tuple[int, int]] = {}
        self._index: Index | Unwritten | None = None
        self._changed = False

    @property
    def path(self) -> str:
        """Where the claims are, for people."""
        return self._path.decode("utf-8", "replace")

    def __enter__(self) -> Self:
        while True:
            lock = self._open_lock()
            try:
                _take(lock, self._patience_s, self.path)
                replaced = not posix.fstat(lock).st_nlink
            except BaseException:
                posix.close(lock)
                raise
            if not replaced:
                self._lock = lock
                return self
            # Somebody removed the whole directory while we waited: this lock excludes nobody any more.
            posix.close(lock)

    def __exit__(self, *_: object) -> None:
        # What fails here must not deny the caller what is done already, nor keep the lock: a claim's file that stays
        # is left for `sweep`, an index unsealed, and a descriptor is closed even where closing it reports an error.
        lock, self._lock = self._lock, -1
        try:
            try:
                self._unstage()
                self._seal()
            except OSError:
                pass
            self._forget()
            while self._cursors:
                descriptor, _size = self._cursors.popitem()[1]
                close(descriptor)
        finally:
            close(lock)

    # --- what is held ---------------------------------------------------------------------------------

    def held_by(self, owner: str) -> list[Address]:
        wanted = _encoded(owner)
        if self._lock < 0:
            return sorted([address for address, holder in self.claims() if holder == owner])
        try:
            found = self._hints().of(wanted)
        except OSError:
            self._recover()
            found = self._hints().of(wanted)
        held = []
        for address in found:
            if self._read(_file_name(address)) == wanted:
                held.append(address)
            elif not exists(self.claim_file(_file_name(address))):
                self._clear(address, wanted)  # of an ADD or a DEL that died half way
        return sorted(held)

    def owner_of(self, address: Address) -> str | None:
        name = _file_name(address)
        found = self._read(name)
        if found is not None:
            return _decoded(found)
        return "" if exists(self.claim_file(name)) else None

    def claims(self) -> Iterator[tuple[Address, str]]:
        """In no order. What has an address for a name and is no file is taken, but no claim."""
        for name in self._names():
            address = _address(name)
            if address and (found := self._read(name)) is not None:
                yield address, _decoded(found)

    # --- changes, under the lock ----------------------------------------------------------------------

    def candidates(self, version: int, first: int, last: int) -> Iterator[int]:
        return self._hints().candidates(version, first, last)

    def look(self) -> None:
        self._forget()
        self._recover()

    def claim(self, address: Address, owner: str) -> bool:
        hints = self._hints()
        path = self.claim_file(_file_name(address))
        # Asked first for the sake of the stamp, which may be that of whoever has the address. link() decides.
        if not exists(path):
            self._stage(owner)
            hints.add(_encoded(owner), address)
            if self._boot:
                self._stamp(address, owner)
            self._changed = True
            try:
                posix.link(self._staged, path)
            except OSError as error:
                if error.errno != EEXIST:
                    raise
            else:
                hints.taken(address)
                return True
        hints.taken(address)
        return False

    def free(self, address: Address, owner: str) -> None:
        self._changed = True
        unlink(self.claim_file(_file_name(address)))
        self._clear(address, _encoded(owner))

    def _clear(self, address: Address, owner: bytes) -> None:
        """Takes away what is noted of a claim that is gone; the hint last, by which it would be found again."""
        unlink(self.stamp_file(_file_name(address)))
        if self._index:
            self._index.drop(owner, address)

    def last(self, index: int) -> Address | None:
        descriptor = self._cursor(index)
        text = posix.read(descriptor, _CHUNK_BYTES)
        self._cursors[index] = descriptor, len(text)
        return _address(text)

    def remember(self, index: int, address: Address) -> None:
        descriptor = self._cursor(index)
        text = _file_name(address)
        posix.pwrite(descriptor, text, 0)
        # Only where it is needed: truncating to nothing and writing again makes ext4 write to the disk at close.
        if len(text) != self._cursors[index][1]:
            posix.ftruncate(descriptor, len(text))
            self._cursors[index] = descriptor, len(text)

    def sweep(self) -> None:
        """Removes what processes that died while they wrote have left. Costs the same however many claims there are."""
        for name in listed(self._ours):
            path = b"%b/%b" % (self._ours, name)
            if name not in (b"stamps", b"index") and path != self._staged:
                unlink(path)

    def sweep_stamps(self) -> int:
        """Removes stamps whose claims others have released; returns how many. Costs as much as there are stamps."""
        gone = [name for name in listed(b"%b/stamps" % self._ours) if not exists(self.claim_file(name))]
        for name in gone:
            unlink(self.stamp_file(name))
        return len(gone)

    # --- without changing anything --------------------------------------------------------------------

    def require_usable(self, addresses: int = 1) -> None:
        """Raises OSError when so many addresses couldn't be claimed at once, for a lasting reason.

        Costs the same however full it is.
        """
        path = self._path
        while not exists(path):
            path = _parent(path)
        if not posix.stat(path).st_mode & 0o170000 == 0o040000:  # S_IFMT, S_IFDIR of linux/stat.h
            raise _failure(ENOTDIR, path)
        system = posix.statvfs(path)
        if system.f_flag & posix.ST_RDONLY:
            raise _failure(EROFS, path)
        if not posix.access(path, posix.W_OK | posix.X_OK):
            raise _failure(EACCES, path)
        files = 1 + addresses  # one that all claims of an owner are links to, and their stamps
        # One without a limit (a tmpfs, btrfs's inodes) has no count of what it could hold.
        if (system.f_blocks and system.f_bfree < files) or (system.f_files and system.f_ffree < files):
            raise _failure(ENOSPC, path)

    # --- hints ----------------------------------------------------------------------------------------

    def _hints(self) -> Index | Unwritten:
        """The index, as it was left if it still holds, or else made anew from all claims."""
        if self._index is None:
            self._index = Index.open(self._ours)
            index = self._index
            if not index or index.tag != posix.stat(self._path).st_mtime_ns or self._boot not in ("", index.boot):
                self._recover()
        assert self._index is not None
        return self._index

    def _recover(self) -> None:
        # Imported when it is needed: seldom.
        from ipam import recovery

        before = self._index
        self._forget()
        self._index, self._changed = recovery.recovered(self, self._boot, before.boot if before else ""), True

    def _seal(self) -> None:
        """Makes the index one that holds until somebody else changes the directory."""
        if self._index and self._changed:
            found = posix.stat(self._path)
            if self._index.seal(found.st_mtime_ns + 1):
                posix.utime(self._path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))

    def _forget(self) -> None:
        if self._index:
            self._index.close()
        self._index = None

    # --- files ----------------------------------------------------------------------------------------

    @property
    def ours(self) -> bytes:
        """Where everything is that nobody else knows of."""
        return self._ours

    def stamp_file(self, name: bytes) -> bytes:
        """Of the claim with this file name."""
        return b"%b/stamps/%b" % (self._ours, name)

    def _stamp(self, address: Address, owner: str) -> None:
        """Notes when and for whom the claim is made that is about to be. `ipam.recovery` reads it."""
        path = self.stamp_file(_file_name(address))
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC
        try:
            descriptor = posix.open(path, flags, 0o600)
        except OSError as error:
            if error.errno != ENOENT:
                raise
            make_directories(b"%b/stamps" % self._ours, 0o700)
            descriptor = posix.open(path, flags, 0o600)
        try:
            _write_all(descriptor, _encoded(f"{self._boot}\n{self._staged_ns}\n{self._about}\n{owner}"))
        finally:
            posix.close(descriptor)

    def claim_file(self, name: bytes) -> bytes:
        """The claim with this file name."""
        return b"%b/%b" % (self._path, name)

    def _names(self) -> list[bytes]:
        """Of everything that may be a claim."""
        return [name for name in listed(self._path) if name[0] in _NAME_STARTS]

    def _read(self, name: bytes) -> bytes | None:
        """The owner in the file of that name; None when there is no such file, or something else than a file."""
        try:
            descriptor = posix.open(self.claim_file(name), _READ)
        except OSError as error:
            if error.errno in (ENOENT, ENXIO, ELOOP):
                return None
            raise
        try:
            found = chunk = posix.read(descriptor, _CHUNK_BYTES)
            while len(chunk) == _CHUNK_BYTES:
                chunk = posix.read(descriptor, _CHUNK_BYTES)
                found += chunk
        except OSError as error:
            if error.errno in (EISDIR, EAGAIN):
                return None
            raise
        finally:
            posix.close(descriptor)
        return found.strip()

    def _open_lock(self) -> int:
        path = self.claim_file(b"lock")
        flags = posix.O_RDONLY | posix.O_CLOEXEC | (posix.O_CREAT if self._create else 0)
        try:
            return posix.open(path, flags, 0o600)
        except OSError as error:
            if error.errno != ENOENT:
                raise
        if not self._create:
            # Claims without a lock: somebody removed it. ENOENT now means that there are no claims either.
            return posix.open(path, flags | posix.O_CREAT, 0o600)
        make_directories(self._path, 0o755)
        return posix.open(path, flags, 0o600)

    def _cursor(self, index: int) -> int:
        if index not in self._cursors:
            path = self.claim_file(b"last_reserved_ip.%d" % index)
            self._cursors[index] = posix.open(path, posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC, 0o600), -1
        return self._cursors[index][0]

    def _stage(self, owner: str) -> None:
        """Writes the file that claims of this owner are linked from; once, for all that it will hold."""
        if self._staged_owner == owner:
            return
        self._unstage()
        # The lock keeps others out; process and descriptor do so even if the lock's file was removed under us.
        path = b"%b/claim.%d.%d" % (self._ours, posix.getpid(), self._lock)
        descriptor = self._create_staged(path)
        self._staged = path
        try:
            _write_all(descriptor, _encoded(owner))
            self._staged_ns = posix.fstat(descriptor).st_mtime_ns
        finally:
            posix.close(descriptor)
        self._staged_owner = owner

    def _create_staged(self, path: bytes) -> int:
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
        try:
            return posix.open(path, flags, 0o600)
        except OSError as error:
            if error.errno == ENOENT:
                make_directories(self._ours, 0o700)
            elif error.errno == EEXIST:
                # Unlinked, never truncated: who died between link and unlink left a second name of its claim here.
                unlink(path)
            else:
                raise
        return posix.open(path, flags, 0o600)

    def _unstage(self) -> None:
        if self._staged:
            unlink(self._staged)
            self._staged, self._staged_owner = b"", ""


def _take(lock: int, patience_s: float, path: str) -> None:
    """Locks the open file exclusively. Raises Busy."""
    # By trying: a flock that waits can only be ended by a signal, and signals belong to the program.
    deadline = 0.0
    pause = _FIRST_PAUSE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno != EAGAIN:
                raise
        now = time.monotonic()
        deadline = deadline or now + patience_s
        if now >= deadline:
            raise Busy(f"{path}/lock has been held for {patience_s:g} seconds")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _file_name(address: Address) -> bytes:
    return str(address).encode()


def _address(name: bytes) -> Address | None:
    """The address that has this name. Another spelling of it is no claim: link() wouldn't run into it either."""
    try:
        found = Address.parse(name.decode())
    except ValueError:
        return None
    return found if _file_name(found) == name else None


def _encoded(owner: str) -> bytes:
    return owner.encode("utf-8", "surrogateescape")


def _decoded(found: bytes) -> str:
    return found.decode("utf-8", "surrogateescape")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[posix.write(descriptor, data) :]


def listed(path: bytes) -> list[bytes]:
    """The names in a directory; none where there is none."""
    try:
        return posix.listdir(path)
    except OSError as error:
        if error.errno == ENOENT:
            return []
        raise


def unlink(path: bytes) -> None:
    """Removes a file; none there is fine."""
    try:
        posix.unlink(path)
    except OSError as error:
        if error.errno not in (ENOENT, ENOTDIR):
            raise


def close(descriptor: int) -> None:
    """Closes it, whatever closing it reports."""
    try:
        posix.close(descriptor)
    except OSError:
        pass


def exists(path: bytes) -> bool:
    """Whether anything has this name, a link to nowhere included."""
    try:
        posix.lstat(path)
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR):
            return False
        raise
    return True


def _parent(path: bytes) -> bytes:
    head, _, _ = path.rstrip(b"/").rpartition(b"/")
    return head or (b"/" if path[:1] == b"/" else b".")


def make_directories(path: bytes, mode: int) -> None:
    """The directory and those above it; those there are fine."""
    for again in (False, True):
        try:
            posix.mkdir(path, mode)
        except OSError as error:
            if error.errno == EEXIST:
                return
            # Where it makes no difference that the parent is there (/proc), asking a third time wouldn't either.
            if again or error.errno != ENOENT:
                raise
            make_directories(_parent(path), mode)
        else:
            return


def _failure(code: int, path: bytes) -> OSError:
    return OSError(code, posix.strerror(code), path.decode("utf-8", "replace"))

"""Which owner holds which address, kept in a directory.

    <data_dir>/<network>/<address>             the owner, as text
    <data_dir>/<network>/last_reserved_ip.<n>  the address given last from range set n; a hint
    <data_dir>/<network>/lock                  flocked over every change
    <data_dir>/.podwire/<network>/             claims being written, and nobody else's business

The first three are the format of the reference's host-local, which may take over from us, or we from it, or
both work at once. It reads every file of its directory, hence the fourth: on the same file system, under a
name that no network has. Look into it all with `grep -r . <data_dir>` when something looks wrong.

Claims appear whole: written to a temporary file, then linked to their name, which fails if the address is
held. So a crash at any instant leaves an address owned or free. Nothing is synced to the disk: no owner
survives the machine. An empty claim can only be the reference's, which creates first and writes then.

The lock is waited for, but not for ever: `Busy`. Everything else that fails is an OSError. This module neither
picks addresses (`ipam.allocator`) nor knows what an owner is.
"""

from __future__ import annotations

from errno import EACCES, EAGAIN, EEXIST, EISDIR, ELOOP, ENOENT, ENOSPC, ENOTDIR, ENXIO, EROFS

from cni.lean import fcntl, posix, time
from ipam.address import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final, Self

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
    """

    def __init__(self, data_dir: str, network: str, create: bool = True, patience_s: float = PATIENCE_S) -> None:
        # Bytes: under a foreign locale the interpreter would spell other names than the reference does.
        root = data_dir.encode("utf-8", "surrogateescape")
        name = network.encode("utf-8", "surrogateescape")
        self._path = b"%b/%b" % (root, name)
        self._ours = b"%b/%b/%b" % (root, _OURS, name)
        self._create = create
        self._patience_s = patience_s
        self._lock = -1
        self._staged = b""
        self._staged_owner = ""
        self._cursors: dict[int, tuple[int, int]] = {}

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
        # is left for `sweep`, and a descriptor is closed even where closing it reports an error.
        lock, self._lock = self._lock, -1
        try:
            try:
                self._unstage()
            except OSError:
                pass
            while self._cursors:
                descriptor, _size = self._cursors.popitem()[1]
                _close(descriptor)
        finally:
            _close(lock)

    # --- what is held ---------------------------------------------------------------------------------

    def held_by(self, owner: str) -> list[Address]:
        # Reads every claim. A shorter way to an owner's own belongs here, and must be verified by reading those.
        wanted = _encoded(owner)
        names = [name for name in self._names() if self._read(name) == wanted]
        return sorted([address for name in names if (address := _address(name))])

    def owner_of(self, address: Address) -> str | None:
        name = _file_name(address)
        found = self._read(name)
        if found is not None:
            return _decoded(found)
        return "" if _exists(self._file(name)) else None

    def claims(self) -> Iterator[tuple[Address, str]]:
        """In no order. What has an address for a name and is no file is taken, but no claim."""
        for name in self._names():
            address = _address(name)
            if address and (found := self._read(name)) is not None:
                yield address, _decoded(found)

    # --- changes, under the lock ----------------------------------------------------------------------

    def claim(self, address: Address, owner: str) -> bool:
        self._stage(owner)
        try:
            posix.link(self._staged, self._file(_file_name(address)))
        except OSError as error:
            if error.errno == EEXIST:
                return False
            raise
        return True

    def free(self, address: Address) -> None:
        _unlink(self._file(_file_name(address)))

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
        """Removes what processes that died while they wrote a claim have left."""
        for name in _listed(self._ours):
            path = b"%b/%b" % (self._ours, name)
            if path != self._staged:
                _unlink(path)

    # --- without changing anything --------------------------------------------------------------------

    def require_usable(self) -> None:
        """Raises OSError when a claim couldn't be made for a lasting reason. Costs the same however full it is."""
        path = self._path
        while not _exists(path):
            path = _parent(path)
        if not posix.stat(path).st_mode & 0o170000 == 0o040000:  # S_IFMT, S_IFDIR of linux/stat.h
            raise _failure(ENOTDIR, path)
        system = posix.statvfs(path)
        if system.f_flag & posix.ST_RDONLY:
            raise _failure(EROFS, path)
        if not posix.access(path, posix.W_OK | posix.X_OK):
            raise _failure(EACCES, path)
        # One without a limit (a tmpfs, btrfs's inodes) has no count of what it could hold.
        if (system.f_blocks and not system.f_bfree) or (system.f_files and not system.f_ffree):
            raise _failure(ENOSPC, path)

    # --- files ----------------------------------------------------------------------------------------

    def _file(self, name: bytes) -> bytes:
        return b"%b/%b" % (self._path, name)

    def _names(self) -> list[bytes]:
        """Of everything that may be a claim."""
        return [name for name in _listed(self._path) if name[0] in _NAME_STARTS]

    def _read(self, name: bytes) -> bytes | None:
        """The owner in the file of that name; None when there is no such file, or something else than a file."""
        try:
            descriptor = posix.open(self._file(name), _READ)
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
        path = self._file(b"lock")
        flags = posix.O_RDONLY | posix.O_CLOEXEC | (posix.O_CREAT if self._create else 0)
        try:
            return posix.open(path, flags, 0o600)
        except OSError as error:
            if error.errno != ENOENT:
                raise
        if not self._create:
            # Claims without a lock: somebody removed it. ENOENT now means that there are no claims either.
            return posix.open(path, flags | posix.O_CREAT, 0o600)
        _make_directories(self._path, 0o755)
        return posix.open(path, flags, 0o600)

    def _cursor(self, index: int) -> int:
        if index not in self._cursors:
            path = self._file(b"last_reserved_ip.%d" % index)
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
            rest = _encoded(owner)
            while rest:
                rest = rest[posix.write(descriptor, rest) :]
        finally:
            posix.close(descriptor)
        self._staged_owner = owner

    def _create_staged(self, path: bytes) -> int:
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
        try:
            return posix.open(path, flags, 0o600)
        except OSError as error:
            if error.errno == ENOENT:
                _make_directories(self._ours, 0o700)
            elif error.errno == EEXIST:
                # Unlinked, never truncated: who died between link and unlink left a second name of its claim here.
                _unlink(path)
            else:
                raise
        return posix.open(path, flags, 0o600)

    def _unstage(self) -> None:
        if self._staged:
            _unlink(self._staged)
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


def _listed(path: bytes) -> list[bytes]:
    try:
        return posix.listdir(path)
    except OSError as error:
        if error.errno == ENOENT:
            return []
        raise


def _unlink(path: bytes) -> None:
    try:
        posix.unlink(path)
    except OSError as error:
        if error.errno != ENOENT:
            raise


def _close(descriptor: int) -> None:
    try:
        posix.close(descriptor)
    except OSError:
        pass


def _exists(path: bytes) -> bool:
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


def _make_directories(path: bytes, mode: int) -> None:
    try:
        posix.mkdir(path, mode)
    except OSError as error:
        if error.errno == ENOENT:
            _make_directories(_parent(path), mode)
            _make_directories(path, mode)
        elif error.errno != EEXIST:
            raise


def _failure(code: int, path: bytes) -> OSError:
    return OSError(code, posix.strerror(code), path.decode("utf-8", "replace"))

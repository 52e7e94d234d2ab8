"""The node that attachments are made on: its namespace, its socket, its state, and which boot this is.

One `Node` is one set of open descriptors, never shared by threads. Everything that could be "the current" or
"the global" anything is here, as an argument of the engine: so one process can work for several nodes, and a
test's node is a directory and a namespace.
"""

from __future__ import annotations

import errno

from cni import boot
from cni.attach.locks import Lock
from cni.attach.record import Records, make_dirs, read_file, replace_file, unlink, write_all
from cni.kernel.netlink import Socket
from cni.kernel.netns import Netns
from cni.key import hash_of
from cni.lean import posix
from cni.spec.errors import CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Self

    from cni.key import Delegation, Key
    from cni.wanted import Addresses, Skeleton

DEFAULT_RUN_DIR: Final = "/run/podwire"
_RECORD_BYTES: Final = 4096
# Places in the file of shared locks; those of bridges are at their names' hashes.
_STATE: Final = 0
_RULES: Final = 1
_CLAIMS: Final = 2


class Node:
    """The node whose namespace the calling thread is in, with its state under `run_dir`.

    `reopen` gives the addresses of a record their owner back (`Addresses`, whatever made them). `skeleton` is what our
    tables are made of, and its version. Raises OSError where the state can't be had.
    """

    def __init__(
        self,
        run_dir: str,
        reopen: Callable[[Delegation], Addresses],
        skeleton: Skeleton | None = None,
        *,
        exiting: bool = False,
    ) -> None:
        self.run_dir = run_dir
        self.reopen = reopen
        self.skeleton = skeleton
        self.exiting = exiting
        """Whether nobody waits for its helpers: the process is going to end."""
        self.home = Netns()
        try:
            self.boot = boot.stamp()
            self.records = Records(run_dir, self.boot)
            self.nl = Socket()
        except BaseException:
            self.home.close()
            raise
        self._nf: Socket | None = None
        self.helpers: list[int] = []
        """Process IDs of helpers that may still be at work (see `reaper`)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def nf(self) -> Socket:
        """The socket to the packet filter, opened when something first asks for it: few verbs of few pods do. Raises
        NetlinkError where the kernel has none."""
        if not self._nf:
            from cni.kernel import nft

            self._nf = nft.connect()
        return self._nf

    def lingering(self) -> tuple[int, ...]:
        """The descriptor that takes long to close, where it is open (see `reaper.linger`)."""
        return (self._nf.fileno(),) if self._nf else ()

    def close(self) -> None:
        self.nl.close()
        if self._nf:
            self._nf.close()
        self.home.close()

    def settle(self) -> None:
        """Waits for the helpers: for a caller that lives on. Those of a process that exits are reaped by another."""
        while self.helpers:
            try:
                posix.waitpid(self.helpers.pop(), 0)
            except OSError as error:
                # Who ignores SIGCHLD, by inheritance even, has its children reaped by the kernel, and hears so at
                # the end of the last one.
                if error.errno != errno.ECHILD:
                    raise

    def prepare(self, *, adding: bool = False) -> None:
        """Makes sure of the state directory; who is adding to it says in it which boot this is.

        A process in another PID namespace has another process 1, so it has to take the stamp from here. Who takes
        something away has nothing to write: there may be no room for it.
        """
        if not adding:
            make_dirs(self.run_dir)
            return
        path = f"{self.run_dir}/boot"
        stamp = self.boot.encode()
        if read_file(path) == stamp:
            return
        make_dirs(self.run_dir)
        with self.state_lock():
            new = f"{path}.new"
            try:
                _write(new, stamp, 0o644)
                posix.rename(new, path)
            except BaseException:
                unlink(new)
                raise

    def require_room(self) -> None:
        """Raises OSError where a record could not be written: by writing something of its size."""
        path = f"{self.run_dir}/room"
        with self.state_lock():
            try:
                _write(path, bytes(_RECORD_BYTES), 0o600)
            finally:
                unlink(path)

    def lock(self, key: Key) -> Lock:
        """Keeps other calls for this attachment out. Taken before any other lock."""
        return self._lock(key.hash, f"attachment {key}")

    def lock_of(self, tag: str) -> Lock:
        """The lock of the attachment that bears this tag, for whoever knows nothing else of it."""
        return self._lock(hash_of(tag), f"the attachment of {tag}")

    def is_locked(self, key: Key) -> bool:
        """Whether a call for this attachment is under way, in another process or thread."""
        try:
            with self._lock(key.hash, "", 0):
                return False
        except CNIError:
            return True

    def _lock(self, place: int, what: str, patience_s: float | None = None) -> Lock:
        return Lock(f"{self.run_dir}/attachments.lock", place, what, patience_s=patience_s)

    def rules_lock(self, *, shared: bool) -> Lock:
        """Shared by who changes elements; alone is who changes tables. Taken after an attachment's lock."""
        return Lock(f"{self.run_dir}/shared.lock", _RULES, "the packet filter", shared=shared)

    def claims_lock(self) -> Lock:
        """Held over reading claims *and* the change of what is claimed. The last that is taken."""
        return Lock(f"{self.run_dir}/shared.lock", _CLAIMS, "the claims to ports and addresses")

    def note_table(self, family: str, *, there: bool = True) -> None:
        """Notes that our table of this family was made in this boot, or that it could not be."""
        path = f"{self.run_dir}/tables/{family}"
        if there:
            replace_file(path, b"", f"{self.run_dir}/tables/.new")
        else:
            unlink(path)

    def tables(self) -> list[str]:
        """The families in which our table was made in this boot, whoever may have removed it since."""
        return [name for name in ("inet", "bridge") if read_file(f"{self.run_dir}/tables/{name}") is not None]

    def keep_before(self, sysctl: str, value: str) -> None:
        """Notes, once, what a setting of the node was before we changed it: for whoever takes us off the node again."""
        folder = f"{self.run_dir}/before"
        path = f"{folder}/{sysctl.replace('/', ':')}"
        make_dirs(folder)
        with self.state_lock():
            # An empty note is one whose writer died at it, so before it changed anything.
            if not read_file(path):
                try:
                    _write(path, value.encode(), 0o600)
                except BaseException:
                    unlink(path)
                    raise

    def state_lock(self) -> Lock:
        """For what is written once in a boot: by processes, and threads, that may all come at once."""
        return Lock(f"{self.run_dir}/shared.lock", _STATE, "the state directory")


def _write(path: str, data: bytes, mode: int) -> None:
    fd = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, mode)
    try:
        write_all(fd, data, path)
    finally:
        posix.close(fd)

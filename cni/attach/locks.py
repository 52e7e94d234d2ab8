"""Who goes first: locks between processes, one file for all of a kind.

The file is never removed (a lock on a removed file keeps nobody out), and each thing to be locked is one byte
of it, at the thing's hash: a lock costs no file, and two attachments don't wait for each other. They are
"open file description" locks (F_OFD_SETLK, Linux 3.15): like flock(2), and unlike the older record locks,
they belong to the descriptor, so threads keep each other out too, and a crash of the holder frees them.
"""

from __future__ import annotations

import errno

from cni.lean import fcntl, posix, struct, time
from cni.spec.errors import TRY_AGAIN_LATER, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self

F_OFD_SETLK: Final = 37  # linux/fcntl.h
_FLOCK: Final = "@hhqqi4x"  # l_type, l_whence, l_start, l_len, l_pid (0 for these locks)
_OFFSETS: Final = (1 << 62) - 1
_PATIENCE_S: Final = 30.0
_FIRST_PAUSE_S: Final = 0.0005
_LONGEST_PAUSE_S: Final = 0.02


class Lock:
    """One byte of a lock file, held for a `with`. Raises CNIError 11 when it stays taken, OSError otherwise.

    `shared`: with others who share it; and one that keeps everybody else out keeps these out too.
    """

    def __init__(
        self, path: str, place: int, what: str, patience_s: float | None = None, *, shared: bool = False
    ) -> None:
        self._path = path
        self._place = place & _OFFSETS
        self._what = what
        self._patience_s = _PATIENCE_S if patience_s is None else patience_s
        self._kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
        self._fd = -1

    def __enter__(self) -> Self:
        self._fd = posix.open(self._path, posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC, 0o600)
        try:
            self._wait()
        except BaseException:
            posix.close(self._fd)
            raise
        return self

    def pass_on(self) -> None:
        """Has the processes that are started from now on hold it as well, until they end. So nobody comes while they
        are still at work, should ours be killed meanwhile."""
        posix.set_inheritable(self._fd, True)

    def __exit__(self, *_: object) -> None:
        posix.close(self._fd)

    def _wait(self) -> None:
        # Asked again and again rather than waited for, because a wait has no time limit that threads could use.
        end = None
        pause_s = _FIRST_PAUSE_S
        while not self._taken():
            now = time.monotonic()
            end = end or now + self._patience_s
            if now >= end:
                raise CNIError(
                    TRY_AGAIN_LATER,
                    f"{self._what} is locked by another call",
                    f"it has been for {self._patience_s:.0f} s; `fuser {self._path}` names the process",
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _taken(self) -> bool:
        try:
            fcntl.fcntl(self._fd, F_OFD_SETLK, struct.pack(_FLOCK, self._kind, _FROM_START, self._place, 1, 0))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True


_FROM_START: Final = 0

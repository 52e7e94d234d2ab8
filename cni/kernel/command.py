"""Runs a command of the node's, for what the kernel is told through no interface of its own: `iptables-restore`,
`firewall-cmd`, and `nft` where its library isn't there.

What goes in and what comes out are files in memory, so neither side ever waits for the other to read, and a daemon that
a command leaves behind holds nobody up. The command gets nothing else of ours: every descriptor is close-on-exec, but
for a lock that is passed on.

A command that waits for somebody who doesn't answer, as `firewall-cmd` may for D-Bus, would have all calls of the node
wait that need its lock. So each has a deadline, at which it is killed with what it has started. That leaves no change
half made: `nft` and both `iptables-restore` hand all of theirs to the kernel at once, and `firewall-cmd` only asks. But
whether it was made is then anybody's guess, as it is when we are killed ourselves: the record and the claims say that
it may have been.
"""

from __future__ import annotations

import errno

from cni.kernel.netlink import Refused
from cni.lean import NamedTuple, fcntl, posix, select, signal, time
from cni.spec.errors import NOT_AVAILABLE, TRY_AGAIN_LATER, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

PLACES: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where commands are looked for. PATH is the runtime's, and may be anything."""

DEADLINE_S: Final = 20.0
"""How long a command may take. They take a quarter of a second, and 5 where another holds iptables' lock; a node that
is busy starting may need a multiple. It is less than the 30 that others wait for a lock under which a command runs
(`cni.attach.locks`), so that one which hangs costs them time and not their pod; and far less than the minutes after
which runtimes give up, so that there is time to take back what was made.
"""
_DEATH_S: Final = 2.0
"""How long one that was killed may take to end. What the kernel has hold of ends when it likes."""
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.02

_NO_STATUS: Final = (b"/bin/sh", b"-c", b'"$@"; echo $? >&3', b"sh")


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    """Negative for a signal."""
    output: bytes
    said: str
    """On standard error."""

    @property
    def why(self) -> str:
        """The first line that it said, without what is only a warning."""
        lines = [line.strip() for line in self.said.splitlines() if line.strip() and not line.startswith("#")]
        if lines:
            return lines[0]
        return f"exit status {self.status}" if self.status >= 0 else f"killed by signal {-self.status}"


def run(
    argv: Sequence[str],
    stdin: bytes = b"",
    places: Sequence[str] = PLACES,
    package: str = "",
    deadline_s: float = DEADLINE_S,
) -> bytes:
    """What the command prints when it exits with 0. Raises Refused when it doesn't, otherwise as `ended`."""
    end = ended(argv, stdin, places, package, deadline_s)
    if end.status:
        raise refused(argv, end)
    return end.output


def refused(argv: Sequence[str], end: Ended) -> Refused:
    """The command failed: for who has looked at how."""
    code = errno.EPERM if "ermission denied" in end.said or "not permitted" in end.said else errno.EINVAL
    return Refused(code, " ".join(argv), end.why)


def find(name: str, places: Sequence[str] = PLACES) -> str:
    """The path of the first file of that name; "" where there is none."""
    for place in places:
        path = f"{place}/{name}"
        try:
            posix.stat(path)
        except OSError:
            continue
        return path
    return ""


def ended(
    argv: Sequence[str],
    stdin: bytes = b"",
    places: Sequence[str] = PLACES,
    package: str = "",
    deadline_s: float = DEADLINE_S,
) -> Ended:
    """Runs the command to its end. Raises CNIError where there is none of that name, telling the `package` that has
    it, and where it isn't done in time; Refused where it can't be started.
    """
    path = find(argv[0], places)
    if not path:
        raise CNIError(
            NOT_AVAILABLE,
            f"{argv[0]} is not there (looked for in {':'.join(places)})",
            f"install {package or argv[0]}",
        )
    files: list[int] = []
    try:
        for content in (stdin, b"", b"", b""):
            files.append(file_of(content))
        pid = _started(path, argv, files, places)
        in_time = gone = False
        try:
            in_time = _ends_within(pid, deadline_s)
        finally:
            # Who is interrupted isn't there any more to see to it that it ends.
            if not in_time:
                gone = _killed(pid)
        if not in_time:
            raise _too_slow(argv, deadline_s, _said(files[2]), gone=gone)
        return Ended(_status(pid, files[3], argv), _read(files[1]), _said(files[2]))
    finally:
        for file in files:
            posix.close(file)


def _started(path: str, argv: Sequence[str], files: Sequence[int], places: Sequence[str]) -> int:
    """The process ID."""
    arguments = [path.encode(), *[argument.encode("utf-8", "surrogateescape") for argument in argv[1:]]]
    if _unwaitable():
        # Nobody is told the end of a child then; a shell around the command, that writes it down, is.
        arguments = [*_NO_STATUS, *arguments]
    try:
        return posix.posix_spawn(
            arguments[0],
            arguments,
            {b"PATH": ":".join(places).encode(), b"LC_ALL": b"C"},
            file_actions=[(posix.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)],
            # The interpreter ignores two of them, and whoever started us may the third; exec would pass that on.
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD),
            setsigmask=(),
            # A group of its own, so that all that it has started can be killed: commands may be scripts.
            setpgroup=0,
        )
    except OSError as error:
        raise Refused(error.errno or 0, " ".join(argv)) from error


def _ends_within(pid: int, patience_s: float) -> bool:
    """Whether a child ends in this time. Its status is left to whoever waits for it."""
    try:
        fd = posix.pidfd_open(pid)
    except AttributeError:  # an interpreter built for an old libc
        return _is_seen_to_end(pid, patience_s)
    except OSError as error:
        # Where the kernel reaps children by itself, it may be gone already; else there is no descriptor to be had
        # (EMFILE, a seccomp filter).
        return error.errno == errno.ESRCH or _is_seen_to_end(pid, patience_s)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(patience_s * 1000))
    finally:
        posix.close(fd)


def _is_seen_to_end(pid: int, patience_s: float) -> bool:
    """The same by asking again and again, as for a lock: no other wait has a time limit that threads could use."""
    end = time.monotonic() + patience_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            if posix.waitid(posix.P_PID, pid, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT):
                return True
        except OSError as error:
            if error.errno != errno.ECHILD:
                raise
            return True  # reaped by the kernel, or by another thread
        if time.monotonic() >= end:
            return False
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _killed(pid: int) -> bool:
    """Kills a child and all that it has started. Whether it is gone, which it is unless the kernel has hold of it.

    Not asked to end first: none of these commands does anything about it that killing them wouldn't.
    """
    try:
        posix.killpg(pid, signal.SIGKILL)
        if not _ends_within(pid, _DEATH_S):
            return False
        posix.waitpid(pid, 0)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.ECHILD):  # it has ended, and was reaped by the kernel
            raise
    return True


def _too_slow(argv: Sequence[str], deadline_s: float, said: str, *, gone: bool) -> CNIError:
    last = said.strip().rpartition("\n")[2]
    return CNIError(
        TRY_AGAIN_LATER,
        f"{' '.join(argv)}: not done in {deadline_s:g} s, so it was killed{'' if gone else ', and is still there'}"
        + (f"; it last said: {last}" if last else ""),
        f"find out what {argv[0]} waits for: a daemon that is stuck (firewalld, D-Bus), a lock that another holds",
    )


def _status(pid: int, noted: int, argv: Sequence[str]) -> int:
    while True:
        try:
            return posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])
        except OSError as error:
            if error.errno == errno.EINTR:
                continue
            if error.errno != errno.ECHILD:
                raise
            told = _read(noted).strip()
            if not told.isdigit():
                raise Refused(errno.ECHILD, " ".join(argv), "how it ended can't be known") from error
            return int(told)


def _unwaitable() -> bool:
    return signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN


def file_of(content: bytes) -> int:
    """A file in memory, open at its start, whose number is none that a command is to have."""
    try:
        fd = posix.memfd_create("podwire", posix.MFD_CLOEXEC)
    except AttributeError:  # an interpreter built for an old libc; /run is memory too
        fd = posix.open("/run", posix.O_TMPFILE | posix.O_RDWR | posix.O_CLOEXEC, 0o600)
    try:
        while content:
            content = content[posix.write(fd, content) :]
        posix.lseek(fd, 0, 0)
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 4)
    finally:
        posix.close(fd)


def _said(fd: int) -> str:
    return _read(fd).decode("utf-8", "replace")


def _read(fd: int) -> bytes:
    return posix.pread(fd, posix.fstat(fd).st_size, 0)

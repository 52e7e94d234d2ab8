"""Runs a command of the node's, for what the kernel is told through no interface of its own: `iptables-restore`,
`firewall-cmd`, and `nft` where its library isn't there.

What goes in and what comes out are files in memory, so neither side ever waits for the other to read, and a daemon that
a command leaves behind holds nobody up. The command gets nothing else of ours: every descriptor is close-on-exec, but
for a lock that is passed on. There is no timeout; the runtime above us has one.
"""

from __future__ import annotations

import errno

from cni.kernel.netlink import Refused
from cni.lean import NamedTuple, fcntl, posix, signal
from cni.spec.errors import NOT_AVAILABLE, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

PLACES: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where commands are looked for. PATH is the runtime's, and may be anything."""

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


def run(argv: Sequence[str], stdin: bytes = b"", places: Sequence[str] = PLACES, package: str = "") -> bytes:
    """What the command prints when it exits with 0. Raises Refused when it doesn't, otherwise as `ended`."""
    end = ended(argv, stdin, places, package)
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


def ended(argv: Sequence[str], stdin: bytes = b"", places: Sequence[str] = PLACES, package: str = "") -> Ended:
    """Runs the command to its end. Raises CNIError where there is none of that name, telling the `package` that has
    it, and Refused where it can't be started.
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
        status = _status(_started(path, argv, files, places), files[3], argv)
        return Ended(status, _read(files[1]), _read(files[2]).decode("utf-8", "replace"))
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
        )
    except OSError as error:
        raise Refused(error.errno or 0, " ".join(argv)) from error


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


def _read(fd: int) -> bytes:
    return posix.pread(fd, posix.fstat(fd).st_size, 0)

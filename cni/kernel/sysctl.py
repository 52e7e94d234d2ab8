"""Network sysctls: small files under /proc/sys/net that show the namespace of the thread that opens them."""

from __future__ import annotations

import errno

from cni.kernel.netlink import Refused
from cni.lean import NamedTuple, posix

_ROOT = "/proc/sys/"


class Sysctl(NamedTuple):
    """One setting, as a path below /proc/sys (a dot in an interface's name makes the dotted form ambiguous)."""

    path: str
    value: str

    def make(self) -> None:
        """Sets it, in the calling thread's namespace. Raises Refused.

        Only what differs is written. To set some of them (disable_ipv6, forwarding) the kernel needs the lock of all
        links and doesn't sleep for it: the writer spins, and twenty pods at once keep each other from getting on.
        """
        try:
            if self.find():
                return
            fd = posix.open(_ROOT + self.path, posix.O_WRONLY | posix.O_CLOEXEC)
            try:
                # With the end of the line, or it could not be set to nothing: a write of no bytes is none.
                posix.write(fd, f"{self.value}\n".encode())
            finally:
                posix.close(fd)
        except OSError as error:
            raise Refused(error.errno or 0, f"sysctl -w {self}") from error

    def __str__(self) -> str:
        """As sysctl(8) takes it, which understands slashes too: the way to tell of an interface with a dot."""
        name = self.path if "." in self.path else self.path.replace("/", ".")
        return f"{name}={self.value}"

    def find(self) -> bool:
        """Whether it is set so. Where a setting has several numbers, the kernel shows tabs between them."""
        value = read(self.path)
        return value is not None and value.split() == self.value.split()


def read(path: str) -> str | None:
    """The value, or None where this kernel, or this interface, has no such setting. Raises OSError."""
    try:
        fd = posix.open(_ROOT + path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise
    try:
        return posix.read(fd, 4096).decode().strip()
    finally:
        posix.close(fd)

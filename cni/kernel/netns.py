"""Network namespaces: opened by path, told apart, entered for a moment.

Links, addresses, routes and /proc/sys/net follow the namespace of the calling *thread*. Nearly everything we
do in a pod goes through a netlink socket that was opened there and keeps its namespace; only opening that
socket and writing sysctls need the thread itself to be inside. This is the only module that enters one.
"""

from __future__ import annotations

import errno

from cni.kernel.netlink import Refused
from cni.lean import fcntl, posix, setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
NS_GET_NSTYPE: Final = 0xB703  # linux/nsfs.h, Linux 4.11

_OWN = "/proc/thread-self/ns/net"


class LostThreadError(BaseException):
    """The calling thread is in a pod's namespace and can't get back: nothing more may be done on it.

    Not an Exception, so that no handler goes on and does to the pod what is meant for the node.
    """


class Netns:
    """An open network namespace; closed at the end of a `with`.

    Raises OSError where there is nothing at the path, and EINVAL for what is no network namespace: a file
    that stayed behind after its mount was undone looks like one until it is asked.
    """

    def __init__(self, path: str = _OWN) -> None:
        self.path = path
        # Without waiting: a FIFO would keep us until somebody writes into it.
        self.fd = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
        try:
            if fcntl.ioctl(self.fd, NS_GET_NSTYPE) != CLONE_NEWNET:
                raise OSError(errno.EINVAL, f"{path} is a namespace, but not of a network")
            found = posix.fstat(self.fd)
        except OSError as error:
            posix.close(self.fd)
            if error.errno == errno.ENOTTY:
                raise OSError(errno.EINVAL, f"{path} is not a network namespace") from error
            raise
        self.device = found.st_dev
        self.inode = found.st_ino

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        posix.close(self.fd)

    def same(self, other: Netns) -> bool:
        return (self.device, self.inode) == (other.device, other.inode)

    def inside(self, home: Netns) -> Inside:
        """Enters this namespace for a `with`, then goes back to `home`."""
        return Inside(self, home)


class Inside:
    """The calling thread is in `there` for the length of a `with`. Raises Refused on entering.

    Kept to a few system calls; whatever can be done through a socket of `there` is done outside.
    """

    def __init__(self, there: Netns, home: Netns) -> None:
        self._there = there
        self._home = home

    def __enter__(self) -> None:
        try:
            setns(self._there.fd, CLONE_NEWNET)
        except OSError as error:
            raise Refused(error.errno or 0, f"nsenter --net={self._there.path}") from error

    def __exit__(self, *_: object) -> None:
        try:
            setns(self._home.fd, CLONE_NEWNET)
        except OSError as error:
            raise LostThreadError(f"cannot leave {self._there.path}: {error}") from error


def is_netns(path: str, device: int, inode: int) -> bool:
    """Whether that very namespace is still at the path."""
    try:
        found = posix.stat(path)
    except OSError:
        # Whatever keeps us from looking, a path that can't be followed leads to no namespace.
        return False
    return (found.st_dev, found.st_ino) == (device, inode)

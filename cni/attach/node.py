"""The node that attachments are made on: its namespace, its socket, its state, and which boot this is.

One `Node` is one set of open descriptors, never shared by threads. Everything that could be "the current" or
"the global" anything is here, as an argument of the engine: so one process can work for several nodes, and a
test's node is a directory and a namespace.
"""

from __future__ import annotations

import errno

from cni.attach.locks import Lock
from cni.attach.record import Records, make_dirs, read_file, write_all
from cni.kernel.netlink import Socket
from cni.kernel.netns import Netns
from cni.lean import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Self

    from cni.wanted import Addresses, Delegation, Key

DEFAULT_RUN_DIR: Final = "/run/podwire"


class Node:
    """The node whose namespace the calling thread is in, with its state under `run_dir`.

    `reopen` gives the addresses of a record their owner back (`Addresses`, whatever made them). Raises OSError
    where the state can't be had.
    """

    def __init__(self, run_dir: str, reopen: Callable[[Delegation], Addresses]) -> None:
        self.run_dir = run_dir
        self.reopen = reopen
        self.home = Netns()
        try:
            self.boot = boot_stamp()
            self.records = Records(run_dir, self.boot)
            self.nl = Socket()
        except BaseException:
            self.home.close()
            raise
        self.helpers: list[int] = []
        """Process IDs of helpers that may still be at work (see `reaper`)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.nl.close()
        self.home.close()

    def settle(self) -> None:
        """Waits for the helpers: for who lives on after a call. Those of a process that exits are reaped by another."""
        while self.helpers:
            posix.waitpid(self.helpers.pop(), 0)

    def prepare(self) -> None:
        """Makes sure of the state directory, and says in it which boot this is.

        A process in another PID namespace has another process 1, so it has to take the stamp from here.
        """
        path = f"{self.run_dir}/boot"
        if read_file(path) == self.boot.encode():
            return
        make_dirs(self.run_dir)
        new = f"{path}.{posix.getpid()}"
        fd = posix.open(new, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o644)
        try:
            write_all(fd, self.boot.encode())
        finally:
            posix.close(fd)
        posix.rename(new, path)

    def lock(self, key: Key) -> Lock:
        """Keeps other calls for this attachment out. Taken before any other lock."""
        return Lock(f"{self.run_dir}/attachments.lock", key.hash, f"attachment {key}")

    def keep_before(self, sysctl: str, value: str) -> None:
        """Notes, once, what a setting of the node was before we changed it: for who takes us off the node again."""
        folder = f"{self.run_dir}/before"
        new = f"{folder}/.{posix.getpid()}"
        make_dirs(folder)
        fd = posix.open(new, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o600)
        try:
            write_all(fd, value.encode())
        finally:
            posix.close(fd)
        try:
            posix.link(new, f"{folder}/{sysctl.replace('/', ':')}")
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
        finally:
            posix.unlink(new)


def boot_stamp() -> str:
    """What tells this boot of this node from every other: the kernel's boot ID and when process 1 began.

    The boot ID alone would not do: a node that is a container restarts without its kernel. Raises OSError.
    """
    boot_id = (read_file("/proc/sys/kernel/random/boot_id") or b"").decode().strip()
    stat = (read_file("/proc/1/stat") or b"").decode("utf-8", "replace")
    # The name of the process, in parentheses, may hold anything; the start time is the 22nd field (proc(5)).
    return f"{boot_id} {stat[stat.rfind(')') + 1 :].split()[19]}"

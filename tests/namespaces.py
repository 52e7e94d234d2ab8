"""Throw-away network namespaces, work done inside them, and traffic between them.

Independent of what it tests: nothing here imports `cni`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

CLONE_NEWNET = 0x40000000  # linux/sched.h

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def held() -> Iterator[Path]:
    """Path of a new, empty network namespace, which ends with the block."""
    # `cat` keeps the namespace alive until our end of its stdin closes. The kernel
    # then removes everything inside, even when pytest itself was killed.
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo ready; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        yield Path(f"/proc/{holder.pid}/ns/net")
        holder.stdin.close()


class Crowd:
    """Many empty network namespaces at little cost: open files of this process, where `held` has a process for each.

    Each has a path in `folder`, which is a symlink: `end` takes that away first, so that a path never leads elsewhere.
    A context manager; leaving it ends all.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fds: dict[Path, int] = {}

    def __enter__(self) -> Crowd:
        self._folder.mkdir(exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for path in list(self._fds):
            self.end(path)

    def make(self, name: str) -> Path:
        path = self._folder / name
        # A thread that unshares and ends: what keeps the namespace is the file that it opened meanwhile.
        fd = _in_thread(_new_namespace, f"makes {name}")
        self._fds[path] = fd
        path.symlink_to(f"/proc/{os.getpid()}/fd/{fd}")
        return path

    def end(self, path: Path) -> None:
        """Its path is gone when this returns; the kernel takes the namespace itself apart a moment later."""
        path.unlink()
        os.close(self._fds.pop(path))


def _new_namespace() -> int:
    if _libc.unshare(CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def inside(netns: Path | None, work: Callable[[], T]) -> T:
    """What `work` returns or raises, run in the network namespace at `netns` (None: the session's).

    By a thread of its own, since nothing can go wrong on the way back if nobody comes back.
    """
    if netns is None:
        return work()

    def entered() -> T:
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(fd, CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, f"setns: {os.strerror(code)}", str(netns))
        finally:
            os.close(fd)
        return work()

    return _in_thread(entered, f"in {netns}")


def _in_thread(work: Callable[[], T], name: str) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that asked
            failures.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure
    return results[0]


def lo_up(netns: Path | None) -> None:
    """Brings the loopback interface up, as a machine does for itself and no runtime does for a pod."""
    shell(netns, "ip link set lo up")


def shell(netns: Path | None, command: str) -> str:
    """stdout of a shell command run in `netns`; the test fails with its stderr when the command fails."""
    enter = ["nsenter", f"--net={netns}"] if netns else []
    done = subprocess.run([*enter, "sh", "-ec", command], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{command!r} in {netns}: exit {done.returncode}: {done.stderr.strip()}"
    return done.stdout


def listening(netns: Path | None, address: str, port: int) -> socket.socket:
    """A TCP socket that listens in `netns`. It answers to connects at once, without a process behind it."""
    return inside(netns, lambda: socket.create_server((address, port), family=_family(address), backlog=64))


def tcp(client: Path | None, server: Path | None, address: str, port: int = 7000, *, via: tuple[str, int] | None = None,
        size: int = 1, timeout: float = 2.0) -> str:  # fmt: skip
    """Sends `size` bytes there and back by TCP; returns the client's address as the server saw it.

    The server listens on `address` and `port` in its namespace; the client connects to the same, or to `via`
    (a host port). Raises OSError where that fails: TimeoutError, ConnectionRefusedError, network unreachable.
    """
    with listening(server, address, port) as listener:
        listener.settimeout(timeout)
        target = via or (address, port)
        with inside(client, lambda: socket.create_connection(target, timeout)) as near:
            far, seen = listener.accept()
            with far:
                far.settimeout(timeout)
                _send(near, far, size)
                _send(far, near, size)
    return str(seen[0])


def _send(source: socket.socket, sink: socket.socket, size: int) -> None:
    data = os.urandom(size)
    writer = threading.Thread(target=source.sendall, args=(data,))
    writer.start()
    got = bytearray()
    while len(got) < size:
        part = sink.recv(1 << 16)
        assert part, f"the connection ended after {len(got)} of {size} bytes"
        got += part
    writer.join()
    assert got == data


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def until_dismantled(node: Path, but: str = "") -> None:
    """The kernel takes a namespace's links away in the background; until then it isn't gone for certain. `but` is what
    `veths` said before."""
    while veths(node) != but:
        pass


def veths(node: Path) -> str:
    return shell(node, "ip -br link show type veth")

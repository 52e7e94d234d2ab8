"""The plugin's side of `tests.faults.injection`: stand-ins for what `cni.lean` hands out, and a server that has
plugins run on them.

All that a plugin does to the world it does through `cni.lean`. So stand-ins for `posix`, `fcntl`, `select`, `socket`
and `setns` there see every step, whatever code takes it, and who adds a step gets it tested without a word here.

    test ── environment, streams, fault ──▶ server (warm: cni is imported, on stand-ins)
      │                                       └─ fork ─▶ plugin ─ fork ─▶ the reaper's helper
      ◀────── exit code, streams, steps taken ────────────┘

A process of its own, since stand-ins come before the import of what uses them, and since what gets killed can't be
pytest. It is started once and forks, so a call costs two milliseconds and hundreds of faults can be tried.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import mmap
import os
import select
import signal
import socket
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

KILL, STOP, INTERRUPT, TERMINATE = -signal.SIGKILL, -signal.SIGSTOP, -signal.SIGINT, -signal.SIGTERM
"""In the place of an error number: the process gets that signal. KILL is an exit code too, as `subprocess` has it."""

LEFT_OPEN = "left-open"
"""Noted at the end for each descriptor that is still open."""

NOT_STEPS = frozenset({"_exit", "getpid", "inet_ntop", "inet_pton", "isatty", "setns", "strerror"})
"""What can't fail, or touches nothing: not worth a round each. (`setns` is counted as lean's.)"""

READING = frozenset(
    {
        *("access", "close", "fstat", "getsockopt", "ioctl", "listdir", "lstat", "poll", "pread", "read"),
        *("setsockopt", "stat", "statvfs", "urandom", "waitid"),
    }
)
"""Steps that change nothing, so that it is all the same whether they fail before or after."""

OWN = frozenset({"bind", "fcntl", "flock", "lseek", "open", "pidfd_open", "pipe2", "recvfrom", "setns", "socket"})
"""Steps whose effect ends with the process, so that it is all the same whether it dies before or after."""

JOURNAL_BYTES = 1 << 16
"""Of each of the two halves of a journal."""

CLONE_NEWNET = 0x40000000  # linux/sched.h

TOP = Path(__file__).resolve().parents[2]
_COLD = ("cni.cli", "cni.runtime", "cni.__main__")
"""What no call of a runtime imports."""
_MOST_DESCRIPTORS = 256


class Fault(NamedTuple):
    """What happens at one of the calls.

    Counted, from 0, are those at which it makes a difference (see `counts`); so going through the numbers until one
    is not reached is going through all that can happen.
    """

    number: int
    what: int
    """An error number, with which the call fails, or a signal."""
    after: bool = False
    """When it has had its effect (a write: half of it); otherwise instead of it."""
    helper: bool = False
    """Whether the calls of the forked helper are meant, instead of the plugin's own."""
    lasting: bool = False
    """Whether all calls after that one fail in the same way, so that nothing can be undone either."""

    def counts(self, step: str) -> bool:
        if self.helper or self.lasting:
            return True
        if self.what == KILL:
            return step not in READING and step not in OWN
        return not self.after or step not in READING

    def __str__(self) -> str:
        what = errno.errorcode[self.what] if self.what > 0 else signal.Signals(-self.what).name
        whose = "the helper's " if self.helper else ""
        return f"{what} {'after' if self.after else 'at'} {whose}call {self.number}{' and all later' * self.lasting}"


NONE = Fault(-1, 0)


class Journal:
    """The names of the steps, for whoever reads them when we are dead: ours, and in the second half our helper's."""

    def __init__(self, fd: int) -> None:
        # Mapped, since the helper closes every descriptor.
        self._shared = mmap.mmap(fd, 2 * JOURNAL_BYTES)
        self._at = 0

    def enter_helper(self) -> None:
        self._at = JOURNAL_BYTES

    def note(self, name: str) -> None:
        line = name.encode() + b"\n"
        self._shared[self._at : self._at + len(line)] = line
        self._at += len(line)


def steps(journal: int, *, helper: bool = False) -> tuple[str, ...]:
    """What was noted in the journal open as this descriptor."""
    noted = os.pread(journal, JOURNAL_BYTES, JOURNAL_BYTES if helper else 0)
    return tuple(noted.partition(b"\0")[0].decode().split())


def _is_told(name: str, arguments: tuple[Any, ...]) -> bool:
    """Whether it says something to the caller of the plugin: a test wants to hear what, and all or nothing of it."""
    return name == "write" and arguments[0] in (1, 2)


def _closes_anyway(name: str, fault: Fault) -> bool:
    """A close that fails, or during which a signal comes, has closed all the same (close(2))."""
    return name == "close" and fault.what != KILL


# --- the stand-ins ----------------------------------------------------------------------------------


class Seam:
    """Counts the calls of one process and has the fault happen. Lets everything pass until it is armed."""

    def __init__(self) -> None:
        self._journal: Journal | None = None
        self._release = ""
        self._fault = NONE
        self._number = 0
        self._in_helper = False

    def arm(self, fault: Fault, journal: Journal, release: str) -> None:
        self._fault = fault
        self._journal = journal
        self._release = release

    def call(self, name: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        journal = self._journal
        if not journal:
            return function(*arguments, **named)
        if name == "open" and arguments[1] & os.O_CREAT:
            name = "create"
        journal.note(name)
        fault = self._fault
        hit = self._comes(fault, name, arguments)
        if hit and (not fault.after or _is_told(name, arguments)) and not _closes_anyway(name, fault):
            self._strike(fault)
        if hit and name in ("write", "pwrite"):
            descriptor, data, *where = arguments
            arguments = descriptor, data[: len(data) // 2], *where
        result = function(*arguments, **named)
        if name == "fork" and not result:
            # The helper's first step is to have been forked.
            journal.enter_helper()
            journal.note(name)
            self._in_helper = True
            hit = self._comes(fault, name, arguments)
        # But a fork doesn't fail after it: no kernel says that there is no child, and has one.
        if hit and not (name == "fork" and fault.what > 0):
            self._strike(fault)
        return result

    def _comes(self, fault: Fault, step: str, arguments: tuple[Any, ...]) -> bool:
        """Whether the fault's time has come."""
        if not fault.counts(step) or self._in_helper != fault.helper:
            return False
        number, self._number = self._number, self._number + 1
        return number == fault.number or (fault.lasting and number > fault.number and not _is_told(step, arguments))

    def _strike(self, fault: Fault) -> None:
        if fault.what > 0:
            raise OSError(fault.what, os.strerror(fault.what))
        os.kill(os.getpid(), -fault.what)

    def uname(self) -> Any:
        """The kernel's, or another release that a test asks for."""
        return types.SimpleNamespace(release=self._release or os.uname().release)

    def put_in_place(self) -> None:
        """Has `cni.lean` hand out stand-ins. Before anything that imports from it is imported."""
        lean: Any = importlib.import_module("cni.lean")
        early = [name for name in sys.modules if name.startswith(("cni.", "ipam")) and name != "cni.lean"]
        assert not early, f"imported before the stand-ins were in place: {early}"
        setns, selecting, sockets = lean.setns, lean.select, lean.socket
        lean.setns = lambda fd, kind: self.call("setns", setns, fd, kind)
        lean.posix = _Module(self, lean.posix, {"uname": self.uname})
        lean.fcntl = _Module(self, lean.fcntl)
        lean.select = _Module(self, selecting, {"poll": lambda: _Poll(self, selecting.poll())})
        lean.socket = _Module(self, sockets, {"socket": _socket_class(self, sockets.socket)})


class _Module:
    """A stand-in for a module: its functions are steps, its classes and constants are its own."""

    def __init__(self, seam: Seam, real: Any, instead: Mapping[str, Any] | None = None) -> None:
        self._seam = seam
        self._real = real
        self._instead = instead or {}

    def __getattr__(self, name: str) -> Any:
        if name in self._instead:
            return self._instead[name]
        found = getattr(self._real, name)
        if not callable(found) or isinstance(found, type) or name in NOT_STEPS:
            return found
        return lambda *arguments, **named: self._seam.call(name, found, *arguments, **named)


class _Poll:
    """`select.poll()`, whose waiting is a step."""

    def __init__(self, seam: Seam, real: Any) -> None:
        self._seam = seam
        self._real = real
        self.register = real.register

    def poll(self, *arguments: Any) -> Any:
        return self._seam.call("poll", self._real.poll, *arguments)


def _socket_class(seam: Seam, real: Any) -> Any:
    """A stand-in for the class of sockets, whose methods are steps."""

    class Socket(real):  # type: ignore[misc]  # which class it is, is lean's business
        def __init__(self, *arguments: Any) -> None:
            seam.call("socket", super().__init__, *arguments)

    def step(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, *arguments: seam.call(name, method, self, *arguments)

    for name in ("bind", "close", "getsockopt", "recvfrom", "send", "setsockopt"):
        setattr(Socket, name, step(name, getattr(real, name)))
    return Socket


# --- the server -------------------------------------------------------------------------------------


def serve(requests: socket.socket) -> None:
    """Runs a plugin for each request, any number at once, until nobody can ask any more."""
    seam = Seam()
    seam.put_in_place()
    for path in sorted(path for package in ("cni", "ipam") for path in (TOP / package).rglob("*.py")):
        module = ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__")
        if not module.startswith(_COLD):
            importlib.import_module(module)
    importlib.import_module("traceback")  # which a call would import at its worst moment
    running: dict[int, tuple[int, int]] = {}
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd in running:
                poll.unregister(fd)
                _tell(fd, *running.pop(fd))
                continue
            data, fds, _flags, _address = socket.recv_fds(requests, 1 << 17, 8)
            if not data:
                return
            node, journal, reply, *streams = fds
            pid = os.fork()
            if not pid:
                try:
                    _become_plugin(seam, json.loads(data), node, Journal(journal), streams)
                finally:
                    os._exit(1)
            for received in (node, journal, *streams):
                os.close(received)
            ended = os.pidfd_open(pid)
            running[ended] = pid, reply
            poll.register(ended, select.POLLIN)


def _tell(ended: int, pid: int, reply: int) -> None:
    """The exit code of a plugin, to who waits for it."""
    _, status = os.waitpid(pid, 0)
    os.write(reply, b"%d" % os.waitstatus_to_exitcode(status))
    os.close(reply)
    os.close(ended)


def _become_plugin(seam: Seam, request: dict[str, Any], node: int, journal: Journal, streams: Sequence[int]) -> None:
    """As after an exec: on its node, with nothing open but its streams."""
    from cni import lean, plugin

    lean.setns(node, CLONE_NEWNET)
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    os.closerange(len(streams), _MOST_DESCRIPTORS)
    environ: dict[bytes, bytes] = lean.posix.environ  # type: ignore[assignment]  # bytes in posix, str in its twin
    environ.clear()
    environ.update({key.encode(): value.encode() for key, value in request["environ"].items()})
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    seam.arm(Fault(*request["fault"]), journal, request["release"])
    code = plugin.main(request["name"], request["environ"], 0, 1, 2, exiting=True)
    for left in range(len(streams), _MOST_DESCRIPTORS):
        with contextlib.suppress(OSError):
            os.fstat(left)
            journal.note(LEFT_OPEN)
    os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))

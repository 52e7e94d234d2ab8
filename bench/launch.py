"""Plugin processes, started as a runtime starts them and timed to the last process they leave behind.

A call is *answered* when the runtime could go on: the plugin has exited and nobody holds its stdout or
stderr open any more. It is *settled* when no process that it started is left, however deep: this process
adopts orphans (PR_SET_CHILD_SUBREAPER) and reaps until it has no children. What a plugin hands to a
background process it still has to pay for, and the second figure is where that shows. For a plugin
that leaves nothing behind the two are the same.

The kernel's own books (wait4) give processor time and peak memory, of helpers too. One of their quirks
decides how memory is measured: a process inherits the peak of the one that spawned it by vfork, which
would make every plugin at least as big as this interpreter. `Crowd(frugal=True)` puts a shell in between
that starts the plugin in the background and goes; the orphan's peak is its own.
"""

from __future__ import annotations

import ctypes
import os
import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Call:
    """One execution of a plugin."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    stdin: bytes
    """Must fit into a pipe (64 KiB): it is written before the process is started."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What all processes of a crowd took, those left behind included."""

    cpu_ns: int
    peak_rss_kib: int
    """Of the largest process."""


class Failed(RuntimeError):
    """A plugin answered with an error, or did not answer."""


class _Running:
    __slots__ = ("call", "number", "open", "output", "pid")

    def __init__(self, number: int, call: Call) -> None:
        self.number = number
        self.call = call
        self.output: dict[int, list[bytes]] = {}
        self.open = 0
        self.pid = 0


class Crowd:
    """Plugin processes that run at the same time. There can be only one at a time: it reaps whatever is a child."""

    def __init__(self, *, frugal: bool = False) -> None:
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
        self._poll = select.poll()
        self._by_fd: dict[int, _Running] = {}
        self._frugal = frugal
        self._started = 0
        self._cpu_s = 0.0
        self._peak_rss_kib = 0

    def start(self, call: Call) -> int:
        """Starts a process and returns the number that `next` will give with its answer."""
        running = _Running(self._started, call)
        self._started += 1
        stdin, feed = os.pipe()
        os.write(feed, call.stdin)
        os.close(feed)
        out, stdout = os.pipe()
        err, stderr = os.pipe()
        argv = call.argv
        if self._frugal:
            argv = ("/bin/sh", "-c", 'exec 3<&0; "$0" "$@" <&3 3<&- &', *argv)
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1), (os.POSIX_SPAWN_DUP2, stderr, 2)]
        running.pid = os.posix_spawn(argv[0], argv, call.environ, file_actions=actions)
        for ours in (stdin, stdout, stderr):
            os.close(ours)
        running.open = 2
        running.output = {out: [], err: []}
        for end in (out, err):
            self._by_fd[end] = running
            self._poll.register(end, select.POLLIN)
        return running.number

    def next(self) -> tuple[int, bytes]:
        """Waits until one more call is answered: its number, and its stdout. Raises Failed when it did not succeed."""
        while True:
            for end, _ in self._poll.poll():
                running = self._by_fd[end]
                data = os.read(end, 1 << 16)
                if data:
                    running.output[end].append(data)
                    continue
                self._poll.unregister(end)
                del self._by_fd[end]
                os.close(end)
                running.open -= 1
                if not running.open:
                    return running.number, self._finish(running)

    def settle(self) -> Cost:
        """Waits until no process is left, and tells what they all cost. No call may be unanswered."""
        assert not self._by_fd, "settle() before every answer was taken"
        while True:
            try:
                _, status, usage = os.wait4(-1, 0)
            except ChildProcessError:
                break
            if status:
                raise Failed(f"a process left behind ended with {os.waitstatus_to_exitcode(status)}")
            self._count(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
        return Cost(round(self._cpu_s * 1e9), self._peak_rss_kib)

    def _finish(self, running: _Running) -> bytes:
        _, status, usage = os.wait4(running.pid, 0)
        if not self._frugal:
            self._count(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
        stdout, stderr = (b"".join(parts) for parts in running.output.values())
        code = os.waitstatus_to_exitcode(status)
        if code:
            said = (stdout + stderr).decode(errors="replace").strip()
            raise Failed(f"{' '.join(running.call.argv)}: exit status {code}: {said}")
        return stdout

    def _count(self, cpu_s: float, peak_rss_kib: int) -> None:
        self._cpu_s += cpu_s
        self._peak_rss_kib = max(self._peak_rss_kib, peak_rss_kib)


def time_ns(call: Call) -> int:
    """From before the process is started until it has settled."""
    crowd = Crowd()
    started_ns = time.monotonic_ns()
    crowd.start(call)
    crowd.next()
    crowd.settle()
    return time.monotonic_ns() - started_ns

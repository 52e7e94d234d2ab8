"""Faults in plugins: the n-th call that one makes fails, or is its last. The test's side of `tests.faults.seam`.

outcome = launcher.under(Fault(17, errno.EIO))("bridge", "ADD", config, netns=netns)
assert outcome.step == "rename"
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tests import calls, session
from tests.faults.seam import JOURNAL_BYTES, KILL, LEFT_OPEN, NONE, Fault, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

ERRORS = (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EPERM, errno.ENOBUFS)
"""A full disk, a broken one, a signal, a policy, a kernel without memory: none of which any step expects."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Under which a plugin runs."""

    fault: Fault = NONE
    release: str = ""
    """Of the kernel, as uname(2) tells it; "" for the true one."""
    ignored: tuple[int, ...] = ()
    """Signals that are ignored, by inheritance."""


@dataclass(frozen=True, slots=True)
class Injected(calls.Outcome):
    """What a call gave that had a fault in it, and the steps that it and its helper came to."""

    fault: Fault
    steps: tuple[str, ...]
    helper_steps: tuple[str, ...]
    left_open: int
    """How many descriptors were open when it was done: an agent would still have them."""

    @property
    def step(self) -> str:
        """The step that the fault hit; "" when the call had ended before."""
        taken = [step for step in (self.helper_steps if self.fault.helper else self.steps) if self.fault.counts(step)]
        return taken[self.fault.number] if 0 <= self.fault.number < len(taken) else ""

    @property
    def killed(self) -> bool:
        return self.code == KILL

    @property
    def told(self) -> str:
        """For who has to find out what went wrong after it."""
        return f"after {self.fault}, {self.step}: {self.code} {self.stdout!r} {self.stderr}"


class Server:
    """The warm process that plugins are forked from; it ends with the block, and with this process."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.seam", str(theirs.fileno())],
                cwd=session.TOP,
                pass_fds=[theirs.fileno()],
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.close()
        self._process.wait()

    def run(
        self, name: str, environ: Mapping[str, str], stdin: bytes, node: Path | None, circumstances: Circumstances
    ) -> Injected:
        """One call of the plugin `name`, on the node at `node` (None: this thread's)."""
        streams = [os.memfd_create(stream) for stream in ("stdin", "stdout", "stderr")]
        journal = os.memfd_create("journal")
        there = os.open(node or "/proc/thread-self/ns/net", os.O_RDONLY)
        reading, writing = os.pipe()
        opened = [*streams, journal, there, reading]
        try:
            try:
                os.ftruncate(journal, 2 * JOURNAL_BYTES)
                os.write(streams[0], stdin)
                os.lseek(streams[0], 0, os.SEEK_SET)
                asked = {"name": name, "environ": dict(environ), **dataclasses.asdict(circumstances)}
                request = json.dumps(asked).encode()
                socket.send_fds(self._requests, [request], [there, journal, writing, *streams])
            finally:
                os.close(writing)
            code = os.read(reading, 16)
            assert code, f"{name} under {circumstances}: its handler died"
            stdout, stderr = [os.pread(fd, os.fstat(fd).st_size, 0) for fd in streams[1:]]
            noted, helped = steps(journal), steps(journal, helper=True)
        finally:
            for fd in opened:
                os.close(fd)
        taken = tuple(step for step in noted if step != LEFT_OPEN)
        left_open = len(noted) - len(taken)
        told = stderr.decode(errors="replace")
        return Injected(int(code), stdout, told, circumstances.fault, taken, helped, left_open)


class Launcher(calls.Caller):
    """Calls plugins in processes forked for it, under circumstances."""

    def __init__(
        self,
        server: Server,
        path: Sequence[Path],
        run_dir: Path,
        container_id: str,
        circumstances: Circumstances,
    ) -> None:
        super().__init__(path, run_dir, container_id)
        self._server = server
        self._circumstances = circumstances

    def _run(self, name: str, environ: Mapping[str, str], stdin: bytes, node: Path | None) -> Injected:
        return self._server.run(name, environ, stdin, node, self._circumstances)


def throughout(call: Callable[[Fault], Injected], fault: Callable[[int], Fault], least: int) -> Iterator[Injected]:
    """Has `call` meet the faults of number 0, 1, 2, … until one is not reached any more, which is the last outcome.

    There must be at least so many: with fewer, the stand-ins aren't where the plugin looks.
    """
    for number in itertools.count():
        outcome = call(fault(number))
        yield outcome
        if not outcome.step:
            assert number >= least, f"no more than {number} calls: {outcome}"
            return

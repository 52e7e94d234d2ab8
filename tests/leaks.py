"""What a test could leave behind, taken before and after it.

Reads the session's network namespace, its /run and /var/lib, its mounts and the children of this process.
Kernel objects go a moment after the call that ends them (DEL answers at the announcement, a namespace is
taken apart by a kernel thread), so a difference counts when it stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 3.0

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

WATCHED = ("/run", "/var/lib")
LOCKS = frozenset({"/run/xtables.lock"})
"""Lock files that programs of others make and never remove."""


class Traces(NamedTuple):
    """One look at everything; each trace is a sentence's worth of text that names the thing."""

    links: frozenset[str]
    tables: frozenset[str]
    files: frozenset[str]
    mounts: frozenset[str]
    processes: frozenset[str]

    @classmethod
    def now(cls) -> Traces:
        return cls(
            frozenset(f"link {name} (index {index})" for index, name in socket.if_nameindex()),
            frozenset(f"nft table {family} {name}" for family, name in nft_tables()),
            frozenset(f"file {path}" for path in _files()),
            frozenset(f"mount {point}" for point in _mounts()),
            frozenset(f"process {pid}: {command}" for pid, command in children().items()),
        )

    def left_since(self, before: Traces) -> list[str]:
        return sorted(trace for kind, old in zip(self, before) for trace in kind - old)


@contextlib.contextmanager
def orphans_adopted() -> Iterator[None]:
    """This process is the parent of what its children leave running, so that `children` sees it."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def left_since(before: Traces) -> list[str]:
    """What is there now, was not before, and doesn't go within PATIENCE_S. Reaps dead children."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        _reap(before)
        left = Traces.now().left_since(before)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)  # nobody announces the end of all these kinds of things


def sweep(left: list[str]) -> None:
    """Ends the processes among `left`, so that one culprit doesn't take the blame in every test after it."""
    for trace in left:
        if trace.startswith("process "):
            pid = int(trace.removeprefix("process ").partition(":")[0])
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def children() -> dict[int, str]:
    """Living and unreaped children of this process: pid → command line."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return {}  # the usual case, and /proc/<pid>/task/<tid>/children needs a kernel option
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                stat = Path("/proc", entry, "stat").read_text()
                command = Path("/proc", entry, "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            name, _, rest = stat.partition("(")[2].rpartition(")")
            state, parent = rest.split()[:2]
            if int(parent) == os.getpid():
                shown = command.replace(b"\0", b" ").decode(errors="replace").strip() or name
                found[int(entry)] = f"{shown} (dead, not waited for)" if state == "Z" else shown
    return found


def _reap(before: Traces) -> None:
    for pid, command in children().items():
        # Not those from before: whoever started them wants their exit status.
        if f"process {pid}: {command.removesuffix(' (dead, not waited for)')}" not in before.processes:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _files() -> list[str]:
    found: list[str] = []
    for top in WATCHED:
        for folder, folders, files in os.walk(top):
            found += [os.path.join(folder, name) for name in [*folders, *files]]
    return [path for path in found if path not in LOCKS]


def _mounts() -> list[str]:
    with open("/proc/self/mountinfo") as lines:
        # id, parent, device, root, mount point; the id tells two mounts on one point apart
        return [f"{fields[4]} (id {fields[0]})" for fields in map(str.split, lines)]


# --- nft tables: one dump request takes 50 µs, an exec of `nft` would take 3 ms for each test ---------

NETLINK_NETFILTER = 12  # linux/netlink.h
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE = 10, 1  # linux/netfilter/nfnetlink.h, nf_tables.h
NFTA_TABLE_NAME = 1

FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


def nft_tables() -> list[tuple[str, str]]:
    """(family, name) of each nftables table; empty where the kernel has no nftables."""
    tables: list[tuple[str, str]] = []
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    except OSError:
        return []
    with sock:
        kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE
        sock.send(struct.pack("=IHHII BBH", 20, kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0, 0, 0, 0))
        while True:
            data = sock.recv(1 << 16)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    return tables
                family, attributes = data[16], data[20:length]
                tables += [(FAMILIES.get(family, str(family)), name) for name in _names(attributes)]
                data = data[(length + 3) & ~3 :]


def _names(attributes: bytes) -> list[str]:
    names = []
    while attributes:
        length, kind = struct.unpack_from("=HH", attributes)
        if kind == NFTA_TABLE_NAME:
            names.append(attributes[4:length].rstrip(b"\0").decode())
        attributes = attributes[(length + 3) & ~3 :]
    return names

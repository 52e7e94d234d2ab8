"""Which boot this is: what tells state of today from state of a node's earlier lives."""

from __future__ import annotations

from errno import ENOENT

from cni.lean import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_BYTES: Final = 4096


def stamp() -> str:
    """`<boot ID> <start of process 1>`, in which there is no other blank.

    The boot ID alone would not do: a node that is a container restarts without its kernel. Raises OSError. To be
    asked in the node's own PID namespace; from another, `<run>/boot` has what the plugins saw.
    """
    boot_id = _read("/proc/sys/kernel/random/boot_id").strip()
    stat = _read("/proc/1/stat")
    # The name of the process, in parentheses, may hold anything; the start time is the 22nd field (proc(5)).
    fields = stat[stat.rfind(")") + 1 :].split()
    if not boot_id or len(fields) < 20:
        raise OSError(ENOENT, "neither says which boot this is", "/proc/1/stat")
    return f"{boot_id} {fields[19]}"


def _read(path: str) -> str:
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        return posix.read(descriptor, _BYTES).decode("utf-8", "replace")
    finally:
        posix.close(descriptor)

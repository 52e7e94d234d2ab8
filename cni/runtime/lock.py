"""One file that any number of names can be locked in, by operations of one process or of several.

A name is a byte of the file, found by a hash: two names that meet in one byte wait for each other, which is
all that it costs. The locks belong to the open file (F_OFD_SETLKW, fcntl(2)), not to the process as the
older ones do, so two threads exclude each other too, and end with it, however the process ends.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

# A region for each kind of name. To be taken in this order, and one name of a kind only: nobody waits in a circle.
_REGIONS: Final = {"network": 0, "container": 1 << 32}


class Lock:
    """An open lock file; what was taken is given back when the block is left. Raises OSError."""

    def __init__(self, file: Path) -> None:
        self._fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def take(self, kind: str, name: str, *, alone: bool) -> None:
        """Waits until nobody else has the name, or nobody has it for himself alone."""
        start = _REGIONS[kind] + zlib.crc32(os.fsencode(name))
        # struct flock of <linux/fcntl.h>: l_type, l_whence, l_start, l_len, l_pid
        request = struct.pack("@hhqqi4x", fcntl.F_WRLCK if alone else fcntl.F_RDLCK, os.SEEK_SET, start, 1, 0)
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, request)

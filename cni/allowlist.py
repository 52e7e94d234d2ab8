"""Which sysctls the administrator of a node allows networks to set: a file of patterns, and no file allows all.

The file is the reference's, a regular expression in each line, which a name as sysctl(8) has it must match. IFNAME
stands in it where it stands in the configuration: as in `net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]+`.

One thing is different: a pattern must match the *whole* name. The reference lets one match anywhere in it, so that
`net.ipv4.conf` in a list allows all that there is below, and one without `^` and `$` means something else than it says.
"""

from __future__ import annotations

import errno

from cni.lean import posix
from cni.spec.errors import INVALID_CONFIG, IO_FAILURE, CNIError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

PATH: Final = "/etc/cni/tuning/allowlist.conf"
_BYTES: Final = 1 << 20


def require(names: Iterable[str], path: str) -> None:
    """Raises CNIError for the first name that isn't allowed, and for a list that can't be read."""
    text = _read(path)
    if text is None:
        return
    # Here alone, since it takes 5 ms to import.
    import re

    patterns = []
    for number, line in enumerate(text.splitlines(), 1):
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        try:
            if "[:" in pattern:
                raise ValueError("classes like [:alpha:] are not understood here")
            patterns.append(re.compile(pattern))
        except (re.error, ValueError) as error:
            raise CNIError(
                INVALID_CONFIG, f"{path}: line {number}, {shown(pattern)}: {error}", "correct the regular expression"
            ) from None
    for name in names:
        if not any(pattern.fullmatch(name) for pattern in patterns):
            raise CNIError(
                INVALID_CONFIG,
                f"sysctl {name} is not allowed on this node",
                f"{path} has what is; each line must match a name as a whole",
            )


def _read(path: str) -> str | None:
    """The list, or None where there is none."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise _unreadable(path, error) from error
    try:
        return posix.read(fd, _BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        posix.close(fd)


def _unreadable(path: str, error: OSError) -> CNIError:
    return CNIError(IO_FAILURE, f"open {path}: {error.strerror}", "it says which sysctls networks may set")

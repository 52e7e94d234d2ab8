"""What went wrong where nobody expected it, in the terms of the specification."""

from __future__ import annotations

import errno

from cni.kernel.netlink import Refused
from cni.spec.errors import KERNEL_REFUSED, PASSING, STATE_UNUSABLE, TRY_AGAIN_LATER, CNIError


def translated(error: OSError) -> CNIError:
    """A refusal of the kernel, or of a file system, in the terms of the specification."""
    if isinstance(error, Refused):
        code = TRY_AGAIN_LATER if error.errno in PASSING else KERNEL_REFUSED
        failure = CNIError(code, str(error), "the kernel refused it; the part before the colon can be replayed by hand")
    else:
        where = f"{error.filename}: " if error.filename else ""
        code = TRY_AGAIN_LATER if error.errno in PASSING else STATE_UNUSABLE
        name = errno.errorcode.get(error.errno or 0, "?")
        failure = CNIError(code, f"{where}{error.strerror or error} ({name})", _advice(error.errno))
    for note in getattr(error, "__notes__", ()):
        failure.add_note(note)
    return failure


def _advice(code: int | None) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "make room on that file system"
    if code in (errno.EACCES, errno.EPERM):
        return "a plugin needs root: CAP_NET_ADMIN and CAP_SYS_ADMIN, and its state directories"
    if code == errno.EROFS:
        return "mount it for writing, or move the state with PODWIRE_RUN_DIR"
    return "see the node's log"


def traceback_of(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))

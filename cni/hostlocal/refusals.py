"""What `ipam` could not do, in the protocol's terms.

Which errors say "try again" (11)? A requested address that somebody else holds, because its owner is
expected to leave (a pod that moves with its address comes back before its old self is gone), and a lock
that was held for long. A full range does not (ADDRESSES_EXHAUSTED): nothing but more room or fewer pods will
clear it, which is what a person should read, and runtimes come back after any error.
"""

from __future__ import annotations

from cni.spec.errors import ADDRESSES_EXHAUSTED, INVALID_CONFIG, STATE_UNUSABLE, TRY_AGAIN_LATER, CNIError
from ipam.allocator import AllocationError
from ipam.errors import Exhausted, Taken
from ipam.store import Busy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipam.store import Directory


def told(error: Exception, directory: Directory) -> CNIError:
    """What went wrong in `ipam`: an AllocationError, Busy or an OSError."""
    if isinstance(error, Exhausted):
        return CNIError(
            ADDRESSES_EXHAUSTED,
            str(error),
            f"each has a file in {directory.path} that names its owner; delete pods, let GC release what is gone, "
            "or give the network more ranges",
        )
    if isinstance(error, Taken):
        holder = " ".join(error.owner.split()) or "an unknown owner"
        return CNIError(
            TRY_AGAIN_LATER, str(error), f"{directory.path}/{error.address} belongs to {holder} until its DEL"
        )
    if isinstance(error, AllocationError):
        return CNIError(
            INVALID_CONFIG, str(error), "request addresses that lie in the network's ranges, one of each set"
        )
    if isinstance(error, Busy):
        return CNIError(TRY_AGAIN_LATER, f"host-local: {error}", "see which process holds it: fuser on that file")
    assert isinstance(error, OSError)
    return unusable(error, directory, STATE_UNUSABLE)


def unusable(error: OSError, directory: Directory, code: int) -> CNIError:
    file = error.filename.decode("utf-8", "replace") if isinstance(error.filename, bytes) else error.filename
    return CNIError(
        code,
        f"host-local: cannot keep reservations in {directory.path}: {error.strerror}",
        f'{file}: {error.strerror} (errno {error.errno}); "dataDir" in ipam moves them elsewhere' if file else "",
    )

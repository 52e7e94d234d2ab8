"""The pod's side of an attachment: its namespace, held open, and a netlink socket that lives in there."""

from __future__ import annotations

import errno

from cni.kernel.netlink import Socket
from cni.kernel.netns import Netns
from cni.spec.errors import INVALID_ENVIRONMENT, INVALID_NETNS, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self

    from cni.kernel.netns import Inside

# What opening a namespace says when there is none any more. EINVAL: its file has outlived its mount.
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.EINVAL, errno.ENODEV, errno.ENXIO})


class Sandbox:
    """A pod's network namespace; closed at the end of a `with`."""

    def __init__(self, path: str, home: Netns, own_is_fine: bool) -> None:
        """Has no side effect. Raises CNIError 8 for the node's own namespace (unless that is fine), OSError."""
        self._home = home
        self.netns = Netns(path)
        try:
            if self.netns.same(home) and not own_is_fine:
                raise own(path)
            with self.inside():
                self.nl = Socket()
        except BaseException:
            self.netns.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.nl.close()
        self.netns.close()

    def inside(self) -> Inside:
        """The calling thread is in the pod for a `with`: to open what belongs there, and to write sysctls."""
        return self.netns.inside(self._home)


def own(path: str) -> CNIError:
    """That a pod's namespace is the node's."""
    return CNIError(
        INVALID_NETNS,
        "plugin's netns and netns from CNI_NETNS should not be the same",
        f"{path} is the node's network namespace; a pod on the host network needs no plugin",
    )


def require(path: str, home: Netns, own_is_fine: bool) -> Sandbox:
    """The sandbox of a call that can't do without one. Raises CNIError."""
    try:
        return Sandbox(path, home, own_is_fine)
    except OSError as error:
        raise CNIError(
            INVALID_ENVIRONMENT,
            f'CNI_NETNS: failed to open netns "{path}": {error.strerror}',
            "it must be the path of a network namespace that exists",
        ) from error


def find(path: str, home: Netns, own_is_fine: bool) -> Sandbox | None:
    """The sandbox, or None where there is none any more. Raises CNIError, OSError."""
    try:
        return Sandbox(path, home, own_is_fine) if path else None
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise

"""Why an address can't be had: the kinds of AllocationError, a module of their own since most calls meet none."""

from __future__ import annotations

from ipam.allocator import AllocationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipam.address import Address


class Unmatched(AllocationError):
    """Requested addresses that lie in no range, or more of them in one range set than it gives."""


class IsGateway(AllocationError):
    """A requested address is a gateway."""


class IsExcluded(AllocationError):
    """A requested address is one of those that nobody is to have."""


class Taken(AllocationError):
    """A requested address is held by somebody else."""

    def __init__(self, text: str, address: Address, owner: str) -> None:
        super().__init__(text)
        self.address = address
        self.owner = owner


class Exhausted(AllocationError):
    """Every address of a range set is held."""

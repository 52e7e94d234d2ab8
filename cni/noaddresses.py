"""Addresses where there are none: a network without IPAM, and one whose configuration doesn't say."""

from __future__ import annotations

from cni.key import Delegation
from cni.spec.result import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.key import Key
    from cni.spec.errors import CNIError


class NoAddresses:
    """Of a network that has none."""

    delegation = Delegation("", "", "")

    def acquire(self, key: Key, netns: str) -> Result:
        return Result()

    def require(self) -> None:
        pass

    def release(self, key: Key, netns: str) -> None:
        pass

    def check(self, key: Key, netns: str, prev: Result) -> None:
        pass

    def status(self) -> None:
        pass

    def gc(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        pass


class Unreadable(NoAddresses):
    """Of a configuration that doesn't say where they came from."""

    def __init__(self, error: CNIError) -> None:
        self._error = error

    def release(self, key: Key, netns: str) -> None:
        raise self._error

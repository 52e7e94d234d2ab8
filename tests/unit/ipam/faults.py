"""Stand-ins for the calls that `ipam` makes on files: the n-th one fails, or the process is dead from it on."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pytest

CRASHING = "crash"

MODULES = ("ipam.store", "ipam.index", "ipam.recovery")


class Crash(BaseException):
    """The process died. Nothing that runs after it reaches the kernel, `finally` included."""


class Calls:
    """The system calls of a module, counted; at the one of number `at` something happens.

    `fault` is an errno, with which that one call fails, or CRASHING: it isn't made, one that writes is half made,
    and neither are those after it, as if the process had been killed. What it had open is closed, as the kernel
    would; its locks are free.
    """

    def __init__(self, at: int, fault: int | str) -> None:
        self.made: list[str] = []
        self.about_hints: set[int] = set()
        """Numbers of the calls that read or write an index, or ask whether it holds."""
        self.reached = False
        self._at = at
        self._fault = fault
        self._dead = False
        self._open: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if not callable(found) or isinstance(found, type):
            return found
        return lambda *arguments, **named: self._call(name, found, *arguments, **named)

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if self._dead:
            raise Crash
        if name in ("pread", "pwrite", "stat", "utime", "rename", "mkdir") or self._is_index(name, arguments):
            self.about_hints.add(len(self.made))
        if len(self.made) == self._at and not (name == "close" and self._fault != CRASHING):  # close doesn't fail
            self.reached = True
            if self._fault == CRASHING:
                if name in ("write", "pwrite"):
                    descriptor, data, *rest = arguments
                    function(descriptor, data[: len(data) // 2], *rest)
                self._die()
            else:
                assert isinstance(self._fault, int)
                self.made.append(name)
                raise OSError(self._fault, os.strerror(self._fault))
        self.made.append(name)
        result = function(*arguments, **named)
        if name == "open":
            self._open.add(result)
        elif name == "close":
            self._open.discard(arguments[0])
        return result

    def _is_index(self, name: str, arguments: tuple[Any, ...]) -> bool:
        return name in ("open", "unlink") and b"/index" in os.fsencode(arguments[0])

    def _die(self) -> None:
        self._dead = True
        for descriptor in self._open:
            os.close(descriptor)
        raise Crash


@contextlib.contextmanager
def at_call(
    monkeypatch: pytest.MonkeyPatch, number: int, fault: int | str, modules: Sequence[str] = MODULES
) -> Iterator[Calls]:
    """What the block does with an `ipam` directory meets the fault at its call of that number, counted from 0."""
    calls = Calls(number, fault)
    with monkeypatch.context() as patch:
        for module in modules:
            patch.setattr(f"{module}.posix", calls)
        with contextlib.suppress(Crash):
            yield calls

"""Scenes for faults, and what plugins are started from."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

import pytest

from tests.faults.injection import Server
from tests.faults.scene import Scene, dual_stack, furnished_pod
from tests.verbs.networks import Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.calls import Caller, InProcess

# What it asserts is a test's own business: pytest is to tell how the states differ.
pytest.register_assert_rewrite("tests.faults.attachment")


@pytest.fixture
def caller(in_process: InProcess) -> Caller:
    """What calls the plugin of `lan`: this process, where a module has no other."""
    return in_process


@pytest.fixture
def lan(caller: Caller, node: Path, tmp_path: Path) -> Network:
    """A network of both families on the test's node."""
    data_dir = tmp_path / "networks"
    return Network(caller, node, dual_stack(data_dir), data_dir)


@pytest.fixture(scope="session", autouse=True)
def server() -> Iterator[Server]:
    """The warm process that plugins are forked from; there before any test, so that none is blamed for it."""
    with Server() as running:
        yield running


@pytest.fixture
def scenes(server: Server, tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    """`scenes(has_life=True)`: a new scene, around the same pod; it ends the one before."""
    numbers = itertools.count()
    with furnished_pod() as pod, contextlib.ExitStack() as stack:

        def change(*, has_life: bool, release: str = "") -> Scene:
            stack.close()
            folder = tmp_path / str(next(numbers))
            return stack.enter_context(Scene(server, folder, pod, has_life=has_life, release=release))

        yield change

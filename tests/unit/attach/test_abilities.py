"""The kernel is asked once in a boot for each thing, and what it lacks is asked for again."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from cni.attach import abilities
from cni.kernel.netlink import NetlinkError, Request

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from cni.attach.node import Node


@dataclass
class FakeNode:
    run_dir: str
    boot: str = "first"
    lacks: str = ""
    asked: list[str] = field(default_factory=list)

    @property
    def nl(self) -> FakeNode:
        return self

    def do(self, *requests: Request) -> None:
        self.asked += [one.option for one in requests]
        if self.lacks in [one.option for one in requests]:
            raise NetlinkError(errno.ENOENT, self.lacks)

    def state_lock(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def require(self, *options: str) -> list[str]:
        """What the kernel is asked for."""
        self.asked = []
        abilities.require(cast("Node", self), [Request(0, 0, b"", "", option=one) for one in options])
        return self.asked


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return FakeNode(str(tmp_path))


def test_each_thing_is_asked_for_once(node: FakeNode) -> None:
    assert [node.require(*options) for options in ("a", "a", "ab", "bca", "abc")] == [["a"], [], ["b"], ["c"], []]


def test_what_is_missing_is_asked_for_again_and_nothing_is_noted(node: FakeNode) -> None:
    node.lacks = "b"
    for _ in range(2):
        with pytest.raises(NetlinkError):
            node.require("a", "b")
        assert node.asked == ["a", "b"]
    node.lacks = ""

    assert node.require("a", "b") == ["a", "b"]


@pytest.mark.parametrize("noted", [b"second\na", b"", b"\xff\xfe\n\n", b"first"])
def test_the_note_of_another_boot_and_a_damaged_one_say_nothing(node: FakeNode, noted: bytes) -> None:
    Path(node.run_dir, "kernel").write_bytes(noted)

    assert [node.require("a"), node.require("a")] == [["a"], []]


def test_the_note_is_whole_and_leaves_no_other_file(node: FakeNode) -> None:
    node.require("a", "b")

    found: dict[str, Any] = {one.name: one.read_text() for one in Path(node.run_dir).iterdir()}
    assert found == {"kernel": "first\na\nb"}

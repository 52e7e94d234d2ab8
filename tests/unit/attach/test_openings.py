"""Openings: made once for all who want one, and dropped with the last of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from cni.attach import openings, record
from cni.attach.node import Node
from cni.attach.record import Record
from cni.kernel.netlink import Refused
from cni.kernel.netns import Netns
from cni.key import Delegation, Key
from cni.noaddresses import NoAddresses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

A, B = Key("net", "a", "eth0", "firewall"), Key("other", "a", "eth0", "podwire")


class Door(NamedTuple):
    """Notes what is done to it. One that is `stuck` can't be moved."""

    resource: str
    done: list[str]
    stuck: bool = False

    def make(self) -> None:
        self._move("made")

    def drop(self) -> None:
        self._move("dropped")

    def find(self) -> bool:
        raise NotImplementedError

    def _move(self, how: str) -> None:
        if self.stuck:
            raise Refused(1, f"door {self.resource}")
        self.done.append(f"{self.resource} {how}")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node whose state is a folder."""
    with Node(str(tmp_path), lambda _: NoAddresses()) as node:
        yield node


@pytest.fixture
def attached(node: Node, make_netns: Callable[[], Path]) -> Callable[[Key], None]:
    """`attached(key)`: there is a record of the attachment."""

    def attach(key: Key) -> None:
        with Netns(str(make_netns())) as netns:
            begun = Record.begun(key, netns, 0, Delegation("", "", ""))
        node.records.write(begun._replace(stage=record.COMPLETE))

    return attach


def test_the_last_who_wants_it_takes_it_away(node: Node, attached: Callable[[Key], None]) -> None:
    done: list[str] = []
    doors = [Door("front", done), Door("back", done)]
    attached(A)
    attached(B)

    openings.make(node, A, doors)
    openings.make(node, B, doors[:1])
    assert done == ["front made", "back made", "front made"]
    done.clear()

    openings.drop(node, A, doors)
    assert done == ["back dropped"]
    openings.drop(node, B, doors[:1])
    assert done == ["back dropped", "front dropped"]


def test_whoever_has_no_record_wants_nothing(node: Node, attached: Callable[[Key], None]) -> None:
    done: list[str] = []
    attached(A)
    openings.make(node, B, [Door("front", done)])
    openings.make(node, A, [Door("front", done)])

    openings.drop(node, A, [Door("front", done)])

    assert done[-1] == "front dropped"


def test_who_never_had_it_takes_it_from_nobody(node: Node, attached: Callable[[Key], None]) -> None:
    """As an ADD that failed before it came to that, and is rolled back."""
    done: list[str] = []
    attached(A)
    attached(B)
    openings.make(node, A, [Door("front", done)])

    openings.drop(node, B, [Door("front", done)])

    assert done == ["front made"]


def test_one_that_is_stuck_keeps_no_other_and_is_tried_again(node: Node, attached: Callable[[Key], None]) -> None:
    done: list[str] = []
    attached(A)
    openings.make(node, A, [Door("front", done), Door("back", done)])

    with pytest.raises(Refused):
        openings.drop(node, A, [Door("front", done, stuck=True), Door("back", done)])
    assert done[2:] == ["back dropped"]
    openings.drop(node, A, [Door("front", done), Door("back", done)])

    assert done[3:] == ["front dropped", "back dropped"]

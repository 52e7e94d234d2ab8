"""A pod's shaping is there or it isn't, whatever step of the ADD or the DEL failed or was a process's last.

Of its objects only the ifb goes by itself; the others hang on a link that an earlier plugin made and that stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests import oracle
from tests.faults.attachment import Chained

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.scene import Scene

INCOMING = 0xFFFFFFF2  # linux/pkt_sched.h: where filters of what is received hang


class Shaped(Chained):
    """A pod that is attached, and its shaping under faults."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene, "bandwidth", ingressRate=20_000_000, egressRate=10_000_000)
        self._port = self.result["interfaces"][1]["name"]
        self.before = self.state()

    def state(self) -> object:
        node = self.scene.node
        links = [replace(link, raw=None, group=0) for link in oracle.links(node)]
        return links, oracle.qdiscs(node), oracle.filters(node, self._port, INCOMING), self.records()


@pytest.fixture
def shaped(scenes: Callable[..., Scene]) -> Shaped:
    return Shaped(scenes(has_life=False))


@pytest.mark.parametrize("after", [False, True], ids=["at", "after"])
def test_an_add_that_fails_takes_away_what_it_made(shaped: Shaped, after: bool) -> None:
    for outcome in shaped.failing_adds(15, after=after):
        shaped.require_undone(outcome)
        shaped.end(outcome)


@pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])
def test_what_a_killed_add_made_is_taken_away_by_what_comes_next(shaped: Shaped, then: str) -> None:
    for outcome in shaped.killed_adds(12):
        shaped.end(outcome, then)


@pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])
def test_what_a_killed_del_left_is_taken_away_by_what_comes_next(shaped: Shaped, then: str) -> None:
    for outcome in shaped.killed_dels(10):
        shaped.end(outcome, then)


def test_a_del_that_the_kernel_puts_off_is_finished_by_the_next(shaped: Shaped) -> None:
    for outcome in shaped.failing_dels(20):
        assert outcome.code or shaped.is_as_before(), outcome.told
        shaped.end(outcome)

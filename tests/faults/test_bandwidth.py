"""A pod's shaping is there or it isn't, whatever step of the ADD or the DEL failed or was a process's last.

Of its objects only the ifb goes by itself; the others hang on a link that an earlier plugin made and that stays.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests import oracle
from tests.faults.injection import ERRORS, Circumstances, Injected, throughout
from tests.faults.seam import KILL, NONE, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.scene import Scene

KEYS: dict[str, Any] = {"ingressRate": 20_000_000, "egressRate": 10_000_000}
INCOMING = 0xFFFFFFF2  # linux/pkt_sched.h: where filters of what is received hang


class Shaped:
    """A pod that is attached, and its shaping under faults."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._result = scene.network().add(scene.pod)
        self._port = self._result["interfaces"][1]["name"]
        self._before = self._state()

    def call(self, fault: Fault, command: str, **keys: Any) -> Injected:
        network = self.scene.network(Circumstances(fault))
        shaping = network.chained("bandwidth", self._result, **KEYS, **keys)
        outcome = shaping.call(command, netns=self.scene.pod)
        assert isinstance(outcome, Injected)
        return outcome

    def is_as_before(self) -> bool:
        return self._state() == self._before

    def is_complete(self) -> bool:
        """Whether all was done, so that what failed was to tell of it."""
        records = self.scene.run_dir.glob("attachments/lan/a@eth0@bandwidth.json")
        return [json.loads(file.read_text())["stage"] for file in records] == ["complete"]

    def _state(self) -> object:
        node = self.scene.node
        links = [replace(link, raw=None, group=0) for link in oracle.links(node)]
        records = sorted(file.name for file in self.scene.run_dir.glob("attachments/lan/*"))
        return links, oracle.qdiscs(node), oracle.filters(node, self._port, INCOMING), records


@pytest.fixture
def shaped(scenes: Callable[..., Scene]) -> Shaped:
    return Shaped(scenes(has_life=False))


def finish(shaped: Shaped, outcome: Injected, then: str) -> None:
    if then == "ADD":
        assert shaped.call(NONE, "ADD").code in (0, 1), outcome.told  # 1 where it was complete
        assert shaped.is_complete()
    if then == "GC":
        after = shaped.call(NONE, "GC", **{"cni.dev/valid-attachments": []})
    else:
        after = shaped.call(NONE, "DEL")
    assert (after.code, after.stdout) == (0, b""), f"{after}, {outcome.told}"
    assert shaped.is_as_before(), outcome.told


@pytest.mark.parametrize("after", [False, True], ids=["at", "after"])
def test_an_add_that_fails_takes_away_what_it_made(shaped: Shaped, after: bool) -> None:
    def fault(number: int) -> Fault:
        return Fault(number, ERRORS[number % len(ERRORS)], after)

    for outcome in throughout(lambda fault: shaped.call(fault, "ADD"), fault, 15):
        # That a file has its new name while the kernel says otherwise, nothing foresees.
        if outcome.code and outcome.step not in ("create", "rename") and not shaped.is_complete():
            assert shaped.is_as_before(), outcome.told
        finish(shaped, outcome, "DEL")


@pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])
def test_what_a_killed_add_made_is_taken_away_by_what_comes_next(shaped: Shaped, then: str) -> None:
    for outcome in throughout(lambda fault: shaped.call(fault, "ADD"), lambda number: Fault(number, KILL), 12):
        finish(shaped, outcome, then)


@pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])
def test_what_a_killed_del_left_is_taken_away_by_what_comes_next(shaped: Shaped, then: str) -> None:
    def attach_and_detach(fault: Fault) -> Injected:
        assert shaped.call(NONE, "ADD").code == 0
        return shaped.call(fault, "DEL")

    for outcome in throughout(attach_and_detach, lambda number: Fault(number, KILL), 10):
        finish(shaped, outcome, then)

"""A plugin twice in a chain: whatever step of the second's ADD or of a DEL fails or is a process's last, and whoever
comes at the same time, as many DELs as members leave nothing, and what each found is as it was."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces, oracle
from tests.faults.injection import ERRORS, Circumstances, Injected, throughout
from tests.faults.seam import KILL, NONE, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.scene import Scene
    from tests.verbs.networks import Network

SOMAXCONN = "/proc/sys/net/core/somaxconn"
# Both change both, so that it matters what is put back first.
MEMBERS: tuple[dict[str, Any], ...] = (
    {"sysctl": {"net.core.somaxconn": "77"}, "mac": "02:00:00:00:00:91"},
    {"sysctl": {"net.core.somaxconn": "78"}, "mac": "02:00:00:00:00:92"},
)
ALREADY_ATTACHED = 102


class Twice:
    """A pod that is attached, and its two `tuning` under faults."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._result = scene.network().add(scene.pod)
        self._before = self._state()

    def network(self, member: int, fault: Fault = NONE, **keys: Any) -> Network:
        return self.scene.network(Circumstances(fault)).chained("tuning", self._result, **MEMBERS[member], **keys)

    def call(self, command: str, member: int, fault: Fault = NONE, **keys: Any) -> Injected:
        outcome = self.network(member, fault, **keys).call(command, netns=self.scene.pod)
        assert isinstance(outcome, Injected)
        return outcome

    def collect(self) -> Injected:
        """A GC that leaves nobody."""
        return self.call("GC", 0, NONE, **{"cni.dev/valid-attachments": []})

    def is_as_before(self) -> bool:
        return self._state() == self._before

    def stages(self) -> list[str]:
        """Of the records of the first and the second, as far as there are any."""
        files = sorted(self.scene.run_dir.glob("attachments/lan/a@eth0@tuning*.json"), key=lambda file: len(file.name))
        return [json.loads(file.read_text())["stage"] for file in files]

    def _state(self) -> object:
        link = oracle.link(self.scene.pod, "eth0")
        records = sorted(file.name for file in self.scene.run_dir.glob("attachments/lan/*"))
        return namespaces.shell(self.scene.pod, f"cat {SOMAXCONN}"), replace(link, raw=None), records


@pytest.fixture
def twice(scenes: Callable[..., Scene]) -> Twice:
    return Twice(scenes(has_life=False))


def finish(twice: Twice, outcome: Injected, then: str) -> None:
    """By what a runtime may do next."""
    if then == "ADD":
        again = twice.call("ADD", 1)
        assert again.code == 0 or again.error["code"] == ALREADY_ATTACHED, outcome.told
        assert twice.stages() == ["complete", "complete"], outcome.told
    if then == "GC":
        afters = [twice.collect()]
    else:
        afters = [twice.call("DEL", member) for member in (1, 0)]
    for after in afters:
        assert (after.code, after.stdout) == (0, b""), f"{after}, {outcome.told}"
    assert twice.is_as_before(), outcome.told


def added(twice: Twice, fault: Fault) -> Injected:
    """The second's ADD under a fault."""
    assert twice.call("ADD", 0).code == 0
    return twice.call("ADD", 1, fault)


def deleted(twice: Twice, fault: Fault) -> Injected:
    """The first DEL under a fault."""
    assert added(twice, NONE).code == 0
    return twice.call("DEL", 1, fault)


@pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])
def test_what_a_killed_add_of_the_second_did_goes_with_what_comes_next(twice: Twice, then: str) -> None:
    for outcome in throughout(lambda fault: added(twice, fault), lambda number: Fault(number, KILL), 15):
        assert twice.stages()[0] == "complete", outcome.told
        finish(twice, outcome, then)


def test_an_add_of_the_second_that_fails_leaves_the_first(twice: Twice) -> None:
    def fault(number: int) -> Fault:
        return Fault(number, ERRORS[number % len(ERRORS)])

    for outcome in throughout(lambda fault: added(twice, fault), fault, 20):
        # Unless all was done, or a thread was lost: then the record stays for the next call.
        if outcome.code and outcome.step != "setns" and twice.stages() != ["complete", "complete"]:
            assert twice.stages() == ["complete"], outcome.told
        finish(twice, outcome, "DEL")


@pytest.mark.parametrize("then", ["DEL", "GC"])
def test_what_a_killed_del_left_goes_with_what_comes_next(twice: Twice, then: str) -> None:
    for outcome in throughout(lambda fault: deleted(twice, fault), lambda number: Fault(number, KILL), 10):
        finish(twice, outcome, then)


def test_a_del_that_fails_is_finished_by_the_next(twice: Twice) -> None:
    def fault(number: int) -> Fault:
        return Fault(number, ERRORS[number % len(ERRORS)])

    for outcome in throughout(lambda fault: deleted(twice, fault), fault, 20):
        assert outcome.code or twice.stages() == ["complete"], outcome.told
        finish(twice, outcome, "DEL")


# --- at once ----------------------------------------------------------------------------------------


def test_of_many_second_members_that_come_at_once_one_is_made(twice: Twice) -> None:
    assert twice.call("ADD", 0).code == 0

    with ThreadPoolExecutor(8) as threads:
        outcomes = [*threads.map(lambda _: twice.call("ADD", 1), range(8))]

    assert sorted(one.code for one in outcomes) == [0] + [1] * 7
    assert {one.error["code"] for one in outcomes if one.code} == {ALREADY_ATTACHED}
    assert twice.stages() == ["complete", "complete"]
    finish(twice, outcomes[0], "DEL")


def test_adds_dels_and_gc_of_both_take_turns(twice: Twice) -> None:
    calls = [(command, member) for command in ("ADD", "DEL", "GC", "ADD", "DEL") for member in (0, 1)]

    def call(command: str, member: int) -> Injected:
        return twice.collect() if command == "GC" else twice.call(command, member)

    with ThreadPoolExecutor(len(calls)) as threads:
        outcomes = [*threads.map(call, *zip(*calls))]

    for (command, _), one in zip(calls, outcomes):
        assert one.code == 0 or (command == "ADD" and one.error["code"] == ALREADY_ATTACHED), one.told
    finish(twice, outcomes[0], "DEL")

"""What `firewall` writes, in our tables and in those of others, is gone again, whatever step of an ADD or a DEL failed
or was a process's last: also when a command that was run for it is still at work."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces
from tests.faults.injection import ERRORS, Circumstances, Injected, throughout
from tests.faults.seam import KILL, NONE, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.scene import Scene

pytestmark = pytest.mark.needs("iptables-nft", "nft")


class Walled:
    """A pod that is attached where FORWARD drops, and its firewall under faults."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        policies = "iptables-nft -P FORWARD DROP; nft add table inet own; nft add chain inet own passing "
        namespaces.shell(scene.node, policies + "'{ type filter hook forward priority 10; policy drop; }'")
        self._result = scene.network().add(scene.pod)
        addresses = [ip["address"].partition("/")[0] for ip in self._result["ips"]]
        self._marks = [*addresses, self._result["interfaces"][1]["name"]]
        self._before = self._files()

    def call(self, fault: Fault, command: str, **keys: Any) -> Injected:
        network = self.scene.network(Circumstances(fault))
        firewall = network.chained("firewall", self._result, ingressPolicy="isolated", **keys)
        outcome = firewall.call(command, netns=self.scene.pod)
        assert isinstance(outcome, Injected)
        return outcome

    def left(self) -> list[str]:
        """What speaks of the pod: rules and elements of any table, and files."""
        rules = namespaces.shell(self.scene.node, "nft list ruleset 2>/dev/null")
        return [mark for mark in self._marks if mark in rules] + sorted(self._files() - self._before)

    def _files(self) -> set[str]:
        folders = ("attachments/lan", "claims")
        files = [file.name for folder in folders for file in (self.scene.run_dir / folder).glob("*")]
        return {name for name in files if name != ".new"}  # a claim half written: the next one writes over it


@pytest.fixture
def walled(scenes: Callable[..., Scene]) -> Walled:
    return Walled(scenes(has_life=False))


def finish(walled: Walled, outcome: Injected, then: str) -> None:
    if then == "ADD":
        assert walled.call(NONE, "ADD").code in (0, 1), outcome.told  # 1 where it was complete
        assert walled.left()
        assert walled.call(NONE, "CHECK").code == 0, outcome.told
    if then == "GC":
        after = walled.call(NONE, "GC", **{"cni.dev/valid-attachments": []})
    else:
        after = walled.call(NONE, "DEL")
    assert (after.code, after.stdout) == (0, b""), f"{after}, {outcome.told}"
    assert walled.left() == [], outcome.told


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["at", "after"])
def test_an_add_that_fails_leaves_nothing(walled: Walled, after: bool) -> None:
    def fault(number: int) -> Fault:
        return Fault(number, ERRORS[number % len(ERRORS)], after)

    for outcome in throughout(lambda fault: walled.call(fault, "ADD"), fault, 40):
        finish(walled, outcome, "DEL")


@pytest.mark.parametrize("then", ["DEL", *[pytest.param(then, marks=pytest.mark.slow) for then in ("ADD", "GC")]])
def test_what_a_killed_add_made_is_gone_after_what_comes_next(walled: Walled, then: str) -> None:
    for outcome in throughout(lambda fault: walled.call(fault, "ADD"), lambda number: Fault(number, KILL), 25):
        finish(walled, outcome, then)


@pytest.mark.parametrize("then", ["ADD", *[pytest.param(then, marks=pytest.mark.slow) for then in ("DEL", "GC")]])
def test_what_a_killed_del_left_is_gone_after_what_comes_next(walled: Walled, then: str) -> None:
    def attach_and_detach(fault: Fault) -> Injected:
        assert walled.call(NONE, "ADD").code == 0
        return walled.call(fault, "DEL")

    for outcome in throughout(attach_and_detach, lambda number: Fault(number, KILL), 15):
        finish(walled, outcome, then)


def test_a_del_that_fails_is_finished_by_the_next(walled: Walled) -> None:
    def attach_and_detach(fault: Fault) -> Injected:
        assert walled.call(NONE, "ADD").code == 0
        return walled.call(fault, "DEL")

    for outcome in throughout(attach_and_detach, lambda number: Fault(number, errno.ENOBUFS), 30):
        assert outcome.code or walled.left() == [], outcome.told
        finish(walled, outcome, "DEL")

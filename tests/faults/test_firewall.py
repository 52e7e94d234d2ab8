"""What `firewall` writes, in our tables and in those of others, is gone again, whatever step of an ADD or a DEL failed
or was a process's last: also when a command that was run for it is still at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import namespaces
from tests.faults.attachment import Chained
from tests.faults.seam import NONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.injection import Injected
    from tests.faults.scene import Scene

pytestmark = pytest.mark.needs("iptables-nft", "nft")


class Walled(Chained):
    """A pod that is attached where FORWARD drops, and its firewall under faults."""

    def __init__(self, scene: Scene) -> None:
        policies = "iptables-nft -P FORWARD DROP; nft add table inet own; nft add chain inet own passing "
        namespaces.shell(scene.node, policies + "'{ type filter hook forward priority 10; policy drop; }'")
        super().__init__(scene, "firewall", ingressPolicy="isolated")
        addresses = [ip["address"].partition("/")[0] for ip in self.result["ips"]]
        self._marks = [*addresses, self.result["interfaces"][1]["name"]]
        self.before = self.state()
        assert self.before == ([], self.records(), [])

    def state(self) -> object:
        """What speaks of the pod: rules and elements of any table, and files."""
        rules = namespaces.shell(self.scene.node, "nft list ruleset 2>/dev/null")
        claims = [file.name for file in self.scene.run_dir.glob("claims/*")]
        # A claim half written, .new: the next one writes over it.
        return [mark for mark in self._marks if mark in rules], self.records(), sorted({*claims} - {".new"})

    def require_attached(self, outcome: Injected) -> None:
        super().require_attached(outcome)
        assert self.call(NONE, "CHECK").code == 0, outcome.told


@pytest.fixture
def walled(scenes: Callable[..., Scene]) -> Walled:
    return Walled(scenes(has_life=False))


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["at", "after"])
def test_an_add_that_fails_leaves_nothing(walled: Walled, after: bool) -> None:
    for outcome in walled.failing_adds(40, after=after):
        walled.end(outcome)


@pytest.mark.parametrize("then", ["DEL", *[pytest.param(then, marks=pytest.mark.slow) for then in ("ADD", "GC")]])
def test_what_a_killed_add_made_is_gone_after_what_comes_next(walled: Walled, then: str) -> None:
    for outcome in walled.killed_adds(25):
        walled.end(outcome, then)


@pytest.mark.parametrize("then", ["ADD", *[pytest.param(then, marks=pytest.mark.slow) for then in ("DEL", "GC")]])
def test_what_a_killed_del_left_is_gone_after_what_comes_next(walled: Walled, then: str) -> None:
    for outcome in walled.killed_dels(15):
        walled.end(outcome, then)


def test_a_del_that_fails_is_finished_by_the_next(walled: Walled) -> None:
    for outcome in walled.failing_dels(30):
        assert outcome.code or walled.is_as_before(), outcome.told
        walled.end(outcome)

"""A pod's elements, claims and routes are gone again, whichever step of an ADD or a DEL failed, or was the last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces
from tests.faults.attachment import Attachment
from tests.faults.scene import THEIRS
from tests.faults.seam import NONE, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.injection import Injected
    from tests.faults.scene import Scene

pytestmark = pytest.mark.needs("nft")

KINDS: dict[str, dict[str, Any]] = {
    "bridge": {"ipMasq": True, "macspoofchk": True},
    "ptp": {"type": "ptp", "bridge": None, "isDefaultGateway": None, "ipMasq": True},
}


class Masked(Attachment):
    """A node on which a pod was masqueraded once, so that its tables and all that is shared are there."""

    living = (THEIRS[0],)

    def __init__(self, scene: Scene, kind: str) -> None:
        super().__init__(scene, kind)
        for command in ("ADD", "DEL"):
            assert self.call(NONE, command).code == 0
        assert "chain masquerade_" in self._rules()
        assert "elements = {" not in self._rules()
        self.before = self.state()

    def call(self, fault: Fault, command: str, **keys: Any) -> Injected:
        return self.scene.call(fault, command, **KINDS[self.plugin], **keys)

    def state(self) -> object:
        """What is here of the pod: links, addresses, routes, files, and elements of any set."""
        now = [one for one in self.scene.changed() if "/claims/.new: " not in one]  # the next one writes over it
        return "elements = {" in self._rules(), now

    def _rules(self) -> str:
        return namespaces.shell(self.scene.node, "nft list ruleset")


@pytest.fixture(params=KINDS)
def masked(request: pytest.FixtureRequest, scenes: Callable[..., Scene]) -> Masked:
    return Masked(scenes(has_life=False), request.param)


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["at", "after"])
def test_an_add_that_fails_leaves_nothing(masked: Masked, after: bool) -> None:
    for outcome in masked.failing_adds(95, after=after):
        masked.end(outcome)


@pytest.mark.parametrize("then", ["DEL", *[pytest.param(then, marks=pytest.mark.slow) for then in ("ADD", "GC")]])
def test_what_a_killed_add_made_is_gone_after_what_comes_next(masked: Masked, then: str) -> None:
    for outcome in masked.killed_adds(45):
        masked.end(outcome, then)


@pytest.mark.parametrize("then", ["ADD", *[pytest.param(then, marks=pytest.mark.slow) for then in ("DEL", "GC")]])
def test_what_a_killed_del_left_is_gone_after_what_comes_next(masked: Masked, then: str) -> None:
    for outcome in masked.killed_dels(20):
        masked.end(outcome, then)


def test_a_del_that_fails_is_finished_by_the_next(masked: Masked) -> None:
    for outcome in masked.failing_dels(40):
        assert outcome.code or masked.is_as_before(), outcome.told
        masked.end(outcome)

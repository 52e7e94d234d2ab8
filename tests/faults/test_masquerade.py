"""A pod's elements, claims and routes are gone again, whichever step of an ADD or a DEL failed, or was the last."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces
from tests.faults.injection import ERRORS, Injected, throughout
from tests.faults.seam import KILL, NONE, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.scene import Scene

pytestmark = pytest.mark.needs("nft")

KINDS: dict[str, dict[str, Any]] = {
    "bridge": {"ipMasq": True, "macspoofchk": True},
    "ptp": {"type": "ptp", "bridge": None, "isDefaultGateway": None, "ipMasq": True},
}


THEIRS = {"containerID": "reference", "ifname": "eth0"}
"""Who holds what is foreign in the scene."""


class Masked:
    """A node on which a pod was masqueraded once, so that its tables and all that is shared are there."""

    def __init__(self, scene: Scene, kind: str) -> None:
        self._scene = scene
        self._keys = KINDS[kind]
        for command in ("ADD", "DEL"):
            assert self.call(NONE, command).code == 0
        assert "chain masquerade_" in self._rules()
        self._before = set(scene.changed())

    def call(self, fault: Fault, command: str, **keys: Any) -> Injected:
        return self._scene.call(fault, command, **self._keys, **keys)

    def left(self) -> list[str]:
        """What is here of the pod: links, addresses, routes, files, and elements of any set."""
        elements = ["elements"] if "elements = {" in self._rules() else []
        now = {one for one in self._scene.changed() if "/claims/.new: " not in one}  # the next one writes over it
        return elements + sorted(now ^ self._before)

    def _rules(self) -> str:
        return namespaces.shell(self._scene.node, "nft list ruleset")


@pytest.fixture(params=KINDS)
def masked(request: pytest.FixtureRequest, scenes: Callable[..., Scene]) -> Masked:
    return Masked(scenes(has_life=False), request.param)


def finish(masked: Masked, outcome: Injected, then: str) -> None:
    if then == "GC":
        after = masked.call(
            NONE, "GC", **{"cni.dev/valid-attachments": [{"containerID": "reference", "ifname": "eth0"}]}
        )
    else:
        if then == "ADD":
            assert masked.call(NONE, "ADD").code in (0, 1), outcome.told  # 1 where it was complete
            assert masked.left()
        after = masked.call(NONE, "DEL")
    assert (after.code, after.stdout) == (0, b""), f"{after}, {outcome.told}"
    assert masked.left() == [], outcome.told


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["at", "after"])
def test_an_add_that_fails_leaves_nothing(masked: Masked, after: bool) -> None:
    def fault(number: int) -> Fault:
        return Fault(number, ERRORS[number % len(ERRORS)], after)

    for outcome in throughout(lambda fault: masked.call(fault, "ADD"), fault, 95):
        finish(masked, outcome, "DEL")


@pytest.mark.parametrize("then", ["DEL", *[pytest.param(then, marks=pytest.mark.slow) for then in ("ADD", "GC")]])
def test_what_a_killed_add_made_is_gone_after_what_comes_next(masked: Masked, then: str) -> None:
    for outcome in throughout(lambda fault: masked.call(fault, "ADD"), lambda number: Fault(number, KILL), 45):
        finish(masked, outcome, then)


@pytest.mark.parametrize("then", ["ADD", *[pytest.param(then, marks=pytest.mark.slow) for then in ("DEL", "GC")]])
def test_what_a_killed_del_left_is_gone_after_what_comes_next(masked: Masked, then: str) -> None:
    def attach_and_detach(fault: Fault) -> Injected:
        assert masked.call(NONE, "ADD").code == 0
        return masked.call(fault, "DEL")

    for outcome in throughout(attach_and_detach, lambda number: Fault(number, KILL), 20):
        finish(masked, outcome, then)


def test_a_del_that_fails_is_finished_by_the_next(masked: Masked) -> None:
    def attach_and_detach(fault: Fault) -> Injected:
        assert masked.call(NONE, "ADD").code == 0
        return masked.call(fault, "DEL")

    for outcome in throughout(attach_and_detach, lambda number: Fault(number, errno.ENOBUFS), 40):
        assert outcome.code or masked.left() == [], outcome.told
        finish(masked, outcome, "DEL")

"""A host port is mapped or it isn't, whatever step of the ADD or the DEL failed or was a process's last; and another's
stays as it is."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces
from tests.faults.injection import ERRORS, Circumstances, Injected, throughout
from tests.faults.seam import KILL, NONE, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.scene import Scene

MAPPINGS = [
    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
    {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "10.1.0.1"},
]
OF_ALIVE = [{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]


class Mapped:
    """A pod that is attached, beside one that has a host port; and its own, under faults."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        network = scene.network()
        self._result = network.add(scene.pod)
        network.chained("portmap", self._result, **_told(OF_ALIVE)).add(scene.pod, "alive")
        namespaces.shell(scene.node, "nft add rule inet podwire hostports_postrouting ct state new counter")  # tracks
        self._before = self._state()

    def call(self, fault: Fault, command: str, **keys: Any) -> Injected:
        network = self.scene.network(Circumstances(fault))
        outcome = network.chained("portmap", self._result, **_told(MAPPINGS), **keys).call(
            command, netns=self.scene.pod
        )
        assert isinstance(outcome, Injected)
        return outcome

    def is_as_before(self) -> bool:
        return self._state() == self._before

    def is_complete(self) -> bool:
        """Whether all was done, so that what failed was to tell of it."""
        records = self.scene.run_dir.glob("attachments/lan/a@eth0@portmap.json")
        return [json.loads(file.read_text())["stage"] for file in records] == ["complete"]

    def _state(self) -> object:
        elements = namespaces.shell(self.scene.node, "nft -j list table inet podwire")
        # Counters count.
        rules = [one for one in json.loads(elements)["nftables"] if "map" in one or "set" in one]
        claims = {file.name: file.read_text() for file in self.scene.run_dir.glob("claims/*") if file.name != ".new"}
        records = sorted(file.name for file in self.scene.run_dir.glob("attachments/lan/*"))
        return rules, claims, records


def _told(mappings: list[dict[str, Any]]) -> dict[str, Any]:
    return {"runtimeConfig": {"portMappings": mappings}}


@pytest.fixture
def mapped(scenes: Callable[..., Scene]) -> Mapped:
    return Mapped(scenes(has_life=False))


def finish(mapped: Mapped, outcome: Injected, then: str) -> None:
    if then == "ADD":
        assert mapped.call(NONE, "ADD").code in (0, 1), outcome.told  # 1 where it was complete
        assert not mapped.is_as_before()
    if then == "GC":
        alive = [{"containerID": "alive", "ifname": "eth0"}]
        after = mapped.call(NONE, "GC", **{"cni.dev/valid-attachments": alive})
    else:
        after = mapped.call(NONE, "DEL")
    assert (after.code, after.stdout) == (0, b""), f"{after}, {outcome.told}"
    assert mapped.is_as_before(), outcome.told


@pytest.mark.parametrize("after", [False, True], ids=["at", "after"])
def test_an_add_that_fails_leaves_no_port_behind(mapped: Mapped, after: bool) -> None:
    def fault(number: int) -> Fault:
        return Fault(number, ERRORS[number % len(ERRORS)], after)

    for outcome in throughout(lambda fault: mapped.call(fault, "ADD"), fault, 20):
        # That a file has its new name while the kernel says otherwise, nothing foresees; nor that a thread is lost.
        if outcome.code and outcome.step not in ("create", "rename", "setns") and not mapped.is_complete():
            assert mapped.is_as_before(), outcome.told
        finish(mapped, outcome, "DEL")


@pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])
def test_the_ports_of_a_killed_add_are_free_with_what_comes_next(mapped: Mapped, then: str) -> None:
    for outcome in throughout(lambda fault: mapped.call(fault, "ADD"), lambda number: Fault(number, KILL), 15):
        finish(mapped, outcome, then)


@pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])
def test_the_ports_of_a_killed_del_are_free_with_what_comes_next(mapped: Mapped, then: str) -> None:
    def attach_and_detach(fault: Fault) -> Injected:
        assert mapped.call(NONE, "ADD").code == 0
        return mapped.call(fault, "DEL")

    for outcome in throughout(attach_and_detach, lambda number: Fault(number, KILL), 10):
        finish(mapped, outcome, then)


def test_a_del_that_the_kernel_puts_off_is_finished_by_the_next(mapped: Mapped) -> None:
    def attach_and_detach(fault: Fault) -> Injected:
        assert mapped.call(NONE, "ADD").code == 0
        return mapped.call(fault, "DEL")

    for outcome in throughout(attach_and_detach, lambda number: Fault(number, errno.ENOBUFS), 20):
        assert outcome.code or mapped.is_as_before(), outcome.told
        finish(mapped, outcome, "DEL")

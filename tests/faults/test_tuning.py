"""What tuning changes in a pod is how it was again, whatever step of the ADD or the DEL failed or was a process's last.

How it was is in the record before it is changed; what others did to the pod is not touched.
"""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces, oracle
from tests.faults.injection import ERRORS, Circumstances, Injected, throughout
from tests.faults.seam import KILL, NONE, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.scene import Scene

SETTINGS = ("net/core/somaxconn", "net/ipv4/ip_local_reserved_ports", "net/ipv4/conf/eth0/arp_filter")
KEYS: dict[str, Any] = {
    "sysctl": dict(zip(("net/core/somaxconn", "net/ipv4/ip_local_reserved_ports"), ("77", "8080")))
    | {"net.ipv4.conf.IFNAME.arp_filter": "1"},
    "mac": "02:00:00:00:00:99",
    "mtu": 9000,
    "promisc": True,
    "txQLen": 77,
}


class Tuned:
    """A pod that is attached, and its tuning under faults."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._result = scene.network().add(scene.pod)
        self._before = self._state()

    def call(self, fault: Fault, command: str, **keys: Any) -> Injected:
        network = self.scene.network(Circumstances(fault))
        tuning = network.chained("tuning", self._result, **KEYS, **keys)
        outcome = tuning.call(command, netns=self.scene.pod)
        assert isinstance(outcome, Injected)
        return outcome

    def is_as_before(self) -> bool:
        return self._state() == self._before

    def is_complete(self) -> bool:
        """Whether all was done, so that what failed was to tell of it."""
        records = self.scene.run_dir.glob("attachments/lan/a@eth0@tuning.json")
        return [json.loads(file.read_text())["stage"] for file in records] == ["complete"]

    def _state(self) -> object:
        paths = " ".join(f"/proc/sys/{path}" for path in SETTINGS)
        read = namespaces.shell(self.scene.pod, f"cat {paths}")
        ends = [oracle.link(self.scene.pod, "eth0"), *oracle.links(self.scene.node)]
        records = sorted(file.name for file in self.scene.run_dir.glob("attachments/lan/*"))
        return read, [replace(end, raw=None) for end in ends], records


@pytest.fixture
def tuned(scenes: Callable[..., Scene]) -> Tuned:
    return Tuned(scenes(has_life=False))


def finish(tuned: Tuned, outcome: Injected, then: str) -> None:
    if then == "ADD":
        assert tuned.call(NONE, "ADD").code in (0, 1), outcome.told  # 1 where it was complete
        assert not tuned.is_as_before()
    if then == "GC":
        after = tuned.call(NONE, "GC", **{"cni.dev/valid-attachments": []})
    else:
        after = tuned.call(NONE, "DEL")
    assert (after.code, after.stdout) == (0, b""), f"{after}, {outcome.told}"
    assert tuned.is_as_before(), outcome.told


@pytest.mark.parametrize("after", [False, True], ids=["at", "after"])
def test_an_add_that_fails_puts_back_what_it_changed(tuned: Tuned, after: bool) -> None:
    def fault(number: int) -> Fault:
        return Fault(number, ERRORS[number % len(ERRORS)], after)

    for outcome in throughout(lambda fault: tuned.call(fault, "ADD"), fault, 20):
        # That a file has its new name while the kernel says otherwise, nothing foresees; nor that a thread is lost.
        if outcome.code and outcome.step not in ("create", "rename", "setns") and not tuned.is_complete():
            assert tuned.is_as_before(), outcome.told
        finish(tuned, outcome, "DEL")


@pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])
def test_what_a_killed_add_changed_is_put_back_by_what_comes_next(tuned: Tuned, then: str) -> None:
    for outcome in throughout(lambda fault: tuned.call(fault, "ADD"), lambda number: Fault(number, KILL), 15):
        finish(tuned, outcome, then)


@pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])
def test_what_a_killed_del_left_is_put_back_by_what_comes_next(tuned: Tuned, then: str) -> None:
    def attach_and_detach(fault: Fault) -> Injected:
        assert tuned.call(NONE, "ADD").code == 0
        return tuned.call(fault, "DEL")

    for outcome in throughout(attach_and_detach, lambda number: Fault(number, KILL), 10):
        finish(tuned, outcome, then)


def test_a_del_that_the_kernel_puts_off_is_finished_by_the_next(tuned: Tuned) -> None:
    def attach_and_detach(fault: Fault) -> Injected:
        assert tuned.call(NONE, "ADD").code == 0
        return tuned.call(fault, "DEL")

    for outcome in throughout(attach_and_detach, lambda number: Fault(number, errno.ENOBUFS), 30):
        assert outcome.code or tuned.is_as_before(), outcome.told
        finish(tuned, outcome, "DEL")

"""What tuning changes in a pod is how it was again, whatever step of the ADD or the DEL failed or was a process's last.

How it was is in the record before it is changed; what others did to the pod is not touched.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces, oracle
from tests.faults.attachment import Chained

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


class Tuned(Chained):
    """A pod that is attached, and its tuning under faults."""

    unforeseen = (*Chained.unforeseen, "setns")  # nor is a thread that is lost in the pod

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene, "tuning", **KEYS)
        self.before = self.state()

    def state(self) -> object:
        paths = " ".join(f"/proc/sys/{path}" for path in SETTINGS)
        read = namespaces.shell(self.scene.pod, f"cat {paths}")
        ends = [oracle.link(self.scene.pod, "eth0"), *oracle.links(self.scene.node)]
        return read, [replace(end, raw=None) for end in ends], self.records()


@pytest.fixture
def tuned(scenes: Callable[..., Scene]) -> Tuned:
    return Tuned(scenes(has_life=False))


@pytest.mark.parametrize("after", [False, True], ids=["at", "after"])
def test_an_add_that_fails_puts_back_what_it_changed(tuned: Tuned, after: bool) -> None:
    for outcome in tuned.failing_adds(20, after=after):
        tuned.require_undone(outcome)
        tuned.end(outcome)


@pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])
def test_what_a_killed_add_changed_is_put_back_by_what_comes_next(tuned: Tuned, then: str) -> None:
    for outcome in tuned.killed_adds(15):
        tuned.end(outcome, then)


@pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])
def test_what_a_killed_del_left_is_put_back_by_what_comes_next(tuned: Tuned, then: str) -> None:
    for outcome in tuned.killed_dels(10):
        tuned.end(outcome, then)


def test_a_del_that_the_kernel_puts_off_is_finished_by_the_next(tuned: Tuned) -> None:
    for outcome in tuned.failing_dels(30):
        assert outcome.code or tuned.is_as_before(), outcome.told
        tuned.end(outcome)

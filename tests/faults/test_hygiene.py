"""Who serves many calls in one process has after them what it had before: no descriptor, no child, no thread more."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tests import leaks, oracle

if TYPE_CHECKING:
    from tests.verbs.networks import Network

ROUNDS = 200


def held() -> tuple[list[str], int]:
    """What this process has open, by what it is, and how many threads it has."""
    fds = [os.readlink(f"/proc/self/fd/{fd}").partition(":")[0] for fd in os.listdir("/proc/self/fd") if exists(fd)]
    return sorted(fds), threading.active_count()


def exists(fd: str) -> bool:
    """Not so the one that lists them."""
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_two_hundred_pods_come_and_go_without_a_trace_in_the_process(lan: Network, netns: Path) -> None:
    lan.add(netns)
    lan.delete()
    before, children = held(), leaks.children()

    for _ in range(ROUNDS):
        lan.add(netns)
        lan.delete()

    assert held() == before
    assert leaks.children().keys() <= children.keys()
    assert (lan.records, lan.reserved) == ({}, {})
    assert [link.name for link in oracle.links(lan.node)] == ["br0"]


def test_two_hundred_calls_that_fail_leave_no_trace_in_the_process(lan: Network, netns: Path) -> None:
    """Each at another place: before anything is opened, in the pod, on the bridge, at the addresses."""
    result = lan.add(netns)
    one = {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.2", "rangeEnd": "10.1.0.2"}
    failing = [
        (lan, "ADD", "a", netns),  # attached already
        (lan, "ADD", "b", netns),  # the pod has such an interface
        (lan, "ADD", "b", Path("/proc/self/ns/uts")),  # no network namespace
        (lan.but(bridge="lo"), "ADD", "b", netns),  # no bridge
        (lan.but(ipam={"ranges": [[one]]}), "ADD", "b", netns),  # no address left
        (lan.but(prevResult={**result, "interfaces": []}), "CHECK", "a", netns),
        (lan.but(ipam={"type": "none-such"}), "ADD", "b", netns),
    ]
    codes = [network.call(command, pod, path).error["code"] for network, command, pod, path in failing]
    before, children = held(), leaks.children()

    for _ in range(ROUNDS // len(failing)):
        for network, command, pod, path in failing:
            assert network.call(command, pod, path).code == 1

    assert codes == [102, 104, 4, 104, 101, 103, 105]
    assert held() == before
    assert leaks.children().keys() <= children.keys()
    lan.delete()

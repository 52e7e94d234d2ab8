"""A host port is mapped or it isn't, whatever step of the ADD or the DEL failed or was a process's last; and another's
stays as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespaces
from tests.faults.attachment import Chained
from tests.faults.scene import ALIVE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.scene import Scene

MAPPINGS = [
    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
    {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "10.1.0.1"},
]
OF_ALIVE = [{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]


class Mapped(Chained):
    """A pod that is attached, beside one that has a host port; and its own, under faults."""

    living = (ALIVE,)
    unforeseen = (*Chained.unforeseen, "setns")  # nor is a thread that is lost in the pod

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene, "portmap", **_told(MAPPINGS))
        scene.network().chained("portmap", self.result, **_told(OF_ALIVE)).add(scene.pod, ALIVE)
        namespaces.shell(scene.node, "nft add rule inet podwire hostports_postrouting ct state new counter")  # tracks
        self.before = self.state()

    def state(self) -> object:
        elements = namespaces.shell(self.scene.node, "nft -j list table inet podwire")
        # Counters count.
        rules = [one for one in json.loads(elements)["nftables"] if "map" in one or "set" in one]
        claims = {file.name: file.read_text() for file in self.scene.run_dir.glob("claims/*") if file.name != ".new"}
        return rules, claims, self.records()


def _told(mappings: list[dict[str, Any]]) -> dict[str, Any]:
    return {"runtimeConfig": {"portMappings": mappings}}


@pytest.fixture
def mapped(scenes: Callable[..., Scene]) -> Mapped:
    return Mapped(scenes(has_life=False))


@pytest.mark.parametrize("after", [False, True], ids=["at", "after"])
def test_an_add_that_fails_leaves_no_port_behind(mapped: Mapped, after: bool) -> None:
    for outcome in mapped.failing_adds(20, after=after):
        mapped.require_undone(outcome)
        mapped.end(outcome)


@pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])
def test_the_ports_of_a_killed_add_are_free_with_what_comes_next(mapped: Mapped, then: str) -> None:
    for outcome in mapped.killed_adds(15):
        mapped.end(outcome, then)


@pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])
def test_the_ports_of_a_killed_del_are_free_with_what_comes_next(mapped: Mapped, then: str) -> None:
    for outcome in mapped.killed_dels(10):
        mapped.end(outcome, then)


def test_a_del_that_the_kernel_puts_off_is_finished_by_the_next(mapped: Mapped) -> None:
    for outcome in mapped.failing_dels(20):
        assert outcome.code or mapped.is_as_before(), outcome.told
        mapped.end(outcome)

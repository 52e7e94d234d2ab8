"""Ours and the reference's in turns, so that whatever else the machine does meets both.

Per round each side does the same once; who begins alternates. One round of each kind is thrown away
first: it makes the bridge and fills the page cache, which happens once in a node's life.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.node import Churn, Remote, Round, Setup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    """One pod at a time."""
    batches: int
    """Many pods at once."""
    pods: int
    """How many that is."""
    churn_s: float
    """Per side and number of lanes."""
    lanes: tuple[int, ...] = (1, 4)
    standing: int = 100
    """Pods that stay on the node, where that is the question. (A kubelet's default limit is 110.)"""
    frugal_rounds: int = 5
    """For peak memory, which hardly varies."""


FULL = Plan(rounds=200, batches=20, pods=20, churn_s=5.0)
QUICK = Plan(rounds=8, batches=2, pods=20, churn_s=0.5, standing=10)


@dataclass(frozen=True, slots=True)
class Side:
    """All samples of one implementation."""

    single: list[Round]
    batch: list[Round]
    frugal: list[Round]
    churn: dict[int, Churn]
    """By the number of lanes."""


def compare(
    ours: Path, theirs: Path, subnets: Sequence[str], plan: Plan, progress: Callable[[str], None], standing: int = 0
) -> tuple[Side, Side]:
    """Bridge + host-local of both plugin directories, in that order; `standing` pods stay on each node all the time."""
    pods = max((plan.pods, *plan.lanes))
    sides = Side([], [], [], {}), Side([], [], [], {})
    ours_on, theirs_on = (Remote(Setup.bridge(plugins, subnets), pods) for plugins in (ours, theirs))
    with ours_on as our_node, theirs_on as their_node:
        both = (our_node, sides[0]), (their_node, sides[1])

        def turns(count: int) -> Iterator[tuple[Remote, Side]]:
            for n in range(count):
                yield from both if n % 2 else reversed(both)

        for node, _ in both:
            node.warm_up(plan.pods)
            node.populate(standing)
        progress(f"{plan.rounds} rounds of one pod")
        for node, side in turns(plan.rounds):
            side.single.append(node.round(1))
        if plan.batches:
            progress(f"{plan.batches} rounds of {plan.pods} pods at once")
        for node, side in turns(plan.batches):
            side.batch.append(node.round(plan.pods))
        for node, side in turns(plan.frugal_rounds):
            side.frugal.append(node.round(1, frugal=True))
        for lanes in plan.lanes:
            progress(f"{plan.churn_s:g} s of churn in {lanes} lane{'s' * (lanes > 1)}")
            for node, side in turns(1):
                side.churn[lanes] = node.churn(plan.churn_s, lanes)
    return sides

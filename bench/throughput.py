"""What a pod network carries from pod to pod on one node: the routed bridge beside a switched one, by iperf3.

`podwire` leads every packet through the node's IP layer, so that its firewall sees them all; `bridge` passes frames
on. Where bridged frames pass the firewall too (br_netfilter), a bridge that masquerades has them tracked, as `podwire`
has; so there are two of them. Each has a node with two pods; one TCP connection, in turns, medians.
"""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import report
from bench.node import Remote, Setup, conflist, host_local

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SUBNETS = ("10.244.0.0/16",)
SWITCHED, MASQUERADING, ROUTED = "switched", "switched, masquerading", "routed"
TARGET = 0.95
"""The routed bridge is to carry at least so much of what the switched one does."""


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    seconds: int
    """Of each side in each round."""


FULL = Plan(rounds=9, seconds=2)
QUICK = Plan(rounds=1, seconds=1)


@dataclass(frozen=True, slots=True)
class Throughput:
    """Medians, and the extremes of all rounds."""

    gbit_per_s: Mapping[str, tuple[float, ...]]
    """By side, in the order of the rounds."""

    def median(self, side: str) -> float:
        return statistics.median(self.gbit_per_s[side])

    def ratio(self, side: str) -> float:
        """The routed bridge in times of another."""
        return self.median(ROUTED) / self.median(side)


def measure(plugins: Path, plan: Plan, progress: Callable[[str], None]) -> Throughput:
    progress(f"{plan.rounds} rounds of {plan.seconds} s of traffic from pod to pod")
    ipam = {key: value for key, value in host_local(SUBNETS).items() if key != "routes"}
    routed = Setup(str(plugins), conflist({"type": "podwire", "ipam": ipam}))
    switched = Setup.bridge(plugins, SUBNETS)
    (bridge,) = switched.conflist["plugins"]
    masquerading = Setup(str(plugins), conflist({**bridge, "ipMasq": True}))
    sides = {SWITCHED: switched, MASQUERADING: masquerading, ROUTED: routed}
    found: dict[str, list[float]] = {side: [] for side in sides}
    with contextlib.ExitStack() as stack:
        nodes = {side: stack.enter_context(Remote(setup, 0)) for side, setup in sides.items()}
        for node in nodes.values():
            node.populate(2)
            node.traffic(plan.seconds)  # to warm up
        for n in range(plan.rounds):
            for side in list(nodes)[n % len(nodes) :] + list(nodes)[: n % len(nodes)]:
                found[side].append(nodes[side].traffic(plan.seconds) / 1e9)
    return Throughput({side: tuple(samples) for side, samples in found.items()})


def table(found: Throughput) -> report.Table:
    rows = [
        (
            f"{side} (Gbit/s)",
            report.number(found.median(side)),
            report.number(min(samples)),
            report.number(max(samples)),
        )
        for side, samples in found.gbit_per_s.items()
    ]
    rounds = len(found.gbit_per_s[ROUTED])
    note = (
        f"One TCP connection, {rounds} rounds in turns, br_netfilter as the kernel has it. Routed / switched:"
        f" {found.ratio(SWITCHED):.2f} (≥ {TARGET:g} {'met' if _met(found) else 'MISSED'}); beside the one that"
        f" masquerades, as podwire does: {found.ratio(MASQUERADING):.2f}."
    )
    title = "From pod to pod on one node: the routed bridge (podwire) and a switched one (bridge)"
    return report.Table(title, ("", "median", "least", "most"), tuple(rows), note)


def as_json(found: Throughput) -> dict[str, object]:
    return {
        "gbit_per_s": {side: list(samples) for side, samples in found.gbit_per_s.items()},
        "ratios": {side: found.ratio(side) for side in (SWITCHED, MASQUERADING)},
        "target": TARGET,
        "met": _met(found),
    }


def _met(found: Throughput) -> bool:
    return found.ratio(SWITCHED) >= TARGET

"""From samples to figures, and from figures to tables: pure.

One row is one figure of both sides, their ratio, and the target where we set ourselves one.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.compare import Side
    from bench.node import Round


@dataclass(frozen=True, slots=True)
class Figure:
    """The same figure of both sides."""

    what: str
    unit: str
    ours: float
    theirs: float
    target: float | None = None
    """The largest ratio that we are content with."""

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.ratio <= self.target


@dataclass(frozen=True, slots=True)
class Group:
    """Figures of one situation."""

    title: str
    figures: tuple[Figure, ...]


def as_json(group: Group) -> dict[str, object]:
    return {
        "title": group.title,
        "figures": [{**asdict(figure), "ratio": figure.ratio, "met": figure.met} for figure in group.figures],
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank: always a value that was measured. (Of few values p99 is the largest.)"""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def latency(
    title: str,
    ours: Sequence[Round],
    theirs: Sequence[Round],
    targets: tuple[float | None, float | None] = (None, None),
) -> Group:
    """How long ADD and DEL took; `targets` are those of their medians."""

    def row(what: str, percent: int, of: Callable[[Round], int], target: float | None = None) -> Figure:
        a, b = (percentile([of(one) / 1e6 for one in rounds], percent) for rounds in (ours, theirs))
        return Figure(f"{what} p{percent}", "ms", a, b, target)

    add, delete = targets
    return Group(
        title,
        (
            row("ADD", 50, lambda r: r.add.answered_ns, add),
            row("ADD", 99, lambda r: r.add.answered_ns),
            row("DEL answered", 50, lambda r: r.delete.answered_ns, delete),
            row("DEL answered", 99, lambda r: r.delete.answered_ns),
            row("DEL settled", 50, lambda r: r.delete.settled_ns),
            row("DEL settled", 99, lambda r: r.delete.settled_ns),
        ),
    )


def churn(ours: Side, theirs: Side) -> Group:
    def row(lanes: int) -> Figure:
        a, b = (side.churn[lanes].pods / side.churn[lanes].elapsed_ns * 1e9 for side in (ours, theirs))
        return Figure(f"{lanes} lane{'s' * (lanes > 1)}", "pods/s", a, b)

    return Group("Sustained ADD and DEL (more is better)", tuple(row(lanes) for lanes in ours.churn))


def cost(ours: Side, theirs: Side) -> Group:
    def row(what: str, unit: str, rounds: Callable[[Side], list[Round]], of: Callable[[Round], float]) -> Figure:
        a, b = (statistics.median(of(one) for one in rounds(side)) for side in (ours, theirs))
        return Figure(what, unit, a, b)

    return Group(
        "What one call costs (medians)",
        (
            row("ADD processor time", "ms", lambda side: side.single, lambda r: r.add.cpu_ns / 1e6),
            row("DEL processor time", "ms", lambda side: side.single, lambda r: r.delete.cpu_ns / 1e6),
            row("ADD peak memory", "MB", lambda side: side.frugal, lambda r: r.add.peak_rss_kib / 1024),
            row("DEL peak memory", "MB", lambda side: side.frugal, lambda r: r.delete.peak_rss_kib / 1024),
        ),
    )

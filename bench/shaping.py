"""How near to its limit a pod's traffic comes, where limits are high: bandwidth's, ours and the reference's, by iperf3.

Up to 100 Mbit/s that is a promise and has tests. Above, it depends on what the machine can do beside the shaping, so it
is reported: of each rate and direction what one TCP connection got, once the burst is spent. Only one direction of
one pod is limited at a time, so that no limit hides another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import report
from bench.node import BRIDGE, Remote, Setup, conflist, host_local

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MBIT = 1_000_000
DIRECTIONS = ("ingress", "egress")


@dataclass(frozen=True, slots=True)
class Plan:
    rates_bits_per_s: tuple[int, ...]
    seconds: int
    """After the first one, in which the burst is spent and TCP finds its pace."""


FULL = Plan((200 * MBIT, 500 * MBIT, 1000 * MBIT), 2)
QUICK = Plan((200 * MBIT,), 1)


@dataclass(frozen=True, slots=True)
class Shaped:
    """What came through one limit."""

    rate_bits_per_s: int
    direction: str
    share: Mapping[str, float]
    """Of the rate, by side."""


def measure(sides: Mapping[str, Path], plan: Plan, progress: Callable[[str], None]) -> list[Shaped]:
    found = []
    for rate in plan.rates_bits_per_s:
        progress(f"a limit of {rate // MBIT} Mbit/s")
        for direction in DIRECTIONS:
            share = {
                side: _bits_per_s(plugins, rate, direction, plan.seconds) / rate for side, plugins in sides.items()
            }
            found.append(Shaped(rate, direction, share))
    return found


def _bits_per_s(plugins: Path, rate: int, direction: str, seconds: int) -> float:
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipam": host_local(("10.244.0.0/16",))}
    limits = {f"{direction}Rate": rate, f"{direction}Burst": rate // 10}
    with Remote(Setup(str(plugins), conflist(bridge, {"type": "bandwidth", **limits})), 0) as node:
        node.populate(2)
        return node.traffic(seconds, omit=1)


def table(found: Sequence[Shaped]) -> report.Table:
    sides = tuple(found[0].share)
    rows = [
        (
            f"{one.rate_bits_per_s // MBIT} Mbit/s, {one.direction}",
            *(f"{one.share[side]:.3f}" for side in sides),
        )
        for one in found
    ]
    note = (
        "What one TCP connection carried once the burst, a tenth of a second's, was spent. Its headers are not counted:"
        " of packets of 1,514 bytes 1,448 are left, 0.956."
    )
    return report.Table(
        "Limits above 100 Mbit/s: what came through, in times of the limit", ("", *sides), tuple(rows), note
    )


def as_json(found: Sequence[Shaped]) -> list[dict[str, object]]:
    return [
        {"rate_bits_per_s": one.rate_bits_per_s, "direction": one.direction, "share": dict(one.share)} for one in found
    ]

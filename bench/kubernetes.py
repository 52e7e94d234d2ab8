"""`python -m bench.kubernetes`: a Kubernetes node's pod network, by the reference's chain, by ours, and by `podwire`.

What a pod gets is the same on all sides: a bridge that masquerades, an address by host-local, a host port, limits on
both directions of its traffic. One driver runs them all as libcni does, an exec per plugin:

    reference  bridge, portmap and bandwidth, and host-local behind bridge, in Go
    drop-in    the same configuration with our executables in their places
    podwire    one plugin that does it all

Each side has a node of its own, and they take turns. Then the nodes get more and more pods that stay, and the sides
take turns again: that shows what grows. Beside it stand what the routed bridge costs the pods' packets
(`bench.throughput`), and how exact limits are (`bench.shaping`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine, report, shaping, throughput
from bench.launch import Failed
from bench.node import BRIDGE, Remote, Round, Setup, conflist, host_local
from cni.cli import throwaway

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT = Path(__file__).resolve().parent.parent
SUBNETS = ("10.244.0.0/16",)
SIDES = ("reference", "drop-in", "podwire")

_ASKS_FOR_PORTS = {"capabilities": {"portMappings": True}}
_ASKS_FOR_LIMITS = {"capabilities": {"bandwidth": True}}
CHAIN = (
    {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": True, "hairpinMode": True,
     "ipam": host_local(SUBNETS)},
    {"type": "portmap", **_ASKS_FOR_PORTS},
    {"type": "bandwidth", **_ASKS_FOR_LIMITS},
)  # fmt: skip
PODWIRE = {
    "type": "podwire",
    "capabilities": {"portMappings": True, "bandwidth": True},
    "ipam": {key: value for key, value in host_local(SUBNETS).items() if key != "routes"},
}

TARGETS = {"ADD": 0.25, "DEL answered": 0.08}
TARGETS_AT_ONCE = {"ADD": 0.18, "DEL answered": 0.09}
"""One `podwire` may take so much of the reference's time, on a node without other pods."""


@dataclass(frozen=True, slots=True)
class Stage:
    """So many pods are there and stay; what is measured beside them."""

    standing: int
    rounds: int
    """One pod at a time."""
    batches: int
    """Many at once."""


@dataclass(frozen=True, slots=True)
class Plan:
    stages: tuple[Stage, ...]
    pods: int
    """How many "many at once" are."""
    traffic: throughput.Plan
    shaping: shaping.Plan


# The reference takes a second for a pod and half a minute for 20 at once where 1,000 are there already.
FULL = Plan((Stage(0, 60, 7), Stage(250, 20, 2), Stage(1000, 8, 1)), 20, throughput.FULL, shaping.FULL)
QUICK = Plan((Stage(0, 3, 1), Stage(10, 2, 1)), 3, throughput.QUICK, shaping.QUICK)


@dataclass(frozen=True, slots=True)
class Rounds:
    """All samples of one side at one stage."""

    single: list[Round] = field(default_factory=list)
    batch: list[Round] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of every side."""

    what: str
    ms: Mapping[str, float]
    """By side."""
    target: float | None
    """The largest ratio of `podwire` to the reference that we are content with."""

    def ratio(self, side: str) -> float | None:
        theirs, ours = self.ms.get("reference"), self.ms.get(side)
        return ours / theirs if ours and theirs else None


Measured = Mapping[int, Mapping[str, Rounds]]
"""By the number of pods that were there, and by side."""


def setups(ours: Path, theirs: Path) -> dict[str, Setup]:
    return {
        "reference": Setup(str(theirs), conflist(*CHAIN), rules_at_once=True),
        "drop-in": Setup(str(ours), conflist(*CHAIN)),
        "podwire": Setup(str(ours), conflist(PODWIRE)),
    }


def absent(setup: Setup) -> str:
    """The first executable that a side would need and that isn't there; "" when all are."""
    wanted = [member["type"] for member in setup.conflist["plugins"]] + ["host-local"]
    return next((name for name in wanted if not Path(setup.plugins, name).exists()), "")


def main(argv: Sequence[str]) -> int:
    asked = _parser().parse_args(argv)
    plan = _plan(asked)
    facts = [*machine.facts(), *_tools()]
    sides = {side: setup for side, setup in setups(asked.ours, asked.theirs).items() if side in asked.sides}
    left_out = {side: missing for side, setup in sides.items() if (missing := absent(setup))}
    for side, missing in left_out.items():
        facts.append((f"Without {side}", f"there is no {missing}"))
        del sides[side]
    try:
        # First, while the kernel has no thousand namespaces to take apart in the background.
        traffic = throughput.measure(asked.ours, plan.traffic, _progress) if "podwire" in sides else None
        by = {side: Path(setup.plugins) for side, setup in sides.items() if side != "podwire"}
        shaped = shaping.measure(by, plan.shaping, _progress) if by else []
        measured = measure(sides, plan, _progress)
    except (throwaway.Unavailable, Failed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    rows = {standing: rows_of(rounds, plan.pods, standing) for standing, rounds in measured.items()}
    tables = [_table(standing, rows[standing]) for standing in rows]
    tables += [_growth(measured)] if len(measured) > 1 else []
    tables += [throughput.table(traffic)] if traffic else []
    tables += [shaping.table(shaped)] if shaped else []
    print(report.terminal(facts, tables))
    found = {
        "machine": dict(facts),
        "plan": asdict(plan),
        "figures": {standing: [_as_json(row) for row in of_stage] for standing, of_stage in rows.items()},
        "throughput": throughput.as_json(traffic) if traffic else None,
        "shaping": shaping.as_json(shaped),
    }
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")
    if asked.write:
        (CHECKOUT / "docs/bench-kubernetes.md").write_text(report.markdown(facts, tables, *_INTRODUCTION))
        _progress("written to docs/bench-kubernetes.md")
    return 0


_INTRODUCTION = (
    "How fast a Kubernetes pod gets its network",
    "Written by `make bench-kubernetes ARGS=--write`. What a pod gets: a bridge that masquerades, an address by\n"
    "host-local, one host port, limits on both directions. By whom: the reference's chain, the same chain with our\n"
    "executables, one `podwire`; an exec per plugin, in turns in one run. Figures move from machine to machine; the\n"
    "ratios are what to look at.",
)


# --- measuring ----------------------------------------------------------------------------------------


def measure(sides: Mapping[str, Setup], plan: Plan, progress: Callable[[str], None]) -> Measured:
    found: dict[int, dict[str, Rounds]] = {}
    with contextlib.ExitStack() as stack:
        nodes = {side: stack.enter_context(Remote(setup, plan.pods)) for side, setup in sides.items()}
        for node in nodes.values():
            node.warm_up(plan.pods)
        there = 0
        for stage in plan.stages:
            rounds = found[stage.standing] = {side: Rounds() for side in nodes}
            for side, node in nodes.items() if stage.standing > there else ():
                progress(f"{stage.standing - there} more pods for {side}")
                node.populate(stage.standing - there)
            there = stage.standing
            progress(f"{stage.rounds} rounds of one pod, beside {there}")
            for side in _turns(tuple(nodes), stage.rounds):
                rounds[side].single.append(nodes[side].round(1))
            progress(f"{stage.batches} rounds of {plan.pods} pods at once, beside {there}")
            for side in _turns(tuple(nodes), stage.batches):
                rounds[side].batch.append(nodes[side].round(plan.pods))
        progress("the nodes are taken away")
    return found


def _turns(sides: Sequence[str], count: int) -> list[str]:
    """Every side once in each round; who begins changes."""
    return [sides[(n + turn) % len(sides)] for n in range(count) for turn in range(len(sides))]


# --- figures ------------------------------------------------------------------------------------------

_VERBS: Mapping[str, Callable[[Round], int]] = {
    "ADD": lambda one: one.add.answered_ns,
    "DEL answered": lambda one: one.delete.answered_ns,
    "DEL settled": lambda one: one.delete.settled_ns,
}


def rows_of(rounds: Mapping[str, Rounds], pods: int, standing: int) -> list[Row]:
    """Medians of one stage."""
    rows = []
    for verb, of in _VERBS.items():
        ms = {side: _median_ms(one.single, of) for side, one in rounds.items() if one.single}
        rows.append(Row(f"{verb} p50", ms, None if standing else TARGETS.get(verb)))
    for verb, of in _VERBS.items():
        ms = {side: _median_ms(one.batch, of) for side, one in rounds.items() if one.batch}
        target = None if standing else TARGETS_AT_ONCE.get(verb)
        rows.append(Row(f"{pods} at once, whole batch, {verb} p50", ms, target))
    return rows


def _median_ms(rounds: Sequence[Round], of: Callable[[Round], int]) -> float:
    return statistics.median(of(one) for one in rounds) / 1e6


def _as_json(row: Row) -> dict[str, object]:
    ratios = {side: row.ratio(side) for side in row.ms if side != "reference"}
    return {"what": row.what, "ms": dict(row.ms), "ratios": ratios, "target": row.target, "met": _met(row)}


def _met(row: Row) -> bool | None:
    ratio = row.ratio("podwire")
    return None if row.target is None or ratio is None else ratio <= row.target


# --- tables -------------------------------------------------------------------------------------------


def _table(standing: int, rows: Sequence[Row]) -> report.Table:
    head = ("", "reference", "our chain", "ratio", "podwire", "ratio", "target")
    lines = [
        (
            f"{row.what} (ms)",
            _number(row.ms.get("reference")),
            _number(row.ms.get("drop-in")),
            _ratio(row.ratio("drop-in")),
            _number(row.ms.get("podwire")),
            _ratio(row.ratio("podwire")),
            "" if row.target is None else f"≤ {row.target:g}{_verdict(_met(row))}",
        )
        for row in rows
    ]
    title = f"Beside {standing:,} pods that are there already" if standing else "On a node without other pods"
    return report.Table(title, head, tuple(lines))


def _growth(measured: Measured) -> report.Table:
    """Each side beside itself on an empty node."""
    sides = [side for side in SIDES if all(side in rounds for rounds in measured.values())]
    lines = []
    for verb in ("ADD", "DEL answered"):
        of = _VERBS[verb]
        for standing, rounds in measured.items():
            ratios = [_median_ms(rounds[side].single, of) / _median_ms(measured[0][side].single, of) for side in sides]
            lines.append((f"{verb} beside {standing:,}", *(f"{ratio:.2f}" for ratio in ratios)))
    title = "What grows: one pod, in times of what it takes on an empty node"
    note = (
        f"The other sides' pods are on the machine too, so the kernel has {len(sides)} times as many namespaces: what"
        " it keeps in one list for all of them (neighbours, what is below /proc/sys) is so much longer."
    )
    return report.Table(title, ("", *sides), tuple(lines), note)


def _number(ms: float | None) -> str:
    return "" if ms is None else report.number(ms)


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _verdict(met: bool | None) -> str:
    return "" if met is None else " met" if met else " MISSED"


# --- asking -------------------------------------------------------------------------------------------


def _plan(asked: argparse.Namespace) -> Plan:
    plan = QUICK if asked.quick else FULL
    stages = tuple(stage for stage in plan.stages if stage.standing <= asked.most)
    return replace(plan, stages=stages)


def _tools() -> list[tuple[str, str]]:
    return [(name, machine.version_of(name, "--version")) for name in ("iptables", "iperf3")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.kubernetes", description=__doc__.partition("\n")[0])
    parser.add_argument("--ours", type=Path, default=CHECKOUT / "bin", help="directory of our executables (bin)")
    parser.add_argument("--theirs", type=Path, default=Path("/usr/lib/cni"), help="of the reference's (/usr/lib/cni)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="(all)")
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run, not how fast")
    parser.add_argument("--most", type=int, default=FULL.stages[-1].standing, help="pods there (%(default)s)")
    parser.add_argument("--write", action="store_true", help="write docs/bench-kubernetes.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def _progress(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

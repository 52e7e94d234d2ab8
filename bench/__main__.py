"""`python -m bench`: bridge + host-local, ours and the reference's, as a table; with --write also into docs/."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import codec, compare, figures, machine, report, split
from bench.launch import Failed
from cni.cli import throwaway

if TYPE_CHECKING:
    from collections.abc import Sequence

CHECKOUT = Path(__file__).resolve().parent.parent
IPV4 = ("10.1.0.0/16",)
DUAL_STACK = ("10.1.0.0/16", "fd00:1::/64")


def main(argv: Sequence[str]) -> int:
    asked = _parser().parse_args(argv)
    if complaint := _complaint(asked.ours, "run `make bin`") or _complaint(
        asked.theirs, "install containernetworking-plugins"
    ):
        print(f"bench: {complaint}", file=sys.stderr)
        return 1
    plan = compare.QUICK if asked.quick else compare.FULL
    plan = replace(
        plan,
        rounds=asked.rounds or plan.rounds,
        batches=asked.batches or plan.batches,
        churn_s=asked.churn or plan.churn_s,
    )
    facts = machine.facts()
    try:
        groups = _compared(asked.ours, asked.theirs, plan)
        _progress("where our time goes")
        stages = split.measure(asked.ours, IPV4, plan.rounds)
        _progress("codecs")
        codecs = codec.measure(plan.rounds)
    except (throwaway.Unavailable, Failed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    tables = [report.comparison(group) for group in groups]
    tables += [report.stages(stages), report.codecs(codecs)]
    print(report.terminal(facts, tables))
    found = {
        "machine": dict(facts),
        "plan": asdict(plan),
        "figures": [figures.as_json(group) for group in groups],
        "split": asdict(stages),
        "codec": asdict(codecs),
    }
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")
    if asked.write:
        (CHECKOUT / "docs").mkdir(exist_ok=True)
        (CHECKOUT / "docs/bench.json").write_text(json.dumps(found, indent=2) + "\n")
        (CHECKOUT / "docs/bench.md").write_text(report.markdown(facts, tables))
        _progress("written to docs/bench.md and docs/bench.json")
    return 0


def _compared(ours: Path, theirs: Path, plan: compare.Plan) -> list[figures.Group]:
    a, b = compare.compare(ours, theirs, IPV4, plan, _progress)
    _progress("both families")
    few = replace(plan, rounds=max(3, plan.rounds // 5), batches=0, frugal_rounds=0, lanes=())
    dual_a, dual_b = compare.compare(ours, theirs, DUAL_STACK, few, _progress)
    _progress(f"on nodes with {plan.standing} pods")
    full_a, full_b = compare.compare(ours, theirs, IPV4, few, _progress, plan.standing)
    return [
        figures.latency("One pod at a time", a.single, b.single, (1.25, 0.6)),
        figures.latency(f"{plan.pods} pods at once, whole batch", a.batch, b.batch, (1.2, 1.2)),
        figures.latency("One pod at a time, IPv4 and IPv6", dual_a.single, dual_b.single),
        figures.latency(f"One pod at a time, on a node with {plan.standing} more", full_a.single, full_b.single),
        figures.churn(a, b),
        figures.cost(a, b),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--ours", type=Path, default=CHECKOUT / "bin", help="directory of our executables (bin)")
    parser.add_argument("--theirs", type=Path, default=Path("/usr/lib/cni"), help="of the reference's (/usr/lib/cni)")
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run, not how fast")
    parser.add_argument("--rounds", type=int, help=f"rounds of one pod ({compare.FULL.rounds})")
    parser.add_argument("--batches", type=int, help=f"rounds of many pods at once ({compare.FULL.batches})")
    parser.add_argument("--churn", type=float, metavar="SECONDS", help=f"per side ({compare.FULL.churn_s:g})")
    parser.add_argument("--write", action="store_true", help="write docs/bench.md and docs/bench.json")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def _complaint(plugins: Path, remedy: str) -> str:
    return "" if (plugins / "bridge").exists() else f"there is no bridge in {plugins}: {remedy}"


def _progress(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

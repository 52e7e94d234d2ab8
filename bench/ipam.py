"""`python -m bench.ipam`: host-local on nodes with more and more reservations, ours and the reference's.

Every call is a process of its own, as a runtime starts it. Each side has directories of its own, of every size and
both layouts, filled before with what the reference would have written:

    spread      reservations all over a /16, free addresses between them
    contiguous  all in a row up to the end of the /16, the counter before them: the free ones are behind the wrap

In a round every directory is called once by its owner, ADD and DEL, so that whatever else the machine does meets all
of them. The first round makes our indexes and fills the page cache; it isn't counted. Where the reference takes a
second for a call it gets fewer rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine, report
from bench.launch import Call, Crowd, Failed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHECKOUT = Path(__file__).resolve().parent.parent
SUBNET = "10.1.0.0/16"
FIRST = (10 << 24) + (1 << 16) + 2
LAST = (10 << 24) + (2 << 16) - 2
SIZES = (0, 250, 1_000, 10_000, 60_000)
LAYOUTS = ("spread", "contiguous")
FLAT = 1.3
"""Ours at the largest size may take so much longer than at none."""
FASTER = 10.0
"""Ours at 10,000 is to be so much faster than the reference's."""
TMPFS = Path("/dev/shm")
_SLOW_FROM = 10_000


@dataclass(frozen=True, slots=True)
class Place:
    """One side's directory of one size and layout, and how long its calls took."""

    executable: Path
    data_dir: Path
    size: int
    layout: str
    ours: bool
    add_ns: list[int] = field(default_factory=list)
    delete_ns: list[int] = field(default_factory=list)

    @property
    def counter(self) -> str:
        return dotted(LAST - self.size) if self.layout == "contiguous" else dotted(FIRST)

    def fill(self) -> None:
        folder = self.data_dir / "pods"
        folder.mkdir(parents=True)
        count = LAST - FIRST + 1
        for i in range(self.size):
            value = LAST - i if self.layout == "contiguous" else FIRST + i * count // self.size
            (folder / dotted(value)).write_text(f"{i:064x}\r\neth0")

    def round(self, number: int, counted: bool) -> None:
        (self.data_dir / "pods" / "last_reserved_ip.0").write_text(self.counter)
        for command, samples in (("ADD", self.add_ns), ("DEL", self.delete_ns)):
            took_ns = _call(self.executable, command, self.data_dir, f"{number:064x}")
            if counted:
                samples.append(took_ns)


def main(argv: Sequence[str]) -> int:
    asked = _parser().parse_args(argv)
    for executable, remedy in ((asked.ours, "run `make bin`"), (asked.theirs, "install containernetworking-plugins")):
        if not executable.exists():
            print(f"bench: there is no {executable}: {remedy}", file=sys.stderr)
            return 1
    facts = machine.facts()
    sizes = [size for size in SIZES if size <= asked.most]
    with tempfile.TemporaryDirectory(prefix="bench-ipam.", dir=asked.dir) as top:
        facts.append(("Reservations on", _file_system(Path(top))))
        places = [*_places(asked.ours, asked.theirs, Path(top), sizes)]
        try:
            _measure(places, asked.rounds, asked.slow_rounds)
        except Failed as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    tables = [_table(places, layout) for layout in LAYOUTS]
    print(report.terminal(facts, tables))
    if asked.json:
        asked.json.write_text(json.dumps({"machine": dict(facts), "figures": _figures(places)}, indent=2) + "\n")
    if asked.write:
        (CHECKOUT / "docs/bench-ipam.md").write_text(report.markdown(facts, tables, *_INTRODUCTION))
        print("bench: written to docs/bench-ipam.md", file=sys.stderr)
    return 0


_INTRODUCTION = (
    "What reservations cost host-local",
    "Written by `make bench-ipam ARGS=--write`: one exec per call, both sides in turns in one run, medians.\n"
    "Figures move from machine to machine; the ratios are what to look at.",
)


def _places(ours: Path, theirs: Path, top: Path, sizes: Sequence[int]) -> Iterator[Place]:
    for layout in LAYOUTS:
        for size in sizes:
            for executable in (ours, theirs):
                name = "ours" if executable is ours else "theirs"
                place = Place(executable, top / f"{name}-{layout}-{size}", size, layout, executable is ours)
                place.fill()
                yield place


def _measure(places: Sequence[Place], rounds: int, slow_rounds: int) -> None:
    for number in range(rounds + 1):
        print(f"bench: round {number} of {rounds}", file=sys.stderr)
        for place in places if number % 2 else reversed(places):
            if place.ours or place.size < _SLOW_FROM or number <= slow_rounds:
                place.round((1 << 200) + number, counted=number > 0)


def _call(executable: Path, command: str, data_dir: Path, container_id: str) -> int:
    environ = {"CNI_COMMAND": command, "CNI_CONTAINERID": container_id, "CNI_NETNS": "/run/netns/nobody-looks",
               "CNI_IFNAME": "eth0", "CNI_PATH": "/"}  # fmt: skip
    ipam = {"type": "host-local", "dataDir": str(data_dir), "ranges": [[{"subnet": SUBNET}]]}
    config = {"cniVersion": "1.0.0", "name": "pods", "type": "bridge", "ipam": ipam}
    call = Call((str(executable),), environ, json.dumps(config).encode())
    crowd = Crowd()
    started_ns = time.monotonic_ns()
    crowd.start(call)
    crowd.next()
    took_ns = time.monotonic_ns() - started_ns
    crowd.settle()
    return took_ns


def _figures(places: Sequence[Place]) -> list[dict[str, object]]:
    return [
        {
            "side": "ours" if place.ours else "theirs",
            "layout": place.layout,
            "size": place.size,
            "add_ms": _median_ms(place.add_ns),
            "delete_ms": _median_ms(place.delete_ns),
            "rounds": len(place.add_ns),
        }
        for place in places
    ]


def _table(places: Sequence[Place], layout: str) -> report.Table:
    rows = []
    mine = {place.size: place for place in places if place.ours and place.layout == layout}
    others = {place.size: place for place in places if not place.ours and place.layout == layout}
    largest = max(mine)
    for verb in ("ADD", "DEL"):
        base = _of(mine[0], verb)
        for size, place in mine.items():
            ours, theirs = _of(place, verb), _of(others[size], verb)
            targets = []
            if size == largest and size:
                targets.append(f"≤ {FLAT:g} of none {'met' if ours / base <= FLAT else 'MISSED'}")
            if size == _SLOW_FROM:
                targets.append(f"≥ {FASTER:g} times faster {'met' if theirs / ours >= FASTER else 'MISSED'}")
            rows.append((f"{verb} at {size:,}", report.number(ours), report.number(theirs), f"{theirs / ours:.1f}",
                         f"{ours / base:.2f}", ", ".join(targets)))  # fmt: skip
    head = ("", "ours (ms)", "reference (ms)", "reference / ours", "ours / ours at none", "target")
    note = {
        "spread": "Free addresses are all over the range.",
        "contiguous": "All free addresses are behind the wrap: the next after the last one given is taken, and so on.",
    }[layout]
    return report.Table(f"Reservations {layout}", head, tuple(rows), note)


def _of(place: Place, verb: str) -> float:
    return _median_ms(place.add_ns if verb == "ADD" else place.delete_ns)


def _median_ms(samples_ns: Sequence[int]) -> float:
    return statistics.median(samples_ns) / 1e6


def dotted(value: int) -> str:
    return ".".join([str(value >> shift & 255) for shift in (24, 16, 8, 0)])


def _file_system(path: Path) -> str:
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, what, *_ = line.split()
        if path.is_relative_to(where) and len(where) >= len(best):
            best, kind = where, what
    return kind


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.ipam", description=__doc__.partition("\n")[0])
    parser.add_argument("--ours", type=Path, default=CHECKOUT / "bin/host-local", help="our executable (bin)")
    parser.add_argument("--theirs", type=Path, default=Path("/usr/lib/cni/host-local"), help="the reference's")
    parser.add_argument("--dir", type=Path, default=TMPFS if TMPFS.is_dir() else None, help=f"({TMPFS})")
    parser.add_argument("--rounds", type=int, default=40, help="of every size (%(default)s)")
    parser.add_argument(
        "--slow-rounds", type=int, default=5, help=f"of the reference from {_SLOW_FROM:,} on (%(default)s)"
    )
    parser.add_argument("--most", type=int, default=SIZES[-1], help="sizes up to this (%(default)s)")
    parser.add_argument("--write", action="store_true", help="write docs/bench-ipam.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

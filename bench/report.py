"""What the bench found, for people (a terminal, docs/bench.md) and for programs (docs/bench.json).

Pure text: who measures is elsewhere. Facts about the machine stand beside the figures, since without them
no figure means anything; names and paths of the machine don't.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.codec import Codec
    from bench.figures import Group
    from bench.split import Split


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    head: tuple[str, ...]
    """Of the columns; the first is text, the others are numbers."""
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def number(value: float) -> str:
    """Three figures, or all those before the point."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def comparison(group: Group) -> Table:
    rows = []
    for figure in group.figures:
        target = "" if figure.target is None else f"≤ {figure.target:g} {'met' if figure.met else 'MISSED'}"
        ours, theirs = number(figure.ours), number(figure.theirs)
        rows.append((f"{figure.what} ({figure.unit})", ours, theirs, f"{figure.ratio:.2f}", target))
    return Table(group.title, ("", "ours", "reference", "ratio", "target"), tuple(rows))


def stages(split: Split) -> Table:
    """Both verbs down to the milliseconds of each stage."""
    shared = (
        ("starting and ending a process", split.process_ms),
        ("shell header", split.header_ms),
        ("interpreter", split.interpreter_ms),
    )
    rows = [(what, number(ms), number(ms)) for what, ms in shared]
    before = number(sum(ms for _, ms in shared))
    rows.append(("… so before any line of ours", before, before))
    what = f"importing {split.add_modules} and {split.delete_modules} modules"
    rows.append((what, number(split.add_imports_ms), number(split.delete_imports_ms)))
    rows.append(("work, and leaving", number(split.add_work_ms), number(split.delete_work_ms)))
    rows.append(("all", number(split.add_ms), number(split.delete_ms)))
    note = "Medians of executables stopped early, each a little later than the one before; nothing is traced."
    return Table("Where our time goes", ("", "ADD (ms)", "DEL answered (ms)"), tuple(rows), note)


def codecs(codec: Codec) -> Table:
    rows = (
        ("encoding the four messages (µs)", number(codec.encode_own_us), number(codec.encode_pyroute2_us), ""),
        (
            "the pod's set-up in the kernel, sockets included (ms)",
            number(codec.setup_own_ms),
            number(codec.setup_pyroute2_messages_ms),
            number(codec.setup_pyroute2_ms),
        ),
        ("importing it (ms)", number(codec.import_own_ms), "", number(codec.import_pyroute2_ms)),
    )
    head = ("", "our own", "pyroute2's messages", "pyroute2's sockets too")
    return Table("Our netlink codec beside pyroute2", head, rows)


def terminal(facts: Sequence[tuple[str, str]], tables: Sequence[Table]) -> str:
    parts = [*(f"{what}: {value}" for what, value in facts), ""]
    for table in tables:
        lines = (table.head, *table.rows)
        widths = [max(len(line[column]) for line in lines) for column in range(len(table.head))]
        parts.append(table.title)
        for line in lines:
            cells = [f"{cell:{'>' if column else '<'}{widths[column]}}" for column, cell in enumerate(line)]
            parts.append(f"  {'   '.join(cells)}".rstrip())
        parts += [f"  {table.note}"] if table.note else []
        parts.append("")
    return "\n".join(parts)


TITLE = "How fast a pod gets its network"
INTRODUCTION = """\
Written by `make bench ARGS=--write`, which measures both sides in one run, in turns. Figures move from
machine to machine; the ratios are what to look at."""


def markdown(
    facts: Sequence[tuple[str, str]], tables: Sequence[Table], title: str = TITLE, introduction: str = INTRODUCTION
) -> str:
    parts = [
        f"# {title}",
        "",
        introduction,
        "",
        *(f"- {what}: {value}" for what, value in facts),
        "",
    ]
    for table in tables:
        parts += [f"## {table.title}", "", _row(table.head), _row(["---", *("---:" for _ in table.head[1:])])]
        parts += [_row(line) for line in table.rows]
        parts += ["", table.note] if table.note else []
        parts.append("")
    return "\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

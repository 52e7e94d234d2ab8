"""A node, its bridge and its pods as a drawing for a terminal: pure text.

┌─ pod a ───────────────┐   ┌─ pod b ───────────────┐
│ eth0  10.88.0.2/24    │   │ eth0  10.88.0.3/24    │
└───────────┬───────────┘   └───────────┬───────────┘
            │                           │                a veth pair each
┌─ node ────┴───────────────────────────┴───────────┐
│     pw4k2yq6whctz3a             pwqzr5m3yxwba2c   │
│           └─────────────┬─────────────┘           │
│                       demo0                       │
│                    10.88.0.1/24                   │
└───────────────────────────────────────────────────┘
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAP = 3
_ASCII = str.maketrans("─│┌┐└┘┬┴┼", "-|+++++++")


@dataclass(frozen=True, slots=True)
class PodEnd:
    """One pod, as it hangs on the node."""

    name: str
    interface: str
    addresses: tuple[str, ...]
    host_interface: str
    """The other end of its veth."""


def drawing(bridge: str, gateways: Sequence[str], pods: Sequence[PodEnd]) -> list[str]:
    """The lines, in box characters; `ascii_only` makes do without."""
    # What the node of a single pod needs: the bridge's texts, and the joint behind the title.
    least = max(len("┌─ node ─") * 2, *(len(text) + 4 for text in (bridge, *gateways)))
    boxes = [_box(pod, least) for pod in pods]
    middles = []
    at = 0
    for box in boxes:
        middles.append(at + len(box[0]) // 2)
        at += len(box[0]) + _GAP
    width = at - _GAP
    lines = [(" " * _GAP).join(parts) for parts in zip(*boxes)]
    lines.append(f"{_marks(width, middles, '│')}    a veth pair each")
    lines.append(_top("node", width, middles))
    lines.append(_framed(_spread(width, middles, [pod.host_interface for pod in pods])))
    centre = (middles[0] + middles[-1]) // 2
    lines.append(_framed(_bus(width, middles, centre)))
    lines += [_framed(_spread(width, [centre], [text])) for text in (bridge, *gateways)]
    lines.append(f"└{'─' * (width - 2)}┘")
    return lines


def ascii_only(lines: Sequence[str]) -> list[str]:
    """The same for a terminal that has no box characters."""
    return [line.translate(_ASCII) for line in lines]


def _box(pod: PodEnd, least: int) -> list[str]:
    first, *more = pod.addresses or ("",)
    rows = [f"{pod.interface}  {first}", *(f"{'':{len(pod.interface)}}  {address}" for address in more)]
    width = max(least, *(len(text) + 4 for text in (*rows, pod.host_interface)), len(pod.name) + 12)
    bottom = [*f"└{'─' * (width - 2)}┘"]
    bottom[width // 2] = "┬"
    return [_top(f"pod {pod.name}", width, []), *(f"│ {row:{width - 4}} │" for row in rows), "".join(bottom)]


def _top(title: str, width: int, joints: Sequence[int]) -> str:
    line = [*f"┌{f'─ {title} ':─<{width - 2}}┐"]
    for joint in joints:
        line[joint] = "┴"
    return "".join(line)


def _bus(width: int, ports: Sequence[int], bridge: int) -> str:
    """What joins the ports, which come from above, to the bridge below them."""
    line = [*" " * width]
    line[ports[0] : ports[-1] + 1] = "─" * (ports[-1] - ports[0] + 1)
    for port in ports:
        line[port] = "┴"
    if len(ports) > 1:
        line[ports[0]], line[ports[-1]] = "└", "┘"
        line[bridge] = "┼" if bridge in ports else "┬"
    else:
        line[bridge] = "│"
    return "".join(line)


def _marks(width: int, places: Sequence[int], mark: str) -> str:
    return "".join(mark if at in places else " " for at in range(width))


def _spread(width: int, centres: Sequence[int], texts: Sequence[str]) -> str:
    """Each text around its centre."""
    line = [*" " * width]
    for centre, text in zip(centres, texts):
        start = centre - len(text) // 2
        line[start : start + len(text)] = text
    return "".join(line)


def _framed(line: str) -> str:
    return f"│{line[1:-1]}│"

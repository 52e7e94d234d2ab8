"""The drawing of a node, line by line."""

from __future__ import annotations

import pytest

from cni.cli.drawing import PodEnd, ascii_only, drawing

A = PodEnd("a", "eth0", ("10.88.0.2/24", "fd00:88::2/64"), "pw4k2yq6whctz3a")
B = PodEnd("b", "eth0", ("10.88.0.3/24", "fd00:88::3/64"), "pwqzr5m3yxwba2c")
C = PodEnd("c", "eth0", ("10.88.0.4/24", "fd00:88::4/64"), "pwabcdefghijklm")


def test_two_pods_hang_on_the_bridge_between_them() -> None:
    assert drawing("cni0", ["10.88.0.1/24"], [A, B]) == [
        "┌─ pod a ─────────────┐   ┌─ pod b ─────────────┐",
        "│ eth0  10.88.0.2/24  │   │ eth0  10.88.0.3/24  │",
        "│       fd00:88::2/64 │   │       fd00:88::3/64 │",
        "└──────────┬──────────┘   └──────────┬──────────┘",
        "           │                         │               a veth pair each",
        "┌─ node ───┴─────────────────────────┴──────────┐",
        "│   pw4k2yq6whctz3a           pwqzr5m3yxwba2c   │",
        "│          └────────────┬────────────┘          │",
        "│                     cni0                      │",
        "│                 10.88.0.1/24                  │",
        "└───────────────────────────────────────────────┘",
    ]


def test_three_pods_and_one_meet_in_the_bridge_too() -> None:
    assert "│          └─────────────────────────┼─────────────────────────┘          │" in drawing(
        "cni0", [], [A, B, C]
    )
    assert drawing("cni0", [], [A])[-4:] == [
        "│   pw4k2yq6whctz3a   │",
        "│          │          │",
        "│        cni0         │",
        "└─────────────────────┘",
    ]


@pytest.mark.parametrize("pods", [[A], [A, B], [A, B, C], [PodEnd("x", "net1", (), "pw")]])
def test_all_lines_of_a_box_end_below_each_other(pods: list[PodEnd]) -> None:
    lines = drawing("br-with-long-nm", ["fd00:1234:5678::1/64"], pods)

    assert len({len(line) for line in lines if "veth" not in line}) == 1


def test_a_terminal_without_box_characters_gets_none() -> None:
    for line in ascii_only(drawing("cni0", ["10.88.0.1/24"], [A, B, C])):
        assert line.isascii()

"""The bench runs and finds figures for everything it promises. How fast anything is, no test says."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cni.cli import throwaway
from tests import session
from tests.conftest import REFERENCE_PLUGINS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs(f"{REFERENCE_PLUGINS}/bridge")

LATENCIES = [f"{what} p{percent}" for what in ("ADD", "DEL answered", "DEL settled") for percent in (50, 99)]


@pytest.fixture(scope="module")
def quick(executables: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What the bench's short form prints, and what it writes for programs."""
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--ours", executables, "--json", file],
        cwd=session.TOP, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


def test_both_sides_have_every_figure_and_their_ratio(quick: tuple[str, dict[str, Any]]) -> None:
    _, found = quick

    groups = {group["title"]: group["figures"] for group in found["figures"]}
    assert {title: [figure["what"] for figure in figures] for title, figures in groups.items()} == {
        "One pod at a time": LATENCIES,
        "20 pods at once, whole batch": LATENCIES,
        "One pod at a time, IPv4 and IPv6": LATENCIES,
        "One pod at a time, on a node with 10 more": LATENCIES,
        "Sustained ADD and DEL (more is better)": ["1 lane", "4 lanes"],
        "What one call costs (medians)": [
            "ADD processor time", "DEL processor time", "ADD peak memory", "DEL peak memory",
        ],
    }  # fmt: skip
    for figures in groups.values():
        for figure in figures:
            assert figure["ours"] > 0
            assert figure["theirs"] > 0
            assert figure["ratio"] == pytest.approx(figure["ours"] / figure["theirs"])


def test_the_targets_stand_beside_the_medians_of_answers(quick: tuple[str, dict[str, Any]]) -> None:
    _, found = quick

    targets = {
        (group["title"], figure["what"]): figure["target"]
        for group in found["figures"]
        for figure in group["figures"]
        if figure["target"] is not None
    }
    assert targets == {
        ("One pod at a time", "ADD p50"): 1.25,
        ("One pod at a time", "DEL answered p50"): 0.6,
        ("20 pods at once, whole batch", "ADD p50"): 1.2,
        ("20 pods at once, whole batch", "DEL answered p50"): 1.2,
    }


def test_a_delete_has_settled_no_sooner_than_it_answered(quick: tuple[str, dict[str, Any]]) -> None:
    _, found = quick

    for group in found["figures"][:4]:
        by_name = {figure["what"]: figure for figure in group["figures"]}
        for side in ("ours", "theirs"):
            assert by_name["DEL settled p50"][side] >= by_name["DEL answered p50"][side]


def test_the_stages_of_a_call_add_up_to_it(quick: tuple[str, dict[str, Any]]) -> None:
    _, found = quick

    split = found["split"]
    shared = sum(split[stage] for stage in ("process_ms", "header_ms", "interpreter_ms"))
    for verb in ("add", "delete"):
        assert shared + split[f"{verb}_imports_ms"] + split[f"{verb}_work_ms"] == pytest.approx(split[f"{verb}_ms"])
    assert split["add_modules"] > split["delete_modules"] > 10


def test_the_codecs_are_compared(quick: tuple[str, dict[str, Any]]) -> None:
    _, found = quick

    assert len(found["codec"]) == 7
    assert all(value > 0 for value in found["codec"].values())


def test_people_get_tables_and_the_machine_s_facts_without_its_name(quick: tuple[str, dict[str, Any]]) -> None:
    said, found = quick

    assert set(found["machine"]) >= {"Kernel", "Processors", "Reference plugins"}
    for title in ("One pod at a time", "Where our time goes", "Our netlink codec beside pyroute2"):
        assert f"\n{title}\n" in said
    assert str(session.TOP) not in said + json.dumps(found)


# --- reservations -------------------------------------------------------------------------------------


def test_the_bench_of_reservations_has_both_sides_of_every_size_and_layout(executables: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.ipam", "--rounds", "1", "--most", "250", "--dir", tmp_path,
         "--ours", executables / "host-local", "--json", file],
        cwd=session.TOP, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    found = json.loads(file.read_text())["figures"]
    assert sorted((one["layout"], one["size"], one["side"]) for one in found) == [
        (layout, size, side) for layout in ("contiguous", "spread") for size in (0, 250) for side in ("ours", "theirs")
    ]
    assert all(one["add_ms"] > 0 and one["delete_ms"] > 0 for one in found)
    for row in ("ADD at 0", "ADD at 250", "DEL at 250"):
        assert row in done.stdout
    assert not list(tmp_path.glob("bench-ipam.*"))
    assert str(tmp_path) not in done.stdout


# --- Kubernetes ---------------------------------------------------------------------------------------

needs_the_chain = pytest.mark.needs(*(f"{REFERENCE_PLUGINS}/{name}" for name in ("portmap", "bandwidth")), "iptables")


@needs_the_chain
@pytest.mark.needs("iperf3")
def test_the_bench_of_a_kubernetes_node_has_every_side_at_every_stage(executables: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.kubernetes", "--quick", "--ours", executables, "--json", file],
        cwd=session.TOP, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())

    assert list(found["figures"]) == ["0", "10"]
    for rows in found["figures"].values():
        assert len(rows) == 6
        for row in rows:
            assert list(row["ms"]) == ["reference", "drop-in", "podwire"]
            assert all(ms > 0 for ms in row["ms"].values())
            assert row["ratios"]["podwire"] == pytest.approx(row["ms"]["podwire"] / row["ms"]["reference"])
    assert [row["target"] for row in found["figures"]["0"]] == [0.25, 0.08, None, 0.18, 0.09, None]
    assert all(ratio > 0 for ratio in found["throughput"]["ratios"].values())
    assert {(one["rate_bits_per_s"], one["direction"]) for one in found["shaping"]} == {
        (200_000_000, "ingress"),
        (200_000_000, "egress"),
    }
    for title in ("On a node without other pods", "Beside 10 pods", "What grows", "From pod to pod", "Limits above"):
        assert f"\n{title}" in done.stdout
    assert str(session.TOP) not in done.stdout


RESIDENTS = """
import sys
from pathlib import Path
from bench import kubernetes, standing
from bench.node import Node
from cni.cli import throwaway

throwaway.furnish()
node = Node(kubernetes.setups(Path(sys.argv[1]), Path(sys.argv[1]))["reference"], 0)
for pods in sys.argv[2:]:
    node.populate(int(pods))
print(*sorted(standing.rules()), sep="\\n")
"""


@needs_the_chain
def test_rules_made_all_at_once_are_those_that_the_reference_makes() -> None:
    def rules(*populate: str) -> list[str]:
        command = [*throwaway.command(), sys.executable, "-c", RESIDENTS, str(REFERENCE_PLUGINS), *populate]
        done = subprocess.run(
            command, cwd=session.TOP, env=throwaway.environment(), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if not line.startswith("#")]

    at_once, one_by_one = rules("2"), rules("1", "1")

    assert len(at_once) > 20
    assert at_once == one_by_one

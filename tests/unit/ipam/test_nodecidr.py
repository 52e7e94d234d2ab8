"""Which node gets which part: stable, never overlapping, whatever happens to who asks."""

from __future__ import annotations

import doctest
import ipaddress
import itertools
import json
import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam import nodecidr
from ipam.nodecidr import Conflict, Full, NodeCIDRs, Plan, Unreadable
from tests.unit.ipam import faults

DUAL = Plan.parse(["10.244.0.0/16", "fd00:10:244::/56"])
TINY = Plan.parse(["10.244.0.0/30"], {4: 32})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "nodes.json"


def given_to(file: Path, node: str, plan: Plan | None = None) -> list[str]:
    return [str(one) for one in NodeCIDRs(str(file)).assign(node, plan)]


def test_each_node_gets_the_next_part_of_each_network(file: Path) -> None:
    assert given_to(file, "a", DUAL) == ["10.244.0.0/24", "fd00:10:244::/64"]
    assert given_to(file, "b") == ["10.244.1.0/24", "fd00:10:244:1::/64"]
    assert given_to(file, "a", DUAL) == ["10.244.0.0/24", "fd00:10:244::/64"]


def test_what_was_released_is_given_again(file: Path) -> None:
    for node in "abc":
        given_to(file, node, TINY)

    assert [str(one) for one in NodeCIDRs(str(file)).release("b")] == ["10.244.0.1/32"]
    assert NodeCIDRs(str(file)).release("b") == ()
    assert given_to(file, "d") == ["10.244.0.1/32"]
    assert given_to(file, "e") == ["10.244.0.3/32"]
    with pytest.raises(Full, match=r"every /32 of 10\.244\.0\.0/30 is some node's"):
        given_to(file, "f")
    assert given_to(file, "c") == ["10.244.0.2/32"]


def test_nothing_is_made_by_asking(file: Path) -> None:
    assert NodeCIDRs(str(file)).read() == (None, {})
    assert NodeCIDRs(str(file)).release("a") == ()
    assert not list(file.parent.iterdir())
    with pytest.raises(ValueError, match="has not been said yet"):
        given_to(file, "a")


def test_another_plan_is_refused_while_a_node_has_a_part_of_the_first(file: Path) -> None:
    given_to(file, "a", DUAL)

    with pytest.raises(Conflict, match="divides"):
        given_to(file, "b", TINY)

    NodeCIDRs(str(file)).release("a")
    assert given_to(file, "b", TINY) == ["10.244.0.0/32"]


@pytest.mark.parametrize(
    ("clusters", "lengths", "words"),
    [
        ([], {4: 24}, "no cluster network"),
        (["10.244.0.0/25"], {4: 24}, "no room for a node's /24"),
        (["10.244.0.0/16"], {4: 33}, "no room"),
        (["10.0.0.0/8", "10.244.0.0/16"], {4: 24}, "overlap"),
        (["10.244.0.1/16"], {4: 24}, "host bits"),
        (["x"], {4: 24}, "invalid"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(clusters: list[str], lengths: dict[int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Plan.parse(clusters, lengths)


@pytest.mark.parametrize("name", ["", " ", "a b", "a\n", "a/b", "x" * 254])
def test_what_cannot_be_a_node_s_name_is_refused(file: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a node"):
        given_to(file, name, DUAL)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1, "clusters": ["10.0.0.0/8"], "lengths": [24], "nodes": {"a": ["11.0.0.0/24"]}}',
        '{"format": 1, "clusters": ["10.0.0.0/8"], "lengths": [], "nodes": {}}',
        '{"format": 1, "clusters": ["10.0.0.0/8"], "lengths": [24], "nodes": {"a": []}}',
        '{"format": 1, "clusters": ["10.0.0.0/8"], "lengths": [24], "nodes": {"a": ["10.0.0.0/25"]}}',
        '{"format": 1, "clusters": ["10.0.0.0/8"], "lengths": [24], '
        '"nodes": {"a": ["10.0.0.0/24"], "b": ["10.0.0.0/24"]}}',
    ],
)
def test_a_file_that_cannot_be_trusted_is_left_as_it_is(file: Path, text: str) -> None:
    file.write_text(text)

    with pytest.raises(Unreadable):
        given_to(file, "a", DUAL)

    assert file.read_text() == text


@given(
    cluster=st.sampled_from(["10.0.0.0/26", "fd00::/122"]),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60),
)
def test_no_two_nodes_ever_overlap(
    tmp_path_factory: pytest.TempPathFactory, cluster: str, steps: list[tuple[bool, int]]
) -> None:
    file = tmp_path_factory.mktemp("nodes") / "nodes.json"
    plan = Plan.parse([cluster], {4: 30, 6: 126})
    model: dict[str, str] = {}
    for assigning, number in steps:
        node = f"node-{number}"
        if not assigning:
            NodeCIDRs(str(file)).release(node)
            model.pop(node, None)
            continue
        try:
            [found] = given_to(file, node, plan)
        except Full:
            assert len(model) == 16
            continue
        assert model.setdefault(node, found) == found

    networks = [ipaddress.ip_network(text) for text in model.values()]
    assert all(one.subnet_of(ipaddress.ip_network(cluster)) for one in networks)  # type: ignore[arg-type]  # all of one family
    assert not any(one.overlaps(other) for one, other in itertools.combinations(networks, 2))


def ask(file: Path, number: int) -> list[str]:
    for i in range(20):
        given_to(file, f"extra-{number}-{i}", DUAL)
        NodeCIDRs(str(file)).release(f"extra-{number}-{i}")
        given_to(file, f"node-{number}", DUAL)
    return given_to(file, f"node-{number}", DUAL)


def test_callers_at_the_same_time_get_different_networks(file: Path) -> None:
    with multiprocessing.get_context("fork").Pool(6) as pool:
        found = pool.starmap(ask, [(file, number) for number in range(6)])

    kept = NodeCIDRs(str(file)).read().nodes
    assert {node: [str(one) for one in networks] for node, networks in kept.items()} == {
        f"node-{number}": networks for number, networks in enumerate(found)
    }
    assert len({networks[0] for networks in found}) == 6


def test_a_crash_at_any_call_leaves_the_old_or_the_new(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_to(file, "a", DUAL)
    old = file.read_text()
    for number in itertools.count():
        file.write_text(old)
        with faults.at_call(monkeypatch, number, faults.CRASHING, ["ipam.nodecidr"]) as calls:
            given_to(file, "b")

        assert list(json.loads(file.read_text())["nodes"]) in (["a"], ["a", "b"])
        assert given_to(file, "b")[0] == "10.244.1.0/24"
        if not calls.reached:
            assert calls.made.count("fsync") == 2
            break


def test_the_example_in_its_documentation_runs() -> None:
    try:
        found = doctest.testmod(nodecidr)
    finally:
        for name in ("/run/example.json", "/run/example.json.lock"):
            os.unlink(name)

    assert found.attempted == 4
    assert found.failed == 0

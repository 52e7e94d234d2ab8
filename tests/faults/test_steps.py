"""No step of a verb may fail, or be a process's last, and leave anything behind or touch what is foreign.

Each test tries the first call that a plugin makes, the second, and so on until one is not reached: so a step that is
new is tested from its first day. What a verb has left goes with the DEL, the ADD or the GC that follows.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from cni.kernel import link as links
from cni.kernel.netlink import NetlinkError
from tests.faults.injection import ERRORS, Injected, until_unreached
from tests.faults.scene import Scene
from tests.faults.seam import INTERRUPT, KILL, NONE, TERMINATE, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.verbs.networks import Network

    Scenes = Callable[..., Scene]

SLOW = pytest.mark.slow
EACH_ERROR = pytest.mark.parametrize("errors", [1, pytest.param(len(ERRORS), marks=SLOW)], ids=["in turn", "each"])
"""One error for a step and another for the next, or all of them for each."""

# Where the announcement of a link's end doesn't come to who asks for it, another socket listens.
ON_KERNELS = pytest.mark.parametrize("release", ["6.18.0", pytest.param("6.1.0-44-amd64", marks=SLOW)])

DEADLY = (INTERRUPT, TERMINATE, KILL)

AT_LEAST = {"ADD": 100, "CHECK": 80, "DEL": 60, "GC": 80}
"""Steps that a verb surely has. With fewer, the stand-ins aren't where the plugin looks."""

TRY_AGAIN_LATER = 11
CHECK_FAILED = 103
INTERNAL = 999


def failures(number: int, errors: int = 1, *, after: tuple[bool, ...] = (False, True)) -> list[Fault]:
    """Faults at the call of that number: it fails before it has done anything, or when it has."""
    whats = [ERRORS[(number + i) % len(ERRORS)] for i in range(errors)]
    return [Fault(number, what, late) for what in whats for late in after]


def told(outcome: Injected) -> str:
    return f"after {outcome.fault}, {outcome.step}: {outcome.code} {outcome.stdout!r} {outcome.stderr}"


def detach(scene: Scene, outcome: Injected) -> None:
    """A DEL without a fault leaves nothing."""
    after = scene.call(NONE, "DEL")
    assert (after.code, after.stdout) == (0, b""), f"{after}, {told(outcome)}"
    assert not scene.changed(), f"{scene.changed()}, {told(outcome)}"


def fails_well(outcome: Injected) -> None:
    """What the system refuses is a CNI error, and no traceback but where a thread was lost; nothing is left open."""
    if outcome.code and outcome.step != "setns":
        assert outcome.error["code"] != INTERNAL, told(outcome)
    got_lost = outcome.fault.after and outcome.step in ("open", "pipe2", "socket")
    if not got_lost and outcome.step != "close" and not outcome.fault.lasting:  # those of sockets never fail
        assert not outcome.left_open, told(outcome)


# --- a step fails -----------------------------------------------------------------------------------


@EACH_ERROR
def test_an_add_that_fails_takes_back_what_it_did(scenes: Scenes, errors: int) -> None:
    """By itself, unless all was done, or the thread is lost in the pod: then the record waits for a DEL."""
    scene = scenes(has_life=True)

    def attempt(number: int) -> Iterator[Injected]:
        for fault in failures(number, errors):
            outcome = scene.call(fault, "ADD")
            yield outcome
            nothing_is_left(scene, outcome)
            detach(scene, outcome)

    assert until_unreached(attempt) > AT_LEAST["ADD"]


@EACH_ERROR
def test_the_first_add_of_a_node_that_fails_leaves_at_most_the_bridge(scenes: Scenes, errors: int) -> None:
    def attempt(number: int) -> Iterator[Injected]:
        for fault in failures(number, errors, after=(False,) if errors == 1 else (False, True)):
            scene = scenes(has_life=False)
            outcome = scene.call(fault, "ADD")
            yield outcome
            nothing_is_left(scene, outcome)
            detach(scene, outcome)

    assert until_unreached(attempt) > AT_LEAST["ADD"]


def nothing_is_left(scene: Scene, outcome: Injected) -> None:
    """Of an ADD that failed and was able to take back what it did."""
    fails_well(outcome)
    if outcome.code and not is_odd(outcome) and outcome.step != "setns" and scene.stage() != "complete":
        assert not scene.changed(), f"{scene.changed()}, {told(outcome)}"


def is_odd(outcome: Injected) -> bool:
    """A file was made, or has got its name, and the call didn't come back with it: nothing foresees that."""
    return outcome.fault.after and outcome.step in ("open", "rename")


@pytest.mark.parametrize("has_life", [True, pytest.param(False, marks=SLOW)], ids=["with a bridge", "first"])
def test_an_add_that_cannot_take_anything_back_leaves_that_to_a_del(scenes: Scenes, has_life: bool) -> None:
    """From some call on the kernel and the disk refuse everything."""
    scene = scenes(has_life=has_life)

    def attempt(number: int) -> Iterator[Injected]:
        nonlocal scene
        scene = scene if has_life else scenes(has_life=False)
        outcome = scene.call(Fault(number, ERRORS[number % len(ERRORS)], lasting=True), "ADD")
        yield outcome
        fails_well(outcome)
        detach(scene, outcome)

    assert until_unreached(attempt) > AT_LEAST["ADD"]


@ON_KERNELS
@EACH_ERROR
def test_a_del_that_fails_is_finished_by_the_next(scenes: Scenes, errors: int, release: str) -> None:
    scene = scenes(has_life=True, release=release)

    def attempt(number: int) -> Iterator[Injected]:
        for fault in failures(number, errors):
            scene.network().add(scene.pod)
            outcome = scene.call(fault, "DEL")
            yield outcome
            fails_well(outcome)
            if outcome.code == 0:
                assert not scene.changed(), f"{scene.changed()}, {told(outcome)}"
            detach(scene, outcome)

    assert until_unreached(attempt) > AT_LEAST["DEL"]


@EACH_ERROR
def test_a_gc_that_fails_is_finished_by_the_next(scenes: Scenes, errors: int) -> None:
    scene = scenes(has_life=True)

    def attempt(number: int) -> Iterator[Injected]:
        for fault in failures(number, errors):
            leave_garbage(scene)
            outcome = scene.collect(fault)
            yield outcome
            fails_well(outcome)
            if outcome.code:
                assert scene.collect().code == 0, told(outcome)
            assert not scene.changed(), f"{scene.changed()}, {told(outcome)}"

    assert until_unreached(attempt) > AT_LEAST["GC"]


def leave_garbage(scene: Scene) -> None:
    """For GC: a container that was attached, and an address of one that never was."""
    scene.network().add(scene.pod)
    (scene.data_dir / "lan/10.1.0.99").write_text("gone\r\neth0")


def test_a_gc_that_cannot_list_the_links_collects_what_has_a_record(
    lan: Network, netns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While links come and go all the time the kernel's list may never be whole."""
    lan.add(netns)

    def torn(_nl: object, _kind: str) -> list[object]:
        raise NetlinkError(errno.EINTR, "ip link show", "the kernel's list kept changing")

    monkeypatch.setattr(links, "dump", torn)
    collected = lan.collect()

    assert collected.error["code"] == TRY_AGAIN_LATER
    assert (lan.records, lan.reserved) == ({}, {})


@EACH_ERROR
def test_a_check_that_fails_changes_nothing_and_does_not_call_the_pod_broken(scenes: Scenes, errors: int) -> None:
    scene = scenes(has_life=True)
    result = scene.network().add(scene.pod)
    before = scene.changed()

    def attempt(number: int) -> Iterator[Injected]:
        for fault in failures(number, errors):
            outcome = scene.call(fault, "CHECK", prevResult=result)
            yield outcome
            fails_well(outcome)
            assert scene.changed() == before, told(outcome)
            if outcome.code and outcome.step != "setns":
                assert outcome.error["code"] != CHECK_FAILED, told(outcome)

    assert until_unreached(attempt) > AT_LEAST["CHECK"]
    detach(scene, scene.call(NONE, "CHECK", prevResult=result))


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_a_thread_that_is_lost_in_the_pod_does_nothing_more(scenes: Scenes, command: str) -> None:
    """What it would do to the node, it would do to the pod."""
    scene = scenes(has_life=True)
    keys = {"prevResult": scene.network().add(scene.pod)} if command == "CHECK" else {}
    sound = scene.call(NONE, command, **keys)
    crossings = [number for number, step in enumerate(sound.steps) if step == "setns"]
    assert len(crossings) in (2, 4)

    for number in crossings[1::2]:
        if command == "ADD":
            detach(scene, sound)
        outcome = scene.call(Fault(number, errno.EPERM), command, **keys)

        assert outcome.step == "setns"
        assert outcome.code == 1
        assert b"LostThreadError" in outcome.stdout
        assert set(outcome.steps[number + 1 :]) <= {"close", "write"}, outcome.steps[number + 1 :]

    detach(scene, sound)


# --- somebody presses Ctrl-C ------------------------------------------------------------------------


def test_an_interrupted_add_takes_back_what_it_did(scenes: Scenes) -> None:
    scene = scenes(has_life=True)

    def attempt(number: int) -> Iterator[Injected]:
        outcome = scene.call(Fault(number, INTERRUPT), "ADD")
        yield outcome
        if outcome.step and scene.stage() != "complete":
            assert outcome.code == 1, told(outcome)
            assert not scene.changed(), f"{scene.changed()}, {told(outcome)}"
        detach(scene, outcome)

    assert until_unreached(attempt) > AT_LEAST["ADD"]


def test_an_interrupted_del_is_finished_by_the_next(scenes: Scenes) -> None:
    scene = scenes(has_life=True)

    def attempt(number: int) -> Iterator[Injected]:
        scene.network().add(scene.pod)
        outcome = scene.call(Fault(number, INTERRUPT), "DEL")
        yield outcome
        detach(scene, outcome)

    assert until_unreached(attempt) > AT_LEAST["DEL"]


# --- a process dies ---------------------------------------------------------------------------------

THEN = pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])


def killed(call: Callable[[Fault], Injected], number: int) -> Iterator[Injected]:
    """Dies at the call of that number; if that is a write, once more with half of it written."""
    outcome = call(Fault(number, KILL))
    assert outcome.killed == bool(outcome.step), told(outcome)
    yield outcome
    if outcome.step == "write":
        yield call(Fault(number, KILL, after=True))


@THEN
def test_what_a_killed_add_left_goes_with_what_comes_next(scenes: Scenes, then: str) -> None:
    scene = scenes(has_life=True)

    def attempt(number: int) -> Iterator[Injected]:
        for outcome in killed(lambda fault: scene.call(fault, "ADD"), number):
            yield outcome
            finish(scene, outcome, then)

    assert until_unreached(attempt) > AT_LEAST["ADD"]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=SLOW)], ids=["in turn", "each"])
def test_what_the_killed_first_add_of_a_node_left_goes_with_what_comes_next(scenes: Scenes, every: bool) -> None:
    def attempt(number: int) -> Iterator[Injected]:
        endings = ("DEL", "ADD", "GC")
        for then in endings if every else (endings[number % 3],):
            scene = scenes(has_life=False)
            for outcome in killed(lambda fault: scene.call(fault, "ADD"), number):  # noqa: B023 - called at once
                yield outcome
                finish(scene, outcome, then)
                if then == "ADD":
                    assert scene.noted() == {"net:ipv4:ip_forward": "0", "net:ipv6:conf:all:forwarding": "0"}

    assert until_unreached(attempt) > AT_LEAST["ADD"]


@ON_KERNELS
@THEN
def test_what_a_killed_del_left_goes_with_what_comes_next(scenes: Scenes, then: str, release: str) -> None:
    scene = scenes(has_life=True, release=release)

    def call(fault: Fault) -> Injected:
        scene.network().add(scene.pod)
        return scene.call(fault, "DEL")

    def attempt(number: int) -> Iterator[Injected]:
        for outcome in killed(call, number):
            yield outcome
            finish(scene, outcome, then)

    assert until_unreached(attempt) > AT_LEAST["DEL"]


def test_what_a_killed_gc_left_goes_with_the_next(scenes: Scenes) -> None:
    scene = scenes(has_life=True)

    def call(fault: Fault) -> Injected:
        leave_garbage(scene)
        return scene.collect(fault)

    def attempt(number: int) -> Iterator[Injected]:
        for outcome in killed(call, number):
            yield outcome
            finish(scene, outcome, "GC")

    assert until_unreached(attempt) > AT_LEAST["GC"]


def finish(scene: Scene, outcome: Injected, then: str) -> None:
    """Nothing is left after what comes next; an ADD has all that it should, and one of each."""
    if then == "GC":
        collected = scene.collect()
        assert collected.code == 0, f"{collected}, {told(outcome)}"
        assert not scene.changed(), f"{scene.changed()}, {told(outcome)}"
        return
    if then == "ADD" and scene.stage() != "complete":  # or else it is attached already, and hears so
        result = scene.network().add(scene.pod)
        given = sorted(ip["address"].partition("/")[0] for ip in result["ips"])
        held = [address for address, owner in scene.network().reserved.items() if owner == "a eth0"]
        assert given == held, told(outcome)
        assert [":" in address for address in held] == [False, True], told(outcome)
        assert scene.call(NONE, "CHECK", prevResult=result).code == 0, told(outcome)
    detach(scene, outcome)


def test_a_killed_check_has_changed_nothing(scenes: Scenes) -> None:
    scene = scenes(has_life=True)
    result = scene.network().add(scene.pod)
    before = scene.changed()

    def attempt(number: int) -> Iterator[Injected]:
        for outcome in killed(lambda fault: scene.call(fault, "CHECK", prevResult=result), number):
            yield outcome
            assert scene.changed() == before, told(outcome)

    assert until_unreached(attempt) > AT_LEAST["CHECK"]
    detach(scene, scene.call(NONE, "CHECK", prevResult=result))


# --- the helper of a DEL ----------------------------------------------------------------------------


@ON_KERNELS
def test_a_del_ends_well_whatever_becomes_of_its_helper(scenes: Scenes, release: str) -> None:
    scene = scenes(has_life=True, release=release)

    def attempt(number: int) -> Iterator[Injected]:
        for fault in [*failures(number), *[Fault(number, deadly, late) for deadly in DEADLY for late in (False, True)]]:
            scene.network().add(scene.pod)
            outcome = scene.call(fault._replace(helper=True), "DEL")
            yield outcome
            assert (outcome.code, outcome.stdout) == (0, b""), told(outcome)
            assert not scene.changed(), f"{scene.changed()}, {told(outcome)}"

    assert until_unreached(attempt) == 6  # it is forked, a session, three ranges of descriptors, the request

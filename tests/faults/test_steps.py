"""No step of a verb may fail, or be a process's last, and leave anything behind or touch what is foreign.

Each test goes through all the steps that a plugin takes, whatever they are: so a step that is new is tested from its
first day. What a verb has left goes with the DEL, the ADD or the GC that follows.
"""

from __future__ import annotations

import errno
import functools
from typing import TYPE_CHECKING

import pytest

from cni.kernel import link as links
from cni.kernel.netlink import NetlinkError
from tests.faults.injection import ERRORS, Injected, throughout
from tests.faults.seam import INTERRUPT, KILL, NONE, TERMINATE, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.scene import Scene
    from tests.verbs.networks import Network

    Scenes = Callable[..., Scene]

SLOW = pytest.mark.slow

EACH_ERROR = pytest.mark.parametrize("errors", [1, pytest.param(len(ERRORS), marks=SLOW)], ids=["in turn", "each"])
"""One error for a step and another for the next, or all of them for each."""

# Where the announcement of a link's end doesn't come to who asks for it, another socket listens.
ON_KERNELS = pytest.mark.parametrize("release", ["6.18.0", pytest.param("6.1.0-44-amd64", marks=SLOW)])

THEN = pytest.mark.parametrize("then", ["DEL", "ADD", "GC"])

TRY_AGAIN_LATER = 11
CHECK_FAILED = 103
INTERNAL = 999


# --- what faults there are, and what must be so after each ------------------------------------------


def failing(call: Callable[[Fault], Injected], errors: int = 1, *, late: bool = True, least: int) -> Iterator[Injected]:
    """Each step fails before it has done anything; and once when it has, of those that do something."""

    def fault(number: int, error: int, after: bool = False) -> Fault:
        return Fault(number, ERRORS[(number + error) % len(ERRORS)], after)

    for error in range(errors):
        yield from throughout(call, functools.partial(fault, error=error), least)
    if late:
        yield from throughout(call, functools.partial(fault, error=0, after=True), least // 3)


def dying(call: Callable[[Fault], Injected], *, least: int) -> Iterator[Injected]:
    """Each step that does something is the last of its process: before it is done; and of a write, half way."""
    for outcome in throughout(call, lambda number: Fault(number, KILL), least):
        assert outcome.killed == bool(outcome.step), outcome.told
        yield outcome
        if outcome.step in ("write", "pwrite"):
            yield call(outcome.fault._replace(after=True))


def detach(scene: Scene, outcome: Injected) -> None:
    """A DEL without a fault leaves nothing."""
    after = scene.call(NONE, "DEL")
    assert (after.code, after.stdout) == (0, b""), f"{after}, {outcome.told}"
    nothing_changed(scene, outcome)


def nothing_changed(scene: Scene, outcome: Injected) -> None:
    changed = scene.changed()
    assert not changed, f"{changed}, {outcome.told}"


def fails_well(outcome: Injected) -> None:
    """What the system refuses is a CNI error, and no traceback but where a thread was lost; nothing is left open."""
    if outcome.code and outcome.step != "setns":
        assert outcome.error["code"] != INTERNAL, outcome.told
    got_lost = outcome.fault.after and outcome.step in ("create", "open", "pipe2", "socket")
    if not got_lost and outcome.step != "close" and not outcome.fault.lasting:  # those of sockets never fail
        assert not outcome.left_open, outcome.told


def took_back(scene: Scene, outcome: Injected) -> None:
    """An ADD that failed has left nothing, unless all was done, or its thread is lost: then the record waits."""
    fails_well(outcome)
    # That a file was made, or has its new name, while the kernel says otherwise: nothing foresees that.
    is_odd = outcome.fault.after and outcome.step in ("create", "rename")
    if outcome.code and not is_odd and outcome.step != "setns" and scene.stage() != "complete":
        nothing_changed(scene, outcome)


# --- a step fails -----------------------------------------------------------------------------------


@EACH_ERROR
def test_an_add_that_fails_takes_back_what_it_did(scenes: Scenes, errors: int) -> None:
    scene = scenes(has_life=True)

    for outcome in failing(lambda fault: scene.call(fault, "ADD"), errors, least=100):
        took_back(scene, outcome)
        detach(scene, outcome)


@pytest.mark.parametrize("late", [False, pytest.param(True, marks=SLOW)], ids=["at", "at and after"])
def test_the_first_add_of_a_node_that_fails_leaves_at_most_the_bridge(scenes: Scenes, late: bool) -> None:
    scene: Scene

    def add(fault: Fault) -> Injected:
        nonlocal scene
        scene = scenes(has_life=False)
        return scene.call(fault, "ADD")

    for outcome in failing(add, late=late, least=150):
        took_back(scene, outcome)
        detach(scene, outcome)


@pytest.mark.parametrize("has_life", [True, pytest.param(False, marks=SLOW)], ids=["with a bridge", "first"])
def test_an_add_that_cannot_take_anything_back_leaves_that_to_a_del(scenes: Scenes, has_life: bool) -> None:
    """From some call on the kernel and the disk refuse everything."""
    scene = scenes(has_life=has_life)

    def fault(number: int) -> Fault:
        return Fault(number, ERRORS[number % len(ERRORS)], lasting=True)

    def add(fault: Fault) -> Injected:
        nonlocal scene
        scene = scene if has_life else scenes(has_life=False)
        return scene.call(fault, "ADD")

    for outcome in throughout(add, fault, 100):
        fails_well(outcome)
        detach(scene, outcome)


@ON_KERNELS
@EACH_ERROR
def test_a_del_that_fails_is_finished_by_the_next(scenes: Scenes, errors: int, release: str) -> None:
    scene = scenes(has_life=True, release=release)

    def attach_and_detach(fault: Fault) -> Injected:
        scene.network().add(scene.pod)
        return scene.call(fault, "DEL")

    for outcome in failing(attach_and_detach, errors, least=60):
        fails_well(outcome)
        if outcome.code == 0:
            nothing_changed(scene, outcome)
        detach(scene, outcome)


@EACH_ERROR
def test_a_gc_that_fails_is_finished_by_the_next(scenes: Scenes, errors: int) -> None:
    scene = scenes(has_life=True)

    for outcome in failing(lambda fault: leave_and_collect(scene, fault), errors, late=errors > 1, least=80):
        fails_well(outcome)
        if outcome.code:
            assert scene.collect().code == 0, outcome.told
        nothing_changed(scene, outcome)


def leave_and_collect(scene: Scene, fault: Fault) -> Injected:
    """A GC that finds a container that was attached, and an address of one that never was."""
    scene.network().add(scene.pod)
    (scene.data_dir / "lan/10.1.0.99").write_text("gone\r\neth0")
    return scene.collect(fault)


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

    for outcome in failing(lambda fault: scene.call(fault, "CHECK", prevResult=result), errors, least=80):
        fails_well(outcome)
        assert scene.changed() == before, outcome.told
        if outcome.code and outcome.step != "setns":
            assert outcome.error["code"] != CHECK_FAILED, outcome.told

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


def interrupted(number: int) -> Fault:
    return Fault(number, INTERRUPT)


def test_an_interrupted_add_takes_back_what_it_did(scenes: Scenes) -> None:
    scene = scenes(has_life=True)

    for outcome in throughout(lambda fault: scene.call(fault, "ADD"), interrupted, 100):
        if outcome.step and scene.stage() != "complete":
            assert outcome.code == 1, outcome.told
            nothing_changed(scene, outcome)
        detach(scene, outcome)


def test_an_interrupted_del_is_finished_by_the_next(scenes: Scenes) -> None:
    scene = scenes(has_life=True)

    def attach_and_detach(fault: Fault) -> Injected:
        scene.network().add(scene.pod)
        return scene.call(fault, "DEL")

    for outcome in throughout(attach_and_detach, interrupted, 60):
        detach(scene, outcome)


# --- a process dies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["DEL", "ADD", "GC", "DEL, configured otherwise"])
def test_what_a_killed_add_left_goes_with_what_comes_next(scenes: Scenes, then: str) -> None:
    scene = scenes(has_life=True)

    for outcome in dying(lambda fault: scene.call(fault, "ADD"), least=30):
        finish(scene, outcome, then)


@THEN
def test_what_the_killed_first_add_of_a_node_left_goes_with_what_comes_next(scenes: Scenes, then: str) -> None:
    scene: Scene

    def add(fault: Fault) -> Injected:
        nonlocal scene
        scene = scenes(has_life=False)
        return scene.call(fault, "ADD")

    for outcome in dying(add, least=50):
        finish(scene, outcome, then)
        if then == "ADD":
            assert scene.noted() == {"net:ipv4:ip_forward": "0", "net:ipv6:conf:all:forwarding": "0"}


@ON_KERNELS
@THEN
def test_what_a_killed_del_left_goes_with_what_comes_next(scenes: Scenes, then: str, release: str) -> None:
    scene = scenes(has_life=True, release=release)

    def attach_and_detach(fault: Fault) -> Injected:
        scene.network().add(scene.pod)
        return scene.call(fault, "DEL")

    for outcome in dying(attach_and_detach, least=15):
        finish(scene, outcome, then)


def test_what_a_killed_gc_left_goes_with_the_next(scenes: Scenes) -> None:
    scene = scenes(has_life=True)

    for outcome in dying(lambda fault: leave_and_collect(scene, fault), least=20):
        finish(scene, outcome, "GC")


def finish(scene: Scene, outcome: Injected, then: str) -> None:
    """Nothing is left after what comes next; an ADD has all that it should, and one of each."""
    if then == "GC":
        collected = scene.collect()
        assert collected.code == 0, f"{collected}, {outcome.told}"
        nothing_changed(scene, outcome)
        return
    if then == "DEL, configured otherwise":
        deleted = scene.call(NONE, "DEL", bridge="br9", ipam={"dataDir": str(scene.data_dir / "none")})
        assert deleted.code == 0, f"{deleted}, {outcome.told}"
        nothing_changed(scene, outcome)
        return
    if then == "ADD" and scene.stage() != "complete":  # or else it is attached already, and hears so
        result = scene.network().add(scene.pod)
        given = sorted(ip["address"].partition("/")[0] for ip in result["ips"])
        held = [address for address, owner in scene.network().reserved.items() if owner == "a eth0"]
        assert given == held, outcome.told
        assert [":" in address for address in held] == [False, True], outcome.told
        assert scene.call(NONE, "CHECK", prevResult=result).code == 0, outcome.told
    detach(scene, outcome)


def test_a_killed_check_has_changed_nothing(scenes: Scenes) -> None:
    scene = scenes(has_life=True)
    result = scene.network().add(scene.pod)
    before = scene.changed()

    for outcome in dying(lambda fault: scene.call(fault, "CHECK", prevResult=result), least=10):
        assert scene.changed() == before, outcome.told

    detach(scene, scene.call(NONE, "CHECK", prevResult=result))


# --- the helper of a DEL ----------------------------------------------------------------------------


@ON_KERNELS
@pytest.mark.parametrize("after", [False, True], ids=["at", "after"])
@pytest.mark.parametrize("what", [errno.EPERM, INTERRUPT, TERMINATE, KILL])
def test_a_del_ends_well_whatever_becomes_of_its_helper(scenes: Scenes, what: int, after: bool, release: str) -> None:
    scene = scenes(has_life=True, release=release)

    def attach_and_detach(fault: Fault) -> Injected:
        scene.network().add(scene.pod)
        return scene.call(fault, "DEL")

    # It is forked, begins a session, closes three ranges of descriptors, sends the request.
    for outcome in throughout(attach_and_detach, lambda number: Fault(number, what, after, helper=True), 6):
        assert (outcome.code, outcome.stdout) == (0, b""), outcome.told
        nothing_changed(scene, outcome)

"""The state of a node when it isn't what it should be: of another boot, torn, full, read-only, locked.

A plugin goes on where it can. Where it can't it says what is wrong, and has done nothing by halves.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cni import boot, hostlocal
from cni.attach import node as nodes
from cni.attach import shared
from cni.attach.locks import Lock
from cni.attach.node import Node
from cni.key import Key, fnv1a
from ipam.store import Directory
from tests import namespaces, oracle
from tests.faults.scene import dual_stack
from tests.verbs.networks import Network, addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.calls import InProcess

TRY_AGAIN_LATER = 11
STATE_UNUSABLE = 106


def links(network: Network) -> list[str]:
    return [link.name for link in oracle.links(network.node)]


def nothing_is_left(network: Network) -> None:
    """But a bridge, where there was one."""
    assert (network.records, network.reserved) == ({}, {})
    assert set(links(network)) <= {"br0"}
    assert list(network.plugin.run_dir.glob("attachments/*/.*")) == []


# --- of another boot --------------------------------------------------------------------------------


@pytest.fixture
def rebooted(
    lan: Network, make_netns: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[Network, dict[str, Any]]:
    """A node that has booted since pod `a` was attached and has its state on a disk; and the result of that ADD."""
    with monkeypatch.context() as patch:
        patch.setattr(boot, "stamp", lambda: "6d1b5f3c-0000-4000-8000-000000000000 42")
        result = lan.add(make_netns())
    fresh = make_netns()
    namespaces.lo_up(fresh)
    return replace(lan, node=fresh), result


def test_a_record_of_another_boot_keeps_nobody_from_attaching(
    rebooted: tuple[Network, dict[str, Any]], netns: Path
) -> None:
    lan, before = rebooted

    result = lan.add(netns)

    assert len(addresses(result)) == len(addresses(before))
    assert sorted(lan.reserved) == sorted(addresses(result))
    assert lan.check(result, netns).code == 0
    (record,) = lan.records.values()
    assert (lan.plugin.run_dir / "boot").read_text() == record["boot"]

    lan.delete()
    nothing_is_left(lan)


def test_del_clears_up_after_another_boot(rebooted: tuple[Network, dict[str, Any]]) -> None:
    lan, _ = rebooted

    lan.delete()
    nothing_is_left(lan)


def test_gc_clears_up_after_another_boot(rebooted: tuple[Network, dict[str, Any]]) -> None:
    lan, _ = rebooted

    assert lan.collect().code == 0
    nothing_is_left(lan)


# --- torn -------------------------------------------------------------------------------------------

TORN = {
    "empty": b"",
    "half": b'{"format": 1, "boot": "',
    "not text": b"\xff\xfe\x00",
    "no object": b"[]",
    "of a later format": b'{"format": 2}',
    "nested": b"[" * 100_000,
}
EACH_TORN = pytest.mark.parametrize("torn", TORN.values(), ids=TORN.keys())


@pytest.fixture
def record(lan: Network, netns: Path) -> Path:
    """The record of pod `a`, which is attached."""
    lan.add(netns)
    (path,) = lan.plugin.run_dir.glob("attachments/lan/*.json")
    return path


@EACH_TORN
def test_what_a_torn_record_knew_is_attached_anew(lan: Network, netns: Path, record: Path, torn: bytes) -> None:
    record.write_bytes(torn)

    result = lan.add(netns)

    assert sorted(lan.reserved) == sorted(addresses(result))
    assert lan.check(result, netns).code == 0
    lan.delete()
    nothing_is_left(lan)


@EACH_TORN
def test_what_a_torn_record_knew_is_detached_without_it(lan: Network, record: Path, torn: bytes) -> None:
    record.write_bytes(torn)

    lan.delete()

    assert not record.exists()
    nothing_is_left(lan)


@EACH_TORN
def test_what_a_torn_record_knew_is_collected_without_it(lan: Network, record: Path, torn: bytes) -> None:
    record.write_bytes(torn)

    assert lan.collect().code == 0

    assert not record.exists()
    nothing_is_left(lan)


def test_how_a_setting_was_is_noted_once_and_whole(run_dir: Path) -> None:
    note = run_dir / "before/net:ipv4:ip_forward"
    with Node(str(run_dir), lambda _: pytest.fail("asks for addresses")) as node:
        node.prepare(adding=True)
        node.keep_before("net/ipv4/ip_forward", "0")
        node.keep_before("net/ipv4/ip_forward", "1")
        assert note.read_text() == "0"

        note.write_text("")  # who died at it had changed nothing yet
        node.keep_before("net/ipv4/ip_forward", "1")
        assert note.read_text() == "1"


def test_a_torn_boot_stamp_is_written_anew(lan: Network, netns: Path) -> None:
    lan.plugin.run_dir.mkdir()
    (lan.plugin.run_dir / "boot").write_text("6d1b")

    lan.add(netns)

    (record,) = lan.records.values()
    assert (lan.plugin.run_dir / "boot").read_text() == record["boot"]
    lan.delete()


# --- full, read-only, something else ----------------------------------------------------------------

SIZE = 64 << 10


@pytest.fixture
def small(run_dir: Path) -> Iterator[Path]:
    """The run directory as a file system of 64 KiB."""
    run_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", run_dir], check=True)
    yield run_dir
    subprocess.run(["umount", run_dir], check=True)


def fill(folder: Path, left: int) -> None:
    """Leaves so many bytes, in pages, for others; less where there is less."""
    path = folder / "filler"
    path.unlink(missing_ok=True)
    with path.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert os.statvfs(folder).f_bfree == 0
        file.truncate(max(0, file.tell() - left))


@pytest.mark.parametrize("everything", [False, True], ids=["records only", "addresses too"])
def test_where_room_ends_an_add_takes_back_what_it_did(
    in_process: InProcess, node: Path, netns: Path, tmp_path: Path, small: Path, everything: bool
) -> None:
    """A page more each time, until it is enough; and a DEL needs none."""
    data_dir = (small if everything else tmp_path) / "networks"
    lan = Network(in_process, node, dual_stack(data_dir), data_dir)
    codes = []

    for pages in range(SIZE // 4096):
        fill(small, 4096 * pages)
        outcome = lan.call("ADD", netns=netns)
        codes.append(outcome.code)
        if outcome.code:
            assert outcome.error["code"] == STATE_UNUSABLE
            assert "No space left on device" in outcome.error["msg"]
            assert str(small) in outcome.error["msg"]
            nothing_is_left(lan)
        else:
            assert lan.check(outcome.result, netns).code == 0
            fill(small, 0)
        lan.delete()
        nothing_is_left(lan)

    assert codes == sorted(codes, reverse=True), "what is enough once is not enough later"
    assert 0 in codes
    assert 1 in codes


def test_on_a_full_disk_what_lives_goes_on_and_can_leave(
    lan: Network, make_netns: Callable[[], Path], small: Path
) -> None:
    first, second = make_netns(), make_netns()
    result = lan.add(first)
    records, reserved = lan.records, lan.reserved
    fill(small, 0)

    refused = lan.call("ADD", "b", second)

    assert refused.error["code"] == STATE_UNUSABLE
    assert refused.error["details"] == "make room on that file system"
    assert (lan.records, lan.reserved) == (records, reserved)
    assert lan.check(result, first).code == 0

    assert lan.collect(("a", "eth0")).code == 0
    assert lan.check(result, first).code == 0
    assert lan.collect().code == 0
    nothing_is_left(lan)


def test_what_cannot_be_written_is_said_before_anything_is_done(lan: Network, netns: Path, small: Path) -> None:
    lan.add(netns)
    lan.delete()
    subprocess.run(["mount", "-o", "remount,bind,ro", small], check=True)

    refused = lan.call("ADD", netns=netns)

    assert refused.error["code"] == STATE_UNUSABLE
    assert "Read-only file system" in refused.error["msg"]
    assert "PODWIRE_RUN_DIR" in refused.error["details"]
    nothing_is_left(lan)


def test_a_del_that_cannot_write_is_finished_when_it_can(lan: Network, netns: Path, small: Path) -> None:
    lan.add(netns)
    subprocess.run(["mount", "-o", "remount,bind,ro", small], check=True)

    refused = lan.call("DEL", netns=netns)

    assert refused.error["code"] == STATE_UNUSABLE
    subprocess.run(["mount", "-o", "remount,bind,rw", small], check=True)
    lan.delete()
    nothing_is_left(lan)


@pytest.mark.parametrize("where", ["", "attachments"])
def test_a_file_where_a_folder_should_be_is_named(lan: Network, netns: Path, where: str) -> None:
    file = lan.plugin.run_dir / where
    file.parent.mkdir(exist_ok=True)
    file.write_text("not ours")

    for command in ("ADD", "DEL"):
        refused = lan.call(command, netns=netns)

        assert refused.error["code"] == STATE_UNUSABLE
        assert str(file) in refused.error["msg"]
        assert "Not a directory" in refused.error["msg"]
    assert file.read_text() == "not ours"
    assert links(lan) == []
    assert lan.reserved == {}


# --- locked -----------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a lock for longer than a moment."""
    for module in (nodes, shared):
        monkeypatch.setattr(module, "Lock", functools.partial(Lock, patience_s=0.05))
    monkeypatch.setattr(hostlocal, "Directory", functools.partial(Directory, patience_s=0.05))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("what", ["attachment", "bridge", "addresses"])
def test_a_lock_that_somebody_keeps_is_named_and_nothing_is_done(lan: Network, netns: Path, what: str) -> None:
    run_dir = lan.plugin.run_dir
    run_dir.mkdir()
    key = Key("lan", "a", "eth0", "bridge")
    holder: Lock | Directory
    if what == "attachment":
        holder, name, file = Lock(f"{run_dir}/attachments.lock", key.hash, "it"), str(key), "attachments.lock"
    elif what == "bridge":
        holder, name, file = Lock(f"{run_dir}/shared.lock", fnv1a(b"br0"), "it"), "bridge br0", "shared.lock"
    else:
        holder, name, file = Directory(str(lan.data_dir), "lan"), str(lan.data_dir / "lan/lock"), "fuser"

    with holder:
        refused = lan.call("ADD", netns=netns)

    assert refused.error["code"] == TRY_AGAIN_LATER
    assert name in refused.error["msg"]
    assert file in refused.error["details"]
    assert links(lan) == []
    if what != "addresses":
        nothing_is_left(lan)
    lan.delete()
    nothing_is_left(lan)

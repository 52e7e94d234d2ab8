"""host-local as a plugin of its own: every verb, in every version, as a runtime or a main plugin calls it."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cni.spec import versions
from tests.verbs.networks import reservations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests import calls

NETNS = "/run/netns/nobody-looks"
POD: dict[str, Any] = {"subnet": "10.1.0.0/24"}
DUAL: dict[str, Any] = {"ranges": [[POD], [{"subnet": "fd00::/64"}]]}

since_0_4 = [version for version in versions.SUPPORTED if versions.parse(version) >= (0, 4, 0)]


def config(data_dir: Path, ipam: dict[str, Any], version: str = versions.CURRENT, **others: object) -> dict[str, Any]:
    """As a main plugin passes it on: its own configuration, whole."""
    return {
        "cniVersion": version,
        "name": "blue",
        "type": "bridge",
        "bridge": "br0",
        "ipam": {"type": "host-local", "dataDir": str(data_dir), **ipam},
        **others,
    }


# --- ADD ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_add_answers_in_the_version_it_was_asked_in(in_process: calls.InProcess, data_dir: Path, version: str) -> None:
    ipam = {**DUAL, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd01::/64", "gw": "fd00::9", "mtu": 1400, "table": 0}]}

    result = in_process("host-local", "ADD", config(data_dir, ipam, version), netns=NETNS).result

    four: dict[str, Any] = {"address": "10.1.0.2/24", "gateway": "10.1.0.1"}
    six: dict[str, Any] = {"address": "fd00::2/64", "gateway": "fd00::1"}
    if version in ("0.1.0", "0.2.0"):
        assert result == {
            "cniVersion": version,
            "ip4": {"ip": four["address"], "gateway": four["gateway"], "routes": [{"dst": "0.0.0.0/0"}]},
            "ip6": {
                "ip": six["address"],
                "gateway": six["gateway"],
                "routes": [{"dst": "fd01::/64", "gw": "fd00::9"}],
            },
        }
    else:
        if version in ("0.3.0", "0.3.1", "0.4.0"):
            four, six = {**four, "version": "4"}, {**six, "version": "6"}
        assert result == {"cniVersion": version, "ips": [four, six], "routes": ipam["routes"]}


def test_add_by_exec(plugin: calls.Exec, data_dir: Path) -> None:
    outcome = plugin("host-local", "ADD", config(data_dir, DUAL), container_id="c1", netns=NETNS)

    assert [ip["address"] for ip in outcome.result["ips"]] == ["10.1.0.2/24", "fd00::2/64"]
    assert outcome.stderr == ""
    assert reservations(data_dir, "blue") == {"10.1.0.2": "c1 eth0", "fd00::2": "c1 eth0"}


def test_each_interface_of_a_container_has_addresses_of_its_own(in_process: calls.InProcess, data_dir: Path) -> None:
    for ifname in ("eth0", "eth1"):
        in_process("host-local", "ADD", config(data_dir, POD), container_id="c1", netns=NETNS, ifname=ifname)
    assert reservations(data_dir, "blue") == {"10.1.0.2": "c1 eth0", "10.1.0.3": "c1 eth1"}

    in_process("host-local", "DEL", config(data_dir, POD), container_id="c1", ifname="eth0")
    assert reservations(data_dir, "blue") == {"10.1.0.3": "c1 eth1"}


def test_a_repeated_add_gets_the_same_addresses(in_process: calls.InProcess, data_dir: Path) -> None:
    first = in_process("host-local", "ADD", config(data_dir, DUAL), netns=NETNS).result

    assert in_process("host-local", "ADD", config(data_dir, DUAL), netns=NETNS).result == first
    assert len(reservations(data_dir, "blue")) == 2


@pytest.mark.parametrize(
    ("args", "others"),
    [
        ("IP=10.1.0.77", {}),
        ("IgnoreUnknown=1;K8S_POD_NAME=p;IP=10.1.0.77", {}),
        ("", {"args": {"cni": {"ips": ["10.1.0.77"]}}}),
        ("", {"runtimeConfig": {"ips": ["10.1.0.77/8"]}}),
    ],
)
def test_a_requested_address_is_given(
    in_process: calls.InProcess, data_dir: Path, args: str, others: dict[str, Any]
) -> None:
    result = in_process("host-local", "ADD", config(data_dir, DUAL, **others), netns=NETNS, args=args).result

    assert [ip["address"] for ip in result["ips"]] == ["10.1.0.77/24", "fd00::2/64"]


def test_ranges_of_the_runtime_come_first(in_process: calls.InProcess, data_dir: Path) -> None:
    ranges = {"ipRanges": [[{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.50", "gateway": "10.9.0.254"}]]}

    result = in_process("host-local", "ADD", config(data_dir, POD, runtimeConfig=ranges), netns=NETNS).result

    assert result["ips"] == [
        {"address": "10.9.0.50/24", "gateway": "10.9.0.254"},
        {"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
    ]


def test_what_fails_reserves_nothing(in_process: calls.InProcess, data_dir: Path) -> None:
    tiny = {"subnet": "fd00::/64", "rangeStart": "fd00::5", "rangeEnd": "fd00::5"}
    ipam = {"ranges": [[POD], [tiny]]}
    assert in_process("host-local", "ADD", config(data_dir, ipam), container_id="c1", netns=NETNS).result
    before = reservations(data_dir, "blue")

    error = in_process("host-local", "ADD", config(data_dir, ipam), container_id="c2", netns=NETNS).error

    assert (error["code"], error["msg"]) == (
        101,
        "failed to allocate for range 1: no IP addresses available in range set: fd00::5-fd00::5",
    )
    assert f"{data_dir}/blue" in error["details"]
    assert reservations(data_dir, "blue") == before


def test_an_absent_ipam_is_the_reference_s_error(in_process: calls.InProcess) -> None:
    error = in_process("host-local", "ADD", {"cniVersion": "1.0.0", "name": "blue"}, netns=NETNS).error

    assert (error["code"], error["msg"]) == (7, "IPAM config missing 'ipam' key")


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_old_versions_cannot_tell_two_addresses_of_one_family(
    in_process: calls.InProcess, data_dir: Path, version: str
) -> None:
    ipam = {"ranges": [[POD], [{"subnet": "10.2.0.0/24"}]]}

    error = in_process("host-local", "ADD", config(data_dir, ipam, version), netns=NETNS).error

    assert error["msg"] == f"CNI version {version} does not support more than 1 address per family"
    assert not data_dir.exists()


# --- DEL ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_del_gives_back_and_can_be_repeated(in_process: calls.InProcess, data_dir: Path, version: str) -> None:
    in_process("host-local", "ADD", config(data_dir, DUAL, version), container_id="c1", netns=NETNS)
    in_process("host-local", "ADD", config(data_dir, DUAL, version), container_id="c2", netns=NETNS)

    for _ in range(2):
        outcome = in_process("host-local", "DEL", config(data_dir, DUAL, version), container_id="c1")
        assert (outcome.code, outcome.stdout) == (0, b"")

    assert reservations(data_dir, "blue") == {"10.1.0.3": "c2 eth0", "fd00::3": "c2 eth0"}


@pytest.mark.parametrize("ipam", [{}, {"ranges": "rubbish"}, {"subnet": "10.9.0.0/24"}])
def test_del_finds_what_was_reserved_although_the_ranges_changed(
    in_process: calls.InProcess, data_dir: Path, ipam: dict[str, Any]
) -> None:
    in_process("host-local", "ADD", config(data_dir, DUAL), netns=NETNS)

    assert in_process("host-local", "DEL", config(data_dir, ipam)).code == 0

    assert reservations(data_dir, "blue") == {}


def test_del_where_nothing_ever_was_makes_nothing(in_process: calls.InProcess, data_dir: Path) -> None:
    assert in_process("host-local", "DEL", config(data_dir, DUAL)).code == 0

    assert not data_dir.exists()


# --- CHECK --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", since_0_4)
def test_check_compares_with_the_previous_result(in_process: calls.InProcess, data_dir: Path, version: str) -> None:
    previous = in_process("host-local", "ADD", config(data_dir, DUAL, version), container_id="c1", netns=NETNS).result

    def check() -> calls.Outcome:
        asked = config(data_dir, DUAL, version, prevResult=previous)
        return in_process("host-local", "CHECK", asked, container_id="c1", netns=NETNS)

    assert check().code == 0
    previous["ips"][1]["address"] = "fd00::77/64"
    assert check().error["msg"] == "host-local: fd00::77 is not reserved for container c1 eth0 but for nobody"


@pytest.mark.parametrize("version", since_0_4)
def test_check_of_what_was_never_added_is_the_reference_s_error(
    in_process: calls.InProcess, data_dir: Path, version: str
) -> None:
    error = in_process("host-local", "CHECK", config(data_dir, DUAL, version), container_id="c1", netns=NETNS).error

    assert error["msg"] == "host-local: Failed to find address added by container c1"
    assert not data_dir.exists()


# --- STATUS -------------------------------------------------------------------------------------------


def test_status_does_not_mind_a_full_range(in_process: calls.InProcess, data_dir: Path) -> None:
    full = config(data_dir, {"subnet": "10.1.0.0/30"})
    in_process("host-local", "ADD", full, netns=NETNS)

    outcome = in_process("host-local", "STATUS", full)

    assert (outcome.code, outcome.stdout) == (0, b"")


def test_status_reports_a_directory_that_cannot_be_written(in_process: calls.InProcess, data_dir: Path) -> None:
    data_dir.write_text("a file")

    error = in_process("host-local", "STATUS", config(data_dir, DUAL)).error

    assert (error["code"], error["msg"]) == (
        50,
        f"host-local: cannot keep reservations in {data_dir}/blue: Not a directory",
    )


# --- GC -----------------------------------------------------------------------------------------------


def gc(data_dir: Path, living: list[str] | None, key: str = "cni.dev/valid-attachments") -> dict[str, Any]:
    listed = None if living is None else [{"containerID": one, "ifname": "eth0"} for one in living]
    return config(data_dir, DUAL) | {key: listed}


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_gc_gives_back_what_is_not_in_the_list(in_process: calls.InProcess, data_dir: Path, key: str) -> None:
    for container_id in ("c1", "c2", "c3"):
        in_process("host-local", "ADD", config(data_dir, POD), container_id=container_id, netns=NETNS)
    in_process("host-local", "ADD", config(data_dir, POD), container_id="c2", netns=NETNS, ifname="eth1")

    outcome = in_process("host-local", "GC", gc(data_dir, ["c2", "c9"], key))

    assert (outcome.code, outcome.stdout) == (0, b"")
    assert reservations(data_dir, "blue") == {"10.1.0.3": "c2 eth0"}


def test_no_list_means_nothing_to_do_and_an_empty_one_everything(in_process: calls.InProcess, data_dir: Path) -> None:
    in_process("host-local", "ADD", config(data_dir, POD), netns=NETNS)

    for nothing in (config(data_dir, POD), gc(data_dir, None)):
        assert in_process("host-local", "GC", nothing).code == 0
        assert len(reservations(data_dir, "blue")) == 1

    assert in_process("host-local", "GC", gc(data_dir, [])).code == 0
    assert reservations(data_dir, "blue") == {}


def test_gc_where_nothing_ever_was_makes_nothing(in_process: calls.InProcess, data_dir: Path) -> None:
    assert in_process("host-local", "GC", gc(data_dir, [])).code == 0

    assert not data_dir.exists()


# --- the directory ------------------------------------------------------------------------------------


def test_the_default_directory_is_the_reference_s(in_process: calls.InProcess) -> None:
    asked = config("", POD)  # type: ignore[arg-type]  # "" is the default

    in_process("host-local", "ADD", asked, netns=NETNS)
    try:
        with open("/var/lib/cni/networks/blue/last_reserved_ip.0") as file:
            assert file.read() == "10.1.0.2"
    finally:
        shutil.rmtree("/var/lib/cni")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_full_disk_add_fails_and_leaves_what_is_there_alone(in_process: calls.InProcess, small_disk: Path) -> None:
    asked = config(small_disk, DUAL)

    def add(container_id: str) -> calls.Outcome:
        return in_process("host-local", "ADD", asked, container_id=container_id, netns=NETNS)

    containers = [f"c{i}" for i in range(64)]
    outcomes = [add(one) for one in containers]
    attached = [one for one, outcome in zip(containers, outcomes) if outcome.code == 0]

    assert 0 < len(attached) < len(containers)
    error = next(outcome.error for outcome in outcomes if outcome.code)
    assert error["code"] == 106
    assert error["msg"] == f"host-local: cannot keep reservations in {small_disk}/blue: No space left on device"
    assert sorted(reservations(small_disk, "blue").values()) == sorted(2 * [f"{one} eth0" for one in attached])
    assert in_process("host-local", "STATUS", asked).error["code"] == 50

    for one in attached:
        assert in_process("host-local", "DEL", asked, container_id=one).code == 0
    assert reservations(small_disk, "blue") == {}
    assert in_process("host-local", "STATUS", asked).code == 0
    assert add("c99").code == 0


def test_nothing_that_the_configuration_can_say_ends_in_a_defect(in_process: calls.InProcess, data_dir: Path) -> None:
    odd: list[object] = [
        None,
        True,
        0,
        -1,
        1.5,
        "",
        "x",
        "é",
        "10.1.0.5",
        "10.1.0.0/24",
        [],
        [[]],
        [[None]],
        {},
        [{}],
        "/",
        "\u0000",
    ]
    keys = [
        "subnet",
        "rangeStart",
        "rangeEnd",
        "gateway",
        "ranges",
        "routes",
        "resolvConf",
        "exclude",
        "statusWhenFull",
    ]
    for command in ("ADD", "CHECK", "DEL", "STATUS", "GC"):
        for key in keys:
            for value in odd:
                asked = json.dumps(config(data_dir, {**POD, key: value}))
                outcome = in_process("host-local", command, asked, netns=NETNS)
                assert outcome.code == 0 or outcome.error["code"] in (5, 7, 103), outcome


# --- what is in the way ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ipam", "words"),
    [
        (
            {"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "10.1.0.128/25"}]]},
            "invalid range set 0: subnets 10.1.0.1-10.1.0.254 and 10.1.0.129-10.1.0.254 overlap",
        ),
        ({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/25"}]]}, "range set 0 overlaps with 1"),
        ({"subnet": "10.1.0.0/24", "gateway": "10.2.0.1"}, "invalid range set 0: gateway 10.2.0.1 not in network"),
        (
            {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.5"},
            "invalid range set 0: RangeStart 10.1.0.9 not in network 10.1.0.0/24 up to RangeEnd 10.1.0.5",
        ),
        ({"subnet": "10.1.0.5/24"}, "invalid range set 0: Network has host bits set."),
        ({"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]}, "invalid range set 0: mixed address"),
        ({"ranges": [[{"subnet": "10.1.0.0/24", "exclude": ["10.2.0.0/24"]}]]}, "invalid range set 0: excluded"),
    ],
)
def test_ranges_that_make_no_sense_are_refused_before_anything_is_made(
    in_process: calls.InProcess, data_dir: Path, ipam: dict[str, Any], words: str
) -> None:
    for command in ("ADD", "STATUS"):
        error = in_process("host-local", command, config(data_dir, ipam), netns=NETNS).error

        assert error["code"] == 7
        assert error["msg"].startswith(words)
    assert not data_dir.exists()


@pytest.mark.parametrize("kind", ["garbage", "directory", "fifo", "symlink"])
def test_what_somebody_put_where_a_reservation_would_be_is_passed_over_and_stays(
    in_process: calls.InProcess, data_dir: Path, kind: str
) -> None:
    place = data_dir / "blue" / "10.1.0.2"
    place.parent.mkdir(parents=True)
    if kind == "garbage":
        place.write_bytes(b"\xff\x00garbage\n" * 1000)
    elif kind == "directory":
        place.mkdir()
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to("/nowhere")

    result = in_process("host-local", "ADD", config(data_dir, POD), netns=NETNS).result
    assert [ip["address"] for ip in result["ips"]] == ["10.1.0.3/24"]
    assert in_process("host-local", "CHECK", config(data_dir, POD, prevResult=result), netns=NETNS).code == 0
    assert in_process("host-local", "DEL", config(data_dir, POD)).code == 0

    assert sorted(path.name for path in place.parent.iterdir()) == ["10.1.0.2", "last_reserved_ip.0", "lock"]


@pytest.mark.parametrize("name", [".podwire", ".podwire/blue", ".podwire/blue/stamps"])
def test_a_file_where_a_directory_of_ours_should_be_is_an_error_that_names_it(
    in_process: calls.InProcess, data_dir: Path, name: str
) -> None:
    (data_dir / name).parent.mkdir(parents=True)
    (data_dir / name).touch()

    error = in_process("host-local", "ADD", config(data_dir, POD), netns=NETNS).error

    assert error["code"] == 106
    assert error["msg"] == f"host-local: cannot keep reservations in {data_dir}/blue: Not a directory"
    assert name in error["details"]
    assert not list((data_dir / "blue").glob("10.*"))


def test_a_directory_that_cannot_be_written_is_an_error(in_process: calls.InProcess, data_dir: Path) -> None:
    data_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(data_dir)], check=True)
    try:
        error = in_process("host-local", "ADD", config(data_dir, POD), netns=NETNS).error
        status = in_process("host-local", "STATUS", config(data_dir, POD)).error
    finally:
        subprocess.run(["umount", str(data_dir)], check=True)

    assert (error["code"], error["msg"]) == (
        106,
        f"host-local: cannot keep reservations in {data_dir}/blue: Read-only file system",
    )
    assert status["code"] == 50


def test_a_lock_that_is_held_for_long_says_try_again(
    in_process: calls.InProcess, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_process("host-local", "ADD", config(data_dir, POD), netns=NETNS).code == 0
    before = reservations(data_dir, "blue")
    monkeypatch.setattr("ipam.store._FIRST_PAUSE_S", 0)
    monkeypatch.setattr("ipam.store._LONGEST_PAUSE_S", 0)
    clock = itertools.count(0, 10)
    monkeypatch.setattr("ipam.store.time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    with open(data_dir / "blue" / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in ("ADD", "DEL", "CHECK"):
            error = in_process("host-local", command, config(data_dir, POD), container_id="c2", netns=NETNS).error
            assert error["code"] == 11
            assert f"{data_dir}/blue/lock has been held for 20 seconds" in error["msg"]
        # Passing troubles are no reason to call a node unusable.
        full = config(data_dir, {**POD, "statusWhenFull": True})
        assert in_process("host-local", "STATUS", full).code == 0

    assert reservations(data_dir, "blue") == before

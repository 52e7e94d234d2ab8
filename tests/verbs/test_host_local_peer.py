"""Our host-local and the reference's on one directory: in turns, at the same time, through kill -9 and restarts."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from cni import boot
from cni.spec import versions
from cni.spec.netconf import NetConf
from tests.conftest import REFERENCE_PLUGINS
from tests.verbs.networks import reservations

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests import calls

THEIRS = REFERENCE_PLUGINS / "host-local"
NETNS = "/run/netns/nobody-looks"
POD: dict[str, Any] = {"subnet": "10.1.0.0/26"}
DUAL: dict[str, Any] = {"ranges": [[POD], [{"subnet": "fd00::/64"}]]}

BOOT = boot.stamp()

# The reference that distributions have ends there.
VERSIONS = versions.SUPPORTED[:-1]

needs_reference = pytest.mark.needs(str(THEIRS))


def config(data_dir: Path, ipam: dict[str, Any] = DUAL, version: str = "1.0.0", **others: object) -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": str(data_dir), **ipam}
    return {"cniVersion": version, "name": "blue", "type": "bridge", "ipam": ipam, **others}


class Side(NamedTuple):
    """One of the two implementations, called as a plugin."""

    name: str
    call: Callable[..., calls.Outcome]

    def addresses(self, asked: dict[str, Any], container_id: str, **how: Any) -> list[str]:
        result = self.call("host-local", "ADD", asked, container_id=container_id, netns=NETNS, **how).result
        ips = result.get("ips") or [{"address": result[key]["ip"]} for key in ("ip4", "ip6") if key in result]
        return [ip["address"].partition("/")[0] for ip in ips]

    def delete(self, asked: dict[str, Any], container_id: str) -> None:
        assert self.call("host-local", "DEL", asked, container_id=container_id, netns=NETNS).code == 0

    def check(self, asked: dict[str, Any], container_id: str) -> int:
        return self.call("host-local", "CHECK", asked, container_id=container_id, netns=NETNS).code


@pytest.fixture(params=["ours, then theirs", "theirs, then ours"])
def sides(request: pytest.FixtureRequest, in_process: calls.InProcess, plugin: calls.Exec) -> tuple[Side, Side]:
    """The one that comes first, and the one that takes over."""

    def reference(*arguments: Any, **named: Any) -> calls.Outcome:
        return plugin(*arguments, **named)

    plugin.path = (REFERENCE_PLUGINS,)
    both = Side("ours", in_process), Side("theirs", reference)
    return both if request.param.startswith("ours") else (both[1], both[0])


# --- in turns -----------------------------------------------------------------------------------------


@needs_reference
@pytest.mark.parametrize("version", VERSIONS)
def test_one_goes_on_where_the_other_was(sides: tuple[Side, Side], data_dir: Path, version: str) -> None:
    first, second = sides
    asked = config(data_dir, version=version)

    found = [side.addresses(asked, f"c{i}") for i, side in enumerate([first, second, second, first])]

    assert found == [[f"10.1.0.{i}", f"fd00::{i}"] for i in (2, 3, 4, 5)]
    assert reservations(data_dir, "blue") == {address: f"c{i} eth0" for i, pair in enumerate(found) for address in pair}


@needs_reference
@pytest.mark.parametrize("version", VERSIONS)
def test_each_releases_what_the_other_reserved(sides: tuple[Side, Side], data_dir: Path, version: str) -> None:
    first, second = sides
    asked = config(data_dir, version=version)
    first.addresses(asked, "c1")
    first.addresses(asked, "c2")

    second.delete(asked, "c1")

    assert set(reservations(data_dir, "blue").values()) == {"c2 eth0"}


@needs_reference
def test_each_checks_what_the_other_reserved(sides: tuple[Side, Side], data_dir: Path) -> None:
    first, second = sides
    asked = config(data_dir)
    first.addresses(asked, "c1")

    assert (second.check(asked, "c1"), second.check(asked, "c2")) == (0, 1)


@needs_reference
def test_neither_takes_a_requested_address_from_the_other(sides: tuple[Side, Side], data_dir: Path) -> None:
    first, second = sides
    asked = config(data_dir, POD)
    assert first.addresses(asked, "c1", args="IP=10.1.0.9") == ["10.1.0.9"]

    error = second.call("host-local", "ADD", asked, container_id="c2", netns=NETNS, args="IP=10.1.0.9").error

    assert error["msg"] == (
        "failed to allocate for range 0: requested IP address 10.1.0.9 is not available in range set 10.1.0.1-10.1.0.62"
    )
    assert second.addresses(asked, "c2") == ["10.1.0.10"]


@needs_reference
def test_a_range_is_as_full_for_one_as_for_the_other(sides: tuple[Side, Side], data_dir: Path) -> None:
    first, second = sides
    asked = config(data_dir, {"subnet": "10.1.0.0/29"})
    found = [side.addresses(asked, f"c{i}") for i, side in zip(range(5), itertools.cycle(sides))]

    errors = [side.call("host-local", "ADD", asked, container_id="c9", netns=NETNS).error["msg"] for side in sides]

    assert found == [[f"10.1.0.{i}"] for i in range(2, 7)]
    assert set(errors) == {"failed to allocate for range 0: no IP addresses available in range set: 10.1.0.1-10.1.0.6"}
    second.delete(asked, "c2")
    assert first.addresses(asked, "c9") == ["10.1.0.4"]


@needs_reference
def test_round_robin_over_several_ranges_is_the_same(sides: tuple[Side, Side], data_dir: Path) -> None:
    ranges = [
        {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.12", "gateway": "10.1.0.11"},
        {"subnet": "10.2.0.0/24", "rangeEnd": "10.2.0.2"},
        {"subnet": "10.3.0.0/30"},
    ]
    seen: dict[str, list[list[str]]] = {}
    for side in sides:
        asked = config(data_dir / side.name, {"ranges": [ranges]})
        seen[side.name] = [side.addresses(asked, f"c{i}") for i in range(4)]
        side.delete(asked, "c1")
        side.delete(asked, "c3")
        seen[side.name] += [side.addresses(asked, f"d{i}") for i in range(2)]

    assert seen["ours"] == seen["theirs"]


@needs_reference
def test_the_reference_leaves_alone_what_is_ours_beside_its_directory(plugin: calls.Exec, data_dir: Path) -> None:
    asked = config(data_dir)
    plugin("host-local", "ADD", asked, container_id="c1", netns=NETNS)
    ours = data_dir / ".podwire" / "blue" / "claim.1.2"
    ours.write_bytes(b"c1\r\neth0")  # as after a crash of ours between writing and linking

    plugin.path = (REFERENCE_PLUGINS,)
    plugin("host-local", "DEL", asked, container_id="c1", netns=NETNS)

    assert ours.exists()
    assert reservations(data_dir, "blue") == {}


# --- at the same time ---------------------------------------------------------------------------------


class Stay(NamedTuple):
    """An address as one container had it, from after its ADD to before its DEL (CLOCK_MONOTONIC)."""

    address: str
    container_id: str
    begin: float
    end: float


def ours_at_work(stdin: bytes, command: str, container_id: str) -> list[str]:
    from cni.hostlocal import executable
    from cni.spec.request import Request

    request = Request(command, container_id, NETNS, "eth0", "", (), False)
    result = executable.run(command, NetConf.parse(stdin), request, BOOT)
    return [str(ip.address.address) for ip in result.ips] if result else []


def environment(command: str, container_id: str) -> dict[str, str]:
    return {"CNI_COMMAND": command, "CNI_CONTAINERID": container_id, "CNI_NETNS": NETNS, "CNI_IFNAME": "eth0",
            "CNI_PATH": "/"}  # fmt: skip


def theirs_at_work(stdin: bytes, command: str, container_id: str) -> list[str]:
    environ = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id,
        "CNI_NETNS": NETNS,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/",
    }
    done = subprocess.run([THEIRS], input=stdin, env=environ, capture_output=True, check=True)
    return [ip["address"].partition("/")[0] for ip in json.loads(done.stdout)["ips"]] if done.stdout else []


def churn(work: Callable[[bytes, str, str], list[str]], stdin: bytes, name: str, rounds: int) -> list[Stay]:
    """Comes and goes, three containers deep, so that the addresses of a /26 stay scarce and come round."""
    chosen = random.Random(name)
    living: list[tuple[str, list[str], float]] = []
    stays = []
    for i in range(rounds):
        container_id = f"{name}-{i}"
        found = work(stdin, "ADD", container_id)
        living.append((container_id, found, time.monotonic()))
        while len(living) > 3 or (living and i == rounds - 1):
            gone, addresses, begin = living.pop(chosen.randrange(len(living)))
            stays += [Stay(address, gone, begin, time.monotonic()) for address in addresses]
            assert work(stdin, "DEL", gone) == []
    return stays


@needs_reference
@pytest.mark.parametrize(
    ("processes", "subnet", "ours", "theirs"),
    [
        pytest.param(8, "10.1.0.0/26", 150, 40, id="8 processes"),
        pytest.param(16, "10.1.0.0/24", 150, 100, id="16 processes, 2,000 attachments"),
    ],
)
def test_at_the_same_time_nobody_gets_what_somebody_has(
    data_dir: Path, processes: int, subnet: str, ours: int, theirs: int
) -> None:
    stdin = json.dumps(config(data_dir, {"ranges": [[{"subnet": subnet}], [{"subnet": "fd00::/64"}]]})).encode()
    half = processes // 2
    workers = [(ours_at_work, ours)] * half + [(theirs_at_work, theirs)] * half
    fork = multiprocessing.get_context("fork")

    with fork.Pool(len(workers)) as pool:
        jobs = [(work, stdin, f"{work.__name__}-{i}", rounds) for i, (work, rounds) in enumerate(workers)]
        stays = [stay for some in pool.starmap(churn, jobs, chunksize=1) for stay in some]

    assert len(stays) == 2 * sum(rounds for _, rounds in workers)
    by_address: dict[str, list[Stay]] = {}
    for stay in sorted(stays, key=lambda stay: stay.begin):
        by_address.setdefault(stay.address, []).append(stay)
    for one_after_the_other in by_address.values():
        for earlier, later in itertools.pairwise(one_after_the_other):
            assert earlier.end < later.begin, f"{earlier} and {later} at once"
    assert reservations(data_dir, "blue") == {}
    assert set(os.listdir(data_dir / ".podwire" / "blue")) <= {"index", "stamps"}
    assert not os.listdir(data_dir / ".podwire" / "blue" / "stamps")


# --- kill -9 ------------------------------------------------------------------------------------------


class Killing:
    """`posix` for `ipam`, in a process that kills itself before its n-th call, or in the middle of a write."""

    def __init__(self, left: int) -> None:
        self._left = left

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                if name in ("write", "pwrite"):
                    found(arguments[0], arguments[1][:3], *arguments[2:])
                os.kill(os.getpid(), signal.SIGKILL)
            return found(*arguments, **named)

        return call


def dies(number: int, stdin: bytes, command: str, container_id: str) -> bool:
    """Runs the verb in a process of its own that is killed at its call of that number; whether it got so far."""
    child = os.fork()
    if not child:
        from ipam import index, recovery, store

        killing = Killing(number)
        for module in (store, index, recovery):
            vars(module)["posix"] = killing
        code = 1
        try:
            ours_at_work(stdin, command, container_id)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.WIFSIGNALED(status)


@needs_reference
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_killed_at_any_call_it_leaves_addresses_that_the_reference_can_release(
    sides: tuple[Side, Side], data_dir: Path, command: str
) -> None:
    _, second = sides
    asked = config(data_dir)
    stdin = json.dumps(asked).encode()
    ours_at_work(stdin, "ADD", "other")
    before = reservations(data_dir, "blue")
    for number in itertools.count():
        container_id = f"c{number}"
        if command == "DEL":
            ours_at_work(stdin, "ADD", container_id)

        killed = dies(number, stdin, command, container_id)

        left = {address: owner for address, owner in reservations(data_dir, "blue").items() if owner != "other eth0"}
        assert set(left.values()) <= {f"{container_id} eth0"}
        second.delete(asked, container_id)
        assert reservations(data_dir, "blue") == before
        if not killed:
            assert number > 10
            break


@pytest.mark.slow
def test_killed_a_thousand_times_no_address_is_lost(data_dir: Path) -> None:
    stdin = json.dumps(config(data_dir, {"subnet": "10.1.0.0/29"})).encode()
    ours_at_work(stdin, "ADD", "c0")
    chosen = random.Random("kill")
    for number in range(1000):
        container_id = f"c{chosen.randrange(3)}"
        dies(chosen.randrange(45), stdin, chosen.choice(["ADD", "DEL"]), container_id)
        assert set(reservations(data_dir, "blue").values()) <= {"c0 eth0", "c1 eth0", "c2 eth0"}, number

    for container_id in ("c0", "c1", "c2"):
        ours_at_work(stdin, "DEL", container_id)
    assert reservations(data_dir, "blue") == {}
    assert not os.listdir(data_dir / ".podwire" / "blue" / "stamps")


# --- restarts -----------------------------------------------------------------------------------------


def restarted(executables: Path, command: str, asked: dict[str, Any], container_id: str) -> list[str]:
    """One call of our executable on a container node that was started for it: same boot ID, another process 1."""
    enter = ["unshare", "--pid", "--fork", "--mount-proc"]
    environ = {**environment(command, container_id), "PATH": os.environ["PATH"]}
    stdin = json.dumps(asked).encode()
    # As a child of process 1, which is the shell.
    argv = [*enter, "sh", "-c", '"$0"; exit $?', str(executables / "host-local")]
    done = subprocess.run(argv, input=stdin, env=environ, capture_output=True, check=True)
    return [ip["address"].partition("/")[0] for ip in json.loads(done.stdout)["ips"]] if done.stdout else []


@needs_reference
@pytest.mark.parametrize("first", ["ADD", "DEL"])
def test_after_a_restart_of_a_container_node_our_dead_go_and_nothing_of_the_reference_s(
    plugin: calls.Exec, executables: Path, data_dir: Path, first: str
) -> None:
    asked = config(data_dir, {"subnet": "10.1.0.0/24"})
    reference = Side("theirs", plugin)
    for i in range(4):
        plugin.path = (executables,)
        reference.addresses(asked, f"ours{i}")
        plugin.path = (REFERENCE_PLUGINS,)
        reference.addresses(asked, f"theirs{i}")
    # The reference gives what ours had to the same container again, and lets another go that was ours.
    reference.delete(asked, "ours1")
    reference.addresses(asked, "ours1", args="IP=10.1.0.4")
    reference.delete(asked, "ours2")
    plugin.path = (executables,)
    reference.addresses(asked, "living")

    if first == "DEL":
        assert restarted(executables, "DEL", asked, "nobody") == []
    [found] = restarted(executables, "ADD", asked, "new")

    assert sorted(reservations(data_dir, "blue").values()) == sorted(
        [f"{one} eth0" for one in ("theirs0", "theirs1", "theirs2", "theirs3", "ours1", "new")]
    )
    assert reservations(data_dir, "blue")[found] == "new eth0"
    assert restarted(executables, "DEL", asked, "new") == []


@needs_reference
def test_without_a_restart_nobody_is_reclaimed(plugin: calls.Exec, executables: Path, data_dir: Path) -> None:
    asked = config(data_dir, {"subnet": "10.1.0.0/29"})
    for i, folder in enumerate([executables, REFERENCE_PLUGINS, executables, REFERENCE_PLUGINS, executables]):
        plugin.path = (folder,)
        Side("", plugin).addresses(asked, f"c{i}")
    before = reservations(data_dir, "blue")
    plugin.path = (executables,)

    error = plugin("host-local", "ADD", asked, container_id="c9", netns=NETNS).error

    assert error["code"] == 101
    assert reservations(data_dir, "blue") == before


@needs_reference
def test_what_the_reference_leaves_when_it_dies_is_given_before_a_range_is_called_full(
    in_process: calls.InProcess, data_dir: Path
) -> None:
    asked = config(data_dir, {"subnet": "10.1.0.0/30"})
    (data_dir / "blue").mkdir(parents=True)
    (data_dir / "blue" / "10.1.0.2").touch()  # killed between creating and writing

    theirs = subprocess.run(
        [THEIRS], input=json.dumps(asked).encode(), env=environment("ADD", "c1"), capture_output=True, check=False
    )
    ours = in_process("host-local", "ADD", asked, container_id="c2", netns=NETNS)

    assert b"no IP addresses available" in theirs.stdout
    assert [ip["address"] for ip in ours.result["ips"]] == ["10.1.0.2/30"]

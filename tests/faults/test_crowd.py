"""Many calls at once: by exec, by fork, and by threads of one process, as an agent will have them.

What belongs to one attachment goes in order, and what doesn't goes in parallel; what they share is made once.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import pytest

from tests import namespaces, oracle
from tests.faults.injection import Circumstances, Launcher
from tests.faults.scene import netns
from tests.faults.seam import KILL, NONE, Fault
from tests.verbs.networks import Network, addresses, host_local, interface

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.calls import Caller, Outcome
    from tests.faults.injection import Server

T = TypeVar("T")

CONFLICT = 104
ALREADY_ATTACHED = 102

GATEWAYS = ("10.1.0.1", "fd00:1::1")


@pytest.fixture(params=["exec", "fork", "thread"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def caller(how: str, request: pytest.FixtureRequest) -> Caller:
    """What calls plugins: each in a process with its own interpreter, in a fork, or in a thread of this process."""
    if how == "fork":
        server: Server = request.getfixturevalue("server")
        folder: Path = request.getfixturevalue("tmp_path")
        return Launcher(server, (folder,), request.getfixturevalue("run_dir"), "unnamed", Circumstances())
    found: Caller = request.getfixturevalue({"exec": "plugin", "thread": "in_process"}[how])
    return found


@pytest.fixture
def make_pods() -> Iterator[Callable[[int], dict[str, Path]]]:
    """Makes that many pods, by container ID."""
    with contextlib.ExitStack() as stack:
        yield lambda number: {f"pod{i}": stack.enter_context(netns()) for i in range(number)}


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """All of them, each begun when all are ready to."""
    ready = threading.Barrier(len(calls))

    def call(one: Callable[[], T]) -> T:
        ready.wait()
        return one()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


def verb(network: Network, command: str, pod: str, path: Path, **how: str) -> Callable[[], Outcome]:
    return lambda: network.call(command, pod, path, **how)


def nothing_is_left(network: Network) -> None:
    """But the bridge, without ports and without neighbours."""
    assert (network.records, network.reserved) == ({}, {})
    assert [link.name for link in oracle.links(network.node)] == ["br0"]
    assert oracle.neighbours(network.node) == []
    assert list(network.plugin.run_dir.glob("attachments/*/.*")) == []
    assert [path.name for path in network.data_dir.glob(".podwire/*/**/*") if path.is_file()] == ["index"]


def test_fifty_first_pods_come_at_once_and_go_at_once(
    lan: Network, make_pods: Callable[[int], dict[str, Path]]
) -> None:
    pods = make_pods(50)

    outcomes = at_once([verb(lan, "ADD", pod, path) for pod, path in pods.items()])

    results = [outcome.result for outcome in outcomes]
    given = [address for result in results for address in addresses(result)]
    assert len(set(given)) == 100
    assert sorted(given) == sorted(lan.reserved)
    bridge = oracle.link(lan.node, "br0")
    assert {interface(result, "br0")["mac"] for result in results} == {bridge.mac}
    assert sorted(one.interface for one in oracle.addresses(lan.node, "br0")) == ["10.1.0.1/24", "fd00:1::1/64"]
    assert {file.name: file.read_text() for file in lan.plugin.run_dir.glob("before/*")} == {
        "net:ipv4:ip_forward": "0",
        "net:ipv6:conf:all:forwarding": "0",
    }
    for gateway in GATEWAYS:
        with namespaces.listening(lan.node, gateway, 7000):
            for path in pods.values():
                namespaces.inside(path, lambda: socket.create_connection((gateway, 7000), 2).close())  # noqa: B023  # called at once

    outcomes = at_once([verb(lan, "DEL", pod, path) for pod, path in pods.items()])

    assert {(outcome.code, outcome.stdout) for outcome in outcomes} == {(0, b"")}
    nothing_is_left(lan)


def test_of_ten_calls_for_one_attachment_one_attaches_it(lan: Network, netns: Path) -> None:
    outcomes = at_once([verb(lan, "ADD", "a", netns)] * 10)

    (attached,) = [outcome.result for outcome in outcomes if outcome.code == 0]
    assert [outcome.error["code"] for outcome in outcomes if outcome.code] == [ALREADY_ATTACHED] * 9
    assert lan.check(attached, netns).code == 0
    assert sorted(lan.reserved) == sorted(addresses(attached))

    lan.delete()
    nothing_is_left(lan)


def test_adds_and_dels_of_one_attachment_take_turns(lan: Network, netns: Path) -> None:
    outcomes = at_once([verb(lan, command, "a", netns) for command in ["ADD", "DEL"] * 6])

    assert {outcome.code for outcome in outcomes[1::2]} == {0}
    assert {outcome.error["code"] for outcome in outcomes[::2] if outcome.code} <= {ALREADY_ATTACHED}
    assert any(outcome.code == 0 for outcome in outcomes[::2])

    lan.delete()
    nothing_is_left(lan)


def test_names_are_given_again_at_once_by_many(lan: Network, make_pods: Callable[[int], dict[str, Path]]) -> None:
    """A DEL answers before the kernel has quite finished, and the ADD that follows does not notice."""
    pods = make_pods(8)

    def come_and_go(pod: str) -> Callable[[], None]:
        def rounds() -> None:
            for _ in range(3):
                result = lan.add(pods[pod], pod)
                assert lan.check(result, pods[pod], pod).code == 0
                lan.delete(pod, pods[pod])

        return rounds

    at_once([come_and_go(pod) for pod in pods])

    nothing_is_left(lan)


def test_gc_takes_nothing_from_attachments_that_are_valid_and_on_their_way(
    lan: Network, make_pods: Callable[[int], dict[str, Path]]
) -> None:
    pods = make_pods(16)
    lan.add(pods.pop("pod0"), "stale")
    valid = [(pod, "eth0") for pod in pods]

    adds = [verb(lan, "ADD", pod, path) for pod, path in pods.items()]
    outcomes = at_once([*adds, *[lambda: lan.collect(*valid)] * 4])

    assert {outcome.code for outcome in outcomes[len(adds) :]} == {0}
    for outcome, (pod, path) in zip(outcomes, pods.items()):
        assert lan.check(outcome.result, path, pod).code == 0
    assert set(lan.reserved.values()) == {f"{pod} eth0" for pod in pods}

    lan.collect()
    nothing_is_left(lan)


def test_two_networks_that_claim_one_bridge_at_once_do_not_both_get_it(
    lan: Network, make_pods: Callable[[int], dict[str, Path]], tmp_path: Path
) -> None:
    other = lan.but(name="wan", ipam=host_local(tmp_path / "networks", "10.2.0.0/24", "fd00:1::/48"))
    gateways = {"lan": ["10.1.0.1/24", "fd00:1::1/64"], "wan": ["10.2.0.1/24", "fd00:1::1/48"]}

    for pods in [make_pods(2) for _ in range(4)]:
        networks = (lan, other)
        outcomes = at_once([verb(one, "ADD", pod, path) for one, (pod, path) in zip(networks, pods.items())])

        assert sorted(outcome.code for outcome in outcomes) == [0, 1]
        loser = 0 if outcomes[0].code else 1
        winner = 1 - loser
        name = networks[winner].config["name"]
        assert outcomes[loser].error["code"] == CONFLICT
        assert f"{name}/pod{winner}@eth0@bridge" in outcomes[loser].error["details"]
        assert [record["key"][0] for record in lan.records.values()] == [name]
        assert networks[loser].reserved == {}
        assert sorted(one.interface for one in oracle.addresses(lan.node, "br0")) == gateways[name]

        networks[winner].delete(f"pod{winner}", list(pods.values())[winner])
        namespaces.shell(lan.node, "ip link del br0")


def test_both_interfaces_of_a_container_are_made_in_parallel(
    lan: Network, make_pods: Callable[[int], dict[str, Path]]
) -> None:
    """As containerd does it."""
    pods = make_pods(6)
    loopback = replace(lan, config={"cniVersion": "1.1.0", "name": "cni-loopback", "type": "loopback"})

    for command in ("ADD", "DEL"):
        outcomes = at_once(
            [verb(loopback, command, pod, path, ifname="lo") for pod, path in pods.items()]
            + [verb(lan, command, pod, path) for pod, path in pods.items()]
        )

        assert {outcome.code for outcome in outcomes} == {0}, outcomes
        for path in pods.values():
            up = command == "ADD"
            assert ("UP" in namespaces.shell(path, "ip link show lo").split("<")[1].split(">")[0].split(",")) == up
            assert [link.name for link in oracle.links(path)] == ["eth0"] * up

    nothing_is_left(lan)


# --- at random --------------------------------------------------------------------------------------

ROUNDS = pytest.mark.parametrize("rounds", [60, pytest.param(1000, marks=pytest.mark.slow)])


@pytest.mark.parametrize("how", ["fork"], indirect=True)
@pytest.mark.parametrize("deadly", [False, True], ids=["all live", "some die"])
@ROUNDS
def test_attachments_that_come_and_go_at_random_leave_nothing(
    lan: Network, make_pods: Callable[[int], dict[str, Path]], server: Server, rounds: int, deadly: bool
) -> None:
    """Each of eight pods by itself, the same in every run; some calls are killed on their way."""
    pods = make_pods(8)

    def live(pod: str) -> Callable[[], None]:
        def life() -> None:
            dice = random.Random(pod)
            for _ in range(rounds // len(pods)):
                fault = Fault(dice.randrange(150), KILL) if deadly and dice.random() < 0.3 else NONE
                plugin = Launcher(server, lan.plugin.path, lan.plugin.run_dir, pod, Circumstances(fault))
                outcome = replace(lan, plugin=plugin).call(dice.choice(["ADD", "DEL"]), pod, pods[pod])
                if outcome.code == KILL:
                    assert fault != NONE
                elif outcome.code:
                    assert outcome.error["code"] == ALREADY_ATTACHED
            lan.delete(pod, pods[pod])

        return life

    at_once([live(pod) for pod in pods])

    nothing_is_left(lan)

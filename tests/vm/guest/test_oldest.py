"""The verbs, by exec, on the oldest kernel that is supported. There, deletions are announced to monitors only."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cni.attach import reaper
from cni.attach.node import Node
from cni.kernel import link
from cni.kernel.netlink import NLMSG_ERROR, Socket, messages
from cni.kernel.netns import Netns
from cni.kernel.ports import Veth
from cni.noaddresses import NoAddresses
from tests import leaks, namespaces
from tests.verbs.networks import Network, addresses, port
from tests.vm.guest.pods import left, links

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.calls import Exec

MACHINE = Path("/proc/1/ns/net")
RECEIVE_BUFFER = Path("/proc/sys/net/core/rmem_default")
"""Of all namespaces, and to be seen in the machine's own alone."""


def test_the_kernel_is_one_whose_announcements_come_by_the_groups_socket() -> None:
    """Otherwise what is below is not about the reaper's other way."""
    assert os.uname().release.startswith("6.1.")


def test_the_executable_runs_compiled(plugin: Exec) -> None:
    told = subprocess.run([plugin.find("podwire"), "version", "--json"], capture_output=True, text=True, check=True)

    assert json.loads(told.stdout)["code"] == "compiled"
    assert plugin("bridge", "VERSION", {"cniVersion": "1.0.0"}).result["cniVersion"] == "1.0.0"


def test_pods_reach_each_other_in_both_families_and_leave_nothing(lan: Network, make_netns: Callable[[], Path]) -> None:
    pods = {"a": make_netns(), "b": make_netns()}

    results = {pod: lan.add(netns, pod) for pod, netns in pods.items()}

    for address in addresses(results["b"]):
        assert namespaces.tcp(pods["a"], pods["b"], address) in addresses(results["a"])
    for pod, netns in pods.items():
        assert lan.check(results[pod], netns, pod).result == {}
        for address in addresses(results[pod]):
            namespaces.tcp(lan.node, netns, address)

    for pod, netns in pods.items():
        lan.delete(pod, netns)
    assert left(lan) == {}
    assert [links(netns) for netns in pods.values()] == [{}, {}]


def test_check_names_what_is_missing(lan: Network, netns: Path) -> None:
    result = lan.add(netns)
    namespaces.shell(netns, "ip route del default")

    error = lan.check(result, netns).error

    assert error["code"] == 103
    assert "ip route add 0.0.0.0/0" in error["msg"] or "default" in error["msg"], error
    lan.delete("a", netns)


def test_a_link_is_gone_when_del_returns_and_its_helper_ends_well(lan: Network, netns: Path) -> None:
    assert port(lan.add(netns)) in links(lan.node)
    before = set(leaks.children())

    lan.delete("a", netns)
    helpers = [child for child in leaks.children() if child not in before]

    assert links(netns) == {}
    assert left(lan) == {}
    assert [os.waitpid(helper, 0)[1] for helper in helpers] == [0]


def test_a_deletion_is_answered_at_the_announcement(netns: Path, tmp_path: Path) -> None:
    """The acknowledgement, which comes a grace period later, is left unread."""
    veth = Veth("port", "02:00:00:00:00:02", "eth0", "02:00:00:00:00:03", 0)
    left_unread = False
    with Netns(str(netns)) as pod, Node(str(tmp_path), lambda _: NoAddresses()) as node:
        for _ in range(5):
            node.nl.do(veth.make(pod.fd, 0))

            reaper.delete(node, [link.need(node.nl, "port")])

            assert not link.find(node.nl, "port")
            node.settle()
            # On a busy machine it may have come before anybody had time to read the announcement.
            left_unread |= acknowledged(node.nl)
    assert left_unread


def acknowledged(nl: Socket) -> bool:
    """Whether an acknowledgement waits to be read."""
    try:
        return any(message.type == NLMSG_ERROR for message in messages(nl.receive(flags=socket.MSG_DONTWAIT)))
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
        return False


def test_del_twice_is_as_once(lan: Network, netns: Path) -> None:
    lan.add(netns)

    lan.delete("a", netns)
    lan.delete("a", netns)
    lan.delete("a")

    assert left(lan) == {}


def test_the_same_names_can_be_made_again_at_once(lan: Network, netns: Path) -> None:
    first = lan.add(netns)

    for _ in range(3):
        lan.delete("a", netns)
        again = lan.add(netns)

        assert port(again) == port(first)
        assert lan.check(again, netns).result == {}
    lan.delete("a", netns)
    assert left(lan) == {}


@pytest.mark.parametrize("buffer", [pytest.param("", id="heard"), pytest.param("8192", id="deaf")])
def test_del_is_right_in_a_storm_of_news(lan: Network, netns: Path, tmp_path: Path, buffer: str) -> None:
    """Deaf: a socket holds two messages or three, so the announcement is lost among the others."""
    lan.add(netns)
    storm = tmp_path / "storm"
    storm.write_text("link set dev gale up\nlink set dev gale down\n" * 500)
    namespaces.shell(lan.node, "ip link add gale type veth peer name calm")
    command = ["nsenter", f"--net={lan.node}", "sh", "-c", f"while ip -batch {storm}; do :; done"]
    with subprocess.Popen(command) as blowing, receive_buffer(buffer):
        try:
            lan.delete("a", netns)

            assert blowing.poll() is None
        finally:
            blowing.kill()
    assert left(lan) == {"ports": ["calm", "gale"]}
    assert links(netns) == {}


@contextlib.contextmanager
def receive_buffer(size: str) -> Iterator[None]:
    """Gives all sockets that are opened from now on a buffer of that size; "" leaves it as it is."""

    def exchange(value: str) -> str:
        old = RECEIVE_BUFFER.read_text()
        RECEIVE_BUFFER.write_text(value or old)
        return old

    usual = namespaces.inside(MACHINE, lambda: exchange(size))
    try:
        yield
    finally:
        namespaces.inside(MACHINE, lambda: exchange(usual))


def test_a_second_add_is_an_error_and_touches_nothing(lan: Network, netns: Path) -> None:
    result = lan.add(netns)

    error = lan.call("ADD", "a", netns).error

    assert error["code"] == 102
    assert lan.check(result, netns).result == {}
    lan.delete("a", netns)


def test_an_interface_that_the_pod_has_already_is_kept_and_all_else_rolled_back(lan: Network, netns: Path) -> None:
    namespaces.shell(netns, "ip link add eth0 address 02:00:00:00:00:09 type dummy")

    error = lan.call("ADD", "a", netns).error

    assert error["code"] == 104
    assert "eth0" in error["msg"]
    assert links(netns)["eth0"]["address"] == "02:00:00:00:00:09"
    assert left(lan) == {}


def test_gc_takes_what_is_not_valid_and_nothing_else(lan: Network, make_netns: Callable[[], Path]) -> None:
    pods = {"a": make_netns(), "b": make_netns()}
    results = {pod: lan.add(netns, pod) for pod, netns in pods.items()}

    assert lan.collect(("b", "eth0")).result == {}

    assert links(pods["a"]) == {}
    assert lan.check(results["b"], pods["b"], "b").result == {}
    assert set(lan.reserved.values()) == {"b eth0"}
    assert lan.collect().result == {}
    assert left(lan) == {}


def test_status_says_that_pods_can_be_attached(lan: Network) -> None:
    assert lan.call("STATUS").result == {}


def test_loopback_goes_up_and_down(plugin: Exec, netns: Path) -> None:
    config = {"cniVersion": "1.1.0", "name": "lo", "type": "loopback"}

    result = plugin("loopback", "ADD", config, netns=netns, ifname="lo").result

    assert sorted(addresses(result)) == ["127.0.0.1", "::1"]
    namespaces.tcp(netns, netns, "127.0.0.1")
    assert plugin("loopback", "CHECK", config | {"prevResult": result}, netns=netns, ifname="lo").result == {}
    assert plugin("loopback", "DEL", config, netns=netns, ifname="lo").result == {}
    assert "UP" not in namespaces.shell(netns, "ip link show lo")

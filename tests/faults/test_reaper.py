"""A link's end is heard however it is announced: through storms, refusals, and with a helper that is no help.

Each test that can runs in both ways of listening: the announcement comes to the requesting socket (Linux 6.2), or to
one that listens to the news of all links. What becomes of a helper at each of its steps is in `test_steps`.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from cni.attach import reaper
from cni.attach.node import Node
from cni.kernel import link as links
from cni.kernel.netlink import AF_BRIDGE, NetlinkError, Socket
from cni.lean import posix
from tests import leaks, namespaces
from tests.faults.injection import Circumstances
from tests.faults.seam import NONE, STOP, Fault
from tests.verbs.networks import Network, addresses, port

if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.kernel.link import Link
    from cni.key import Delegation
    from cni.wanted import Addresses
    from tests.faults.scene import Scene

    OnBench = Callable[[Callable[["Bench"], None]], None]

FURNITURE = """\
ip link add br0 type bridge
ip link set br0 up
ip link add port0 master br0 up type veth peer eth0
ip link add noise type veth peer silence
"""

ECHOING = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) >= (6, 2)


class Bench:
    """A node in the calling thread's namespace, with a port to delete by a helper that waits to be let go."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node = node
        self.after_fork: Callable[[], object] = self.let_go
        """What the caller does first when it has a helper."""
        self.asked = 0
        """How often it was asked whether the link is still there."""
        self._go, self._let_go = os.pipe()
        there = reaper._there

        def counted(pending: set[int]) -> bool:
            self.asked += 1
            return there(pending)

        monkeypatch.setattr(reaper, "_there", counted)
        monkeypatch.setattr(reaper, "posix", Instead(posix, fork=self._fork))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self.node.settle()
        os.close(self._go)

    @property
    def port(self) -> Link:
        return links.need(self.node.nl, "port0")

    def let_go(self) -> None:
        if self._let_go >= 0:
            os.close(self._let_go)
            self._let_go = -1

    def _fork(self) -> int:
        helper = os.fork()
        if helper:
            self.after_fork()
        else:
            self.let_go()  # for our part
            os.read(self._go, 1)
        return helper


def no_addresses(_: Delegation) -> Addresses:
    raise AssertionError("links are deleted without asking for anybody's addresses")


class Instead:
    """A module with some functions exchanged."""

    def __init__(self, real: Any, **functions: Callable[..., object]) -> None:
        self._real = real
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture(params=["echo", "group"])
def listening(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the announcement comes: to the requesting socket, or to one that listens to the group."""
    if request.param == "echo" and not ECHOING:
        pytest.skip("lacks: Linux 6.2")
    monkeypatch.setattr(reaper, "_kernel_version", lambda: (6, 2) if request.param == "echo" else (6, 1))
    return str(request.param)


@pytest.fixture
def on_bench(node: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, listening: str) -> OnBench:
    """Has a function work on a bench, in a thread that is on the node."""
    namespaces.shell(node, FURNITURE)

    def work(work: Callable[[Bench], None]) -> None:
        def inside() -> None:
            with Node(str(run_dir), no_addresses) as here, Bench(here, monkeypatch) as bench:
                work(bench)

        namespaces.inside(node, inside)

    return work


# --- the answer -------------------------------------------------------------------------------------


def test_an_end_that_was_lost_in_a_storm_is_asked_for(on_bench: OnBench, listening: str) -> None:
    def test(bench: Bench) -> None:
        nl, port = bench.node.nl, bench.port
        noise = links.need(nl, "noise")

        def storm() -> None:
            with Socket() as own:
                if listening == "group":
                    for _ in range(20):
                        own.do(*[links.set_mtu(noise.ifindex, "noise", 1300 + i) for i in range(100)])
                else:  # where no other link's news come, only answers that nobody reads can be too many
                    for _ in range(2000):
                        nl.send(links.set_mtu(noise.ifindex, "noise", 1300), nl.reserve())
                bench.let_go()
                while links.find(own, "port0"):
                    pass

        bench.after_fork = storm
        reaper.delete(bench.node, [port])

        assert bench.asked

    on_bench(test)


def test_who_never_sees_the_end_of_other_links_news_still_hears_the_kernels_answer(
    on_bench: OnBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = time.monotonic() + 5

    class Flooded(Socket):
        """A socket that listens to a group, and has always more to say than anybody reads."""

        def __init__(self, groups: int = 0) -> None:
            super().__init__(groups=groups)
            self._groups = groups

        def receive(self, what: str = "", flags: int = 0) -> bytes:
            if not self._groups:
                return super().receive(what, flags)
            assert time.monotonic() < end, "reads one socket for ever"
            return b""

    monkeypatch.setattr(reaper, "Socket", Flooded)

    def test(bench: Bench) -> None:
        reaper.delete(bench.node, [bench.port])

        assert links.find(bench.node.nl, "port0") is None

    on_bench(test)


def test_a_port_that_leaves_its_bridge_is_not_gone_yet(on_bench: OnBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is announced first, by a message of the same type and for the same link."""
    heard: list[bytes] = []

    def test(bench: Bench) -> None:
        class Listening(Socket):
            """A socket that lets the helper go when it has heard all there is to hear without it."""

            def receive(self, what: str = "", flags: int = 0) -> bytes:
                try:
                    heard.append(super().receive(what, flags))
                    return heard[-1]
                except OSError:
                    bench.let_go()
                    raise

        monkeypatch.setattr(reaper, "_kernel_version", lambda: (6, 1))  # who listens to the group hears what others do
        monkeypatch.setattr(reaper, "Socket", Listening)
        bench.after_fork = lambda: subprocess.run(["ip", "link", "set", "port0", "nomaster"], check=True)
        reaper.delete(bench.node, [bench.port])

        assert links.find(bench.node.nl, "port0") is None
        assert [data[16] for data in heard if data[4] == links.RTM_DELLINK] == [AF_BRIDGE, socket.AF_UNSPEC]

    on_bench(test)


def test_a_refusal_is_an_error_at_once(on_bench: OnBench) -> None:
    def test(bench: Bench) -> None:
        began = time.monotonic()

        with pytest.raises(NetlinkError) as caught:
            reaper.delete(bench.node, [links.need(bench.node.nl, "lo")])

        assert caught.value.errno == errno.EOPNOTSUPP
        assert str(caught.value).startswith("ip link del lo: ")
        assert time.monotonic() - began < 5  # of the ten seconds that an answer is waited for

    on_bench(test)


def test_a_link_that_is_gone_is_as_it_should_be(on_bench: OnBench) -> None:
    def test(bench: Bench) -> None:
        port = bench.port

        reaper.delete(bench.node, [port])
        reaper.delete(bench.node, [port])

        assert links.find(bench.node.nl, "port0") is None

    on_bench(test)


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM, errno.EPERM])
def test_without_a_process_to_be_had_the_caller_waits_itself(
    on_bench: OnBench, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse() -> int:
        raise OSError(code, os.strerror(code))

    def test(bench: Bench) -> None:
        port = bench.port
        monkeypatch.setattr(reaper, "posix", Instead(posix, fork=refuse))

        reaper.delete(bench.node, [port])

        assert links.find(bench.node.nl, "port0") is None
        assert bench.node.helpers == []

    on_bench(test)


def test_what_is_told_of_the_pods_end_is_no_answer_to_the_pods_socket(on_bench: OnBench, netns: Path) -> None:
    """The kernel tells it there, to the socket that has the number of ours here, under our sequence number."""

    def test(bench: Bench) -> None:
        nl = bench.node.nl
        namespaces.shell(None, f"ip link set eth0 netns {netns.parent.parent.name}")
        port = bench.port
        with namespaces.inside(netns, Socket) as pod_side:
            assert links.find(pod_side, "lo")  # it gets its number when it sends
            last = nl.reserve()
            while pod_side.reserve() < last:
                pass

            reaper.delete(bench.node, [port])
            bench.node.settle()
            found = links.find(pod_side, "lo")

        assert found
        assert found.name == "lo"

    on_bench(test)


# --- in a DEL ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "told"), [(errno.EBUSY, 11), (errno.EPERM, 100)])
def test_a_del_that_the_kernel_refuses_keeps_what_it_needs_for_the_next(
    lan: Network, netns: Path, listening: str, monkeypatch: pytest.MonkeyPatch, code: int, told: int
) -> None:
    result = lan.add(netns)
    with monkeypatch.context() as patch:
        patch.setattr(reaper, "links", Instead(links, drop=lambda _index, name: links.drop(1, name)))  # 1 is lo
        patch.setattr(reaper, "refusal", lambda _: (code, "not now"))
        refused = lan.call("DEL", netns=netns)

    assert refused.error["code"] == told
    assert refused.error["msg"].startswith(f"ip link del {port(result)}: not now")
    assert [record["stage"] for record in lan.records.values()] == ["leaving"]
    assert sorted(lan.reserved) == sorted(addresses(result))

    lan.delete()

    assert (lan.records, lan.reserved) == ({}, {})


def test_a_caller_that_lives_on_has_no_children_after_a_del(lan: Network, netns: Path, listening: str) -> None:
    before = leaks.children()
    lan.add(netns)
    lan.delete()

    assert leaks.children().keys() <= before.keys()


def test_who_ignores_the_end_of_children_can_call_del(lan: Network, netns: Path, listening: str) -> None:
    """That is inherited, also by a plugin: the kernel then reaps the helper, and nobody can wait for it."""
    lan.add(netns)
    handler = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        lan.delete()
    finally:
        signal.signal(signal.SIGCHLD, handler)

    assert (lan.records, lan.reserved) == ({}, {})


@pytest.mark.parametrize("release", ["", "6.1.0"])
def test_a_plugin_that_inherits_that_can_serve_del(scenes: Callable[..., Scene], release: str) -> None:
    scene = scenes(has_life=True)
    scene.network().add(scene.pod)

    scene.network(Circumstances(release=release, ignored=(signal.SIGCHLD,))).delete("a")

    assert not scene.changed()


@pytest.mark.parametrize("release", ["", "6.1.0"])
def test_the_helper_keeps_nothing_that_anybody_waits_for(scenes: Callable[..., Scene], release: str) -> None:
    """No stream, which a runtime reads until the last holder closes it; no lock; not the caller's session."""
    scene = scenes(has_life=True, release=release)
    scene.network().add(scene.pod)
    before = leaks.children()

    outcome = scene.call(Fault(HELPER_SENDS, STOP, after=True, helper=True), "DEL")
    (helper,) = leaks.children().keys() - before.keys()
    try:
        assert (outcome.code, outcome.helper_steps[HELPER_SENDS]) == (0, "send")
        state, _parent, _group, session = Path(f"/proc/{helper}/stat").read_text().rpartition(")")[2].split()[:4]
        assert state not in ("Z", "X"), "it is in the kernel, and then stopped"
        assert int(session) == helper
        held = [os.readlink(fd).partition(":")[0] for fd in Path(f"/proc/{helper}/fd").iterdir()]
        assert sorted(held) == ["pipe", "socket"]

        result = scene.network().add(scene.pod)
        assert scene.network().check(result, scene.pod).code == 0
        scene.network().delete("a")
        assert not scene.changed()
    finally:
        os.kill(helper, signal.SIGKILL)
        os.waitpid(helper, 0)


HELPER_SENDS = 5
"""The step at which it does."""


@pytest.mark.parametrize("release", ["", "6.1.0"])
def test_names_can_be_given_again_at_once(scenes: Callable[..., Scene], release: str) -> None:
    scene = scenes(has_life=True, release=release)

    for _ in range(20):
        result = scene.call(NONE, "ADD").result
        assert scene.network().check(result, scene.pod).code == 0
        assert scene.call(NONE, "DEL").code == 0

    assert not scene.changed()


@pytest.mark.parametrize("release", ["", "6.1.0"])
def test_pods_come_and_go_in_a_storm_of_other_links_news(scenes: Callable[..., Scene], release: str) -> None:
    scene = scenes(has_life=True, release=release)
    commands = "".join(f"link set vforeign mtu {1300 + i}\n" for i in range(100)) + "link set vforeign mtu 1500\n"
    storm = 'while :; do printf %s "$0"; done | ip -batch - >/dev/null 2>&1'
    with subprocess.Popen(
        ["nsenter", f"--net={scene.node}", "sh", "-c", storm, commands], start_new_session=True
    ) as blowing:
        try:
            for _ in range(10):
                assert scene.call(NONE, "ADD").code == 0
                assert scene.call(NONE, "DEL").code == 0
        finally:
            os.killpg(blowing.pid, signal.SIGKILL)
    namespaces.shell(scene.node, "ip link set vforeign mtu 1500")

    assert not scene.changed()


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-13-amd64", (6, 1)),
        ("6.1-rc1", (6, 1)),
        ("5.15-rc2-custom", (5, 15)),
        ("6.18.44-fc", (6, 18)),
        ("10.0", (10, 0)),
        ("7", (0, 0)),
        ("next.tree", (0, 0)),
    ],
)
def test_a_kernels_version_is_its_first_two_numbers(release: str, version: tuple[int, int]) -> None:
    assert reaper.version_of(release) == version

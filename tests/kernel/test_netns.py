"""Network namespaces: what is one, which one it is, going in, coming back, and not coming back."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cni.kernel import link, netns
from cni.kernel.netlink import Socket
from cni.kernel.netns import LostThreadError, Netns, is_netns
from cni.kernel.ports import Bridge
from tests import namespaces, oracle

if TYPE_CHECKING:
    from collections.abc import Callable

OWN = "/proc/thread-self/ns/net"


def here() -> int:
    return os.stat(OWN).st_ino


# --- what is one ------------------------------------------------------------------------------------


def test_a_namespace_is_known_by_device_and_inode(netns: Path, make_netns: Callable[[], Path]) -> None:
    seen = os.stat(netns)

    with Netns(str(netns)) as one, Netns(f"{netns.parent}/../ns/net") as same, Netns(str(make_netns())) as other:
        assert (one.device, one.inode) == (seen.st_dev, seen.st_ino)
        assert one.same(same)
        assert not one.same(other)


def test_without_a_path_it_is_the_calling_threads(netns: Path) -> None:
    with Netns() as own:
        assert own.inode == here()
    with namespaces.inside(netns, Netns) as theirs:
        assert theirs.inode == os.stat(netns).st_ino


def test_a_namespace_stays_while_it_is_held(make_netns: Callable[[], Path]) -> None:
    with namespaces.held() as path:
        held = Netns(str(path))

    with held, Netns() as home:
        with held.inside(home):
            assert here() == held.inode
        assert not is_netns(str(path), held.device, held.inode)


def test_a_closed_one_leaves_no_descriptor(netns: Path) -> None:
    before = os.listdir("/proc/self/fd")

    with Netns(str(netns)):
        assert len(os.listdir("/proc/self/fd")) == len(before) + 1

    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("nothing", errno.ENOENT),
        ("beneath a file", errno.ENOTDIR),
        ("a plain file", errno.EINVAL),
        ("a folder", errno.EINVAL),
        ("a FIFO", errno.EINVAL),
        ("/dev/null", errno.EINVAL),
        ("/proc/self/ns/pid", errno.EINVAL),
        ("/proc/self/ns/user", errno.EINVAL),
        ("/proc/self/ns/mnt", errno.EINVAL),
        ("/proc/4194304/ns/net", errno.ENOENT),
        ("", errno.ENOENT),
    ],
)
def test_what_is_no_network_namespace_is_refused_by_name(tmp_path: Path, what: str, code: int) -> None:
    (tmp_path / "a plain file").write_text("")  # what stays behind of `ip netns` after an unmount
    (tmp_path / "a folder").mkdir()
    os.mkfifo(tmp_path / "a FIFO")
    path = what if what.startswith("/") or not what else str(tmp_path / what)
    path = path.replace("beneath a file", "a plain file/beneath")
    before = os.listdir("/proc/self/fd")

    with pytest.raises(OSError) as caught:
        Netns(path)

    assert caught.value.errno == code
    assert path in str(caught.value)
    assert os.listdir("/proc/self/fd") == before


def test_a_path_leads_to_the_namespace_or_to_another_or_to_none(
    netns: Path, make_netns: Callable[[], Path], tmp_path: Path
) -> None:
    seen = os.stat(netns)
    shortcut = tmp_path / "shortcut"
    shortcut.symlink_to(netns)

    assert is_netns(str(netns), seen.st_dev, seen.st_ino)
    assert is_netns(str(shortcut), seen.st_dev, seen.st_ino)
    assert not is_netns(str(make_netns()), seen.st_dev, seen.st_ino)
    for nowhere in (tmp_path / "nothing", tmp_path, shortcut / "beneath", tmp_path / ("x" * 300)):
        assert not is_netns(str(nowhere), seen.st_dev, seen.st_ino)
    assert not is_netns("", seen.st_dev, seen.st_ino)


# --- cookies ----------------------------------------------------------------------------------------


def test_a_cookie_is_the_namespaces_and_nobody_elses(netns: Path, make_netns: Callable[[], Path]) -> None:
    cookies = []
    for path in (netns, netns, make_netns(), None):
        with namespaces.inside(path, Socket) as nl:
            cookies.append(nl.netns_cookie())

    assert cookies[0] == cookies[1] != 0
    assert len(set(cookies)) == 3


def unshare() -> None:
    """A namespace of its own for the calling thread, which ends with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(netns.CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def test_an_inode_number_is_given_out_again_and_a_cookie_never() -> None:
    seen: dict[int, set[int]] = {}

    def look() -> None:
        unshare()
        with Socket() as nl:
            seen.setdefault(here(), set()).add(nl.netns_cookie())

    for _ in range(300):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        if any(len(cookies) > 1 for cookies in seen.values()):
            break
    else:
        pytest.fail("no inode number was given out again")
    assert len(set.union(*seen.values())) == sum(map(len, seen.values()))


def test_where_the_kernel_has_no_cookies_it_is_0(nl: Socket) -> None:
    class Old:
        def getsockopt(self, *_: object) -> bytes:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

    whole, nl._socket = nl._socket, Old()  # type: ignore[assignment]  # as much of one as is asked

    assert nl.netns_cookie() == 0

    nl._socket = whole


# --- in and out -------------------------------------------------------------------------------------


def test_inside_is_inside_and_afterwards_one_is_back(netns: Path) -> None:
    outside = here()
    with Netns() as home, Netns(str(netns)) as there:
        with there.inside(home):
            assert here() == there.inode
            assert sorted(os.listdir("/proc/thread-self/net/dev_snmp6")) == ["lo"]
        assert here() == outside


def test_one_is_back_after_an_error_too(netns: Path) -> None:
    outside = here()
    with Netns() as home, Netns(str(netns)) as there:
        with pytest.raises(ZeroDivisionError), there.inside(home):
            raise ZeroDivisionError
        assert here() == outside


def test_only_the_calling_thread_goes(netns: Path) -> None:
    outside = here()
    with ThreadPoolExecutor(1) as another, Netns() as home, Netns(str(netns)) as there:
        assert another.submit(here).result() == outside
        with there.inside(home):
            assert another.submit(here).result() == outside


def test_who_cannot_get_in_stays_outside(netns: Path) -> None:
    outside = here()
    with Netns() as home:
        closed = Netns(str(netns))
        closed.close()

        with pytest.raises(OSError) as caught, closed.inside(home):
            pytest.fail("inside of nothing")

    assert caught.value.errno == errno.EBADF
    assert here() == outside


def test_a_thread_that_cannot_get_back_does_nothing_more(netns: Path) -> None:
    """It is an exception that `except Exception` doesn't see, so that no handler goes on in the pod."""
    went_on = []

    def lose() -> None:
        home = Netns()
        try:
            with Netns(str(netns)) as there, there.inside(home):
                home.close()
            went_on.append("after the block")
        except Exception:  # noqa: BLE001 - what a careless handler would do
            went_on.append("a handler")

    with pytest.raises(LostThreadError, match=f"^cannot leave {netns}: ") as caught:
        namespaces.inside(Path(OWN), lose)

    assert went_on == []
    assert not isinstance(caught.value, Exception)
    assert isinstance(caught.value.__cause__, OSError)


def test_the_error_that_a_lost_thread_had_is_not_forgotten(netns: Path) -> None:
    def lose() -> None:
        home = Netns()
        with Netns(str(netns)) as there, there.inside(home):
            home.close()
            raise ZeroDivisionError

    with pytest.raises(LostThreadError) as caught:
        namespaces.inside(Path(OWN), lose)

    cause = caught.value.__cause__
    assert cause is not None
    assert isinstance(cause.__context__, ZeroDivisionError)


# --- sockets ----------------------------------------------------------------------------------------


def test_a_socket_keeps_its_namespace_wherever_its_thread_goes(netns: Path, make_netns: Callable[[], Path]) -> None:
    elsewhere = make_netns()
    with Netns() as home, Netns(str(netns)) as there, Netns(str(elsewhere)) as other:
        with there.inside(home):
            nl = Socket()
        with nl:
            nl.do(Bridge("br0", "02:00:00:00:00:01", 0).make())
            with other.inside(home):
                nl.do(Bridge("br1", "02:00:00:00:00:02", 0).make())
                assert link.find(nl, "br0")

    assert [one.name for one in oracle.links(netns)] == ["br0", "br1"]
    assert oracle.links(elsewhere) == []


def test_a_socket_keeps_its_namespace_alive() -> None:
    with namespaces.held() as path:
        nl = namespaces.inside(path, Socket)

    with nl:
        nl.do(Bridge("br0", "02:00:00:00:00:01", 0).make())
        assert link.find(nl, "br0")

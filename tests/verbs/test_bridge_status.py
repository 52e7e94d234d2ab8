"""bridge: STATUS says no when an ADD could not be served for a lasting reason, and asks little to find out."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cni import lean
from cni.kernel.netlink import Message, NetlinkError, Request, Socket
from tests import namespaces, oracle
from tests.conftest import REFERENCE_PLUGINS
from tests.verbs.networks import Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.calls import Exec


@contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    """A small file system of its own at a path."""
    path.mkdir(parents=True)
    namespaces.shell(None, f"mount -t tmpfs -o {options} tmpfs {path}")
    try:
        yield
    finally:
        namespaces.shell(None, f"umount {path}")


def fill(path: Path) -> None:
    """Writes until nothing more fits."""
    for number in range(1000):
        try:
            (path / f"filler{number}").write_bytes(bytes(os.sysconf("SC_PAGE_SIZE")))
        except OSError:
            return
    raise AssertionError(f"{path} does not fill up")


def test_a_node_that_can_attach_pods_says_so_and_nothing_is_made(lan: Network) -> None:
    outcome = lan.call("STATUS")

    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, b"", "")
    assert oracle.links(lan.node) == []
    assert not lan.data_dir.exists()
    assert not (lan.plugin.run_dir / "attachments").exists()


def test_no_more_is_asked_however_many_pods_there_are(
    lan: Network, make_netns: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    get = Socket.get

    def counted_get(self: Socket, request: Request) -> Message | None:
        asked.append(request.what)
        return get(self, request)

    def no_dump(self: Socket, request: Request) -> list[Message]:
        raise AssertionError(f"a dump costs what there is: {request.what}")

    def no_list(path: object) -> list[str]:
        raise AssertionError(f"a listing costs what there is: {path!r}")

    def counted() -> list[str]:
        with monkeypatch.context() as patched:
            patched.setattr(Socket, "get", counted_get)
            patched.setattr(Socket, "dump", no_dump)
            patched.setattr(lean.posix, "listdir", no_list)
            asked.clear()
            assert lan.call("STATUS").code == 0
            return list(asked)

    without = counted()
    for pod in range(10):
        lan.add(make_netns(), f"p{pod}")

    assert counted() == without == ["ip link show lo"]


def test_a_state_directory_that_is_none_is_a_lasting_reason(lan: Network) -> None:
    lan.plugin.run_dir.write_text("a file")

    error = lan.call("STATUS").error

    assert error["code"] == 50
    assert error["msg"].startswith("the node can't attach pods: ")
    assert str(lan.plugin.run_dir) in error["details"]


def test_a_state_directory_that_is_read_only_is_a_lasting_reason(lan: Network) -> None:
    with mounted(lan.plugin.run_dir, "ro"):
        assert lan.call("STATUS").error["code"] == 50


@pytest.mark.parametrize("limit", ["size=64k", "nr_inodes=8"])
def test_a_state_directory_that_is_full_is_a_lasting_reason(limit: str, lan: Network) -> None:
    with mounted(lan.plugin.run_dir, limit):
        assert lan.call("STATUS").code == 0
        fill(lan.plugin.run_dir)

        assert lan.call("STATUS").error["code"] == 50


@pytest.mark.parametrize("limit", ["ro", "size=64k", "nr_inodes=8"])
def test_reservations_that_cannot_be_written_are_a_lasting_reason(limit: str, lan: Network) -> None:
    with mounted(lan.data_dir, limit):
        if limit != "ro":
            assert lan.call("STATUS").code == 0
            fill(lan.data_dir)

        error = lan.call("STATUS").error

    assert error["code"] == 50
    assert str(lan.data_dir) in error["msg"]


def test_a_file_system_without_limits_is_not_full(lan: Network) -> None:
    with mounted(lan.data_dir, "size=0,nr_inodes=0"):
        assert lan.call("STATUS").code == 0


@pytest.mark.parametrize(
    ("ipam", "code", "told"),
    [
        ({"type": "nobody"}, 105, 'failed to find plugin "nobody"'),
        ({"type": "host-local", "ranges": []}, 7, "no IP ranges specified"),
        ({"type": "host-local", "ranges": [[{"subnet": "10.1.0.7/24"}]]}, 7, "host bits set"),
    ],
    ids=str,
)
def test_what_ipam_says_is_passed_on(
    ipam: dict[str, object], code: int, told: str, network: Callable[..., Network]
) -> None:
    error = network(ipam=ipam).call("STATUS").error

    assert error["code"] == code
    assert told in error["msg"]


@pytest.mark.needs(f"{REFERENCE_PLUGINS}/static")
def test_what_an_ipam_plugin_of_somebody_else_says_is_passed_on_as_it_is(
    network: Callable[..., Network], plugin: Exec
) -> None:
    lan = network(ipam={"type": "static", "addresses": []})
    nobody = {"CNI_CONTAINERID": "", "CNI_IFNAME": ""}
    itself = plugin("static", "STATUS", lan.config, node=lan.node, env=nobody).error

    error = lan.call("STATUS").error

    assert (error["code"], error["msg"]) == (itself["code"], itself["msg"])
    assert error["cniVersion"] == "1.1.0"


def test_a_range_that_is_full_is_not_asked_for(network: Callable[..., Network], netns: Path) -> None:
    # A no makes the node NotReady, and its healthy pods are evicted.
    lan = network("10.1.0.0/30")
    lan.add(netns)

    assert lan.call("ADD", "b", netns, ifname="net1").error["code"] == 101
    assert lan.call("STATUS").code == 0


def test_a_network_without_addresses_has_a_status_too(network: Callable[..., Network]) -> None:
    assert network().call("STATUS").code == 0


def test_a_passing_trouble_is_not_told_as_a_lasting_one(lan: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_nl: Socket, request: Request) -> Message | None:
        raise NetlinkError(errno.ENOMEM, request.what)

    monkeypatch.setattr(Socket, "get", refused)

    assert lan.call("STATUS").error["code"] == 11

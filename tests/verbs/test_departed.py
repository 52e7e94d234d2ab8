"""When addresses run out: pods that are gone without a DEL give way, and nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests import namespaces
from tests.verbs.networks import Network, addresses

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_pod_whose_namespace_is_gone_gives_way_when_no_address_is_left(
    network: Callable[..., Network], netns: Path
) -> None:
    lan = network("10.1.0.0/30", isGateway=True)
    with namespaces.held() as gone:
        assert addresses(lan.add(gone, "a")) == ["10.1.0.2"]
        error = lan.call("ADD", "b", netns).error
        assert error["code"] == 101
        assert lan.reserved == {"10.1.0.2": "a eth0"}
    namespaces.until_dismantled(lan.node)

    result = lan.add(netns, "b")
    assert addresses(result) == ["10.1.0.2"]

    # Its DEL comes late, if ever, and takes nothing from who has the address now.
    lan.delete("a")
    assert lan.reserved == {"10.1.0.2": "b eth0"}
    assert lan.check(result, netns, "b").code == 0


def test_a_requested_address_of_a_pod_that_is_gone_is_given(network: Callable[..., Network], netns: Path) -> None:
    lan = network("10.1.0.0/24", isGateway=True)
    with namespaces.held() as gone:
        lan.add(gone, "a", args="IP=10.1.0.77")
        assert lan.call("ADD", "b", netns, args="IP=10.1.0.77").error["code"] == 11
    namespaces.until_dismantled(lan.node)

    assert addresses(lan.add(netns, "b", args="IP=10.1.0.77")) == ["10.1.0.77"]


def test_what_has_no_record_is_nobody_s_to_take(network: Callable[..., Network], netns: Path) -> None:
    lan = network("10.1.0.0/30", isGateway=True)
    with namespaces.held() as gone:
        lan.add(gone, "a")
    namespaces.until_dismantled(lan.node)
    for record in lan.plugin.run_dir.glob("attachments/lan/*"):
        record.unlink()

    assert lan.call("ADD", "b", netns).error["code"] == 101
    assert lan.reserved == {"10.1.0.2": "a eth0"}


def test_a_namespace_that_lives_on_without_its_path_keeps_its_address(
    network: Callable[..., Network], netns: Path, tmp_path: Path
) -> None:
    lan = network("10.1.0.0/30", isGateway=True)
    with namespaces.held() as hidden:
        path = tmp_path / "netns"
        path.symlink_to(hidden)
        lan.add(path, "a")
        path.unlink()

        assert lan.call("ADD", "b", netns).error["code"] == 101
        assert lan.reserved == {"10.1.0.2": "a eth0"}


def test_a_later_member_of_the_chain_does_not_say_that_a_pod_is_gone(
    network: Callable[..., Network], netns: Path, tmp_path: Path
) -> None:
    lan = network("10.1.0.0/30", isGateway=True)
    with namespaces.held() as hidden:
        path = tmp_path / "netns"
        path.symlink_to(hidden)
        lan.chained("tuning", lan.add(path, "a"), txQLen=77).add(path, "a")
        path.unlink()

        assert lan.call("ADD", "b", netns).error["code"] == 101
        assert lan.reserved == {"10.1.0.2": "a eth0"}

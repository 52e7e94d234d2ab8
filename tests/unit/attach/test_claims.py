"""Claims: one attachment has what there is one of; the living keep it, the dead lose it, and no order loses a rule."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from typing import TYPE_CHECKING

import pytest

from cni.attach import claims, record
from cni.attach.node import Node
from cni.attach.record import Record
from cni.kernel.netns import Netns
from cni.kernel.nft import Claim
from cni.key import Delegation, Key
from cni.noaddresses import NoAddresses
from cni.spec.errors import TRY_AGAIN_LATER, CNIError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

A, B, C = (Key("net", pod, "eth0", "bridge") for pod in "abc")
PORT = Claim("tcp:8080", "0.0.0.0")
ADDRESS = Claim("address:cni0:10.244.0.5")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node whose state is a folder."""
    with Node(str(tmp_path), lambda _: NoAddresses()) as node:
        yield node


@pytest.fixture
def attached(node: Node, make_netns: Callable[[], Path]) -> Callable[..., None]:
    """`attached(key, stage)`: there is a record of the attachment, in a namespace that exists."""

    def attach(key: Key, stage: str = record.COMPLETE) -> None:
        netns = Netns(str(make_netns()))
        netns.close()
        node.records.write(Record.begun(key, netns, 0, Delegation("", "", ""))._replace(stage=stage))

    return attach


def file_of(node: Node, resource: str) -> bool:
    return record.read_file(f"{node.run_dir}/claims/{resource}") is not None


def test_what_is_taken_is_ones_own_until_it_is_released(node: Node) -> None:
    assert claims.take(node, A, [PORT, ADDRESS]) == frozenset()

    assert claims.mine(node, A, [PORT, ADDRESS]) == {PORT, ADDRESS}
    assert claims.mine(node, B, [PORT, ADDRESS]) == frozenset()

    claims.release(node, A, [PORT, ADDRESS])

    assert claims.mine(node, A, [PORT, ADDRESS]) == frozenset()
    assert not file_of(node, PORT.resource)
    assert not file_of(node, ADDRESS.resource)


def test_a_full_disk_keeps_nobody_from_giving_it_back(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Claim(PORT.resource, "192.0.2.1")
    claims.take(node, A, [other])
    claims.take(node, B, [Claim(PORT.resource, "192.0.2.2")])

    def full(path: str, _content: bytes, _new: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(claims, "replace_file", full)
    claims.release(node, A, [other])
    monkeypatch.undo()

    assert claims.take(node, C, [other]) == {(str(A), other)}


def test_taking_it_again_is_as_taking_it_once(node: Node) -> None:
    claims.take(node, A, [PORT])

    assert claims.take(node, A, [PORT]) == frozenset()
    assert claims.mine(node, A, [PORT]) == {PORT}


@pytest.mark.parametrize("claim", [PORT, ADDRESS])
def test_the_living_keep_it_and_are_named(node: Node, attached: Callable[..., None], claim: Claim) -> None:
    attached(A)
    claims.take(node, A, [claim])

    with pytest.raises(CNIError) as caught:
        claims.take(node, B, [claim])

    assert caught.value.code == TRY_AGAIN_LATER
    assert str(A) in caught.value.msg
    assert claims.mine(node, A, [claim]) == {claim}


def test_of_several_none_is_taken_when_one_is_refused(node: Node, attached: Callable[..., None]) -> None:
    attached(A)
    claims.take(node, A, [PORT])

    with pytest.raises(CNIError):
        claims.take(node, B, [ADDRESS, PORT])

    assert claims.mine(node, B, [ADDRESS]) == frozenset()
    assert not file_of(node, ADDRESS.resource)


@pytest.mark.parametrize("stage", [record.BEGUN, record.PLANNED, record.LEAVING])
def test_who_is_not_complete_and_not_being_made_has_nothing(
    node: Node, attached: Callable[..., None], stage: str
) -> None:
    attached(A, stage)
    claims.take(node, A, [PORT])

    assert claims.take(node, B, [PORT]) == {(str(A), PORT)}
    assert claims.mine(node, A, [PORT]) == frozenset()
    assert claims.mine(node, B, [PORT]) == {PORT}


def test_what_a_dead_one_had_is_cleared_while_it_is_still_its_own(node: Node) -> None:
    """Who dies at it must not leave what neither of the two would take away."""
    claims.take(node, A, [PORT])
    told = []

    def clear(lost: frozenset[tuple[str, Claim]]) -> None:
        told.append((lost, claims.mine(node, A, [PORT])))

    claims.take(node, B, [Claim(PORT.resource, "192.0.2.1")], clear)
    claims.take(node, B, [ADDRESS], clear)

    assert told == [(frozenset({(str(A), PORT)}), frozenset({PORT}))]
    assert claims.mine(node, A, [PORT]) == frozenset()


def test_who_has_no_record_has_nothing(node: Node) -> None:
    claims.take(node, A, [PORT])

    assert claims.take(node, B, [PORT]) == {(str(A), PORT)}


def test_what_the_dead_had_is_told_by_their_scope(node: Node) -> None:
    here, there, elsewhere = (Claim("tcp:8080", f"192.0.2.{n}") for n in (1, 2, 3))
    claims.take(node, A, [here, there])
    claims.take(node, B, [elsewhere])

    assert claims.take(node, C, [PORT]) == {(str(A), here), (str(A), there), (str(B), elsewhere)}


def test_who_is_just_being_made_lives(node: Node, attached: Callable[..., None]) -> None:
    attached(A, record.PLANNED)
    claims.take(node, A, [PORT])
    failures: list[CNIError] = []

    def another() -> None:
        with Node(node.run_dir, lambda _: NoAddresses()) as other:
            try:
                claims.take(other, B, [PORT])
            except CNIError as error:
                failures.append(error)

    with node.lock(A):
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()

    assert [error.code for error in failures] == [TRY_AGAIN_LATER]


def test_the_dead_one_does_not_give_back_what_passed_to_another(node: Node) -> None:
    claims.take(node, A, [PORT])
    claims.take(node, B, [PORT])

    claims.release(node, A, [PORT])

    assert claims.mine(node, B, [PORT]) == {PORT}


SCOPES = ("0.0.0.0", "::", "192.0.2.1", "192.0.2.2", "2001:db8::1")


@pytest.mark.parametrize(("one", "other"), list(itertools.product(SCOPES, SCOPES)))
def test_all_addresses_of_a_family_are_each_of_them(
    node: Node, attached: Callable[..., None], one: str, other: str
) -> None:
    attached(A)
    claims.take(node, A, [Claim("tcp:80", one)])
    same_family = (":" in one) == (":" in other)
    conflict = one == other or (same_family and {one, other} & {"0.0.0.0", "::"})

    try:
        claims.take(node, B, [Claim("tcp:80", other)])
    except CNIError:
        refused = True
    else:
        refused = False

    assert refused == bool(conflict)


def test_two_scopes_of_one_resource_stand_beside_each_other(node: Node) -> None:
    here, there = Claim("tcp:80", "192.0.2.1"), Claim("tcp:80", "192.0.2.2")
    claims.take(node, A, [here])
    claims.take(node, B, [there])

    claims.release(node, A, [here])

    assert claims.mine(node, B, [there]) == {there}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"": 1}', b"\xff"])
def test_a_file_that_says_nothing_keeps_nobody_out(node: Node, content: bytes) -> None:
    claims.take(node, A, [PORT])
    with open(f"{node.run_dir}/claims/{PORT.resource}", "wb") as file:
        file.write(content)

    claims.take(node, B, [PORT])

    assert claims.mine(node, B, [PORT]) == {PORT}


def test_who_is_gone_can_be_disowned(node: Node) -> None:
    claims.take(node, A, [PORT])
    claims.take(node, B, [ADDRESS])

    assert claims.owners(node) == {str(A), str(B)}
    claims.disown(node, {str(A)})

    assert claims.owners(node) == {str(B)}
    assert not file_of(node, PORT.resource)

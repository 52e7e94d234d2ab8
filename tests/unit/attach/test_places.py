"""Places: which member of a chain is which, where the next one goes, and which goes first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cni.attach import places, record
from cni.attach.node import Node
from cni.attach.record import Record
from cni.kernel.netns import Netns
from cni.key import Delegation, Key
from cni.noaddresses import NoAddresses
from cni.spec.errors import ALREADY_ATTACHED, INVALID_CONFIG, CNIError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FIRST = Key("net", "c1", "eth0", "tuning")
SECOND, THIRD = (FIRST._replace(plugin=f"tuning#{place}") for place in (2, 3))
COOKIE = 17


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node whose state is a folder."""
    with Node(str(tmp_path), lambda _: NoAddresses()) as node:
        yield node


@pytest.fixture
def pod(make_netns: Callable[[], Path]) -> Netns:
    netns = Netns(str(make_netns()))
    netns.close()
    return netns


def config(**keys: object) -> str:
    return json.dumps({"cniVersion": "1.1.0", "name": "net", "type": "tuning", **keys})


@pytest.fixture
def made(node: Node, pod: Netns) -> Callable[..., Record]:
    """`made(key, mtu=1400)`: there is a record of the member with this configuration."""

    def make(key: Key, stage: str = record.COMPLETE, *, more: bool = True, **keys: object) -> Record:
        begun = Record.begun(key, pod, COOKIE, Delegation("", "", ""), config(**keys))
        return node.records.write(begun._replace(stage=stage, more=more))

    return make


def there(node: Node) -> list[str]:
    return sorted(key.plugin for key in node.records.every_key())


# --- keys -------------------------------------------------------------------------------------------


def test_every_place_has_a_key_of_its_own_that_is_the_plugins(node: Node) -> None:
    keys = places.every(node, FIRST)

    assert keys[:3] == [FIRST, SECOND, THIRD]
    assert len(keys) == places.MOST
    assert {places.plugin(key) for key in keys} == {"tuning"}
    assert len({name for key in keys for name in (key.tag, key.ifb_tag)}) == 2 * places.MOST
    assert [Key.parse(str(key)) for key in keys] == keys
    assert sorted(keys) == keys


# --- who is who -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        {"mtu": 1400},
        {"MTU": 1400},
        {"mtu": 1400, "cniVersion": "0.4.0", "prevResult": {"ips": []}, "runtimeConfig": {"mac": "x"}},
        {"mtu": 1400, "prevresult": None, "args": {"cni": {"mtu": 1300}}},
        {"mtu": 1400, "cni.dev/valid-attachments": [], "cni.dev/attachments": []},
    ],
    ids=str,
)
def test_what_a_runtime_puts_in_makes_no_other_member(keys: dict[str, Any]) -> None:
    assert places.own(config(**keys)) == {"type": "tuning", "mtu": 1400}


@pytest.mark.parametrize("keys", [{"mtu": 1401}, {"mtu": 1400, "mac": ""}, {}, {"mtu": None}], ids=str)
def test_what_it_says_itself_does(keys: dict[str, Any]) -> None:
    assert places.own(config(**keys)) != places.own(config(mtu=1400))


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "null"])
def test_of_what_is_no_configuration_nothing_is_known(text: str) -> None:
    assert places.own(text) is None


# --- where the next one goes ------------------------------------------------------------------------


def require_next(node: Node, first: Record, pod: Netns, **keys: object) -> Key:
    return places.require_next(node, first, pod, COOKIE, config(**keys))


def test_the_second_has_the_second_place_and_the_first_says_so(node: Node, pod: Netns, made: Any) -> None:
    first = made(FIRST, more=False, mtu=1400)

    assert require_next(node, first, pod, mtu=1300) == SECOND

    assert node.records.read(FIRST) == first._replace(more=True)
    assert there(node) == ["tuning"]


def test_the_next_is_behind_the_last_that_is_there(node: Node, pod: Netns, made: Any) -> None:
    first = made(FIRST, mtu=1400)
    made(SECOND, record.LEAVING, mtu=1300)
    assert require_next(node, first, pod, mtu=1200) == SECOND

    made(THIRD, mtu=1300)
    assert require_next(node, first, pod, mtu=1200).plugin == "tuning#4"


@pytest.mark.parametrize("mtu", [1400, 1300])
def test_the_same_at_any_place_is_refused(node: Node, pod: Netns, made: Any, mtu: int) -> None:
    first = made(FIRST, mtu=1400)
    made(SECOND, mtu=1300)

    with pytest.raises(CNIError) as caught:
        require_next(node, first, pod, mtu=mtu)
    assert caught.value.code == ALREADY_ATTACHED


@pytest.mark.parametrize("stage", [record.BEGUN, record.PLANNED, record.LEAVING])
def test_the_same_that_was_never_quite_there_is_made_in_its_place(
    node: Node, pod: Netns, made: Any, stage: str
) -> None:
    first = made(FIRST, mtu=1400)
    made(SECOND, stage, mtu=1300)

    assert require_next(node, first, pod, mtu=1300) == SECOND


def test_of_whom_nothing_is_known_that_may_be_the_same(node: Node, pod: Netns, made: Any) -> None:
    first = made(FIRST, more=False)._replace(config="")

    with pytest.raises(CNIError) as caught:
        require_next(node, first, pod, mtu=1300)
    assert caught.value.code == ALREADY_ATTACHED


def test_another_pod_has_no_second_member(node: Node, pod: Netns, made: Any, make_netns: Callable[[], Path]) -> None:
    first = made(FIRST, more=False, mtu=1400)

    with Netns(str(make_netns())) as other, pytest.raises(CNIError) as caught:
        require_next(node, first, other, mtu=1300)
    assert caught.value.code == ALREADY_ATTACHED
    with pytest.raises(CNIError) as caught:
        places.require_next(node, first, pod, COOKIE + 1, config(mtu=1300))
    assert caught.value.code == ALREADY_ATTACHED
    assert node.records.read(FIRST) == first


def test_after_the_last_place_there_is_none(node: Node, pod: Netns, made: Any) -> None:
    first, *_ = [made(key, mtu=1000 + i) for i, key in enumerate(places.every(node, FIRST))]

    with pytest.raises(CNIError) as caught:
        require_next(node, first, pod, mtu=1400)
    assert caught.value.code == INVALID_CONFIG


# --- who is asked about, and who goes ---------------------------------------------------------------


def test_a_configuration_is_its_members_or_may_be_anyones(node: Node, made: Any) -> None:
    members = [made(key, mtu=mtu) for key, mtu in ((FIRST, 1400), (SECOND, 1300), (THIRD, 1200))]

    for one, mtu in zip(members, (1400, 1300, 1200)):
        assert places.made_by(node, members[0], config(mtu=mtu)) == [one]
    assert places.made_by(node, members[0], config(mtu=1100)) == members


def test_the_last_goes_first_and_the_first_is_left(node: Node, made: Any) -> None:
    for key in (FIRST, SECOND, THIRD):
        made(key)

    assert places.remove_last(node, FIRST)
    assert there(node) == ["tuning", "tuning#2"]
    assert places.remove_last(node, FIRST)
    assert there(node) == ["tuning"]
    assert not places.remove_last(node, FIRST)
    assert there(node) == ["tuning"]


def test_all_but_the_first_go_whatever_they_had_come_to(node: Node, made: Any) -> None:
    made(FIRST)
    made(SECOND, record.BEGUN)
    made(THIRD, record.LEAVING)

    places.remove_later(node, FIRST)

    assert there(node) == ["tuning"]


def test_nobody_elses_goes(node: Node, made: Any) -> None:
    for key in (FIRST, SECOND, SECOND._replace(container_id="c2"), SECOND._replace(plugin="bandwidth#2")):
        made(key)

    places.remove_later(node, FIRST)

    assert there(node) == ["bandwidth#2", "tuning", "tuning#2"]

"""Keys and tags: who an attachment is, in a word that fits an interface's name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.key import Key, fnv1a, hash_of, is_tag
from cni.spec.result import Interface, IPConfig
from cni.wanted import Wanted
from ipam.address import Interface as Prefixed

WORDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True)
"""Networks, container IDs and plugins."""

IFNAMES = st.text(st.characters(exclude_characters="/: \t\n"), min_size=1, max_size=5)
"""The kernel takes an `@` here."""

KEYS = st.builds(Key, WORDS, WORDS, IFNAMES, WORDS)


def test_the_hash_is_the_published_one() -> None:
    """Vectors of the FNV authors."""
    assert fnv1a(b"") == 0xCBF29CE484222325
    assert fnv1a(b"a") == 0xAF63DC4C8601EC8C
    assert fnv1a(b"foobar") == 0x85944171F73967E8


def test_a_key_reads_as_the_file_that_keeps_its_record() -> None:
    assert str(Key("net", "c1", "eth0", "bridge")) == "net/c1@eth0@bridge"


@given(KEYS)
def test_parse_is_the_inverse_of_str(key: Key) -> None:
    assert Key.parse(str(key)) == key


@given(st.text("ab/@", max_size=9))
def test_what_parses_is_written_as_it_was_read(text: str) -> None:
    key = Key.parse(text)

    assert key is None or str(key) == text


def test_what_is_no_key_is_none() -> None:
    for text in ("", "net", "net/c1", "net/c1@eth0", "c1@eth0@bridge", "net/c1@eth0@", "an alias of somebody else's"):
        assert Key.parse(text) is None, text


@given(KEYS)
def test_a_tag_is_a_name_that_any_interface_may_have(key: Key) -> None:
    assert len(key.tag) == 15
    assert key.tag.startswith("pw")
    assert key.tag.isascii()
    assert key.tag.isalnum()
    assert key.tag == key.tag.lower()


@given(KEYS)
def test_a_tag_gives_the_hash_back(key: Key) -> None:
    """So what bears a tag can be locked by who knows nothing else of it."""
    assert is_tag(key.tag)
    assert hash_of(key.tag) == key.hash


@pytest.mark.parametrize("text", ["", "pw", "pw5qrjucmoag3i", "pw5qrjucmoag3iv0", "xx5qrjucmoag3iv", "pw5qrjucmoag3iw"])
def test_what_no_key_has_for_a_tag_is_none(text: str) -> None:
    assert not is_tag(text)


def test_a_tag_is_the_same_in_every_version() -> None:
    """What a lost record leaves behind is found by it, also after an upgrade."""
    assert Key("net", "c1", "eth0", "bridge").tag == "pw5qrjucmoag3iv"


def test_each_part_of_a_key_counts() -> None:
    key = Key("net", "c1", "eth0", "bridge")

    others = [key._replace(**{part: "x"}) for part in Key._fields]

    assert len({one.tag for one in [key, *others]}) == 5


def test_a_hundred_thousand_attachments_have_as_many_tags() -> None:
    tags = {Key("net", f"{number:064x}", "eth0", "bridge").tag for number in range(100_000)}

    assert len(tags) == 100_000


def test_two_features_wants_are_joined_with_addresses_at_their_own_interfaces() -> None:
    address = Prefixed.parse("10.0.0.1/24")
    first = Wanted(interfaces=(Interface("a"), Interface("b")), ips=(IPConfig(address, interface=1),))
    second = Wanted(interfaces=(Interface("c"),), ips=(IPConfig(address, interface=0), IPConfig(address)))

    both = first.and_also(second)

    assert [interface.name for interface in both.interfaces] == ["a", "b", "c"]
    assert [ip.interface for ip in both.ips] == [1, 2, None]


def test_no_group_is_forgotten_when_wants_are_joined() -> None:
    groups: dict[str, Any] = {name: (Interface(name),) for name in Wanted._fields if name != "ips"}
    every = Wanted(**groups)

    assert every.and_also(Wanted()) == Wanted().and_also(every) == every
    assert every.and_also(every) == Wanted(**{name: 2 * group for name, group in groups.items()})

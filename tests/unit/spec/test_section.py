"""One JSON object, read with types: what is taken, what is refused, and in which words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec.errors import INVALID_CONFIG
from cni.spec.section import Section
from tests.unit.spec import anything
from tests.unit.spec.anything import failure, refusal

if TYPE_CHECKING:
    from collections.abc import Callable


def of(**entries: object) -> Section:
    return Section.of(entries, "bridge")


def words(read: Callable[..., object], *arguments: object) -> str:
    """Of the error with code 7 that `read(*arguments)` must end with."""
    error = refusal(read, *arguments)
    assert error.code == INVALID_CONFIG
    return error.msg


# --- objects ----------------------------------------------------------------------------------------


def test_null_is_an_object_without_keys() -> None:
    assert Section.of(None, "bridge").empty
    assert Section.of({}, "bridge").empty
    assert not of(mtu=1).empty


@pytest.mark.parametrize("value", [[], "x", 5, True, 1.5])
def test_what_is_no_object_is_refused(value: object) -> None:
    assert words(Section.of, value, "bridge.ipam").startswith("bridge.ipam must be a JSON object, got ")


def test_an_absent_key_and_null_are_the_same() -> None:
    for section in (of(), of(key=None)):
        assert not section.has("key")
        assert section.raw("key") is None
        assert section.text("key", "default") == "default"
        assert section.integer("key", 7) == 7
        assert section.flag("key", True) is True
        assert section.section("key").empty
        assert section.sections("key") == ()
        assert section.texts("key") == ()


@pytest.mark.parametrize("spelling", ["isGateway", "isgateway", "ISGATEWAY", "IsGateWay"])
def test_keys_match_without_regard_to_case(spelling: str) -> None:
    section = Section.of({spelling: True}, "bridge")

    assert section.has("isGateway")
    assert section.flag("isGateway")
    assert section.unknown(["isGateway"]) == []


def test_two_spellings_of_one_key_are_an_error_when_it_is_read() -> None:
    section = Section.of({"mtu": 1400, "name": "x", "MTU": 9000}, "bridge")

    assert section.text("name") == "x"
    for read in (section.has, section.raw, section.integer, section.text, section.section):
        assert words(read, "mtu") == ('bridge: mtu is given twice, as "mtu" and "MTU", the first being 1400')


def test_unknown_keys_are_told_as_they_are_spelled_and_in_order() -> None:
    section = Section.of({"Zeta": 1, "mtu": 2, "alpha": None}, "bridge")

    assert section.unknown({"MTU"}) == ["Zeta", "alpha"]


def test_a_section_shows_its_place_and_keys() -> None:
    assert repr(of(mtu=1, vlan=2)) == "Section(bridge: mtu, vlan)"


# --- values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "x", "ü", "😀", "a\nb"])
def test_text_is_taken_as_it_is(value: str) -> None:
    assert of(key=value).text("key", "default") == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "bridge: key must be a string, got 5"),
        (True, "bridge: key must be a string, got true"),
        (["x"], 'bridge: key must be a string, got ["x"]'),
        ({}, "bridge: key must be a string, got {}"),
        ("a\0b", 'bridge: key must be a string without NUL characters, got "a\\u0000b"'),
        ("\ud800", 'bridge: key must be valid Unicode, not half of a surrogate pair, got "\\ud800"'),
    ],
)
def test_other_values_are_no_text(value: object, message: str) -> None:
    assert words(of(key=value).text, "key") == message
    assert words(of(key=["fine", value]).texts, "key") == message.replace("key", "key[1]")


@pytest.mark.parametrize("value", [0, -1, 1500, 2**63 - 1, -(2**63)])
def test_whole_numbers_are_taken(value: int) -> None:
    assert of(key=value).integer("key", 7) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.0, "bridge: key must be a whole number, got 1.0"),
        ("1", 'bridge: key must be a whole number, got "1"'),
        (True, "bridge: key must be a whole number, got true"),
        (False, "bridge: key must be a whole number, got false"),
        (float("inf"), "bridge: key must be a whole number, got a number too large"),
        ([1], "bridge: key must be a whole number, got [1]"),
        (
            2**63,
            "bridge: key must be a whole number from -9223372036854775808 to 9223372036854775807, "
            "got 9223372036854775808",
        ),
        (10**400, f"bridge: key must be a whole number from {-(2**63)} to {2**63 - 1}, got 1{'0' * 118}…"),
    ],
)
def test_other_values_are_no_whole_number(value: object, message: str) -> None:
    assert words(of(key=value).integer, "key") == message


def test_a_whole_number_has_limits_when_the_reader_says_so() -> None:
    section = of(mtu=68, big=2**64 - 1)

    assert section.integer("mtu", least=68, most=65535) == 68
    assert section.integer("big", most=2**64 - 1) == 2**64 - 1
    assert words(section.integer, "mtu", 0, 69, 70) == ("bridge: mtu must be a whole number from 69 to 70, got 68")
    assert section.integer("absent", 5, least=68) == 5  # the default is the reader's own


@pytest.mark.parametrize("value", [1, 0, "true", "", [], 1.0])
def test_only_true_and_false_are_flags(value: object) -> None:
    assert words(of(key=value).flag, "key").startswith("bridge: key must be true or false, got ")


def test_an_object_in_an_object_knows_its_place() -> None:
    inner = of(ipam={"ranges": [{"subnet": 1}]}).section("ipam").sections("ranges")[0]

    assert inner.where == "bridge.ipam.ranges[0]"
    assert words(inner.text, "subnet") == "bridge.ipam.ranges[0]: subnet must be a string, got 1"


@pytest.mark.parametrize("value", [[], "x", 1, False])
def test_what_should_be_an_object_and_is_none_is_refused(value: object) -> None:
    assert words(of(ipam=value).section, "ipam").startswith("bridge.ipam must be a JSON object, got ")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "bridge: routes must be a list of objects, got {}"),
        ("x", 'bridge: routes must be a list of objects, got "x"'),
        ([{}, None], "bridge: routes[1] must be an object, got null"),
        ([[]], "bridge: routes[0] must be an object, got []"),
    ],
)
def test_what_is_no_list_of_objects_is_refused(value: object, message: str) -> None:
    assert words(of(routes=value).sections, "routes") == message


def test_texts_are_a_tuple_in_order() -> None:
    assert of(search=["b", "a", "b"]).texts("search") == ("b", "a", "b")
    assert words(of(search="a").texts, "search") == 'bridge: search must be a list of strings, got "a"'
    assert words(of(search=[None]).texts, "search") == "bridge: search[0] must be a string, got null"


def test_a_reader_refuses_a_value_of_the_right_type_in_the_same_words() -> None:
    section = Section.of({"MODE": "fast"}, "bridge")

    assert section.error("mode", "slow").msg == 'bridge: mode must be slow, got "fast"'


@given(st.dictionaries(anything.TEXT, anything.JSON, max_size=4), anything.TEXT)
def test_any_object_can_be_read_in_any_way_and_fails_only_in_our_terms(value: dict[str, object], other: str) -> None:
    section = Section.of(value, "bridge")

    for key in [*value, other]:
        for read in (
            section.has,
            section.raw,
            section.text,
            section.integer,
            section.flag,
            section.section,
            section.sections,
            section.texts,
        ):
            error = failure(read, key)
            assert error is None or error.code == INVALID_CONFIG
    assert section.unknown(value) == []

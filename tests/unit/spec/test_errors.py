"""Error objects: one JSON document, whatever went into them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from cni.spec import errors
from cni.spec.errors import CNIError, config_error, shown, unsupported
from tests.unit.spec import anything


@given(anything.TEXT, anything.TEXT)
def test_an_error_object_is_one_line_of_json_with_all_four_keys(msg: str, details: str) -> None:
    text = CNIError(7, msg, details).to_json("1.0.0")

    assert text.isascii()
    assert "\n" not in text
    assert json.loads(text) == {"cniVersion": "1.0.0", "code": 7, "msg": msg, "details": details}


def test_codes_are_distinct_and_those_of_the_specification_stand_where_it_has_them() -> None:
    codes = {name: value for name, value in vars(errors).items() if type(value) is int and name[0] != "_"}

    assert len(set(codes.values())) == len(codes)
    assert [name for name, value in sorted(codes.items(), key=lambda item: item[1]) if value < 100] == [
        "INCOMPATIBLE_VERSION",
        "UNSUPPORTED_FIELD",
        "UNKNOWN_CONTAINER",
        "INVALID_ENVIRONMENT",
        "IO_FAILURE",
        "DECODING_FAILURE",
        "INVALID_CONFIG",
        "INVALID_NETNS",
        "TRY_AGAIN_LATER",
        "NOT_AVAILABLE",
        "LIMITED_CONNECTIVITY",
    ]
    assert errors.INVALID_NETNS == 8
    assert errors.LIMITED_CONNECTIVITY == 51


def test_an_error_reads_as_a_sentence_with_what_to_do() -> None:
    assert str(CNIError(11, "cbr0 is locked", "try again")) == "cbr0 is locked (try again)"
    assert str(CNIError(11, "cbr0 is locked")) == "cbr0 is locked"


def test_an_error_about_a_configuration_names_place_key_value_and_remedy() -> None:
    error = config_error("bridge.ipam", "mtu", "1500", "a whole number")

    assert error.code == errors.INVALID_CONFIG
    assert error.msg == 'bridge.ipam: mtu must be a whole number, got "1500"'
    assert "mtu" in error.details


def test_an_unsupported_field_is_named_with_its_value() -> None:
    error = unsupported("bridge", "vlan", 100, "bridges don't filter VLANs")

    assert error.code == errors.UNSUPPORTED_FIELD
    assert error.msg == "bridge: vlan = 100 is not supported: bridges don't filter VLANs"
    assert "vlan" in error.details


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("ü\n\ud800", '"\\u00fc\\n\\ud800"'),
        ({"a": [1]}, '{"a": [1]}'),
        (float("inf"), "a number too large"),
        ([float("inf")], "a list"),
        (object(), "a object"),
        ("x" * 200, '"' + "x" * 118 + "…"),
        (10**4000, "1" + "0" * 118 + "…"),
    ],
)
def test_any_value_can_be_shown_on_one_short_line(value: object, text: str) -> None:
    assert shown(value) == text


def test_what_the_interpreter_refuses_to_write_can_be_shown() -> None:
    assert shown(10**5000) == "a int"

    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]

    assert shown(nested) == "a list"

"""Versions of the protocol: what they are, which we speak, what they allow."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from cni.spec import versions
from cni.spec.errors import DECODING_FAILURE, INCOMPATIBLE_VERSION
from tests.unit.spec import anything
from tests.unit.spec.anything import failure, refusal


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", (0, 1, 0)), ("1", (1, 0, 0)), ("1.1", (1, 1, 0)), ("0.3.1", (0, 3, 1)), ("10.20.30", (10, 20, 30))],
)
def test_a_version_is_up_to_three_numbers(text: str, numbers: tuple[int, int, int]) -> None:
    assert versions.parse(text) == numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adsfsadf", 'failed to convert major version part "adsfsadf"'),
        ("1.x.0", 'failed to convert minor version part "x"'),
        ("1.1.", 'failed to convert micro version part ""'),
        ("1.1.0.0", 'invalid version "1.1.0.0": too many parts'),
        (".", "failed to convert major"),
        (" 1.1.0", "failed to convert major"),
        ("+1.1.0", "failed to convert major"),
        ("1_0.1.0", "failed to convert major"),
        ("1.1.0\n", "failed to convert micro"),
        ("1.1.٣", "failed to convert micro"),
        ("1.1.²", "failed to convert micro"),
        ("1." + "9" * 5000, "failed to convert minor"),
        ("v1.1.0", "failed to convert major"),
    ],
)
def test_what_is_no_version_is_a_decoding_failure(text: str, message: str) -> None:
    error = refusal(versions.parse, text)

    assert error.code == DECODING_FAILURE
    assert message in error.msg
    assert "1.1.0" in error.details


@given(anything.TEXT)
def test_parsing_a_version_fails_only_in_our_terms(text: str) -> None:
    error = failure(versions.parse, text)

    assert error is None or error.code == DECODING_FAILURE


def test_supported_versions_are_in_order_and_end_at_the_current_one() -> None:
    parsed = [versions.parse(one) for one in versions.SUPPORTED]

    assert parsed == sorted(parsed)
    assert versions.SUPPORTED[-1] == versions.CURRENT
    assert len(versions.SUPPORTED) == 7
    for version in versions.SUPPORTED:
        versions.require_supported(version)


@pytest.mark.parametrize("version", ["", "1.1", "01.1.0", "0.5.0", "1.2.0", "1.1.0 ", "2"])
def test_a_version_counts_only_by_its_exact_text(version: str) -> None:
    error = refusal(versions.require_supported, version)

    assert error.code == INCOMPATIBLE_VERSION
    assert error.msg == "incompatible CNI versions"
    assert error.details == (
        f'config is "{version}", plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]'
    )


@pytest.mark.parametrize(("some", "since"), [(versions.SINCE_0_3, "0.3.0"), (versions.SINCE_0_4, "0.4.0")])
def test_a_plugin_may_speak_the_later_versions_only(some: tuple[str, ...], since: str) -> None:
    assert some == tuple(one for one in versions.SUPPORTED if versions.parse(one) >= versions.parse(since))
    for version in some:
        versions.require_supported(version, some)

    error = refusal(versions.require_supported, "0.1.0", some)

    assert error.code == INCOMPATIBLE_VERSION
    assert error.details == f'config is "0.1.0", plugin supports [{" ".join(json.dumps(one) for one in some)}]'


SINCE = {"ADD": "0.1.0", "DEL": "0.1.0", "VERSION": "0.1.0", "CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}


@pytest.mark.parametrize("command", SINCE)
@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_a_command_exists_since_its_version(command: str, version: str) -> None:
    if versions.SUPPORTED.index(version) >= versions.SUPPORTED.index(SINCE[command]):
        versions.require_command(command, version)
        return

    error = refusal(versions.require_command, command, version)

    assert error.code == INCOMPATIBLE_VERSION
    assert error.msg == f"config version does not allow {command}"
    assert version in error.details
    assert SINCE[command] in error.details


@pytest.mark.parametrize("command", ["CHECK", "GC", "STATUS"])
def test_a_version_to_come_is_one_that_the_plugin_does_not_allow(command: str) -> None:
    error = refusal(versions.require_command, command, "1.2.0")

    assert error.code == INCOMPATIBLE_VERSION
    assert error.msg == f"plugin version does not allow {command}"


def test_a_command_in_a_malformed_version_is_a_decoding_failure() -> None:
    error = refusal(versions.require_command, "CHECK", "adsfsadf")

    assert error.code == DECODING_FAILURE

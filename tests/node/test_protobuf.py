"""The encoding that the CRI's messages travel in: bytes as its documentation gives them, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.node.protobuf import decode, encode, field


@dataclass(frozen=True)
class Inner:
    number: int = field(1, 0)


@dataclass(frozen=True)
class Everything:
    number: int = field(1, 0)
    text: str = field(2, "")
    inner: Inner | None = field(3, None)
    flag: bool = field(4, False)
    raw: bytes = field(5, b"")
    names: tuple[str, ...] = field(6, ())
    inners: tuple[Inner, ...] = field(7, ())
    labels: Mapping[str, str] = field(20, {})


messages = st.builds(
    Everything,
    number=st.integers(-(1 << 63), (1 << 63) - 1),
    text=st.text(),
    inner=st.none() | st.builds(Inner, st.integers(0, 300)),
    flag=st.booleans(),
    raw=st.binary(),
    names=st.lists(st.text()).map(tuple),
    inners=st.lists(st.builds(Inner, st.integers(0, 2))).map(tuple),
    labels=st.dictionaries(st.text(), st.text()),
)


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (Everything(), ""),
        (Everything(number=150), "08 96 01"),
        (Everything(number=-1), "08 ff ff ff ff ff ff ff ff ff 01"),
        (Everything(text="testing"), "12 07 74 65 73 74 69 6e 67"),
        (Everything(inner=Inner(150)), "1a 03 08 96 01"),
        (Everything(inner=Inner()), "1a 00"),
        (Everything(names=("a", "", "b")), "32 01 61 32 00 32 01 62"),
        (Everything(labels={"k": "v"}), "a2 01 06 0a 01 6b 12 01 76"),
    ],
)
def test_bytes_are_those_of_the_documentation(message: Everything, data: str) -> None:
    assert encode(message) == bytes.fromhex(data)
    assert decode(Everything, bytes.fromhex(data)) == message


@given(messages)
def test_what_is_encoded_comes_back(message: Everything) -> None:
    assert decode(Everything, encode(message)) == message


@given(messages)
def test_unknown_fields_are_skipped(message: Everything) -> None:
    assert decode(Inner, encode(message)) == Inner(message.number)


@pytest.mark.parametrize(
    "data", ["08", "08 ff ff ff ff ff ff ff ff ff ff ff 01", "12 05 61", "0d 00 00 00 00", "12 01 ff"]
)
def test_what_is_no_message_is_refused(data: str) -> None:
    with pytest.raises(ValueError):
        decode(Everything, bytes.fromhex(data))

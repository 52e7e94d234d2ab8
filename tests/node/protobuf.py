"""Protocol buffers as far as the CRI needs them: a message is a frozen dataclass whose fields carry their numbers.

    @dataclass(frozen=True)
    class ImageSpec:
        image: str = field(1, "")

On the wire a message is a sequence of (key, value). The key holds the field's number and one of two
kinds of value: a varint for numbers, or a length and that many bytes for everything else: text, messages,
the entries of a map. What equals its default is left out, a repeated field simply occurs again, and a field
that the reader doesn't know is skipped: so a subset of a message is a message. (protobuf.dev, Encoding.)
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

__all__ = ["decode", "encode", "field"]

VARINT, BYTES = 0, 2  # wire types; the two fixed-width ones don't occur in the CRI

Message = TypeVar("Message")


def field(number: int, default: object) -> Any:
    """A field of a message: its number in the .proto, and what it is when it isn't sent."""
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata={"number": number})
    return dataclasses.field(default=default, metadata={"number": number})


def encode(message: object) -> bytes:
    """The message's bytes. `message` is a dataclass whose fields were made by `field`."""
    return b"".join(_encoded(number, getattr(message, name)) for number, (name, _) in _fields(type(message)).items())


def decode(kind: type[Message], data: bytes) -> Message:
    """The message of that kind in `data`. Raises ValueError for bytes that are no message."""
    found: dict[str, Any] = {}
    known = _fields(kind)
    for number, value in _pairs(data):
        if number not in known:
            continue
        name, hint = known[number]
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if origin is tuple:
            found[name] = (*found.get(name, ()), _value(inner[0], value))
        elif origin is Mapping:
            entry = dict(_pairs(typing.cast(bytes, value)))
            found[name] = {**found.get(name, {}), _value(str, entry.get(1, b"")): _value(str, entry.get(2, b""))}
        else:
            found[name] = _value(hint, value)
    return kind(**found)


def _fields(kind: type[Any]) -> dict[int, tuple[str, Any]]:
    hints = typing.get_type_hints(kind)
    return {each.metadata["number"]: (each.name, hints[each.name]) for each in dataclasses.fields(kind)}


def _encoded(number: int, value: object) -> bytes:
    if isinstance(value, tuple):
        return b"".join(_encoded(number, each) if each else _sized(number, b"") for each in value)
    if isinstance(value, Mapping):
        entries = (_encoded(1, key) + _encoded(2, mapped) for key, mapped in value.items())
        return b"".join(_sized(number, entry) for entry in entries)
    if isinstance(value, int):  # bool is one too
        return _varint(number << 3 | VARINT) + _varint(value) if value else b""
    if isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        return _sized(number, data) if data else b""
    return b"" if value is None else _sized(number, encode(value))


def _sized(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """Seven bits at a time, the lowest first; the eighth says that more follow. Negative numbers as 64-bit ones."""
    value &= (1 << 64) - 1
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _value(hint: Any, value: int | bytes) -> Any:
    if isinstance(value, int):
        if hint is bool:
            return bool(value)
        if hint is int:
            return value - (1 << 64) if value >> 63 else value
    elif hint is bytes:
        return value
    elif hint is str:
        return value.decode()
    elif hint is not int and hint is not bool:
        return decode(_message_type(hint), value)
    raise ValueError(f"protobuf: a value of the wrong wire type for {hint}")


def _message_type(hint: Any) -> type:
    """The class in `Some` or in `Some | None`."""
    found: type = next((each for each in typing.get_args(hint) if each is not type(None)), hint)
    return found


def _pairs(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, wire_type = key >> 3, key & 7
        value, at = _read_varint(data, at)
        if wire_type == VARINT:
            yield number, value
        elif wire_type == BYTES and at + value <= len(data):
            yield number, data[at : at + value]
            at += value
        else:
            raise ValueError(f"protobuf: field {number} has wire type {wire_type} or is cut short")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("protobuf: a number that doesn't end")
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value & (1 << 64) - 1, at

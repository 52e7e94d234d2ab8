"""`cni.lean` on the interpreter's built-in parts, and on the public modules where a part is missing: one behaviour."""

from __future__ import annotations

import collections
import copy
import ctypes
import importlib.util
import inspect
import json
import math
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import lean
from install import compiled

if TYPE_CHECKING:
    from types import ModuleType

PARTS = ("posix", "_signal", "_socket", "_struct", "_json", "_collections", "_ctypes")
TWINS = (os, signal, socket, struct, json, collections, ctypes)
"""Loaded here, while their parts can still be had."""

CLONE_NEWNET = 0x40000000  # linux/sched.h


def fresh(blocked: tuple[str, ...], *forgotten: str) -> ModuleType:
    """`cni.lean`, run once more as another module, with these modules missing (and these to be imported anew)."""
    spec = importlib.util.spec_from_file_location("lean_under_test", Path(lean.__file__))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name in forgotten:
            patch.delitem(sys.modules, name, raising=False)
        for name in blocked:
            patch.setitem(sys.modules, name, None)
        spec.loader.exec_module(module)
        # What is imported when it is asked for has to be asked now.
        assert module.socket.AF_INET == socket.AF_INET
        assert module.select.POLLIN == select.POLLIN
    return module


WAYS = {
    "parts": fresh(()),
    # json anew, because the one that is loaded holds the C scanner already.
    "twins": fresh(PARTS, "json", "json.decoder", "json.scanner", "json.encoder"),
    **{f"without {part}": fresh((part,)) for part in PARTS},
}


@pytest.fixture(params=WAYS)
def module(request: pytest.FixtureRequest) -> Any:
    return WAYS[request.param]


def test_both_ways_are_really_taken() -> None:
    parts, twins = WAYS["parts"], WAYS["twins"]

    assert (parts.posix, parts.signal, parts.struct) == tuple(
        __import__(name) for name in ("posix", "_signal", "_struct")
    )
    assert parts.socket.socket is __import__("_socket").socket
    assert (twins.posix, twins.signal, twins.struct) == (os, signal, struct)
    assert twins.socket.socket is socket.socket
    assert type(parts._scan).__name__ == "Scanner"
    assert type(twins._scan).__name__ == "function"


def test_all_that_is_promised_is_there(module: Any) -> None:
    for name in module.__all__:
        assert hasattr(module, name)


@pytest.mark.parametrize("name", ["read", "write", "open", "fstat", "O_RDONLY", "fork", "pipe2", "strerror", "_exit"])
def test_what_the_tree_uses_of_posix_is_the_same_in_its_twin(module: Any, name: str) -> None:
    assert getattr(module.posix, name) == getattr(os, name)


# --- environment ------------------------------------------------------------------------------------


def test_the_environment_is_text(module: Any) -> None:
    assert module.environment()["PATH"] == os.environ["PATH"]
    assert all(type(key) is str and type(value) is str for key, value in module.environment().items())


def test_a_byte_that_is_not_utf_8_is_kept(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = {b"CNI_ARGS": b"\xff\xc3\xbc"} if module.posix is not os else {"CNI_ARGS": "\udcffü"}
    monkeypatch.setattr(module.posix, "environ", raw)

    assert module.environment() == {"CNI_ARGS": "\udcffü"}


# --- setns ------------------------------------------------------------------------------------------


def test_a_namespace_of_another_kind_is_refused_with_the_errno(module: Any) -> None:
    fd = os.open("/proc/self/ns/uts", os.O_RDONLY)
    try:
        with pytest.raises(OSError) as caught:
            module.setns(fd, CLONE_NEWNET)
    finally:
        os.close(fd)
    assert caught.value.errno == 22  # EINVAL
    assert str(caught.value) == "[Errno 22] Invalid argument"


def test_a_closed_descriptor_is_no_namespace(module: Any) -> None:
    with pytest.raises(OSError) as caught:
        module.setns(1 << 30, CLONE_NEWNET)
    assert caught.value.errno == 9  # EBADF


def test_ones_own_namespace_can_be_entered(module: Any) -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        module.setns(fd, CLONE_NEWNET)
    finally:
        os.close(fd)
    assert os.readlink("/proc/thread-self/ns/net") == before


def test_an_interpreter_with_other_insides_falls_back_to_ctypes(monkeypatch: pytest.MonkeyPatch) -> None:
    import _ctypes

    monkeypatch.delattr(_ctypes, "dlsym")
    if hasattr(os, "setns"):
        monkeypatch.delattr(lean.posix, "setns")

    with pytest.raises(OSError) as caught:
        WAYS["parts"].setns(1 << 30, CLONE_NEWNET)
    assert caught.value.errno == 9  # EBADF


# --- JSON -------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@pytest.mark.parametrize("way", WAYS)
@given(value=VALUES)
def test_a_value_survives_writing_and_reading(way: str, value: object) -> None:
    module = WAYS[way]
    text = module.dumps(value)

    assert text.isascii()
    assert "\n" not in text
    assert text == json.dumps(value)
    assert module.loads(text) == json.loads(text)
    assert module.loads(text.encode()) == module.loads(f" \t\n\r{text}\r\n\t ")
    assert module.loads(json.dumps(value, ensure_ascii=False, indent=1)) == json.loads(text)


REFUSED = {
    "": "unexpected end of JSON input",
    " \n": "unexpected end of JSON input",
    "x": "no JSON value found",
    "\ufeff{}": "no JSON value found",
    "\xa0{}": "no JSON value found",
    "{": "Expecting property name",
    '{"a"': "Expecting ':' delimiter",
    '{"a":': "unexpected end of JSON input|Expecting value",
    '{"a":1,}': "property name",
    "{'a':1}": "Expecting property name",
    '{"a":x}': "no JSON value found at character 5|Expecting value: line 1 column 6",
    "[1,": "unexpected end of JSON input|Expecting value",
    "[1,]": "no JSON value found at character 3|Expecting value|Illegal trailing comma",
    "[": "unexpected end of JSON input|Expecting value",
    '"a': "Unterminated string",
    '"\t"': "Invalid control character",
    '"\\x"': r"Invalid \\escape",
    '"\\u12"': r"Invalid \\uXXXX escape",
    "01": "text after the JSON document, at character 1",
    "1 x": "text after the JSON document, at character 2",
    "{}{}": "text after the JSON document, at character 2",
    "-": "no JSON value found",
    "+1": "no JSON value found",
    ".5": "no JSON value found",
    "1.": "text after the JSON document, at character 1",
    "True": "no JSON value found",
    "nul": "no JSON value found",
    "NaN": "NaN is not JSON",
    "[Infinity]": "Infinity is not JSON",
    '{"a":-Infinity}': "-Infinity is not JSON",
    '{"a":1,"b":2,"a":3}': 'duplicate key "a"',
    '[{"x":{"a":1,"a":1}}]': 'duplicate key "a"',
    '{"\\u0061":1,"a":1}': 'duplicate key "a"',
    '{"' + "k" * 999 + '":1,"' + "k" * 999 + '":1}': f'duplicate key "{"k" * 100}"',
    "9" * 5000: "Exceeds the limit",
    "[" * 100_000: "nested too deeply",
    '{"a":' * 100_000: "nested too deeply",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:20]))
def test_what_is_not_one_strict_document_is_refused(module: Any, text: str) -> None:
    for data in (text, text.encode()):
        with pytest.raises(module.JSONError, match=REFUSED[text]):
            module.loads(data)


@pytest.mark.parametrize(
    "data", [b"\xff", b'"\xc3"', b'"\xed\xa0\x80"', '"a"'.encode("utf-16"), '"ä"'.encode("latin-1")]
)
def test_what_is_not_utf_8_is_refused(module: Any, data: bytes) -> None:
    with pytest.raises(module.JSONError, match="'utf-8' codec can't decode"):
        module.loads(data)


@given(st.binary(max_size=30) | st.text('{}[]",:eE+-.019ntrufalse \\dab\n', max_size=40).map(str.encode))
def test_parts_and_twins_take_and_refuse_the_same(data: bytes) -> None:
    def read(module: Any) -> object:
        try:
            return module.loads(data)
        except module.JSONError:
            return module  # refused

    found, expected = read(WAYS["parts"]), read(WAYS["twins"])

    assert (found is WAYS["parts"]) == (expected is WAYS["twins"])
    if found is not WAYS["parts"]:
        assert found == expected


def test_numbers_that_json_can_tell_and_floats_cannot_are_infinite(module: Any) -> None:
    assert module.loads("1e999") == math.inf


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (object(), TypeError),
        (b"x", TypeError),
        ({1, 2}, TypeError),
        ({("a",): 1}, TypeError),
        (math.nan, ValueError),
        ([math.inf], ValueError),
    ],
)
def test_what_json_cannot_tell_is_not_written(module: Any, value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        module.dumps(value)


def test_an_error_is_found_although_nobody_imported_the_json_package() -> None:
    # Up to 3.12 the C scanner finds its exception in sys.modules only.
    with pytest.MonkeyPatch.context() as patch:
        for name in ("json", "json.decoder", "json.scanner", "json.encoder"):
            patch.delitem(sys.modules, name)
        module = fresh(())
        assert "json.decoder" not in sys.modules

        assert module.loads('{"a": 1}') == {"a": 1}
        assert "json.decoder" not in sys.modules
        with pytest.raises(module.JSONError, match="Expecting property name"):
            module.loads("{,}")


# --- NamedTuple -------------------------------------------------------------------------------------


def records(base: Any) -> tuple[Any, Any]:
    """A record with everything that records have, and one without fields, from a NamedTuple."""

    class Link(base):  # type: ignore[misc]  # each of the two NamedTuples
        """One link."""

        name: str
        mtu: int = 1500
        tags: tuple[str, ...] = ()

        @classmethod
        def parse(cls, text: str) -> Any:
            return cls(*text.split())

        @property
        def title(self) -> str:
            return self.name.title()

        def wider(self, by: int) -> Any:
            return self._replace(mtu=self.mtu + by)

        def __str__(self) -> str:
            return f"link {self.name}"

    class Nothing(base):  # type: ignore[misc]  # as above
        """No fields."""

    return Link, Nothing


def from_a_member() -> tuple[Any, Any]:
    """The same, from what the build makes of them."""
    source = inspect.getsource(records).replace("(base)", "(NamedTuple)")
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(compiled.compiled("<podwire>/m.py", f"from cni.lean import NamedTuple\n{source}"), namespace)
    made: tuple[Any, Any] = namespace["records"](None)
    return made


RECORDS = {
    **{way: records(module.NamedTuple) for way, module in WAYS.items()},
    "member": from_a_member(),
    "typing": records(typing.NamedTuple),
}
"""The standard library's among them: what ours must do is what it does."""


@pytest.fixture(params=RECORDS)
def link(request: pytest.FixtureRequest) -> Any:
    return RECORDS[request.param][0]


def test_fields_are_given_in_order_or_by_name(link: Any) -> None:
    made = [
        link("a"),
        link("a", 1500),
        link("a", 1500, ()),
        link(name="a"),
        link("a", tags=()),
        link(tags=(), mtu=1500, name="a"),
    ]

    assert len(set(made)) == 1
    assert (made[0].name, made[0].mtu, made[0].tags) == ("a", 1500, ())
    assert link.parse("b") == link("b")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((), {}),
        ((), {"mtu": 1}),
        (("a", 1, (), 2), {}),
        (("a",), {"name": "b"}),
        (("a",), {"vlan": 5}),
        (("a", 1, ()), {"vlan": 5}),
        (("a", 1, ()), {"mtu": 5}),
    ],
)
def test_missing_and_surplus_fields_are_a_type_error(link: Any, values: Any, named: Any) -> None:
    with pytest.raises(TypeError):
        link(*values, **named)


@pytest.mark.parametrize("way", ["parts", "twins", "member"])
def test_the_error_names_the_record_and_the_fields(way: str) -> None:
    link, _ = RECORDS[way]

    with pytest.raises(TypeError, match=r"Link\(name, mtu, tags\): missing name, not understood vlan"):
        link(mtu=1, vlan=5)


def test_a_record_is_an_immutable_tuple(link: Any) -> None:
    made = link("a", 9000)

    assert made == ("a", 9000, ())
    assert isinstance(made, tuple)
    assert list(made) == ["a", 9000, ()]
    assert made[1] == 9000
    assert hash(made) == hash(("a", 9000, ()))
    assert made < link("a", 9001)
    for attribute in ("mtu", "title", "other"):
        with pytest.raises(AttributeError):
            setattr(made, attribute, 1)


def test_a_record_has_its_class_behaviour(link: Any) -> None:
    made = link("eth0")

    assert made.title == "Eth0"
    assert made.wider(10) == link("eth0", 1510)
    assert type(made.wider(10)) is link
    assert str(made) == "link eth0"
    assert repr(made) == "Link(name='eth0', mtu=1500, tags=())"
    assert link.__name__ == "Link"


def test_a_record_has_a_docstring_as_far_as_there_are_any() -> None:
    assert {way: link.__doc__ for way, (link, _) in RECORDS.items()} == {
        way: None if way == "member" else "One link." for way in RECORDS
    }


def test_a_record_tells_its_fields(link: Any) -> None:
    assert link._fields == ("name", "mtu", "tags")
    assert link._field_defaults == {"mtu": 1500, "tags": ()}
    assert link("a")._asdict() == {"name": "a", "mtu": 1500, "tags": ()}
    assert list(link("a")._asdict()) == ["name", "mtu", "tags"]


def test_a_record_is_replaced_by_name(link: Any) -> None:
    assert link("a")._replace(mtu=1, name="b") == link("b", 1)
    with pytest.raises((TypeError, ValueError)):
        link("a")._replace(vlan=5)


def test_a_record_can_be_matched(link: Any) -> None:
    match link("a", 9000):
        case link(name, mtu, tags=tags):
            assert (name, mtu, tags) == ("a", 9000, ())
        case _:
            pytest.fail("no match")


def test_a_record_can_be_copied(link: Any) -> None:
    made = link("a", 1, ("x",))

    assert copy.copy(made) == made
    assert type(copy.deepcopy(made)) is link


class Pickled(lean.NamedTuple):
    name: str
    mtu: int = 1500


def test_a_record_can_be_pickled() -> None:
    made = pickle.loads(pickle.dumps(Pickled("a")))

    assert made == Pickled("a", 1500)
    assert type(made) is Pickled


def test_a_record_of_a_member_has_what_one_of_the_source_has() -> None:
    for from_source, from_member in zip(RECORDS["parts"], RECORDS["member"], strict=True):
        assert set(vars(from_source)) - set(vars(from_member)) <= {"__annotations__"}
        assert set(vars(from_member)) <= set(vars(from_source))
        assert from_source.__mro__[1:] == from_member.__mro__[1:] == (tuple, object)
        assert type(from_source) is type(from_member) is type


def test_classes_share_their_getters() -> None:
    class Wide(lean.NamedTuple):
        a: int
        b: int

    class Narrow(lean.NamedTuple):
        other: int

    assert vars(Wide)["a"] is vars(Narrow)["other"]
    assert Wide(1, 2).b == 2


@pytest.mark.parametrize("way", RECORDS)
def test_a_record_may_have_no_fields(way: str) -> None:
    nothing = RECORDS[way][1]

    assert nothing() == ()
    assert repr(nothing()) == "Nothing()"
    with pytest.raises(TypeError):
        nothing(1)


def test_a_record_needs_no_dict(link: Any) -> None:
    assert not hasattr(link("a"), "__dict__")


def test_sockets_are_imported_when_one_is_needed() -> None:
    """Most of host-local's calls, each a process, need none."""
    ask = "import sys, cni.lean, ipam.store, ipam.allocator, ipam.ranges; print('_socket' in sys.modules)"
    command = [
        sys.executable,
        "-ISc",
        f"import sys; sys.path.insert(0, {str(Path(lean.__file__).parents[1])!r}); {ask}",
    ]

    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "False\n"

"""What the path of a pod needs of the standard library, without the standard library's start-up.

An executable that lives ten milliseconds can't spend seven of them on `import json`. Most of what
`os`, `json`, `socket`, `struct`, `signal` and `ctypes` do for us sits in small C modules that the
interpreter has built in or loads in a fraction of a millisecond; the Python around them is what costs.
This module hands out those parts under names that the rest of the tree uses, each beside its public
twin, which takes over where the part is missing (another interpreter, another build).

Everything on an ADD's path imports from here what it needs of those six modules and of `typing`.
Nothing else in the tree knows of the trick. Off that path (cli, runtime, install, tests) the public
modules are used.

The type checker only ever sees the public twins, or typeshed's stubs of the parts.
"""

from __future__ import annotations

import fcntl
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    import os as posix
    import select
    import signal
    import struct
    from collections.abc import Callable
    from typing import Any, NamedTuple
else:
    try:
        import posix
    except ImportError:
        import os as posix
    try:
        import _signal as signal
    except ImportError:
        import signal
    try:
        import _struct as struct
    except ImportError:
        import struct

    class _Later:
        """A module that is imported when something of it is asked for: not every call opens a socket, or waits."""

        def __init__(self, part, twin):
            self._names = part, twin
            self._module = None

        def __getattr__(self, name):
            part, twin = self._names
            if self._module is None:
                try:
                    self._module = __import__(part)
                except ImportError:
                    self._module = __import__(twin)
            return getattr(self._module, name)

    socket = _Later("_socket", "socket")
    select = _Later("select", "select")

__all__ = ["NamedTuple", "JSONError", "dumps", "environment", "fcntl", "loads", "posix", "select", "setns", "signal",
           "socket", "struct", "time"]  # fmt: skip


def environment() -> dict[str, str]:
    """The process's environment as text; what isn't UTF-8 is kept by surrogate escapes, as in os.environ."""
    raw: dict[Any, Any] = posix.environ  # type: ignore[assignment]  # bytes in posix, str in its twin
    return {_text(key): _text(value) for key, value in raw.items()}


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


# --- namespaces -------------------------------------------------------------------------------------


def setns(fd: int, kind: int) -> None:
    """Moves the calling thread into the namespace open as `fd`, which must be of `kind` (a CLONE_NEW* constant).

    Raises OSError. (setns(2); `os.setns` exists since Python 3.12.)
    """
    global _setns
    _setns = _setns or _find_setns()
    _setns(fd, kind)


_setns: Callable[[int, int], None] | None = None

if not TYPE_CHECKING:

    def _find_setns():
        # When it is called for the first time: half a millisecond that most verbs, and Python 3.12, never need.
        if hasattr(posix, "setns"):
            return posix.setns
        function, error = _libc_setns()

        def setns(fd, kind):
            if function(fd, kind):
                code = error()
                raise OSError(code, posix.strerror(code))

        return setns

    def _libc_setns():
        try:
            import _ctypes

            class Function(_ctypes.CFuncPtr):
                # Without errno kept per call, the interpreter's own calls would overwrite it.
                _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO

            return Function(_ctypes.dlsym(_ctypes.dlopen(None, 0), "setns")), _ctypes.get_errno
        except (ImportError, AttributeError):
            import ctypes

            return ctypes.CDLL(None, use_errno=True).setns, ctypes.get_errno


# --- JSON -------------------------------------------------------------------------------------------


class JSONError(ValueError):
    """The text is not one JSON document, or is one that two readers would understand differently."""


class _Strict:
    """What the C scanner asks its caller for. Refuses what JSON does not have and Python lets pass."""

    strict = True
    object_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def object_pairs_hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen = set()
            for name, _ in pairs:
                if name in seen:
                    raise JSONError(f'duplicate key "{name[:100]}"')
                seen.add(name)
        return found

    @staticmethod
    def parse_constant(name: str) -> object:
        raise JSONError(f"{name} is not JSON")


_BLANK = " \t\n\r"


def loads(data: bytes | str) -> Any:
    """The value of one JSON document (RFC 8259), read strictly.

    Raises JSONError for anything else: duplicate keys, NaN, invalid UTF-8, trailing text, nesting deeper than
    the interpreter's stack, integers of more digits than the interpreter converts.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JSONError(str(error)) from None
    start = len(text) - len(text.lstrip(_BLANK))
    try:
        try:
            value, end = _scan(text, start)
        except SystemError:
            # Up to 3.12 the C scanner expects the module that holds its error class to be loaded already.
            __import__("json.decoder")
            value, end = _scan(text, start)
    except StopIteration as stop:  # its value is where the scanner expected a JSON value
        if stop.value >= len(text):
            raise JSONError("unexpected end of JSON input") from None
        raise JSONError(f"no JSON value found at character {stop.value}") from None
    except RecursionError:
        raise JSONError("nested too deeply") from None
    except JSONError:
        raise
    except ValueError as error:  # JSONDecodeError, an integer of thousands of digits
        raise JSONError(str(error)) from None
    rest = text[end:].lstrip(_BLANK)
    if rest:
        raise JSONError(f"text after the JSON document, at character {len(text) - len(rest)}")
    return value


def dumps(value: object) -> str:
    """`value` as JSON on one line, ASCII only.

    Raises TypeError or ValueError (NaN, infinities) for what JSON cannot express, RecursionError for what is
    nested too deeply.
    """
    return "".join(_encode(value, 0))


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


if not TYPE_CHECKING:
    try:
        import _json

        _scan = _json.make_scanner(_Strict)
        _encode = _json.make_encoder(
            None,  # markers, for circular references
            _unknown,
            _json.encode_basestring_ascii,
            None,  # indent
            ": ",
            ", ",
            False,  # sort_keys
            False,  # skipkeys
            False,  # allow_nan
        )
    except (ImportError, TypeError):
        import json

        _scan = json.JSONDecoder(
            object_pairs_hook=_Strict.object_pairs_hook, parse_constant=_Strict.parse_constant
        ).scan_once

        def _encode(value, _level):
            return json.dumps(value, default=_unknown, allow_nan=False)

else:
    _scan: Callable[[str, int], tuple[Any, int]]
    _encode: Callable[[object, int], tuple[str, ...]]
    _find_setns: Callable[[], Callable[[int, int], None]]


# --- NamedTuple -------------------------------------------------------------------------------------

if not TYPE_CHECKING:
    try:
        from _collections import _tuplegetter as _getter
    except ImportError:
        from operator import itemgetter

        def _getter(index, doc):
            return property(itemgetter(index), doc=doc)

    _GETTERS = []
    """By the field's number, which is all that a getter knows of it: so all classes share them."""

    def _methods():
        """What every NamedTuple can do. Each gets a copy: the interpreter would look through one more base 90 times."""

        @staticmethod
        def __new__(cls, /, *values, **named):
            fields = cls._fields
            if named or len(values) != len(fields):
                rest = fields[len(values) :]
                if len(values) + len(named) == len(fields):
                    try:
                        return tuple.__new__(cls, (*values, *[named[field] for field in rest]))
                    except KeyError:
                        pass  # the names are wrong, which the rest tells better
                defaults = cls._field_defaults
                missing = [field for field in rest if field not in named and field not in defaults]
                surplus = [str(value) for value in values[len(fields) :]] + [key for key in named if key not in rest]
                if missing or surplus:
                    raise TypeError(
                        f"{cls.__name__}({', '.join(fields)}): missing {', '.join(missing) or 'nothing'}, "
                        f"not understood {', '.join(surplus) or 'nothing'}"
                    )
                values += tuple([named[field] if field in named else defaults[field] for field in rest])
            return tuple.__new__(cls, values)

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{f}={v!r}' for f, v in zip(self._fields, self))})"

        def __getnewargs__(self):
            return tuple(self)

        def _replace(self, /, **named):
            return type(self)(**{**self._asdict(), **named})

        def _asdict(self):
            return dict(zip(self._fields, self))

        return locals()

    _METHODS = _methods()

    def _complete(body, fields):
        """Makes a record's namespace of that of a class where, of the fields, there are the defaults."""
        for number in range(len(_GETTERS), len(fields)):
            _GETTERS.append(_getter(number, f"Alias for field number {number}"))
        # Written out, since some forty classes come this way at each start.
        defaults = {}
        for field in fields:
            if field in body:
                defaults[field] = body[field]
        body.update(_METHODS | body)
        body.update(zip(fields, _GETTERS))
        body["_fields"] = body["__match_args__"] = fields
        body["_field_defaults"] = defaults
        body["__slots__"] = ()

    class _Builder(type):
        def __new__(mcs, name, bases, body):
            if not bases:
                return type.__new__(mcs, name, bases, body)
            _complete(body, tuple(body.get("__annotations__", ())))
            return type(name, (tuple,), body)

    class NamedTuple(metaclass=_Builder):
        """`typing.NamedTuple`'s class syntax without `typing` (9 ms), and no constructor compiled per class.

        The build (`install.compiled`) spares the executable `_Builder` too: it knows the fields.
        """

        complete = _complete

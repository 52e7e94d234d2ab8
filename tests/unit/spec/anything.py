"""What tests of the spec layer feed it: whatever may come from outside, and how it may fail on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from cni.spec.errors import CNIError

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
"""Lone surrogates too: half a pair in JSON, or how Python shows a byte that isn't UTF-8."""

SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT

JSON = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
"""Any value that JSON can tell; infinity stands for 1e999, which it can."""


def failure(read: Callable[..., object], *arguments: object) -> CNIError | None:
    """The CNIError that `read(*arguments)` ended with, if it did; any other exception is the test's failure."""
    try:
        read(*arguments)
    except CNIError as error:
        ended = error
    else:
        return None
    told = json.loads(ended.to_json("1.1.0"))
    assert told == {"cniVersion": "1.1.0", "code": ended.code, "msg": ended.msg, "details": ended.details}
    return ended


def refusal(read: Callable[..., object], *arguments: object) -> CNIError:
    """The CNIError that `read(*arguments)` must end with; it says what to do, too."""
    error = failure(read, *arguments)
    assert error is not None, "nothing was refused"
    assert error.msg
    assert error.details
    return error

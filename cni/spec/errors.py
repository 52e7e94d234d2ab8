"""What goes wrong, as the runtime hears it: a code, what failed, and what to do about it.

`CNIError` is the only exception that the spec layer lets out, and the one that every other layer
turns its own into; the shell prints it as the error object of the CNI specification (section 5,
"Error"). Codes below 100 are the specification's, or the reference library's where the specification
has none (8, 999); from 100 on they are ours. A message says what failed and on what, `details` what
to do: an operator reads both in the events of a pod, without the configuration at hand, so errors
about a configuration are made here, by functions that can't forget the key or the value.
"""

from __future__ import annotations

import errno

from cni.lean import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

INCOMPATIBLE_VERSION: Final = 1
UNSUPPORTED_FIELD: Final = 2
UNKNOWN_CONTAINER: Final = 3
INVALID_ENVIRONMENT: Final = 4
IO_FAILURE: Final = 5
DECODING_FAILURE: Final = 6
INVALID_CONFIG: Final = 7
INVALID_NETNS: Final = 8
TRY_AGAIN_LATER: Final = 11
NOT_AVAILABLE: Final = 50
LIMITED_CONNECTIVITY: Final = 51

KERNEL_REFUSED: Final = 100
ADDRESSES_EXHAUSTED: Final = 101
ALREADY_ATTACHED: Final = 102
CHECK_FAILED: Final = 103
CONFLICT: Final = 104
DELEGATE_FAILED: Final = 105
STATE_UNUSABLE: Final = 106
NO_INTERPRETER: Final = 107
INTERNAL: Final = 999

# Refusals of the operating system that the same request may not meet a moment later.
PASSING: Final = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.ETIMEDOUT,
    }
)

_SHOWN_CHARACTERS: Final = 120


class CNIError(Exception):
    """A failure in the terms of the CNI specification."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(code, msg, details)
        self.code = code
        self.msg = msg
        self.details = details

    def __str__(self) -> str:
        return f"{self.msg} ({self.details})" if self.details else self.msg

    def to_json(self, cni_version: str) -> str:
        """The error object for stdout, in the version that the failed request spoke."""
        return dumps({"cniVersion": cni_version, "code": self.code, "msg": self.msg, "details": self.details})


def config_error(where: str, key: str, value: object, need: str) -> CNIError:
    """A configuration's value that can't be used. `need` completes the sentence "KEY must be …"."""
    return CNIError(
        INVALID_CONFIG,
        f"{where}: {key} must be {need}, got {shown(value)}",
        f'correct "{key}" in the network configuration',
    )


def unsupported(where: str, key: str, value: object, why: str) -> CNIError:
    """A configuration that asks for what we don't do: an error, since silence would look like success."""
    return CNIError(
        UNSUPPORTED_FIELD,
        f"{where}: {key} = {shown(value)} is not supported: {why}",
        f'remove "{key}" from the network configuration',
    )


def shown(value: object) -> str:
    """A value from outside, as JSON on one line and short enough for a message."""
    try:
        text = dumps(value)
    except (TypeError, ValueError, RecursionError):  # not JSON's; 1e999, which reads as infinity; nested to the limit
        text = "a number too large" if isinstance(value, float) else f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"

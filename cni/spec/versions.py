"""Versions of the CNI specification: which we speak, and what each of them allows.

A configuration's version must be *exactly* one of the supported strings ("1.0" is none of them), as
in the reference library. Comparing is for one question only: since when there is a command
(CHECK since 0.4.0; GC and STATUS since 1.1.0; specification, section 2, "CNI operations").
"""

from __future__ import annotations

from cni.spec.errors import DECODING_FAILURE, INCOMPATIBLE_VERSION, CNIError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

SUPPORTED: Final = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
CURRENT: Final = "1.1.0"
SINCE_0_3: Final = SUPPORTED[2:]
SINCE_0_4: Final = SUPPORTED[4:]
"""What some of the reference's plugins speak, and so their successors here."""
ASSUMED: Final = "0.1.0"
"""What a configuration without `cniVersion` speaks."""

_SINCE: Final = {"CHECK": (0, 4, 0), "GC": (1, 1, 0), "STATUS": (1, 1, 0)}
_PARTS: Final = ("major", "minor", "micro")
_MOST_DIGITS: Final = 9


def parse(text: str) -> tuple[int, int, int]:
    """A version as three numbers, "1.1" being 1.1.0 and "" being 0.1.0. CNIError 6 for anything else."""
    parts = (text or ASSUMED).split(".")
    if len(parts) > len(_PARTS):
        raise _malformed(f"invalid version {shown(text)}: too many parts")
    numbers = [0, 0, 0]
    for i, part in enumerate(parts):
        # isdigit alone would take digits of other scripts, int() a sign, blanks and underscores.
        if not (part.isascii() and part.isdigit()) or len(part) > _MOST_DIGITS:
            raise _malformed(f"failed to convert {_PARTS[i]} version part {shown(part)} of cniVersion {shown(text)}")
        numbers[i] = int(part)
    return numbers[0], numbers[1], numbers[2]


def require_supported(version: str, supported: tuple[str, ...] = SUPPORTED) -> None:
    """CNIError 1 unless the plugin speaks exactly this version."""
    if version not in supported:
        ours = " ".join(f'"{one}"' for one in supported)
        raise CNIError(
            INCOMPATIBLE_VERSION, "incompatible CNI versions", f"config is {shown(version)}, plugin supports [{ours}]"
        )


def require_command(command: str, version: str) -> None:
    """CNIError 1 if a configuration of this version can't ask for the command, 6 if it is no version."""
    since = _SINCE.get(command)
    if since is None:
        return
    asked = parse(version)
    if asked < since:
        needed = ".".join(str(number) for number in since)
        raise CNIError(
            INCOMPATIBLE_VERSION,
            f"config version does not allow {command}",
            f"cniVersion is {shown(version)}; {command} exists since {needed}",
        )
    if asked > parse(CURRENT):
        raise CNIError(
            INCOMPATIBLE_VERSION,
            f"plugin version does not allow {command}",
            f"cniVersion is {shown(version)}; this plugin ends at {CURRENT}",
        )


def _malformed(msg: str) -> CNIError:
    return CNIError(DECODING_FAILURE, msg, f'write cniVersion as three numbers, for instance "{CURRENT}"')

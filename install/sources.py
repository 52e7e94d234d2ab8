"""Runs the executable's code from its sources, or says why this interpreter can't.

The header's loader comes here when the executable has no member for the interpreter that was found. It is
slower, since everything is compiled anew each time. An interpreter of the wrong age comes here too, so
this module, unlike all others, has to be valid Python 3.6.
"""
# ruff: noqa: I002, UP

import sys

OLDEST = (3, 11)


def run() -> None:
    """Becomes the program."""
    if sys.version_info[:2] < OLDEST:
        sys.exit(refused())
    from cni.__main__ import main

    sys.exit(main(sys.argv))


def refused() -> int:
    """Says that the interpreter is too old: to a runtime as a CNI error, to people in a sentence."""
    import json
    import os

    found = "{} is Python {}.{}".format(sys.executable, *sys.version_info[:2])
    what = f"podwire needs Python 3.11 or later, and {found}"
    cure = "Install one (Debian 12 or later: apt-get install python3), or name one in the line of {}: for python in"
    cure = cure.format(sys.argv[0])
    if "CNI_COMMAND" not in os.environ:
        sys.stderr.write(f"{what}. {cure}\n")
        return 1
    version = None
    try:
        # Bytes, so that it doesn't matter in what encoding the caller's locale makes sys.stdin.
        version = json.loads(sys.stdin.buffer.read().decode("utf-8")).get("cniVersion")
    except Exception:  # noqa: BLE001  # no configuration, or none that can be read: the error below is the one to report
        pass
    error = {"cniVersion": version if isinstance(version, str) else "0.1.0", "code": 107, "msg": what, "details": cure}
    sys.stdout.write(json.dumps(error) + "\n")
    sys.stdout.flush()
    return 1

"""`podwire version`: which versions of CNI this speaks, and on what it runs."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from typing import TYPE_CHECKING, Final

import cni
from cni.spec.versions import SUPPORTED

if TYPE_CHECKING:
    from collections.abc import Sequence

# By the module of the loader that our modules came from.
_CODE: Final = {
    "install.loader": ("compiled", "with the modules compiled for it when the executable was built"),
    "zipimport": ("sources", "with the executable's sources, which are compiled at each start: slow (see README)"),
}
_TREE: Final = ("tree", "with the modules of a source tree or an installed package")


def main(arguments: Sequence[str]) -> int:
    """Runs `podwire version ARGUMENTS`."""
    parser = argparse.ArgumentParser(
        prog="podwire version", description="Says which CNI versions podwire speaks, and what it runs on."
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object, for scripts")
    options = parser.parse_args(arguments)
    code, explained = _CODE.get(type(cni.__loader__).__module__, _TREE)
    if options.json:
        told = {
            "podwire": cni.__version__,
            "cniVersions": SUPPORTED,
            "python": platform.python_version(),
            "interpreter": sys.executable,
            "code": code,
        }
        print(json.dumps(told))
        return 0
    print(f"podwire  {cni.__version__}")
    print(f"CNI      {', '.join(SUPPORTED)}")
    print(f"Python   {platform.python_version()} at {sys.executable}, {explained}")
    return 0

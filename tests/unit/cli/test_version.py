"""`podwire version`: what a bug report begins with."""

from __future__ import annotations

import json
import platform

import pytest

import cni
from cni import cli
from cni.spec.versions import SUPPORTED


def test_it_names_its_own_version_and_what_it_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0

    told = capsys.readouterr().out
    assert told.startswith(f"podwire  {cni.__version__}\n")
    assert SUPPORTED[-1] in told
    assert platform.python_version() in told


def test_scripts_get_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version", "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert told["podwire"] == cni.__version__
    assert told["cniVersions"] == list(SUPPORTED)

"""A throw-away node is furnished inside, and refused in words that help."""

from __future__ import annotations

import os

import pytest

from cni.cli import throwaway


def test_nothing_is_mounted_outside() -> None:
    before = os.stat("/run").st_dev

    with pytest.raises(RuntimeError, match="not in a throw-away node"):
        throwaway.furnish()

    assert os.stat("/run").st_dev == before


def test_an_inherited_environment_is_not_taken_for_being_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in throwaway.environment().items():
        monkeypatch.setenv(name, value)

    with pytest.raises(RuntimeError, match="not in a throw-away node"):
        throwaway.furnish()


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throwaway, "NEEDED", {"no-such-program": "its-package"})

    with pytest.raises(throwaway.Unavailable, match=r"no-such-program not found: .*apt-get install its-package"):
        throwaway.command()


def test_a_command_that_fails_is_named_with_what_it_complained_of() -> None:
    with pytest.raises(RuntimeError, match=r"^ip link show dev nowhere: .*does not exist"):
        throwaway.run("ip", "link", "show", "dev", "nowhere")

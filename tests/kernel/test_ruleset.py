"""Text becomes rules, in every way that there is: all of it or nothing, in the namespace of whoever asks."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cni.kernel import ruleset
from cni.kernel.netlink import Refused
from cni.lean import posix
from cni.spec.errors import NOT_AVAILABLE, CNIError
from tests import namespaces
from tests.kernel import rulesets

if TYPE_CHECKING:
    from collections.abc import Callable

    Way = Callable[[str], bool]

pytestmark = pytest.mark.needs("nft")

WAYS = [ruleset.by_library, ruleset.by_command]

TEXT = "table inet podwire {\n    set ports { type ifname; }\n    chain c { iifname @ports accept; }\n}\n"


def load(netns: Path, text: str, *ways: Way) -> None:
    namespaces.inside(netns, lambda: ruleset.load(text, ways))


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


def names(netns: Path) -> list[str]:
    return [one[kind]["name"] for one in rulesets.ruleset(netns) for kind in ("table", "set", "chain") if kind in one]


def test_a_text_is_loaded_into_the_namespace_of_the_calling_thread(netns: Path, way: Way) -> None:
    load(netns, TEXT, way)

    assert names(netns) == ["podwire", "ports", "c"]
    assert namespaces.shell(None, "nft list ruleset") == ""


def test_nobody_has_to_say_how(netns: Path) -> None:
    load(netns, TEXT)

    assert names(netns) == ["podwire", "ports", "c"]


def test_a_text_longer_than_a_pipe_holds_is_loaded(netns: Path, way: Way) -> None:
    lines = [f'add element inet podwire ports {{ "port{n}" comment "{"x" * 100}" }}\n' for n in range(700)]
    text = TEXT + "".join(lines)
    assert len(text) > 65536

    load(netns, text, way)

    assert len(rulesets.elements(netns)) == 700


@pytest.mark.parametrize("bad", ["add rule inet podwire nowhere drop\n", "delete table inet nowhere\n", "nonsense\n"])
def test_nothing_of_a_text_is_loaded_that_is_wrong_anywhere(netns: Path, way: Way, bad: str) -> None:
    with pytest.raises(Refused):
        load(netns, TEXT + bad, way)

    assert names(netns) == []


def test_an_error_tells_what_is_wrong_with_which_line(netns: Path, way: Way) -> None:
    with pytest.raises(Refused) as caught:
        load(netns, TEXT + "\ndelete table inet nowhere\n", way)

    assert str(caught.value) == ('nft -f -: No such file or directory in "delete table inet nowhere" (ENOENT)')
    assert caught.value.errno == errno.ENOENT

    with pytest.raises(Refused, match=r'^nft -f -: syntax error, .* in "table inet x { chian c { } }" \(EINVAL\)$'):
        load(netns, "\n\ntable inet x { chian c { } }\n", way)


def test_nft_says_nothing_where_the_result_goes(netns: Path, way: Way, capfd: pytest.CaptureFixture[str]) -> None:
    load(netns, TEXT + "list ruleset\n", way)
    with pytest.raises(Refused):
        load(netns, "nonsense", way)

    assert capfd.readouterr() == ("", "")


def test_no_descriptor_is_left_open(netns: Path, way: Way) -> None:
    load(netns, TEXT, way)  # the library stays
    before = os.listdir("/proc/self/fd")

    load(netns, TEXT, way)
    with pytest.raises(Refused):
        load(netns, "nonsense", way)

    assert os.listdir("/proc/self/fd") == before


def test_an_interpreter_without_files_in_memory_will_do(netns: Path, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(posix, "memfd_create")

    load(netns, TEXT, way)

    assert names(netns) == ["podwire", "ports", "c"]


def test_a_command_whose_end_nobody_hears_of_is_told_by_what_it_says(netns: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        load(netns, TEXT, ruleset.by_command)
        with pytest.raises(Refused, match="nonsense"):
            load(netns, "nonsense", ruleset.by_command)
    finally:
        signal.signal(signal.SIGCHLD, before)

    assert names(netns) == ["podwire", "ports", "c"]


def test_what_is_not_there_is_passed_over(netns: Path) -> None:
    asked = []

    def absent(text: str) -> bool:
        asked.append(text)
        return False

    load(netns, TEXT, absent, ruleset.by_command, ruleset.by_library)

    assert asked == [TEXT]
    assert names(netns) == ["podwire", "ports", "c"]


def test_a_machine_without_nft_is_told_which_package_has_it(netns: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ruleset, "LIBRARY", "libnowhere.so.1")
    monkeypatch.setattr(ruleset, "PLACES", ("/nowhere", "/dev/null"))

    with pytest.raises(CNIError) as caught:
        load(netns, TEXT)

    assert caught.value.code == NOT_AVAILABLE
    assert caught.value.msg == (
        "nftables rules can't be loaded: neither libnowhere.so.1 nor nft (in /nowhere:/dev/null) is there"
    )
    assert "apt-get install nftables" in caught.value.details


def test_a_command_that_cannot_be_executed_is_named(netns: Path, tmp_path: Path) -> None:
    (tmp_path / "nft").write_text("")

    with pytest.raises(Refused) as caught:
        load(netns, TEXT, lambda text: ruleset.by_command(text, (str(tmp_path),)))

    assert str(caught.value) == "nft -f -: Permission denied (EACCES)"


def test_a_command_that_fails_without_a_word_has_failed(netns: Path, tmp_path: Path) -> None:
    (tmp_path / "nft").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "nft").chmod(0o755)

    with pytest.raises(Refused, match=r"^nft -f -: it failed without a word \(EINVAL\)$"):
        load(netns, TEXT, lambda text: ruleset.by_command(text, (str(tmp_path),)))

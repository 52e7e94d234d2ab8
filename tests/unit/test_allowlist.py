"""Which sysctls a node's administrator allows: none said, all; else what a line matches as a whole."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cni import allowlist
from cni.spec.errors import CNIError
from tests.session import TOP

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "allowlist.conf"
    path.write_text(
        "# what networks may set\n\n"
        "^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$\n"
        "  net\\.core\\.somaxconn|net\\.ipv4\\.tcp_.*  \n"
    )
    return path


def refusal(path: Path, *names: str) -> CNIError:
    with pytest.raises(CNIError) as caught:
        allowlist.require(names, str(path))
    return caught.value


@pytest.mark.parametrize(
    "name", ["net.ipv4.conf.IFNAME.arp_filter", "net.core.somaxconn", "net.ipv4.tcp_ecn", "net.ipv4.tcp_"]
)
def test_what_a_line_matches_is_allowed(listed: Path, name: str) -> None:
    allowlist.require([name], str(listed))


@pytest.mark.parametrize(
    "name",
    [
        "net.ipv4.conf.eth0.arp_filter",
        "net.ipv4.conf.IFNAME.Arp",
        "net.core.somaxconn2",
        "xnet.core.somaxconn",
        "net.core.somaxconn\n",
        "net.ipv4.ip_forward",
        "# what networks may set",
    ],
)
def test_what_no_line_matches_as_a_whole_is_not(listed: Path, name: str) -> None:
    error = refusal(listed, "net.core.somaxconn", name)

    assert (error.code, error.msg) == (7, f"sysctl {name} is not allowed on this node")
    assert str(listed) in error.details


def test_a_pattern_that_the_reference_lets_match_anywhere_matches_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("net.ipv4.conf\n")

    assert refusal(tmp_path / "list", "net.ipv4.conf.all.forwarding").code == 7


def test_without_a_list_all_are_allowed_and_with_an_empty_one_none(tmp_path: Path) -> None:
    allowlist.require(["net.core.somaxconn"], str(tmp_path / "nothing"))
    allowlist.require(["net.core.somaxconn"], str(tmp_path / "nothing/there"))

    (tmp_path / "list").write_text("\n")
    allowlist.require([], str(tmp_path / "list"))
    assert refusal(tmp_path / "list", "net.core.somaxconn").code == 7


@pytest.mark.parametrize("line", ["net.(core", r"net\.\pL+", "net[[:alpha:]]"])
def test_a_line_that_is_no_pattern_is_an_error_that_names_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "list").write_text(f"net\\.core\\..*\n{line}\n")

    error = refusal(tmp_path / "list", "net.core.somaxconn")

    assert error.code == 7
    assert error.msg.startswith(f"{tmp_path}/list: line 2, ")


def test_a_list_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    error = refusal(tmp_path, "net.core.somaxconn")

    assert (error.code, error.msg) == (5, f"open {tmp_path}: Is a directory")


def test_patterns_cost_nothing_where_there_is_no_list(tmp_path: Path) -> None:
    """`re` takes 5 ms to import, and a pod waits."""
    code = "import sys; from cni import allowlist; allowlist.require(['a'], '/nowhere'); print('re' in sys.modules)"

    told = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path.insert(0, {str(TOP)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout == "False\n"

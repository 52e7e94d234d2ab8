"""The rules of all features together: taken by nft, also on a node that has next to nothing installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cni import skeleton
from cni.features.masquerade import MasqueradeFeature
from ipam.address import Network
from tests.unit.features.pod import ip, pod

pytestmark = pytest.mark.needs("nft")

# Names of protocols and services are in files that a small system does without (Debian's package netbase).
BARE = "mount --bind /dev/null /etc/protocols; mount --bind /dev/null /etc/services; "


def loaded(netns: Path, text: str, prepare: str = "") -> str:
    """The tables of a namespace after the text was loaded."""
    done = subprocess.run(
        ["nsenter", f"--net={netns}", "unshare", "--mount", "sh", "-ec", f"{prepare}nft -f -; nft list ruleset"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("family", ["inet", "bridge"])
def test_our_tables_can_be_loaded_where_nothing_knows_the_names_of_protocols(netns: Path, family: str) -> None:
    listed = loaded(netns, skeleton.text(family), BARE if Path("/etc/protocols").exists() else "")

    assert f"table {family} podwire" in listed
    assert f'comment "{skeleton.version}"' in listed


@pytest.mark.parametrize(
    "exempt",
    [(), ("10.0.0.0/8", "10.1.0.0/16", "fd00::/8"), ("0.0.0.0/0", "::/0"), ("10.1.0.0/24", "10.1.1.0/24")],
    ids=" ".join,
)
def test_a_networks_own_rules_can_be_loaded(netns: Path, exempt: tuple[str, ...]) -> None:
    feature = MasqueradeFeature(tuple(Network.parse(text) for text in exempt))
    (fragment,) = feature.wanted(pod(ip("10.1.0.2/24"), ip("fd00:1::2/64"), iif="cni0")).fragments

    listed = loaded(netns, skeleton.text("inet") + fragment.text)

    assert f"chain masquerade_{fragment.name}" in listed

"""What a runtime says to its plugins, written down.

A wrapper stands in the CNI directory under a plugin's name, keeps environment and configuration of each call,
and becomes the plugin.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Call", "calls", "forget", "wrapper"]

CALLS_DIR = "/run/cni-calls"


def wrapper(plugin: str, before: str = "") -> str:
    """An executable that records one call, runs `before` (shell; its failure is the plugin's), and becomes `plugin`."""
    return f"""#!/bin/sh
set -e
call={CALLS_DIR}/$(date +%s%N)-$$
mkdir -p {CALLS_DIR}/new-$$
cd {CALLS_DIR}/new-$$
cat > config
{{ echo "PLUGIN=${{0##*/}}"; env | grep ^CNI_; }} > environment
cd /
mv {CALLS_DIR}/new-$$ "$call"  # appears whole
{before}
exec {plugin} < "$call/config"
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one plugin."""

    plugin: str
    command: str
    container_id: str
    ifname: str
    netns: str
    args: str
    cni_version: str
    pid: int
    """Of the plugin, on its node."""


def calls(root: Path) -> list[Call]:
    """All calls since `forget`, in the order in which they began. `root` is the node's root directory."""
    return [_call(each) for each in sorted(_directory(root).glob("[0-9]*"))]


def forget(root: Path) -> None:
    shutil.rmtree(_directory(root), ignore_errors=True)


def _call(directory: Path) -> Call:
    config = json.loads((directory / "config").read_bytes() or "{}")
    lines = (directory / "environment").read_text().splitlines()
    environment = dict(line.split("=", 1) for line in lines)
    return Call(
        plugin=environment["PLUGIN"],
        command=environment.get("CNI_COMMAND", ""),
        container_id=environment.get("CNI_CONTAINERID", ""),
        ifname=environment.get("CNI_IFNAME", ""),
        netns=environment.get("CNI_NETNS", ""),
        args=environment.get("CNI_ARGS", ""),
        cni_version=config.get("cniVersion", ""),
        pid=int(directory.name.rpartition("-")[2]),
    )


def _directory(root: Path) -> Path:
    return Path(f"{root}{CALLS_DIR}")

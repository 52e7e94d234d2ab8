"""What a reader must know of the machine to judge the figures; nothing that tells whose machine it is."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from cni.cli import throwaway


def facts() -> list[tuple[str, str]]:
    load = os.getloadavg()[0]
    return [
        ("Kernel", f"{platform.system()} {platform.release()}"),
        ("Processors", f"{len(os.sched_getaffinity(0))} x {_processor()}"),
        ("Load before the run", f"{load:.2f}"),
        ("Reference plugins", _debian("containernetworking-plugins")),
        ("pyroute2", metadata.version("pyroute2")),
    ]


def version_of(*command: str) -> str:
    """The first line of what a program says of its version."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=throwaway.environment())
    except FileNotFoundError:
        return "absent"
    return done.stdout.partition("\n")[0].removeprefix(f"{command[0]} ") or "of unknown version"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _debian(package: str) -> str:
    try:
        done = subprocess.run(["dpkg-query", "-W", "-f=${Package} ${Version}", package], capture_output=True, text=True)
    except FileNotFoundError:
        return "of unknown version"
    return f"Debian's {done.stdout}" if done.returncode == 0 else "of unknown version"

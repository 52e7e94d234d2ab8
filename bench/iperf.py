"""iperf3 between two network namespaces."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from bench.launch import Failed
from cni.cli import throwaway


def tcp(client: Path, server: Path, address: str, seconds: int, omit: int = 0) -> float:
    """Bits per second that arrive at the server, by one connection, after the first `omit` seconds."""
    with subprocess.Popen(
        [*_inside(server), "iperf3", "--server", "--one-off", "--forceflush", "--bind", address],
        env=throwaway.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as listener:
        try:
            assert listener.stdout is not None
            for line in listener.stdout:
                if line.startswith("Server listening"):
                    break
            found = _ask(client, address, seconds, omit)
            listener.wait(30)
            return found
        finally:
            listener.kill()  # unless it has ended, as it does after one client


def _ask(client: Path, address: str, seconds: int, omit: int) -> float:
    command = [*_inside(client), "iperf3", "--client", address, "--time", str(seconds), "--omit", str(omit), "--json"]
    try:
        done = subprocess.run(
            command, env=throwaway.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=seconds + 30,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise Failed(str(late)) from None
    said = json.loads(done.stdout or "{}")
    if done.returncode or "error" in said:
        raise Failed(f"{' '.join(command)}: {said.get('error') or done.stderr.strip()}")
    return float(said["end"]["sum_received"]["bits_per_second"])


def _inside(netns: Path) -> tuple[str, ...]:
    return ("nsenter", f"--net={netns}")

"""Debian's containerd in a box: started, killed without warning, started again.

Root, state, socket, the CNI directories and whatever its shims keep under /run/containerd are at their usual
places, which in the box are empty ones of its own.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.node import cri, images
from tests.node.box import Box

__all__ = ["BIN_DIR", "CONF_DIR", "Containerd", "until"]

SOCKET = "/run/containerd/containerd.sock"
BIN_DIR = "/opt/cni/bin"
CONF_DIR = "/etc/cni/net.d"
_CONFIG_FILE = "/etc/podwire-containerd.toml"
_CONFIG = f"""
version = 2
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{images.PAUSE}"
# Not below the score of containerd itself: that takes CAP_SYS_RESOURCE, which root in a container lacks.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{BIN_DIR}"
conf_dir = "{CONF_DIR}"
"""

Found = TypeVar("Found")


def until(found: Callable[[], Found | None], what: str, timeout_s: float = 20) -> Found:
    """The first true answer of `found`: for what a daemon does by itself and announces to nobody."""
    deadline = time.monotonic() + timeout_s
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.02)
    return answer


class Containerd:
    """The daemon of one box. Ends with it."""

    def __init__(self, box: Box, log: Path) -> None:
        self.box = box
        self.log = log
        self.cri = cri.Runtime(box.outside(SOCKET))
        self._pid = 0

    def start(self) -> None:
        """Returns when its CRI answers."""
        self.box.write(_CONFIG_FILE, _CONFIG)
        self._pid = self.box.start("containerd", "--config", _CONFIG_FILE, log=self.log)
        until(self._answers, f"containerd answers; its log is {self.log}")

    def _answers(self) -> bool:
        assert self.box.runs(self._pid), f"containerd ended at once: see {self.log}"
        try:
            return bool(self.cri.version().runtime_name)
        except (OSError, cri.CallFailed):  # not listening yet; "server is not initialized yet"
            return False

    def kill(self) -> None:
        """kill -9, of the daemon alone: its shims and the containers stay."""
        self.box.run("kill", "-KILL", str(self._pid))
        until(lambda: not self.box.runs(self._pid), "containerd is gone")

    def import_images(self, archive: bytes) -> None:
        """For the CRI and for `ctr` each, since every namespace of containerd has images of its own."""
        for namespace in ("k8s.io", "default"):
            self.ctr("--namespace", namespace, "images", "import", "-", stdin=archive)
        for image in (images.PAUSE, images.BUSYBOX):
            until(functools.partial(self.cri.image, image), f"the CRI has noticed the image {image}")

    def ctr(self, *argv: str, stdin: bytes = b"") -> str:
        return self.box.run("ctr", "--address", SOCKET, *argv, stdin=stdin)

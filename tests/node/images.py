"""Container images made of nothing but a static busybox, as an archive that `ctr images import` takes.

The archive is docker's format: a manifest that names a configuration and the layers, each a tar of its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["BUSYBOX", "PAUSE", "archive"]

PAUSE = "podwire.test/pause:1"
BUSYBOX = "podwire.test/busybox:1"

_APPLETS = ("cat", "httpd", "ip", "ping", "sh", "sleep", "wget")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def archive(busybox: Path) -> bytes:
    """Both images: one that only waits, for what holds a pod's namespaces, and one with a shell and a web server."""
    layer = _layer(busybox.read_bytes())
    images = {PAUSE: _config(layer, ["/bin/sleep", "2147483647"]), BUSYBOX: _config(layer, ["/bin/sh"])}
    manifest = [
        {"Config": f"{_digest(config)}.json", "RepoTags": [name], "Layers": ["layer.tar"]}
        for name, config in images.items()
    ]
    files = {"manifest.json": json.dumps(manifest).encode(), "layer.tar": layer}
    files |= {f"{_digest(config)}.json": config for config in images.values()}
    return _tar([(tarfile.TarInfo(name), content) for name, content in files.items()])


def _layer(busybox: bytes) -> bytes:
    members = [_member("bin", tarfile.DIRTYPE), _member("tmp", tarfile.DIRTYPE), _member("www", tarfile.DIRTYPE)]
    members += [_member("bin/busybox", content=busybox)]
    members += [_member(f"bin/{applet}", tarfile.SYMTYPE, target="busybox") for applet in _APPLETS]
    return _tar(members)


def _config(layer: bytes, command: Sequence[str]) -> bytes:
    return json.dumps(
        {
            "architecture": _ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {"Cmd": command, "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(layer)}"]},
        }
    ).encode()


def _member(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname = kind, 0o755, target
    return member, content


def _tar(members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

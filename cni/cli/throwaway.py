"""A node of one's own: network and mount namespaces that go with the process living in them.

The demo and the bench let real plugins loose, and those make bridges, set sysctls and write state. Inside
a throw-away node all of that stays inside: /run is an empty tmpfs, the network has nothing but `lo`, and
the kernel takes everything back when the last process in it ends, by whatever signal. As root it is one
`unshare`; an ordinary user gets root's rights inside a user namespace, and needs no others.

`command` is the way in (exec it, or start it); `furnish` is the first thing to call inside.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NEEDED = {"unshare": "util-linux", "mount": "mount", "ip": "iproute2"}
"""Programs, and the Debian packages they come in."""

_OUTSIDE = "PODWIRE_OUTSIDE"

# Debian gives an ordinary user's PATH no sbin, where `ip` is.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Unavailable(Exception):
    """This machine gives us no node of our own; the text is one sentence for people."""


def command() -> tuple[str, ...]:
    """What to put in front of a command line so that it runs in a throw-away node.

    Raises Unavailable. It tries, since neither uid nor capabilities tell what a container's seccomp profile
    or a distribution's sysctl forbids.
    """
    missing = [name for name in NEEDED if shutil.which(name, path=environment()["PATH"]) is None]
    if missing:
        packages = " ".join(sorted({NEEDED[name] for name in missing}))
        raise Unavailable(f"{' and '.join(missing)} not found: install with `apt-get install {packages}`.")
    plain = ("unshare", "--net", "--mount")
    rootless = ("unshare", "--user", "--map-root-user", "--net", "--mount")
    complaint = ""
    for attempt in (plain, rootless) if os.geteuid() == 0 else (rootless,):
        # Mounting is part of the question: some containers allow the namespaces and not what they are for.
        try:
            run(*attempt, "mount", "-t", "tmpfs", "tmpfs", "/run")
            return attempt
        except RuntimeError as error:
            complaint = " ".join(str(error).split())
    if os.geteuid() == 0:
        whom, remedy = "root here", "in a container, start it with --privileged"
    else:
        whom, remedy = "ordinary users", "run as root, or allow user namespaces"
    raise Unavailable(f"This machine forbids network namespaces to {whom} ({complaint}): {remedy}.")


def environment() -> dict[str, str]:
    """Ours, for a command behind `command`: PATH with administrators' directories, and a note of where outside is."""
    path = f"{os.environ.get('PATH', '')}:{PATH}".lstrip(":")
    return {**os.environ, "PATH": path, _OUTSIDE: " ".join(_namespaces())}


def _namespaces() -> list[str]:
    return [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "mnt")]


def furnish(empty: Sequence[str] = ("/run",)) -> None:
    """Makes the inside of a fresh node usable: `empty` directories to write to, and `lo`.

    `unshare --mount` has made all mounts private, so that nothing mounted here is seen anywhere else. Raises
    RuntimeError outside, where this would cover the machine's own directories.
    """
    outside = os.environ.get(_OUTSIDE, "").split()
    if not outside or set(outside) & set(_namespaces()):
        raise RuntimeError("not in a throw-away node")
    for directory in empty:
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", directory)
    run("ip", "link", "set", "lo", "up")


def make_netns(name: str) -> Path:
    """A network namespace that `ip netns` knows, for a pod. It goes with the node."""
    run("ip", "netns", "add", name)
    return Path("/run/netns", name)


def run(*command: str) -> str:
    """The output of a command that must succeed. Raises RuntimeError with what it complained of."""
    done = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout

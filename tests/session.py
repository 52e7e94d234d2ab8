"""Runs pytest where no test can harm the machine: `python -m tests.session [pytest arguments]`.

The session gets a network namespace and a mount namespace of its own, with empty file systems on /run and
/var/lib and `lo` up; an ordinary user gets a user namespace around it. Whatever a test leaves behind (links,
nft tables, mounts, state) ends with the session. Cgroups are what still leaks.

`python -m tests.session --exec COMMAND [ARGUMENT...]` runs another command in the same place.

What stays the machine's: the process table, /sys, /tmp and the checkout. Temporary files go to a /var/tmp of
the session's own; `--basetemp` keeps what a test wrote.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

MARK = "PODWIRE_TEST_SESSION"
"""Environment variable of a session: the network namespace that it was started from."""

TOP = Path(__file__).resolve().parent.parent

# fd 9 is the checkout, which a tmpfs hides where it lives under one of them.
SETUP = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t tmpfs -o mode=1777 tmpfs "$TMPDIR"
if ! [ -e "$0/pyproject.toml" ]; then mkdir -p "$0"; mount --rbind /proc/self/fd/9 "$0"; cd "$0"; fi
ip link set lo up
exec "$@" 9<&-
"""


def main(arguments: list[str]) -> NoReturn:
    """Replaces this process by the session, or says in one sentence why that is impossible."""
    if arguments[:1] == ["--exec"]:
        command = arguments[1:]
    else:
        command = [sys.executable, "-m", "pytest", *arguments]
    unshare = ["unshare", "--net", "--mount"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    # Mounting is part of the question: some containers allow namespaces and not what they are for.
    trial = subprocess.run(
        [*unshare, "mount", "-t", "tmpfs", "tmpfs", "/run"], capture_output=True, text=True, check=False
    )
    if trial.returncode:
        sys.exit(f"tests: {_forbidden()} ({trial.stderr.strip()}).")
    checkout = os.open(TOP, os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(checkout, 9)  # inheritable, unlike what os.open returns
    os.chdir(TOP)
    # A shell's background jobs ignore SIGINT, and what is ignored stays so in every process that comes of it.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(unshare[0], [*unshare, "sh", "-c", SETUP, str(TOP), *command], environment())


def _forbidden() -> str:
    """Why this machine gives us no session, and what to do about it."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    if not any(line.split()[4] == "/" for line in mounts):
        return "the root of this chroot is not a mount point, so we cannot have mounts of our own (mount --bind helps)"
    if os.geteuid() == 0:
        return "this machine forbids namespaces even to root: in a container, start it with --privileged"
    return (
        "this machine forbids user namespaces to ordinary users: allow them (sysctl user.max_user_namespaces, "
        "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns), or run the tests as root"
    )


def environment() -> dict[str, str]:
    """This process's environment, without what would change a plugin's behaviour, and marked as a session's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CNI_", "PODWIRE_"))}
    return kept | {
        MARK: str(os.stat("/proc/self/ns/net").st_ino),
        "TMPDIR": "/var/tmp",  # not below /run, which is hidden once more in the nodes that tests make
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",  # an ordinary user's lacks them, and `nft` is there
        "LC_ALL": "C.UTF-8",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(TOP / ".cache/hypothesis"),
    }


def refusal(environ: dict[str, str]) -> str:
    """Why tests must not run in this process; "" where they may."""
    outside = environ.get(MARK)
    if outside and outside != str(os.stat("/proc/self/ns/net").st_ino):
        return ""
    return (
        "tests change links, routes and firewall rules, so they only run in namespaces of their own: "
        "use `make check`, `make test`, or `.venv/bin/python -m tests.session` with pytest's arguments."
    )


def has_root() -> bool:
    """Whether we are root on the machine, rather than in a user namespace."""
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


if __name__ == "__main__":
    main(sys.argv[1:])

"""A node in a box: network, mounts and processes of its own, as a real node has them.

What runs in the box sees the machine's programs, and an empty /run and /var/lib; what it writes to /etc and
/opt lands in a layer above the machine's. So software that insists on /etc/cni/net.d or /run/containerd, as
containerd's shims do, is let have its way. The box lasts as long as the far end of a pipe: when the tests
end, however they end, the kernel kills every process in it, and its mounts and links go with them.

Cgroups are the one thing that has no namespace: they are named after the box, and the process that waits
for the box removes them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Box"]

_OUTSIDE = """
unshare --net --mount --pid --fork sh -euc "$1"
# Depth first; in every hierarchy of cgroup v1, or the only one of v2.
find /sys/fs/cgroup -depth -ignore_readdir_race -type d '(' -path "*/$0/*" -o -name "$0" ')' -delete
"""

# The first number in /proc/self/stat is the reader's ID: as those outside know it, until /proc is the box's own.
_INSIDE = """
read -r pid _ < /proc/self/stat
mount -t proc proc /proc
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=755 varlib /var/lib
for dir in etc opt; do
    mkdir -p /run/layers/$dir/upper /run/layers/$dir/work
    mount -t overlay -o lowerdir=/$dir,upperdir=/run/layers/$dir/upper,workdir=/run/layers/$dir/work overlay /$dir
done
mkdir -p "${TMPDIR:-/tmp}"  # which may have been on the /run that is hidden now
ip link set lo up
echo "$pid"
# Orphans become children of this process, which never waits for them: who ignores SIGCHLD gets no zombies.
# (By `env`: dash has no `trap` for it.)
exec env --ignore-signal=CHLD cat
"""


class Box:
    """One box, from `with` to its end. Paths given to its methods are the box's; `outside` tells where to find them."""

    def __init__(self, name: str) -> None:
        self.cgroup = f"podwire-test-{name}"
        self._outer: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        self._outer = subprocess.Popen(
            ["sh", "-c", _OUTSIDE, self.cgroup, _INSIDE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._outer.stdout is not None
        line = self._outer.stdout.readline()
        if not line:
            self.close()
            raise OSError("cannot make namespaces: what unshare said is on stderr")
        self._pid = int(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends everything in the box, and returns when it is gone."""
        if self._outer is not None:
            assert self._outer.stdin is not None and self._outer.stdout is not None
            self._outer.stdin.close()
            self._outer.wait(timeout=30)
            self._outer.stdout.close()
            self._outer = None

    @property
    def netns(self) -> Path:
        return Path(f"/proc/{self._pid}/ns/net")

    def outside(self, path: str) -> Path:
        """The box's `path` as it can be opened from here; sockets included."""
        return Path(f"/proc/{self._pid}/root{path}")

    def entering(self, *argv: str) -> list[str]:
        """`argv` as it has to be called from here to run in the box."""
        # --root: a mount namespace is entered at its top, which is not where a test in a chroot means to go.
        return ["nsenter", f"--target={self._pid}", "--net", "--mount", "--pid", "--root", "--wd", "--", *argv]

    def start(self, *argv: str, log: Path) -> int:
        """A process that goes on in the box by itself, and ends with it; its ID there. `log` is a file out here."""
        with log.open("ab") as stderr:
            script = '"$@" >&2 < /dev/null & echo $!'
            started = subprocess.run(
                self.entering("sh", "-c", script, "sh", *argv), stdout=subprocess.PIPE, stderr=stderr, check=True
            )
        return int(started.stdout)

    def runs(self, pid: int) -> bool:
        return self.outside(f"/proc/{pid}").exists()

    def run(self, *argv: str, stdin: bytes = b"", check: bool = True, timeout_s: float = 60) -> str:
        """Runs a command in the box to its end; its output. Raises AssertionError, with all it said, when it fails."""
        done = subprocess.run(self.entering(*argv), input=stdin, capture_output=True, timeout=timeout_s, check=False)
        if check and done.returncode:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise AssertionError(f"{' '.join(argv)}: exit status {done.returncode}\n{said}")
        return done.stdout.decode()

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """A file of the box, its directories made; it appears whole, in the place of an older one."""
        # `install` takes a new inode: a program that is running can't be written to.
        data = content.encode() if isinstance(content, str) else content
        self.run("install", "-D", "--mode", f"{mode:o}", "/dev/stdin", path, stdin=data)

"""Calling a plugin as a container runtime does, and judging what comes back."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests import namespaces

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Config = "Mapping[str, object] | str | bytes"

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one call gave: exit code and the bytes of both streams."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The result object of a call that succeeded; {} where stdout is empty, as after DEL."""
        assert self.code == 0, f"exit {self.code}: {self.stdout.decode(errors='replace')}\n{self.stderr}"
        return _document(self.stdout) if self.stdout else {}

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a call that failed: the only thing on stdout, with the keys that the spec knows."""
        assert self.code != 0, f"no failure, but: {self.stdout.decode(errors='replace')}"
        assert "Traceback" not in self.stderr, self.stderr
        error = _document(self.stdout)
        assert isinstance(error.get("code"), int), error
        assert isinstance(error.get("msg"), str), error
        assert error["msg"], error
        assert set(error) <= {"cniVersion", "code", "msg", "details"}, error
        return error


def _document(stdout: bytes) -> dict[str, Any]:
    document = json.loads(stdout)  # fails on a second document, and on logs between
    assert isinstance(document, dict), document
    return document


def run(command: Sequence[str | bytes | Path], env: Mapping[str, str] | None = None, stdin: bytes = b"") -> Outcome:
    """Runs a command with these variables and no others."""
    done = subprocess.run(
        command, input=stdin, env=dict(env or {}), capture_output=True, check=False, timeout=TIMEOUT_S
    )
    return Outcome(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


class Caller:
    """Calls plugins; what a call doesn't say is taken from here. The two kinds of it differ in `_run` alone."""

    def __init__(self, path: Sequence[Path], run_dir: Path, container_id: str) -> None:
        self.path = tuple(path)
        """CNI_PATH, and where `Exec` finds the executable."""
        self.run_dir = run_dir
        self.container_id = container_id

    def __call__(
        self,
        name: str,
        command: str,
        config: Mapping[str, object] | str | bytes,
        *,
        container_id: str | None = None,
        netns: Path | str | None = None,
        ifname: str = "eth0",
        path: Sequence[Path] | None = None,
        args: str = "",
        env: Mapping[str, str | None] | None = None,
        node: Path | None = None,
    ) -> Outcome:
        """Runs plugin `name` with CNI_COMMAND=`command`.

        `config` goes to stdin, as JSON unless it is text already. `netns` is the pod's, `node` the network
        namespace that the plugin runs in (default: the session's). `env` is added last; None takes a variable away.
        """
        environ: dict[str, str | None] = {
            "PATH": os.environ["PATH"],
            "PODWIRE_RUN_DIR": str(self.run_dir),
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.container_id if container_id is None else container_id,
            "CNI_NETNS": str(netns or ""),
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": ":".join(map(str, self.path if path is None else path)),
            **(env or {}),
        }
        stdin = (
            config
            if isinstance(config, bytes)
            else (config if isinstance(config, str) else json.dumps(config)).encode()
        )
        return self._run(name, {key: value for key, value in environ.items() if value is not None}, stdin, node)

    def _run(self, name: str, environ: Mapping[str, str], stdin: bytes, node: Path | None) -> Outcome:
        raise NotImplementedError


class Exec(Caller):
    """By exec, with pipes: what a runtime does."""

    def find(self, name: str) -> Path:
        """The executable called `name` in the first folder of CNI_PATH that has one."""
        return next(folder / name for folder in self.path if (folder / name).exists())

    def _run(self, name: str, environ: Mapping[str, str], stdin: bytes, node: Path | None) -> Outcome:
        enter = ["nsenter", f"--net={node}"] if node else []
        return run([*enter, self.find(name)], environ, stdin)


class InProcess(Caller):
    """By a call of the plugin shell in this process: no start-up, and faults can be injected."""

    def _run(self, name: str, environ: Mapping[str, str], stdin: bytes, node: Path | None) -> Outcome:
        from cni import plugin  # here, so that `--twins` comes before it

        # Files in memory where a runtime has pipes: any amount of text fits without a thread at the other end.
        streams = [os.memfd_create(stream) for stream in ("stdin", "stdout", "stderr")]
        try:
            os.write(streams[0], stdin)
            os.lseek(streams[0], 0, os.SEEK_SET)
            code = namespaces.inside(node, lambda: plugin.main(name, environ, *streams))
            stdout, stderr = (_everything(fd) for fd in streams[1:])
        finally:
            for fd in streams:
                os.close(fd)
        return Outcome(code, stdout, stderr.decode(errors="replace"))


def _everything(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)

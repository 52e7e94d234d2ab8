"""Plugins that write down how they were called, and answer what a test wants."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cni.runtime.cache import Cache
from cni.runtime.chain import Runtime
from cni.runtime.conflist import Network

if TYPE_CHECKING:
    from pathlib import Path

# The environment goes to a file of its own, name by name, so that an empty variable differs from an absent one.
RECORDER = """#!/bin/sh
type=${0##*/}
n=$(ls "$FAKE/calls" | wc -l)
call="$FAKE/calls/$(printf %03d "$n")-$type-$CNI_COMMAND"
mkdir "$call"
cat > "$call/stdin"
env > "$call/env"
[ ! -e "$FAKE/answers/$type-$CNI_COMMAND" ] || . "$FAKE/answers/$type-$CNI_COMMAND"
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a plugin, as it saw it."""

    plugin: str
    command: str
    env: dict[str, str]
    config: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.plugin} {self.command}"


class Plugins:
    """A CNI bin directory of recording plugins, and a runtime that uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        for name in ("bin", "calls", "answers"):
            (folder / name).mkdir()
        self.cache = Cache(folder / "cache")
        self.runtime = self.runtime_with(self.cache)

    def runtime_with(self, cache: Cache, **environ: str) -> Runtime:
        return Runtime([str(self.bin)], cache, {"PATH": os.environ["PATH"], "FAKE": str(self.folder), **environ})

    def install(self, *names: str) -> None:
        for name in names:
            (self.bin / name).write_text(RECORDER)
            (self.bin / name).chmod(0o755)

    def answer(self, name: str, command: str, shell: str) -> None:
        """What the plugin does for a command, as a shell script; without one it succeeds and prints nothing."""
        (self.folder / "answers" / f"{name}-{command}").write_text(shell)

    def prints(self, name: str, value: object, command: str = "ADD") -> None:
        self.answer(name, command, f"cat <<'EOF'\n{json.dumps(value)}\nEOF\n")

    def fails(self, name: str, command: str, code: int = 999, msg: str = "no", details: str = "") -> None:
        error = json.dumps({"cniVersion": "1.0.0", "code": code, "msg": msg, "details": details})
        self.answer(name, command, f"echo '{error}'; exit 1")

    def succeeds(self, name: str, command: str) -> None:
        (self.folder / "answers" / f"{name}-{command}").unlink()

    def network(self, *plugins: dict[str, Any] | str, version: str = "1.1.0", **keys: Any) -> Network:
        """A network of these plugins, installed; a plugin without more keys than its type is given by that."""
        objects = [{"type": plugin} if isinstance(plugin, str) else plugin for plugin in plugins]
        self.install(*(str(one["type"]) for one in objects))
        for one in objects:
            if not (self.folder / "answers" / f"{one['type']}-ADD").exists():
                self.prints(str(one["type"]), {"cniVersion": version, "ips": [], "made": one["type"]})
        return Network.parse(json.dumps({"name": "podnet", "cniVersion": version, **keys, "plugins": objects}), "test")

    @property
    def calls(self) -> list[Call]:
        """All calls so far, the first first."""
        found = []
        for folder in sorted((self.folder / "calls").iterdir()):
            _, plugin, command = folder.name.split("-")
            env = dict(line.split("=", 1) for line in (folder / "env").read_text().splitlines() if "=" in line)
            found.append(Call(plugin, command, env, json.loads((folder / "stdin").read_text())))
        return found

    def forget(self) -> None:
        for folder in (self.folder / "calls").iterdir():
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()

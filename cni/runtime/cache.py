"""What an ADD was given and what came of it, kept for the CHECK and the DEL of the same attachment.

Format and file names are libcni's ("cniCacheV1"), in the folder that it uses: what containerd or cnitool
attached can be listed, checked and detached here, and the other way round. Unlike libcni's, a file appears
whole or not at all.

`<root>/results/<network>-<container ID>-<interface>`; the parts may contain `-` themselves, so what a file
is about is read from inside it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cni.lean import JSONError, dumps, loads
from cni.runtime.lock import Lock
from cni.spec.errors import CONFLICT, INVALID_ENVIRONMENT, STATE_UNUSABLE, CNIError
from cni.spec.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT_ROOT: Final = Path("/var/lib/cni")

_KIND: Final = "cniCacheV1"
_NAME_BYTES: Final = 255


class Corrupt(CNIError):
    """A file of the cache that says nothing one can use."""


@dataclass(frozen=True, slots=True)
class Cached:
    """One attachment as it was added."""

    network: str
    container_id: str
    ifname: str
    netns: str
    config: str
    """The conflist of the ADD."""
    args: str
    """CNI_ARGS of the ADD."""
    capability_args: Mapping[str, object]
    """What the runtime had to say about capabilities, of which each plugin gets what it asked for."""
    result: Mapping[str, object]
    """The result of the chain's last plugin, as it printed it; parsed when somebody needs to understand it."""


@dataclass(frozen=True, slots=True)
class Cache:
    """The files below `root`. Raises CNIError (STATE_UNUSABLE) for what the file system refuses."""

    root: Path = DEFAULT_ROOT

    def file(self, network: str, container_id: str, ifname: str) -> Path:
        """Where the attachment is kept. Raises CNIError for names that make no file name."""
        name = f"{network}-{container_id}-{ifname}"
        if len(os.fsencode(name)) > _NAME_BYTES:
            raise CNIError(
                INVALID_ENVIRONMENT, f"the name {name} is too long for the cache", "use a shorter container ID"
            )
        return self.root / "results" / name

    def read(self, network: str, container_id: str, ifname: str) -> Cached | None:
        """None when nothing is cached. Raises Corrupt."""
        file = self.file(network, container_id, ifname)
        found = self._read(file)
        if found and (found.network, found.container_id, found.ifname) != (network, container_id, ifname):
            # "a" and "b-c" make the same name as "a-b" and "c". Two such attachments can't be told apart later.
            raise CNIError(
                CONFLICT,
                f"{file}: is that of network {found.network}, container {found.container_id}, {found.ifname}",
                "use another container ID",
            )
        return found

    def write(self, cached: Cached) -> None:
        """Whole or not at all; a file of the same attachment is replaced."""
        pairs = [pair.split("=", 1) for pair in cached.args.split(";")] if cached.args else []
        content: dict[str, object] = {
            "kind": _KIND,
            "containerId": cached.container_id,
            "config": base64.b64encode(cached.config.encode()).decode(),
            "ifName": cached.ifname,
            "networkName": cached.network,
            "netns": cached.netns,
            "cniArgs": pairs,
            "capabilityArgs": dict(cached.capability_args),
            "result": dict(cached.result),
        }
        data = dumps({key: value for key, value in content.items() if value})
        file = self.file(cached.network, cached.container_id, cached.ifname)
        with _usable(file):
            file.parent.mkdir(0o700, parents=True, exist_ok=True)
            # Not beside the file: whoever lists the cache reads all that is there.
            handle, temporary = tempfile.mkstemp(prefix=".podwire-", dir=self.root)  # 0600
            try:
                with open(handle, "w") as writer:
                    writer.write(data)
                os.rename(temporary, file)
            except BaseException:
                os.unlink(temporary)
                raise

    def remove(self, network: str, container_id: str, ifname: str) -> None:
        """Nothing to remove is fine."""
        file = self.file(network, container_id, ifname)
        with _usable(file):
            file.unlink(missing_ok=True)

    def attachments(self, network: str | None = None) -> tuple[Cached, ...]:
        """All that is cached, or all of one network; what can't be read is left out, as libcni leaves it out."""
        found = []
        for file in self._files():
            with contextlib.suppress(CNIError):
                cached = self._read(file)
                if cached and network in (None, cached.network):
                    found.append(cached)
        return tuple(found)

    def require_readable(self, network: str) -> None:
        """Raises Corrupt if there is a file that may be about an attachment of the network and can't be read."""
        for file in self._files():
            if file.name.startswith(f"{network}-"):
                self._read(file)

    def _files(self) -> list[Path]:
        folder = self.root / "results"
        with _usable(folder):
            try:
                return [folder / name for name in sorted(os.listdir(folder))]
            except FileNotFoundError:
                return []

    @contextlib.contextmanager
    def locked(self, network: str, container_id: str | None) -> Iterator[None]:
        """Alone with one container of the network or, where it is None, with the whole network.

        The runtime owes its plugins that much (specification, section 2, "Lifecycle and ordering"): no two operations
        on one container at once, and none beside a GC of its network.
        """
        with _usable(self.root):
            self.root.mkdir(0o700, parents=True, exist_ok=True)
            lock = Lock(self.root / ".podwire.lock")
        with lock:
            with _usable(self.root):
                lock.take("network", network, alone=container_id is None)
                if container_id is not None:
                    lock.take("container", container_id, alone=True)
            yield

    def _read(self, file: Path) -> Cached | None:
        try:
            value = loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Corrupt(STATE_UNUSABLE, f"{file}: {error.strerror}") from error
        except JSONError as error:
            raise _corrupt(file, str(error)) from None
        try:
            return _parse(value, str(file))
        except CNIError as error:
            raise _corrupt(file, error.msg) from None
        except ValueError as error:  # base64, UTF-8
            raise _corrupt(file, f"config: {error}") from None


def _parse(value: object, where: str) -> Cached:
    keys = Section.of(value, where)
    if keys.text("kind") != _KIND:
        raise keys.error("kind", f'"{_KIND}"')
    for key in ("networkName", "containerId", "ifName"):
        if not keys.text(key):
            raise keys.error(key, "a name")
    return Cached(
        keys.text("networkName"),
        keys.text("containerId"),
        keys.text("ifName"),
        keys.text("netns"),
        base64.b64decode(keys.text("config"), validate=True).decode(),
        ";".join(_pair(pair, keys) for pair in _list(keys.raw("cniArgs"), keys, "cniArgs")),
        _object(keys, "capabilityArgs"),
        _object(keys, "result"),
    )


def _list(value: object, keys: Section, key: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise keys.error(key, "a list")
    return value


def _pair(value: object, keys: Section) -> str:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(part, str) for part in value):
        raise keys.error("cniArgs", "pairs of strings")
    return "=".join(value)


def _object(keys: Section, key: str) -> Mapping[str, object]:
    value = keys.raw(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise keys.error(key, "an object")
    return value


def _corrupt(file: Path, why: str) -> Corrupt:
    return Corrupt(
        STATE_UNUSABLE,
        f"{file}: unusable: {why}",
        "`podwire net del` detaches without it and removes it when it succeeds",
    )


@contextlib.contextmanager
def _usable(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CNIError(
            STATE_UNUSABLE,
            f"{error.filename or where}: {error.strerror}",
            "the result cache must be writable: run as root, or name another folder (--cache-dir)",
        ) from error

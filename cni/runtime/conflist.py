"""Networks as a node's configuration folder names them: which plugins, in which order, in which version.

Read as libcni reads them, so that a file means here what it means to containerd or kubelet. A network is a
`*.conflist`; a lone plugin in a `*.conf` or `*.json` is one too, of the time before 1.0.0. Of two files that
name one network the first counts, conflists before the others, each in the order of their names.

Two departures, both for people: a broken file spoils only itself (libcni gives up at the first, which may
belong to somebody else), and a version that we don't speak is refused here, where the file is known, and not
by a plugin, where it isn't.

Specification, section 1 ("Network configuration format"), and section 3 ("Derivation of execution
configuration from plugin configuration").
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cni.lean import JSONError, dumps, loads
from cni.spec import versions
from cni.spec.errors import DECODING_FAILURE, INCOMPATIBLE_VERSION, INVALID_CONFIG, IO_FAILURE, CNIError, shown
from cni.spec.request import is_name
from cni.spec.section import Section

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

DEFAULT_FOLDER: Final = Path("/etc/cni/net.d")

_LISTS: Final = (".conflist",)
_SINGLES: Final = (".conf", ".json")


class NotFound(CNIError):
    """No usable file names the network."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """One member of a chain."""

    type: str
    capabilities: frozenset[str]
    """What it wants to be told in `runtimeConfig`."""
    text: str
    """Its object in the configuration, as JSON: most of its keys are its own affair."""

    @classmethod
    def parse(cls, value: object, where: str) -> Self:
        """Raises CNIError."""
        keys = Section.of(value, where)
        wanted = keys.section("capabilities")
        capabilities = frozenset(name for name in wanted.unknown(()) if wanted.flag(name))
        kind = keys.text("type")
        if not kind:
            raise keys.error("type", "the name of a plugin")
        return cls(kind, capabilities, _dumps(value, where))

    def request(self, put: Mapping[str, object]) -> bytes:
        """What the plugin gets on stdin: its object with `put` in it, and without `capabilities`.

        The runtime has answered those, in `runtimeConfig`. What stands in the object under another spelling of a
        key that is put in goes: plugins match keys without regard to case, and would find it twice.
        """
        ours = {key.lower() for key in put} | {"capabilities"}
        kept = {key: value for key, value in loads(self.text).items() if key.lower() not in ours}
        return dumps({**kept, **put}).encode()


@dataclass(frozen=True, slots=True)
class Network:
    """A network and its chain of plugins, and the version to speak to them: the highest that both know."""

    name: str
    version: str
    versions: tuple[str, ...]
    """All that the configuration offers and we speak, in order."""
    plugins: tuple[Plugin, ...]
    disable_check: bool
    disable_gc: bool
    source: str
    """The file's name, for people."""
    text: str
    """The conflist as JSON, complete by itself: what the cache keeps, and `parse` takes again."""

    @classmethod
    def parse(cls, data: bytes | str, source: str, folder: Path | None = None) -> Self:
        """From a conflist; `folder` is where the network may have a folder of further plugins. Raises CNIError."""
        value = _loads(data, source)
        keys = Section.of(value, source)
        name = _name(keys)
        inlined = keys.raw("plugins")
        only_inlined = _flag(keys, "loadOnlyInlinedPlugins")
        if inlined is not None and not isinstance(inlined, list):
            raise keys.error("plugins", "a list of plugins")
        if inlined == [] or (inlined is None and only_inlined):
            raise CNIError(INVALID_CONFIG, f"{source}: no plugins in list", 'a network needs at least one in "plugins"')
        objects = [(one, f"{source}: plugins[{i}]") for i, one in enumerate(inlined or ())]
        text = data if isinstance(data, str) else data.decode()
        if not only_inlined and folder is not None:
            further = _further(folder / name)
            if further:
                # Kept complete: the folder may have changed or gone when a DEL needs what the ADD had.
                objects += further
                complete = {key: old for key, old in value.items() if key.lower() not in _ABOUT_PLUGINS}
                complete["plugins"] = [one for one, _ in objects]
                text = _dumps({**complete, "loadOnlyInlinedPlugins": True}, source)
        if not objects:
            raise CNIError(
                INVALID_CONFIG,
                f'{source}: network "{name}" has no plugins',
                f'list them in "plugins", or put *.conf files into {folder / name if folder else name}/',
            )
        spoken = _versions(keys)
        return cls(
            name,
            spoken[-1],
            spoken,
            tuple(Plugin.parse(one, where) for one, where in objects),
            _flag(keys, "disableCheck"),
            _flag(keys, "disableGC"),
            source,
            text,
        )

    @classmethod
    def parse_single(cls, data: bytes, source: str) -> Self:
        """From the configuration of a lone plugin. Raises CNIError."""
        value = _loads(data, source)
        keys = Section.of(value, source)
        if not keys.has("type") and keys.has("plugins"):
            raise CNIError(INVALID_CONFIG, f"{source}: a list of plugins", "name the file *.conflist")
        name, spoken = _name(keys), _versions(keys)
        plugin = Plugin.parse(value, source)
        complete = {"cniVersion": spoken[-1], "name": name, "plugins": [value], "loadOnlyInlinedPlugins": True}
        return cls(name, spoken[-1], spoken[-1:], (plugin,), False, False, source, dumps(complete))


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the folder, and what became of it."""

    file: Path
    network: Network | None
    problem: CNIError | None
    shadowed: bool = False
    """An earlier file names the same network."""


def scan(folder: Path) -> tuple[Entry, ...]:
    """Every configuration file of the folder, those that count first. An absent folder is an empty one.

    Raises CNIError when the folder can't be read.
    """
    seen: set[str] = set()
    entries = []
    for file in [*_files(folder, _LISTS), *_files(folder, _SINGLES)]:
        try:
            network = load(file)
        except CNIError as error:
            entries.append(Entry(file, None, error))
            continue
        entries.append(Entry(file, network, None, network.name in seen))
        seen.add(network.name)
    return tuple(entries)


def find(folder: Path, name: str) -> Network:
    """The network of that name. Raises CNIError: NotFound when there is none."""
    entries = scan(folder)
    for entry in entries:
        if entry.network and entry.network.name == name:
            return entry.network
    known = ", ".join(sorted({entry.network.name for entry in entries if entry.network})) or "none"
    broken = [str(entry.problem) for entry in entries if entry.problem]
    raise NotFound(
        INVALID_CONFIG,
        f'no network configuration with name "{name}" in {folder}',
        "; ".join([f"networks there: {known}", *(f"unusable: {one}" for one in broken)]),
    )


def load(file: Path) -> Network:
    """What a file says: a list, or by any other name than that of one a lone plugin. Raises CNIError."""
    data = _read(file)
    if file.name.endswith(_LISTS):
        return Network.parse(data, str(file), file.parent)
    return Network.parse_single(data, str(file))


# --- reading ------------------------------------------------------------------------------------------

_ABOUT_PLUGINS: Final = frozenset({"plugins", "loadonlyinlinedplugins"})


def _files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """As libcni finds them: by the end of the name, hidden or not, folders left out, and in byte order."""
    try:
        with os.scandir(folder) as listing:
            names = [
                one.name for one in listing if one.name.endswith(endings) and not one.is_dir(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CNIError(
            IO_FAILURE, f"{folder}: {error.strerror}", "this is the folder of network configurations"
        ) from error
    return [folder / name for name in sorted(names, key=os.fsencode)]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CNIError(IO_FAILURE, f"{file}: {error.strerror}") from error


def _further(folder: Path) -> list[tuple[object, str]]:
    """The plugins that a network has in a folder of its own, behind those of its list."""
    return [(_loads(_read(file), str(file)), str(file)) for file in _files(folder, (".conf",))]


def _loads(data: bytes | str, where: str) -> Any:
    try:
        value = loads(data)
    except JSONError as error:
        raise CNIError(DECODING_FAILURE, f"{where}: not JSON: {error}", "correct the file") from None
    if not isinstance(value, dict):
        raise CNIError(DECODING_FAILURE, f"{where}: {shown(value)} is not a JSON object", "correct the file")
    return value


def _dumps(value: object, where: str) -> str:
    try:
        return dumps(value)
    except (ValueError, RecursionError):
        raise CNIError(INVALID_CONFIG, f"{where}: a number is too large, or the nesting too deep") from None


def _name(keys: Section) -> str:
    name = keys.text("name")
    if not is_name(name):
        # It becomes part of file names, ours and the plugins'.
        raise keys.error("name", "letters, digits, _, . and -, beginning with a letter or digit")
    return name


def _versions(keys: Section) -> tuple[str, ...]:
    """The versions on offer that we speak, in order; what a configuration doesn't say is 0.1.0, as for plugins."""
    offered = [*keys.texts("cniVersions"), *filter(None, [keys.text("cniVersion")])] or [versions.ASSUMED]
    for version in offered:
        versions.parse(version)
    ours = tuple(version for version in versions.SUPPORTED if version in offered)
    if not ours:
        raise CNIError(
            INCOMPATIBLE_VERSION,
            f"{keys.where}: incompatible CNI versions",
            f"it asks for {', '.join(offered)}; supported are {', '.join(versions.SUPPORTED)}",
        )
    return ours


def _flag(keys: Section, key: str) -> bool:
    """A flag that may be written as a string too: the specification's examples of 1.1.0 did."""
    value = keys.raw(key)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return keys.flag(key)

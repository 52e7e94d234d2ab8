"""The network configuration that the runtime writes to a plugin's stdin, parsed once.

Here is what all plugins have in common (specification, section 1 "Plugin configuration objects" and
section 3 "Derivation of execution configuration"); what belongs to one plugin is left in `keys` for its parser.
The bytes themselves are kept, since a delegate gets them unchanged, unknown keys and all.

What can't be read at all is reported first, then the name, then the version, and only then what the rest says: a
configuration of a version to come may say it in ways that we'd misunderstand.
"""

from __future__ import annotations

from errno import EAGAIN

from cni.lean import JSONError, NamedTuple, loads, posix, select
from cni.spec import versions
from cni.spec.errors import DECODING_FAILURE, INVALID_CONFIG, IO_FAILURE, CNIError, shown
from cni.spec.request import is_name
from cni.spec.section import Section

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, Self

    from cni.spec.result import DNS, Result

STDIN_BYTES: Final = 8 << 20
_CHUNK_BYTES: Final = 1 << 16
_NAME_BYTES: Final = 255  # NAME_MAX of linux/limits.h: a network's state is a folder of that name
VALID_ATTACHMENTS: Final = ("cni.dev/valid-attachments", "cni.dev/attachments")
"""Keys of GC's list. A runtime sends both; the second is the name in the drafts of 1.1.0, which some plugins read."""


# There is an IPAM, and nobody knows which.
_UNREADABLE_IPAM: Final = Section({"type": ""}, "ipam")


class NetConf(NamedTuple):
    """One plugin's configuration."""

    cni_version: str
    name: str
    type: str
    raw: bytes
    """stdin, verbatim."""
    keys: Section
    """The whole object; its `where` is the plugin's type."""
    ipam: Section
    runtime_config: Section = Section({}, "runtimeConfig")
    args: Section = Section({}, "args.cni")
    """`args.cni`."""
    capabilities: frozenset[str] = frozenset()
    """What the plugin is configured to be told in `runtime_config`."""
    dns: DNS | None = None
    """None for none that says anything."""
    prev_result: Result | None = None
    valid_attachments: frozenset[tuple[str, str]] | None = None
    """GC's list, of (container ID, interface name). None, for absent or null: nothing is to be done."""

    @classmethod
    def parse(cls, stdin: bytes, supported: tuple[str, ...] = versions.SUPPORTED) -> Self:
        """CNIError 6 for what isn't a JSON object or has no version's form, 1 for a version that the plugin doesn't
        speak, 7 for what it says, 5 for too much of it.
        """
        return cls.begun(stdin, supported).whole()

    @classmethod
    def begun(cls, stdin: bytes, supported: tuple[str, ...] = versions.SUPPORTED) -> Self:
        """What every verb needs, the version and the network's name, and all else unread. Raises as `parse`.

        For DEL, which needs no more where a record knows the rest.
        """
        if len(stdin) > STDIN_BYTES:
            raise _too_long(STDIN_BYTES)
        keys = _read(stdin)
        version = _header(keys, "cniVersion", "decoding version from network config") or versions.ASSUMED
        name = _header(keys, "name", "error unmarshall network config")
        if not name:
            raise CNIError(INVALID_CONFIG, "missing network name", 'set "name" in the network configuration')
        if not is_name(name):
            raise CNIError(
                INVALID_CONFIG,
                "invalid characters found in network name",
                f"name is {shown(name)}; it must begin with a letter or digit and go on with these, _, . and -",
            )
        if len(name) > _NAME_BYTES:
            raise CNIError(
                INVALID_CONFIG,
                "network name is too long",
                f"name is {shown(name)}, of {len(name)} characters; {_NAME_BYTES} are allowed",
            )
        versions.parse(version)
        versions.require_supported(version, supported)
        return cls(version, name, "", stdin, keys, _UNREADABLE_IPAM)

    def whole(self, leaving: bool = False) -> Self:
        """The rest, read. CNIError 7 for what it says.

        `leaving` is for a DEL: what can't be read counts as absent, and an IPAM as one of no type, which is missed only
        where it is needed. Later members of the chain wrote the previous result too, somebody may have broken the
        configuration since the ADD, and a pod must not stay because of either.
        """
        keys = self.keys
        parsers: dict[str, Callable[[], Any]] = {
            "ipam": lambda: keys.section("ipam"),
            "type": lambda: keys.text("type"),
            "runtime_config": lambda: keys.section("runtimeConfig"),
            "args": lambda: keys.section("args").section("cni"),
            "capabilities": lambda: _capabilities(keys.section("capabilities")),
            "dns": lambda: _dns(keys.section("dns")),
            "prev_result": lambda: _previous(keys, self.cni_version),
            "valid_attachments": lambda: _valid_attachments(keys),
        }
        read = {}
        for field, parse in parsers.items():
            try:
                read[field] = parse()
            except CNIError:
                if not leaving:
                    raise
        return self._replace(**read)


def spoken(stdin: bytes) -> str:
    """The version to answer in when the rest of a configuration can't be used: its own if we speak it. Never raises."""
    try:
        version = _header(_read(stdin), "cniVersion", "") or versions.ASSUMED
    except CNIError:
        return versions.CURRENT
    return version if version in versions.SUPPORTED else versions.CURRENT


def read_stdin(fd: int, limit: int = STDIN_BYTES) -> bytes:
    """Everything up to the end of the file. CNIError 5 when it can't be read or is longer than `limit` bytes."""
    chunks: list[bytes] = []
    size = 0
    while size <= limit:
        try:
            chunk = posix.read(fd, _CHUNK_BYTES)
        except OSError as error:
            if error.errno == EAGAIN:
                # Whoever made the pipe may have made it non-blocking, for its own end.
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                poll.poll()
                continue
            raise CNIError(
                IO_FAILURE, f"error reading from stdin: {error.strerror}", "the network configuration comes on stdin"
            ) from error
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
        size += len(chunk)
    raise _too_long(limit)


def _too_long(limit: int) -> CNIError:
    return CNIError(
        IO_FAILURE, f"error reading from stdin: more than {limit} bytes", "a network configuration has a few kilobytes"
    )


def _read(stdin: bytes) -> Section:
    try:
        value = loads(stdin)
    except JSONError as error:
        raise CNIError(
            DECODING_FAILURE, f"error unmarshall network config: {error}", "stdin must be one JSON object"
        ) from None
    if not isinstance(value, dict):
        raise CNIError(
            DECODING_FAILURE,
            f"error unmarshall network config: {shown(value)} is not an object",
            "stdin must be one JSON object",
        )
    kind = value.get("type")
    return Section(value, kind if isinstance(kind, str) and is_name(kind) else "network configuration")


def _header(keys: Section, key: str, failure: str) -> str:
    """A key that is read before it is known whom the configuration is for: what has the wrong type isn't decoded."""
    value = keys.raw(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CNIError(
            DECODING_FAILURE,
            f"{failure}: {key} must be a string, got {shown(value)}",
            f'correct "{key}" in the network configuration',
        )
    return value


def _dns(keys: Section) -> DNS | None:
    if keys.empty:
        return None
    from cni.spec import parsing

    found = parsing.dns(keys)
    return None if found.empty else found


def _previous(keys: Section, version: str) -> Result | None:
    value = keys.raw("prevResult")
    if value is None:
        return None
    from cni.spec import parsing

    return parsing.result(value, version, "prevResult")


def _capabilities(keys: Section) -> frozenset[str]:
    return frozenset([key for key in keys.unknown(()) if keys.flag(key)])


def _valid_attachments(keys: Section) -> frozenset[tuple[str, str]] | None:
    found: set[tuple[str, str]] = set()
    told = False
    for key in VALID_ATTACHMENTS:
        told = told or keys.has(key)
        for one in keys.sections(key):
            # What a list leaves out is destroyed, so half an entry is an error and no entry that matches nothing.
            for part in ("containerID", "ifname"):
                if not one.text(part):
                    raise one.error(part, "a string that is not empty")
            found.add((one.text("containerID"), one.text("ifname")))
    return frozenset(found) if told else None

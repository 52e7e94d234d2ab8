"""The verbs of the specification from the runtime's side: what containerd does with libcni.

Plugins of a network are run one after the other, each with its own configuration and what the specification
has the runtime put into it: name and version, the result of the plugin before it (ADD) or of the whole ADD
(CHECK, DEL), and the capabilities that it asked for. Section 3, "Execution of network configurations".

Where the specification leaves it to the runtime:

- An ADD that fails, or is interrupted, is followed at once by a DEL of every plugin that was started, the
  failed one included, in reverse order and without `prevResult`, there being no result of the whole. The
  specification demands a DEL after every ADD (section 2), and leaving it to the caller is how addresses leak.
  The one plugin that answers with code 3 (container unknown) is believed and not asked to clean up.
- An ADD of what is attached already is refused before any plugin runs: a plugin would refuse it too, and the
  DEL after that failure would take the network from a living container.
- A DEL goes on after a plugin failed and reports all failures at the end. It can be repeated as often as
  needed, since plugins don't mind; the cached result is removed when all of them have succeeded.
- CHECK and DEL use the configuration, arguments and capabilities of the ADD, from the cache, wherever the cache
  has them. The specification forbids changing a configuration while it is in use; people do it all the same.

Everything below raises CNIError for what is wrong before a plugin runs, and ChainFailed for what plugins answered.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cni import invoke
from cni.key import Key
from cni.lean import JSONError, dumps, loads
from cni.runtime.cache import Cached, Corrupt
from cni.runtime.conflist import Network
from cni.spec import parsing, versions
from cni.spec.errors import ALREADY_ATTACHED, DECODING_FAILURE, INVALID_ENVIRONMENT, UNKNOWN_CONTAINER, CNIError, shown
from cni.spec.netconf import VALID_ATTACHMENTS
from cni.spec.request import require_container_id, require_ifname

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cni.runtime.cache import Cache
    from cni.runtime.conflist import Plugin
    from cni.spec.result import Result


@dataclass(frozen=True, slots=True)
class Attachment:
    """One container's interface in a network, and what the runtime has to say about it."""

    container_id: str
    netns: str
    """Path of the network namespace. For DEL, "" stands for that of the ADD, and for none where that is unknown."""
    ifname: str = "eth0"
    args: str = ""
    """CNI_ARGS. For CHECK and DEL, "" stands for those of the ADD."""
    capability_args: Mapping[str, object] = field(default_factory=dict)
    """By capability, what a plugin that asks for it is told. For CHECK and DEL, empty stands for those of the ADD."""


@dataclass(frozen=True, slots=True)
class Added:
    """What an ADD came to."""

    result: Result
    text: str
    """The same as JSON in the network's version, with what the last plugin printed beyond the specification."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One plugin's answer to one command."""

    network: str
    version: str
    command: str
    plugin: str
    container_id: str
    error: CNIError

    def __str__(self) -> str:
        about = f" of {self.container_id}" if self.container_id else ""
        details = f"; {self.error.details}" if self.error.details else ""
        said = f"{self.error.msg} (code {self.error.code}){details}"
        return f"{self.network}: {self.plugin}: {self.command}{about} failed: {said}"


class ChainFailed(Exception):
    """Plugins failed. The first is what the caller asked about; the others came while going on or cleaning up."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__("\n".join(map(str, failures)))
        self.failures = tuple(failures)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a GC did."""

    detached: tuple[Cached, ...]
    asked: bool
    """Whether the plugins were asked too; they aren't below CNI 1.1.0."""


class Runtime:
    """Runs chains. `path` is CNI_PATH, `environ` what plugins see beside the protocol's variables."""

    def __init__(self, path: Sequence[str], cache: Cache, environ: Mapping[str, str]) -> None:
        self._path = tuple(path)
        self._cache = cache
        self._environ = dict(environ)

    # --- verbs ----------------------------------------------------------------------------------------

    def add(self, network: Network, attachment: Attachment) -> Added:
        """Attaches. See the module for what happens when it fails or was done before."""
        _require_names(attachment)
        with self._cache.locked(network.name, attachment.container_id):
            self._require_new(network, attachment)
            for plugin in network.plugins:
                invoke.find(plugin.type, self._path)  # a missing one is found out before the others have done anything
            started: list[Plugin] = []
            try:
                result: dict[str, Any] = {}
                for plugin in network.plugins:
                    started.append(plugin)
                    result = self._add(network, plugin, attachment, result)
                self._cache.write(_cached(network, attachment, result))
            except ChainFailed as failed:
                if failed.failures[0].error.code == UNKNOWN_CONTAINER:
                    started.pop()
                raise ChainFailed([*failed.failures, *self._del(network, started, attachment, None)]) from None
            except BaseException as error:
                for failure in self._del(network, started, attachment, None):
                    error.add_note(str(failure))
                raise
            return Added(parsing.result(result, network.version), dumps(result))

    def check(self, network: Network, attachment: Attachment) -> bool:
        """True: the plugins find everything in place. False: the configuration forbids asking them."""
        _require_names(attachment)
        versions.require_command("CHECK", network.version)
        if network.disable_check:
            return False
        with self._cache.locked(network.name, attachment.container_id):
            cached = self._cache.read(network.name, attachment.container_id, attachment.ifname)
            if cached is None:
                raise CNIError(
                    UNKNOWN_CONTAINER,
                    f"{network.name}: nothing is known of an ADD of {attachment.container_id}, {attachment.ifname}",
                    f"CHECK needs its result, which is kept in {self._cache.root}/results",
                )
            network = _as_added(network, cached)
            attachment = _with_cached(attachment, cached)
            put = {"prevResult": _in_version(cached.result, network.version)}
            for plugin in network.plugins:
                self._run("CHECK", network, plugin, attachment, put)
            return True

    def delete(self, network: Network, attachment: Attachment) -> None:
        """Detaches. To be repeated at will, also without an ADD before it and without a namespace."""
        _require_names(attachment)
        with self._cache.locked(network.name, attachment.container_id):
            failures = self._delete(network, attachment)
        if failures:
            raise ChainFailed(failures)

    def gc(self, network: Network, valid: Iterable[tuple[str, str]] | None = None) -> Collected | None:
        """Detaches what is cached and not valid, then has the plugins drop what they hold for others than the valid.

        `valid` are pairs of container ID and interface name. None stands for what is cached and whose namespace still
        exists: right where this cache knows all of the network's attachments, and nowhere else. Goes on after failures
        and reports them all. None when the configuration forbids it.
        """
        if network.disable_gc:
            return None
        with self._cache.locked(network.name, None):
            cached = self._cache.attachments(network.name)
            if valid is None:
                # What isn't listed is destroyed: a file that can't be read, or is being written, may be a living pod's.
                self._cache.require_readable(network.name)
                valid = [(one.container_id, one.ifname) for one in cached if not one.netns or os.path.exists(one.netns)]
            keep = dict.fromkeys(valid)  # a set in the order given, for plugins' logs
            stale = tuple(one for one in cached if (one.container_id, one.ifname) not in keep)
            failures: list[Failure] = []
            for one in stale:
                failures += self._delete(network, Attachment(one.container_id, one.netns, one.ifname))
            asked = _speaks(network.version, "1.1.0")
            if asked:
                listed = [{"containerID": container_id, "ifname": ifname} for container_id, ifname in keep]
                put = dict.fromkeys(VALID_ATTACHMENTS, listed)
                for plugin in network.plugins:
                    failures += self._tried("GC", network, plugin, None, put)
        if failures:
            raise ChainFailed(failures)
        return Collected(stale, asked)

    def status(self, network: Network) -> bool:
        """True: the plugins can serve an ADD. False: below CNI 1.1.0 they can't be asked."""
        if not _speaks(network.version, "1.1.0"):
            return False
        for plugin in network.plugins:
            self._run("STATUS", network, plugin, None, {})
        return True

    def missing(self, network: Network) -> tuple[str, ...]:
        """The types of the plugins that are not to be found."""
        return tuple(plugin.type for plugin in network.plugins if not self._has(plugin))

    def remembered(self, name: str, attachment: Attachment) -> Network | None:
        """The network as it was when the attachment was added; None when that is unknown."""
        try:
            cached = self._cache.read(name, attachment.container_id, attachment.ifname)
            return _parse_config(cached) if cached else None
        except CNIError:
            return None

    def _has(self, plugin: Plugin) -> bool:
        try:
            invoke.find(plugin.type, self._path)
        except CNIError:
            return False
        return True

    # --- their parts ----------------------------------------------------------------------------------

    def _require_new(self, network: Network, attachment: Attachment) -> None:
        try:
            if self._cache.read(network.name, attachment.container_id, attachment.ifname) is None:
                return
        except Corrupt:
            pass  # something was added here, whatever it was
        raise CNIError(
            ALREADY_ATTACHED,
            f"{network.name}: container {attachment.container_id} has {attachment.ifname} already",
            "detach it first (`podwire net del`); nothing was changed",
        )

    def _add(
        self, network: Network, plugin: Plugin, attachment: Attachment, previous: dict[str, Any]
    ) -> dict[str, Any]:
        put = {"prevResult": previous} if previous else {}
        printed = self._run("ADD", network, plugin, attachment, put)
        try:
            return _in_version(loads(printed), network.version)
        except JSONError as error:
            what = f"printed {shown(printed.decode(errors='replace'))}, which is no result: {error}"
            raise _failed("ADD", network, plugin, attachment, CNIError(DECODING_FAILURE, what)) from None
        except CNIError as error:
            raise _failed("ADD", network, plugin, attachment, error) from None

    def _delete(self, network: Network, attachment: Attachment) -> list[Failure]:
        try:
            cached = self._cache.read(network.name, attachment.container_id, attachment.ifname)
        except Corrupt:
            cached = None
        result = None
        if cached:
            network = _as_added(network, cached)
            attachment = _with_cached(attachment, cached)
            result = _result_of(cached, network.version)
        failures = self._del(network, network.plugins, attachment, result)
        if not failures:
            self._cache.remove(network.name, attachment.container_id, attachment.ifname)
        return failures

    def _del(
        self, network: Network, plugins: Sequence[Plugin], attachment: Attachment, result: Mapping[str, object] | None
    ) -> list[Failure]:
        put = {"prevResult": result} if result else {}
        failures: list[Failure] = []
        for plugin in reversed(plugins):
            failures += self._tried("DEL", network, plugin, attachment, put)
        return failures

    def _tried(
        self, command: str, network: Network, plugin: Plugin, attachment: Attachment | None, put: Mapping[str, object]
    ) -> tuple[Failure, ...]:
        try:
            self._run(command, network, plugin, attachment, put)
        except ChainFailed as failed:
            return failed.failures
        return ()

    def _run(
        self, command: str, network: Network, plugin: Plugin, attachment: Attachment | None, put: Mapping[str, object]
    ) -> bytes:
        """stdout of one plugin for one command. Raises ChainFailed with its one failure."""
        request: dict[str, object] = {"cniVersion": network.version, "name": network.name, **put}
        if attachment:
            told = {key: value for key, value in attachment.capability_args.items() if key in plugin.capabilities}
            if told:
                request["runtimeConfig"] = told
            key = Key(network.name, attachment.container_id, attachment.ifname, plugin.type)
            netns, args = attachment.netns, attachment.args
        else:
            key, netns, args = None, "", ""
        try:
            return invoke.delegate(
                command, plugin.type, key, netns, args, self._path, plugin.request(request), self._environ
            )
        except CNIError as error:
            raise _failed(command, network, plugin, attachment, error) from None


# --- what they say ------------------------------------------------------------------------------------


def _failed(
    command: str, network: Network, plugin: Plugin, attachment: Attachment | None, error: CNIError
) -> ChainFailed:
    container_id = attachment.container_id if attachment else ""
    return ChainFailed([Failure(network.name, network.version, command, plugin.type, container_id, error)])


def _require_names(attachment: Attachment) -> None:
    require_container_id(attachment.container_id)
    require_ifname(attachment.ifname)
    for pair in attachment.args.split(";") if attachment.args else ():
        if pair.count("=") != 1 or pair.startswith("="):
            raise CNIError(INVALID_ENVIRONMENT, f"CNI_ARGS: invalid pair {shown(pair)}", "it is KEY=VALUE;KEY=VALUE")


def _cached(network: Network, attachment: Attachment, result: Mapping[str, object]) -> Cached:
    return Cached(
        network.name,
        attachment.container_id,
        attachment.ifname,
        attachment.netns,
        network.text,
        attachment.args,
        attachment.capability_args,
        result,
    )


def _as_added(network: Network, cached: Cached) -> Network:
    """The network as the attachment's ADD had it; as it is now where the cache has nothing usable."""
    try:
        added = _parse_config(cached)
    except CNIError:
        return network
    return added if added.name == network.name else network


def _parse_config(cached: Cached) -> Network:
    network = Network.parse(cached.config, "the configuration in the cache")
    # The result is in the version of its ADD: a runtime that doesn't know `cniVersions` spoke a lower one than we do.
    version = cached.result.get("cniVersion")
    return replace(network, version=version) if version in network.versions else network


def _with_cached(attachment: Attachment, cached: Cached) -> Attachment:
    return replace(
        attachment,
        netns=attachment.netns or cached.netns,
        args=attachment.args or cached.args,
        capability_args=attachment.capability_args or cached.capability_args,
    )


def _result_of(cached: Cached, version: str) -> Mapping[str, object] | None:
    """`prevResult` of a DEL; None where the version has none, or the cache none that is usable."""
    if not _speaks(version, "0.4.0"):
        return None
    try:
        return _in_version(cached.result, version)
    except CNIError:
        return None


def _in_version(value: object, version: str) -> dict[str, Any]:
    """A result as a plugin that speaks `version` expects it. Raises CNIError."""
    parsed = parsing.result(value, version)
    stated = (
        [(key, said) for key, said in value.items() if key.lower() == "cniversion"] if isinstance(value, dict) else []
    )
    if isinstance(value, dict) and stated in ([], [("cniVersion", version)]):
        # As printed, and not as we would write it: a later plugin may understand keys that we don't.
        return {"cniVersion": version, **value}
    return parsed.to_object(version)


def _speaks(version: str, since: str) -> bool:
    return versions.parse(version) >= versions.parse(since)

"""`podwire net check-config`: what is wrong with a network's configuration, before a pod finds out.

Each member of the chain that is one of ours is read by its own parser, as a runtime would have it called; what the
parser passes over, a key that nobody knows, is told as well. A plugin of somebody else is not judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cni import addresses
from cni.attach import places
from cni.cli import keys, schema
from cni.lean import loads
from cni.plugins import PLUGINS
from cni.runtime import conflist
from cni.spec.errors import CNIError
from cni.spec.netconf import NetConf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cni.runtime.conflist import Network, Plugin

STRICT: Final = ("podwire",)
"""Whose unknown keys are errors: nobody else has a say in what they may be."""
_TOLD_BY: Final = {"portmap": "portMappings"}
"""Plugins that do nothing but what the runtime tells them, and what they have to ask for."""
_TOLD: Final = {
    "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
    "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": 1_000_000},
}
"""What a runtime may tell, by capability: some keys are read only then."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing to be said of a file."""

    place: str
    """As in "plugins[1] (portmap)"; "" for the whole file."""
    text: str
    """What is wrong, and what to do about it."""
    is_error: bool


def check(file: Path) -> tuple[Network | None, list[Remark]]:
    """The network, as far as it can be read, and what there is to say of it."""
    try:
        network = conflist.load(file)
    except CNIError as error:
        return None, [Remark("", _told(error).removeprefix(f"{file}: "), is_error=True)]
    remarks = list(_of_network(network))
    remarks += [Remark("", text, is_error=True) for text in _twice(network)]
    for i, plugin in enumerate(network.plugins):
        place = f"plugins[{i}] ({plugin.type})" if len(network.plugins) > 1 else plugin.type
        remarks += [Remark(place, text, is_error) for text, is_error in _of_plugin(network, plugin, is_first=i == 0)]
    return network, remarks


def _twice(network: Network) -> Iterator[str]:
    """Of plugins of ours that are in the chain again and couldn't be told from the first. One that works on pods of
    others can: by what its configuration says."""
    told: dict[str, list[object]] = {}
    for plugin in network.plugins:
        if plugin.type in PLUGINS:
            told.setdefault(plugin.type, []).append(PLUGINS[plugin.type].chained and places.own(plugin.text))
    for kind, members in sorted(told.items()):
        if any(one in members[:i] for i, one in enumerate(members)):
            yield f"{kind} is in the chain twice, and the second would find its pods attached; make one of the two"


def _of_network(network: Network) -> Iterator[Remark]:
    # A lone plugin was made a list of, with nothing beside `plugins` but what the list needs.
    for one in keys.unknown(loads(network.text), {**keys.NETWORK, "plugins": None}):
        yield Remark("", str(one), is_error=False)


def _of_plugin(network: Network, plugin: Plugin, *, is_first: bool) -> Iterator[tuple[str, bool]]:
    """What is wrong with a member of the chain, and whether it is an error."""
    value = loads(plugin.text)
    known = keys.of(plugin.type, _ipam_of(value))
    if known is None:
        return
    for one in keys.unknown(value, known):
        yield str(one), plugin.type in STRICT
    for name in sorted(plugin.capabilities):
        meant = keys.meant(name, schema.CAPABILITIES)
        if meant and meant != name:
            yield f'unknown capability "{name}"; did you mean "{meant}"?', False
    asks = _TOLD_BY.get(plugin.type)
    if asks and asks not in plugin.capabilities:
        yield f'it will be told nothing to do; add "capabilities": {{"{asks}": true}}', False
    ours = PLUGINS.get(plugin.type)
    if ours is None:
        return
    if ours.chained and is_first:
        yield "it works on what plugins before it attached; name it behind the one that makes the interface", True
    try:
        told = {name: value for name, value in _TOLD.items() if name in plugin.capabilities}
        put = {"cniVersion": network.version, "name": network.name, "runtimeConfig": told}
        conf = NetConf.parse(plugin.request(put), ours.supported)
        ours.features(conf, "")
        if not ours.chained:
            _require_addresses(conf, told_ranges="ipRanges" in plugin.capabilities)
    except CNIError as error:
        yield _told(error), True


def _ipam_of(value: object) -> str:
    """The type of IPAM; host-local's, where none is said, so that its keys are known in the wrong place."""
    ipam = _inner(value, "ipam")
    kind = "host-local" if ipam is None else _inner(ipam, "type")
    return kind if isinstance(kind, str) else ""


def _inner(value: object, key: str) -> object:
    """What is under a key, spelt in any way."""
    return {name.lower(): inner for name, inner in value.items()}.get(key) if isinstance(value, dict) else None


def _require_addresses(conf: NetConf, *, told_ranges: bool) -> None:
    """Raises CNIError where an ADD could get no address for what the configuration says."""
    addresses.of(conf, "", ())
    if conf.ipam.text("type") == "host-local" and not (told_ranges and _has_no_range(conf)):
        from cni.hostlocal.plan import Plan

        Plan.parse(conf, "")


def _has_no_range(conf: NetConf) -> bool:
    return not (conf.ipam.has("subnet") or conf.ipam.has("ranges"))


def _told(error: CNIError) -> str:
    return f"{error.msg}; {error.details}" if error.details else error.msg

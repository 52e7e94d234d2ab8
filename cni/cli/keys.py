"""Which keys the configurations of our plugins may have, and what an unknown one was perhaps meant to be.

A plugin passes over what it doesn't know, as the reference does and the protocol wants it: so a slip of the pen is no
error to it, and the network is not what its author thinks. Here are people, so slips are told.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cni.cli import schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Names = Mapping[str, "Names | None"]
    """Keys, and the keys of the objects under them, whether one or in lists; None for what isn't ours to know."""


def _plain(*keys: str) -> dict[str, Names | None]:
    return dict.fromkeys(keys)


def _of_schema(one: schema.Schema) -> Names | None:
    while one.get("type") == "array":
        one = one["items"]
    if one.get("additionalProperties") is not False:
        return None
    return {name: _of_schema(inner) for name, inner in one["properties"].items()}


_DNS: Final = _of_schema(schema.PODWIRE["properties"]["dns"])
_COMMON: Final[Names] = {
    **_plain("cniVersion", "name", "type", "capabilities", "args", "runtimeConfig", "prevResult", "ipam"),
    "dns": _DNS,
}
HOST_LOCAL: Final[Names] = {name: _of_schema(one) for name, one in schema.HOST_LOCAL.items()}
NETWORK: Final[Names] = _plain(
    "cniVersion", "cniVersions", "name", "plugins", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"
)
"""Beside `plugins`, in a list."""

PLUGINS: Final[Mapping[str, Names]] = {
    "podwire": _of_schema(schema.PODWIRE) or {},
    "bridge": {
        **_COMMON,
        **_plain(
            "bridge", "isGateway", "isDefaultGateway", "forceAddress", "ipMasq", "ipMasqBackend", "mtu", "hairpinMode"
        ),
        **_plain("promiscMode", "vlan", "preserveDefaultVlan", "macspoofchk", "enabledad", "disableContainerInterface"),
        "portIsolation": None,
        "vlanTrunk": _plain("id", "minID", "maxID"),
    },
    "ptp": {**_COMMON, **_plain("ipMasq", "ipMasqBackend", "mtu")},
    "loopback": _COMMON,
    "portmap": {
        **_COMMON,
        **_plain("backend", "snat", "masqAll", "markMasqBit", "externalSetMarkChain", "conditionsV4", "conditionsV6"),
    },
    "bandwidth": {**_COMMON, **_plain("ingressRate", "ingressBurst", "egressRate", "egressBurst", "latencyMs")},
    "firewall": {**_COMMON, **_plain("backend", "iptablesAdminChainName", "firewalldZone", "ingressPolicy")},
    "tuning": {**_COMMON, **_plain("sysctl", "mac", "mtu", "promisc", "allmulti", "txQLen", "dataDir")},
}
"""By plugin, as the reference has them and ours besides."""

_OF_OTHERS: Final = "cni.dev/"
"""How keys begin that the specification keeps for itself."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A key that nobody reads."""

    place: str
    """The object that has it, as in "ipam.ranges[0][0]"; "" for the whole."""
    key: str
    meant: str
    """What it was perhaps meant to be; "" where nothing is like it."""

    def __str__(self) -> str:
        told = f'unknown key "{self.key}"' + (f" in {self.place}" if self.place else "")
        return f'{told}; did you mean "{self.meant}"?' if self.meant else f"{told}; remove it"


def of(kind: str, ipam: str) -> Names | None:
    """Of a plugin of ours, with an IPAM of that type; None for a plugin of somebody else."""
    names = PLUGINS.get(kind)
    return {**names, "ipam": HOST_LOCAL} if names is not None and ipam == "host-local" else names


def unknown(value: object, names: Names) -> Iterator[Unknown]:
    """The keys in `value` that aren't in `names`, in its order. They match without regard to case, as for plugins."""
    return _unknown(value, names, names, "")


def _unknown(value: object, names: Names, all_names: Names, place: str) -> Iterator[Unknown]:
    if isinstance(value, list):
        for i, one in enumerate(value):
            yield from _unknown(one, names, all_names, f"{place}[{i}]")
    if not isinstance(value, dict):
        return
    by_folded = {name.lower(): name for name in names}
    for key, one in value.items():
        name = by_folded.get(key.lower())
        if name is not None:
            inner = names[name]
            if inner is not None:
                yield from _unknown(one, inner, all_names, f"{place}.{name}" if place else name)
        elif not key.startswith(_OF_OTHERS):
            yield Unknown(place, key, meant(key, names) or _elsewhere(key, all_names, ""))


def meant(key: str, names: Names) -> str:
    """The one that is spelt most like it, or alone ends in it; "" where none is."""
    by_folded = {name.lower(): name for name in names}
    like = difflib.get_close_matches(key.lower(), by_folded, 1, 0.7)
    like = like or [name for name in by_folded if name.endswith(key.lower())]
    return by_folded[like[0]] if len(like) == 1 else ""


def _elsewhere(key: str, names: Names, above: str) -> str:
    """Where a key of that very name belongs, in another place of the configuration."""
    for name, inner in names.items():
        if name.lower() == key.lower():
            return above + name
        found = _elsewhere(key, inner, f"{above}{name}.") if inner else ""
        if found:
            return found
    return ""

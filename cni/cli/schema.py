"""The configuration of `type: podwire` as a JSON Schema (draft 2020-12), and as a table for people.

One piece of data tells every key, its type, its default and what it is for: docs/podwire.schema.json and the tables
of docs/podwire.md are written from it, `podwire net check-config` knows the keys by it, and a test holds the plugin's
parser against it. A schema compares keys letter by letter; the plugin, as the reference's, without regard to case.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cni.spec import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Schema = dict[str, Any]

_NAME: Final = "^[A-Za-z0-9][A-Za-z0-9_.-]*$"
_MAC: Final = "^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$"
_U32: Final = (1 << 32) - 1
_U64: Final = (1 << 64) - 1


def _text(told: str, **more: object) -> Schema:
    return {"description": told, "type": "string", **more}


def _texts(told: str, **more: object) -> Schema:
    return {"description": told, "type": "array", "items": {"type": "string"}, **more}


def _number(told: str, least: int, most: int, **more: object) -> Schema:
    return {"description": told, "type": "integer", "minimum": least, "maximum": most, **more}


def _flag(told: str, default: bool) -> Schema:
    return {"description": told, "type": "boolean", "default": default}


def _object(told: str, properties: Schema, *, others: bool | Schema = False, **more: object) -> Schema:
    return {"description": told, "type": "object", "properties": properties, "additionalProperties": others, **more}


def _objects(told: str, properties: Schema, **more: object) -> Schema:
    items = {"type": "object", "properties": properties, "additionalProperties": False, **more}
    return {"description": told, "type": "array", "items": items}


# --- what occurs in more than one place -------------------------------------------------------------

_RANGE: Final = {
    "subnet": _text("The network, as 10.244.0.0/24."),
    "rangeStart": _text("The first address that is given; by default the first of the network."),
    "rangeEnd": _text("The last one; by default the last of the network that a pod can have."),
    "gateway": _text("The node's address in the network; by default its second, as 10.244.0.1."),
    "exclude": _texts("Addresses and networks that nobody gets.", default=[]),
}
_ROUTE: Final = {
    "dst": _text("The network that is reached."),
    "gw": _text("By which address; by default the pod's gateway."),
    "mtu": _number("The largest packet on the way.", 0, _U32),
    "advmss": _number("The largest TCP segment that is announced.", 0, _U32),
    "priority": _number("The metric.", 0, _U32),
    "table": _number("The routing table.", 0, _U32),
    "scope": _number("The scope: 0 global, 253 on the link, 254 on the host.", 0, 255),
}
HOST_LOCAL: Final = {
    "type": _text("`host-local`."),
    **_RANGE,
    "ranges": {
        "description": "A list of lists of networks, instead of `subnet` and its companions: a pod gets one address of "
        "each inner list. `[[{…}], [{…}]]` is dual stack.",
        "type": "array",
        "items": {
            "type": "array",
            "items": {"type": "object", "properties": _RANGE, "required": ["subnet"], "additionalProperties": False},
        },
    },
    "routes": _objects("Routes of the pod, besides those to the gateway and by it.", _ROUTE, required=["dst"]),
    "dataDir": _text("Where the reservations are; by default below podwire's own state, which ends with the boot."),
    "resolvConf": _text("A file of the node, in the form of resolv.conf(5), to take the DNS settings from."),
    "statusWhenFull": _flag("Whether STATUS fails while a range is full, which makes the node NotReady.", False),
}
"""Keys of `ipam` where its type is host-local."""

_RATES: Final = {
    "ingressRate": _number("What the pod may receive, in bits per second; 0 for no limit.", 0, _U64, default=0),
    "ingressBurst": _number(
        "How many bits may come faster, at once; what can't work gets a burst that fits the rate.", 0, _U64, default=0
    ),
    "egressRate": _number("What the pod may send, in bits per second; 0 for no limit.", 0, _U64, default=0),
    "egressBurst": _number("As `ingressBurst`.", 0, _U64, default=0),
}
_MAPPING: Final = {
    "hostPort": _number("The port of the node.", 1, 65535),
    "containerPort": _number("The port of the pod that it leads to.", 1, 65535),
    "protocol": _text("`tcp`, `udp` or `sctp`.", default="tcp"),
    "hostIP": _text("The node's address that it is for; by default all."),
}
_REQUESTED_MAC: Final = _text("The MAC of the pod's interface.", pattern=_MAC)
_REQUESTED_IPS: Final = _texts("Addresses that the pod is to get, of those that there are; a prefix length may follow.")
_SYSCTL: Final = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "default": {},
}
CAPABILITIES: Final = {
    "portMappings": _flag("Ports of the node that lead to the pod.", False),
    "bandwidth": _flag("Limits of a single pod.", False),
    "mac": _flag("The MAC of its interface.", False),
    "ips": _flag("Addresses that it is to get.", False),
    "ipRanges": _flag("Networks, before those of the configuration.", False),
    "dns": _flag("Its DNS settings.", False),
}


# --- the keys ----------------------------------------------------------------------------------------

PODWIRE: Final[Schema] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "podwire: the whole network of a pod by one CNI plugin",
    "description": "One member of `plugins` in a *.conflist, or a *.conf by itself.",
    "type": "object",
    "required": ["type", "ipam"],
    "properties": {
        "cniVersion": _text(
            "The version of the protocol. In a list it stands beside `plugins`.",
            enum=list(versions.SUPPORTED),
            default=versions.ASSUMED,
        ),
        "name": _text("The network's name. In a list it stands beside `plugins`.", pattern=_NAME, maxLength=255),
        "type": _text("`podwire`.", const="podwire"),
        "bridge": _text(
            "The bridge of the node that the pods hang on. It is made when it is not there.",
            pattern=r"^(?!\.{1,2}$)[^/:%\s]{1,15}$",
            default="podwire0",
        ),
        "mtu": _number("The MTU of bridge and pods; 0 for that of the bridge, or else 1500.", 0, 65535, default=0),
        "ipam": {
            "description": "Who hands out the addresses: `host-local`, which is part of podwire, or any IPAM plugin of "
            "the node, which gets its own keys from here.",
            "type": "object",
            "properties": {"type": _text("The name of an IPAM plugin.", minLength=1)},
            "required": ["type"],
            "if": {"properties": {"type": {"const": "host-local"}}},
            "then": {"properties": HOST_LOCAL, "additionalProperties": False},
        },
        "dns": _object(
            "What the result says of the pod's resolver, in the place of what IPAM says.",
            {
                "nameservers": _texts("Addresses of servers.", default=[]),
                "domain": _text("The domain of the pod.", default=""),
                "search": _texts("Domains that a short name is looked for in.", default=[]),
                "options": _texts("Options of resolv.conf(5).", default=[]),
            },
        ),
        "capabilities": _object(
            "What the runtime is to tell of each pod; it answers in `runtimeConfig`.",
            CAPABILITIES,
            others={"type": "boolean"},
        ),
        "masquerade": _flag("Whether packets that leave the pods' networks bear an address of the node.", True),
        "nonMasqueradeCIDRs": _texts(
            "Networks for which a packet keeps the pod's address: those of other nodes' pods, where they are routed. "
            "From pod to pod of one node it always does.",
            default=[],
        ),
        "snat": _flag(
            "Whether the node itself, by localhost too, and the pod itself can use the pod's host ports.", True
        ),
        "masqAll": _flag("Whether all that comes by a host port bears an address of the node.", False),
        "conditionsV4": _texts(
            "What else must hold of an IPv4 packet that comes to a host port: words of an nft rule.", default=[]
        ),
        "conditionsV6": _texts("The same for IPv6.", default=[]),
        "bandwidth": _object(
            "Limits of each pod. `runtimeConfig.bandwidth` says those of a single one where this says none.",
            {
                **_RATES,
                "latencyMs": _number(
                    "How long a packet may wait in a full queue, beyond what the burst takes, before it is dropped; "
                    "25, or beside a burst that is missing as long as ten frames take, if that is more.",
                    1,
                    10_000,
                ),
            },
        ),
        "sysctl": {
            "description": 'Settings below net in the pod, by name: `{"net.ipv4.conf.IFNAME.arp_filter": "1"}`, where '
            "IFNAME stands for its interface. DEL puts back how they were.",
            **_SYSCTL,
        },
        "ipspoofchk": _flag("Whether what a pod sends with an address that isn't its own is dropped.", True),
        "macspoofchk": _flag("Whether what a pod sends with a MAC that isn't its own is dropped.", True),
        "openForward": _flag(
            "Whether the firewall of the node is told to let the pods' packets pass, for nodes whose FORWARD policy is "
            "to drop.",
            False,
        ),
        "ingressPolicy": _text(
            "Which pods of the node reach a pod: all (`open`), of those on bridges with a policy its own bridge's "
            "alone (`same-bridge`), or of these none (`isolated`). The node and what is outside always do.",
            enum=["open", "same-bridge", "isolated"],
            default="open",
        ),
        "enabledad": _flag(
            "Whether IPv6 addresses wait until the kernel has looked for others who have them (a second or two).", False
        ),
        "args": _object(
            "What somebody between configuration and plugin has to say of one pod.",
            {
                "cni": _object(
                    "For any plugin.",
                    {
                        "mac": _REQUESTED_MAC,
                        "ips": _REQUESTED_IPS,
                        "sysctl": {"description": "As `sysctl`, and before it.", **_SYSCTL},
                    },
                    others=True,
                )
            },
            others=True,
        ),
        "runtimeConfig": _object(
            "What the runtime has to say of one pod, as far as `capabilities` asks for it.",
            {
                "portMappings": _objects("Ports of the node.", _MAPPING, required=["hostPort", "containerPort"]),
                "bandwidth": _object("Limits.", _RATES),
                "mac": _REQUESTED_MAC,
                "ips": _REQUESTED_IPS,
                "ipRanges": HOST_LOCAL["ranges"] | {"description": "As `ranges` of host-local, and before them."},
                "dns": _object(
                    "DNS settings.",
                    {
                        "servers": _texts("Addresses of servers.", default=[]),
                        "searches": _texts("Domains that a short name is looked for in.", default=[]),
                        "options": _texts("Options of resolv.conf(5).", default=[]),
                    },
                ),
            },
            others=True,
        ),
        "prevResult": {"description": "The result of the ADD, for CHECK and DEL; the runtime's.", "type": "object"},
    },
    "patternProperties": {r"^cni\.dev/": True},
    "additionalProperties": False,
}


def document() -> str:
    """As docs/podwire.schema.json has it."""
    return json.dumps(PODWIRE, indent=2, ensure_ascii=False) + "\n"


def page(text: str) -> str:
    """docs/podwire.md, with its tables as they should be."""
    for name, rows in _TABLES.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->\n")
        text = before + mark + _table(rows) + end + after
    return text


OF_A_POD: Final = ("args", "runtimeConfig", "prevResult")
"""Keys that don't stand in a network's configuration."""
_TABLES: Final[dict[str, Callable[[str], bool]]] = {
    "keys": lambda path: not path.startswith(("ipam.", *OF_A_POD)),
    "ipam": lambda path: path.startswith("ipam."),
    "pod": lambda path: path.startswith(OF_A_POD),
}
"""By their marks in the page, and which keys are in each."""


def _table(has: Callable[[str], bool]) -> str:
    lines = ["| key | value | default | |", "|---|---|---|---|"]
    for path, one in keys_of(PODWIRE):
        if has(path):
            default = f"`{json.dumps(one['default'], ensure_ascii=False)}`" if "default" in one else ""
            lines.append(f"| `{path}` | {_kind(one)} | {default} | {one['description']} |")
    return "\n".join(lines) + "\n"


def keys_of(schema: Schema, above: str = "") -> Iterator[tuple[str, Schema]]:
    """The keys, each before those in it: `ipam`, `ipam.ranges`, `ipam.ranges[][].subnet`."""
    properties = {**schema.get("properties", {}), **schema.get("then", {}).get("properties", {})}
    for name, one in properties.items():
        path = f"{above}{name}"
        yield path, one
        while one["type"] == "array":
            path, one = f"{path}[]", one["items"]
        if one["type"] == "object":
            yield from keys_of(one, f"{path}.")


def _kind(schema: Schema) -> str:
    if len(schema.get("enum", range(5))) < 5:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if schema["type"] == "integer" and schema["maximum"] < _U32:
        return f"{schema['minimum']} to {schema['maximum']}"
    if schema["type"] == "array":
        return "list of texts" if schema["items"]["type"] == "string" else "list"
    return {"string": "text", "integer": "number", "boolean": "true or false", "object": "object"}[schema["type"]]


def main(docs: Path) -> None:
    """Writes what docs/ has of it."""
    (docs / "podwire.schema.json").write_text(document())
    (docs / "podwire.md").write_text(page((docs / "podwire.md").read_text()))


if __name__ == "__main__":
    main(Path("docs"))

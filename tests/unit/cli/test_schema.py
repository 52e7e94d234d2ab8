"""podwire's schema, its documentation and its parser know the same keys, and the same defaults."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cni import plugins
from cni.cli import keys, schema
from cni.hostlocal.plan import Plan
from cni.spec.netconf import NetConf
from cni.spec.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).resolve().parents[3]
PAGE = (TOP / "docs/podwire.md").read_text()
FILE = TOP / "docs/podwire.schema.json"

MINIMAL: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "podnet",
    "type": "podwire",
    "ipam": {"type": "host-local", "subnet": "10.244.0.0/24"},
}
HINT = "python -m cni.cli.schema writes what docs/ has of it"

READ_BESIDES = {"backend", "externalSetMarkChain", "markMasqBit", "iptablesAdminChainName", "firewalldZone"}
"""Keys of the reference's plugins, which their features read in podwire too: of no use there, and so not told."""


def examples() -> list[dict[str, Any]]:
    """The plugins that the page configures: a list's members, and the one with everything."""
    found = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]
    return [one for block in found for one in block.get("plugins", [block])]


# --- documentation ----------------------------------------------------------------------------------


def test_the_schema_in_docs_is_the_one_that_the_command_knows() -> None:
    assert FILE.read_text() == schema.document(), HINT


def test_the_tables_in_docs_are_made_of_it() -> None:
    assert schema.page(PAGE) == PAGE, HINT


def test_the_page_has_every_key() -> None:
    told = set(re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE))

    assert told == {path for path, _ in schema.keys_of(schema.PODWIRE)}


def test_every_key_says_what_it_is_for_and_of_what_type_its_value_is() -> None:
    for path, one in schema.keys_of(schema.PODWIRE):
        assert one["description"].endswith((".", "`", "}")), path
        assert one["type"] in ("string", "integer", "boolean", "array", "object"), path


def test_the_last_example_has_every_key_but_those_of_a_single_pod() -> None:
    *_, everything = examples()
    told = set(keys_in(everything))

    wanted = {path for path, _ in schema.keys_of(schema.PODWIRE) if path.split(".")[0] not in schema.OF_A_POD}
    legacy = {f"ipam.{name}" for name in ("subnet", "rangeStart", "rangeEnd", "gateway")}
    optional = {f"ipam.routes[].{name}" for name in ("gw", "mtu", "advmss", "priority", "table", "scope")}
    assert told == wanted - legacy - optional


def keys_in(value: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, inner in value.items():
        path = f"{above}{key}"
        yield path
        if key == "sysctl":
            continue
        for depth in range(3):
            if isinstance(inner, dict):
                yield from keys_in(inner, f"{path}{'[]' * depth}.")
                break
            if isinstance(inner, list) and any(not isinstance(one, str) for one in inner):
                inner = inner[0]


# --- the schema judges ------------------------------------------------------------------------------


def errors(value: Any, one: schema.Schema, place: str = "") -> Iterator[str]:
    """Where a value is not as a schema has it. As much of draft 2020-12 as ours needs: an unknown word is a failure."""
    for word, told in one.items():
        if word in ("description", "default", "$schema", "title", "then"):
            continue
        kinds: dict[str, type | tuple[type, ...]] = {"string": str, "integer": int, "boolean": bool, "array": list}
        kinds["object"] = dict
        match word:
            case "type":
                if not isinstance(value, kinds[told]) or (told == "integer" and isinstance(value, bool)):
                    yield f"{place}: no {told}"
            case "enum":
                if value not in told:
                    yield f"{place}: none of {told}"
            case "const":
                if value != told:
                    yield f"{place}: not {told}"
            case "pattern":
                if isinstance(value, str) and not re.search(told, value):
                    yield f"{place}: not like {told}"
            case "minimum":
                if isinstance(value, int) and value < told:
                    yield f"{place}: less than {told}"
            case "maximum":
                if isinstance(value, int) and value > told:
                    yield f"{place}: more than {told}"
            case "minLength" | "maxLength":
                if isinstance(value, str) and (len(value) < told if word == "minLength" else len(value) > told):
                    yield f"{place}: {word}"
            case "required":
                if isinstance(value, dict):
                    yield from (f"{place}.{key}: missing" for key in told if key not in value)
            case "items":
                if isinstance(value, list):
                    for i, inner in enumerate(value):
                        yield from errors(inner, told, f"{place}[{i}]")
            case "properties":
                if isinstance(value, dict):
                    for key in told.keys() & value.keys():
                        yield from errors(value[key], told[key], f"{place}.{key}")
            case "additionalProperties":
                for key in value if isinstance(value, dict) and told is not True else ():
                    known = key in one.get("properties", {})
                    if not known and not any(re.search(like, key) for like in one.get("patternProperties", {})):
                        yield from errors(value[key], told, f"{place}.{key}") if told else (f"{place}.{key}: unknown",)
            case "patternProperties":
                assert set(told.values()) == {True}
            case "if":
                if not list(errors(value, told, place)):
                    yield from errors(value, one["then"], place)
            case _:
                pytest.fail(f"{word}: a word that this test doesn't know")


@pytest.mark.parametrize("example", [MINIMAL, {**MINIMAL, "cni.dev/anything": 1, "prevResult": {}}, *examples()])
def test_what_the_page_shows_is_as_the_schema_has_it(example: dict[str, Any]) -> None:
    assert list(errors(example, schema.PODWIRE)) == []
    assert list(keys.unknown(example, keys.PLUGINS["podwire"])) == []


WRONG: dict[str, dict[str, Any]] = {
    ".masquarade: unknown": {"masquarade": True},
    ".bridge: not like": {"bridge": "a/b"},
    ".mtu: more than": {"mtu": 65536},
    ".mtu: no integer": {"mtu": True},
    ".ipam: no object": {"ipam": "host-local"},
    ".ipam.type: missing": {"ipam": {}},
    ".ipam.range: unknown": {"ipam": {"type": "host-local", "range": "10.244.0.0/24"}},
    ".ipam.ranges[0][0].subnet: missing": {"ipam": {"type": "host-local", "ranges": [[{}]]}},
    ".masquerade: no boolean": {"masquerade": "yes"},
    ".nonMasqueradeCIDRs[0]: no string": {"nonMasqueradeCIDRs": [10]},
    ".bandwidth.ingressrate: unknown": {"bandwidth": {"ingressrate": 1}},
    ".bandwidth.ingressRate: less than": {"bandwidth": {"ingressRate": -1}},
    ".sysctl.net.core.somaxconn: no string": {"sysctl": {"net.core.somaxconn": 500}},
    ".ingressPolicy: none of": {"ingressPolicy": "closed"},
    ".args.cni.mac: not like": {"args": {"cni": {"mac": "03:00:00:00:00:01"}}},
    ".runtimeConfig.portMappings[0].hostPort: less than": {
        "runtimeConfig": {"portMappings": [{"hostPort": 0, "containerPort": 80}]}
    },
    ".capabilities.mac: no boolean": {"capabilities": {"mac": 1}},
}


@pytest.mark.parametrize("error", WRONG)
def test_what_is_wrong_is_not(error: str) -> None:
    (told,) = errors({**MINIMAL, **WRONG[error]}, schema.PODWIRE)

    assert told.startswith(error)


def test_what_belongs_to_other_ipams_is_theirs() -> None:
    assert list(errors({**MINIMAL, "ipam": {"type": "static", "addresses": []}}, schema.PODWIRE)) == []


# --- the parsers ------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """By the place of an object, the keys that a parser has asked for in it."""
    found: dict[str, set[str]] = {}
    really = Section.raw

    def raw(self: Section, key: str) -> object:
        found.setdefault(self.where, set()).add(key)
        return really(self, key)

    monkeypatch.setattr(Section, "raw", raw)
    return found


def parsed(config: dict[str, Any]) -> object:
    """What a plugin makes of a configuration."""
    return plugins.PLUGINS[config["type"]].features(NetConf.parse(json.dumps(config).encode()), "")


def telling(config: dict[str, Any]) -> dict[str, Any]:
    """With what a runtime may say besides."""
    told = {
        "portMappings": [{"hostPort": 8080, "containerPort": 80}],
        "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 1_000_000},
    }
    return {**config, "runtimeConfig": told}


OF_OURS = [name for name in plugins.PLUGINS if name != "podwire"]


@pytest.mark.parametrize("name", OF_OURS)
def test_what_a_parser_asks_for_is_known(name: str, asked: dict[str, set[str]]) -> None:
    parsed(telling({**MINIMAL, "type": name}))

    common = {"valid-attachments", "attachments"}
    unknown = {key for key in asked[name] if key not in keys.PLUGINS[name] and not key.startswith("cni.dev/")}
    assert unknown <= common


def test_podwires_parser_asks_for_every_key_and_for_no_others(asked: dict[str, set[str]]) -> None:
    *_, everything = examples()
    conf = telling(everything)

    parsed(conf)
    Plan.parse(NetConf.parse(json.dumps(conf).encode()), "")

    top = {key for key in asked["podwire"] if not key.startswith("cni.dev/")}
    assert top - READ_BESIDES == set(schema.PODWIRE["properties"])
    for key in ("bandwidth", "dns"):
        assert asked[f"podwire.{key}"] == set(schema.PODWIRE["properties"][key]["properties"])
    assert asked["podwire.ipam"] >= {"ranges", "routes", "exclude", "resolvConf", "subnet"}
    assert asked["podwire.ipam.ranges[0][0]"] == set(schema.HOST_LOCAL["ranges"]["items"]["items"]["properties"])


DEFAULTS = {
    path: one["default"]
    for path, one in schema.keys_of(schema.PODWIRE)
    if "default" in one and "[]" not in path and path.split(".")[0] not in (*schema.OF_A_POD, "cniVersion")
}


@pytest.mark.parametrize("path", DEFAULTS)
def test_to_say_the_default_is_to_say_nothing(path: str) -> None:
    *above, key = path.split(".")
    said = json.loads(json.dumps(MINIMAL))
    place = said
    for part in above:
        place = place.setdefault(part, {})
    without = json.loads(json.dumps(said))
    place[key] = DEFAULTS[path]

    assert parsed(said) == parsed(without)


@pytest.mark.parametrize("error", [one for one in WRONG if "unknown" not in one and not one.startswith(".ipam")])
def test_what_the_schema_refuses_the_parser_refuses_too(error: str) -> None:
    from cni.spec.errors import CNIError

    with pytest.raises(CNIError):
        parsed({**MINIMAL, **WRONG[error]})

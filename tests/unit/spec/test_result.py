"""Results: what each version's text looks like, what it can't say, and that nothing else is lost on the way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec import parsing
from cni.spec.errors import DECODING_FAILURE, INCOMPATIBLE_VERSION, INVALID_CONFIG
from cni.spec.result import DNS, Interface, IPConfig, Result, Route
from cni.spec.versions import SUPPORTED
from ipam.address import Address, Network
from ipam.address import Interface as Prefixed
from tests.unit.spec.anything import refusal

OLDEST = ("0.1.0", "0.2.0")
WITH_VERSION = ("0.3.0", "0.3.1", "0.4.0")
NEWEST = ("1.0.0", "1.1.0")


# --- texts ------------------------------------------------------------------------------------------

POD = Result(
    interfaces=(
        Interface("cni0", "00:11:22:33:44:55", mtu=1400),
        Interface("eth0", "99:88:77:66:55:44", "/run/netns/pod", 1400, "/run/sock", "0000:00:1f.6"),
    ),
    ips=(
        IPConfig(Prefixed.parse("10.1.0.5/16"), Address.parse("10.1.0.1"), 0),
        IPConfig(Prefixed.parse("fd00::5/64"), None, 1),
        IPConfig(Prefixed.parse("10.1.0.4/16")),
    ),
    routes=(
        Route(Network.parse("::/0"), Address.parse("fd00::1")),
        Route(Network.parse("0.0.0.0/0")),
        Route(Network.parse("10.9.0.0/16"), Address.parse("10.1.0.1"), 1300, 1260, 5, 0, 0),
    ),
    dns=DNS(("10.1.0.1",), "cluster.local", ("a", "b"), ("ndots:5",)),
)

DNS_TEXT = {"nameservers": ["10.1.0.1"], "domain": "cluster.local", "search": ["a", "b"], "options": ["ndots:5"]}
ROUTES = [
    {"dst": "::/0", "gw": "fd00::1"},
    {"dst": "0.0.0.0/0"},
    {"dst": "10.9.0.0/16", "gw": "10.1.0.1", "mtu": 1300, "advmss": 1260, "priority": 5, "table": 0, "scope": 0},
]
TEXTS: dict[str, dict[str, Any]] = {
    **{
        version: {
            "cniVersion": version,
            "ip4": {
                "ip": "10.1.0.5/16",
                "gateway": "10.1.0.1",
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.1"}],
            },
            "ip6": {"ip": "fd00::5/64", "routes": [{"dst": "::/0", "gw": "fd00::1"}]},
            "dns": DNS_TEXT,
        }
        for version in OLDEST
    },
    **{
        version: {
            "cniVersion": version,
            "interfaces": [
                {"name": "cni0", "mac": "00:11:22:33:44:55"},
                {"name": "eth0", "mac": "99:88:77:66:55:44", "sandbox": "/run/netns/pod"},
            ],
            "ips": [
                {"version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 0},
                {"version": "6", "address": "fd00::5/64", "interface": 1},
                {"version": "4", "address": "10.1.0.4/16"},
            ],
            "routes": ROUTES,
            "dns": DNS_TEXT,
        }
        for version in WITH_VERSION
    },
    **{
        version: {
            "cniVersion": version,
            "interfaces": [
                {"name": "cni0", "mac": "00:11:22:33:44:55", "mtu": 1400},
                {
                    "name": "eth0",
                    "mac": "99:88:77:66:55:44",
                    "sandbox": "/run/netns/pod",
                    "mtu": 1400,
                    "socketPath": "/run/sock",
                    "pciID": "0000:00:1f.6",
                },
            ],
            "ips": [
                {"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 0},
                {"address": "fd00::5/64", "interface": 1},
                {"address": "10.1.0.4/16"},
            ],
            "routes": ROUTES,
            "dns": DNS_TEXT,
        }
        for version in NEWEST
    },
}


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_result_in_each_version(version: str) -> None:
    assert POD.to_object(version) == TEXTS[version]
    assert json.loads(POD.to_json(version)) == TEXTS[version]
    assert "\n" not in POD.to_json(version)


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_text_of_each_version_is_understood(version: str) -> None:
    assert parsing.result(TEXTS[version], "ignored: it has its own") == kept(POD, version)


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_result_without_a_version_has_that_of_the_request(version: str) -> None:
    text = {key: value for key, value in TEXTS[version].items() if key != "cniVersion"}

    assert parsing.result(text, version) == kept(POD, version)
    assert parsing.result({**text, "cniVersion": ""}, version) == kept(POD, version)


@pytest.mark.parametrize("version", [*WITH_VERSION, *NEWEST])
def test_a_result_that_says_nothing_is_nothing_but_its_version(version: str) -> None:
    assert Result().to_object(version) == {"cniVersion": version}
    assert parsing.result({}, version) == Result()
    assert parsing.result(None, version) == Result()


@pytest.mark.parametrize("version", OLDEST)
@pytest.mark.parametrize("result", [Result(), POD._replace(ips=())])
def test_the_oldest_versions_need_an_address(version: str, result: Result) -> None:
    error = refusal(result.to_object, version)

    assert error.code == INVALID_CONFIG
    assert error.msg == "cannot convert: no valid IP addresses"
    assert version in error.details
    assert parsing.result({}, version) == Result()  # reading is another matter: DEL may bring an empty one


@pytest.mark.parametrize("version", OLDEST)
def test_the_oldest_versions_drop_routes_of_a_family_without_address(version: str) -> None:
    only_v6 = POD._replace(ips=POD.ips[1:2])

    assert only_v6.to_object(version) == {key: value for key, value in TEXTS[version].items() if key != "ip4"}


@pytest.mark.parametrize("version", ["", "1.1", "0.5.0", "1.2.0"])
def test_a_result_is_told_in_no_other_version(version: str) -> None:
    assert refusal(POD.to_object, version).code == INCOMPATIBLE_VERSION


# --- what is taken and what is refused ---------------------------------------------------------------


def test_unknown_keys_are_skipped_everywhere() -> None:
    text = json.loads(json.dumps(TEXTS["1.1.0"]))
    for one in [text, text["dns"], *text["interfaces"], *text["ips"], *text["routes"]]:
        one["extra"] = {"any": ["thing"]}

    assert parsing.result(text, "1.1.0") == POD


def test_keys_match_without_regard_to_case() -> None:
    text = {"CNIVersion": "1.1.0", "IPs": [{"Address": "10.1.0.5/16"}], "DNS": {"nameServers": ["a"]}}

    assert parsing.result(text, "0.1.0") == Result(ips=(IPConfig(Prefixed.parse("10.1.0.5/16")),), dns=DNS(("a",)))


@pytest.mark.parametrize("version", WITH_VERSION)
def test_an_address_without_its_version_is_tolerated(version: str) -> None:
    """The reference's loopback prints such, and its result is the `prevResult` of whatever is chained to it."""
    for said in ({}, {"version": ""}, {"version": None}):
        result = parsing.result({"ips": [{"address": "127.0.0.1/8", **said}]}, version)

        assert result.to_object(version)["ips"] == [{"address": "127.0.0.1/8", "version": "4"}]


def test_null_and_empty_gateways_are_none() -> None:
    for gateway in (None, ""):
        ip = {"address": "10.1.0.5/16", "gateway": gateway, "interface": None}
        route = {"dst": "10.0.0.0/8", "gw": gateway, "table": None, "scope": None, "mtu": None}

        result = parsing.result({"ips": [ip], "routes": [route]}, "1.1.0")

        assert result.ips == (IPConfig(Prefixed.parse("10.1.0.5/16")),)
        assert result.routes == (Route(Network.parse("10.0.0.0/8")),)


def test_a_routes_host_bits_are_dropped() -> None:
    result = parsing.result({"routes": [{"dst": "10.1.2.3/8"}, {"dst": "fd00::1/64"}]}, "1.1.0")

    assert [str(route.dst) for route in result.routes] == ["10.0.0.0/8", "fd00::/64"]


ADDRESS = {"address": "10.1.0.5/16"}
PREFIXED = "must be an address with its prefix length, as in 10.1.0.5/16, got"

WRONG: dict[str, tuple[str, object, str]] = {
    "list": ("1.1.0", [], "result must be a JSON object, got []"),
    "version": ("1.1.0", {"cniVersion": 1}, "result: cniVersion must be a string, got 1"),
    "interfaces": ("1.1.0", {"interfaces": {}}, "result: interfaces must be a list of objects, got {}"),
    "interface": ("1.1.0", {"interfaces": ["eth0"]}, 'result: interfaces[0] must be an object, got "eth0"'),
    "interface's name": ("1.1.0", {"interfaces": [{"name": 1}]}, "result.interfaces[0]: name must be a string, got 1"),
    "interface's mtu": (
        "1.1.0",
        {"interfaces": [{"mtu": -1}]},
        "result.interfaces[0]: mtu must be a whole number from 0 to 4294967295, got -1",
    ),
    "ips": ("1.1.0", {"ips": "x"}, 'result: ips must be a list of objects, got "x"'),
    "no address": ("1.1.0", {"ips": [{}]}, f"result.ips[0]: address {PREFIXED} null"),
    "address without length": ("1.1.0", {"ips": [{"address": "10.1.0.5"}]}, f'address {PREFIXED} "10.1.0.5"'),
    "address of another type": ("1.1.0", {"ips": [{"address": 5}]}, "result.ips[0]: address must be a string, got 5"),
    "address with zone": ("1.1.0", {"ips": [{"address": "fe80::1%eth0/64"}]}, f"address {PREFIXED}"),
    "length too long": ("1.1.0", {"ips": [{"address": "10.1.0.5/33"}]}, f"address {PREFIXED}"),
    "gateway": (
        "1.1.0",
        {"ips": [{**ADDRESS, "gateway": "10.1.0.1/16"}]},
        'result.ips[0]: gateway must be an IP address, got "10.1.0.1/16"',
    ),
    "index": (
        "1.1.0",
        {"ips": [{**ADDRESS, "interface": -1}]},
        "result.ips[0]: interface must be a whole number from 0 to 4294967295, got -1",
    ),
    "index of another type": (
        "1.1.0",
        {"ips": [{**ADDRESS, "interface": 0.0}]},
        "result.ips[0]: interface must be a whole number, got 0.0",
    ),
    "wrong version": (
        "0.4.0",
        {"ips": [{"address": "fd00::5/64", "version": "4"}]},
        'result.ips[0]: version must be "6", the version of fd00::5/64, got "4"',
    ),
    "version as a number": (
        "0.4.0",
        {"ips": [{**ADDRESS, "version": 4}]},
        "result.ips[0]: version must be a string, got 4",
    ),
    "routes": ("1.1.0", {"routes": "x"}, 'result: routes must be a list of objects, got "x"'),
    "no destination": ("1.1.0", {"routes": [{"gw": "10.1.0.1"}]}, f"result.routes[0]: dst {PREFIXED} null"),
    "route's gateway": (
        "1.1.0",
        {"routes": [{"dst": "::/0", "gw": "x"}]},
        'result.routes[0]: gw must be an IP address, got "x"',
    ),
    **{
        f"route's {key}": (
            "1.1.0",
            {"routes": [{"dst": "::/0", key: most + 1}]},
            f"result.routes[0]: {key} must be a whole number from 0 to {most}, got {most + 1}",
        )
        for key, most in [
            *((key, 2**32 - 1) for key in ("mtu", "advmss", "priority", "table")),
            ("scope", 255),
        ]
    },
    "dns": ("1.1.0", {"dns": []}, "result.dns must be a JSON object, got []"),
    "ip4": ("0.2.0", {"ip4": []}, "result.ip4 must be a JSON object, got []"),
    "ip4 without address": ("0.2.0", {"ip4": {}}, f"result.ip4: ip {PREFIXED} null"),
    "ip4 of IPv6": ("0.1.0", {"ip4": {"ip": "fd00::5/64"}}, 'result.ip4: ip must be an IPv4 address, got "fd00::5/64"'),
    "ip6 of IPv4": ("0.1.0", {"ip6": {"ip": "10.1.0.5/8"}}, 'result.ip6: ip must be an IPv6 address, got "10.1.0.5/8"'),
    "ip6's routes": (
        "0.2.0",
        {"ip6": {"ip": "fd00::5/64", "routes": [{"dst": "x"}]}},
        f'result.ip6.routes[0]: dst {PREFIXED} "x"',
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_place_key_and_value(case: str) -> None:
    version, value, message = WRONG[case]

    error = refusal(parsing.result, value, version)

    assert error.code == INVALID_CONFIG
    assert message in error.msg


def test_a_result_in_a_version_that_we_do_not_speak_is_refused() -> None:
    assert refusal(parsing.result, {"cniVersion": "1.2.0"}, "1.1.0").code == INCOMPATIBLE_VERSION
    assert refusal(parsing.result, {"cniVersion": "x"}, "1.1.0").code == DECODING_FAILURE
    assert refusal(parsing.result, {}, "1.2.0", "delegate's result").msg == (
        'delegate\'s result: unsupported CNI result version "1.2.0"'
    )


# --- round trips ------------------------------------------------------------------------------------

U32 = st.integers(1, 2**32 - 1)
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


def addresses(version: int) -> st.SearchStrategy[Address]:
    return st.integers(0, 2 ** {4: 32, 6: 128}[version] - 1).map(lambda value: Address(version, value))


@st.composite
def prefixed(draw: st.DrawFn, version: int) -> Prefixed:
    return Prefixed(draw(addresses(version)), draw(st.integers(0, {4: 32, 6: 128}[version])))


VERSIONS = st.sampled_from([4, 6])
ANY_PREFIXED = VERSIONS.flatmap(prefixed)
ANY_ADDRESS = VERSIONS.flatmap(addresses)

INTERFACES = st.builds(Interface, WORDS, WORDS, WORDS, st.just(0) | U32, WORDS, WORDS)
IPS = st.builds(IPConfig, ANY_PREFIXED, st.none() | ANY_ADDRESS, st.none() | st.integers(0, 5))
ROUTE = st.builds(
    Route,
    ANY_PREFIXED.map(lambda one: one.network),
    st.none() | ANY_ADDRESS,
    st.just(0) | U32,
    st.just(0) | U32,
    st.just(0) | U32,
    st.none() | st.just(0) | U32,
    st.none() | st.integers(0, 255),
)


def some(what: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(what, max_size=4).map(tuple)


DNSES = st.builds(DNS, some(WORDS), WORDS, some(WORDS), some(WORDS))
RESULTS = st.builds(Result, some(INTERFACES), some(IPS), some(ROUTE), DNSES)


def kept(result: Result, version: str) -> Result:
    """What a version can hold of a result: written from the table in `cni.spec.result`, not from its code."""
    if version in NEWEST:
        return result
    if version in WITH_VERSION:
        return result._replace(
            interfaces=tuple(one._replace(mtu=0, socket_path="", pci_id="") for one in result.interfaces)
        )
    ips: list[IPConfig] = []
    routes: list[Route] = []
    for family in (4, 6):
        of_family = [ip for ip in result.ips if ip.address.address.version == family]
        if of_family:
            ips.append(of_family[0]._replace(interface=None))
            routes += [Route(route.dst, route.gw) for route in result.routes if route.dst.version == family]
    return result._replace(interfaces=(), ips=tuple(ips), routes=tuple(routes))


def through(result: Result, version: str) -> Result:
    return parsing.result(json.loads(result.to_json(version)), "1.1.0")


@given(RESULTS, st.sampled_from(SUPPORTED))
def test_what_a_version_can_hold_comes_back(result: Result, version: str) -> None:
    if version in OLDEST and not result.ips:
        assert refusal(result.to_object, version).msg == "cannot convert: no valid IP addresses"
        return

    assert through(result, version) == kept(result, version)


@given(RESULTS, st.lists(st.sampled_from(SUPPORTED), min_size=1, max_size=8))
def test_a_chain_of_conversions_loses_what_its_versions_lose_and_nothing_else(result: Result, chain: list[str]) -> None:
    if not result.ips:
        chain = [version for version in chain if version not in OLDEST]
    expected = converted = result

    for version in chain:
        expected = kept(expected, version)
        converted = through(converted, version)

    assert converted == expected


@given(RESULTS, st.sampled_from(SUPPORTED))
def test_reading_and_writing_again_gives_the_same_text(result: Result, version: str) -> None:
    if version in OLDEST and not result.ips:
        return
    text = result.to_json(version)

    assert parsing.result(json.loads(text), version).to_json(version) == text


@given(RESULTS)
def test_versions_of_one_shape_differ_by_their_name_only(result: Result) -> None:
    for shape in (WITH_VERSION, NEWEST):
        texts = [{**result.to_object(version), "cniVersion": None} for version in shape]
        assert texts.count(texts[0]) == len(texts)

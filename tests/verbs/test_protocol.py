"""What goes in and comes out, for every plugin that attaches pods and every version of the protocol.

Shapes, codes and texts are those of the specification and, where it leaves them open, of the reference's library.
Whatever comes in, one JSON document comes out, or nothing: never a traceback, and never half an attachment.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cni
from cni import plugins
from cni.attach import adding
from tests import calls, namespaces, oracle
from tests.unit.spec import anything
from tests.verbs.networks import VERSIONS, Network, port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.calls import Caller, Exec, InProcess, Outcome

PLUGINS = ("bridge", "ptp", "loopback")
WITHOUT_CHECK = VERSIONS[:4]
WITHOUT_GC = VERSIONS[:6]
DNS = {"nameservers": ["10.1.0.53"], "domain": "lan.example", "search": ["lan.example"], "options": ["ndots:2"]}
DEFAULTS: list[dict[str, Any]] = [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "::/0", "gw": "fd00:1::1"}]


# --- the matrix -------------------------------------------------------------------------------------


def network_of(plugin: Caller, name: str, version: str, node: Path, tmp_path: Path) -> Network:
    """A network of a plugin that has something of everything that a result can tell."""
    config: dict[str, Any] = {"cniVersion": version, "name": "lan", "type": name}
    if name != "loopback":
        ranges = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]
        routes: list[Any] = [{"dst": "10.9.0.0/16", "gw": "10.1.0.9", "mtu": 1400, "table": 100}]
        if name == "ptp":
            # There is nobody else on the link, so no other gateway; and no default route unless IPAM brings one.
            routes = [{"dst": "10.9.0.0/16", "gw": "10.1.0.1", "mtu": 1400, "table": 100}, *DEFAULTS]
        ipam = {"type": "host-local", "dataDir": str(tmp_path / "networks"), "ranges": ranges, "routes": routes}
        config |= {"ipMasq": True, "ipam": ipam, "dns": DNS}
    if name == "bridge":
        config |= {"bridge": "br0", "isDefaultGateway": True, "macspoofchk": True}
    return Network(plugin, node, config, tmp_path / "networks")


def expected(name: str, version: str, node: Path, netns: Path) -> dict[str, Any]:
    """The result of an ADD, as the specification's examples have it and with what the kernel says."""
    aside = {"dst": "10.9.0.0/16", "gw": "10.1.0.9" if name == "bridge" else "10.1.0.1"}
    defaults = DEFAULTS
    if version in ("0.1.0", "0.2.0"):
        return {
            "cniVersion": version,
            "ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes": [aside, defaults[0]]},
            "ip6": {"ip": "fd00:1::2/64", "gateway": "fd00:1::1", "routes": [defaults[1]]},
            "dns": DNS,
        }
    links = [*oracle.links(node), oracle.link(netns, "eth0")]  # the bridge, if there is one, comes first
    interfaces: list[dict[str, Any]] = [{"name": link.name, "mac": link.mac} for link in links]
    interfaces[-1]["sandbox"] = str(netns)
    pod = len(links) - 1
    ips: list[dict[str, Any]] = [
        {"interface": pod, "address": "10.1.0.2/24", "gateway": "10.1.0.1"},
        {"interface": pod, "address": "fd00:1::2/64", "gateway": "fd00:1::1"},
    ]
    if version in ("0.3.0", "0.3.1", "0.4.0"):
        ips[0]["version"], ips[1]["version"] = "4", "6"
    else:
        for interface in interfaces:
            interface["mtu"] = 1500
    routes = [{**aside, "mtu": 1400, "table": 100}, *defaults]
    return {"cniVersion": version, "interfaces": interfaces, "ips": ips, "routes": routes, "dns": DNS}


def expected_of_loopback(version: str, netns: Path) -> dict[str, Any]:
    if version in ("0.1.0", "0.2.0"):
        return {"cniVersion": version, "ip4": {"ip": "127.0.0.1/8"}, "ip6": {"ip": "::1/128"}}
    told = {"4": {"version": "4"}, "6": {"version": "6"}} if version in ("0.3.0", "0.3.1", "0.4.0") else {}
    return {
        "cniVersion": version,
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": str(netns)}],
        "ips": [
            {"address": "127.0.0.1/8", "interface": 0, **told.get("4", {})},
            {"address": "::1/128", "interface": 0, **told.get("6", {})},
        ],
    }


def require_conformance(network: Network, netns: Path) -> None:
    """The life of one attachment, and every verb that its version has."""
    name, version = network.config["type"], network.config["cniVersion"]

    told = network.call("VERSION")
    assert told.result == {"cniVersion": version, "supportedVersions": list(VERSIONS)}

    added = network.call("ADD", netns=netns)
    if name == "loopback":
        assert added.result == expected_of_loopback(version, netns)
    else:
        assert added.result == expected(name, version, network.node, netns)

    checked = network.check(added.result, netns)
    status = network.call("STATUS")
    collected = network.collect(("a", "eth0"))
    for outcome, verb, without in (
        (checked, "CHECK", WITHOUT_CHECK),
        (status, "STATUS", WITHOUT_GC),
        (collected, "GC", WITHOUT_GC),
    ):
        if version in without:
            assert outcome.error["code"] == 1
            assert outcome.error["msg"] == f"config version does not allow {verb}"
        else:
            assert (outcome.code, outcome.stdout) == (0, b""), outcome

    assert oracle.link(netns, "lo" if name == "loopback" else "eth0").up
    deleted = network.but(prevResult=added.result).call("DEL", netns=netns)
    assert (deleted.code, deleted.stdout) == (0, b""), deleted
    assert [link.name for link in oracle.links(netns)] == []
    assert (network.reserved, network.records) == ({}, {})

    outcomes = (told, added, checked, status, collected, deleted)
    assert [outcome.stderr for outcome in outcomes] == [""] * len(outcomes)


@pytest.mark.parametrize("name", PLUGINS)
@pytest.mark.parametrize("version", VERSIONS)
def test_an_attachment_lives_by_the_specification(
    name: str, version: str, in_process: InProcess, node: Path, netns: Path, tmp_path: Path
) -> None:
    require_conformance(network_of(in_process, name, version, node, tmp_path), netns)


@pytest.mark.parametrize("name", PLUGINS)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_executable_does_the_same(
    name: str, version: str, plugin: Exec, node: Path, netns: Path, tmp_path: Path
) -> None:
    require_conformance(network_of(plugin, name, version, node, tmp_path), netns)


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_a_version_that_cannot_tell_of_no_address_is_refused_before_anything_is_made(
    version: str, network: Callable[..., Network], netns: Path
) -> None:
    lan = network(cniVersion=version)

    error = lan.call("ADD", netns=netns).error

    assert (error["code"], error["msg"]) == (7, "cannot convert: no valid IP addresses")
    assert_untouched(lan, netns)


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_a_version_that_can_tell_of_one_address_of_a_family_gets_no_second(
    version: str, network: Callable[..., Network], netns: Path
) -> None:
    lan = network("10.1.0.0/24", "10.2.0.0/24", cniVersion=version)

    error = lan.call("ADD", netns=netns).error

    assert error["code"] == 7
    assert error["msg"] == f"CNI version {version} does not support more than 1 address per family"
    assert_untouched(lan, netns)


# --- VERSION ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PLUGINS, "host-local", "tuning"])
@pytest.mark.parametrize(
    ("stdin", "answered"),
    [
        *((json.dumps({"cniVersion": version}), version) for version in VERSIONS),
        ('{"cniVersion": "9.9.9"}', "1.1.0"),
        ('{"cniVersion": 1}', "1.1.0"),
        ("{}", "1.1.0"),
        ("[]", "1.1.0"),
        ("", "1.1.0"),
        ("garbage", "1.1.0"),
        ('{"cniVersion": "0.4.0"' + " " * (9 << 20), "1.1.0"),
    ],
    ids=lambda value: value[:30],
)
def test_version_is_answered_in_the_version_that_was_asked_whatever_else_is_said(
    name: str, stdin: str, answered: str, in_process: InProcess
) -> None:
    nothing = dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"))

    outcome = in_process(name, "VERSION", stdin, env=nothing)

    assert outcome.result == {"cniVersion": answered, "supportedVersions": list(VERSIONS)}
    assert outcome.stderr == ""


# --- the environment --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", plugins.NAMES)
@pytest.mark.parametrize(
    ("command", "without", "missing"),
    [
        ("ADD", ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"), None),
        ("CHECK", ("CNI_NETNS", "CNI_PATH"), None),
        ("DEL", ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"), "CNI_CONTAINERID,CNI_IFNAME"),
        ("STATUS", ("CNI_CONTAINERID", "CNI_PATH"), "CNI_PATH"),
        ("GC", ("CNI_PATH",), None),
    ],
)
def test_variables_that_are_missing_are_named_all_together(
    name: str, command: str, without: tuple[str, ...], missing: str | None, in_process: InProcess, netns: Path
) -> None:
    config = {"cniVersion": "1.1.0", "name": "lan", "type": name}

    error = in_process(name, command, config, netns=netns, env=dict.fromkeys(without)).error

    assert error["code"] == 4
    assert error["msg"] == f"required env variables [{missing or ','.join(without)}] missing"


@pytest.mark.parametrize(
    ("env", "msg"),
    [
        ({"CNI_CONTAINERID": "../x"}, "invalid characters in containerID"),
        ({"CNI_CONTAINERID": "a\n"}, "invalid characters in containerID"),
        ({"CNI_IFNAME": "sixteen-letters-"}, "interface name is too long"),
        ({"CNI_IFNAME": ".."}, "interface name is . or .."),
        ({"CNI_IFNAME": "a/b"}, "interface name contains / or : or whitespace characters"),
        ({"CNI_IFNAME": "eth%d"}, "interface name contains %"),
        ({"CNI_COMMAND": "UPDATE"}, "unknown CNI_COMMAND: UPDATE"),
        ({"CNI_COMMAND": "add"}, "unknown CNI_COMMAND: add"),
        ({"CNI_COMMAND": ""}, "required env variables [CNI_COMMAND] missing"),
        ({"CNI_ARGS": "MAC"}, 'ARGS: invalid pair "MAC"'),
        ({"CNI_ARGS": "K8S_POD_NAME=a"}, 'ARGS: unknown args ["K8S_POD_NAME=a"]'),
    ],
    ids=str,
)
def test_a_variable_that_cannot_be_is_refused(env: dict[str, str], msg: str, lan: Network, netns: Path) -> None:
    error = lan.call("ADD", netns=netns, env=env).error

    assert (error["code"], error["msg"]) == (4, msg)
    assert_untouched(lan, netns)


def test_what_kubernetes_says_in_cni_args_is_let_pass(lan: Network, netns: Path) -> None:
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a;K8S_POD_INFRA_CONTAINER_ID=0;K8S_POD_UID=0"

    result = lan.add(netns, args=args)

    assert lan.check(result, netns, args=args).code == 0
    lan.delete(netns=netns, args=args)


LONGEST_ID = 255 - len("@eth0@bridge.json")


def test_a_container_id_is_as_long_as_a_file_name_allows(lan: Network, netns: Path) -> None:
    pod = "a" * LONGEST_ID

    result = lan.add(netns, pod)

    assert lan.check(result, netns, pod).code == 0
    lan.delete(pod, netns)
    assert lan.records == {}


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
def test_a_longer_container_id_is_refused_before_anything_is_made(command: str, lan: Network, netns: Path) -> None:
    length = LONGEST_ID + 1

    error = lan.but(prevResult={"cniVersion": "1.1.0"}).call(command, "a" * length, netns).error

    assert error["code"] == 4
    assert error["msg"] == f"CNI_CONTAINERID is too long: {length} characters"
    assert_untouched(lan, netns)


# --- CNI_NETNS --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL"])
@pytest.mark.parametrize("name", PLUGINS)
def test_the_nodes_own_namespace_is_refused_before_anything_is_done(
    command: str, name: str, in_process: InProcess, node: Path, tmp_path: Path
) -> None:
    network = network_of(in_process, name, "1.1.0", node, tmp_path)
    told = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": str(node)}]}

    error = network.but(prevResult=told).call(command, netns=node).error

    assert (error["code"], error["msg"]) == (8, "plugin's netns and netns from CNI_NETNS should not be the same")
    assert str(node) in error["details"]
    assert_untouched(network, node)
    assert oracle.link(node, "lo").up


def test_a_detaching_call_for_the_nodes_own_namespace_leaves_the_pod_attached(lan: Network, netns: Path) -> None:
    result = lan.add(netns)

    assert lan.call("DEL", netns=lan.node).error["code"] == 8

    assert lan.check(result, netns).code == 0


@pytest.mark.parametrize("allowed", ["1", "true", "TRUE"])
def test_the_nodes_own_namespace_can_be_allowed(allowed: str, network: Callable[..., Network]) -> None:
    lan = network("10.1.0.0/24")
    env = {"CNI_NETNS_OVERRIDE": allowed}

    result = lan.add(lan.node, env=env)

    assert [link.name for link in oracle.links(lan.node)] == ["br0", "eth0", port(result)]
    assert lan.check(result, lan.node, env=env).code == 0
    lan.delete(netns=lan.node, env=env)
    assert [link.name for link in oracle.links(lan.node)] == ["br0"]


NO_NETNS = {
    "nothing there": "/run/netns/nothing",
    "below a file": "/proc/self/status/netns",
    "a file": "/proc/self/status",
    "a directory": "/proc/self",
    "another kind of namespace": "/proc/self/ns/mnt",
    "relative": "netns",
}


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
@pytest.mark.parametrize("name", PLUGINS)
@pytest.mark.parametrize("case", NO_NETNS)
def test_what_is_no_network_namespace_is_refused_by_its_variable(
    command: str, name: str, case: str, in_process: InProcess, node: Path, tmp_path: Path
) -> None:
    network = network_of(in_process, name, "1.1.0", node, tmp_path).but(prevResult={"cniVersion": "1.1.0"})

    error = in_process(name, command, network.config, netns=NO_NETNS[case], node=node).error

    assert error["code"] == 4
    assert error["msg"].startswith(f'CNI_NETNS: failed to open netns "{NO_NETNS[case]}": ')
    assert_untouched(network)


# --- the configuration ------------------------------------------------------------------------------

LEAST = b'"cniVersion": "1.1.0", "name": "lan", "type": "bridge"'

BAD: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 6, "error unmarshall network config: unexpected end of JSON input"),
    "blanks": (b" \n\t", 6, "unexpected end of JSON input"),
    "half a document": (b'{"cniVersion": "1.1.0", "name"', 6, "error unmarshall network config: "),
    "two documents": (b"{%b}{%b}" % (LEAST, LEAST), 6, "text after the JSON document"),
    "no JSON": (b"cniVersion: 1.1.0", 6, "error unmarshall network config: "),
    "single quotes": (b"{'name': 'lan'}", 6, "error unmarshall network config: "),
    "invalid UTF-8": (b'{"name": "l\xff"}', 6, "error unmarshall network config: "),
    "UTF-16": ('{"name": "lan"}'.encode("utf-16"), 6, "error unmarshall network config: "),
    "a byte order mark": (b"\xef\xbb\xbf{%b}" % LEAST, 6, "error unmarshall network config: "),
    "a NUL": (b"{%b}\0" % LEAST, 6, "error unmarshall network config: "),
    "a list": (b"[]", 6, "[] is not an object"),
    "null": (b"null", 6, "null is not an object"),
    "a string": (b'"lan"', 6, '"lan" is not an object'),
    "NaN": (b'{%b, "mtu": NaN}' % LEAST, 6, "NaN is not JSON"),
    "duplicate keys": (b'{%b, "name": "wan"}' % LEAST, 6, 'duplicate key "name"'),
    "duplicate keys below": (b'{%b, "ipam": {"type": "a", "type": "b"}}' % LEAST, 6, 'duplicate key "type"'),
    "two spellings of a key": (b'{%b, "isGateway": true, "isgateway": false}' % LEAST, 7, "isGateway is given twice"),
    "nested beyond reason": (b'{%b, "x": %b}' % (LEAST, b"[" * 100_000), 6, "nested too deeply"),
    "nested objects": (b'{%b, "x": %b' % (LEAST, b'{"x":' * 100_000), 6, "nested too deeply"),
    "5,000 digits": (b'{%b, "mtu": %b}' % (LEAST, b"9" * 5000), 6, "error unmarshall network config: "),
    "1e999": (b'{%b, "mtu": 1e999}' % LEAST, 7, "mtu must be"),
    "10 MB": (b'{%b, "x": "%b"}' % (LEAST, b"x" * 10_000_000), 5, "error reading from stdin: more than 8388608 bytes"),
    "10 MB of blanks": (b" " * 10_000_000, 5, "error reading from stdin: more than 8388608 bytes"),
    "no name": (b'{"cniVersion": "1.1.0", "type": "bridge"}', 7, "missing network name"),
    "a bad name": (b'{"cniVersion": "1.1.0", "name": "../lan"}', 7, "invalid characters found in network name"),
    "a long name": (b'{"cniVersion": "1.1.0", "name": "%b"}' % (b"n" * 256), 7, "network name is too long"),
    "a version to come": (b'{"cniVersion": "1.2.0", "name": "lan"}', 1, "incompatible CNI versions"),
    "half a version": (b'{"cniVersion": "1.1", "name": "lan"}', 1, "incompatible CNI versions"),
    "no version": (b'{"cniVersion": "one", "name": "lan"}', 6, "failed to convert major version part"),
    "a version that is a number": (b'{"cniVersion": 1, "name": "lan"}', 6, "cniVersion must be a string"),
    "a wrong type": (b'{%b, "isGateway": "yes"}' % LEAST, 7, 'bridge: isGateway must be true or false, got "yes"'),
    "a wrong type below": (b'{%b, "ipam": {"type": 7}}' % LEAST, 7, "bridge.ipam: type must be a string, got 7"),
    "ipam that is a list": (b'{%b, "ipam": []}' % LEAST, 7, "bridge.ipam must be a JSON object, got []"),
    "ipam without a type": (b'{%b, "ipam": {"subnet": "10.1.0.0/24"}}' % LEAST, 7, "type must be the name of an IPAM"),
    "ipam without ranges": (b'{%b, "ipam": {"type": "host-local"}}' % LEAST, 7, "no IP ranges specified"),
    "a path for a type": (b'{%b, "ipam": {"type": "../host-local"}}' % LEAST, 7, "invalid plugin name"),
    "ipam that is not there": (b'{%b, "ipam": {"type": "nobody"}}' % LEAST, 105, 'failed to find plugin "nobody"'),
    "a prevResult that is none": (b'{%b, "prevResult": {"ips": [{"address": "x"}]}}' % LEAST, 7, "address must be"),
    "a name that is no bridge's": (b'{%b, "bridge": "a/b"}' % LEAST, 7, "bridge must be the name of an interface"),
    "an mtu below IP's": (b'{%b, "mtu": 20}' % LEAST, 100, "ip link add"),
    "half a surrogate pair": (b'{%b, "bridge": "\\ud800"}' % LEAST, 7, "valid Unicode"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_configuration_is_an_error_and_nothing_is_made(
    case: str, network: Callable[..., Network], netns: Path
) -> None:
    stdin, code, told = BAD[case]
    lan = network()

    outcome = lan.plugin("bridge", "ADD", stdin, netns=netns, node=lan.node)

    assert outcome.error["code"] == code
    assert told in outcome.error["msg"]
    assert outcome.stderr == ""
    assert_untouched(lan, netns)


@pytest.mark.parametrize("case", ["nothing", "invalid UTF-8", "nested beyond reason", "10 MB", "duplicate keys"])
def test_the_executable_says_the_same_of_a_bad_configuration(case: str, plugin: Exec, node: Path, netns: Path) -> None:
    stdin, code, told = BAD[case]

    outcome = plugin("bridge", "ADD", stdin, netns=netns, node=node)

    assert outcome.error["code"] == code
    assert told in outcome.error["msg"]
    assert outcome.stderr == ""


def test_what_cannot_be_read_is_told_before_an_unknown_command(lan: Network, netns: Path) -> None:
    outcome = lan.plugin("bridge", "UPDATE", "{", netns=netns, node=lan.node)

    assert outcome.error["code"] == 6


UNSUPPORTED: dict[str, object] = {
    "vlan": 100,
    "vlanTrunk": [{"minID": 100, "maxID": 110}],
}


@pytest.mark.parametrize("key", UNSUPPORTED)
def test_a_key_that_is_not_implemented_is_an_error_and_never_silence(key: str, lan: Network, netns: Path) -> None:
    asking = lan.but(**{key: UNSUPPORTED[key]})

    added, status = asking.call("ADD", netns=netns).error, asking.call("STATUS").error

    assert added["code"] == status["code"] == 2
    assert f"bridge: {key} = {json.dumps(UNSUPPORTED[key])} is not supported" in added["msg"]
    assert_untouched(lan, netns)


# --- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_an_error_speaks_the_configurations_version(version: str, lan: Network, netns: Path) -> None:
    error = lan.but(cniVersion=version, vlan=7).call("ADD", netns=netns).error

    assert error == {
        "cniVersion": version,
        "code": 2,
        "msg": "bridge: vlan = 7 is not supported: bridge VLAN filtering is not implemented",
        "details": 'remove "vlan" from the network configuration',
    }


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        ('{"cniVersion": "0.4.0"}', "0.4.0"),
        ('{"name": "lan", "mtu": "x", "type": "bridge"}', "0.1.0"),
        ('{"cniVersion": "7.0.0", "name": "lan"}', "1.1.0"),
        ("{", "1.1.0"),
    ],
)
def test_an_error_about_the_configuration_speaks_its_version_where_that_can_be_known(
    stdin: str, version: str, lan: Network, netns: Path
) -> None:
    error = lan.plugin("bridge", "ADD", stdin, netns=netns, node=lan.node).error

    assert set(error) == {"cniVersion", "code", "msg", "details"}
    assert error["cniVersion"] == version


def test_a_program_that_is_not_called_like_a_plugin_says_how_it_can_be(in_process: InProcess, netns: Path) -> None:
    error = in_process("podwired", "ADD", {"cniVersion": "1.1.0", "name": "lan"}, netns=netns).error

    assert error["code"] == 7
    assert "podwired" in error["msg"]
    assert ", ".join(plugins.NAMES) in error["details"]


@pytest.mark.parametrize("defect", [ZeroDivisionError("a defect"), KeyboardInterrupt(), SystemExit(3)])
def test_a_defect_of_ours_is_an_error_object_too_and_its_traceback_goes_to_stderr(
    defect: BaseException, lan: Network, netns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(*_: object) -> None:
        raise defect

    monkeypatch.setattr(adding, "add", add)

    outcome = lan.call("ADD", netns=netns)

    document = json.loads(outcome.stdout)
    assert (outcome.code, document["code"]) == (1, 999)
    assert document["msg"].startswith(type(defect).__name__)
    assert outcome.stderr.startswith("podwire: Traceback")


def test_an_error_is_told_even_when_there_is_no_more_code_to_tell_it(
    lan: Network, netns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has overwritten the executable since it was started."""

    def add(*_: object) -> None:
        raise OSError(errno.EIO, "a defect of the disk")

    monkeypatch.setattr(adding, "add", add)
    monkeypatch.setitem(sys.modules, "cni.failing", None)
    monkeypatch.delattr(cni, "failing", raising=False)

    outcome = lan.call("ADD", netns=netns)

    assert outcome.error["code"] == 999
    assert "a defect of the disk" in outcome.error["msg"]
    assert "cni.failing" in outcome.stderr


# --- streams ----------------------------------------------------------------------------------------


def run(plugin: Exec, network: Network, netns: Path, redirections: str, command: str = "ADD") -> Outcome:
    """A call whose standard streams the shell redirects; stdin is the configuration unless they say otherwise."""
    environ = {
        "PATH": os.environ["PATH"],
        "PODWIRE_RUN_DIR": str(plugin.run_dir),
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "a",
        "CNI_NETNS": str(netns),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(plugin.path[0]),
    }
    shell = ["nsenter", f"--net={network.node}", "sh", "-c", f'exec "$0" {redirections}', str(plugin.find("bridge"))]
    return calls.run(shell, environ, json.dumps(network.config).encode())


@pytest.mark.parametrize("redirections", ["<&-", "0> /dev/null"])
def test_a_stdin_that_cannot_be_read_is_an_error(redirections: str, plugin: Exec, lan: Network, netns: Path) -> None:
    outcome = run(plugin, lan, netns, redirections)

    assert outcome.error["code"] == 5
    assert outcome.error["msg"].startswith("error reading from stdin: ")
    assert_untouched(lan, netns)


@pytest.mark.parametrize("redirections", [">&-", "> /dev/full"])
def test_a_result_that_nobody_gets_is_a_failure(redirections: str, plugin: Exec, lan: Network, netns: Path) -> None:
    added = run(plugin, lan, netns, redirections)
    version = run(plugin, lan, netns, redirections, "VERSION")

    assert (added.code, version.code) == (1, 1)
    assert added.stderr.startswith("podwire: error writing to stdout: ")
    assert len(added.stderr.splitlines()) == 1
    lan.delete(netns=netns)
    assert [link.name for link in oracle.links(lan.node)] == ["br0"]


def test_without_stderr_all_goes_on_as_with_it(plugin: Exec, lan: Network, netns: Path) -> None:
    result = run(plugin, lan, netns, "2>&-").result

    assert lan.check(result, netns).code == 0
    assert run(plugin, lan, netns, "2>&-", "DEL").code == 0


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_without_any_stream_nothing_is_written_to_files_that_took_their_numbers(
    command: str, plugin: Exec, lan: Network, netns: Path
) -> None:
    result = lan.add(netns, "b")

    assert run(plugin, lan, netns, "<&- >&- 2>&-", command).code == 1

    assert (lan.plugin.run_dir / "attachments.lock").read_bytes() == b""
    assert lan.check(result, netns, "b").code == 0


@pytest.mark.parametrize("command", ["DEL", "STATUS"])
def test_what_has_nothing_to_say_needs_no_stdout(command: str, plugin: Exec, lan: Network, netns: Path) -> None:
    assert run(plugin, lan, netns, ">&-", command).code == 0


def test_an_environment_that_is_not_utf8_is_an_error(plugin: Exec, lan: Network, netns: Path) -> None:
    not_text = os.fsdecode(b"\xff\xfe")

    for variable in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"):
        error = plugin("bridge", "ADD", lan.config, netns=netns, node=lan.node, env={variable: not_text}).error
        assert error["code"] == 4
    assert_untouched(lan, netns)


# --- anything at all --------------------------------------------------------------------------------

KEYS = ("bridge", "isGateway", "isDefaultGateway", "mtu", "hairpinMode", "portIsolation", "enabledad", "vlan", "dns",
        "disableContainerInterface", "ipam", "prevResult", "runtimeConfig", "args", "capabilities", "MTU",
        "cni.dev/valid-attachments", "sysctl", "mac", "promisc", "allmulti", "txQLen")  # fmt: skip
CONFIGURATIONS = st.dictionaries(
    st.sampled_from(KEYS),
    anything.JSON | st.dictionaries(st.sampled_from(["type", "mac", "cni", "ips", "ranges", "subnet"]), anything.JSON),
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    command=st.sampled_from(["ADD", "DEL", "CHECK", "STATUS"]),
    name=st.sampled_from(plugins.NAMES),
    config=CONFIGURATIONS,
)
def test_whatever_is_configured_the_answer_is_one_of_the_protocols(
    command: str, name: str, config: dict[str, object], in_process: InProcess, node: Path, tmp_path: Path
) -> None:
    ipam = config.get("ipam")
    if isinstance(ipam, dict):
        ipam["dataDir"] = str(tmp_path / "networks")
    whole = {**config, "cniVersion": "1.1.0", "name": "lan", "type": name}

    outcome = in_process(name, command, json.dumps(whole), netns="/run/netns/nothing", node=node)

    if outcome.code:
        assert outcome.error["code"] not in (0, 999), outcome
        assert set(outcome.error) == {"cniVersion", "code", "msg", "details"}
    else:
        assert outcome.stdout == b""
    assert outcome.stderr == ""


# --- helpers ----------------------------------------------------------------------------------------


def assert_untouched(network: Network, *pods: Path) -> None:
    """Neither the node nor a pod has any link of ours, and nothing is reserved or recorded."""
    for netns in (network.node, *pods):
        assert [link.name for link in oracle.links(netns)] == []
    assert namespaces.shell(network.node, "cat /proc/sys/net/ipv4/ip_forward") == "0\n"
    assert (network.reserved, network.records) == ({}, {})

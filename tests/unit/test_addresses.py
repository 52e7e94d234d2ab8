"""Where addresses come from: nowhere, ranges in the configuration, or another's plugin."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cni import addresses, hostlocal, invoke
from cni.delegate import Delegate
from cni.hostlocal import HostLocal
from cni.hostlocal.plan import Plan
from cni.key import Delegation, Key
from cni.noaddresses import NoAddresses
from cni.spec import parsing
from cni.spec.errors import (
    ADDRESSES_EXHAUSTED,
    CHECK_FAILED,
    DECODING_FAILURE,
    DELEGATE_FAILED,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    IO_FAILURE,
    STATE_UNUSABLE,
    TRY_AGAIN_LATER,
    CNIError,
)
from cni.spec.netconf import NetConf
from cni.spec.result import DNS, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

KEY = Key("blue", "c1", "eth0", "bridge")
NETNS = "/run/netns/c1"
POD: Mapping[str, object] = {"subnet": "10.1.0.0/24"}


def conf(ipam: object, *, version: str = "1.1.0", **others: object) -> NetConf:
    return NetConf.parse(
        json.dumps({"cniVersion": version, "name": "blue", "type": "bridge", "ipam": ipam, **others}).encode()
    )


def host_local(folder: Path, **ipam: object) -> dict[str, object]:
    return {"type": "host-local", "dataDir": str(folder), **ipam}


def refusal(work: Callable[..., object], *arguments: object) -> CNIError:
    with pytest.raises(CNIError) as raised:
        work(*arguments)
    return raised.value


def acquired(folder: Path, ipam: Mapping[str, object], args: str = "", key: Key = KEY) -> list[str]:
    result = addresses.of(conf(host_local(folder, **ipam)), args, ()).acquire(key, NETNS)
    return [str(ip.address) for ip in result.ips]


# --- which kind -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ipam", [None, {}])
def test_a_network_without_ipam_has_no_addresses_and_every_verb_succeeds(ipam: object) -> None:
    nowhere = addresses.of(conf(ipam), "", ())

    assert isinstance(nowhere, NoAddresses)
    assert nowhere.acquire(KEY, NETNS) == Result()
    nowhere.check(KEY, NETNS, Result())
    nowhere.status()
    nowhere.gc("blue", frozenset())
    nowhere.release(KEY, NETNS)
    assert isinstance(addresses.reopen(nowhere.delegation, ()), NoAddresses)


def test_ipam_without_a_type_is_an_error_that_names_the_key() -> None:
    error = refusal(addresses.of, conf({"subnet": "10.1.0.0/16"}), "", ())

    assert (error.code, error.msg) == (INVALID_CONFIG, "bridge.ipam: type must be the name of an IPAM plugin, got null")


def test_host_local_runs_in_this_process_and_everything_else_by_its_executable(tmp_path: Path) -> None:
    assert isinstance(addresses.of(conf(host_local(tmp_path)), "", ()), HostLocal)
    assert isinstance(addresses.of(conf({"type": "static"}), "", ()), Delegate)


def test_what_a_record_keeps_is_the_configuration_as_it_came_and_the_arguments(tmp_path: Path) -> None:
    for ipam in (host_local(tmp_path), {"type": "static"}):
        one = conf(ipam, unknown={"é": 1})

        delegation = addresses.of(one, "IgnoreUnknown=1;K8S_POD_NAME=p", ()).delegation

        assert delegation == Delegation(str(ipam["type"]), one.raw.decode(), "IgnoreUnknown=1;K8S_POD_NAME=p")
        assert type(addresses.reopen(delegation, ())) is type(addresses.of(one, "", ()))


def test_for_a_del_a_configuration_that_cannot_be_read_is_an_error_only_when_it_is_needed() -> None:
    leaving = addresses.of_leaving(conf({"type": "host-local", "dataDir": 5}), "", ())

    error = refusal(leaving.release, KEY, NETNS)

    assert (error.code, error.msg) == (INVALID_CONFIG, "bridge.ipam: dataDir must be a string, got 5")


# --- host-local: what an ADD is to give ---------------------------------------------------------------


def plan(ipam: Mapping[str, object], cni_args: str = "", version: str = "1.1.0", **others: object) -> Plan:
    return Plan.parse(conf({"type": "host-local", **ipam}, version=version, **others), cni_args)


def test_range_sets_come_from_the_runtime_then_from_the_old_spelling_then_from_the_list() -> None:
    found = plan(
        {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.11", "gateway": "10.1.0.254",
         "ranges": [[{"subnet": "fd00::/64"}], [{"subnet": "10.3.0.0/24"}, {"subnet": "10.4.0.0/24"}]]},
        runtimeConfig={"ipRanges": [[{"subnet": "10.2.0.0/24"}]]},
    )  # fmt: skip

    assert [str(ranges) for ranges in found.sets] == [
        "10.2.0.1-10.2.0.254",
        "10.1.0.9-10.1.0.11",
        "fd00::1-fd00::ffff:ffff:ffff:ffff",
        "10.3.0.1-10.3.0.254,10.4.0.1-10.4.0.254",
    ]
    assert [str(ranges.ranges[0].gateway) for ranges in found.sets] == ["10.2.0.1", "10.1.0.254", "fd00::1", "10.3.0.1"]


def test_keys_match_without_regard_to_case() -> None:
    found = plan(
        {"RANGES": [[{"SubNet": "10.1.0.0/24", "RangeStarT": "10.1.0.7"}]]}, RuntimeConfig={"IPs": ["10.1.0.9"]}
    )

    assert [str(ranges) for ranges in found.sets] == ["10.1.0.7-10.1.0.254"]
    assert [str(address) for address in found.requested] == ["10.1.0.9"]


def test_requested_addresses_are_gathered_from_three_places() -> None:
    found = plan(
        POD, "IgnoreUnknown=1;IP=10.1.0.5/16;K8S_POD_NAME=p", args={"cni": {"ips": ["10.1.0.6"]}},
        runtimeConfig={"ips": ["::ffff:10.1.0.7", "fd00::8/64"]},
    )  # fmt: skip

    assert [str(address) for address in found.requested] == ["10.1.0.5", "10.1.0.6", "10.1.0.7", "fd00::8"]


def test_the_main_plugins_own_argument_is_no_unknown_one() -> None:
    assert plan(POD, "MAC=02:00:00:00:00:01;IP=10.1.0.5").requested


def test_routes_keep_their_attributes() -> None:
    told = {"dst": "10.9.0.0/16", "gw": "10.1.0.1", "mtu": 1400, "advmss": 1360, "priority": 7, "table": 0, "scope": 0}

    assert [route.to_object("1.1.0") for route in plan({**POD, "routes": [told, {"dst": "::/0"}]}).routes] == [
        told,
        {"dst": "::/0"},
    ]


@pytest.mark.parametrize(
    ("ipam", "words"),
    [
        ({}, "no IP ranges specified"),
        ({"ranges": []}, "no IP ranges specified"),
        ({"rangeStart": "10.1.0.1"}, "no IP ranges specified"),
        ({"ranges": [[]]}, "invalid range set 0: empty range set"),
        ({"ranges": [[{}]]}, "invalid range set 0: a range has no subnet"),
        ({"subnet": "bogus"}, "invalid range set 0: invalid CIDR address: 'bogus'"),
        ({"subnet": "10.1.0.5/24"}, "invalid range set 0: Network has host bits set. For a subnet mask of length 24 "
                                    "the network address is 10.1.0.0"),
        ({"ranges": [[POD], [{"subnet": "10.1.0.5/32"}]]}, "invalid range set 1: Network 10.1.0.5/32 too small to "
                                                           "allocate from"),
        ({"ranges": [[POD, {"subnet": "fd00::/64"}]]}, "invalid range set 0: mixed address families"),
        ({**POD, "ranges": [[{"subnet": "10.1.0.128/25"}]]}, "range set 0 overlaps with 1"),
        ({"ranges": [POD]}, 'bridge.ipam: ranges must be a list of lists of ranges, as in '
                            '[[{"subnet": "10.1.0.0/16"}]], got [{"subnet": "10.1.0.0/24"}]'),
        ({"ranges": [["x"]]}, 'bridge.ipam.ranges[0][0] must be a JSON object, got "x"'),
        ({"ranges": [[{"subnet": 5}]]}, "bridge.ipam.ranges[0][0]: subnet must be a string, got 5"),
        ({"subnet": ["10.1.0.0/24"]}, 'bridge.ipam: subnet must be a string, got ["10.1.0.0/24"]'),
        ({**POD, "gateway": True}, "bridge.ipam: gateway must be a string, got true"),
        ({**POD, "routes": [{"dst": "x"}]}, 'bridge.ipam.routes[0]: dst must be an address with its prefix length, '
                                            'as in 10.1.0.5/16, got "x"'),
        ({**POD, "resolvConf": 1}, "bridge.ipam: resolvConf must be a string, got 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_an_error_about_the_configuration(ipam: Mapping[str, object], words: str) -> None:
    error = refusal(plan, ipam)

    assert (error.code, error.msg) == (INVALID_CONFIG, words)
    assert error.details


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"runtimeConfig": {"ips": ["x"]}}, 'bridge.runtimeConfig: ips[0] must be an IP address, got "x"'),
        ({"args": {"cni": {"ips": ["10.1.0.5", ""]}}}, 'bridge.args.cni: ips[1] must be an IP address, got ""'),
        ({"runtimeConfig": {"ips": "10.1.0.5"}}, 'bridge.runtimeConfig: ips must be a list of strings, got "10.1.0.5"'),
        ({"runtimeConfig": {"ipRanges": {}}}, "bridge.runtimeConfig: ipRanges must be a list of lists of ranges, "
                                              'as in [[{"subnet": "10.1.0.0/16"}]], got {}'),
    ],
)  # fmt: skip
def test_what_the_runtime_cannot_ask_for_is_an_error_that_names_where(others: dict[str, Any], words: str) -> None:
    error = refusal(lambda: plan(POD, **others))

    assert (error.code, error.msg) == (INVALID_CONFIG, words)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("IP=bogus", 'ARGS: error parsing value of pair "IP=bogus": invalid IP address bogus'),
        ("IP=", 'ARGS: error parsing value of pair "IP=": invalid IP address '),
        ("FOO=1", 'ARGS: unknown args ["FOO=1"]'),
        ("IP", 'ARGS: invalid pair "IP"'),
    ],
)
def test_arguments_that_cannot_be_read_are_errors_of_the_environment(args: str, words: str) -> None:
    error = refusal(plan, POD, args)

    assert (error.code, error.msg) == (INVALID_ENVIRONMENT, words)


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_old_versions_can_tell_one_address_of_each_family(version: str) -> None:
    dual: Mapping[str, object] = {"ranges": [[POD], [{"subnet": "fd00::/64"}]]}
    two_of_one: Mapping[str, object] = {"ranges": [[POD], [{"subnet": "10.2.0.0/24"}]]}

    assert len(plan(dual, version=version).sets) == 2
    if version in ("0.1.0", "0.2.0"):
        error = refusal(lambda: plan(two_of_one, version=version))
        assert error.msg == f"CNI version {version} does not support more than 1 address per family"
        assert error.code == INVALID_CONFIG
    else:
        assert len(plan(two_of_one, version=version).sets) == 2


# --- host-local: the verbs ----------------------------------------------------------------------------


def test_a_result_has_addresses_gateways_routes_and_dns_and_no_interfaces(tmp_path: Path) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(
        "# comment\n; comment\n\nnameserver 192.0.2.1\n nameserver\t192.0.2.2 trailing\nnameserver\n"
        "domain example.com\nsearch one.example  two.example\nsearch three.example\noptions ndots:2 edns0\nsortlist x\n"
    )
    ipam = host_local(
        tmp_path, ranges=[[POD], [{"subnet": "fd00::/64"}]], routes=[{"dst": "0.0.0.0/0"}], resolvConf=str(resolv_conf)
    )

    result = addresses.of(conf(ipam), "", ()).acquire(KEY, NETNS)

    assert result.to_object("1.1.0") == {
        "cniVersion": "1.1.0",
        "ips": [
            {"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            {"address": "fd00::2/64", "gateway": "fd00::1"},
        ],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {
            "nameservers": ["192.0.2.1", "192.0.2.2"],
            "domain": "example.com",
            "search": ["one.example", "two.example", "three.example"],
            "options": ["ndots:2", "edns0"],
        },
    }


def test_dns_settings_that_cannot_be_read_are_an_error_before_anything_is_reserved(tmp_path: Path) -> None:
    error = refusal(lambda: acquired(tmp_path / "data", {**POD, "resolvConf": "/nowhere"}))

    assert (error.code, error.msg) == (IO_FAILURE, "open /nowhere: No such file or directory")
    assert not (tmp_path / "data").exists()


def test_the_network_of_the_key_is_the_directory(tmp_path: Path) -> None:
    acquired(tmp_path, POD)

    assert (tmp_path / "blue" / "10.1.0.2").read_bytes() == b"c1\r\neth0"


def test_the_default_directory_is_the_reference_s() -> None:
    assert hostlocal.data_dir_of(conf({"type": "host-local"}).ipam) == "/var/lib/cni/networks"


def test_release_needs_no_ranges_and_no_directory(tmp_path: Path) -> None:
    one = addresses.of(conf(host_local(tmp_path / "none", ranges="rubbish")), "rubbish", ())

    one.release(KEY, NETNS)
    one.gc("blue", frozenset())

    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_one_holds_nothing_to_release(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    addresses.of(conf(host_local(tmp_path / "file")), "", ()).release(KEY, NETNS)


@pytest.mark.parametrize("config", ["", "{", "[]", '{"ipam": 5}', '{"ipam": {"dataDir": 5}}', '{"a": 1, "a": 2}'])
def test_reopening_never_raises(config: str) -> None:
    addresses.reopen(Delegation("host-local", config, ""), ())
    addresses.reopen(Delegation("static", config, ""), ())


def test_what_was_reserved_is_released_from_what_the_record_kept(tmp_path: Path) -> None:
    one = addresses.of(conf(host_local(tmp_path, **POD)), "", ())
    one.acquire(KEY, NETNS)

    addresses.reopen(one.delegation, ()).release(KEY, "")

    assert not (tmp_path / "blue" / "10.1.0.2").exists()


def test_a_claim_that_names_the_container_alone_is_released_if_there_is_no_other(tmp_path: Path) -> None:
    acquired(tmp_path, POD)
    old = tmp_path / "blue" / "10.1.0.77"
    old.write_text("c1")
    one = addresses.of(conf(host_local(tmp_path)), "", ())

    one.release(KEY, "")
    assert old.exists()
    assert not (tmp_path / "blue" / "10.1.0.2").exists()

    one.release(KEY, "")
    assert not old.exists()


def test_gc_releases_what_is_not_in_the_list_whoever_wrote_it(tmp_path: Path) -> None:
    acquired(tmp_path, POD)
    for name, owner in {"10.1.0.3": "c2\r\neth0", "10.1.0.4": "c1\r\neth1", "10.1.0.5": "c1", "10.1.0.6": "c3",
                        "10.1.0.7": "", "10.1.0.8": "a b c"}.items():  # fmt: skip
        (tmp_path / "blue" / name).write_text(owner)

    addresses.of(conf(host_local(tmp_path)), "", ()).gc("blue", frozenset([("c1", "eth0"), ("c9", "eth0")]))

    assert sorted(path.name for path in (tmp_path / "blue").glob("10.*")) == ["10.1.0.2", "10.1.0.5"]


def test_a_requested_address_that_is_held_says_try_again_and_by_whom(tmp_path: Path) -> None:
    acquired(tmp_path, POD, "IP=10.1.0.5")

    error = refusal(lambda: acquired(tmp_path, POD, "IP=10.1.0.5", KEY._replace(container_id="c2")))

    assert error.code == TRY_AGAIN_LATER
    assert error.msg == (
        "failed to allocate for range 0: requested IP address 10.1.0.5 is not available in range set "
        "10.1.0.1-10.1.0.254"
    )
    assert error.details == f"{tmp_path}/blue/10.1.0.5 belongs to c1 eth0 until its DEL"


@pytest.mark.parametrize("requested", ["10.9.0.5", "10.1.0.1"])
def test_a_requested_address_that_can_never_be_had_is_an_error_about_the_configuration(
    tmp_path: Path, requested: str
) -> None:
    assert refusal(lambda: acquired(tmp_path, POD, f"IP={requested}")).code == INVALID_CONFIG


def test_a_directory_that_cannot_be_written_is_an_error_that_says_where_and_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    error = refusal(lambda: acquired(tmp_path / "file", POD))

    assert error.code == STATE_UNUSABLE
    assert error.msg == f"host-local: cannot keep reservations in {tmp_path}/file/blue: Not a directory"


# --- host-local: CHECK --------------------------------------------------------------------------------


def check(folder: Path, told: list[str] | None, **ipam: object) -> None:
    prev = None if told is None else parsing.result({"ips": [{"address": one} for one in told]}, "1.1.0")
    hostlocal.HostLocal.of(conf(host_local(folder, **ipam)), "").check(KEY, NETNS, prev)


DUAL: Mapping[str, object] = {"ranges": [[POD], [{"subnet": "fd00::/64"}]]}


@pytest.mark.parametrize("told", [None, ["10.1.0.2/24", "fd00::2/64"], ["fd00::2/64", "192.0.2.1/24", "10.1.0.2/16"]])
def test_check_accepts_what_is_reserved_and_what_others_added(tmp_path: Path, told: list[str] | None) -> None:
    acquired(tmp_path, DUAL)

    check(tmp_path, told, **DUAL)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ([], "host-local: prevResult has no address of range set 0 (10.1.0.1-10.1.0.254)"),
        (["10.1.0.2/24"], "host-local: prevResult has no address of range set 1 (fd00::1-fd00::ffff:ffff:ffff:ffff)"),
        (["10.1.0.9/24", "fd00::2/64"], "host-local: 10.1.0.9 is not reserved for container c1 eth0 but for nobody"),
        (["10.1.0.3/24", "fd00::2/64"], "host-local: 10.1.0.3 is not reserved for container c1 eth0 but for c2 eth0"),
    ],
)
def test_check_refuses_a_result_that_the_reservations_do_not_bear_out(
    tmp_path: Path, told: list[str], words: str
) -> None:
    acquired(tmp_path, DUAL)
    acquired(tmp_path, DUAL, key=KEY._replace(container_id="c2"))

    error = refusal(lambda: check(tmp_path, told, **DUAL))

    assert (error.code, error.msg) == (CHECK_FAILED, words)
    assert error.details == "reserved for it: 10.1.0.2, fd00::2"


def test_check_refuses_an_attachment_without_reservations(tmp_path: Path) -> None:
    error = refusal(lambda: check(tmp_path, None, **DUAL))

    assert (error.code, error.msg) == (CHECK_FAILED, "host-local: Failed to find address added by container c1")


# --- host-local: STATUS -------------------------------------------------------------------------------


def test_status_is_fine_before_anything_was_reserved_and_reserves_nothing(tmp_path: Path) -> None:
    addresses.of(conf(host_local(tmp_path / "none", **POD)), "", ()).status()

    assert not list(tmp_path.iterdir())


def test_status_refuses_what_an_add_would_refuse(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert refusal(addresses.of(conf(host_local(tmp_path / "file", **POD)), "", ()).status).code == 50
    assert refusal(addresses.of(conf(host_local(tmp_path)), "", ()).status).msg == "no IP ranges specified"
    assert refusal(addresses.of(conf(host_local(tmp_path, subnet="x")), "", ()).status).code == INVALID_CONFIG
    odd = {**POD, "statusWhenFull": 5}  # a slip in the configuration isn't told as a node that can't serve
    assert refusal(addresses.of(conf(host_local(tmp_path / "file", **odd)), "", ()).status).code == INVALID_CONFIG


def test_status_does_not_miss_ranges_that_the_runtime_will_bring(tmp_path: Path) -> None:
    addresses.of(conf(host_local(tmp_path), capabilities={"ipRanges": True}), "", ()).status()


# --- delegates ----------------------------------------------------------------------------------------

CALL = tuple[str, str, Key | None, str, str, tuple[str, ...], bytes, dict[str, str]]


class Plugin:
    """Takes the place of `invoke.delegate`: notes its arguments and answers what it was told to."""

    def __init__(self, answers: dict[str, bytes | CNIError]) -> None:
        self.answers = answers
        self.calls: list[CALL] = []

    def __call__(self, *call: Any) -> bytes:
        self.calls.append(call)
        answer = self.answers.get(call[0], b"")
        if isinstance(answer, CNIError):
            raise answer
        return answer

    @property
    def commands(self) -> list[str]:
        return [call[0] for call in self.calls]


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plugin]:
    def make(**answers: bytes | CNIError) -> Plugin:
        made = Plugin(answers)
        monkeypatch.setattr(invoke, "delegate", made)
        return made

    return make


STATIC = conf({"type": "static", "addresses": [{"address": "10.1.0.5/24"}]}, version="0.4.0")


ENVIRON = {"HTTP_PROXY": "p"}


def delegate(conf: NetConf = STATIC) -> Delegate:
    found = addresses.of(conf, "A=1", ("/opt/bin", "/usr/bin"), environ=ENVIRON)
    assert isinstance(found, Delegate)
    return found


def test_a_delegate_gets_the_call_as_it_came(plugin: Callable[..., Plugin]) -> None:
    static = plugin(ADD=b'{"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.0.5/24"}]}')
    one = delegate()

    one.acquire(KEY, NETNS)
    one.check(KEY, NETNS, Result())
    one.release(KEY, "")
    one.status()
    one.gc("blue", frozenset())

    def call(command: str, key: Key | None, netns: str) -> CALL:
        return command, "static", key, netns, "A=1", ("/opt/bin", "/usr/bin"), STATIC.raw, ENVIRON

    assert static.calls == [
        call("ADD", KEY, NETNS),
        call("CHECK", KEY, NETNS),
        call("DEL", KEY, ""),
        call("STATUS", None, ""),
        call("GC", None, ""),
    ]


def test_of_a_delegates_result_everything_counts_but_interfaces(plugin: Callable[..., Plugin]) -> None:
    plugin(
        ADD=b'{"cniVersion": "1.0.0", "interfaces": [{"name": "x"}], "ips": [{"address": "10.1.0.5/24", "interface": 0,'
        b' "gateway": "10.1.0.1"}], "routes": [{"dst": "0.0.0.0/0"}], "dns": {"domain": "example.com"}}'
    )

    result = delegate().acquire(KEY, NETNS)

    assert result.interfaces == ()
    assert [ip.to_object("1.1.0") for ip in result.ips] == [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}]
    assert [str(route.dst) for route in result.routes] == ["0.0.0.0/0"]
    assert result.dns == DNS(domain="example.com")


def test_a_result_without_a_version_is_read_in_the_configurations(plugin: Callable[..., Plugin]) -> None:
    plugin(ADD=b'{"ip4": {"ip": "10.1.0.5/24"}}')

    result = delegate(conf({"type": "static"}, version="0.2.0")).acquire(KEY, NETNS)

    assert [str(ip.address) for ip in result.ips] == ["10.1.0.5/24"]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (CNIError(42, "no"), 42),
        (b"", DECODING_FAILURE),
        (b"rubbish", DECODING_FAILURE),
        (b"[]", INVALID_CONFIG),
        (b'{"cniVersion": "0.4.0"}', DELEGATE_FAILED),
    ],
)
def test_after_an_add_that_failed_comes_its_del_and_the_first_error_is_told(
    plugin: Callable[..., Plugin], answer: bytes | CNIError, code: int
) -> None:
    static = plugin(ADD=answer, DEL=CNIError(43, "neither"))

    error = refusal(delegate().acquire, KEY, NETNS)

    assert error.code == code
    assert static.commands == ["ADD", "DEL"]


def test_a_delegates_errors_are_passed_on(plugin: Callable[..., Plugin]) -> None:
    answer = CNIError(42, "no", "because")
    plugin(DEL=answer, CHECK=answer, STATUS=answer, GC=answer)
    one = delegate()

    for work in (
        lambda: one.release(KEY, ""),
        lambda: one.check(KEY, NETNS, Result()),
        one.status,
        lambda: one.gc("blue", frozenset()),
    ):
        assert refusal(work) is answer


def test_a_reopened_delegate_can_release(plugin: Callable[..., Plugin]) -> None:
    static = plugin()

    addresses.reopen(delegate().delegation, ("/elsewhere",), environ=ENVIRON).release(KEY, "")

    assert static.calls == [("DEL", "static", KEY, "", "A=1", ("/elsewhere",), STATIC.raw, ENVIRON)]


# --- host-local: exclusions, boots, and what is gone ----------------------------------------------------


def test_what_is_excluded_in_a_range_or_for_all_is_not_given(tmp_path: Path) -> None:
    ranges = [[{"subnet": "10.1.0.0/29", "exclude": ["10.1.0.2", "10.1.0.4/31"]}], [{"subnet": "fd00::/64"}]]
    ipam = {"ranges": ranges, "exclude": ["fd00::/126", "10.1.0.3", "10.9.0.0/16"]}

    assert acquired(tmp_path, ipam) == ["10.1.0.6/29", "fd00::4/64"]


def test_what_is_excluded_for_all_goes_for_the_old_spelling_and_the_runtime_s_ranges_too(tmp_path: Path) -> None:
    found = plan(
        {"subnet": "10.1.0.0/24", "exclude": ["10.1.0.2", "10.2.0.3"]},
        runtimeConfig={"ipRanges": [[{"subnet": "10.2.0.0/24", "exclude": ["10.2.0.2"]}]]},
    )

    assert [[str(one) for one in ranges.ranges[0].excluded] for ranges in found.sets] == [
        ["10.2.0.2/32", "10.2.0.3/32"],
        ["10.1.0.2/32"],
    ]


@pytest.mark.parametrize(
    ("ipam", "words"),
    [
        ({"subnet": "10.1.0.0/24", "exclude": "10.1.0.5"}, "bridge.ipam: exclude must be a list of strings"),
        ({"subnet": "10.1.0.0/24", "exclude": ["x"]}, 'bridge.ipam: exclude[0] must be an IP address or a network'),
        ({"subnet": "10.1.0.0/24", "exclude": ["10.1.0.0/28", "10.1.0.1/28"]}, "bridge.ipam: exclude[1] must be"),
        (
            {"ranges": [[{"subnet": "10.1.0.0/24", "exclude": ["10.2.0.5"]}]]},
            "invalid range set 0: excluded 10.2.0.5/32 not in network 10.1.0.0/24",
        ),
        (
            {"ranges": [[{"subnet": "10.1.0.0/24", "exclude": ["fd00::5"]}]]},
            "invalid range set 0: excluded fd00::5/128 not in network 10.1.0.0/24",
        ),
    ],
)  # fmt: skip
def test_an_exclusion_that_says_nothing_is_an_error(tmp_path: Path, ipam: dict[str, object], words: str) -> None:
    error = refusal(acquired, tmp_path, ipam)

    assert error.code == INVALID_CONFIG
    assert error.msg.startswith(words)


FULL: Mapping[str, object] = {"subnet": "10.1.0.0/30"}


def one_of(
    folder: Path, ipam: Mapping[str, object], boot: str = "b 1", gone: tuple[str, ...] = ()
) -> hostlocal.HostLocal:
    departed = frozenset((container_id, "eth0") for container_id in gone)
    found = addresses.of(conf(host_local(folder, **ipam)), "", (), boot, lambda _: departed)
    assert isinstance(found, hostlocal.HostLocal)
    return found


def test_what_was_reserved_in_an_earlier_boot_is_given_again(tmp_path: Path) -> None:
    one_of(tmp_path, FULL, "b 1").acquire(KEY, NETNS)
    another = KEY._replace(container_id="c2")
    assert refusal(one_of(tmp_path, FULL, "b 1").acquire, another, NETNS).code == ADDRESSES_EXHAUSTED

    assert one_of(tmp_path, FULL, "b 2").acquire(another, NETNS).ips


def test_an_attachment_that_is_gone_for_certain_gives_way(tmp_path: Path) -> None:
    one_of(tmp_path, FULL).acquire(KEY, NETNS)
    another = KEY._replace(container_id="c2")

    assert refusal(one_of(tmp_path, FULL, gone=("c3",)).acquire, another, NETNS).code == ADDRESSES_EXHAUSTED
    assert one_of(tmp_path, FULL, gone=("c1", "c3")).acquire(another, NETNS).ips
    assert refusal(check, tmp_path, None).code == CHECK_FAILED


def test_status_when_full_says_so_with_counts_after_trying_to_reclaim(tmp_path: Path) -> None:
    full = {**FULL, "statusWhenFull": True}
    one_of(tmp_path, full).status()
    one_of(tmp_path, full).acquire(KEY, NETNS)

    error = refusal(one_of(tmp_path, full).status)

    assert (error.code, error.msg) == (50, "no IP addresses available in range set: 10.1.0.1-10.1.0.2")
    assert error.details == "1 of 1 addresses in 10.1.0.1-10.1.0.2 are held"
    one_of(tmp_path, FULL).status()
    one_of(tmp_path, full, gone=("c1",)).status()
    one_of(tmp_path, full).status()


def test_status_when_full_reclaims_what_an_earlier_boot_left(tmp_path: Path) -> None:
    full = {**FULL, "statusWhenFull": True}
    one_of(tmp_path, full, "b 1").acquire(KEY, NETNS)

    one_of(tmp_path, full, "b 2").status()


@pytest.mark.parametrize(
    ("cni_args", "about"),
    [
        ("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-5d9;K8S_POD_INFRA_CONTAINER_ID=c1", "shop/cart-5d9"),
        ("IgnoreUnknown=1;K8S_POD_NAME=cart", "cart"),
        ("IgnoreUnknown=1;K8S_POD_NAME=a\nb", "a_b"),
        ("", ""),
    ],
)
def test_the_stamp_names_the_pod_that_the_runtime_named(tmp_path: Path, cni_args: str, about: str) -> None:
    addresses.of(conf(host_local(tmp_path, **POD)), cni_args, (), "b 1").acquire(KEY, NETNS)

    text = (tmp_path / ".podwire" / "blue" / "stamps" / "10.1.0.2").read_bytes().decode()

    boot, _, said, owner = text.split("\n", 3)
    assert (boot, said, owner) == ("b 1", about, "c1\r\neth0")
